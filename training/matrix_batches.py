"""What the models over the visitor-item matrix share: sparse products, pairs with negatives, batches read ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import scipy.sparse as sparse

from training.interactions import Floats, Ints
from training.neural import tf

ROWS = (tf.TensorSpec([None, 2], tf.int64), tf.TensorSpec([None], tf.float32), tf.TensorSpec([2], tf.int64))
"""Shape of what ``rows_of`` gives, for a dataset's signature."""

NUMBERS = tf.TensorSpec([None], tf.int64)
TABLE = tf.TensorSpec([None, None], tf.int64)
STEP = tf.TensorSpec([], tf.int64)
HISTORIES = (ROWS, NUMBERS, NUMBERS, tf.TensorSpec([None], tf.float32), TABLE)
"""Rows of u users; [b] place among them, item and value of each pair; [b, k] negatives."""


def rows_of(matrix: sparse.csr_matrix) -> tuple[Ints, Floats, Ints]:
    """A CSR matrix with sorted columns as ``times`` wants it: [z, 2] places, [z] values, [2] shape."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    places = np.stack([rows, matrix.indices], axis=1).astype(np.int64)
    return places, matrix.data.astype(np.float32), np.array(matrix.shape, dtype=np.int64)


def times(rows: tuple[Any, Any, Any], weights: Any) -> Any:
    """[n, d] product of sparse rows [n, m] with weights [m, d], whose gradient goes to the weights alone.

    Compressed rows, because TensorFlow's other sparse product takes five to thirty times as long on a processor; and a
    transposed copy for the gradient, because its own transposed product takes six times as long.
    """
    places, values, shape = rows

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def product(dense: Any) -> Any:
        matrix = tf.raw_ops.SparseTensorToCSRSparseMatrix(indices=places, values=values, dense_shape=shape)

        def gradient(upstream: Any) -> Any:
            turned = tf.raw_ops.SparseMatrixTranspose(input=matrix, type=tf.float32)
            return tf.ensure_shape(tf.raw_ops.SparseMatrixMatMul(a=turned, b=upstream), dense.shape)

        return tf.raw_ops.SparseMatrixMatMul(a=matrix, b=dense), gradient

    found = product(tf.convert_to_tensor(weights))
    return tf.ensure_shape(found, [None, weights.shape[1]])


def by_epoch(make: Callable[[int], Iterator[Any]], signature: Any) -> Callable[[int], Any]:
    """The datasets of the epochs, as ``fit_epochs`` wants them, from what makes an epoch's batches of NumPy arrays.

    Batches are made in a thread of their own while the network trains. It is one dataset for all epochs, since making
    one takes as long as many steps of a small network.
    """
    epoch = [0]
    dataset = tf.data.Dataset.from_generator(lambda: make(epoch[0]), output_signature=signature).prefetch(4)

    def batches(number: int) -> Any:
        epoch[0] = number
        return dataset

    return batches


@dataclass(frozen=True, slots=True)
class Pairs:
    """P pairs of a user and an item that he took, once each, for models that tell them from pairs that are not there.

    A user who took every item is left out: there is nothing to tell his items from.

    Attributes:
        matrix: [U, I] CSR matrix with sorted columns.
        users: [P] row of each pair.
        items: [P] column of each pair.
        values: [P] what stands in the matrix there.
        candidates: [C] sorted columns from which negatives are drawn; they include all that were taken.
    """

    matrix: sparse.csr_matrix
    users: Ints
    items: Ints
    values: Floats
    candidates: Ints
    _ranks: Ints

    @classmethod
    def of(cls, matrix: sparse.csr_matrix, candidates: Ints | None = None) -> Self:
        """The pairs of a matrix; negatives are drawn from all its columns unless ``candidates`` are given."""
        candidates = np.arange(matrix.shape[1]) if candidates is None else candidates
        taken = np.diff(matrix.indptr).astype(np.int64)
        users = np.repeat(np.arange(matrix.shape[0]), taken)
        inside = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1].astype(np.int64), taken)
        # How many candidates that the user did not take stand before each one that he took; never falling for a user.
        ranks = np.searchsorted(candidates, matrix.indices) - inside + users * (len(candidates) + 1)
        some_left = taken[users] < len(candidates)
        items, values = matrix.indices[some_left].astype(np.int64), matrix.data[some_left].astype(np.float32)
        return cls(matrix, users[some_left], items, values, candidates, ranks)

    def __len__(self) -> int:
        """P."""
        return len(self.users)

    def negatives(self, users: Ints, count: int, rng: np.random.Generator) -> Ints:
        """[n, count] candidates that these users [n] did not take, each as likely as any other, perhaps one twice."""
        starts, taken = self.matrix.indptr[users].astype(np.int64), np.diff(self.matrix.indptr)[users]
        # The r-th candidate not taken is r plus the number of those taken before it: a search, and no drawing again.
        drawn = rng.integers(0, (len(self.candidates) - taken)[:, None], (len(users), count))
        key = drawn + users[:, None] * (len(self.candidates) + 1)
        before = np.searchsorted(self._ranks, key, side="right") - starts[:, None]
        found: Ints = self.candidates[drawn + before]
        return found

    def batches(self, size: int, count: int, rng: np.random.Generator) -> Iterator[tuple[Ints, Ints]]:
        """Places of the pairs in random order, [b] at a time, and ``count`` negatives of each [b, count]."""
        order = rng.permutation(len(self))
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            yield chosen, self.negatives(self.users[chosen], count, rng)


def history_batches(pairs: Pairs, size: int, count: int, rng: np.random.Generator) -> Iterator[tuple[Ints, Any]]:
    """The users [u] of each batch of pairs, once each, and the batch that ``HISTORIES`` describes.

    The order and the negatives come from ``rng`` alone.
    """
    for chosen, negatives in pairs.batches(size, count, rng):
        users, place = np.unique(pairs.users[chosen], return_inverse=True)
        rows = rows_of(pairs.matrix[users])
        yield users, (rows, place, pairs.items[chosen], pairs.values[chosen], negatives)


def rest_of_history(batch: Any, table: Any, power: float) -> Any:
    """[b, d] what each pair's user is without the pair's item: Σ w_j·t_j / (Σ w_j)^power over the rest of his row.

    Left in, the item would only have to recognise itself. Zero where nothing else is there.
    Source: Kabbur, Ning and Karypis, "FISM", KDD 2013, equation 5.
    """
    rows, place, items, values, _ = batch
    totals = tf.math.unsorted_segment_sum(rows[1], rows[0][:, 0], rows[2][0])
    weight = tf.gather(totals, place) - values
    sums = tf.gather(times(rows, table), place) - values[:, None] * tf.gather(table, items)
    some = weight > 1e-4
    return tf.where(some, tf.pow(tf.where(some, weight, 1.0), -power), 0.0)[:, None] * sums


def mean_history(matrix: sparse.csr_matrix, power: float) -> sparse.csr_matrix:
    """[n, I] rows over (Σ w_j)^power, so that their product with a table is what ``rest_of_history`` learns from."""
    weight = np.asarray(matrix.sum(axis=1)).ravel()
    scale = np.divide(1.0, weight**power, out=np.zeros_like(weight), where=weight > 1e-4)
    return sparse.diags(scale.astype(np.float32)) @ matrix


def carry(old: Any, new: Any, moved: list[tuple[Any, int, Ints]]) -> None:
    """Give a new network the weights of an old one that was made for other items or users.

    Args:
        old: the network so far.
        new: one of the same shape but for the axes in ``moved``.
        moved: variables of ``new``, the axis that changed, and for each place on it the old place or -1 for none,
            which keeps the new network's own.
    """
    axes = {id(variable): (axis, place) for variable, axis, place in moved}
    for source, target in zip(old.variables, new.variables, strict=True):
        if id(target) not in axes:
            target.assign(source)
            continue
        axis, place = axes[id(target)]
        values = np.moveaxis(target.numpy(), axis, 0)
        values[place >= 0] = np.moveaxis(source.numpy(), axis, 0)[place[place >= 0]]
        target.assign(np.moveaxis(values, 0, axis))
