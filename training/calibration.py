"""Calibration: probabilities that mean what they say, in the order that the trees gave. NumPy and JSON only.

Every kind rises strictly, so a calibrated list ranks as the raw one does and has no ties that it had not: Platt and
beta calibration by their slopes, isotonic because it is drawn as a line through its steps and goes on beyond them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from training.metrics import log_loss

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Kind = Literal["platt", "beta", "isotonic"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
LEAST_SLOPE: Final = 1e-3
MOST_STEPS: Final = 1_000
"""Equally filled groups of rows that isotonic regression starts from when there are more distinct probabilities."""


@dataclass(frozen=True, slots=True)
class Platt:
    """Scaling of the log-odds: p = sigmoid(slope × logit + intercept). Platt (1999)."""

    slope: float
    intercept: float
    kind: ClassVar[Kind] = "platt"

    def apply(self, probabilities: NDArray[np.floating]) -> Floats:
        """Calibrated probabilities, same shape; the order of any two is kept."""
        return _sigmoid(self.slope * _logit(probabilities) + self.intercept)


@dataclass(frozen=True, slots=True)
class Beta:
    """p = sigmoid(a × ln s − b × ln(1 − s) + intercept), a and b never below 0. Kull, Silva Filho and Flach (2017).

    Platt's where a = b; where they differ, low and high probabilities are bent by different amounts.
    """

    a: float
    b: float
    intercept: float
    kind: ClassVar[Kind] = "beta"

    def apply(self, probabilities: NDArray[np.floating]) -> Floats:
        """Calibrated probabilities, same shape; the order of any two is kept."""
        raw = _clipped(probabilities)
        return _sigmoid(self.a * np.log(raw) - self.b * np.log1p(-raw) + self.intercept)


@dataclass(frozen=True, slots=True)
class Isotonic:
    """Lines, in log-odds, between the centres of isotonic regression's steps; outside of them Platt's slope.

    Steps themselves would tie all rows on one of them, and a slate drawn from ties is drawn by row number.

    Attributes:
        raw, calibrated: log-odds at the centre of each step, both strictly rising.
        slope: calibrated log-odds for one of raw, outside of all centres.
    """

    raw: tuple[float, ...]
    calibrated: tuple[float, ...]
    slope: float
    kind: ClassVar[Kind] = "isotonic"

    def apply(self, probabilities: NDArray[np.floating]) -> Floats:
        """Calibrated probabilities, same shape; the order of any two is kept."""
        logit = _logit(probabilities)
        beyond = np.minimum(logit - self.raw[0], 0.0) + np.maximum(logit - self.raw[-1], 0.0)
        return _sigmoid(np.interp(logit, self.raw, self.calibrated) + self.slope * beyond)


Calibration = Platt | Beta | Isotonic


def to_json(calibration: Calibration) -> dict[str, Any]:
    """Its kind and parameters as JSON-ready values."""
    return {"kind": calibration.kind, **asdict(calibration)}


def from_json(values: Mapping[str, Any]) -> Calibration:
    """The inverse of ``to_json``; a file without a kind is of a version that knew Platt's only."""
    kinds: dict[str, type[Calibration]] = {"platt": Platt, "beta": Beta, "isotonic": Isotonic}
    parameters: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if name != "kind"
    }
    return kinds[values.get("kind", "platt")](**parameters)


def fit_calibration(
    probabilities: NDArray[np.floating], clicked: NDArray[np.bool_], kind: Kind = "platt"
) -> Calibration:
    """Fit one kind on predictions for rows that their model had not seen.

    Targets are smoothed as in Platt (1999), which keeps every kind finite when one class is rare or absent.

    Args:
        probabilities: [n] raw predictions. clicked: [n] what came of them.
    """
    positives = int(clicked.sum())
    high, low = (positives + 1) / (positives + 2), 1 / (len(clicked) - positives + 2)
    targets = np.where(clicked, high, low)
    if kind == "beta":
        return _beta(_clipped(probabilities), targets)
    logit = _logit(probabilities)
    platt = _platt(logit, targets)
    return _isotonic(logit, targets, platt.slope) if kind == "isotonic" else platt


def choose_kind(
    probabilities: NDArray[np.floating], clicked: NDArray[np.bool_], fold: Ints
) -> tuple[Kind, dict[Kind, float]]:
    """The kind of lowest log loss on folds that it was not fitted on, and every kind's loss; the simplest on a tie.

    Args:
        fold: [n] number of each row's fold. All rows of one visitor belong into one, as they resemble each other.
    """
    losses: dict[Kind, float] = {}
    for kind in KINDS:
        told = np.empty(len(clicked))
        for place in np.unique(fold):
            fitted = fit_calibration(probabilities[fold != place], clicked[fold != place], kind)
            told[fold == place] = fitted.apply(probabilities[fold == place])
        losses[kind] = log_loss(clicked, told)
    return min(losses, key=lambda kind: losses[kind]), losses


def _platt(logit: Floats, targets: Floats) -> Platt:
    slope, intercept = _logistic(logit[:, None], targets)
    if slope < LEAST_SLOPE:  # the data want the reverse of the trees' order; they get nearly none
        slope, intercept = LEAST_SLOPE, _logit(targets.mean()) - LEAST_SLOPE * logit.mean()
    return Platt(float(slope), float(intercept))


def _beta(raw: Floats, targets: Floats) -> Beta:
    """As in the paper: a slope that comes out negative is set to 0, and the other fitted alone."""
    inputs = np.stack([np.log(raw), -np.log1p(-raw)], axis=1)
    a, b, intercept = _logistic(inputs, targets)
    if a < 0:
        a, (b, intercept) = 0.0, _logistic(inputs[:, 1:], targets)
    elif b < 0:
        b, (a, intercept) = 0.0, _logistic(inputs[:, :1], targets)
    if max(a, b) < LEAST_SLOPE:
        platt = _platt(inputs.sum(axis=1), targets)
        return Beta(platt.slope, platt.slope, platt.intercept)
    return Beta(float(a), float(b), float(intercept))


def _isotonic(logit: Floats, targets: Floats, slope: float) -> Isotonic:
    """Pool adjacent violators (Ayer et al. 1955) over distinct log-odds, equally filled groups of them when many."""
    values, group = np.unique(logit, return_inverse=True)
    if len(values) > MOST_STEPS:
        rank = np.argsort(np.argsort(logit, kind="stable"), kind="stable")
        # By rank, but rows of one value stay together: they belong to the group of the first of them.
        first = np.full(len(values), len(logit))
        np.minimum.at(first, group, rank)
        group = np.unique(first[group] * MOST_STEPS // len(logit), return_inverse=True)[1]
    weights = np.bincount(group).astype(np.float64)
    blocks: list[tuple[float, float, float]] = []  # rows, sum of log-odds, sum of targets
    for block in zip(weights, np.bincount(group, logit), np.bincount(group, targets), strict=True):
        blocks.append(block)
        # Means that differ by no more than sums are rounded are one step.
        while len(blocks) > 1 and blocks[-2][2] * blocks[-1][0] >= blocks[-1][2] * blocks[-2][0] * (1 - 1e-9):
            above = blocks.pop()
            rows, raw, taken = blocks.pop()
            blocks.append((rows + above[0], raw + above[1], taken + above[2]))
    rows, raw, taken = np.array(blocks).T
    return Isotonic(tuple((raw / rows).tolist()), tuple(_logit(taken / rows).tolist()), slope)


def calibration_slope(probabilities: NDArray[np.floating], clicked: NDArray[np.bool_]) -> Callable[[Floats], float]:
    """Slope of the clicks' log-odds on the predicted ones, as a function of row weights [n]; 1 is right (Cox 1958).

    Below 1 the probabilities lie too far apart, above 1 too close together, whatever their mean.
    """
    logit, targets = _logit(probabilities), clicked.astype(np.float64)
    # Newton's bounded steps need a scale: probabilities that hardly differ have a slope of ten or more.
    spread = max(float(logit.std()), 1e-9)
    inputs = ((logit - logit.mean()) / spread)[:, None]
    return lambda weights: float(_logistic(inputs, targets, weights)[0]) / spread


def _logistic(inputs: Floats, targets: Floats, rows: Floats | None = None) -> Floats:
    """Weights of a logistic regression by Newton's method, the intercept last; its steps are bounded."""
    counted = np.ones(len(targets)) if rows is None else rows
    inputs = np.column_stack([inputs, np.ones(len(inputs))])
    weights = np.array([1.0] * (inputs.shape[1] - 1) + [0.0])
    for _ in range(100):
        p = _sigmoid(inputs @ weights)
        hessian = (inputs * (counted * p * (1 - p))[:, None]).T @ inputs + 1e-6 * np.eye(len(weights))
        step = np.linalg.solve(hessian, inputs.T @ (counted * (targets - p)))
        weights = weights + np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-10:
            break
    return weights


def _clipped(probabilities: Any) -> Floats:
    # Two ufuncs take a third of the time of np.clip for the rows of one page view.
    clipped: Floats = np.minimum(np.maximum(np.asarray(probabilities, dtype=np.float64), 1e-9), 1 - 1e-9)
    return clipped


def _logit(probabilities: Any) -> Floats:
    raw = _clipped(probabilities)
    logit: Floats = np.log(raw) - np.log1p(-raw)
    return logit


def _sigmoid(logit: Floats) -> Floats:
    """Never 0 or 1: log-odds end at 30, beyond which no click log tells one probability from another."""
    p: Floats = 1.0 / (1.0 + np.exp(-np.minimum(np.maximum(logit, -30.0), 30.0)))
    return p
