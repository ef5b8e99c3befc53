"""Why this banner: sentences from the ranker's own contributions for it, largest first. Pure."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from marquee import contract
from training.bundle import Bundle

GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "taste": ("affinity_match", "affinity_cosine"),
    "popularity": ("banner_click_rate", "banner_impression_count_28d"),
    "price": ("mean_price",),
    "moment": ("placement", "device", "hour_of_day"),
}
"""Features that differ between banners or moments: why this one and not another."""
HABIT: Final = ("visitor_click_rate", "view_count_28d", "cart_count_28d", "order_count_28d", "hours_since_seen")
"""The visitor's own habits lift all banners alike; named only where nothing tells the banners apart."""
LEAST_SHARE: Final = 0.01
"""Log-odds below which a contribution is not worth a sentence."""
MOST_REASONS: Final = 3


def reasons(
    bundle: Bundle,
    row: int,
    features: NDArray[np.float32],
    contributions: NDArray[np.float32],
    visitor: dict[str, Any] | None,
    explored: bool,
) -> list[str]:
    """At most three sentences for one banner.

    Args:
        row: the banner's row in the catalogue.
        features: [F] its ranker inputs.
        contributions: [F + 1] its contributions in log-odds, bias last.
        explored: whether chance, not its score, put it there.
    """
    index = {name: place for place, name in enumerate(contract.RANKER_FEATURES)}
    gains = {group: float(sum(contributions[index[name]] for name in names)) for group, names in GROUPS.items()}
    value = {name: float(features[place]) for name, place in index.items()}
    found = ["shown to learn how it is received"] if explored else []
    for group, gain in sorted(gains.items(), key=lambda item: -item[1]):
        if gain >= LEAST_SHARE:
            found.append(f"{_sentence(group, bundle, row, value, visitor)} (+{gain:.2f} log-odds)")
    clicks_more = visitor is not None and value["visitor_click_rate"] > bundle.encoding.base_rate
    gain = float(sum(contributions[index[name]] for name in HABIT))
    if not found and clicks_more and gain >= LEAST_SHARE:
        found = [f"this visitor clicks more than most: {value['visitor_click_rate']:.0%} (+{gain:.2f} log-odds)"]
    return found[:MOST_REASONS] or ["the best of what may be shown here now"]


def _sentence(group: str, bundle: Bundle, row: int, value: dict[str, float], visitor: dict[str, Any] | None) -> str:
    if group == "taste":
        overlap = bundle.visitor_shares(visitor)[0] * bundle.banner_shares[row]
        if not visitor or not overlap.any():
            return "it suits visitors we know little of"
        most = int(overlap.argmax())
        category = bundle.encoding.categories[most]
        title = bundle.manifest["category_titles"].get(category, category)
        return f"{bundle.visitor_shares(visitor)[0][most]:.0%} of this visitor's recent interest is in {title}"
    if group == "popularity":
        shown = value["banner_impression_count_28d"]
        return f"{value['banner_click_rate']:.1%} of its last {shown:.0f} impressions were clicked"
    if group == "price":
        return f"its products cost {value['mean_price']:.2f} on average"
    return "it does well in this place at this time"
