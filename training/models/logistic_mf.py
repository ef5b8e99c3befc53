"""Logistic MF: the chance that a user takes an item, from their vectors and biases."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import scipy.sparse as sparse

from training.factors import Epochs, FactorRecommender, logistic, padded_rows, side_by_side, typical_negatives
from training.interactions import Floats, Interactions, Ints, places
from training.recommender import PLAIN, Fitting

POOL = 128
"""Negatives while folding in."""
ITEM_BIAS, USER_BIAS = -2, -1
"""Columns of the biases in the items' and in the users' vectors; the other side has 1 there."""


@dataclass(frozen=True, slots=True)
class LogisticMFSettings:
    """Plain values.

    Attributes:
        factors: length of the vectors, without both biases.
        learning_rate: of Adagrad.
        regularisation: L2 penalty λ.
        alpha: weight of what was taken, against 1 for a negative.
        negatives: drawn for each item taken, in each pass; the library draws no more than ``factors`` + 2 a row.
        iterations: passes over the events.
        weighted: alpha counts for each unit of the events' weights rather than once for each item.
        update_iterations: as ``iterations``, for ``update``.
        seed: of first vectors and samples.
    """

    factors: int = 64
    learning_rate: float = 1.0
    regularisation: float = 10.0
    alpha: float = 5.0
    negatives: int = 30
    iterations: int = 60
    weighted: bool = False
    update_iterations: int = 10
    seed: int = 7


class LogisticMF(FactorRecommender):
    """p_ui = σ(x_u·y_i + b_u + b_i); minimises Σ αr ln(1 + e^−s) over pairs taken and Σ ln(1 + e^s) over negatives.

    Source: Johnson, "Logistic matrix factorization for implicit feedback data", NIPS workshop 2014; by the library
    ``implicit``, which draws negatives ∝ their events, in one thread so that the same seed gives the same model
    everywhere. An item without events has the lowest bias of all.

    Folding in minimises the asker's own part of the loss, which is convex while the items' vectors are fixed.

    The defaults are those of 27 tried that did well on all of Online Retail, Tmall 2014 and the simulator: learnt from
    the first 80 % of the events, judged by NDCG@20 on what each user took anew in the next 10 %.
    """

    Settings = LogisticMFSettings
    about = "matrix factorisation by logistic loss"
    settings: LogisticMFSettings

    @classmethod
    def space(cls, trial: Any) -> dict[str, Any]:
        """Settings for a trial of Optuna."""
        return {
            "factors": trial.suggest_categorical("factors", [16, 32, 64, 128]),
            "regularisation": trial.suggest_float("regularisation", 0.5, 50.0, log=True),
            "alpha": trial.suggest_float("alpha", 0.5, 40.0, log=True),
            "learning_rate": trial.suggest_float("learning_rate", 0.3, 1.5, log=True),
            "iterations": trial.suggest_int("iterations", 20, 100, step=20),
        }

    def fit(self, train: Interactions, fitting: Fitting = PLAIN) -> Self:
        """Descend from random vectors."""
        matrix = self.matrix(train)
        self.user_factors, self.item_factors = self._first(train)
        self.learnt_from(train, matrix)
        return self._descend(matrix, self.settings.iterations, self.settings.learning_rate, fitting)

    def update(self, new: Interactions, fitting: Fitting = PLAIN) -> Self:
        """Descend from the present vectors, ``update_iterations`` times; new users are folded in first.

        The library does not keep Adagrad's sums. The step size that they had led to is where this goes on.
        """
        matrix, (users, items) = self.matrix(new), self._first(new)
        joined, fresh = (places(*ids) < 0 for ids in ((self.user_ids, new.user_ids), (self.item_ids, new.item_ids)))
        items[:, :-1] = 0  # such small steps would not lead away from something random
        users, self.item_factors = self.carried(new, users, items)
        self.learnt_from(new, matrix)
        users[joined] = self.fold_in(matrix[joined])
        self.item_factors[fresh] = self._fold_in(matrix.T.tocsr()[fresh], users, np.diff(matrix.indptr), USER_BIAS)
        self.user_factors = users
        rate = self.settings.learning_rate / np.sqrt(self.settings.iterations)
        return self._descend(matrix, self.settings.update_iterations, rate, fitting)

    def matrix(self, histories: Interactions) -> sparse.csr_matrix:
        """[n, I] weights of what was taken."""
        return histories.matrix(self.settings.weighted) * np.float32(self.settings.alpha)

    def fold_in(self, matrix: sparse.csr_matrix) -> Floats:
        """Minimise each row's own loss."""
        return self._fold_in(matrix, self.item_factors, self.item_events, ITEM_BIAS)

    def _fold_in(self, matrix: sparse.csr_matrix, fixed: Floats, events: Ints, bias: int) -> Floats:
        """Vectors of users for the items' fixed ones, or of items for the users'.

        Args:
            matrix: a row for each vector.
            fixed: a vector for each column.
            events: of each column, by which negatives are drawn.
            bias: where the fixed vectors have theirs.
        """
        found = np.ones((matrix.shape[0], self.settings.factors + 2), np.float32)
        free = np.delete(np.arange(self.settings.factors + 2), bias)
        pool = fixed[typical_negatives(events, POOL, self.settings.seed)]

        def solve(group: tuple[Ints, Ints, Floats]) -> None:
            rows, columns, taken = group
            drawn = np.minimum(self.settings.factors + 2, (taken > 0).sum(axis=1) * self.settings.negatives)
            negatives = np.broadcast_to(-pool, (len(rows), *pool.shape))
            both = np.concatenate([fixed[columns], negatives], axis=1)
            weights = np.concatenate([taken, np.repeat(drawn[:, None] / POOL, POOL, axis=1)], axis=1)
            ridge = np.full(len(rows), self.settings.regularisation, np.float32)
            found[rows[:, None], free] = logistic(both[:, :, free], both[:, :, bias], weights.astype(np.float32), ridge)

        side_by_side(solve, padded_rows(matrix, len(free), extra=POOL))
        return found

    def _first(self, train: Interactions) -> tuple[Floats, Floats]:
        rng, size = np.random.default_rng(self.settings.seed), self.settings.factors + 2
        users, items = (rng.normal(size=(n, size)).astype(np.float32) for n in (train.user_count, train.item_count))
        users[:, ITEM_BIAS] = items[:, USER_BIAS] = 1.0
        return users, items

    def _descend(self, matrix: sparse.csr_matrix, count: int, rate: float, fitting: Fitting) -> Self:
        from implicit.cpu.lmf import LogisticMatrixFactorization

        seen, watch = self.item_events > 0, Epochs(self, count, fitting)
        self.item_factors[~seen, : self.settings.factors] = 0
        library = LogisticMatrixFactorization(
            self.settings.factors,
            rate,
            self.settings.regularisation,
            iterations=count,
            neg_prop=self.settings.negatives,
            num_threads=1,
            random_state=self.settings.seed,
        )
        library.user_factors, library.item_factors = self.user_factors, self.item_factors

        def after(epoch: int, seconds: float) -> None:
            self.item_factors[~seen, ITEM_BIAS] = self.item_factors[seen, ITEM_BIAS].min(initial=0)
            if watch.enough(epoch + 1, lambda: self.loss(matrix)):
                raise _Enough

        # The library has no other way to stop; it changes the vectors in place.
        with suppress(_Enough):
            library.fit(matrix, show_progress=False, callback=after)
        watch.finish()
        return self

    def loss(self, matrix: sparse.csr_matrix) -> float:
        """Mean loss of a pair taken and of the negatives drawn for it, the same draw at each call."""
        rng = np.random.default_rng(self.settings.seed)
        events = np.diff(matrix.indptr)
        drawn = np.minimum(self.settings.factors + 2, events * self.settings.negatives)
        taken, missed = np.repeat(np.arange(len(events)), events), np.repeat(np.arange(len(events)), drawn)
        others = matrix.indices[rng.integers(0, max(matrix.nnz, 1), len(missed))]
        positive = np.einsum("nd,nd->n", self.user_factors[taken], self.item_factors[matrix.indices])
        negative = np.einsum("nd,nd->n", self.user_factors[missed], self.item_factors[others])
        total = matrix.data @ np.logaddexp(0, -positive) + np.logaddexp(0, negative).sum()
        return float(total / max(matrix.nnz, 1))


class _Enough(Exception):
    """More epochs bring nothing."""


MODEL = LogisticMF
