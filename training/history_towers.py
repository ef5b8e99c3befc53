"""The towers of the two-tower recommender, one for histories and one for items, and the batches they learn from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.interactions import Floats, Interactions, Ints
from training.neural import tf
from training.two_tower import Content, Sides, TwoTowerNetwork, log_inclusion


class HistoryNetwork(TwoTowerNetwork):
    """A tower for histories and one for items, which share the items' vectors.

    An item's vector is its own plus that of its content; a history's is the mean of its items' vectors, turned by a
    matrix, plus what is known of the user. A batch is a table of events, see ``event_rows``; each event is a target
    of those before it in its row. All that is random depends on the seed and the step alone.

    Args:
        train: the events, and the content of items and users.
        settings: those of ``training.models.two_tower``.
    """

    def __init__(self, train: Interactions, settings: Any) -> None:
        super().__init__(settings.temperature)
        self.settings = settings
        counts = np.bincount(train.items, minlength=train.item_count)
        shares = counts / max(1, counts.sum())
        self.seen = counts > 0
        pool = np.flatnonzero(self.seen)
        self.pool = tf.constant(pool, tf.int32)
        self.place = tf.constant(np.cumsum(self.seen) - 1, tf.int32)
        self.takes_all = settings.negatives >= len(pool)
        self.log_inclusion = tf.constant(log_inclusion(shares, settings.batch, self.seen, settings.negatives))
        self.item_content, self.user_content = Content(train.item_features), Content(train.user_features)
        self.decay = tf.constant(decays(settings.length, settings.half_life))
        # The log of the shares is what a softmax without any taste would learn first.
        self.weights_by_name = self._variables(np.log(np.maximum(shares, 0.5 / max(1, counts.sum()))))

    def _variables(self, log_shares: NDArray[np.float64]) -> dict[str, Any]:
        size, rng = self.settings.dimensions, np.random.default_rng(self.settings.seed)
        first: dict[str, Any] = {
            "id_vectors": rng.normal(0, 0.1, (len(log_shares), size)),
            "id_biases": log_shares,
            "new_bias": log_shares[self.seen].mean() if self.seen.any() else 0.0,
            "projection": np.eye(size),
            "nobody": rng.normal(0, 0.1, size),
        }
        if self.item_content:
            first["content_vectors"] = rng.normal(0, 0.1, (self.item_content.columns, size))
            first["content_biases"] = np.zeros((self.item_content.columns, 1))
        if self.user_content:
            first["user_vectors"] = rng.normal(0, 0.1, (self.user_content.columns, size))
        return {name: tf.Variable(value, name=name, dtype=tf.float32) for name, value in first.items()}

    def sides(self, features: Any, training: bool) -> Sides:
        """Histories and items of a batch of events."""
        items, users, targets = features["items"], features["users"], features["targets"]
        ids, places = self._candidates(tf.reshape(items, [-1]), features["step"])
        vectors, biases = self._items(ids, features["step"] if training else None)
        seen_by = self._history_weights(users, features["step"] if training else None)
        if "part" in features:  # one worker's share of the queries; the candidates are all of the batch's
            items, users, targets, seen_by = (_part(x, features["part"]) for x in (items, users, targets, seen_by))
            places = _part(places, features["part"])
        rows = tf.reshape(tf.gather(vectors, places), (*items.shape, self.settings.dimensions))
        means = tf.boolean_mask(tf.matmul(seen_by, rows), targets)
        is_empty = tf.boolean_mask(tf.reduce_sum(seen_by, axis=2, keepdims=True) == 0, targets)
        queries = self._queries(means, is_empty, tf.boolean_mask(users, targets))
        rows = tf.boolean_mask(tf.reshape(places, items.shape), targets)
        return Sides(queries, ids, vectors, biases, tf.gather(self.log_inclusion, ids), rows)

    def _candidates(self, in_batch: Any, step: Any) -> tuple[Any, Any]:
        """Each candidate once [C], and where the batch's own items [N] stand among them."""
        if self.takes_all:
            return self.pool, tf.gather(self.place, in_batch)
        seed = tf.stack([self.settings.seed, 3 * step])
        drawn = tf.random.stateless_uniform([self.settings.negatives], seed, 0, tf.size(self.pool), tf.int32)
        ids, places = tf.unique(tf.concat([in_batch, tf.gather(self.pool, drawn)], axis=0))
        return ids, places[: tf.size(in_batch)]

    def _items(self, ids: Any, step: Any) -> tuple[Any, Any]:
        """Unit vectors [C, d] and biases [C]; with a step, some without what is their own."""
        own, biases = (
            tf.gather(self.weights_by_name["id_vectors"], ids),
            tf.gather(self.weights_by_name["id_biases"], ids),
        )
        if self.item_content:
            if step is not None and self.settings.id_dropout:
                seed = tf.stack([self.settings.seed, 3 * step + 1])
                hidden = tf.random.stateless_uniform([tf.size(ids)], seed) < self.settings.id_dropout
                own = tf.where(hidden[:, None], 0.0, own)
                biases = tf.where(hidden, self.weights_by_name["new_bias"], biases)
            own += self.item_content.times(ids, self.weights_by_name["content_vectors"])
            biases += self.item_content.times(ids, self.weights_by_name["content_biases"])[:, 0]
        return tf.math.l2_normalize(own, axis=1), biases

    def _history_weights(self, users: Any, step: Any) -> Any:
        """[W, L, L] share of each event in the mean that stands for the history of each target."""
        weights = tf.where(users[:, :, None] == users[:, None, :], self.decay, 0.0)
        if step is not None and self.settings.dropout:
            seed = tf.stack([self.settings.seed, 3 * step + 2])
            hidden = tf.random.stateless_uniform(tf.shape(weights), seed) < self.settings.dropout
            weights = tf.where(hidden, 0.0, weights)
        return tf.math.divide_no_nan(weights, tf.reduce_sum(weights, axis=2, keepdims=True))

    def _queries(self, means: Any, is_empty: Any, users: Any) -> Any:
        turned = tf.matmul(means, self.weights_by_name["projection"])
        turned += tf.where(is_empty, self.weights_by_name["nobody"], 0.0)
        if self.user_content:
            turned += self.user_content.times(users, self.weights_by_name["user_vectors"])
        return tf.math.l2_normalize(turned, axis=1)

    def learnt(self) -> dict[str, Floats]:
        """All weights by name."""
        return {name: variable.numpy() for name, variable in self.weights_by_name.items()}

    def carry(self, known: dict[str, Floats], items: Ints) -> None:
        """Start from known weights; ``items`` [I] is where each item stood, -1 for a new one.

        Content whose number of columns is another starts at random.
        """
        for name, variable in self.weights_by_name.items():
            if name.startswith("id_"):
                values = variable.numpy()
                values[items >= 0] = known[name][items[items >= 0]]
                variable.assign(values)
            elif name in known and known[name].shape == tuple(variable.shape):
                variable.assign(known[name])


def event_rows(train: Interactions, settings: Any, number: int, workers: int = 1) -> Any:
    """The ``tf.data.Dataset`` of an epoch's batches of events, with their step; it depends on the number alone.

    The users' histories follow each other in random order, cut into rows of ``length`` events: no row is padded, and a
    history that is cut is learnt from in parts, at other places in each epoch. A batch is

    - ``items``, ``users`` [W, L]: codes; what is of one user in a row is in order of time;
    - ``targets`` [W, L]: whether to learn to predict this event: not behind a cut, where what came before is not
      there, and not what the user took before, unless the settings want repeats;
    - ``step``: number of the batch since the first epoch's first one.

    The rows of a batch can be divided among ``workers``, where there are as many.
    """
    rng = np.random.default_rng([settings.seed, number])
    order = rng.permutation(np.flatnonzero(train.lengths))
    lengths = train.lengths[order]
    offsets = np.cumsum(lengths) - lengths
    events = np.repeat(train.starts[order] - offsets, lengths) + np.arange(len(train))
    length = min(settings.length, len(train))
    height = max(1, settings.batch // length)
    count = len(train) // length
    steps = max(1, round(count / height))
    height = count // steps
    height -= height % workers if height >= workers else 0
    events = events[: steps * height * length].reshape(-1, length)
    users = train.users[events]
    is_target = np.ones(len(train), dtype=bool) if settings.repeats else first_times(train)
    targets = is_target[events]
    is_first = events == train.starts[users]
    targets[:, 0] &= is_first[:, 0]
    rows = rng.permutation(len(events))
    table = {"items": train.items[events].astype(np.int32), "users": users.astype(np.int32), "targets": targets}
    data: dict[str, Any] = {name: values[rows].reshape(steps, height, length) for name, values in table.items()}
    data["step"] = (number - 1) * steps + np.arange(steps, dtype=np.int32)
    return tf.data.Dataset.from_tensor_slices(data).prefetch(2)


def first_times(train: Interactions) -> NDArray[np.bool_]:
    """[E] whether the user takes the item for the first time."""
    _, first = np.unique(train.users * train.item_count + train.items, return_index=True)
    found = np.zeros(len(train), dtype=bool)
    found[first] = True
    return found


def decays(length: int, half_life: float) -> Floats:
    """[L, L] weight of the event in a column in the history of the event in a row: 0 from the row's own place on."""
    back = np.arange(length)[:, None] - np.arange(length)[None, :] - 1
    kept = 0.5 ** (np.maximum(back, 0) / half_life) if half_life else np.ones(back.shape)
    return np.where(back >= 0, kept, 0.0).astype(np.float32)


def _part(values: Any, part: Any) -> Any:
    """The ``part[0]``-th of ``part[1]`` equal parts along the first axis."""
    size = tf.shape(values)[0] // part[1]
    return values[part[0] * size : (part[0] + 1) * size]
