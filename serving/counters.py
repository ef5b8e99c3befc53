"""Where is kept who saw what and what campaigns have spent: SQLite under home for one machine, or Valkey for many.

Only things with a cap, a budget or a daily target are counted. Each showing is checked against what other workers
counted meanwhile and counted in one step, so that no cap and no budget is ever exceeded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from marquee.settings import Settings
from serving.showings import CountersError, Item, Limit, Reservation, Shows, Spent, visitor_key
from serving.sqlite_counters import SqliteCounters
from serving.valkey_counters import ValkeyCounters

__all__ = [
    "Counters",
    "CountersError",
    "Item",
    "Limit",
    "Reservation",
    "Shows",
    "Spent",
    "SqliteCounters",
    "ValkeyCounters",
    "open_counters",
    "visitor_key",
]


class Counters(Protocol):
    """Showings by visitor, impressions by campaign. Each method raises ``CountersError`` when the store is unwell."""

    def shows(self, key: str) -> Shows:
        """What was shown to whoever ``visitor_key`` gave this key; one read, for requests."""

    def spent(self) -> Spent:
        """Impressions of campaigns; to be kept for a moment, since ``reserve`` looks again."""

    def reserve(self, batch: Sequence[Reservation]) -> list[frozenset[int]]:
        """Count showings before they happen, all requests in one step.

        Returns:
            For each request the positions that were refused. If there are any and it is not ``in_part``, nothing of
            that request was counted.
        """

    def forget(self, visitor_id: str) -> int:
        """Forget what a visitor was shown; how many visitors that were. What campaigns have spent stays."""

    def close(self) -> None:
        """Release connections."""


def open_counters(settings: Settings) -> Counters:
    """The counters that ``online_store`` names.

    Raises:
        SettingsError: it is Valkey and ``valkey_url`` is missing or no address.
    """
    return SqliteCounters(settings) if settings.online_store == "sqlite" else ValkeyCounters(settings)
