"""Item-kNN: each item's nearest items by who took them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray

from marquee.errors import MarqueeError
from training.co_occurrence import packed, recent_items, unpacked
from training.evidence import EvidenceRecommender
from training.interactions import Interactions, Queries
from training.recommender import PLAIN, Fitting

BLOCK_CELLS = 16_000_000
"""Similarities computed at once."""


@dataclass(frozen=True, slots=True)
class ItemKNNSettings:
    """Plain values.

    Attributes:
        neighbours: nearest items kept of each item.
        similarity: "cosine"; "tfidf", cosine after dividing each user's part by how much the user took; or "bm25".
        shrinkage: λ, so much is added to the cosine's denominator: similarities of rare items weigh less.
        weighted: use the events' weights rather than 1 for each item once taken.
        self_similarity: what an item in the history says for itself, where an item may be taken again; times 1, the
            cosine of equal items, or its own BM25 product.
        newest: how many events of the asker's history speak; 0 for all.
        decay: an event one place further back speaks so much less.
        bm25_k1: how soon the strength of one event saturates.
        bm25_b: how much items with many events are held back, 0 to 1.
    """

    neighbours: int = 200
    similarity: Literal["cosine", "tfidf", "bm25"] = "cosine"
    shrinkage: float = 10.0
    weighted: bool = False
    self_similarity: float = 0.0
    newest: int = 0
    decay: float = 1.0
    bm25_k1: float = 1.2
    bm25_b: float = 0.75


class ItemKNN(EvidenceRecommender):
    """s(b) = Σ_a w_a · sim(a, b) over the items a of a history, sim(a, b) = x_a·x_b / (|x_a|·|x_b| + λ).

    x_a is an item's column of the visitor-item matrix, as it is (cosine) or weighted by TF-IDF, with users as terms;
    BM25 weights are multiplied as they are, without the denominator. An item's similarities outside its
    ``neighbours`` largest are dropped.

    Sources: Sarwar, Karypis, Konstan, Riedl, "Item-based collaborative filtering recommendation algorithms", WWW 2001;
    shrinkage: Bell and Koren, "Improved neighborhood-based collaborative filtering", KDD Cup 2007. Without shrinkage
    the similarities are those of the library ``implicit``, whose TF-IDF and BM25 weights are used.
    """

    Settings = ItemKNNSettings
    about = "nearest items by who took them"
    settings: ItemKNNSettings

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if self.settings.similarity not in ("cosine", "tfidf", "bm25"):
            raise MarqueeError(f"item_knn: similarity is cosine, tfidf or bm25, not {self.settings.similarity!r}")

    @classmethod
    def space(cls, trial: Any) -> dict[str, Any]:
        """Settings for a trial of Optuna."""
        return {
            "neighbours": trial.suggest_int("neighbours", 20, 1000, log=True),
            "similarity": trial.suggest_categorical("similarity", ["cosine", "tfidf", "bm25"]),
            "shrinkage": trial.suggest_float("shrinkage", 0.1, 1000.0, log=True),
            "newest": trial.suggest_categorical("newest", [0, 1, 3, 10]),
            "decay": trial.suggest_float("decay", 0.5, 1.0),
        }

    def fit(self, train: Interactions, fitting: Fitting = PLAIN) -> Self:
        """Compare all items with each other, some rows at a time."""
        self.learn_items(train)
        vectors = self._vectors(train)
        lengths = np.sqrt(np.asarray(vectors.multiply(vectors).sum(axis=1)).ravel())
        step = max(1, BLOCK_CELLS // max(1, train.item_count))
        others = vectors.T.tocsr()
        rows = [self._nearest(vectors, others, lengths, start, step) for start in range(0, train.item_count, step)]
        self.similarities = sparse.vstack(rows, format="csr")
        return self

    def evidence(self, queries: Queries) -> sparse.csr_matrix:
        """The similarities to what was taken, summed."""
        histories = queries.histories
        if self.settings.newest or self.settings.decay != 1.0:
            taken = recent_items(histories, self.settings.newest, self.settings.decay)
        else:
            taken = histories.matrix(self.settings.weighted)
        found = taken @ self.similarities
        found.data = np.maximum(found.data, 0.0)  # dislikes weigh less than nothing, and are no evidence
        found.eliminate_zeros()
        return found

    def state(self) -> dict[str, NDArray[Any]]:
        """Similarities and popularity."""
        return {"fallback": self.fallback, **packed("similarities", self.similarities)}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Take them back."""
        self.fallback, self.similarities = state["fallback"], unpacked("similarities", state)

    def _vectors(self, train: Interactions) -> sparse.csr_matrix:
        """[I, U] weighted columns of the visitor-item matrix."""
        from implicit.nearest_neighbours import bm25_weight, tfidf_weight

        matrix = train.matrix(self.settings.weighted).T.tocsr()
        if self.settings.similarity == "tfidf":
            matrix = tfidf_weight(matrix)
        elif self.settings.similarity == "bm25":
            matrix = bm25_weight(matrix, self.settings.bm25_k1, self.settings.bm25_b)
        return sparse.csr_matrix(matrix, dtype=np.float32)

    def _nearest(
        self,
        vectors: sparse.csr_matrix,
        others: sparse.csr_matrix,
        lengths: NDArray[np.float32],
        start: int,
        step: int,
    ) -> sparse.csr_matrix:
        """[step, I] the largest similarities of some items to all."""
        found = (vectors[start : start + step] @ others).tocsr()
        rows = np.repeat(np.arange(found.shape[0]), np.diff(found.indptr)) + start
        if self.settings.similarity != "bm25":
            scale = lengths[rows] * lengths[found.indices] + self.settings.shrinkage
            found.data /= np.maximum(scale, 1e-12)
        found.data[rows == found.indices] *= self.settings.self_similarity
        _keep_largest(found, self.settings.neighbours)
        return found


def _keep_largest(matrix: sparse.csr_matrix, count: int) -> None:
    """Drop all but the ``count`` largest positive values of each row, in place."""
    for row in np.flatnonzero(np.diff(matrix.indptr) > count):
        values = matrix.data[matrix.indptr[row] : matrix.indptr[row + 1]]
        values[np.argpartition(-values, count)[count:]] = 0.0
    matrix.data[matrix.data < 0] = 0.0
    matrix.eliminate_zeros()


MODEL = ItemKNN
