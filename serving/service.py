"""The BentoML service: HTTP in, HTTP out. What it answers is decided in ``scoring`` and ``recommend``."""

from __future__ import annotations

import gc
import os
import sys

import bentoml

from marquee.errors import MarqueeError
from marquee.settings import load_settings
from serving.schemas import (
    Accepted,
    Events,
    RecommendRequest,
    RecommendResponse,
    Running,
    VisitorFeatures,
    VisitorRequest,
)


@bentoml.service(
    name="marquee",
    # BentoML keeps a request's memory until this timeout, so it is short.
    traffic={"timeout": 2},
    logging={"access": {"enabled": False}},
)
class BannerService:
    """Online banner scoring."""

    @bentoml.on_deployment
    @staticmethod
    def check_champion() -> None:
        """End with one line when there is nothing to serve; a worker that fails is started again for ever."""
        from training import registry

        try:
            registry.require_champion(load_settings())
        except MarqueeError as error:
            sys.exit(f"error: {error}")

    def __init__(self) -> None:
        # Here and not above: the parent process imports this file too, but only its workers need Feast and XGBoost.
        from features.session_store import open_session_store
        from ingestion.event_stream import EventStream
        from serving.scoring import Scorer
        from serving.session_feed import SessionFeed

        settings = load_settings()
        self._stream = EventStream(settings.log / "stream", f"service-{os.getpid()}")
        self._scorer = Scorer(settings, self._stream)
        self._sessions = SessionFeed(settings, open_session_store(settings), self._stream.file)
        self._sessions.start()
        # What is loaded stays: keep the collector from walking it during requests.
        gc.collect()
        gc.freeze()

    @bentoml.api(route="/v1/banners/recommend")
    def recommend(self, request: RecommendRequest, /) -> RecommendResponse:
        """Which banners to show this visitor here and now, and why."""
        return self._scorer.recommend(request)

    @bentoml.api(route="/v1/events")
    def events(self, events: Events, /, ctx: bentoml.Context) -> Accepted:
        """Report one event or a list; answered once all are durable. A repeated event_id counts once."""
        rows = events.rows()
        self._stream.append(rows)
        self._sessions.wake()
        ctx.response.status_code = 202
        return Accepted(accepted=len(rows))

    @bentoml.api(route="/v1/visitors/features")
    def visitor(self, request: VisitorRequest, /) -> VisitorFeatures:
        """What is known of a visitor: the session under way, fresh within a second, and the daily features."""
        session, session_fallback = self._sessions.session(request.visitor_id)
        features, fallback = self._scorer.known(request.visitor_id)
        return VisitorFeatures.model_validate(
            {
                "visitor_id": request.visitor_id,
                "session": session,
                "session_fallback": session_fallback,
                "features": features,
                "fallback": fallback,
            }
        )

    @bentoml.api(route="/v1/model")
    def model(self) -> Running:
        """Which bundle answers now."""
        return self._scorer.running()
