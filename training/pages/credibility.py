"""Means of many small groups, each drawn towards the mean of all by as much as it is uncertain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


def shrunk(sums: Doubles, squares: Doubles, counts: NDArray[np.int64]) -> Doubles:
    """[S] credibility estimates of the groups' means: (Σx + k·m) / (n + k), with m the mean of all.

    k is the variance within groups over that between them, both estimated from the same sums. Where groups differ no
    more than chance makes them differ, all get the mean of all. A group without values gets it too.

    Source: Bühlmann and Straub, "Glaubwürdigkeit für Schadensätze", 1970; the estimators are the usual unbiased ones.

    Args:
        sums: [S] of each group's values.
        squares: [S] of their squares.
        counts: [S] how many they are.
    """
    total, filled = float(counts.sum()), counts > 0
    if not total:
        return np.zeros(len(sums))
    size, overall = int(np.count_nonzero(filled)), float(sums.sum()) / total
    means = np.divide(sums, counts, out=np.full(len(sums), overall), where=filled)
    within = float(squares.sum() - (means**2 * counts).sum()) / max(total - size, 1.0)
    spread = float((counts * (means - overall) ** 2).sum()) - (size - 1) * within
    between = spread / max(total - float((counts.astype(np.float64) ** 2).sum()) / total, 1e-12)
    if between <= 0.0:
        return np.full(len(sums), overall)
    k = max(within, 0.0) / between
    return np.asarray((sums + k * overall) / np.maximum(counts + k, 1e-12), dtype=np.float64)
