"""Rates of visitors who look more than once: by hand, against their limits, and how often an interval is right."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from training.metrics import Estimate
from training.segments import Response, clustered_rate
from training.segments_page import table_rows, totals


def rate_of(successes: list[int], trials: list[int]) -> Estimate:
    return clustered_rate(np.array(successes, dtype=np.float64), np.array(trials, dtype=np.float64))


def test_by_hand() -> None:
    """Two of ten and none of ten, each twice: r = 0.1, Σ(s − rt)² = 4, so variance 4/3 · 4/1600 and n* = 27."""
    found = rate_of([2, 0, 2, 0], [10, 10, 10, 10])
    t, n = 3.182446305284263, 27.0
    middle = (0.1 + t * t / (2 * n)) / (1 + t * t / n)
    half = t / (1 + t * t / n) * (0.1 * 0.9 / n + t * t / (4 * n * n)) ** 0.5
    assert found.value == pytest.approx(0.1)
    assert (found.low, found.high) == pytest.approx((middle - half, middle + half), abs=1e-12)


def test_single_looks_are_wilsons_interval() -> None:
    """With one impression each n* is m − 1, and with many of them t is 1.96."""
    found = rate_of([1] * 300 + [0] * 1700, [1] * 2000)
    wilson = stats.binomtest(300, 2000).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((wilson.low, wilson.high), abs=2e-5)


def test_a_visitor_who_looks_again_tells_less() -> None:
    alone = rate_of([1, 0] * 50, [1, 1] * 50)
    again = rate_of([10, 0] * 50, [10, 10] * 50)
    assert again.value == alone.value == 0.5
    assert again.high - again.low == pytest.approx(alone.high - alone.low, rel=1e-9)


def test_no_click_is_no_proof_that_there_never_is_one() -> None:
    found = rate_of([0] * 20, [50] * 20)
    assert (found.value, found.low) == (0.0, 0.0)
    assert 0.15 < found.high < 0.2, "twenty visitors, not a thousand impressions"
    assert rate_of([3], [9]) == Estimate(1 / 3, 0.0, 1.0)


@given(st.lists(st.tuples(st.integers(1, 30), st.floats(0, 1)), min_size=1, max_size=60))
def test_the_rate_lies_within_its_interval(visitors: list[tuple[int, float]]) -> None:
    found = rate_of([round(share * shown) for shown, share in visitors], [shown for shown, _ in visitors])
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_intervals_hold_as_often_as_they_say() -> None:
    """Of 600 shops of 80 visitors, each with a taste; an interval that takes looks for independent misses too often."""
    rng, held, naive = np.random.default_rng(5), 0, 0
    for _ in range(600):
        shown = rng.integers(1, 40, 80).astype(np.float64)
        clicked = rng.binomial(shown.astype(np.int64), rng.beta(1, 9, 80)).astype(np.float64)
        found = clustered_rate(clicked, shown)
        held += found.low <= 0.1 <= found.high
        plain = stats.binomtest(int(clicked.sum()), int(shown.sum())).proportion_ci(method="wilson")
        naive += plain.low <= 0.1 <= plain.high
    assert 0.925 <= held / 600 <= 0.98
    assert naive / 600 < 0.85


def test_the_table_ends_with_the_sums() -> None:
    none = Estimate(0.0, 0.0, 0.5)
    responses = [
        Response("loyal", 2, 40, 10, 1, Estimate(0.25, 0.1, 0.4), none),
        Response("none", 3, 60, 5, 0, Estimate(1 / 12, 0.01, 0.2), none),
    ]
    assert totals(responses) == (5, 100, 15, 1)
    first, _, last = table_rows(responses)
    assert first[:5] == ["loyal", "2", "40", "10", "25.00% [10.00%, 40.00%]"]
    assert last == ["all", "5", "100", "15", "15.00%", "1", "1.00%"]
