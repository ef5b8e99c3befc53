"""How likely a notification is clicked, by type, device, local time and what the visitor did with those before.

XGBoost's trees, boosted or a random forest, then calibration on folds of visitors that the trees had not seen. State is
XGBoost's own UBJ and JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from marquee.contract import DEVICES
from marquee.errors import BundleError
from training import calibration
from training.metrics import auc, log_loss

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Matrix = NDArray[np.float32]
INPUTS: Final = ("type", "device", "hour", "weekday", "habit", "click_rate", "days_since", "streak")
"""Columns of the inputs, in order; the first two are categories."""
_KINDS: Final = ["c", "c", *(["q"] * (len(INPUTS) - 2))]
FOLDS: Final = 3
LEAST_ROWS, LEAST_CLICKS = 500, 30
"""Below either there is no model: trees would tell chance from chance."""
PRIOR_SENDS: Final = 10.0
"""Notifications that the overall click rate counts for in a visitor's own."""
LONGEST_DAYS: Final = 60.0
_ROWS: Final = 500_000
"""Rows predicted at once; 16 MB of inputs."""


@dataclass(frozen=True, slots=True)
class ClickModelSettings:
    """Plain values; ``forest`` grows all trees at once on samples of rows and columns (Breiman 2001)."""

    kind: Literal["boosted", "forest"] = "boosted"
    trees: int = 50
    max_depth: int = 4
    learning_rate: float = 0.15
    min_child_weight: float = 20.0
    seed: int = 7


@dataclass(frozen=True, eq=False, slots=True)
class ClickModel:
    """Trees and their calibration.

    Attributes:
        types: names in the order of the input's codes.
        quality: of predictions for visitors that the trees had not seen: rows, clicks, auc, log_loss and that of the
            mean rate, base_log_loss.
    """

    booster: xgb.Booster
    calibration: calibration.Calibration
    types: tuple[str, ...]
    quality: dict[str, float]

    def predict(self, inputs: Matrix) -> Floats:
        """[n] calibrated probabilities for the columns of ``INPUTS``."""
        parts = [inputs[start : start + _ROWS] for start in range(0, len(inputs), _ROWS)]
        raw = [self.booster.predict(_matrix(part)) for part in parts]
        return self.calibration.apply(np.concatenate(raw)) if raw else np.zeros(0)

    def save(self, folder: Path) -> None:
        """Write ``clicks.ubj`` and ``clicks.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        self.booster.save_model(folder / "clicks.ubj")
        told = {"calibration": calibration.to_json(self.calibration), "types": self.types, "quality": self.quality}
        (folder / "clicks.json").write_text(json.dumps(told), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> ClickModel:
        """The inverse of ``save``.

        Raises:
            BundleError: a file is missing or damaged.
        """
        try:
            told = json.loads((folder / "clicks.json").read_text(encoding="utf-8"))
            booster = xgb.Booster()
            booster.load_model(folder / "clicks.ubj")
            fitted = calibration.from_json(told["calibration"])
            return cls(booster, fitted, tuple(told["types"]), told["quality"])
        except (OSError, ValueError, KeyError, TypeError, xgb.core.XGBoostError) as error:
            raise BundleError(f"the click model in {folder} cannot be read: {error}; fit it again") from error


def fit_click_model(
    inputs: Matrix, clicked: Any, visitor: Ints, types: Sequence[str], settings: ClickModelSettings | None = None
) -> ClickModel | None:
    """Fit trees on all rows and their calibration on predictions across folds of visitors; None with too few rows.

    Args:
        inputs: [n, ``INPUTS``]. clicked: [n]. visitor: [n] whose row it is.
        types: names of the types, by code.
    """
    chosen, labels = settings or ClickModelSettings(), np.asarray(clicked, dtype=np.bool_)
    if len(labels) < LEAST_ROWS or labels.sum() < LEAST_CLICKS or labels.all():
        return None
    fold = np.random.default_rng(chosen.seed).permutation(int(visitor.max()) + 1)[visitor] % FOLDS
    told = np.empty(len(labels))
    for place in range(FOLDS):
        booster = _train(inputs[fold != place], labels[fold != place], chosen)
        told[fold == place] = booster.predict(_matrix(inputs[fold == place]))
    kind, losses = calibration.choose_kind(told, labels, fold.astype(np.int64))
    fitted = calibration.fit_calibration(told, labels, kind)
    base = np.full(len(labels), labels.mean())
    quality = {
        "rows": float(len(labels)),
        "clicks": float(labels.sum()),
        "auc": auc(labels, told),
        "log_loss": losses[kind],
        "base_log_loss": log_loss(labels, base),
    }
    return ClickModel(_train(inputs, labels, chosen), fitted, tuple(types), quality)


def click_inputs(columns: dict[str, Any], size: int) -> Matrix:
    """[n, ``INPUTS``] from columns by name that broadcast to ``size`` rows."""
    matrix = np.empty((size, len(INPUTS)), dtype=np.float32)
    for place, name in enumerate(INPUTS):
        matrix[:, place] = columns[name]
    return matrix


def device_codes(devices: Any) -> Ints:
    """[n] place in ``DEVICES``; other names are the last, unknown."""
    names, code = np.unique(np.asarray(devices, dtype=str), return_inverse=True)
    places = {name: place for place, name in enumerate(DEVICES)}
    return np.array([places.get(str(name), len(DEVICES) - 1) for name in names], dtype=np.int64)[code.ravel()]


def click_rates(clicks: Any, sends: Any, overall: float) -> Floats:
    """Click rate of visitors with so many clicks of so many, held to the overall one while they are few."""
    return np.asarray((clicks + PRIOR_SENDS * overall) / (sends + PRIOR_SENDS), dtype=np.float64)


def _train(inputs: Matrix, clicked: NDArray[np.bool_], settings: ClickModelSettings) -> xgb.Booster:
    parameters: dict[str, Any] = {
        "objective": "binary:logistic",
        "tree_method": "hist",
        "max_depth": settings.max_depth,
        "min_child_weight": settings.min_child_weight,
        "base_score": float(np.clip(clicked.mean(), 1e-6, 1 - 1e-6)),
        "seed": settings.seed,
        "nthread": 1,
    }
    if settings.kind == "forest":
        parameters |= {
            "learning_rate": 1.0,
            "num_parallel_tree": settings.trees,
            "subsample": 0.63,
            "colsample_bynode": 0.5,
        }
        return xgb.train(parameters, _matrix(inputs, clicked), 1)
    parameters |= {"learning_rate": settings.learning_rate, "subsample": 0.8, "colsample_bynode": 0.8}
    return xgb.train(parameters, _matrix(inputs, clicked), settings.trees)


def _matrix(inputs: Matrix, clicked: NDArray[np.bool_] | None = None) -> xgb.DMatrix:
    return xgb.DMatrix(
        inputs, clicked, feature_names=list(INPUTS), feature_types=_KINDS, enable_categorical=True, nthread=1
    )
