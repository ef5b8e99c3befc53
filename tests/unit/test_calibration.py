"""Calibration: probabilities that mean what they say, in the order that the trees gave."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from training.calibration import (
    KINDS,
    Beta,
    Calibration,
    Isotonic,
    Kind,
    Platt,
    calibration_slope,
    choose_kind,
    fit_calibration,
    from_json,
    to_json,
)

Floats = NDArray[np.float64]


def logit(p: Floats) -> Floats:
    return np.asarray(np.log(p) - np.log1p(-p))


def sigmoid(value: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-value)))


def drawn(seed: int, rows: int = 60_000) -> tuple[Floats, NDArray[np.bool_]]:
    """True probabilities around 12 %, and clicks drawn from them."""
    rng = np.random.default_rng(seed)
    chance = sigmoid(rng.normal(-2, 1, rows))
    return chance, rng.random(rows) < chance


def test_platt_repairs_a_known_distortion() -> None:
    chance, clicked = drawn(2)
    told = sigmoid(2 * logit(chance) + 1)  # overconfident and shifted
    fitted = fit_calibration(told, clicked)
    assert isinstance(fitted, Platt)
    assert fitted.slope == pytest.approx(0.5, abs=0.03)
    assert fitted.intercept == pytest.approx(-0.5, abs=0.06)
    assert fitted.apply(told).mean() == pytest.approx(clicked.mean(), rel=0.02)


def test_beta_finds_the_curve_that_it_describes() -> None:
    """p = sigmoid(0.7 ln s − 2 ln(1 − s) − 1): which no scaling of the log-odds is."""
    rng = np.random.default_rng(3)
    told = rng.uniform(0.02, 0.98, 60_000)
    clicked = rng.random(len(told)) < sigmoid(0.7 * np.log(told) - 2 * np.log1p(-told) - 1)
    fitted = fit_calibration(told, clicked, "beta")
    assert isinstance(fitted, Beta)
    assert (fitted.a, fitted.b, fitted.intercept) == pytest.approx((0.7, 2.0, -1.0), abs=0.1)


@pytest.mark.parametrize(
    ("calibration", "raw", "expected"),
    [
        (Platt(1.0, 0.0), 0.25, 0.25),
        (Platt(2.0, 0.0), 0.25, 1 / 10),  # odds 1:3, squared 1:9
        (Beta(1.0, 1.0, 0.0), 0.25, 0.25),
        (Beta(2.0, 0.0, 0.0), 0.5, 1 / 5),  # odds 0.5² = 1:4
        (Beta(0.0, 1.0, 0.0), 0.5, 2 / 3),  # odds 1 / 0.5
        (Isotonic((0.0,), (float(np.log(3)),), 1.0), 0.5, 0.75),
        (Isotonic((0.0,), (float(np.log(3)),), 1.0), 0.25, 0.5),  # beyond the only step: odds 1:3 times 3
        (Isotonic((0.0, 2.0), (0.0, 1.0), 1.0), float(sigmoid(np.array(1.0))), float(sigmoid(np.array(0.5)))),
    ],
)
def test_by_hand(calibration: Calibration, raw: float, expected: float) -> None:
    assert calibration.apply(np.array([raw])) == pytest.approx([expected])
    assert from_json(json.loads(json.dumps(to_json(calibration)))) == calibration


def test_isotonic_pools_what_falls_by_hand() -> None:
    """Clicks 0 1 0 1 of rows in order: the middle two are one step. Smoothed targets are 1/4 and 3/4."""
    raw = np.array([0.1, 0.2, 0.4, 0.9])
    fitted = fit_calibration(raw, np.array([0, 1, 0, 1], bool), "isotonic")
    assert isinstance(fitted, Isotonic)
    assert fitted.raw == pytest.approx([logit(raw)[0], logit(raw)[1:3].mean(), logit(raw)[3]])
    assert fitted.calibrated == pytest.approx([-np.log(3), 0.0, np.log(3)])


def test_isotonic_steps_are_those_of_scikit_learn() -> None:
    from sklearn.isotonic import IsotonicRegression

    rng = np.random.default_rng(5)
    raw = rng.integers(1, 200, 5_000) / 400
    clicked = rng.random(len(raw)) < raw
    high, low = (clicked.sum() + 1) / (clicked.sum() + 2), 1 / ((~clicked).sum() + 2)
    fitted = fit_calibration(raw, clicked, "isotonic")
    assert isinstance(fitted, Isotonic)
    reference = IsotonicRegression().fit(logit(raw), np.where(clicked, high, low))
    steps = np.unique(reference.predict(logit(np.unique(raw))).round(9))
    assert steps == pytest.approx(sigmoid(np.array(fitted.calibrated)), abs=1e-8)
    assert 5 < len(fitted.raw) < 100


def test_isotonic_of_more_rows_than_steps_is_still_right() -> None:
    chance, clicked = drawn(7)
    fitted = fit_calibration(chance**2, clicked, "isotonic")
    assert np.abs(fitted.apply(chance**2) - chance).mean() < 0.1 * chance.mean()


@pytest.mark.parametrize("kind", KINDS)
@given(st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0, 0.5])), min_size=1, max_size=20), st.integers(0))
def test_never_reorders_and_stays_between_0_and_1(kind: Kind, scores: list[float], labels: int) -> None:
    """Both classes, one class only, and probabilities of 0 and 1 among them."""
    raw = np.array(scores)
    clicked = np.array([bool(labels >> place & 1) for place in range(len(raw))])
    fitted = fit_calibration(raw, clicked, kind)
    calibrated = fitted.apply(raw)
    assert np.all((calibrated > 0) & (calibrated < 1))
    assert np.all(np.diff(fitted.apply(np.sort(raw))) >= 0)
    assert from_json(json.loads(json.dumps(to_json(fitted), allow_nan=False))) == fitted


@pytest.mark.parametrize("kind", KINDS)
def test_makes_no_ties(kind: Kind) -> None:
    chance, clicked = drawn(11, 4_000)
    told = fit_calibration(chance, clicked, kind).apply(np.linspace(1e-4, 1 - 1e-4, 20_000))
    assert np.all(np.diff(told) > 0)


@pytest.mark.parametrize("kind", KINDS)
def test_reversed_scores_are_flattened_not_reversed(kind: Kind) -> None:
    chance, clicked = drawn(13, 5_000)
    told = fit_calibration(1 - chance, clicked, kind).apply(np.array([0.7, 0.8, 0.9]))
    assert np.all(np.diff(told) >= 0)
    assert np.all(np.abs(told - clicked.mean()) < 0.05)


def test_a_file_from_before_there_were_kinds_is_platts() -> None:
    assert from_json({"slope": 0.9, "intercept": -0.1}) == Platt(0.9, -0.1)


def test_the_kind_is_that_of_the_distortion() -> None:
    chance, clicked = drawn(17, 40_000)
    fold = np.random.default_rng(0).integers(5, size=len(chance))
    stairs = np.where(chance > 0.15, 0.5 + chance / 2, chance / 20)  # a jump, which no smooth curve follows
    assert choose_kind(stairs, clicked, fold)[0] == "isotonic"
    kind, losses = choose_kind(sigmoid(2 * logit(chance) + 1), clicked, fold)
    assert kind in ("platt", "beta")
    assert set(losses) == set(KINDS)
    assert losses[kind] == min(losses.values())


@pytest.mark.parametrize("factor", [0.05, 0.2, 1.0, 4.0])
def test_slope_is_what_log_odds_were_divided_by(factor: float) -> None:
    rng = np.random.default_rng(3)
    logit = rng.normal(-2.5, 0.8, 40_000)
    clicked = rng.random(len(logit)) < 1 / (1 + np.exp(-logit))
    told = 1 / (1 + np.exp(-(factor * (logit + 2.5) - 2.5)))
    slope = calibration_slope(told, clicked)(np.ones(len(told)))
    assert slope == pytest.approx(1 / factor, rel=0.08)
