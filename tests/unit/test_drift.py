"""Drift by hand, against SciPy, and as properties that hold whatever the values."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from training.drift import (
    QUANTILES,
    Distribution,
    bin_shares,
    distribution,
    kolmogorov_smirnov,
    psi,
    stability_index,
)

VALUES = st.lists(st.one_of(st.just(math.nan), st.floats(-1e6, 1e6)), min_size=1, max_size=60).map(np.array)


def test_stability_index_by_hand() -> None:
    expected, actual = np.array([0.5, 0.5]), np.array([0.25, 0.75])
    by_hand = (0.25 - 0.5) * math.log(0.25 / 0.5) + (0.75 - 0.5) * math.log(0.75 / 0.5)
    assert stability_index(expected, actual) == pytest.approx(by_hand)
    assert by_hand == pytest.approx(0.27465, abs=1e-5)


def test_a_bin_that_was_empty_gives_a_large_and_finite_index() -> None:
    index = stability_index(np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    assert 15 < index < 20


def test_bins_include_their_upper_end_and_the_missing_have_their_own() -> None:
    shares = bin_shares(np.array([1.0, 2.0, 2.5, np.nan]), [1.0, 2.0])
    assert shares.tolist() == [0.25, 0.25, 0.25, 0.25]


def test_few_distinct_values_get_a_bin_each_and_rare_ones_share_one() -> None:
    kept = distribution(np.array([0.0, 0.0, 1.0, 3.0]))
    assert (kept.edges, kept.shares) == ([0.0, 1.0], [0.5, 0.25, 0.25, 0.0])
    rare = distribution(np.repeat([0.0, 1.0, 2.0, 3.0], [60, 36, 2, 2]))
    assert (rare.edges, rare.shares) == ([0.0, 1.0], [0.6, 0.36, 0.04, 0.0])


def test_many_values_fill_ten_bins_equally() -> None:
    kept = distribution(np.arange(1000.0))
    assert kept.shares == pytest.approx([0.1] * 10 + [0.0])
    assert len(kept.quantiles) == QUANTILES
    assert (kept.quantiles[0], kept.quantiles[50], kept.quantiles[-1]) == (0.0, 499.0, 999.0)


def test_weights_count_as_that_many_rows() -> None:
    values, times = np.array([1.0, 2.0, 5.0, np.nan]), np.array([3, 1, 2, 2])
    repeated = distribution(np.repeat(values, times))
    assert distribution(values, times.astype(float), count=8) == repeated


def test_a_feature_that_was_never_there_has_no_distance() -> None:
    kept = distribution(np.full(5, np.nan))
    assert (kept.edges, kept.quantiles, kept.shares) == ([], [], [0.0, 1.0])
    assert kolmogorov_smirnov(kept, np.ones(3)) is None
    assert psi(kept, np.full(3, np.nan)) == pytest.approx(0)
    assert psi(kept, np.ones(3)) > 5


@pytest.mark.parametrize("shift", [0.0, 0.4, 1.0])
def test_distance_is_scipys_but_for_the_sketch(shift: float) -> None:
    rng = np.random.default_rng(3)
    before, now = rng.normal(size=4000), rng.normal(shift, size=900)
    found = kolmogorov_smirnov(distribution(before), now)
    assert found is not None
    truth = ks_2samp(before, now)
    assert found[0] == pytest.approx(truth.statistic, abs=0.011)
    assert found[1] >= truth.pvalue * 0.99, "it errs on the side of no drift"
    assert (found[1] < 1e-3) == (shift > 0)


def test_with_a_small_reference_the_sketch_is_exact_and_so_is_the_distance() -> None:
    before, now = np.arange(float(QUANTILES)), np.arange(30.0, 90.0)
    found = kolmogorov_smirnov(distribution(before), now)
    assert found is not None
    assert found[0] == pytest.approx(ks_2samp(before, now).statistic, abs=0.011)


@settings(max_examples=100, deadline=None)
@given(VALUES, VALUES)
def test_the_index_is_never_negative_and_zero_on_the_same(before: np.ndarray, now: np.ndarray) -> None:
    kept = distribution(before)
    assert psi(kept, now) >= -1e-12
    assert psi(kept, before) == pytest.approx(0, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(VALUES, VALUES, st.randoms(use_true_random=False))
def test_order_does_not_matter(before: np.ndarray, now: np.ndarray, chance: object) -> None:
    def shuffled(values: np.ndarray) -> np.ndarray:
        listed = values.tolist()
        chance.shuffle(listed)  # type: ignore[attr-defined]
        return np.array(listed)

    kept, again = distribution(before), distribution(shuffled(before))
    assert again.quantiles == kept.quantiles
    assert psi(again, shuffled(now)) == pytest.approx(psi(kept, now), abs=1e-9)
    assert kolmogorov_smirnov(again, shuffled(now)) == pytest.approx(kolmogorov_smirnov(kept, now))


@settings(max_examples=100, deadline=None)
@given(VALUES)
def test_what_is_kept_is_bounded_finite_json_and_comes_back(values: np.ndarray) -> None:
    kept = distribution(values)
    text = json.dumps(kept.to_dict(), allow_nan=False)
    assert Distribution.from_dict(json.loads(text)) == kept
    assert len(kept.edges) < 10
    assert len(kept.quantiles) in (0, QUANTILES)
    assert sum(kept.shares) == pytest.approx(1)
    assert kept.edges == sorted(set(kept.edges))
