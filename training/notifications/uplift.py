"""Who does more when sent something than when not: two click models, one of each side, and their difference.

The T-learner of Künzel, Sekhon, Bickel and Yu, "Metalearners for estimating heterogeneous treatment effects", PNAS,
2019, with XGBoost's trees; the two-model approach of Radcliffe and Surry, 1999.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from training.notifications.evaluation import NONE

Floats = NDArray[np.float64]
_TREES: Final = 60
_PARAMETERS: Final[dict[str, Any]] = {
    "objective": "reg:squarederror",
    "tree_method": "hist",
    "max_depth": 3,
    "learning_rate": 0.1,
    "min_child_weight": 100,
    "subsample": 0.8,
    "nthread": 1,
}


class UpliftModel:
    """Expected outcome of each action by a visitor's features."""

    def __init__(self, boosters: list[xgb.Booster]) -> None:
        self._boosters = boosters

    def outcomes(self, features: Any) -> Floats:
        """[n, K] expected outcome of each action."""
        matrix = xgb.DMatrix(np.asarray(features, dtype=np.float32), nthread=1)
        return np.stack([np.asarray(one.predict(matrix), dtype=np.float64) for one in self._boosters], axis=1)

    def uplift(self, features: Any) -> Floats:
        """[n, K] expected outcome of each action less that of sending nothing; the first column is 0."""
        found = self.outcomes(features)
        return found - found[:, [NONE]]


def fit_uplift(features: Any, action: NDArray[np.int64], outcome: Floats, actions: int, seed: int = 0) -> UpliftModel:
    """A model for each of ``actions``, from the visitors [n] that got it; each action was drawn at random.

    Raises:
        ValueError: nobody got one of the actions.
    """
    table = np.asarray(features, dtype=np.float32)
    boosters = []
    for one in range(actions):
        rows = action == one
        if not rows.any():
            raise ValueError(f"nobody got action {one}, so nothing can be told of it")
        matrix = xgb.DMatrix(table[rows], outcome[rows], nthread=1)
        base = {"base_score": float(outcome[rows].mean()), "seed": seed}
        boosters.append(xgb.train(_PARAMETERS | base, matrix, _TREES))
    return UpliftModel(boosters)
