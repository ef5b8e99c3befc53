"""The two-tower networks in TensorFlow Recommenders: what all pairs of towers share, and the pair for clicks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.interactions import Floats
from training.neural import keras, seeded, tf
from training.towers import Towers

import tensorflow_recommenders as tfrs  # isort: skip  # after training.neural, which chooses Keras 2 for it


class Sides(NamedTuple):
    """One batch.

    Attributes:
        queries: [B, d] unit vectors.
        ids: [C] the candidates, each once.
        candidates: [C, d] their unit vectors.
        offsets: [C] what is added to a candidate's products.
        log_inclusion: [C] log of the probability that a candidate would be one, whatever was taken.
        targets: [B] row of what each query took among the candidates.
    """

    queries: Any
    ids: Any
    candidates: Any
    offsets: Any
    log_inclusion: Any
    targets: Any


class TwoTowerNetwork(tfrs.Model):
    """Queries and candidates as vectors; the candidate that was taken is to have the highest product.

    A thin base: a subclass says in ``sides`` what a batch's queries, candidates and targets are. Each of its networks
    can be fitted by ``fit``, by ``training.neural.fit_epochs`` or by a loop of one's own around ``compute_loss``.

    The loss is −log (eˢ / (eˢ + Σ eᵗ / π)), with the score s = cos / temperature + offset of what was taken and those t
    of all other candidates, each counted as the 1 / π items for which it stands (log-Q). What was taken stands for
    itself only, as it is there for certain. Where all items are candidates this is ``tfrs.tasks.Retrieval``.

    Sources: Yi et al., "Sampling-bias-corrected neural modeling for large corpus item recommendations", RecSys 2019;
    Yang et al., "Mixed negative sampling for learning two-tower neural networks in recommendations", WWW 2020.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def sides(self, features: Any, training: bool) -> Sides:
        """Both sides of a batch."""
        raise NotImplementedError

    def penalty(self, features: Any, sides: Sides) -> Any:
        """What is added to a batch's loss; nothing unless a subclass says so."""
        return 0.0

    def compute_loss(self, features: Any, training: bool = False) -> Any:
        """Mean loss of a batch; a batch with ``count`` divides by that, where it is only a part of one."""
        sides = self.sides(features, training)
        logits = tf.matmul(sides.queries, sides.candidates, transpose_b=True) / self.temperature
        logits += sides.offsets - sides.log_inclusion
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(sides.targets, logits)
        # So far what was taken is corrected too. Of that loss x, the rest relative to eˢ is (eˣ − 1) / π.
        losses = tf.maximum(losses, 1e-6)
        rest = losses + tf.math.log1p(-tf.exp(-losses)) - tf.gather(sides.log_inclusion, sides.targets)
        losses = tf.math.softplus(rest)
        count = features["count"] if "count" in features else tf.size(sides.targets)
        return tf.reduce_sum(losses) / tf.cast(count, tf.float32) + self.penalty(features, sides)


def log_inclusion(shares: NDArray[np.float64], drawn: int, known: NDArray[np.bool_], evenly: int) -> Floats:
    """[I] log of the probability that an item is among a batch's candidates: log (1 − (1 − q)ᵈ (1 − 1/K)ᵉ).

    Args:
        shares: [I] q, the items' shares of the events.
        drawn: d, events in a batch.
        known: [I] the K items that negatives are drawn from.
        evenly: e, negatives drawn evenly with replacement; K or more stand for all of them, so nothing is corrected.
    """
    if evenly >= known.sum():
        return np.zeros(len(shares), np.float32)
    missed = drawn * np.log1p(-np.minimum(shares, 1 - 1e-9)) + known * evenly * np.log1p(-1 / known.sum())
    found: Floats = np.log(np.maximum(-np.expm1(missed), 1e-9)).astype(np.float32)
    return found


@dataclass(frozen=True, slots=True)
class TwoTowerSettings:
    """Sizes and rates; plain values, chosen on the validation windows of four simulated shops.

    Attributes:
        dimensions, hidden, embedding: sizes of the vectors, the hidden layers and the banners' embedding.
        epochs: passes over the clicks.
        batch: clicks in a training step.
        learning_rate: of Adam.
        temperature: what cosines are divided by in the softmax.
        negatives: banners drawn evenly besides those of the batch; where there are no more, all are candidates.
        unseen_share: share of the banners that a step takes for never seen, so that content learns to place them.
        prior: weight, in clicks, of what content alone says; the more clicks, the less it counts.
        seed: of first weights, order and draws.
    """

    dimensions: int = 32
    hidden: int = 64
    embedding: int = 16
    epochs: int = 9
    batch: int = 256
    learning_rate: float = 3e-3
    temperature: float = 0.2
    negatives: int = 1024
    unseen_share: float = 0.2
    prior: float = 200.0
    seed: int = 7


class ClickNetwork(TwoTowerNetwork):
    """Visitor and banner towers on the inputs of ``training.towers``, fitted to who clicked which banner.

    A banner is clicked as often as it is shown, times its click rate for that visitor. How often each was shown is
    known and enters as an offset, so that the cosine is left to say the rate.

    With few clicks, towers fit their noise. So the scores are drawn to those of towers that know only content, by
    Σ over banners of the mean square of the difference, which weighs as much as ``prior`` clicks.

    Args:
        start: towers to start from.
        banners: [B, W] tower inputs of all banners.
        exposures: [B] how often each was shown while these clicks happened.
        clicks: [B] how often each was clicked.
        settings: sizes and rates.
    """

    def __init__(
        self,
        start: Towers,
        banners: NDArray[np.float32],
        exposures: NDArray[np.float64],
        clicks: NDArray[np.int64],
        settings: TwoTowerSettings,
    ) -> None:
        super().__init__(settings.temperature)
        layers = keras.layers
        shape = [layers.Dense(settings.hidden, activation="relu"), layers.Dense(settings.dimensions)]
        self.visitor = keras.Sequential(shape)
        self.banner = keras.Sequential([layers.Dense.from_config(layer.get_config()) for layer in shape])
        self.embedding = layers.Embedding(len(banners) + 1, settings.embedding)
        self.settings, self.clicks, self.inputs = settings, max(1, int(clicks.sum())), tf.constant(banners)
        self.exposure = tf.constant(np.log(np.maximum(exposures, 0.5)), tf.float32)
        self.pool = tf.range(len(banners))
        known = np.ones(len(banners), dtype=bool)
        self.log_inclusion = tf.constant(log_inclusion(clicks / self.clicks, settings.batch, known, settings.negatives))
        self.content_vectors = tf.constant(start.banner_vectors(np.zeros(len(banners), np.int64), banners))
        self._begin(start)

    def _begin(self, start: Towers) -> None:
        self.visitor.build((None, start.visitor_hidden.shape[0]))
        self.embedding.build(None)
        self.banner.build((None, start.banner_hidden.shape[0]))
        values = [getattr(start, field.name) for field in fields(Towers)]
        for variable, value in zip(self.tower_weights, values, strict=True):
            variable.assign(value)

    @property
    def tower_weights(self) -> list[Any]:
        """The variables in the order of ``Towers``."""
        return [*self.visitor.weights, *self.embedding.weights, *self.banner.weights]

    def banner_vectors(self, ids: Any, inputs: Any) -> Any:
        """Unit vectors of banners."""
        return tf.math.l2_normalize(self.banner(tf.concat([self.embedding(ids), inputs], axis=1)), axis=1)

    def sides(self, features: Any, training: bool) -> Sides:
        """Visitors and banners of a batch of clicks."""
        visitors = tf.math.l2_normalize(self.visitor(features["visitor"]), axis=1)
        rows, targets = self.pool, features["banner"]
        if self.settings.negatives < len(self.inputs):
            drawn = tf.random.uniform([self.settings.negatives], 0, len(self.inputs), tf.int32)
            rows, places = tf.unique(tf.concat([features["banner"], drawn], axis=0))
            targets = places[: tf.size(targets)]
        seen = tf.random.uniform(tf.shape(rows)) >= self.settings.unseen_share if training else rows >= 0
        banners = self.banner_vectors(tf.where(seen, rows + 1, 0), tf.gather(self.inputs, rows))
        offsets, log_inclusion = tf.gather(self.exposure, rows), tf.gather(self.log_inclusion, rows)
        return Sides(visitors, rows, banners, offsets, log_inclusion, targets)

    def penalty(self, features: Any, sides: Sides) -> Any:
        """The distance of the scores from what content says."""
        content = tf.gather(self.content_vectors, sides.ids)
        expected = tf.matmul(features["content"], content, transpose_b=True)
        apart = (tf.matmul(sides.queries, sides.candidates, transpose_b=True) - expected) / self.temperature
        stands_for = len(self.inputs) / tf.cast(tf.size(sides.ids), tf.float32)
        squares = tf.reduce_sum(tf.reduce_mean(apart * apart, axis=0)) * stands_for
        return self.settings.prior / self.clicks * squares


def fit_two_tower(
    visitors: NDArray[np.float32],
    banner_rows: NDArray[np.int64],
    banners: NDArray[np.float32],
    settings: TwoTowerSettings,
    on_epoch: Callable[[int, float], None] | None = None,
    exposures: NDArray[np.float64] | None = None,
) -> Towers:
    """Fit on clicks and return the weights.

    Args:
        visitors: [n, V] tower inputs of the visitor of each click, as of its impression.
        banner_rows: [n] row of the clicked banner.
        banners: [B, W] tower inputs of all banners.
        on_epoch: called with the epoch's number and the loss of its last batch.
        exposures: [B] how often each banner was shown while these clicks happened; evenly unless given.
    """
    seeded(settings.seed)
    rng = np.random.default_rng(settings.seed)
    sizes = (settings.dimensions, settings.hidden, settings.embedding)
    start = Towers.from_content(visitors.shape[1], banners, *sizes, rng)
    shown = np.ones(len(banners)) if exposures is None else exposures
    network = ClickNetwork(start, banners, shown, np.bincount(banner_rows, minlength=len(banners)), settings)
    network.compile(optimizer=keras.optimizers.Adam(settings.learning_rate))
    clicks = {"visitor": visitors, "banner": banner_rows.astype(np.int32), "content": start.visitor_vectors(visitors)}
    data = tf.data.Dataset.from_tensor_slices(clicks).shuffle(len(banner_rows), seed=settings.seed)
    report = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: on_epoch(epoch + 1, float(logs["loss"])) if on_epoch else None
    )
    network.fit(data.batch(settings.batch).prefetch(2), epochs=settings.epochs, verbose=0, callbacks=[report])
    return Towers(*[variable.numpy() for variable in network.tower_weights])


class Content:
    """Rows of a CSR matrix [n, F] of content, ready to be multiplied in a training step; falsy where there is none."""

    def __init__(self, matrix: Any) -> None:
        self.columns = 0 if matrix is None else int(matrix.shape[1])
        if not self.columns:
            return
        matrix = matrix.tocsr()
        lengths = np.diff(matrix.indptr)
        longest = max(1, int(lengths.max(initial=0)))
        # A dense product costs one multiplication a column and a sparse one several a non-zero.
        self.is_dense = self.columns <= 8 * longest
        if self.is_dense:
            self.values = tf.constant(matrix.toarray(), tf.float32)
            return
        row = np.repeat(np.arange(len(lengths)), lengths)
        column = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], lengths)
        ids, values = np.zeros((len(lengths), longest), np.int32), np.zeros((len(lengths), longest), np.float32)
        ids[row, column], values[row, column] = matrix.indices, matrix.data
        self.ids, self.values = tf.constant(ids), tf.constant(values)

    def __bool__(self) -> bool:
        return self.columns > 0

    def times(self, rows: Any, table: Any) -> Any:
        """[len(rows), d] those rows times a table [F, d]."""
        if self.is_dense:
            return tf.matmul(tf.gather(self.values, rows), table)
        found = tf.gather(table, tf.gather(self.ids, rows))
        return tf.einsum("nmd,nm->nd", found, tf.gather(self.values, rows))
