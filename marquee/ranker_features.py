"""What the ranker reads, in order: part of the contract, which has it too."""

from __future__ import annotations

import hashlib
from typing import Final

RANKER_FEATURES: Final = (
    # The visitor, as of the last midnight.
    "view_count_28d",
    "cart_count_28d",
    "order_count_28d",
    "active_day_count_28d",
    "cart_rate",
    "order_rate",
    "visitor_click_rate",
    "hours_since_seen",
    "mean_order_amount",
    "visitor_focus",
    # The session under way, up to the second.
    "session_view_count",
    "session_cart_count",
    "session_order_count",
    "session_product_count",
    "session_minutes",
    # The banner and its campaign.
    "banner_impression_count_28d",
    "banner_click_rate",
    "mean_price",
    "product_count",
    "banner_focus",
    "campaign_age_hours",
    "campaign_left_hours",
    # The visitor and the banner.
    "affinity_match",
    "affinity_cosine",
    "price_ratio",
    "session_affinity_match",
    "session_affinity_cosine",
    "last_category_share",
    # Place and moment.
    "placement",
    "position",
    "device",
    "hour_of_day",
    "day_of_week",
)
"""The ranker's inputs in order; ``docs/policy.md`` describes each. A bundle refuses to load when its own list differs.

Sums over a year are not among them: in a log younger than that they tell its age, and trees learn the age.
"""


def feature_hash(features: tuple[str, ...] = RANKER_FEATURES) -> str:
    """Short fingerprint of an ordered feature list."""
    return hashlib.sha256("\n".join(features).encode()).hexdigest()[:12]
