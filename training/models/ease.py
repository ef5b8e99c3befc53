"""EASE: a linear item-to-item model in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray

from marquee.errors import MarqueeError
from training.interactions import Floats, Interactions, Ints, Queries
from training.recommender import PLAIN, Fitting, Recommender
from training.top_k import top_k

GRID = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0, 30_000.0)
"""Penalties that are tried."""
TRIED_ITEMS, TRIED_USERS, TRIED_RANKS = 2_000, 3_000, 100
"""On so many items, most taken ones first, for so many users, by so many places of their lists."""
BLOCK = 1024


@dataclass(frozen=True, slots=True)
class EASESettings:
    """Plain values.

    Attributes:
        regularisation: L2 penalty λ; larger for more events or a longer tail. 0 has the fit choose it: the one of 1, 3,
            10 … 30,000 that best tells the newest fifth of users' events from the older ones, tried on the 2,000
            items most taken.
        weighted: use the events' weights rather than 1 for each item once seen.
    """

    regularisation: float = 0.0
    weighted: bool = False


class EASE(Recommender):
    """B = I − P·diag(1/diag P), P = (XᵀX + λI)⁻¹; a history's scores are its row times B.

    Somebody without a history gets what is popular. Source: Steck, "Embarrassingly shallow autoencoders for sparse
    data", WWW 2019. Memory: one I × I float32 matrix, 1.6 GB for 20,000 items, and an I × I sparse block of it.
    """

    Settings = EASESettings
    about = "linear item-to-item model in closed form"
    settings: EASESettings

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if self.settings.regularisation < 0:
            raise MarqueeError("ease: regularisation must not be negative; 0 has the fit choose it")

    @classmethod
    def space(cls, trial: Any) -> dict[str, Any]:
        """Settings for a trial of Optuna."""
        return {
            "regularisation": trial.suggest_float("regularisation", 1.0, 10_000.0, log=True),
            "weighted": trial.suggest_categorical("weighted", [False, True]),
        }

    def fit(self, train: Interactions, fitting: Fitting = PLAIN) -> Self:
        """Invert the items' Gram matrix, in place."""
        self.item_ids = train.item_ids
        counts = np.bincount(train.items, minlength=train.item_count)
        self.popular: Floats = (counts / max(len(train), 1)).astype(np.float32)
        self.regularisation = self.settings.regularisation or best_regularisation(train, self.settings.weighted)
        self.weights = item_weights(train.matrix(self.settings.weighted), self.regularisation)
        return self

    def score(self, queries: Queries) -> Floats:
        """The histories' rows times the weights."""
        scores: Floats = queries.histories.matrix(self.settings.weighted) @ self.weights
        scores[queries.histories.lengths == 0] = self.popular
        return scores

    def state(self) -> dict[str, NDArray[Any]]:
        """The weights, the penalty that they were found with, and popularity."""
        return {"weights": self.weights, "popular": self.popular, "regularisation": np.array(self.regularisation)}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Take them back."""
        self.weights, self.popular = state["weights"], state["popular"]
        self.regularisation = float(state["regularisation"])


def item_weights(matrix: sparse.csr_matrix, regularisation: float) -> Floats:
    """[I, I] B of a matrix [U, I].

    Raises:
        MarqueeError: the penalty is too small for float32.
    """
    from scipy.linalg.lapack import spotrf, spotri

    gram = _gram(matrix)
    gram[np.diag_indices_from(gram)] += regularisation
    # A Cholesky factor and its inverse, both over the same memory, and only one triangle of each.
    factor, failed = spotrf(gram, lower=1, overwrite_a=1)
    inverse, failed_too = spotri(factor, lower=1, overwrite_c=1)
    if failed or failed_too:
        raise MarqueeError(f"ease: regularisation {regularisation:g} is too small for these events; raise it")
    _mirror(inverse)
    weights: Floats = inverse.T  # symmetric, so the same matrix, and its rows side by side in memory
    weights /= -np.diag(weights).copy()
    np.fill_diagonal(weights, 0.0)
    return weights


def best_regularisation(train: Interactions, weighted: bool) -> float:
    """The penalty of ``GRID`` whose lists hold most of what users took last, by NDCG; the larger one of equals."""
    from_end = np.repeat(train.starts[1:], train.lengths) - np.arange(len(train))
    newest = from_end <= np.maximum(np.repeat(train.lengths, train.lengths) // 5, 1)
    taken = np.bincount(train.items, minlength=train.item_count)
    items = np.sort(np.argsort(-taken, kind="stable")[:TRIED_ITEMS])
    older = train.where(~newest).matrix(weighted)[:, items]
    newer = train.where(newest).matrix()[:, items]
    newer = newer - newer.multiply(older != 0)
    newer.eliminate_zeros()
    users = np.flatnonzero((np.diff(older.indptr) > 0) & (np.diff(newer.indptr) > 0))
    if len(users) > TRIED_USERS:
        users = np.sort(np.random.default_rng(0).choice(users, TRIED_USERS, replace=False))
    quality = {}
    for regularisation in GRID:
        try:
            weights = item_weights(older, regularisation)
        except MarqueeError:
            continue
        quality[regularisation] = _ndcg(older[users], newer[users], weights) if len(users) else 0.0
    return max(quality, key=lambda one: (quality[one], one)) if len(users) else 100.0


def _ndcg(seen: sparse.csr_matrix, wanted: sparse.csr_matrix, weights: Floats) -> float:
    """Mean over users of NDCG of the lists without what was seen."""
    ranks = min(TRIED_RANKS, weights.shape[0])
    scores = seen @ weights
    scores[seen.nonzero()] = -np.inf
    lists: Ints = top_k(scores, ranks)
    hits = wanted.toarray()[np.arange(len(lists))[:, None], lists] > 0
    gains = 1.0 / np.log2(np.arange(2, ranks + 2))
    best = np.cumsum(gains)[np.minimum(np.diff(wanted.indptr), ranks) - 1]
    return float(np.mean((hits * gains).sum(axis=1) / best))


def _gram(matrix: sparse.csr_matrix) -> Floats:
    """[I, I] XᵀX in Fortran's order, a block of columns at a time: a sparse product of all would need twice as much."""
    size = matrix.shape[1]
    gram = np.empty((size, size), dtype=np.float32, order="F")
    rows, columns = matrix.T.tocsr(), matrix.tocsc()
    for start in range(0, size, BLOCK):
        gram[:, start : start + BLOCK] = (rows @ columns[:, start : start + BLOCK].tocsr()).toarray()
    return gram


def _mirror(matrix: Floats) -> None:
    """Copy the lower triangle over the upper one, in blocks that fit the cache."""
    for start in range(0, len(matrix), BLOCK):
        stop = min(start + BLOCK, len(matrix))
        matrix[start:stop, stop:] = matrix[stop:, start:stop].T
        corner = np.tril(matrix[start:stop, start:stop])
        matrix[start:stop, start:stop] = corner + np.tril(corner, -1).T


MODEL = EASE
