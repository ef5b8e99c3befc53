"""The ranker's inputs: values by hand, one row alone equal to the same row among many, and served equal to trained."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.freshness import TTL, is_fresh
from features.matrix import (
    BANNER_COUNTS,
    COUNTS,
    SESSION_COUNTS,
    VISITOR_NUMBERS,
    Encoding,
    Shares,
    category_codes,
    category_matrix,
    codes,
    interest_matrix,
    ranker_matrix,
    smoothed_rate,
    window_counts,
)
from marquee import contract
from marquee.contract import RANKER_FEATURES
from training.catalogue import Catalogue, banner_columns
from training.dataset import frame_columns, raw_session, session_shares
from training.inputs import Context, Inputs, live_session

INDEX = {name: place for place, name in enumerate(RANKER_FEATURES)}


def columns(n: int, rng: np.random.Generator) -> dict[str, Any]:
    counts = (*VISITOR_NUMBERS, *BANNER_COUNTS, *SESSION_COUNTS, "product_count")
    values = {name: rng.integers(0, 9, n).astype(float) for name in counts}
    values |= {name: rng.random(n) for name in ("mean_price", "placement", "device", "position")}
    values |= {name: rng.integers(-1, 3, n).astype(float) for name in ("last_category",)}
    moments = ("impressed_at", "last_seen_at", "session_started_at", "starts_at", "ends_at")
    return values | {name: rng.random(n) * 1e9 for name in moments}


def shares(n: int, rng: np.random.Generator) -> Shares:
    return Shares.of(rng.random((n, 3)))


def test_values_by_hand() -> None:
    at = np.datetime64("2026-02-03T15:30").astype("datetime64[s]").astype(float)
    given = dict.fromkeys(COUNTS, 0.0) | {
        "view_count_28d": 30.0,
        "cart_count_28d": 5.0,
        "order_count_28d": 2.0,
        "order_count_365d": 4.0,
        "order_amount_365d": 50.0,
        "visitor_click_count_365d": 3.0,
        "visitor_impression_count_365d": 40.0,
        "banner_impression_count_28d": np.nan,
        "banner_click_count_28d": np.nan,
        "session_view_count": 6.0,
        "session_cart_count": 1.0,
        "session_order_count": 0.0,
        "session_product_count": 4.0,
        "session_started_at": at - 90.0,
        "last_category": 1.0,
        "mean_price": 9.5,
        "product_count": 12.0,
        "starts_at": at - 7200.0,
        "ends_at": at + 1e9,
        "placement": 1.0,
        "position": 2.0,
        "device": 0.0,
        "impressed_at": at,
        "last_seen_at": at - 36 * 3600,
    }
    visitor, session, banner = (
        Shares.of(np.array([one])) for one in ([0.6, 0.8, 0.0], [0.0, 0.5, 0.5], [0.75, 0.25, 0.0])
    )
    matrix = ranker_matrix(given, visitor, session, banner, base_rate=0.1)
    row = {name: float(matrix[0, place]) for name, place in INDEX.items()}
    length = np.sqrt(0.75**2 + 0.25**2)
    expected = {
        "view_count_28d": 30,
        "cart_count_28d": 5,
        "order_count_28d": 2,
        "active_day_count_28d": 0,
        "cart_rate": 5 / (30 + 20),
        "order_rate": 2 / (30 + 20),
        "visitor_click_rate": (3 + 20 * 0.1) / (40 + 20),
        "hours_since_seen": 36,
        "mean_order_amount": 12.5,
        "visitor_focus": 0.8,
        "session_view_count": 6,
        "session_cart_count": 1,
        "session_order_count": 0,
        "session_product_count": 4,
        "session_minutes": 1.5,
        "banner_impression_count_28d": 0,
        "banner_click_rate": 0.1,  # never shown: the base rate
        "mean_price": 9.5,
        "product_count": 12,
        "banner_focus": 0.75,
        "campaign_age_hours": 2,
        "campaign_left_hours": 336,
        "affinity_match": 0.6 * 0.75 + 0.8 * 0.25,
        "affinity_cosine": (0.6 * 0.75 + 0.8 * 0.25) / length,
        "price_ratio": 9.5 / 12.5,
        "session_affinity_match": 0.125,
        "session_affinity_cosine": 0.125 / np.sqrt(0.5) / length,
        "last_category_share": 0.25,
        "placement": 1,
        "position": 2,
        "device": 0,
        "hour_of_day": 15,
        "day_of_week": 1,  # a Tuesday
    }
    assert row == pytest.approx(expected)


@given(st.integers(1, 6), st.integers(0, 1000))
def test_a_row_alone_is_the_row_among_many(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    given_columns = columns(n, rng)
    groups = [shares(n, rng) for _ in range(3)]
    together = ranker_matrix(given_columns, *groups, 0.05)
    for row in range(n):
        alone = {name: values[row] for name, values in given_columns.items()}
        own = [group.rows(np.array([row])) for group in groups]
        assert np.array_equal(ranker_matrix(alone, *own, 0.05)[0], together[row], equal_nan=True)


def test_no_interest_known_gives_zero_affinity_not_an_error() -> None:
    rng = np.random.default_rng(0)
    matrix = ranker_matrix(columns(2, rng), Shares.of(np.zeros((1, 3))), shares(2, rng), shares(2, rng), 0.05)
    assert matrix[:, INDEX["affinity_match"]].tolist() == [0, 0]
    assert matrix[:, INDEX["affinity_cosine"]].tolist() == [0, 0]
    assert np.isnan(matrix[:, INDEX["visitor_focus"]]).all()


def test_a_session_without_interest_is_not_one_that_is_elsewhere() -> None:
    rng, index = np.random.default_rng(0), {"a": 0, "b": 1, "c": 2}
    session = Shares.of(interest_matrix([None, {}, {"z": 2.0}], index))
    assert category_codes([None, "b", "z"], index).tolist()[1:] == [1, -1]
    given_columns = columns(3, rng) | {"last_category": category_codes([None, "b", "z"], index)}
    banner = shares(3, rng)
    matrix = ranker_matrix(given_columns, shares(3, rng), session, banner, 0.05)
    for name in ("session_affinity_match", "session_affinity_cosine"):
        assert np.array_equal(matrix[:, INDEX[name]], [np.nan, np.nan, 0], equal_nan=True)
    expected = [np.nan, np.float32(banner.values[1, 1]), 0]
    assert np.array_equal(matrix[:, INDEX["last_category_share"]], expected, equal_nan=True)


# --- served and trained ---------------------------------------------------------------------------------------------

START = datetime(2026, 1, 5)
CATEGORIES = tuple(f"c{number:02d}" for number in range(37))
ENCODING = Encoding(CATEGORIES, ("home", "cart"), contract.DEVICES, 0.0517)
some = st.floats(0, 1e5, allow_subnormal=False)
mixes = st.dictionaries(st.sampled_from([*CATEGORIES, "unlisted"]), st.floats(0.001, 9), max_size=30)


def catalogue(rng: np.random.Generator) -> Catalogue:
    def row(number: int) -> dict[str, Any]:
        listed = rng.choice(CATEGORIES, rng.integers(0, 9), replace=False)
        drawn = rng.random(len(listed))
        return {
            "banner_id": f"b{number:02d}",
            **dict.fromkeys(("campaign_id", "title"), "k"),
            "status": "active",
            "placements": "[]",
            "starts_at": START - timedelta(hours=int(rng.integers(0, 999))),
            "ends_at": START + timedelta(hours=int(rng.integers(99, 9999))),
            "product_count": int(rng.integers(0, 30)),
            "mean_price": float(rng.choice([0.0, rng.random() * 99])),
            "category_mix": json.dumps(dict(zip(listed, (drawn / max(drawn.sum(), 1e-9)).tolist(), strict=True))),
        }

    return Catalogue.from_rows([row(number) for number in range(9)])


sessions = st.fixed_dictionaries(
    dict.fromkeys(SESSION_COUNTS, st.integers(0, 30).map(float))
    | {
        "session_started_at": st.integers(0, 10**12).map(lambda us: START - timedelta(microseconds=us)),
        "last_category": st.sampled_from([None, *CATEGORIES, "unlisted"]),
        "category_interest": mixes,
    }
)
visitors = st.fixed_dictionaries(
    dict.fromkeys(VISITOR_NUMBERS, st.none() | some)
    | {
        "last_seen_at": st.none() | st.integers(0, 10**12).map(lambda us: START - timedelta(microseconds=us)),
        "category_affinity": mixes.map(json.dumps),
    }
)


@given(st.none() | visitors, st.none() | sessions, st.integers(0, 10**6), st.integers(0, 99))
def test_what_is_served_is_to_the_last_bit_what_is_trained_on(
    visitor: dict[str, Any] | None, session: dict[str, Any] | None, second: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    banners, at = catalogue(rng), np.datetime64(START + timedelta(seconds=second, microseconds=7), "us")
    counts = {
        name: np.where(rng.random(9) < 0.2, np.nan, rng.integers(0, 99, 9).astype(float)) for name in BANNER_COUNTS
    }
    device, place = str(rng.choice(["mobile", "fridge"])), str(rng.choice(["home", "attic"]))
    inputs, rows = Inputs(banners, ENCODING), rng.permutation(9)[: rng.integers(1, 9)]
    for _ in range(2):  # the second time with what was kept
        served = inputs.matrix(visitor, rows, counts, Context(place, device, at, session))
    trained = as_trained(banners, visitor, live_session(session), {name: counts[name][rows] for name in counts}, rows)(
        placement_id=place, device=device, impressed_at=at
    )
    assert served.dtype == trained.dtype == np.float32
    assert served.tobytes() == trained.tobytes()


def as_trained(banners: Catalogue, visitor: Any, session: Any, counts: dict[str, Any], rows: Any) -> Any:
    """A function from the context to what training makes of a frame with this visitor, session and these banners."""

    def encoded(**context: Any) -> Any:
        told = dict(session) if session else dict.fromkeys((*SESSION_COUNTS, "session_started_at", "last_category"))
        told["category_interest"] = json.dumps(session["category_interest"]) if session else None
        known = visitor or dict.fromkeys((*VISITOR_NUMBERS, "last_seen_at", "category_affinity"))
        frame = pd.DataFrame([known | told | context] * len(rows)).assign(**counts, position=0)
        for name in ("last_seen_at", "session_started_at", "impressed_at"):
            frame[name] = frame[name].astype("datetime64[us]")
        numbers = [*VISITOR_NUMBERS, *SESSION_COUNTS]
        frame[numbers] = frame[numbers].astype(float)
        of_banners = {name: values[rows] for name, values in banner_columns(banners).items()}
        own = Shares.of(category_matrix(banners.category_mixes, CATEGORIES)).rows(rows)
        interest = Shares.of(category_matrix(frame["category_affinity"].tolist(), CATEGORIES))
        groups = interest, session_shares(frame, ENCODING), own
        return ranker_matrix(frame_columns(frame, ENCODING) | of_banners, *groups, ENCODING.base_rate)

    return encoded


def test_a_session_of_nothing_but_banners_is_none() -> None:
    empty = dict.fromkeys(SESSION_COUNTS, 0) | {"session_impression_count": 3, "session_click_count": 1}
    assert live_session(None) is live_session(empty) is None
    for name in SESSION_COUNTS:
        seen = empty | {name: 1}
        assert live_session(seen) is seen


def test_a_joined_session_is_told_as_online() -> None:
    row = pd.Series(
        dict.fromkeys(SESSION_COUNTS, 2.0)
        | {
            "session_started_at": pd.Timestamp(START),
            "last_category": None,
            "category_interest": '{"c01": 1.5}',
        }
    )
    told = raw_session(row)
    assert told == dict.fromkeys(SESSION_COUNTS, 2.0) | {
        "session_started_at": START,
        "last_category": None,
        "category_interest": {"c01": 1.5},
    }
    assert raw_session(pd.Series({"session_started_at": pd.NaT})) is None


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
    matrix = ranker_matrix(values, *[Shares.of(np.ones((1, 3)))] * 3, 0.05)
    for name in COUNTS:
        assert np.array_equal(matrix[0, INDEX[name]], np.float32(count), equal_nan=True)


@pytest.mark.parametrize("view", TTL)
def test_a_feature_is_fresh_from_its_stamp_to_its_ttl(view: str) -> None:
    stamp, instant = datetime(2026, 1, 2), timedelta(microseconds=1)
    assert is_fresh(view, stamp, stamp)
    assert not is_fresh(view, stamp, stamp - instant)
    assert is_fresh(view, stamp, stamp + TTL[view])
    assert not is_fresh(view, stamp, stamp + TTL[view] + instant)
