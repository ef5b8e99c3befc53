"""Why this banner: what each kind of evidence adds to its log-odds, largest first. Pure.

The contribution of a kind is the log-odds that the banner would lose if it were a typical candidate of this very
request in that respect: all of the kind's inputs set to the candidates' medians at once, all else as it is. So it says
why this banner and not another, from the ranker's own trees, at the cost of a few more rows to predict.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from marquee import contract
from training.bundle import Bundle

GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "session": ("session_affinity_match", "session_affinity_cosine", "last_category_share"),
    "taste": ("affinity_match", "affinity_cosine"),
    "popularity": ("banner_click_rate", "banner_impression_count_28d"),
    "price": ("mean_price", "price_ratio"),
    "freshness": ("campaign_age_hours", "campaign_left_hours"),
    "breadth": ("product_count", "banner_focus"),
}
"""Inputs that differ between the banners of one request, by the evidence that they are."""
LEAST_SHARE: Final = 0.01
"""Log-odds below which a contribution is not worth a sentence."""
MOST_REASONS: Final = 3
BEST: Final = "the best of what may be shown here now"
USED: Final = {
    group: np.array([contract.RANKER_FEATURES.index(name) for name in names]) for group, names in GROUPS.items()
}
"""The columns of the feature matrix by kind of evidence."""
_IS_OF: Final = np.zeros((len(USED), 1, len(contract.RANKER_FEATURES)), dtype=bool)
for _place, _columns in enumerate(USED.values()):
    _IS_OF[_place, 0, _columns] = True


def contributions(
    bundle: Bundle, matrix: NDArray[np.float32], scores: NDArray[np.float64], items: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """[len(items)] log-odds that each kind of evidence adds to each item.

    Args:
        matrix: [n, F] inputs of all candidates.
        scores: [n] their click probabilities.
        items: the candidates that are asked about.
    """
    typical = np.sort(matrix, axis=0)[(len(matrix) - 1) // 2]
    own = matrix[items]
    altered = np.where(_IS_OF, typical, own)
    # What is typical already has nothing to lose, and rows cost time: without a session nobody differs by one.
    differs = ((altered != own) & ~(np.isnan(altered) & np.isnan(own))).any(axis=2)
    without = np.broadcast_to(scores[items], differs.shape).copy()
    if differs.any():
        without[differs] = bundle.ranker.predict(altered[differs])
    gains = _log_odds(scores[items]) - _log_odds(without)
    return dict(zip(USED, gains, strict=True))


def reasons(
    bundle: Bundle,
    matrix: NDArray[np.float32],
    scores: NDArray[np.float64],
    rows: NDArray[np.int64],
    items: NDArray[np.int64],
    visitor: dict[str, Any] | None,
    explored: NDArray[np.bool_],
) -> list[list[str]]:
    """At most three sentences for each item of a slate.

    Args:
        rows: [n] the candidates' rows in the catalogue.
        explored: [len(items)] whether chance, not its score, put it there.
    """
    gains = contributions(bundle, matrix, scores, items)
    told = []
    for place, item in enumerate(items):
        found = ["shown to learn how it is received"] if explored[place] else []
        own = sorted(((group, float(values[place])) for group, values in gains.items()), key=lambda pair: -pair[1])
        for group, gain in own[: MOST_REASONS - len(found)]:
            if gain >= LEAST_SHARE:
                sentence = _sentence(group, bundle, int(rows[item]), matrix[item], visitor)
                found.append(f"{sentence} (+{gain:.2f} log-odds)")
        told.append(found or [BEST])
    return told


def _sentence(
    group: str, bundle: Bundle, row: int, features: NDArray[np.float32], visitor: dict[str, Any] | None
) -> str:
    if group == "session":
        return "it fits what this visitor looks at now"
    if group == "taste":
        return _taste(bundle, row, visitor)
    if group == "popularity":
        shown = _value(features, "banner_impression_count_28d")
        return f"{_value(features, 'banner_click_rate'):.1%} of its last {shown:.0f} impressions were clicked"
    if group == "price":
        return f"its products cost {_value(features, 'mean_price'):.2f} on average"
    if group == "freshness":
        return f"its campaign has run for {_value(features, 'campaign_age_hours') / 24:.0f} days"
    return f"it promotes {_value(features, 'product_count'):.0f} products"


def _taste(bundle: Bundle, row: int, visitor: dict[str, Any] | None) -> str:
    shares = bundle.visitor_shares(visitor)[0] if visitor else None
    overlap = None if shares is None else shares * bundle.banner_shares[row]
    if shares is None or overlap is None or not overlap.any():
        return "it suits visitors we know little of"
    most = int(overlap.argmax())
    category = bundle.encoding.categories[most]
    title = bundle.manifest["category_titles"].get(category, category)
    return f"{shares[most]:.0%} of this visitor's recent interest is in {title}"


def _value(features: NDArray[np.float32], name: str) -> float:
    return float(features[contract.RANKER_FEATURES.index(name)])


def _log_odds(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    sure = np.minimum(np.maximum(probabilities, 1e-9), 1 - 1e-9)
    odds: NDArray[np.float64] = np.log(sure) - np.log1p(-sure)
    return odds
