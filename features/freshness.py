"""How old a feature may be. Feast honours a view's TTL in point-in-time joins but not online (feast#1802)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

TTL_DAYS: Final = 365


def is_fresh(last_seen_at: datetime, now: datetime) -> bool:
    """Whether features of a visitor last seen then still count; both in UTC.

    Features are stamped at the midnight after the visitor was last seen, and that is what the TTL is counted from.
    """
    stamped_at = datetime(last_seen_at.year, last_seen_at.month, last_seen_at.day) + timedelta(days=1)
    return now - stamped_at <= timedelta(days=TTL_DAYS)
