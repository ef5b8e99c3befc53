"""Brings events that any machine logged in Valkey into the session store, and chooses the feed that fits the log."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from typing import Final

from features.session_store import SessionStore
from ingestion.event_stream import EventStream
from ingestion.group_commit import GroupCommit
from ingestion.valkey_log import Entry, LogGroup, connect_valkey, create_groups, plain_errors
from ingestion.valkey_stream import ValkeyStream
from marquee.settings import Settings
from serving.session_feed import LOOK_SECONDS, Feed, SessionFeed

ANSWER_SECONDS: Final = 2.0
ABANDONED_SECONDS: Final = 5.0
"""After so long another worker takes over what one was given and did not finish."""


class ValkeySessionFeed(Feed):
    """One of the workers, on however many machines, that share the events among them.

    An entry is acknowledged after its events are in the store, so it is applied at least once, which is as good as
    once. Store and log are one server: if that goes back in time, it takes both back together.
    """

    def __init__(self, settings: Settings, store: SessionStore, worker: str) -> None:
        super().__init__(settings, store)
        self._client = connect_valkey(settings, ANSWER_SECONDS)
        self._group = LogGroup(self._client, "sessions", f"{platform.node()}:{worker}")

    def catch_up(self) -> int:
        """See ``Feed``."""
        applied = 0
        with plain_errors():
            for entries in self._waiting():
                applied += self._apply(b"".join(entry.lines for entry in entries))
                self._group.finish(entries)
        return applied

    def stop(self) -> None:
        """See ``Feed``."""
        super().stop()
        self._client.close()

    def _waiting(self) -> Iterator[list[Entry]]:
        is_first, self._is_open = not self._is_open, False
        if is_first:
            create_groups(self._client)
        yield from self._group.waiting(is_first)
        if time.monotonic() - self._looked_at >= LOOK_SECONDS:
            self._looked_at = time.monotonic()
            yield from self._group.abandoned(ABANDONED_SECONDS)
        self._is_open = True


def open_session_feed(settings: Settings, store: SessionStore, stream: GroupCommit) -> Feed:
    """The feed that reads what this worker's stream is part of."""
    if isinstance(stream, EventStream):
        return SessionFeed(settings, store, stream.file)
    assert isinstance(stream, ValkeyStream)
    return ValkeySessionFeed(settings, store, stream.writer)
