"""How old a feature may be: one TTL per view, honoured online as offline. Feast itself does not online (feast#1802)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from marquee import contract

TTL: Final[dict[str, timedelta]] = {
    contract.VISITOR_FEATURES_28D.name: timedelta(days=28),
    contract.VISITOR_FEATURES_365D.name: timedelta(days=365),
    contract.BANNER_FEATURES_28D.name: timedelta(days=28),
    contract.SESSION_FEATURES.name: timedelta(days=365),
    contract.VISITOR_SEGMENTS.name: timedelta(days=28),
}
"""By view. A feature stamped at t may be read from t to t + TTL, both ends included."""


def is_fresh(view: str, stamped_at: datetime, at: datetime) -> bool:
    """Whether a feature of this view stamped then may be read at ``at``, by the rule of point-in-time joins."""
    return stamped_at <= at <= stamped_at + TTL[view]
