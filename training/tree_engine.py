"""The ranker's trees evaluated fast: oneDAL where it is installed, else XGBoost itself; equal to 1e-6.

For the few rows of one page view oneDAL takes a half to a sixth of XGBoost's time (docs/performance.md).
"""

from __future__ import annotations

import logging
from typing import Any, Final

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

LOG: Final = logging.getLogger("bentoml.marquee")


class TreeEngine:
    """Evaluates one booster of binary log-odds, on one thread.

    Attributes:
        name: "oneDAL" or "XGBoost"; a decision is repeated bit for bit only by the engine that made it.
    """

    def __init__(self, booster: xgb.Booster) -> None:
        self._booster = booster
        self._model = _converted(booster)
        self.name: Final = "oneDAL" if self._model is not None else "XGBoost"

    def probabilities(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """[n] probability of each row of the feature matrix [n, F]; NaN is a missing value."""
        if self._model is None:
            found: NDArray[np.float32] = self._booster.inplace_predict(matrix, validate_features=False)
            return found
        told: NDArray[np.float32] = self._model.predict_proba(matrix)[:, 1]
        return told


def _converted(booster: xgb.Booster) -> Any | None:
    """The trees in oneDAL's form; None where it is not installed or does not know this kind of trees."""
    try:
        import daal4py
    except ImportError:
        return None
    try:
        daal4py.daalinit(1)
        return daal4py.mb.convert_model(booster)
    except (TypeError, ValueError, RuntimeError, KeyError) as error:
        LOG.warning("oneDAL does not take these trees, XGBoost evaluates them: %s", error)
        return None
