"""What a ranker is worth on a window later than all it was fitted on: beside baselines, and placement by placement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.matrix import Floats
from training import baselines, metrics
from training.dataset import Dataset
from training.metrics import bootstrap
from training.ranker import Ranker

Bools = NDArray[np.bool_]


def evaluate_ranker(data: Dataset, ranker: Ranker, seed: int) -> dict[str, Any]:
    """AUC with interval beside all baselines, log loss and calibration, on the test part."""
    test = data.split.test
    clicked = data.clicked[test]
    probabilities = ranker.predict(data.matrix[test])
    told = _baselines(data, seed)
    return {
        "rows": len(test),
        "clicks": int(clicked.sum()),
        **_discrimination(clicked, probabilities, told, data.frame["visitor_id"].to_numpy(str)[test], seed),
        "log_loss": metrics.log_loss(clicked, probabilities),
        "log_loss_popular": metrics.log_loss(clicked, told["popular"]),
        "calibration": ranker.calibration.kind,
        "calibration_error": metrics.calibration_error(clicked, probabilities),
        "mean_probability": float(probabilities.mean()),
        "click_rate": float(clicked.mean()),
        "reliability": metrics.reliability(clicked, probabilities),
        "ece_by_placement": by_placement(clicked, probabilities, data.frame["placement_id"].to_numpy(str)[test]),
    }


def by_placement(clicked: Bools, probabilities: Floats, placements: NDArray[np.str_]) -> dict[str, dict[str, Any]]:
    """Rows, clicks, expected calibration error and reliability of each placement, by its id."""
    found: dict[str, dict[str, Any]] = {}
    for name in np.unique(placements):
        own = placements == name
        found[str(name)] = {
            "rows": int(own.sum()),
            "clicks": int(clicked[own].sum()),
            "ece": metrics.calibration_error(clicked[own], probabilities[own]),
            "mean_probability": float(probabilities[own].mean()),
            "reliability": metrics.reliability(clicked[own], probabilities[own]),
        }
    return found


def _baselines(data: Dataset, seed: int) -> dict[str, Floats]:
    """Click probabilities of the test part by each baseline, fitted on what the ranker was."""
    test = data.split.test
    fit = np.concatenate([data.split.train, data.split.validation])
    return {
        "popular": baselines.popular(data, fit, test),
        "logistic": baselines.logistic(data, fit, test, seed),
        "forest": baselines.forest(data, fit, test, seed),
    }


def _discrimination(
    clicked: Bools, own: Floats, others: dict[str, Floats], visitors: NDArray[np.str_], seed: int
) -> dict[str, dict[str, float]]:
    """AUC of the ranker and of each baseline, and what the ranker gains over each.

    Gains are paired: both on the same resampled visitors, which takes out what they share.
    """
    found = {"auc": _auc(clicked, own, visitors, seed)}
    for name, scores in others.items():
        found[f"auc_{name}"] = _auc(clicked, scores, visitors, seed)
        # The one that the gate reads kept its name from before there were others.
        gain = "auc_gain" if name == "popular" else f"auc_gain_{name}"
        found[gain] = bootstrap(_gain(clicked, own, scores), visitors, seed).as_dict()
    return found


def _gain(clicked: Bools, own: Floats, other: Floats) -> Callable[[Floats], float]:
    mine, theirs = metrics.weighted_auc(clicked, own), metrics.weighted_auc(clicked, other)
    return lambda weights: mine(weights) - theirs(weights)


def _auc(clicked: Bools, scores: Floats, visitors: NDArray[np.str_], seed: int) -> dict[str, float]:
    return bootstrap(metrics.weighted_auc(clicked, scores), visitors, seed).as_dict()
