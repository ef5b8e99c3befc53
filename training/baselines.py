"""What a trained ranker must beat: the popular banner; a logistic regression and a random forest on its own inputs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from features.matrix import SMOOTHING
from training.dataset import Dataset

Floats = NDArray[np.float64]


def popular(data: Dataset, fit: NDArray[np.int64], rows: NDArray[np.int64]) -> Floats:
    """Click rate of each row's banner, shrunk to its placement's, shrunk to all; fitted on ``fit`` rows."""
    clicked = data.clicked[fit].astype(np.float64)
    overall = float(clicked.mean())
    placements = data.frame["placement_id"].to_numpy(str)
    names, codes = np.unique(placements, return_inverse=True)
    by_placement = _shrunk(codes[fit], clicked, np.full(len(names), overall))
    banners = np.bincount(data.banner_rows[fit], minlength=len(data.catalogue))
    clicks = np.bincount(data.banner_rows[fit], weights=clicked, minlength=len(data.catalogue))
    prior = by_placement[codes[rows]]
    own = data.banner_rows[rows]
    return (clicks[own] + SMOOTHING * prior) / (banners[own] + SMOOTHING)


def logistic(data: Dataset, fit: NDArray[np.int64], rows: NDArray[np.int64], seed: int) -> Floats:
    """Logistic regression on the ranker's own matrix: medians for what is missing, standardised, L2."""
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True),
        StandardScaler(),
        LogisticRegression(C=0.1, max_iter=500, random_state=seed),
    )
    model.fit(data.matrix[fit], data.clicked[fit])
    probabilities: Floats = model.predict_proba(data.matrix[rows])[:, 1]
    return probabilities


def forest(data: Dataset, fit: NDArray[np.int64], rows: NDArray[np.int64], seed: int) -> Floats:
    """Random forest on the ranker's own matrix, missing values as they are. Breiman (2001).

    Leaves hold 100 impressions or more: of clicks this rare, smaller ones learn chance (AUC was lower with 20 and 50).
    """
    from sklearn.ensemble import RandomForestClassifier

    model = RandomForestClassifier(
        n_estimators=100, min_samples_leaf=100, max_features="sqrt", max_samples=0.5, n_jobs=2, random_state=seed
    )
    model.fit(data.matrix[fit], data.clicked[fit])
    probabilities: Floats = model.predict_proba(data.matrix[rows])[:, 1]
    return probabilities


def _shrunk(codes: NDArray[np.int64], clicked: Floats, prior: Floats) -> Floats:
    shown = np.bincount(codes, minlength=len(prior))
    clicks = np.bincount(codes, weights=clicked, minlength=len(prior))
    return (clicks + SMOOTHING * prior) / (shown + SMOOTHING)
