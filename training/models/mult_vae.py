"""Mult-VAE: a variational autoencoder of a visitor's whole row of items, with a multinomial likelihood."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray

from training.interactions import Floats, Interactions, Ints, Queries, places
from training.matrix_batches import ROWS, STEP, by_epoch, carry, rows_of, times
from training.neural import LazyAdam, fit_epochs, keras, seeded, set_weights, tf, weights_of
from training.recommender import PLAIN, Fitting, Recommender


@dataclass(frozen=True, slots=True)
class MultVAESettings:
    """Plain values; those of the paper.

    Attributes:
        hidden: units between the items and the latent vector, on both sides.
        latent: size of the latent vector.
        dropout: share of a row's items that the encoder does not see while training.
        beta: highest weight of the divergence from the prior in the loss.
        anneal_steps: that weight rises by one in so many steps, from 0 until it is ``beta``.
        epochs: passes over the rows.
        update_epochs: passes over new rows in ``update``.
        batch: rows in a training step.
        learning_rate: of Adam.
        weighted: use the events' weights rather than 1 for each item once seen.
        seed: of weights, dropout, latent noise and order.
    """

    hidden: int = 600
    latent: int = 200
    dropout: float = 0.5
    beta: float = 0.2
    anneal_steps: int = 200_000
    epochs: int = 200
    update_epochs: int = 5
    batch: int = 500
    learning_rate: float = 1e-3
    weighted: bool = False
    seed: int = 7


class MultVAE(Recommender):
    """Items of a row are one draw from a softmax that a latent normal vector decides; scored at the vector's mean.

    Source: Liang et al., "Variational autoencoders for collaborative filtering", WWW 2018. Its weight of the divergence
    reaches 0.2 after 40,000 of 46,600 steps; where fewer steps will be made, it does so after the same share of them.
    Where the caller validates, the best epoch's weights are kept, and so the weight of the divergence that it had. An
    epoch may be two steps here, so a tenth of all epochs without progress are waited for, if the caller waits for less.
    """

    Settings = MultVAESettings
    about = "variational autoencoder of the whole row of items"
    settings: MultVAESettings

    @classmethod
    def space(cls, trial: Any) -> dict[str, Any]:
        """What changes the quality most: divergence, dropout and rate."""
        return {
            "beta": trial.suggest_float("beta", 0.05, 1.0, log=True),
            "dropout": trial.suggest_float("dropout", 0.3, 0.7),
            "learning_rate": trial.suggest_float("learning_rate", 3e-4, 3e-3, log=True),
            "latent": trial.suggest_categorical("latent", [64, 128, 200]),
            "batch": trial.suggest_categorical("batch", [100, 250, 500]),
        }

    def fit(self, train: Interactions, fitting: Fitting = PLAIN) -> Self:
        """Learn from all rows that have an item."""
        self.item_ids = train.item_ids
        seeded(self.settings.seed)
        self.network = MultVAENetwork(train.item_count, self.settings)
        return self._fit_on(train, fitting, self.settings.epochs, start=0.0)

    def update(self, new: Interactions, fitting: Fitting = PLAIN) -> Self:
        """Go on from the present weights with new rows; items that are new too start at random."""
        seeded(self.settings.seed)
        network = MultVAENetwork(new.item_count, self.settings)
        place = places(self.item_ids, new.item_ids)
        items = (network.reader.kernel, 0), (network.output.kernel, 1), (network.output.bias, 0)
        carry(self.network, network, [(variable, axis, place) for variable, axis in items])
        self.network, self.item_ids = network, new.item_ids
        return self._fit_on(new, fitting, self.settings.update_epochs, start=self.settings.beta)

    def _fit_on(self, train: Interactions, fitting: Fitting, epochs: int, start: float) -> Self:
        settings = self.settings
        matrix = train.matrix(settings.weighted)
        matrix = matrix[np.diff(matrix.indptr) > 0]
        steps = max(1, -(-matrix.shape[0] // settings.batch))
        rise = beta_rise(settings, steps * epochs)

        def loss(batch: Any) -> Any:
            rows, step = batch
            beta = tf.minimum(start + rise * tf.cast(step, tf.float32), settings.beta)
            return self.network.loss(rows, beta, step)

        def made(number: int) -> Iterator[Any]:
            order = np.random.default_rng([settings.seed, number]).permutation(matrix.shape[0])
            for step, start in enumerate(range(0, len(order), settings.batch), (number - 1) * steps):
                yield rows_of(matrix[order[start : start + settings.batch]]), np.int64(step)

        fitting = dataclasses.replace(fitting, patience=max(fitting.patience, epochs // 10))
        adam = LazyAdam(settings.learning_rate)
        fit_epochs(self, self.network, loss, by_epoch(made, (ROWS, STEP)), adam, epochs, fitting)
        return self

    def score(self, queries: Queries) -> Floats:
        """The decoder's logits at the mean of the latent vector."""
        scores: Floats = self.network.logits(self._rows(queries)).numpy()
        return scores

    def elbo(self, queries: Queries, draws: int = 8) -> Floats:
        """[n] evidence lower bound of each history's row in nats, the lower the less like those in training.

        A row's value is its likelihood under the multinomial (without the term that counts orders), averaged over
        draws of the latent vector, less the divergence from the prior. Long rows have lower values than short ones:
        divide by the number of items to compare. The draws are the same for all rows, so a row's value is its own.
        """
        noise = tf.random.stateless_normal([draws, self.settings.latent], [self.settings.seed, 0])
        bounds: Floats = np.zeros(len(queries), np.float32)
        for some in self._batches(len(queries)):
            rows = self._rows(queries.take(some))
            mean, log_variance = self.network.encode(rows)
            bounds[some] = -divergence(mean, log_variance)
            for draw in tf.unstack(noise):
                logits = self.network.decode(mean + draw * tf.exp(0.5 * log_variance))
                bounds[some] += log_likelihood(rows, logits) / draws
        return bounds

    def generate(self, sizes: Ints, seed: int) -> sparse.csr_matrix:
        """[n, I] CSR matrix of rows drawn from the model, as many items in each as ``sizes`` [n] says, none twice."""
        rng = np.random.default_rng(seed)
        noise = rng.standard_normal((len(sizes), self.settings.latent), dtype=np.float32)
        # The largest of logits plus Gumbel noise are a draw from the softmax without replacement.
        scores = self.network.decode(tf.constant(noise)).numpy() + rng.gumbel(size=(len(sizes), len(self.item_ids)))
        chosen = np.argsort(-scores, axis=1)[np.arange(len(self.item_ids)) < np.asarray(sizes)[:, None]]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        found = sparse.csr_matrix((np.ones(len(chosen), np.float32), chosen, starts), shape=scores.shape)
        found.sort_indices()
        return found

    def state(self) -> dict[str, NDArray[Any]]:
        """The network's weights."""
        return weights_of(self.network)

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Take them back."""
        self.network = MultVAENetwork(len(self.item_ids), self.settings)
        set_weights(self.network, state)

    def _rows(self, queries: Queries) -> tuple[Ints, Floats, Ints]:
        return rows_of(queries.histories.matrix(self.settings.weighted))


ANNEALED = 0.86
"""Share of the steps after which the weight of the divergence is highest: 40,000 of 46,600 in the paper's code."""


class MultVAENetwork(tf.Module):
    """Encoder I → hidden → latent and decoder back, tanh between. Rows are sparse: see ``rows_of``."""

    def __init__(self, items: int, settings: MultVAESettings) -> None:
        super().__init__()
        hidden, latent = settings.hidden, settings.latent
        self.rate, self.seed = settings.dropout, settings.seed
        self.reader = _dense(hidden)  # its product is ``times``, so tanh comes after
        self.normal = _dense(2 * latent)
        self.writer = _dense(hidden, "tanh")
        self.output = _dense(items)
        for layer, inputs in (self.reader, items), (self.normal, hidden), (self.writer, latent), (self.output, hidden):
            layer.build((None, inputs))

    def encode(self, rows: Any, seed: Any = None) -> tuple[Any, Any]:
        """[n, latent] mean and log variance; with a seed [2], some of the row's items are left out."""
        places, values, shape = rows
        squares = tf.math.unsorted_segment_sum(tf.square(values), places[:, 0], shape[0])
        values = values * tf.gather(tf.math.rsqrt(tf.maximum(squares, 1e-12)), places[:, 0])
        if seed is not None and self.rate:
            values = tf.nn.experimental.stateless_dropout(values, self.rate, seed)
        hidden = tf.tanh(times((places, values, shape), self.reader.kernel) + self.reader.bias)
        mean, log_variance = tf.split(self.normal(hidden), 2, axis=1)
        return mean, log_variance

    def decode(self, latent: Any) -> Any:
        """[n, I] logits."""
        return self.output(self.writer(latent))

    def logits(self, rows: Any) -> Any:
        """[n, I] logits at the mean."""
        return self.decode(self.encode(rows)[0])

    def loss(self, rows: Any, beta: Any, step: Any) -> Any:
        """β·KL − log likelihood, mean over the rows; dropout and noise come from seed and step alone."""
        mean, log_variance = self.encode(rows, seed=tf.stack([step, 2 * self.seed]))
        noise = tf.random.stateless_normal(tf.shape(mean), tf.stack([step, 2 * self.seed + 1]))
        logits = self.decode(mean + noise * tf.exp(0.5 * log_variance))
        return tf.reduce_mean(beta * divergence(mean, log_variance) - log_likelihood(rows, logits))


def _dense(units: int, activation: str | None = None) -> Any:
    """A layer with the published start: Glorot uniform weights, biases near zero."""
    return keras.layers.Dense(units, activation, bias_initializer=keras.initializers.TruncatedNormal(stddev=0.001))


def log_likelihood(rows: Any, logits: Any) -> Any:
    """[n] Σ_i x_i log softmax(logits)_i of sparse rows x."""
    places, values, shape = rows
    chosen = values * tf.gather_nd(logits, places)
    total = tf.math.unsorted_segment_sum(values, places[:, 0], shape[0])
    taken = tf.math.unsorted_segment_sum(chosen, places[:, 0], shape[0])
    return taken - total * tf.reduce_logsumexp(logits, axis=1)


def divergence(mean: Any, log_variance: Any) -> Any:
    """[n] Kullback–Leibler divergence of a diagonal normal from the standard one: ½ Σ (μ² + σ² − ln σ² − 1)."""
    return 0.5 * tf.reduce_sum(tf.square(mean) + tf.exp(log_variance) - log_variance - 1.0, axis=1)


def beta_rise(settings: MultVAESettings, steps: int) -> float:
    """How much the weight of the divergence rises in each of so many steps."""
    return max(1.0 / settings.anneal_steps, settings.beta / (ANNEALED * max(steps, 1)))


MODEL = MultVAE
