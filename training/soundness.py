"""Whether a bundle's figures can be believed: its report is its own, not too good to be true, and survives noise."""

from __future__ import annotations

from typing import Final

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from features.matrix import BANNER_COUNTS, COUNTS, RESPONSE_COUNTS
from marquee import contract
from training.bundle import Bundle
from training.check import Check
from training.dataset import Dataset
from training.metrics import auc

REPORT_SLACK: Final = 1e-3
"""AUC by which a bundle may differ from its own report: another machine's last digits."""
LEAK_MARGIN: Final = 0.05
"""AUC above a plain model of the same features that only knowledge of the future explains."""
ROBUST_MARGIN: Final = 0.03
"""AUC that noise of a tenth in every number may cost."""
NOISE: Final = 0.1
COUNTED: Final = tuple(
    place
    for place, name in enumerate(contract.RANKER_FEATURES)
    if name in (*COUNTS, *RESPONSE_COUNTS, *BANNER_COUNTS) or name.endswith(("_rate", "_match", "_cosine", "_price"))
)
"""Features that are measured; the others name a place or a time."""


def sound(data: Dataset, bundle: Bundle) -> list[Check]:
    """The rows of the gate that need the bundle and the later window."""
    rows = data.split.test
    matrix, clicked = data.matrix[rows], data.clicked[rows]
    measured = auc(clicked, bundle.ranker.predict(matrix))
    return [
        _own_report(bundle, measured),
        _leakage(data, measured),
        _robustness(bundle, matrix, clicked, measured, bundle.manifest["seed"]),
    ]


def _own_report(bundle: Bundle, measured: float) -> Check:
    gap = abs(measured - bundle.report["ranker"]["auc"]["value"])
    about = "AUC measured now against the bundle's report"
    return Check("own report", gap, REPORT_SLACK, gap <= REPORT_SLACK, about)


def _leakage(data: Dataset, measured: float) -> Check:
    """A model that saw the held-out window, or features that did, beats what those features can honestly tell."""
    fit = np.concatenate([data.split.train, data.split.validation])
    plain = {"objective": "binary:logistic", "max_depth": 3, "eta": 0.1, "min_child_weight": 20, "nthread": 2}
    booster = xgb.train(plain, xgb.DMatrix(data.matrix[fit], label=data.clicked[fit]), 60)
    honest = auc(data.clicked[data.split.test], booster.inplace_predict(data.matrix[data.split.test]))
    gain = measured - honest
    about = f"AUC above {honest:.3f}, what a plain model fitted on the earlier rows reaches on the later window"
    return Check("leakage", gain, LEAK_MARGIN, gain <= LEAK_MARGIN, about)


def _robustness(
    bundle: Bundle, matrix: NDArray[np.float32], clicked: NDArray[np.bool_], measured: float, seed: int
) -> Check:
    """Numbers that are a little off may not turn the order round; those that are missing may not break anything."""
    noisy, missing = matrix.copy(), matrix.copy()
    noise = np.random.default_rng(seed).normal(1.0, NOISE, (len(matrix), len(COUNTED)))
    noisy[:, COUNTED] *= noise.astype(matrix.dtype)
    missing[:, COUNTED] = np.nan
    told = bundle.ranker.predict(missing)
    if not (np.isfinite(told) & (told >= 0) & (told <= 1)).all():
        return Check("robustness", None, None, False, "without features it predicts what is no probability")
    loss = measured - auc(clicked, bundle.ranker.predict(noisy))
    about = f"AUC lost when every measured feature is off by a tenth; without any it predicts {told.mean():.3f}"
    return Check("robustness", loss, ROBUST_MARGIN, loss <= ROBUST_MARGIN, about)
