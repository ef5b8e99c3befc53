"""The ranker: XGBoost click probability, calibrated on visitors that the trees had not seen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from marquee import contract
from marquee.errors import BundleError
from training import calibration
from training.tree_engine import TreeEngine

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
    monotone: Mapping[str, int] = field(default_factory=dict)
    """1 for a feature with which the probability may never fall, -1 where it may never rise."""
    engine: Literal["local", "spark"] = "local"
    workers: int = 2
    """Spark tasks that share the rows."""


class Ranker:
    """Trees and calibration that predict as one."""

    def __init__(self, booster: xgb.Booster, fitted: calibration.Calibration) -> None:
        self.booster = booster
        self.calibration = fitted
        self._engine: TreeEngine | None = None

    @property
    def engine(self) -> TreeEngine:
        """What evaluates the trees; made when first asked for."""
        if self._engine is None:
            self._engine = TreeEngine(self.booster)
        return self._engine

    def predict(self, matrix: NDArray[np.float32]) -> Floats:
        """Calibrated click probability of each row of the feature matrix; [n]."""
        return self.calibration.apply(self.engine.probabilities(matrix))

    def contributions(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """Share of each feature in each row's log-odds (SHAP, exact for trees); [n, features + bias]."""
        shares: NDArray[np.float32] = self.booster.predict(
            xgb.DMatrix(matrix, feature_names=list(contract.RANKER_FEATURES)), pred_contribs=True
        )
        return shares

    def save(self, folder: Path) -> None:
        """Write ``ranker.ubj`` and ``calibration.json``."""
        self.booster.save_model(folder / "ranker.ubj")
        (folder / "calibration.json").write_text(
            json.dumps(calibration.to_json(self.calibration), sort_keys=True), encoding="utf-8"
        )

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
        return cls(booster, calibration.from_json(values))


def fit_ranker(data: Dataset, settings: RankerSettings) -> Ranker:
    """Choose the number of trees on the validation part, then fit and calibrate on it and the training part.

    The calibration is fitted on predictions for visitors that the trees predicting them had not seen; of which kind it
    is, what each kind says of visitors it was not fitted on decides. The test part is never touched.
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
    kind, _ = calibration.choose_kind(unseen, data.clicked[fit], fold)
    fitted = calibration.fit_calibration(unseen, data.clicked[fit], kind)
    return Ranker(_train(data, fit, settings, rounds), fitted)


def _dmatrix(data: Dataset, rows: NDArray[np.int64]) -> xgb.DMatrix:
    return xgb.DMatrix(data.matrix[rows], label=data.clicked[rows], feature_names=list(contract.RANKER_FEATURES))


def tree_parameters(settings: RankerSettings) -> dict[str, Any]:
    """XGBoost's parameters, the same wherever the trees are fitted."""
    signs = (settings.monotone.get(name, 0) for name in contract.RANKER_FEATURES)
    return {
        "objective": "binary:logistic",
        "tree_method": "hist",
        "max_depth": settings.max_depth,
        "learning_rate": settings.learning_rate,
        "min_child_weight": settings.min_child_weight,
        "reg_lambda": settings.reg_lambda,
        "subsample": settings.subsample,
        "colsample_bytree": settings.colsample_bytree,
        "monotone_constraints": f"({','.join(map(str, signs))})",
        "eval_metric": "logloss",
        "seed": settings.seed,
        # One thread count on every machine: sums in another order would give other trees, and another bundle hash.
        "nthread": 2,
    }


def _train(
    data: Dataset,
    rows: NDArray[np.int64],
    settings: RankerSettings,
    rounds: int,
    stop_on: NDArray[np.int64] | None = None,
) -> xgb.Booster:
    if settings.engine == "spark":
        return _train_on_spark(data, rows, settings, rounds, stop_on)
    parameters = tree_parameters(settings)
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


def _train_on_spark(
    data: Dataset,
    rows: NDArray[np.int64],
    settings: RankerSettings,
    rounds: int,
    stop_on: NDArray[np.int64] | None = None,
) -> xgb.Booster:
    from training.spark_ranker import train_on_spark

    parameters, workers = tree_parameters(settings), settings.workers
    if stop_on is None:
        return train_on_spark(data.matrix[rows], data.clicked[rows], parameters, rounds, workers)
    both = np.concatenate([rows, stop_on])
    stops = np.arange(len(both)) >= len(rows)
    return train_on_spark(
        data.matrix[both], data.clicked[both], parameters, rounds, workers, stops, patience=settings.patience
    )
