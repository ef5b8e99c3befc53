"""How sure a mean over questions is: bootstrap intervals that keep together what one asker was asked."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.metrics import Estimate

DRAWS = 1_000
CELLS = 250_000
"""Weights held at once: 2 MB, which stay in the processor's cache."""


def intervals(
    values: dict[str, NDArray[Any]], groups: NDArray[Any] | None = None, seed: int = 0, draws: int = DRAWS
) -> dict[str, Estimate]:
    """The mean of each metric with its 95 % percentile interval (Efron 1979), all from the same draws.

    Askers are drawn with replacement, each with all its questions: answers to one session's prefixes hang together, and
    intervals that ignore it come out too narrow (cluster bootstrap, Field and Welsh, JRSS B 2007).

    Args:
        values: [n] by name.
        groups: [n] who asked; None where every question is somebody else's.
        seed: of the draws.
        draws: how many.
    """
    names = list(values)
    table = (
        np.column_stack([np.asarray(values[name], dtype=np.float64) for name in names]) if names else np.zeros((0, 0))
    )
    if not len(table):
        return {name: Estimate(float("nan"), float("nan"), float("nan")) for name in names}
    sums, sizes = _by_group(table, groups)
    found = np.concatenate(list(_drawn(sums, sizes, seed, draws)))
    low, high = np.percentile(found, [2.5, 97.5], axis=0)
    mean = table.mean(axis=0)
    return {name: Estimate(float(mean[i]), float(low[i]), float(high[i])) for i, name in enumerate(names)}


def difference(
    one: dict[str, NDArray[Any]],
    other: dict[str, NDArray[Any]],
    groups: NDArray[Any] | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> dict[str, Estimate]:
    """How much better one model is than another on the same questions, with its interval: a paired bootstrap.

    What makes a question hard is hard for both, so this tells models apart whose own intervals overlap.

    Args:
        one: [n] by name.
        other: [n] by name; names that only one has are left out.
        groups: as for ``intervals``.
        seed: of the draws.
        draws: how many.
    """
    both = [name for name in one if name in other]
    gaps = {name: np.asarray(one[name], np.float64) - np.asarray(other[name], np.float64) for name in both}
    return intervals(gaps, groups, seed, draws)


def _by_group(table: NDArray[Any], groups: NDArray[Any] | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """[G, m] sums and [G] numbers of the questions of each group."""
    if groups is None:
        return table, np.ones(len(table))
    group = np.unique(groups, return_inverse=True)[1].ravel()
    sums = np.column_stack([np.bincount(group, weights=column) for column in table.T])
    return sums, np.bincount(group).astype(np.float64)


def _drawn(sums: NDArray[Any], sizes: NDArray[Any], seed: int, draws: int) -> Any:
    """[·, m] means of the draws, some at a time."""
    rng = np.random.default_rng(seed)
    count = len(sums)
    step = max(1, CELLS // count)
    for start in range(0, draws, step):
        many = min(step, draws - start)
        # How often each group is drawn in each draw, as one count over (draw, group).
        drawn = rng.integers(count, size=(many, count)) + np.arange(many)[:, None] * count
        times = np.bincount(drawn.ravel(), minlength=many * count).reshape(many, count).astype(np.float64)
        yield (times @ sums) / (times @ sizes)[:, None]
