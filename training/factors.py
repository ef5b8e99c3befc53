"""What models with a vector for each user and item share: whose vector is known, folding in, and the best k items."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray

from training.interactions import Floats, Interactions, Ints, Queries, places
from training.recommender import Epoch, Fitting, Recommender
from training.top_k import top_k

BATCH = 256
"""Askers in one matrix product: their scores stay in the processor's cache until the best are found."""
CELLS = 4_000_000
"""Numbers gathered at once while folding in: 16 MB."""


class FactorRecommender(Recommender):
    """A score is the product of the asker's vector and the item's.

    An asker whose history is exactly a training row has that row's vector. All others, new visitors and those who did
    something since, are folded in: their vector is found for their present history with the items' vectors fixed. One
    without any history gets the mean visitor's vector.
    """

    settings: Any

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.user_ids: NDArray[np.str_] = np.array([], dtype=np.str_)
        self.rows: NDArray[np.uint64] = np.array([], dtype=np.uint64)
        self.item_events: Ints = np.array([], dtype=np.int64)
        self.user_factors: Floats = np.zeros((0, 0), np.float32)
        self.item_factors: Floats = np.zeros((0, 0), np.float32)

    @abstractmethod
    def matrix(self, histories: Interactions) -> sparse.csr_matrix:
        """[n, I] what the model reads of histories."""

    @abstractmethod
    def fold_in(self, matrix: sparse.csr_matrix) -> Floats:
        """[n, d] vectors of rows that were perhaps not in training, for the present vectors of the items."""

    def learnt_from(self, train: Interactions, matrix: sparse.csr_matrix) -> None:
        """Note whose rows the vectors will be."""
        self.item_ids, self.user_ids = train.item_ids, train.user_ids
        self.rows = fingerprints(matrix)
        self.item_events = np.bincount(matrix.indices, minlength=train.item_count)

    def vectors(self, queries: Queries) -> Floats:
        """[n, d] vectors of the askers."""
        matrix = self.matrix(queries.histories)
        row = np.maximum(queries.users, 0)
        trained = queries.users >= 0
        if trained.any():
            trained &= self.rows[row] == fingerprints(matrix)
        found = np.empty((len(queries), self.item_factors.shape[1]), np.float32)
        found[trained] = self.user_factors[row[trained]]
        found[~trained] = self.fold_in(matrix[~trained])
        if (empty := np.diff(matrix.indptr) == 0).any():
            found[empty] = self.nobody
        return found

    @property
    def nobody(self) -> Floats:
        """[d] mean vector of the users who have a history."""
        some = self.user_factors[self.rows != 0]
        mean: Floats = some.mean(axis=0) if len(some) else np.zeros(self.item_factors.shape[1], np.float32)
        return mean

    def score(self, queries: Queries) -> Floats:
        """The askers' vectors times the items'."""
        scores: Floats = self.vectors(queries) @ self.item_factors.T
        return scores

    def score_candidates(self, queries: Queries, candidates: Ints) -> Floats:
        """Only the candidates' vectors are read."""
        users = self.vectors(queries)
        scores: Floats = np.empty(candidates.shape, np.float32)
        for rows in self._batches(len(queries)):
            scores[rows] = np.einsum("nd,nmd->nm", users[rows], self.item_factors[candidates[rows]])
        return scores

    def recommend(self, queries: Queries, k: int, exclude_seen: bool = False) -> tuple[Ints, Floats]:
        """As ``Recommender.recommend``, with a thread for each processor, each at its own batch of askers."""
        users, histories = self.vectors(queries), queries.histories
        items = np.empty((len(queries), k), dtype=np.int64)
        scores = np.empty((len(queries), k), dtype=np.float32)
        size = max(1, min(BATCH, 4 * CELLS // max(1, len(self.item_factors))))

        def answer(start: int) -> None:
            stop = min(start + size, len(queries))
            found = users[start:stop] @ self.item_factors.T
            if exclude_seen:
                first, last = histories.starts[start], histories.starts[stop]
                row = np.repeat(np.arange(stop - start), np.diff(histories.starts[start : stop + 1]))
                found[row, histories.items[first:last]] = -np.inf
            items[start:stop] = top_k(found, k)
            scores[start:stop] = np.take_along_axis(found, items[start:stop], axis=1)

        if len(queries) <= size:
            answer(0)
        else:
            side_by_side(answer, range(0, len(queries), size))
        return items, scores

    def item_vectors(self) -> Floats:
        """The items' factors."""
        return self.item_factors

    def state(self) -> dict[str, NDArray[Any]]:
        """Vectors, and whose they are."""
        names = ("user_ids", "rows", "item_events", "user_factors", "item_factors")
        return {name: getattr(self, name) for name in names}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Take them back."""
        self.user_ids, self.rows, self.item_events = state["user_ids"], state["rows"], state["item_events"]
        self.user_factors, self.item_factors = state["user_factors"], state["item_factors"]

    def carried(self, new: Interactions, users: Floats, items: Floats) -> tuple[Floats, Floats]:
        """The given first vectors, in the order of ``new``, replaced by the present one where something was learnt."""
        for ids, present, wanted, first in (
            (self.user_ids, self.user_factors, new.user_ids, users),
            (self.item_ids, self.item_factors, new.item_ids, items),
        ):
            place = places(ids, wanted)
            learnt = (place >= 0) & np.any(present[:, : self.settings.factors] != 0, axis=1)[place]
            first[learnt] = present[place[learnt]]
        return users, items


class Epochs:
    """Progress of a fit; with ``fitting.validate`` also the best epoch's vectors, and when to stop."""

    def __init__(self, model: FactorRecommender, count: int, fitting: Fitting) -> None:
        self.model, self.count, self.fitting = model, count, fitting
        self.best, self.stale = -np.inf, 0
        self.kept = (model.user_factors, model.item_factors)

    def enough(self, number: int, loss: Callable[[], float]) -> bool:
        """Note that an epoch, numbered from 1, is done and the model usable; true when more of them bring nothing."""
        if self.fitting.on_epoch:
            self.fitting.on_epoch(Epoch(number, self.count, loss()))
        if self.fitting.validate is None:
            return False
        quality = self.fitting.validate(self.model)
        self.stale += 1
        if quality > self.best:
            self.best, self.stale = quality, 0
            self.kept = (self.model.user_factors.copy(), self.model.item_factors.copy())
        return self.stale > self.fitting.patience

    def finish(self) -> None:
        """Give the model the vectors of its best epoch."""
        if np.isfinite(self.best):
            self.model.user_factors, self.model.item_factors = self.kept


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def side_by_side(work: Callable[[Any], None], parts: Iterable[Any]) -> None:
    """Do all parts, a thread for each processor; matrix products inside a part take one thread."""
    with one_thread(), ThreadPoolExecutor(processors()) as pool:
        list(pool.map(work, parts))


def one_thread() -> Any:
    """A block in which a matrix product has one thread: its own fight with ours, and are slow at small products."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    return threadpool_limits(1, "blas")


def fingerprints(matrix: sparse.csr_matrix) -> NDArray[np.uint64]:
    """[n] a number for each row's items and values; 0 for none. Two unlike rows share one by chance once in 2^64."""
    values = np.ascontiguousarray(matrix.data, dtype=np.float32).view(np.uint32).astype(np.uint64)
    mixed = (matrix.indices.astype(np.uint64) << np.uint64(32)) | values
    # The finaliser of SplitMix64 (Steele, Lea and Flood 2014) spreads each cell over all bits; sums ignore the order.
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed, dtype=np.uint64)])
    found: NDArray[np.uint64] = sums[matrix.indptr[1:]] - sums[matrix.indptr[:-1]]
    return found


def padded_rows(matrix: sparse.csr_matrix, cells: int, extra: int = 0) -> Iterator[tuple[Ints, Ints, Floats]]:
    """Groups of rows of similar length, empty rows left out.

    Args:
        matrix: [n, I].
        cells: numbers that a group needs for each entry of its rows.
        extra: entries that each row will have besides.

    Yields:
        [b] rows; [b, l] their columns and values, filled up with column 0 and value 0.
    """
    lengths = np.diff(matrix.indptr)
    order = np.argsort(lengths, kind="stable")
    start = int(np.searchsorted(lengths[order], 1))
    while start < len(order):
        # As many rows as fit; the last is the longest.
        sizes = lengths[order[start : start + CELLS // cells + 1]] + extra
        fits = np.flatnonzero(sizes * np.arange(1, len(sizes) + 1) * cells <= CELLS)
        rows = order[start : start + (int(fits[-1]) + 1 if len(fits) else 1)]
        inside = np.arange(lengths[rows[-1]]) < lengths[rows][:, None]
        place = np.where(inside, matrix.indptr[rows][:, None] + np.arange(inside.shape[1]), 0)
        values = np.where(inside, matrix.data[place], 0).astype(np.float32)
        yield rows, np.where(inside, matrix.indices[place], 0), values
        start += len(rows)


@dataclass(frozen=True, slots=True)
class Turned:
    """Vectors in the basis in which the sum of their squares YᵀY is diagonal.

    Attributes:
        factors: [I, d] Y as it was given.
        basis: [d, d] the eigenvectors of YᵀY.
        squares: [d] its eigenvalues.
        turned: [I, d] Y times the basis.
    """

    factors: Floats
    basis: Floats
    squares: Floats
    turned: Floats


def turn(factors: Floats) -> Turned:
    """What ``least_squares`` needs of one side's vectors, for any number of calls."""
    with one_thread():
        squares, basis = np.linalg.eigh((factors.T @ factors).astype(np.float64))
        turned: Floats = (factors @ basis).astype(np.float32)
    return Turned(factors, basis.astype(np.float32), np.maximum(squares, 0).astype(np.float32), turned)


def least_squares(confidence: sparse.csr_matrix, side: Turned, ridge: Floats) -> Floats:
    """[n, d] the exact minimisers x of Σ_i c_i (p_i − x·y_i)² + ridge·|x|², one for each row.

    Source: Hu, Koren and Volinsky, "Collaborative filtering for implicit feedback datasets", ICDM 2008, equation 4.
    In the turned basis a row with fewer entries than dimensions needs a system of its entries only.

    Args:
        confidence: [n, I] c where it is not 1; p is 1 where c is positive and 0 where it is negative or not there.
        side: of the vectors y.
        ridge: [n] positive.
    """
    found = np.zeros((confidence.shape[0], len(side.squares)), np.float32)

    def solve(group: tuple[Ints, Ints, Floats]) -> None:
        rows, columns, c = group
        extra = np.where(c == 0, 0, np.abs(c) - 1)
        solved = _solve(side.turned[columns], extra, np.maximum(c, 0), side.squares + ridge[rows, None])
        found[rows] = solved @ side.basis.T

    side_by_side(solve, padded_rows(confidence, len(side.squares)))
    return found


def _solve(own: Floats, extra: Floats, target: Floats, diagonal: Floats) -> Floats:
    """x [b, d] of (D + YᵀEY) x = Yᵀt for Y [b, l, d], E and t [b, l], D [b, d]."""
    if own.shape[1] >= own.shape[2]:
        normal = own.transpose(0, 2, 1) @ (own * extra[:, :, None])
        normal[:, range(own.shape[2]), range(own.shape[2])] += diagonal
        return np.linalg.solve(normal, own.transpose(0, 2, 1) @ target[:, :, None])[:, :, 0]
    # (D + YᵀEY)⁻¹ Yᵀ = D⁻¹Yᵀ (I + E Y D⁻¹Yᵀ)⁻¹
    scaled = own / diagonal[:, None, :]
    small = extra[:, :, None] * (own @ scaled.transpose(0, 2, 1))
    small[:, range(own.shape[1]), range(own.shape[1])] += 1
    inner = np.linalg.solve(small, target[:, :, None])
    result: Floats = (scaled.transpose(0, 2, 1) @ inner)[:, :, 0]
    return result


def logistic(features: Floats, offsets: Floats, weights: Floats, ridge: Floats, steps: int = 20) -> Floats:
    """[b, d] the minimisers x of Σ_l w_l ln(1 + exp(−o_l − x·f_l)) + ½ ridge·|x|², one for each row.

    Each step minimises a quadratic that touches the loss and lies above it, so the loss never rises and no step size
    is needed. Source: Jaakkola and Jordan, "Bayesian parameter estimation via variational methods", 2000.

    Args:
        features: [b, l, d] f.
        offsets: [b, l] o.
        weights: [b, l] w; 0 for what only fills up.
        ridge: [b] positive.
        steps: how many.
    """
    size = features.shape[2]
    found = np.zeros((len(features), size, 1), np.float32)
    for _ in range(steps):
        margin = offsets + (features @ found)[:, :, 0]
        # (σ(m) − ½)/m, which tends to ¼ at 0.
        curve = np.where(np.abs(margin) < 1e-3, 0.25, np.tanh(margin / 2) / (2 * margin + 1e-12))
        normal = features.transpose(0, 2, 1) @ (features * (weights * curve)[:, :, None])
        normal[:, range(size), range(size)] += ridge[:, None]
        pull = weights * (0.5 - curve * offsets)
        found = np.linalg.solve(normal, features.transpose(0, 2, 1) @ pull[:, :, None])
    return found[:, :, 0]


def typical_negatives(counts: Ints, count: int, seed: int) -> Ints:
    """[count] items at even steps along the events sorted by item, so ∝ the items' events, in random order."""
    total = np.cumsum(counts)
    at = (np.arange(count) + 0.5) / count * total[-1]
    found = np.minimum(np.searchsorted(total, at, side="right"), len(counts) - 1)
    return np.random.default_rng(seed).permutation(found)
