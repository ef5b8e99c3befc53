"""Deep Matrix Factorization: networks over the visitor's row and the item's column, compared by cosine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray

from training.interactions import Floats, Interactions, Queries, places
from training.matrix_batches import NUMBERS, ROWS, TABLE, Pairs, by_epoch, carry, rows_of, times
from training.neural import LazyAdam, fit_epochs, keras, seeded, set_weights, tf, weights_of
from training.recommender import PLAIN, Fitting, Recommender

ROWS_AT_ONCE = 4096
"""Columns of the matrix that are read together when all items' vectors are made."""


@dataclass(frozen=True, slots=True)
class DMFSettings:
    """Plain values.

    Attributes:
        user_hidden: width of the first layer over a visitor's row.
        item_hidden: width of the first layer over an item's column.
        dimensions: width of both last layers.
        negatives: items not taken, for each one taken.
        highest: a rating is the sum of the events' weights, and at most this.
        hide_target: a pair's own rating is taken out of its row and its column, so that it has to be foreseen.
        epochs: passes over the pairs.
        update_epochs: passes over new pairs in ``update``.
        batch: pairs in a training step, without negatives.
        learning_rate: of Adam.
        seed: of weights, negatives and order.
    """

    user_hidden: int = 64
    item_hidden: int = 128
    dimensions: int = 32
    negatives: int = 7
    highest: float = 5.0
    hide_target: bool = True
    epochs: int = 20
    update_epochs: int = 2
    batch: int = 128
    learning_rate: float = 1e-3
    seed: int = 7


class DMF(Recommender):
    """Cosine of two networks' outputs, with the cross-entropy of ratings over the highest rating.

    Source: Xue et al., "Deep matrix factorization models for recommender systems", IJCAI 2017. The visitor's network
    reads a history, so new visitors need no fit; the items' vectors are made once a fit from their columns.
    """

    Settings = DMFSettings
    about = "deep networks over the visitor's row and the item's column, compared by cosine"
    settings: DMFSettings

    @classmethod
    def space(cls, trial: Any) -> dict[str, Any]:
        """Sizes, negatives and rate."""
        return {
            "dimensions": trial.suggest_categorical("dimensions", [32, 64, 128]),
            "user_hidden": trial.suggest_categorical("user_hidden", [64, 128, 256]),
            "item_hidden": trial.suggest_categorical("item_hidden", [64, 128, 256]),
            "negatives": trial.suggest_int("negatives", 3, 15),
            "batch": trial.suggest_categorical("batch", [128, 512, 2048]),
            "learning_rate": trial.suggest_float("learning_rate", 3e-4, 3e-3, log=True),
            "epochs": trial.suggest_int("epochs", 5, 40),
        }

    def fit(self, train: Interactions, fitting: Fitting = PLAIN) -> Self:
        """Learn both networks."""
        self.item_ids, self.user_ids = train.item_ids, train.user_ids
        seeded(self.settings.seed)
        self.network = DMFNetwork(train.user_count, train.item_count, self.settings)
        return self._fit_on(train, fitting, self.settings.epochs)

    def update(self, new: Interactions, fitting: Fitting = PLAIN) -> Self:
        """Go on from the present weights with new ratings; items without one keep their vectors."""
        seeded(self.settings.seed)
        present = self.item_vectors()
        network = DMFNetwork(new.user_count, new.item_count, self.settings)
        place = places(self.item_ids, new.item_ids)
        users = network.item_reader, 0, places(self.user_ids, new.user_ids)
        carry(self.network, network, [(network.user_reader, 0, place), users])
        self.network, self.item_ids, self.user_ids = network, new.item_ids, new.user_ids
        self._fit_on(new, fitting, self.settings.update_epochs)
        kept = (np.bincount(new.items, minlength=new.item_count) == 0) & (place >= 0)
        self.item_vectors()[kept] = present[place[kept]]
        return self

    def _fit_on(self, train: Interactions, fitting: Fitting, epochs: int) -> Self:
        settings, network = self.settings, self.network
        matrix = self._ratings(train)
        self._columns = columns = _sorted(matrix.T)
        self._vectors: Floats | None = None
        pairs = Pairs.of(matrix)
        network.highest.assign(max(float(matrix.data.max(initial=0.0)), 1e-6))

        batches = by_epoch(lambda number: _two_sided(pairs, columns, settings, number), BATCH)
        adam = LazyAdam(settings.learning_rate)
        fit_epochs(self, network, network.loss, batches, adam, epochs, fitting, self._forget)
        self._forget()
        self.item_vectors()
        return self

    def score(self, queries: Queries) -> Floats:
        """Cosines."""
        visitors = self.network.user_vectors(rows_of(self._ratings(queries.histories))).numpy()
        scores: Floats = visitors @ self.item_vectors().T
        return scores

    def item_vectors(self) -> Floats:
        """[I, dimensions] unit vectors of the items from their columns in training; made once."""
        if self._vectors is None:
            parts = [
                self.network.item_vectors(rows_of(self._columns[start : start + ROWS_AT_ONCE])).numpy()
                for start in range(0, self._columns.shape[0], ROWS_AT_ONCE)
            ]
            self._vectors = np.concatenate(parts)
        return self._vectors

    def state(self) -> dict[str, NDArray[Any]]:
        """The networks' weights, whose rows the items' network reads, and the items' vectors."""
        return {"user_ids": self.user_ids, "item_vectors": self.item_vectors(), **weights_of(self.network)}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Take them back."""
        self.user_ids, self._vectors = state["user_ids"], state["item_vectors"]
        self.network = DMFNetwork(len(self.user_ids), len(self.item_ids), self.settings)
        set_weights(self.network, state)

    def _ratings(self, histories: Interactions) -> sparse.csr_matrix:
        matrix = histories.matrix(weighted=True)
        np.minimum(matrix.data, self.settings.highest, out=matrix.data)
        return matrix

    def _forget(self) -> None:
        self._vectors = None


BATCH = (ROWS, ROWS, NUMBERS, TABLE, NUMBERS, NUMBERS, tf.TensorSpec([None], tf.float32))
"""Rows of the batch's users and columns of its items, once each; place among them of each pair's user [b] and of its
item and negatives [b, 1 + k]; user, item and rating of each pair [b]."""


def _two_sided(pairs: Pairs, columns: sparse.csr_matrix, settings: DMFSettings, number: int) -> Iterator[Any]:
    rng = np.random.default_rng([settings.seed, number])
    for chosen, negatives in pairs.batches(settings.batch, settings.negatives, rng):
        users, items, ratings = pairs.users[chosen], pairs.items[chosen], pairs.values[chosen]
        some_users, user_place = np.unique(users, return_inverse=True)
        candidates = np.concatenate([items[:, None], negatives], axis=1)
        some_items, item_place = np.unique(candidates, return_inverse=True)
        sides = rows_of(pairs.matrix[some_users]), rows_of(columns[some_items])
        yield *sides, user_place, item_place.reshape(candidates.shape), users, items, ratings


class DMFNetwork(tf.Module):
    """Each side: a linear layer over a sparse row of ratings, a ReLU layer, and division by the length."""

    def __init__(self, users: int, items: int, settings: DMFSettings) -> None:
        super().__init__()
        self.settings = settings
        self.user_reader = tf.Variable(tf.random.truncated_normal((items, settings.user_hidden), stddev=0.01))
        self.item_reader = tf.Variable(tf.random.truncated_normal((users, settings.item_hidden), stddev=0.01))
        self.user_layer = keras.layers.Dense(settings.dimensions, "relu")
        self.item_layer = keras.layers.Dense(settings.dimensions, "relu")
        self.user_layer.build((None, settings.user_hidden))
        self.item_layer.build((None, settings.item_hidden))
        self.highest = tf.Variable(1.0, name="highest", trainable=False)

    def user_vectors(self, rows: Any) -> Any:
        """[n, dimensions] of visitors' rows of ratings."""
        return tf.math.l2_normalize(self.user_layer(times(rows, self.user_reader)), axis=-1)

    def item_vectors(self, columns: Any) -> Any:
        """[n, dimensions] of items' columns of ratings."""
        return tf.math.l2_normalize(self.item_layer(times(columns, self.item_reader)), axis=-1)

    def loss(self, batch: Any) -> Any:
        """Normalised cross-entropy of pairs and their negatives, mean over both."""
        rows, columns, user_place, item_place, users, items, ratings = batch
        visitors = tf.gather(times(rows, self.user_reader), user_place)
        candidates = tf.gather(times(columns, self.item_reader), item_place)
        if self.settings.hide_target:
            # The first layer is linear: without a rating means less its share.
            visitors -= ratings[:, None] * tf.gather(self.user_reader, items)
            own = ratings[:, None] * tf.gather(self.item_reader, users)
            candidates -= tf.pad(own[:, None], [[0, 0], [0, tf.shape(candidates)[1] - 1], [0, 0]])
        visitors = tf.math.l2_normalize(self.user_layer(visitors), axis=-1)
        candidates = tf.math.l2_normalize(self.item_layer(candidates), axis=-1)
        return tf.reduce_mean(cross_entropy(tf.einsum("bd,bmd->bm", visitors, candidates), ratings / self.highest))


def cross_entropy(cosines: Any, shares: Any) -> Any:
    """[b, 1 + k] −s ln c − (1 − s) ln(1 − c) with s the pair's rating over the highest in column 0, and 0 elsewhere."""
    cosines = tf.clip_by_value(cosines, 1e-6, 1.0 - 1e-6)
    wanted = tf.pad(shares[:, None], [[0, 0], [0, tf.shape(cosines)[1] - 1]])
    return -wanted * tf.math.log(cosines) - (1.0 - wanted) * tf.math.log(1.0 - cosines)


def _sorted(matrix: Any) -> sparse.csr_matrix:
    found = sparse.csr_matrix(matrix)
    found.sort_indices()
    return found


MODEL = DMF
