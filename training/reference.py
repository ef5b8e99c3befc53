"""What a bundle's traffic should look like, kept in its report: distributions, click rates, calibration.

A champion chooses other banners than the policy whose log it learned from, so the log's own features are no measure of
what it will see: the bundle answers held-out requests as it would online, and each banner counts by its chance. Banners
stand there as they did when the log ended, running campaigns and counts, for that is the shop that it is served to.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.matrix import Floats
from marquee import contract
from marquee.settings import Settings
from training.bundle import Bundle
from training.dataset import Dataset, banner_counts
from training.drift import distribution
from training.eligibility import eligible_banners
from training.evaluation import raw_visitor, request_context
from training.metrics import reliability

MOST_REQUESTS: Final = 1_500
"""Held-out requests that the bundle answers for its reference; evenly spaced over the window when there are more."""
FEATURES: Final = tuple(name for name in contract.RANKER_FEATURES if name != "position")
"""Every banner is scored as if it stood first, so a position cannot drift."""


def reference_statistics(settings: Settings, data: Dataset, bundle: Bundle) -> dict[str, Any]:
    """Statistics of the later window at first positions; JSON-ready and finite.

    ``features`` and ``predictions`` hold what the bundle would serve, as ``drift.Distribution``. ``click_rate``,
    ``placements`` and ``calibration`` come from what was shown and clicked in the log.
    """
    test = data.split.test
    first = test[data.frame["position"].to_numpy()[test] == 0]
    if not len(first):
        return {"requests": 0}
    spaced = np.unique(np.linspace(0, len(first) - 1, min(len(first), MOST_REQUESTS)).astype(np.int64))
    matrix, chances, count = _served(settings, data, bundle, first[spaced])
    if not count:
        return {"requests": 0}
    table = matrix.astype(np.float64)
    columns = {name: table[:, contract.RANKER_FEATURES.index(name)] for name in FEATURES}
    return {
        "requests": count,
        "features": {name: distribution(column, chances, count).to_dict() for name, column in columns.items()},
        "predictions": distribution(bundle.ranker.predict(matrix), chances, count).to_dict(),
        **_outcomes(data, bundle, first),
    }


def _served(
    settings: Settings, data: Dataset, bundle: Bundle, rows: NDArray[np.int64]
) -> tuple[NDArray[np.float32], Floats, int]:
    """Features [m, F] of the candidates of each request, the chance [m] of each to stand first, and the requests."""
    matrices, chances = [], []
    latest = data.frame["impressed_at"].to_numpy("datetime64[us]").max()
    counts = banner_counts(settings, bundle.catalogue, latest)
    for row in rows:
        visitor, context = raw_visitor(data, row), request_context(data, row)
        eligible = eligible_banners(bundle.catalogue, context.placement_id, latest)
        candidates = bundle.shortlist(visitor, eligible, counts)
        if len(candidates):
            matrix = bundle.matrix(visitor, candidates, counts, context)
            appeal = bundle.appeal(bundle.ranker.predict(matrix), candidates, counts)
            matrices.append(matrix)
            chances.append(bundle.policy.chances(np.atleast_2d(appeal), np.ones(len(candidates), dtype=bool)))
    if not matrices:
        return np.empty((0, len(contract.RANKER_FEATURES)), np.float32), np.empty(0), 0
    return np.concatenate(matrices), np.concatenate(chances), len(matrices)


def _outcomes(data: Dataset, bundle: Bundle, rows: NDArray[np.int64]) -> dict[str, Any]:
    """Click rates and calibration of the logged impressions in these rows."""
    clicked = data.clicked[rows]
    probabilities = bundle.ranker.predict(data.matrix[rows])
    placements = data.frame["placement_id"].to_numpy(str)[rows]
    return {
        "rows": len(rows),
        "click_rate": float(clicked.mean()),
        "placements": {
            str(name): {"share": float(here.mean()), "click_rate": float(clicked[here].mean())}
            for name, here in ((name, placements == name) for name in np.unique(placements))
        },
        "calibration": {
            "ratio": float(clicked.sum() / probabilities.sum()),
            "bins": reliability(clicked, probabilities),
        },
    }
