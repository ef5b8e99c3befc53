"""Paths of simulated visitors over the page graph, by themselves or with recommendations; many at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]
LONGEST: Final = 100


@dataclass(frozen=True, slots=True)
class Recommending:
    """What is recommended on each of S pages.

    Attributes:
        targets: [S] page, -1 for none.
        followed: [S] share of the visitors that goes there whatever else they would have done.
    """

    targets: Ints
    followed: Doubles


def simulate(
    natural: sparse.csr_matrix,
    starts: Ints,
    seed: int,
    recommending: Recommending | None = None,
    longest: int = LONGEST,
) -> Ints:
    """[n, longest] pages of n visitors' sessions, the first ones as given, -1 after the last.

    The same seed gives the same paths. A visitor still there after ``longest`` pages is cut off.

    Args:
        natural: [S, S] CSR of P(next page | page); what a row lacks to 1 is the probability to leave.
        starts: [n] page on which each session begins.
        seed: of all draws.
        recommending: without it nothing is recommended.
        longest: most pages of a session, 1 or more.
    """
    rng = np.random.default_rng(seed)
    ladder = _ladder(natural)
    paths = np.full((len(starts), longest), -1, dtype=np.int64)
    there, pages = np.arange(len(starts)), np.asarray(starts, dtype=np.int64)
    for step in range(longest):
        paths[there, step] = pages
        # Everybody draws in every step, so that two policies of one seed differ by the policy, not by their luck.
        follows, moves = rng.random((2, len(starts)))
        after = _next(natural, ladder, pages, moves[there])
        if recommending is not None:
            target = recommending.targets[pages]
            after = np.where((target >= 0) & (follows[there] < recommending.followed[pages]), target, after)
        there, pages = there[after >= 0], after[after >= 0]
        if not len(there):
            break
    return paths


def totals(paths: Ints, rewards: Doubles) -> Doubles:
    """[n] sum of the rewards [S] of each path's pages."""
    padded = np.append(rewards, 0.0)  # page -1 earns nothing
    return np.asarray(padded[paths].sum(axis=1))


def _ladder(natural: sparse.csr_matrix) -> Doubles:
    """[nnz] row number plus the sum of the row's probabilities up to here: one sorted array for all rows."""
    sums = np.cumsum(natural.data)
    before = np.concatenate([[0.0], sums])[natural.indptr[:-1]]
    lengths = np.diff(natural.indptr)
    within = sums - np.repeat(before, lengths)
    return np.asarray(np.repeat(np.arange(natural.shape[0]), lengths) + np.clip(within, 0.0, 1.0))


def _next(natural: sparse.csr_matrix, ladder: Doubles, pages: Ints, draws: Doubles) -> Ints:
    """[n] the page after each, -1 for leaving, by a draw in [0, 1) each."""
    places = np.searchsorted(ladder, pages + draws, side="right")
    goes = places < natural.indptr[pages + 1]
    return np.where(goes, natural.indices[np.minimum(places, max(natural.nnz - 1, 0))], -1) if natural.nnz else goes - 1
