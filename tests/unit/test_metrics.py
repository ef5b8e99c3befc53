"""Metrics against fractions worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training import metrics


@pytest.mark.parametrize(
    ("labels", "scores", "expected"),
    [
        ([0, 0, 1, 1], [1, 2, 3, 4], 1),
        ([1, 1, 0, 0], [1, 2, 3, 4], 0),
        ([0, 1, 0, 1], [1, 2, 3, 4], 3 / 4),  # pairs: 2>1 yes, 2>3 no, 4>1 yes, 4>3 yes
        ([0, 1, 1], [5, 5, 5], 1 / 2),  # all ties
        ([0, 0, 1], [1, 2, 2], (1 + 1 / 2) / 2),
    ],
)
def test_auc_by_hand(labels: list[int], scores: list[float], expected: float) -> None:
    assert metrics.auc(np.array(labels, bool), np.array(scores, float)) == pytest.approx(expected)


def test_auc_of_one_class_is_not_a_number() -> None:
    assert np.isnan(metrics.auc(np.array([True, True]), np.array([0.1, 0.2])))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=12))
def test_weighted_auc_is_the_auc_of_repeated_rows(rows: list[tuple[bool, int, int]]) -> None:
    labels, scores, weights = (np.array(column) for column in zip(*rows, strict=True))
    weighted = metrics.weighted_auc(labels.astype(bool), scores.astype(float))(weights.astype(float))
    repeated = np.repeat(np.arange(len(rows)), weights)
    if len(repeated):
        plain = metrics.auc(labels.astype(bool)[repeated], scores.astype(float)[repeated])
        assert weighted == pytest.approx(plain, nan_ok=True)


def test_log_loss_by_hand() -> None:
    expected = -(np.log(0.8) + np.log(1 - 0.4)) / 2
    assert metrics.log_loss(np.array([True, False]), np.array([0.8, 0.4])) == pytest.approx(expected)


def test_calibration_error_by_hand() -> None:
    # Two bins of two: mean 0.1 with 0 of 2 clicked, mean 0.6 with 2 of 2 clicked: (0.1·2 + 0.4·2) / 4.
    error = metrics.calibration_error(np.array([0, 0, 1, 1], bool), np.array([0.1, 0.1, 0.6, 0.6]), bins=2)
    assert error == pytest.approx(1 / 4)


def test_ranks_count_ties_against_the_target_and_leave_the_ineligible_out() -> None:
    scores = np.array([[3.0, 2.0, 2.0, 9.0], [1.0, 2.0, 3.0, 0.0]])
    eligible = np.array([[True, True, True, False], [True, True, True, True]])
    ranks = metrics.full_ranks(scores, np.array([1, 2]), eligible)
    assert ranks.tolist() == [2, 0]
    assert metrics.recall_at(ranks, 2) == 1 / 2


def test_interval_covers_a_known_mean_at_about_its_rate() -> None:
    rng, covered = np.random.default_rng(3), 0
    for seed in range(60):
        groups = np.repeat(np.arange(80), 3).astype(str)
        values = np.repeat(rng.normal(1.0, 1.0, 80), 3)  # wholly dependent within a group
        estimate = metrics.bootstrap(metrics.weighted_mean(values), groups, seed)
        covered += estimate.low <= 1.0 <= estimate.high
    assert covered >= 50, "ignoring the groups would cover about 40 of 60"


def test_reliability_by_hand() -> None:
    labels, told = np.array([1, 0, 0, 1, 1], bool), np.array([0.6, 0.1, 0.3, 0.8, 0.7])
    # Five rows in two bins: the lower three, then the upper two.
    assert metrics.reliability(labels, told, bins=2) == [pytest.approx([1 / 3, 1 / 3, 3]), pytest.approx([0.75, 1, 2])]
    assert metrics.calibration_error(labels, told, bins=2) == pytest.approx((0 * 3 + 0.25 * 2) / 5)


def test_fewer_rows_than_bins_are_a_bin_each() -> None:
    assert metrics.reliability(np.array([True]), np.array([0.4]), bins=10) == [[0.4, 1.0, 1]]
