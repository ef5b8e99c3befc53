"""The best k of many scores, exactly, several times faster than a partition of each whole row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK = 64
"""Scores that one maximum stands for."""
CELLS = 262_144
"""Scores looked at together: 1 MB stays in the processor's second cache."""
ENOUGH = 4
"""Fewer than so many times k blocks are not worth the maxima."""


def top_k(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """[n, k] columns of each row's best scores, best first, ties by column.

    The k-th highest of the maxima of a row's blocks is a floor under its k-th best score, and few blocks reach it. So
    one pass over the scores, which the processor does in vectors, leaves a few blocks to sort, where ``argpartition``
    branches on every score.

    Args:
        scores: [n, m] without NaN.
        k: 1 to m.
    """
    rows, columns = scores.shape
    found = np.empty((rows, k), dtype=np.int64)
    step = max(1, CELLS // columns)
    blocks = columns // BLOCK
    for start in range(0, rows, step):
        part = scores[start : start + step]
        found[start : start + step] = _partitioned(part, k) if blocks < ENOUGH * k else _above_floor(part, k, blocks)
    return found


def _above_floor(scores: NDArray[np.float32], k: int, blocks: int) -> NDArray[np.int64]:
    """[n, k] by sorting what reaches the floor of its row."""
    rows, columns = scores.shape
    run = blocks * BLOCK
    # Column j belongs to block j modulo the number of blocks, so that whole runs of scores are compared at once; the
    # few columns behind the last full run are in no block, which can only lower the floor.
    maxima = scores[:, :run].reshape(rows, BLOCK, blocks).max(axis=1)
    floor = np.partition(maxima, blocks - k, axis=1)[:, blocks - k]
    reaching = maxima >= floor[:, None]
    # Without ties just k blocks reach the floor. A row with many more is finished alone.
    crowded = np.flatnonzero(np.count_nonzero(reaching, axis=1) > 2 * k)
    reaching[crowded] = False
    row, block = np.nonzero(reaching)
    row = np.concatenate([np.repeat(row, BLOCK), np.repeat(np.arange(rows), columns - run)])
    column = np.concatenate(
        [(block[:, None] + np.arange(0, run, blocks)).ravel(), np.tile(np.arange(run, columns), rows)]
    )
    values = scores[row, column]
    kept = np.flatnonzero(values >= floor[row])
    order = kept[np.lexsort((column[kept], -values[kept], row[kept]))]
    found = np.zeros((rows, k), dtype=np.int64)
    plain = np.setdiff1d(np.arange(rows), crowded)
    starts = np.searchsorted(row[order], plain)
    found[plain] = column[order[starts[:, None] + np.arange(k)]]
    for one in crowded:
        found[one] = _tied(scores[one], float(floor[one]), k)
    return found


def _tied(scores: NDArray[np.float32], floor: float, k: int) -> NDArray[np.int64]:
    """[k] of one row [m] where many scores are equal to the floor, as where most items have no score at all."""
    above = np.flatnonzero(scores > floor)
    above = above[np.argsort(-scores[above], kind="stable")[:k]]
    missing = k - len(above)
    # The first equal ones are wanted, and mostly stand near the front.
    equal = np.flatnonzero(scores[:1024] == floor)
    if len(equal) < missing:
        equal = np.flatnonzero(scores == floor)
    return np.concatenate([above, equal[:missing]])


def _partitioned(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """[n, k] by partition of whole rows."""
    # Of the negative scores, for ties mostly lie low, and a partition is slow where it has to pass them.
    found = np.sort(np.argpartition(-scores, k - 1, axis=1)[:, :k], axis=1)
    values = np.take_along_axis(scores, found, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    found = np.take_along_axis(found, order, axis=1)
    cut = np.take_along_axis(values, order[:, -1:], axis=1)
    # The partition took any of those that are equal to the last one; where some were left, the first are due.
    for one in np.flatnonzero(np.count_nonzero(scores == cut, axis=1) > np.count_nonzero(values == cut, axis=1)):
        found[one] = _tied(scores[one], float(cut[one, 0]), k)
    return found
