"""Calibration: probabilities that mean what they say, in the order that the trees gave."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.ranker import Calibration, fit_calibration
from training.towers import Towers, banner_inputs, visitor_inputs


def test_calibration_repairs_a_known_distortion() -> None:
    rng = np.random.default_rng(2)
    logit = rng.normal(-2, 1, 60_000)
    clicked = rng.random(len(logit)) < 1 / (1 + np.exp(-logit))
    told = 1 / (1 + np.exp(-(2 * logit + 1)))  # overconfident and shifted
    fitted = fit_calibration(told, clicked)
    assert fitted.slope == pytest.approx(0.5, abs=0.03)
    assert fitted.intercept == pytest.approx(-0.5, abs=0.06)
    assert fitted.apply(told).mean() == pytest.approx(clicked.mean(), rel=0.02)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.integers(0, 2**20 - 1))
def test_calibration_never_reorders_and_stays_a_probability(scores: list[float], labels: int) -> None:
    raw = np.array(scores)
    clicked = np.array([bool(labels >> place & 1) for place in range(len(raw))])
    calibrated = fit_calibration(raw, clicked).apply(raw)
    assert np.all((calibrated >= 0) & (calibrated <= 1))
    assert np.all(np.diff(calibrated[np.argsort(raw, kind="stable")]) >= -1e-12)


def test_identity() -> None:
    assert Calibration(1.0, 0.0).apply(np.array([0.25])) == pytest.approx([0.25])


def test_tower_forward_pass_by_hand() -> None:
    one = np.ones((1, 1), np.float32)
    towers = Towers(
        visitor_hidden=np.array([[1.0, -1.0], [1.0, -1.0]], np.float32),
        visitor_hidden_bias=np.zeros(2, np.float32),
        visitor_output=np.array([[3.0, 4.0], [1.0, 1.0]], np.float32),
        visitor_output_bias=np.zeros(2, np.float32),
        banner_embedding=np.array([[0.0], [2.0]], np.float32),
        banner_hidden=np.array([[1.0], [1.0]], np.float32),
        banner_hidden_bias=np.zeros(1, np.float32),
        banner_output=np.array([[0.0, 5.0]], np.float32),
        banner_output_bias=np.zeros(2, np.float32),
    )
    # hidden = relu([2, −2]) = [2, 0]; output = [6, 8]; length 10.
    assert towers.visitor_vectors(np.ones((1, 2), np.float32)) == pytest.approx(np.array([[0.6, 0.8]]))
    assert towers.banner_vectors(np.array([1]), one) == pytest.approx(np.array([[0.0, 1.0]]))
    # Nothing known of either: a zero vector, not a division by zero.
    assert towers.visitor_vectors(np.zeros((1, 2), np.float32)).tolist() == [[0.0, 0.0]]


def test_tower_inputs_take_missing_counts_for_none() -> None:
    shares = np.array([[0.5]], np.float32)
    assert visitor_inputs(shares, np.array([[np.nan, np.e - 1]])) == pytest.approx(np.array([[0.5, 0.0, 0.2]]))
    assert banner_inputs(shares, np.array([0.0]), np.array([np.e - 1])) == pytest.approx(np.array([[0.5, 0.0, 0.2]]))
