"""The ranker's inputs: values by hand, and one row alone equal to the same row among many."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.freshness import TTL, is_fresh
from features.matrix import (
    BANNER_COUNTS,
    COUNTS,
    RESPONSE_COUNTS,
    category_matrix,
    codes,
    ranker_matrix,
    smoothed_rate,
    window_counts,
)
from marquee.contract import RANKER_FEATURES

INDEX = {name: place for place, name in enumerate(RANKER_FEATURES)}


def columns(n: int, rng: np.random.Generator) -> dict[str, Any]:
    values = {name: rng.integers(0, 9, n).astype(float) for name in (*COUNTS, *RESPONSE_COUNTS, *BANNER_COUNTS)}
    values |= {name: rng.random(n) for name in ("mean_price", "placement", "device", "position")}
    return values | {"impressed_at": rng.random(n) * 1e9, "last_seen_at": rng.random(n) * 1e9}


def test_values_by_hand() -> None:
    at = np.datetime64("2026-02-03T15:30").astype("datetime64[s]").astype(float)
    given = dict.fromkeys(COUNTS, 0.0) | {
        "visitor_click_count_365d": 3.0,
        "visitor_impression_count_365d": 40.0,
        "banner_impression_count_28d": np.nan,
        "banner_click_count_28d": np.nan,
        "mean_price": 9.5,
        "placement": 1.0,
        "position": 2.0,
        "device": 0.0,
        "impressed_at": at,
        "last_seen_at": at - 36 * 3600,
    }
    matrix = ranker_matrix(given, np.array([[0.6, 0.8]]), np.array([[1.0, 0.0]]), base_rate=0.1)
    row = {name: float(matrix[0, place]) for name, place in INDEX.items()}
    assert row["visitor_click_rate"] == pytest.approx((3 + 20 * 0.1) / (40 + 20))
    assert row["banner_click_rate"] == pytest.approx(0.1)  # never shown: the base rate
    assert row["banner_impression_count_28d"] == 0
    assert row["hours_since_seen"] == pytest.approx(36)
    assert row["hour_of_day"] == 15
    assert row["affinity_match"] == pytest.approx(0.6)
    assert row["affinity_cosine"] == pytest.approx(0.6)


@given(st.integers(1, 6), st.integers(0, 1000))
def test_a_row_alone_is_the_row_among_many(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    given_columns = columns(n, rng)
    visitors, banners = rng.random((n, 3)), rng.random((n, 3))
    together = ranker_matrix(given_columns, visitors, banners, 0.05)
    for row in range(n):
        alone = {name: values[row] for name, values in given_columns.items()}
        assert np.array_equal(
            ranker_matrix(alone, visitors[row : row + 1], banners[row : row + 1], 0.05)[0], together[row]
        )


def test_no_interest_known_gives_zero_affinity_not_an_error() -> None:
    rng = np.random.default_rng(0)
    matrix = ranker_matrix(columns(2, rng), np.zeros((1, 3)), rng.random((2, 3)), 0.05)
    assert matrix[:, INDEX["affinity_match"]].tolist() == [0, 0]
    assert matrix[:, INDEX["affinity_cosine"]].tolist() == [0, 0]


def test_category_shares_ignore_what_no_banner_shows() -> None:
    matrix = category_matrix(['{"a": 0.5, "z": 0.5}', None, "{}"], ["a", "b"])
    assert matrix.tolist() == [[0.5, 0.0], [0.0, 0.0], [0.0, 0.0]]


def test_unknown_names_are_missing_not_zero() -> None:
    found = codes(["b", "new"], ["a", "b"])
    assert found[0] == 1
    assert np.isnan(found[1])


def test_rates_shrink_to_the_base() -> None:
    assert smoothed_rate(np.array([np.nan, 10.0]), np.array([np.nan, 80.0]), 0.2).tolist() == [0.2, 14 / 100]


def test_a_window_without_a_row_is_zero_for_who_is_known_and_missing_for_who_is_not() -> None:
    found = window_counts(np.array([np.nan, np.nan, 3.0, 0.0]), np.array([7.0, np.nan, 7.0, 7.0]))
    assert np.array_equal(found, [0.0, np.nan, 3.0, 0.0], equal_nan=True)
    assert float(window_counts(None, 7.0)) == 0.0
    assert np.isnan(window_counts(None, None))


@pytest.mark.parametrize(("seen", "count"), [(3600.0, 0.0), (np.nan, np.nan)])
def test_the_matrix_knows_an_empty_window_from_an_unknown_visitor(seen: float, count: float) -> None:
    values = columns(1, np.random.default_rng(0)) | {"last_seen_at": seen} | dict.fromkeys(COUNTS)
    matrix = ranker_matrix(values, np.ones((1, 2)), np.ones((1, 2)), 0.05)
    for name in COUNTS:
        assert np.array_equal(matrix[0, INDEX[name]], np.float32(count), equal_nan=True)


@pytest.mark.parametrize("view", TTL)
def test_a_feature_is_fresh_from_its_stamp_to_its_ttl(view: str) -> None:
    stamp, instant = datetime(2026, 1, 2), timedelta(microseconds=1)
    assert is_fresh(view, stamp, stamp)
    assert not is_fresh(view, stamp, stamp - instant)
    assert is_fresh(view, stamp, stamp + TTL[view])
    assert not is_fresh(view, stamp, stamp + TTL[view] + instant)
