"""Where visitors' sessions are kept between events: SQLite beside the other features, or Valkey.

Many processes write at once, so each only appends what arrived, and whoever reads puts it in order
(``session_states``). What is here can be made again from the event log, so nothing waits for the disk. ``position``
says how far each stream of events has been applied.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Protocol

from features.session_states import Events, SessionStoreError
from features.sqlite_sessions import SqliteSessions
from features.valkey_sessions import ValkeySessions
from marquee.settings import Settings

__all__ = ["SessionStore", "SessionStoreError", "SqliteSessions", "ValkeySessions", "open_session_store"]


class SessionStore(Protocol):
    """Sessions by visitor. Each method raises ``SessionStoreError`` when the store is unwell."""

    def update(self, events: Events) -> None:
        """Keep events by visitor; harmless when repeated."""

    def read(self, visitor_id: str, now: datetime) -> dict[str, Any] | None:
        """Features of the session under way (see ``session.current_session``); ``None`` when there is none.

        For requests: it waits for nobody long.
        """

    def visitors(self, prefix: str = "") -> list[str]:
        """Ids kept that begin so, in order."""

    def position(self, stream: str) -> int | None:
        """How far a stream has been applied, in bytes; ``None`` when that is not known."""

    def advance(self, stream: str, before: int | None, after: int) -> bool:
        """Remember that a stream has been applied so far, if it still stands where it did; whether that was so."""

    def close(self) -> None:
        """Release connections."""


def open_session_store(settings: Settings) -> SessionStore:
    """The store that ``online_store`` names.

    Raises:
        SettingsError: it is Valkey and ``valkey_url`` is missing or no address.
    """
    if settings.online_store == "sqlite":
        return SqliteSessions(settings)
    return ValkeySessions(settings)
