"""The ranker: XGBoost click probability, calibrated on visitors that the trees had not seen."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from marquee import contract
from marquee.errors import BundleError

if TYPE_CHECKING:  # serving loads rankers, and needs no warehouse for it
    from training.dataset import Dataset

Floats = NDArray[np.float64]
FOLDS = 5


@dataclass(frozen=True, slots=True)
class RankerSettings:
    """Plain values; defaults are modest because click logs are noisy."""

    max_depth: int = 3
    learning_rate: float = 0.05
    min_child_weight: float = 20.0
    reg_lambda: float = 2.0
    subsample: float = 0.8
    colsample_bytree: float = 0.7
    rounds: int = 500
    patience: int = 40
    seed: int = 7


@dataclass(frozen=True, slots=True)
class Calibration:
    """Platt scaling of the log-odds: p = sigmoid(slope × logit + intercept)."""

    slope: float
    intercept: float

    def apply(self, probabilities: NDArray[np.floating]) -> Floats:
        """Calibrated probabilities, same shape; the order of any two is kept."""
        raw = np.clip(probabilities.astype(np.float64), 1e-9, 1 - 1e-9)
        logit = np.log(raw) - np.log1p(-raw)
        calibrated: Floats = 1.0 / (1.0 + np.exp(-(self.slope * logit + self.intercept)))
        return calibrated


class Ranker:
    """Trees and calibration that predict as one."""

    def __init__(self, booster: xgb.Booster, calibration: Calibration) -> None:
        self.booster = booster
        self.calibration = calibration

    def predict(self, matrix: NDArray[np.float32]) -> Floats:
        """Calibrated click probability of each row of the feature matrix; [n]."""
        return self.calibration.apply(self.booster.inplace_predict(matrix, validate_features=False))

    def contributions(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """Share of each feature in each row's log-odds (SHAP, exact for trees); [n, features + bias]."""
        shares: NDArray[np.float32] = self.booster.predict(
            xgb.DMatrix(matrix, feature_names=list(contract.RANKER_FEATURES)), pred_contribs=True
        )
        return shares

    def save(self, folder: Path) -> None:
        """Write ``ranker.ubj`` and ``calibration.json``."""
        self.booster.save_model(folder / "ranker.ubj")
        values = {"slope": self.calibration.slope, "intercept": self.calibration.intercept}
        (folder / "calibration.json").write_text(json.dumps(values, sort_keys=True), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Ranker:
        """Read what ``save`` wrote, to predict on one thread.

        Raises:
            BundleError: the trees were fitted on other features, or the same in another order.
        """
        booster = xgb.Booster()
        booster.load_model(folder / "ranker.ubj")
        if tuple(booster.feature_names or ()) != contract.RANKER_FEATURES:
            raise BundleError(f"{folder}: the ranker was fitted on other features than this version serves")
        booster.set_param({"nthread": 1})
        values = json.loads((folder / "calibration.json").read_text(encoding="utf-8"))
        return cls(booster, Calibration(**values))


def fit_ranker(data: Dataset, settings: RankerSettings) -> Ranker:
    """Choose the number of trees on the validation part, then fit and calibrate on it and the training part.

    The calibration is fitted on predictions for visitors that the trees predicting them had not seen. The test part
    is never touched.
    """
    split = data.split
    rounds = int(_train(data, split.train, settings, settings.rounds, split.validation).best_iteration) + 1
    fit = np.concatenate([split.train, split.validation])
    visitors = data.frame["visitor_id"].to_numpy(str)[fit]
    _, visitor = np.unique(visitors, return_inverse=True)
    fold = np.random.default_rng(settings.seed).integers(FOLDS, size=visitor.max() + 1)[visitor]
    unseen = np.zeros(len(fit))
    for place in np.unique(fold):
        booster = _train(data, fit[fold != place], settings, rounds)
        unseen[fold == place] = booster.predict(_dmatrix(data, fit[fold == place]))
    return Ranker(_train(data, fit, settings, rounds), fit_calibration(unseen, data.clicked[fit]))


def fit_calibration(probabilities: NDArray[np.floating], clicked: NDArray[np.bool_]) -> Calibration:
    """Platt scaling by Newton's method; slope is kept above zero so that calibration never reorders.

    Targets are smoothed as in Platt (1999), which keeps it finite when one class is rare or absent.
    """
    raw = np.clip(probabilities.astype(np.float64), 1e-9, 1 - 1e-9)
    inputs = np.stack([np.log(raw) - np.log1p(-raw), np.ones(len(raw))], axis=1)
    positives = int(clicked.sum())
    high, low = (positives + 1) / (positives + 2), 1 / (len(raw) - positives + 2)
    targets = np.where(clicked, high, low)
    weights = np.array([1.0, 0.0])
    for _ in range(50):
        p = 1 / (1 + np.exp(-inputs @ weights))
        hessian = (inputs * (p * (1 - p))[:, None]).T @ inputs + 1e-6 * np.eye(2)
        step = np.linalg.solve(hessian, inputs.T @ (targets - p))
        weights = weights + np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-10:
            break
    return Calibration(slope=max(float(weights[0]), 1e-3), intercept=float(weights[1]))


def _dmatrix(data: Dataset, rows: NDArray[np.int64]) -> xgb.DMatrix:
    return xgb.DMatrix(data.matrix[rows], label=data.clicked[rows], feature_names=list(contract.RANKER_FEATURES))


def _train(
    data: Dataset,
    rows: NDArray[np.int64],
    settings: RankerSettings,
    rounds: int,
    stop_on: NDArray[np.int64] | None = None,
) -> xgb.Booster:
    parameters = {
        "objective": "binary:logistic",
        "tree_method": "hist",
        "max_depth": settings.max_depth,
        "eta": settings.learning_rate,
        "min_child_weight": settings.min_child_weight,
        "lambda": settings.reg_lambda,
        "subsample": settings.subsample,
        "colsample_bytree": settings.colsample_bytree,
        "eval_metric": "logloss",
        "seed": settings.seed,
        # One thread count on every machine: sums in another order would give other trees, and another bundle hash.
        "nthread": 2,
    }
    if stop_on is None:
        return xgb.train(parameters, _dmatrix(data, rows), rounds)
    evaluation = [(_dmatrix(data, stop_on), "validation")]
    return xgb.train(
        parameters,
        _dmatrix(data, rows),
        rounds,
        evals=evaluation,
        early_stopping_rounds=settings.patience,
        verbose_eval=False,
    )
