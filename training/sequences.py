"""What GRU4Rec and SASRec share: histories as tables, a softmax over sampled items, scores over all items."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from training.interactions import Floats, Interactions, Ints, Queries, places
from training.neural import Dropout, LazyAdam, fit_epochs, keras, seeded, set_weights, tf, weights_of
from training.recommender import PLAIN, Fitting, Recommender

SHOWN: Final = 5_000_000
"""Events that a fit shows, unless told its epochs."""


@dataclass(frozen=True, slots=True)
class SequenceSettings:
    """Plain values of both models.

    Attributes:
        dimensions: size of the items' embeddings and of the state.
        length: newest events of a history that are read.
        epochs: passes over the data; 0 for as many as show five million events, at least 10 and at most 200.
        batch: histories in a training step.
        learning_rate: of Adam, falling to a tenth along half a cosine.
        dropout: share of the embeddings' cells left out while training.
        output_dropout: share of the state's cells left out while training.
        negatives: items sampled for each step; 0 for the softmax over all items.
        popularity: negatives are drawn with chance ∝ (events of the item)^popularity.
        scale: state and items are compared by cosine times this; 0 for the plain product with a bias for each item.
        loss: "softmax" or "gbce".
        calibration: t of gBCE: 0 is plain binary cross-entropy, 1 removes all overconfidence.
        weight_decay: of AdamW, decoupled.
        seed: of weights, negatives and order.
    """

    dimensions: int = 100
    length: int = 20
    epochs: int = 0
    batch: int = 512
    learning_rate: float = 4e-3
    dropout: float = 0.3
    output_dropout: float = 0.1
    negatives: int = 2048
    popularity: float = 0.5
    scale: float = 14.0
    loss: str = "softmax"
    calibration: float = 0.75
    weight_decay: float = 0.0
    seed: int = 7


class SequenceRecommender(Recommender):
    """A network that turns a history into a state, which is compared with the items' embeddings (tied weights).

    Every position of a history is trained to name the next item, so one pass learns from all prefixes at once.
    Losses: softmax over sampled items with log-Q correction (Bengio and Senécal 2008); gBCE (Petrov and Macdonald,
    RecSys 2023). Cosine with a scale: Gupta et al., "NISER", 2019.
    """

    settings: Any

    @classmethod
    def space(cls, trial: Any) -> dict[str, Any]:
        """What matters most."""
        return {
            "dimensions": trial.suggest_categorical("dimensions", [64, 100, 200]),
            "learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-2, log=True),
            "dropout": trial.suggest_float("dropout", 0.1, 0.6),
            "output_dropout": trial.suggest_float("output_dropout", 0.0, 0.4),
            "scale": trial.suggest_categorical("scale", [0.0, 10.0, 14.0, 18.0]),
            "popularity": trial.suggest_float("popularity", 0.0, 1.0),
        }

    @abstractmethod
    def encoder(self) -> Any:
        """A Keras layer from embedded histories [B, T, d] and lengths [B] to states [B, T, d], never looking ahead."""

    def fit(self, train: Interactions, fitting: Fitting = PLAIN) -> Self:
        """Learn from all prefixes of all histories."""
        seeded(self.settings.seed)
        self.item_ids = train.item_ids
        self._build(np.bincount(train.items, minlength=train.item_count))
        self._fit_on(train, fitting, self._epochs(train))
        return self

    def update(self, new: Interactions, fitting: Fitting = PLAIN) -> Self:
        """Go on from the present weights for a fifth of the epochs; items that are new start at random."""
        seeded(self.settings.seed)
        names, old = self.item_ids, self.network
        self.item_ids = new.item_ids
        self._build(np.bincount(new.items, minlength=new.item_count))
        place = places(names, new.item_ids)
        kept = np.flatnonzero(place >= 0)
        for own, others, first in ((self.network.embeddings, old.embeddings, 1), (self.network.bias, old.bias, 0)):
            values = own.numpy()
            values[kept + first] = others.numpy()[place[kept] + first]
            own.assign(values)
        for own, others in zip(self.network.encoder.weights, old.encoder.weights, strict=True):
            own.assign(others)
        self._fit_on(new, fitting, max(1, self._epochs(new) // 5))
        return self

    def score(self, queries: Queries) -> Floats:
        """Similarity of each history's state with every item; popularity for an empty history."""
        scores = self.states(queries) @ self._items.T + self._bias
        empty = queries.histories.lengths == 0
        scores[empty] = self.counts.astype(np.float32)
        return scores

    def log_probabilities(self, queries: Queries) -> Floats:
        """[n, I] natural logarithm of each item's chance to come next; the rows' chances sum to 1."""
        scores = self.score(queries)
        empty = queries.histories.lengths == 0
        scores[empty] = np.log(np.maximum(self.counts, 0.5)).astype(np.float32)
        highest = scores.max(axis=1, keepdims=True)
        normaliser = highest + np.log(np.exp(scores - highest).sum(axis=1, keepdims=True, dtype=np.float64))
        logs: Floats = (scores - normaliser).astype(np.float32)
        return logs

    def states(self, queries: Queries) -> Floats:
        """[n, d] what the network makes of each history."""
        table, lengths = _table(queries.histories, self.settings.length)
        states: Floats = self._encode_last(tf.constant(table), tf.constant(lengths)).numpy()
        states *= self.settings.scale or 1.0
        return states

    def item_vectors(self) -> Floats:
        """[I, d] the items' embeddings; of length 1 where they are compared by cosine."""
        return self._items

    def state(self) -> dict[str, NDArray[Any]]:
        """Weights, and how often each item was seen."""
        return {"counts": self.counts, **weights_of(self.network)}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Take them back."""
        self._build(state["counts"])
        set_weights(self.network, state)
        self._remember()

    def _build(self, counts: Ints) -> None:
        self.counts = counts
        self.network = SequenceNetwork(self.encoder(), len(counts), self.settings)
        self.network.states(tf.zeros((1, 2), tf.int64), tf.ones(1, tf.int64), training=False)
        signature = [tf.TensorSpec([None, None], tf.int64), tf.TensorSpec([None], tf.int64)]
        self._encode_last = tf.function(self.network.last_states, input_signature=signature)
        self._items, self._bias = np.zeros((0, 0), np.float32), np.zeros(0, np.float32)

    def _epochs(self, train: Interactions) -> int:
        """Few events need many passes: after ten over a thousand sessions the network has learnt next to nothing."""
        return self.settings.epochs or int(np.clip(SHOWN // max(1, len(train)), 10, 200))

    def _remember(self) -> None:
        """Keep the items' side as arrays, so that scoring is one product."""
        self._items = self.network.items().numpy()
        self._bias = self.network.bias.numpy()

    def _fit_on(self, train: Interactions, fitting: Fitting, epochs: int) -> None:
        settings, network = self.settings, self.network
        table, lengths = _windows(train, settings.length)
        steps = max(1, -(-len(table) // settings.batch))
        rate = keras.optimizers.schedules.CosineDecay(settings.learning_rate, steps * epochs, alpha=0.1)
        optimizer = LazyAdam(rate, weight_decay=settings.weight_decay or None)
        chances = np.maximum(self.counts, 1).astype(np.float64) ** settings.popularity
        network.draw_from(chances / chances.sum())

        def batches(epoch: int) -> Any:
            rng = np.random.default_rng([settings.seed, epoch])
            return _batches(table, lengths, settings.batch, rng)

        fit_epochs(self, network, network.loss, batches, optimizer, epochs, fitting, self._remember)
        self._remember()


class SequenceNetwork(tf.Module):
    """Embeddings, encoder and loss. Item codes are shifted by one inside: row 0 of the embeddings is padding."""

    def __init__(self, encoder: Any, items: int, settings: Any) -> None:
        super().__init__()
        self.settings, self.encoder = settings, encoder
        spread = 1.0 / np.sqrt(settings.dimensions)
        start = tf.random.uniform((items + 1, settings.dimensions), -spread, spread)
        self.embeddings = tf.Variable(start, name="embeddings")
        self.bias = tf.Variable(tf.zeros(items), name="bias", trainable=not settings.scale)
        self.input_dropout = Dropout(settings.dropout, settings.seed + 1)
        self.output_dropout = Dropout(settings.output_dropout, settings.seed + 2)
        self.cumulative, self.chances = tf.zeros(0), tf.zeros(0)
        self.random = tf.random.Generator.from_seed(settings.seed)  # its state is kept in checkpoints

    def draw_from(self, chances: NDArray[np.float64]) -> None:
        """Set the chance of each item to be drawn as a negative."""
        self.cumulative = tf.constant(np.cumsum(chances), tf.float32)
        self.chances = tf.constant(chances, tf.float32)

    def items(self) -> Any:
        """[I, d] the items as the state is compared with them."""
        return self._comparable(self.embeddings[1:])

    def states(self, table: Any, lengths: Any, training: bool) -> Any:
        """[B, T, d] the state after each event of the histories [B, T], codes from 1, padding 0 behind."""
        embedded = (
            self._comparable(tf.gather(self.embeddings, table))
            if self.settings.scale
            else (tf.gather(self.embeddings, table))
        )
        embedded = self.input_dropout(embedded, training=training)
        states = self.encoder(embedded, lengths, training=training)
        return self._comparable(self.output_dropout(states, training=training))

    def last_states(self, table: Any, lengths: Any) -> Any:
        """[B, d] the state after the last event of each history; anything for an empty one."""
        states = self.states(table, lengths, training=False)
        return tf.gather(states, tf.maximum(lengths - 1, 0), batch_dims=1)

    def loss(self, batch: Any) -> Any:
        """Mean loss over all positions that have a next item."""
        table, lengths = batch
        states = self.states(table[:, :-1], lengths - 1, training=True)
        here = tf.sequence_mask(lengths - 1, tf.shape(table)[1] - 1)
        states = tf.boolean_mask(states, here) * (self.settings.scale or 1.0)
        targets = tf.boolean_mask(table[:, 1:], here) - 1
        if not self.settings.negatives:
            logits = tf.matmul(states, self.items(), transpose_b=True) + self.bias
            return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits))
        return self._sampled(states, targets)

    def _sampled(self, states: Any, targets: Any) -> Any:
        drawn, log_expected = self._draw()
        own = self._comparable(tf.gather(self.embeddings, targets + 1))
        others = self._comparable(tf.gather(self.embeddings, drawn + 1))
        positive = tf.reduce_sum(states * own, axis=1) + tf.gather(self.bias, targets)
        negative = tf.matmul(states, others, transpose_b=True) + tf.gather(self.bias, drawn)
        if self.settings.loss == "gbce":
            return self._gbce(positive, _without_hits(negative, drawn, targets))
        # log-Q: a drawn item stands for all that were not, the more the rarer it is drawn.
        negative = _without_hits(negative - log_expected, drawn, targets)
        everything = tf.concat([positive[:, None], negative], axis=1)
        return tf.reduce_mean(tf.reduce_logsumexp(everything, axis=1) - positive)

    def _draw(self) -> tuple[Any, Any]:
        """Different items [m] in ascending order, and the logarithm of how often each was to be expected."""
        uniform = self.random.uniform([self.settings.negatives]) * self.cumulative[-1]
        drawn = tf.minimum(tf.searchsorted(self.cumulative, uniform), tf.size(self.cumulative) - 1)
        drawn = tf.cast(tf.unique(tf.sort(drawn)).y, tf.int64)
        # The chance to be among them at least once: 1 − (1 − q)^n.
        chance = -tf.math.expm1(self.settings.negatives * tf.math.log1p(-tf.gather(self.chances, drawn)))
        return drawn, tf.math.log(chance)

    def _gbce(self, positive: Any, negative: Any) -> Any:
        """Binary cross-entropy; the positive's probability to the power β undoes the sampling's overconfidence."""
        count = tf.cast(tf.shape(negative)[1], tf.float32)
        alpha = count / tf.cast(tf.maximum(tf.size(self.bias) - 1, 1), tf.float32)
        beta = alpha * (self.settings.calibration * (1 - 1 / alpha) + 1 / alpha)
        others = tf.reduce_sum(tf.nn.softplus(negative), axis=1)
        return tf.reduce_mean(beta * tf.nn.softplus(-positive) + others) / (count + 1)

    def _comparable(self, vectors: Any) -> Any:
        return tf.math.l2_normalize(vectors, axis=-1) if self.settings.scale else vectors


def _without_hits(scores: Any, drawn: Any, targets: Any) -> Any:
    """Scores [N, m] with a row's own target taken out where it was drawn too; ``drawn`` ascends."""
    place = tf.minimum(tf.searchsorted(drawn, targets), tf.size(drawn) - 1)
    row = tf.where(tf.gather(drawn, place) == targets)[:, 0]
    hits = tf.stack([tf.cast(row, tf.int32), tf.gather(place, row)], axis=1)
    return tf.tensor_scatter_nd_update(scores, hits, tf.fill([tf.size(row)], tf.constant(-1e9)))


def _table(histories: Interactions, length: int) -> tuple[Ints, Ints]:
    """[n, T] the newest items of each history from the left, codes from 1 and 0 behind, and [n] how many there are."""
    newest = histories.last(length)
    lengths = newest.lengths
    table = np.zeros((newest.user_count, max(2, int(lengths.max(initial=0)))), dtype=np.int64)
    columns = np.arange(len(newest)) - np.repeat(newest.starts[:-1], lengths)
    table[newest.users, columns] = newest.items + 1
    return table, lengths


def _windows(train: Interactions, length: int) -> tuple[Ints, Ints]:
    """Histories of at least two events, cut into windows of ``length`` inputs and their next items."""
    lengths = train.lengths
    pieces = np.maximum(0, -(-(lengths - 1) // length))
    user = np.repeat(np.arange(train.user_count), pieces)
    number = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    # Counted from the end, so that the newest events make a whole window; windows share one event.
    stops = train.starts[1:][user] - number * length
    starts = np.maximum(train.starts[:-1][user], stops - length - 1)
    sizes = stops - starts
    table = np.zeros((len(user), int(sizes.max(initial=2))), dtype=np.int64)
    rows = np.repeat(np.arange(len(user)), sizes)
    columns = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    table[rows, columns] = train.items[np.repeat(starts, sizes) + columns] + 1
    return table, sizes


def _batches(table: Ints, lengths: Ints, size: int, rng: np.random.Generator) -> Any:
    """Batches of histories of like length, in an order of the epoch's own, cut to their longest."""
    order = rng.permutation(len(table))
    # Alike in length, but drawn from everywhere: sorted only within pieces of fifty batches.
    pieces = [
        piece[np.argsort(lengths[piece], kind="stable")]
        for piece in np.split(order, range(0, len(order), 50 * size)[1:])
    ]
    groups = [piece[at : at + size] for piece in pieces for at in range(0, len(piece), size)]
    groups = [groups[place] for place in rng.permutation(len(groups))]

    def rows() -> Any:
        for group in groups:
            yield table[group, : lengths[group].max()], lengths[group]

    signature = (tf.TensorSpec([None, None], tf.int64), tf.TensorSpec([None], tf.int64))
    return tf.data.Dataset.from_generator(rows, output_signature=signature).prefetch(4)
