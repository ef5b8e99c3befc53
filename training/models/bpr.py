"""BPR: matrix factorisation that ranks what was taken above what was not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import scipy.sparse as sparse

from training.factors import Epochs, FactorRecommender, logistic, padded_rows, side_by_side, typical_negatives
from training.interactions import Floats, Interactions, Ints
from training.recommender import PLAIN, Fitting

POOL = 512
"""Negatives to choose from while folding in."""


@dataclass(frozen=True, slots=True)
class BPRSettings:
    """Plain values.

    Attributes:
        factors: length of the vectors, without the item's bias.
        learning_rate: of stochastic gradient descent.
        regularisation: L2 penalty λ of each step.
        iterations: passes over the events, each with as many samples as there are events.
        update_iterations: as ``iterations``, for ``update``.
        uniform: share of the negatives drawn evenly among all items; the others are drawn ∝ their events.
        negatives: items that stand for those not taken while folding in, for each item of the history.
        seed: of first vectors and samples.
    """

    factors: int = 64
    learning_rate: float = 0.05
    regularisation: float = 0.05
    iterations: int = 160
    update_iterations: int = 30
    uniform: float = 0.9
    negatives: int = 8
    seed: int = 7


class BPR(FactorRecommender):
    """Maximises Σ ln σ(s_ui − s_uj) over items i that u took and items j that u did not, drawn ∝ their events.

    Source: Rendle, Freudenthaler, Gantner and Schmidt-Thieme, "BPR", UAI 2009; by the library ``implicit`` in one
    thread, because with more of them they overwrite each other and no two fits are the same. An item without events
    has the lowest bias of all.

    Folding in minimises the asker's own part of the loss, which is convex while the items' vectors are fixed: each
    item of the history against ``negatives`` others, and the penalty that the same number of steps would apply.

    The defaults are those of 30 tried that did well on all of Online Retail, Tmall 2014 and the simulator: learnt from
    the first 80 % of the events, judged by NDCG@20 on what each user took anew in the next 10 %.
    """

    Settings = BPRSettings
    about = "matrix factorisation by pairwise ranking"
    settings: BPRSettings

    @classmethod
    def space(cls, trial: Any) -> dict[str, Any]:
        """Settings for a trial of Optuna."""
        return {
            "factors": trial.suggest_categorical("factors", [64, 128, 256]),
            "learning_rate": trial.suggest_float("learning_rate", 0.01, 0.2, log=True),
            "regularisation": trial.suggest_float("regularisation", 1e-3, 0.1, log=True),
            "iterations": trial.suggest_int("iterations", 40, 320, step=40),
            "uniform": trial.suggest_float("uniform", 0.0, 0.95),
        }

    def fit(self, train: Interactions, fitting: Fitting = PLAIN) -> Self:
        """Descend from small random vectors."""
        matrix = self.matrix(train)
        self.user_factors, self.item_factors = self._first(train)
        self.learnt_from(train, matrix)
        return self._descend(matrix, self.settings.iterations, fitting)

    def update(self, new: Interactions, fitting: Fitting = PLAIN) -> Self:
        """Descend from the present vectors, ``update_iterations`` times."""
        matrix = self.matrix(new)
        self.user_factors, self.item_factors = self.carried(new, *self._first(new))
        self.learnt_from(new, matrix)
        return self._descend(matrix, self.settings.update_iterations, fitting)

    def matrix(self, histories: Interactions) -> sparse.csr_matrix:
        """[n, I] 1 for what was taken."""
        return histories.matrix()

    def fold_in(self, matrix: sparse.csr_matrix) -> Floats:
        """Minimise each row's own loss."""
        vectors, bias = self.item_factors[:, :-1], self.item_factors[:, -1]
        pool = typical_negatives(self._chances(), POOL, self.settings.seed)
        taken, count = matrix[:, pool], self.settings.negatives
        found = np.ones((matrix.shape[0], vectors.shape[1] + 1), np.float32)

        def solve(group: tuple[Ints, Ints, Floats]) -> None:
            rows, columns, inside = group
            place = np.arange(columns.shape[1] * count).reshape(-1, count) % POOL
            weights = inside[:, :, None] * (taken[rows].toarray() == 0)[:, place] / count
            features = vectors[columns][:, :, None] - vectors[pool[place]]
            offsets = bias[columns][:, :, None] - bias[pool[place]]
            shape = (len(rows), -1)
            # A pair that is refused brings no penalty either; one who took everything keeps a little of it.
            ridge = self.settings.regularisation * np.maximum(weights.sum(axis=(1, 2)), 1 / POOL)
            found[rows, :-1] = logistic(
                features.reshape(*shape, vectors.shape[1]), offsets.reshape(shape), weights.reshape(shape), ridge
            )

        side_by_side(solve, padded_rows(matrix, vectors.shape[1] * count))
        return found

    def _first(self, train: Interactions) -> tuple[Floats, Floats]:
        rng, size = np.random.default_rng(self.settings.seed), self.settings.factors
        counts = (train.user_count, train.item_count)
        users, items = (((rng.random((count, size + 1)) - 0.5) / size).astype(np.float32) for count in counts)
        users[:, -1] = 1.0
        return users, items

    def _descend(self, matrix: sparse.csr_matrix, count: int, fitting: Fitting) -> Self:
        from implicit.cpu.bpr import BayesianPersonalizedRanking

        seen = self.item_events > 0
        # Negatives are items of events drawn evenly. Users who took everything make them even among items; they bring
        # no loss of their own, because each of their negatives is refused as taken.
        fillers = np.broadcast_to(seen.astype(np.float32), (self._fillers(), len(seen)))
        sampled = sparse.vstack([matrix, sparse.csr_matrix(fillers)], format="csr")
        users = np.zeros((sampled.shape[0], self.settings.factors + 1), np.float32)
        users[: matrix.shape[0]] = self.user_factors
        self.user_factors = users[: matrix.shape[0]]  # the same memory: the library changes it in place
        self.item_factors[~seen] = 0
        self.user_factors[self.rows == 0, :-1] = 0

        watch = Epochs(self, count, fitting)
        for number in range(1, count + 1):
            library = BayesianPersonalizedRanking(
                self.settings.factors,
                self.settings.learning_rate,
                self.settings.regularisation,
                iterations=1,
                num_threads=1,
                random_state=np.random.default_rng([self.settings.seed, number]),
            )
            library.user_factors, library.item_factors = users, self.item_factors
            library.fit(sampled, show_progress=False)
            self.item_factors[~seen, -1] = self.item_factors[seen, -1].min(initial=0)
            if watch.enough(number, lambda: self.loss(matrix)):
                break
        watch.finish()
        return self

    def _fillers(self) -> int:
        """How many users who took everything bring the wanted share of uniform negatives."""
        share = min(self.settings.uniform, 0.99)
        return round(share / (1 - share) * float(self.item_events.sum()) / max(int((self.item_events > 0).sum()), 1))

    def _chances(self) -> Ints:
        """[I] how often each item is drawn as a negative, up to a factor."""
        return self.item_events + self._fillers() * (self.item_events > 0)

    def loss(self, matrix: sparse.csr_matrix, samples: int = 10_000) -> float:
        """Mean −ln σ(s_ui − s_uj) of pairs drawn as the fit draws them, the same at each call; NaN without pairs."""
        if not matrix.nnz:
            return float("nan")
        rng, total = np.random.default_rng(self.settings.seed), np.cumsum(self._chances())
        liked = rng.integers(0, matrix.nnz, samples)
        others = np.searchsorted(total, rng.integers(0, total[-1], samples), side="right")
        row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))[liked]
        keep = np.asarray(matrix[row, others]).ravel() == 0
        users, better, worse = row[keep], matrix.indices[liked][keep], others[keep]
        gaps = np.einsum("nd,nd->n", self.user_factors[users], self.item_factors[better] - self.item_factors[worse])
        return float(np.logaddexp(0, -gaps).mean()) if len(gaps) else float("nan")


MODEL = BPR
