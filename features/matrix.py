"""The ranker's inputs from raw features: one function for training and serving, so they cannot differ. NumPy only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marquee import contract

Floats = NDArray[np.float64]
SMOOTHING = 20.0
"""Impressions' worth of the base rate that a click rate starts from; a banner shown twice cannot top the list."""
COUNTS = ("view_count_28d", "cart_count_28d", "order_count_28d", "active_day_count_28d")
RESPONSE_COUNTS = ("visitor_impression_count_365d", "visitor_click_count_365d")
BANNER_COUNTS = ("banner_impression_count_28d", "banner_click_count_28d")
READS = {
    contract.VISITOR_FEATURES_28D.name: COUNTS,
    contract.VISITOR_FEATURES_365D.name: ("last_seen_at", *RESPONSE_COUNTS, "category_affinity"),
    contract.BANNER_FEATURES_28D.name: BANNER_COUNTS,
}
"""What this version reads of the feature store: fields by view. A bundle records it, and has a service of its own."""
VISITOR_FIELDS = tuple(
    field for table in (contract.VISITOR_FEATURES_28D, contract.VISITOR_FEATURES_365D) for field in READS[table.name]
)


@dataclass(frozen=True, slots=True)
class Encoding:
    """What turns names into numbers; fitted on training rows, carried by the bundle."""

    categories: tuple[str, ...]
    placements: tuple[str, ...]
    devices: tuple[str, ...]
    base_rate: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Encoding:
        """The inverse of ``to_dict``."""
        return cls(
            tuple(values["categories"]), tuple(values["placements"]), tuple(values["devices"]), values["base_rate"]
        )


def category_matrix(texts: Sequence[str | None], categories: Sequence[str]) -> NDArray[np.float32]:
    """Category shares, [len(texts), len(categories)], from JSON objects; categories not listed are left out."""
    index = {category: place for place, category in enumerate(categories)}
    result = np.zeros((len(texts), len(categories)), dtype=np.float32)
    for row, text in enumerate(texts):
        if text:
            for category, share in json.loads(text).items():
                place = index.get(category)
                if place is not None:
                    result[row, place] = share
    return result


def codes(values: Sequence[str], names: Sequence[str]) -> Floats:
    """Position of each value in ``names``; NaN for one that is not there, which the trees treat as missing."""
    index = {name: float(place) for place, name in enumerate(names)}
    return np.array([index.get(value, np.nan) for value in values], dtype=np.float64)


def seconds(moments: NDArray[np.datetime64]) -> Floats:
    """Seconds since 1970, UTC; NaN for NaT."""
    values = moments.astype("datetime64[us]").astype(np.int64) / 1e6
    return np.where(np.isnat(moments), np.nan, values)


def smoothed_rate(clicks: Floats, impressions: Floats, base_rate: float) -> Floats:
    """Click rate shrunk towards ``base_rate``; a missing count is a count of nothing."""
    return (np.nan_to_num(clicks) + SMOOTHING * base_rate) / (np.nan_to_num(impressions) + SMOOTHING)


def window_counts(counts: Any, last_seen_at: Any) -> Floats:
    """A visitor's 28-day counts where the store may hold none: 0 for a visitor who is known, NaN for one who is not.

    A window in which nothing happened has zeros until its TTL ends, then no row. ``last_seen_at`` is NaN or None for
    a visitor not known.
    """
    values, seen = np.asarray(counts, dtype=np.float64), np.asarray(last_seen_at, dtype=np.float64)
    return np.where(np.isnan(values) & ~np.isnan(seen), 0.0, values)


def ranker_matrix(columns: Mapping[str, Any], visitor_shares: Any, banner_shares: Any, base_rate: float) -> Any:
    """The feature matrix [n, len(RANKER_FEATURES)] as float32.

    Args:
        columns: raw features and context by contract name, each [n] or a scalar; ``placement`` and ``device`` are
            codes, ``impressed_at`` and ``last_seen_at`` are seconds since 1970 in UTC, NaN where unknown.
        visitor_shares: [n or 1, C] category shares of the visitor's interest.
        banner_shares: [n, C] category shares of the banner's products.
        base_rate: the click rate that smoothed rates start from.
    """
    n = len(banner_shares)
    match = np.einsum("ij,ij->i", np.broadcast_to(visitor_shares, banner_shares.shape), banner_shares)
    norms = np.linalg.norm(visitor_shares, axis=1) * np.linalg.norm(banner_shares, axis=1)
    at = np.asarray(columns["impressed_at"], dtype=np.float64)
    derived = {name: window_counts(columns[name], columns["last_seen_at"]) for name in COUNTS} | {
        "visitor_click_rate": smoothed_rate(
            np.asarray(columns["visitor_click_count_365d"], dtype=np.float64),
            np.asarray(columns["visitor_impression_count_365d"], dtype=np.float64),
            base_rate,
        ),
        # Whole seconds, because Feast's online store keeps no more of a timestamp and its offline store does.
        "hours_since_seen": (at - np.floor(np.asarray(columns["last_seen_at"], dtype=np.float64))) / 3600.0,
        "banner_impression_count_28d": np.nan_to_num(columns["banner_impression_count_28d"]),
        "banner_click_rate": smoothed_rate(
            np.asarray(columns["banner_click_count_28d"], dtype=np.float64),
            np.asarray(columns["banner_impression_count_28d"], dtype=np.float64),
            base_rate,
        ),
        "mean_price": columns["mean_price"],
        "affinity_match": match,
        "affinity_cosine": np.divide(match, norms, out=np.zeros(n), where=norms > 0),
        "placement": columns["placement"],
        "position": columns["position"],
        "device": columns["device"],
        "hour_of_day": np.floor(at / 3600.0) % 24,
    }
    matrix = np.empty((n, len(contract.RANKER_FEATURES)), dtype=np.float32)
    for place, name in enumerate(contract.RANKER_FEATURES):
        matrix[:, place] = derived[name]
    return matrix
