"""Models that have something to say about few items at a time: what they say stays sparse, popularity says the rest."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import scipy.sparse as sparse

from training.interactions import Floats, Interactions, Ints, Queries
from training.recommender import CELLS, Recommender
from training.top_k import top_k

ROWS = 1024
"""Questions answered at once."""


class EvidenceRecommender(Recommender):
    """Items with evidence come first, by it; all others follow by popularity, so that every list is full.

    Evidence is positive. An item without any scores −r/I, r its place in the order of popularity from 0: between −1
    and 0, and the same for everybody. Write ``evidence`` instead of ``score``, and call ``learn_items`` in ``fit``.
    """

    fallback: Floats
    """[I] scores without evidence."""

    @abstractmethod
    def evidence(self, queries: Queries) -> sparse.csr_matrix:
        """[n, I] CSR matrix of positive numbers, comparable within a row, each cell at most once."""

    def learn_items(self, train: Interactions) -> None:
        """Take over the items' names and rank them by their number of events, ties by code."""
        self.item_ids = train.item_ids
        counts = np.bincount(train.items, minlength=train.item_count)
        self.fallback = np.zeros(train.item_count, dtype=np.float32)
        self.fallback[np.argsort(-counts, kind="stable")] = -np.arange(train.item_count) / max(train.item_count, 1)

    def score(self, queries: Queries) -> Floats:
        """The evidence, and popularity below it."""
        return self._filled(self.evidence(queries))

    def recommend(self, queries: Queries, k: int, exclude_seen: bool = False) -> tuple[Ints, Floats]:
        """As for every model, but only evidence is sorted; few rows lack enough of it and are filled."""
        items = np.zeros((len(queries), k), dtype=np.int64)
        scores = np.zeros((len(queries), k), dtype=np.float32)
        for start in range(0, len(queries), ROWS):
            rows = np.arange(start, min(start + ROWS, len(queries)))
            part = queries.take(rows)
            found = self.evidence(part)
            seen = part.histories.matrix() if exclude_seen else None
            if seen is not None:
                found = found - found.multiply(seen)
                found.eliminate_zeros()
            short = np.flatnonzero(np.diff(found.indptr) < k)
            enough = np.flatnonzero(np.diff(found.indptr) >= k)
            items[rows[enough]], scores[rows[enough]] = _best(found[enough], k)
            for few in np.array_split(short, -(-len(short) * len(self.item_ids) // CELLS) or 1):
                filled = self._filled(found[few])
                if seen is not None:
                    filled[seen[few].nonzero()] = -np.inf
                items[rows[few]] = best = top_k(filled, k)
                scores[rows[few]] = np.take_along_axis(filled, best, axis=1)
        return items, scores

    def _filled(self, evidence: sparse.csr_matrix) -> Floats:
        scores = np.tile(self.fallback, (evidence.shape[0], 1))
        rows = np.repeat(np.arange(evidence.shape[0]), np.diff(evidence.indptr))
        scores[rows, evidence.indices] = evidence.data
        return scores


def _best(evidence: sparse.csr_matrix, k: int) -> tuple[Ints, Floats]:
    """[n, k] columns and values of rows that have at least k, best first, ties by column."""
    counts = np.diff(evidence.indptr)
    rows = np.repeat(np.arange(len(counts)), counts)
    order = np.lexsort((evidence.indices, -evidence.data, rows))
    kept = order[evidence.indptr[:-1, None] + np.arange(k)]
    return evidence.indices[kept].astype(np.int64), evidence.data[kept]
