"""What one service process holds: the event stream, the scorer, the sessions and the keys."""

from __future__ import annotations

import os
from datetime import datetime

from features.session_store import open_session_store
from ingestion.catalogue_store import CatalogueStore
from ingestion.stream_choice import open_event_stream
from marquee.outbox import Entry, open_outbox, outbox_file
from marquee.settings import Settings, settings_now
from serving.clicks import ClickLog, open_links
from serving.counters import open_counters
from serving.decision_log import DecisionLog
from serving.keys import KeyRing
from serving.live_catalogue import Live
from serving.pages import PageAnswers
from serving.products import ProductLists
from serving.responder import Responder
from serving.schemas import RecommendRequest, RecommendResponse, RecommendResponses
from serving.scoring import Scorer
from serving.shadow import Shadow
from serving.valkey_session_feed import open_session_feed
from serving.visitor_sessions import VisitorSessions


class Worker:
    """One process's state, opened at once and followed from ``start`` to ``stop``.

    Raises:
        BundleError: no bundle has been promoted yet.
        MarqueeError: a store cannot be opened.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.keys = KeyRing(settings.keys)
        writer = f"service-{os.getpid()}"
        self.stream = open_event_stream(settings, writer)
        self.counters = open_counters(settings)
        store = open_session_store(settings)
        self.sessions = open_session_feed(settings, store, self.stream)
        self.links = open_links(settings)
        self.clicks = ClickLog(self.stream, lambda: settings_now(settings))
        self.scorer = Scorer(settings, VisitorSessions(settings, store), self.counters, links=self.links)
        self.products = ProductLists(lambda: self.scorer.lineup.champion, self.sessions.session)
        self.pages = PageAnswers(lambda: self.scorer.lineup.champion)
        self.outbox = open_outbox(settings)
        self.decisions = DecisionLog(settings, writer) if settings.explain_days else None
        self.responder = Responder(settings, self.scorer, self.stream, self.decisions, Shadow(settings))

    def start(self) -> None:
        """Follow keys and events from now on."""
        self.keys.start()
        self.sessions.start()
        self.scorer.lineup.start()

    @property
    def catalogue_store(self) -> CatalogueStore:
        """Where the managed catalogue is kept."""
        return self.scorer.lineup.catalogue

    def live(self) -> Live:
        """The catalogue that answers now."""
        return self.scorer.lineup.champion.board.live

    def notifications(self, visitor_id: str, limit: int, before: tuple[datetime, str] | None) -> list[Entry]:
        """A visitor's notifications, latest due first; see ``Outbox.of_visitor``."""
        if not outbox_file(self.settings).exists():  # nothing was ever planned, and asking makes no file
            return []
        return self.outbox.of_visitor(visitor_id, limit, before)

    async def answer(self, request: RecommendRequest) -> RecommendResponse | RecommendResponses:
        """The slate, durable when this returns; ``TryAgain`` when it could not be made durable."""
        return await self.responder.answer(request)

    @property
    def is_ready(self) -> bool:
        """Whether a request would be answered: a bundle is loaded and the stream takes events."""
        return self.scorer.running() is not None and self.stream.error is None

    def stop(self) -> None:
        """Finish what is under way, and leave everything on disk."""
        self.responder.close()
        self.scorer.lineup.stop()
        self.sessions.stop()
        self.stream.close()
        self.counters.close()
        self.outbox.close()
        if self.decisions:
            self.decisions.stop()
        self.keys.stop()
