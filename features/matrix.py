"""The ranker's inputs from raw features: one set of functions for training and serving, so they cannot differ.

Three groups: what is known of a banner, what is known of the request, and what the two are to each other. Training
makes all of them row by row (``ranker_matrix``); serving keeps the first and makes the second once a request. NumPy
only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from marquee import contract

Floats = NDArray[np.float64]
SMOOTHING: Final = 20.0
"""Impressions' worth of the base rate that a click rate starts from; a banner shown twice cannot top the list.

So many views without any cart or order are added to a visitor's, too."""
CAMPAIGN_HOURS: Final = 14 * 24.0
"""A campaign that began longer ago, or ends later, is as old, or has as long to go: else its age tells the date."""
COUNTS: Final = ("view_count_28d", "cart_count_28d", "order_count_28d", "active_day_count_28d")
RESPONSE_COUNTS: Final = ("visitor_impression_count_365d", "visitor_click_count_365d")
ORDER_SUMS: Final = ("order_count_365d", "order_amount_365d")
VISITOR_NUMBERS: Final = (*COUNTS, *RESPONSE_COUNTS, *ORDER_SUMS)
BANNER_COUNTS: Final = ("banner_impression_count_28d", "banner_click_count_28d")
SESSION_COUNTS: Final = ("session_view_count", "session_cart_count", "session_order_count", "session_product_count")
SESSION_FIELDS: Final = ("session_started_at", *SESSION_COUNTS, "last_category", "category_interest")
"""What the ranker reads of the session under way, by the names of ``contract.SESSION_MOMENTS``."""
READS = {
    contract.VISITOR_FEATURES_28D.name: COUNTS,
    contract.VISITOR_FEATURES_365D.name: ("last_seen_at", *ORDER_SUMS, *RESPONSE_COUNTS, "category_affinity"),
    contract.BANNER_FEATURES_28D.name: BANNER_COUNTS,
}
"""What this version reads of the feature store: fields by view. A bundle records it, and has a service of its own."""
VISITOR_FIELDS = tuple(
    field for table in (contract.VISITOR_FEATURES_28D, contract.VISITOR_FEATURES_365D) for field in READS[table.name]
)
_LEAST: Final = np.finfo(np.float32).tiny


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


@dataclass(frozen=True, slots=True)
class Shares:
    """Category shares [n, C], the length [n] of each row and its largest share [n], NaN for a row without any.

    Each row is summed by itself, so that it comes out to the last bit the same whatever rows are beside it.
    """

    values: NDArray[Any]
    lengths: NDArray[Any]
    largest: NDArray[Any]

    @classmethod
    def of(cls, values: NDArray[Any]) -> Shares:
        """Shares with what follows from them."""
        largest = values.max(axis=1, initial=0.0)
        lengths = np.sqrt(np.einsum("ij,ij->i", values, values))
        return cls(values, lengths, np.where(largest > 0, largest, np.nan))

    def rows(self, rows: NDArray[np.int64]) -> Shares:
        """These rows of them."""
        return Shares(self.values.take(rows, axis=0), self.lengths.take(rows), self.largest.take(rows))

    def alike(self, other: Shares) -> tuple[Any, Any]:
        """[n] dot products and cosines with others' rows, 0 where a row is of zeros and NaN where one is unknown."""
        match = np.einsum("ij,ij->i", self.values, other.values)
        return match, match / np.maximum(self.lengths * other.lengths, _LEAST)


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


def interest_matrix(interests: Sequence[Mapping[str, float] | None], index: Mapping[str, int]) -> NDArray[np.float32]:
    """[n, C] shares of a session's interest by category; NaN where it showed none.

    Args:
        interests: by category; one that ``index`` does not list takes its share and has no column.
        index: column of each category.
    """
    result = np.zeros((len(interests), len(index)), dtype=np.float32)
    for row, interest in enumerate(interests):
        total = sum(interest.values()) if interest else 0.0
        if not interest or total <= 0:
            result[row] = np.nan
            continue
        for category, value in interest.items():
            place = index.get(category)
            if place is not None:
                result[row, place] = value / total
    return result


def codes(values: Sequence[str], names: Sequence[str]) -> Floats:
    """Position of each value in ``names``; NaN for one that is not there, which the trees treat as missing."""
    index = {name: float(place) for place, name in enumerate(names)}
    return np.array([index.get(value, np.nan) for value in values], dtype=np.float64)


def category_codes(values: Sequence[str | None], index: Mapping[str, int]) -> Floats:
    """Column of each category, -1 for one that ``index`` does not list and NaN for none."""
    return np.array([np.nan if value is None else index.get(value, -1) for value in values], dtype=np.float64)


def seconds(moments: NDArray[np.datetime64]) -> Floats:
    """Seconds since 1970, UTC; NaN for NaT."""
    values = moments.astype("datetime64[us]").astype(np.int64) / 1e6
    return np.where(np.isnat(moments), np.nan, values)


def smoothed_rate(clicks: Floats, impressions: Floats, base_rate: float) -> Floats:
    """Click rate shrunk towards ``base_rate``; a missing count is a count of nothing."""
    return (_or_nothing(clicks) + SMOOTHING * base_rate) / (_or_nothing(impressions) + SMOOTHING)


def window_counts(counts: Any, last_seen_at: Any) -> Floats:
    """A visitor's 28-day counts where the store may hold none: 0 for a visitor who is known, NaN for one who is not.

    A window in which nothing happened has zeros until its TTL ends, then no row. ``last_seen_at`` is NaN or None for
    a visitor not known.
    """
    return _known_counts(np.asarray(counts, np.float64), ~np.isnan(np.asarray(last_seen_at, np.float64)))


def _known_counts(counts: Floats, is_known: Any) -> Floats:
    return np.where(np.isnan(counts) & is_known, 0.0, counts)


def ranker_matrix(
    columns: Mapping[str, Any], visitor: Shares, session: Shares, banner: Shares, base_rate: float
) -> Any:
    """The feature matrix [n, len(RANKER_FEATURES)] as float32.

    Args:
        columns: raw features and context by contract name, each [n] or a scalar. ``placement`` and ``device`` are
            codes, ``last_category`` is one of ``category_codes``; moments are seconds since 1970 in UTC, NaN where
            unknown. ``starts_at`` and ``ends_at`` are the campaign's.
        visitor: [n or 1, C] of the visitor's interest.
        session: [n or 1, C] of the interest shown in the session under way, NaN where none is known.
        banner: [n, C] of the banner's products.
        base_rate: the click rate that smoothed rates start from.
    """
    request = request_features(columns, visitor, base_rate)
    derived = banner_features(columns, banner, base_rate) | request
    derived |= pair_features(columns, request, visitor, session, banner)
    matrix = np.empty((len(banner.values), len(contract.RANKER_FEATURES)), dtype=np.float32)
    for place, name in enumerate(contract.RANKER_FEATURES):
        matrix[:, place] = derived[name]
    return matrix


def banner_features(columns: Mapping[str, Any], banner: Shares, base_rate: float) -> dict[str, Any]:
    """What is known of each banner, whoever asks, while its counts are the same."""
    shown = np.asarray(columns["banner_impression_count_28d"], dtype=np.float64)
    clicked = np.asarray(columns["banner_click_count_28d"], dtype=np.float64)
    return {
        "banner_impression_count_28d": _or_nothing(shown),
        "banner_click_rate": smoothed_rate(clicked, shown, base_rate),
        "mean_price": columns["mean_price"],
        "product_count": columns["product_count"],
        "banner_focus": banner.largest,
    }


def request_features(columns: Mapping[str, Any], visitor: Shares, base_rate: float) -> dict[str, Any]:
    """What is known of who asks, where and when, whichever banner it is about."""
    at, seen = (np.asarray(columns[name], dtype=np.float64) for name in ("impressed_at", "last_seen_at"))
    is_known = ~np.isnan(seen)
    counts = {name: _known_counts(np.asarray(columns[name], np.float64), is_known) for name in COUNTS}
    views = counts["view_count_28d"] + SMOOTHING
    orders, amount = (np.asarray(columns[name], dtype=np.float64) for name in ORDER_SUMS)
    return {
        **counts,
        "cart_rate": counts["cart_count_28d"] / views,
        "order_rate": counts["order_count_28d"] / views,
        "visitor_click_rate": smoothed_rate(
            np.asarray(columns["visitor_click_count_365d"], dtype=np.float64),
            np.asarray(columns["visitor_impression_count_365d"], dtype=np.float64),
            base_rate,
        ),
        # Whole seconds, because Feast's online store keeps no more of a timestamp and its offline store does.
        "hours_since_seen": (at - np.floor(seen)) / 3600.0,
        "mean_order_amount": np.where(amount > 0, amount, np.nan) / np.where(orders > 0, orders, np.nan),
        "visitor_focus": visitor.largest,
        **{name: columns[name] for name in SESSION_COUNTS},
        "session_minutes": (at - columns["session_started_at"]) / 60.0,
        "placement": columns["placement"],
        "position": columns["position"],
        "device": columns["device"],
        "hour_of_day": np.floor(at / 3600.0) % 24,
        # 1 January 1970 was a Thursday; 0 is Monday.
        "day_of_week": (np.floor(at / 86400.0) + 3) % 7,
    }


def pair_features(
    columns: Mapping[str, Any], request: Mapping[str, Any], visitor: Shares, session: Shares, banner: Shares
) -> dict[str, Any]:
    """What banner and request are to each other; ``request`` is what ``request_features`` made of the same rows."""
    at, price = np.asarray(columns["impressed_at"], dtype=np.float64), np.asarray(columns["mean_price"], np.float64)
    match, cosine = visitor.alike(banner)
    session_match, session_cosine = session.alike(banner)
    return {
        "affinity_match": match,
        "affinity_cosine": cosine,
        "price_ratio": np.where(price > 0, price, np.nan) / request["mean_order_amount"],
        "session_affinity_match": session_match,
        "session_affinity_cosine": session_cosine,
        "last_category_share": _share_of(banner.values, np.asarray(columns["last_category"], dtype=np.float64)),
        "campaign_age_hours": np.minimum((at - columns["starts_at"]) / 3600.0, CAMPAIGN_HOURS),
        "campaign_left_hours": np.minimum((columns["ends_at"] - at) / 3600.0, CAMPAIGN_HOURS),
    }


def _share_of(shares: NDArray[Any], category: Floats) -> Any:
    """[n] share of one category in each row: 0 for -1, NaN for NaN."""
    if not shares.shape[1]:
        return category * 0.0
    if category.size == 1:  # one request: the same category for all
        one = float(category.item())
        return shares[:, int(one)] if one >= 0 else one * 0.0
    listed = category >= 0
    found = shares[np.arange(len(shares)), np.where(listed, category, 0).astype(np.int64)]
    return np.where(listed, found, category * 0.0)


def _or_nothing(counts: Floats) -> Floats:
    return np.where(np.isnan(counts), 0.0, counts)
