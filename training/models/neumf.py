"""NeuMF: a product of factors and a deep network over the same pair, added up by one last layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from training.interactions import Floats, Interactions, Queries, places
from training.matrix_batches import (
    HISTORIES,
    Pairs,
    by_epoch,
    carry,
    history_batches,
    mean_history,
    rest_of_history,
)
from training.neural import LazyAdam, fit_epochs, keras, seeded, set_weights, tf, weights_of
from training.recommender import PLAIN, Fitting, Recommender

CELLS = 8_000_000
"""Activations of the first deep layer held at once while scoring: 32 MB."""


@dataclass(frozen=True, slots=True)
class NeuMFSettings:
    """Plain values.

    Attributes:
        factors: size of the embeddings that are multiplied.
        hidden: width of the first deep layer; each further one has half of it. Its embeddings have half of it too.
        layers: deep layers.
        negatives: items not taken, for each one taken.
        history_power: a visitor is the sum of his items' embeddings over their number to this power; 1 for the mean.
        epochs: passes over the pairs.
        update_epochs: passes over new pairs in ``update``.
        batch: pairs in a training step, without negatives.
        learning_rate: of Adam, falling to a tenth along half a cosine.
        weighted: use the events' weights in histories rather than 1 for each item once seen.
        seed: of weights, negatives and order.
    """

    factors: int = 32
    hidden: int = 64
    layers: int = 3
    negatives: int = 4
    history_power: float = 0.5
    epochs: int = 12
    update_epochs: int = 2
    batch: int = 1024
    learning_rate: float = 5e-3
    weighted: bool = False
    seed: int = 7


class NeuMF(Recommender):
    """Logit = h·[(p ⊙ q); MLP(p', q')] with log loss against sampled negatives.

    Source: He et al., "Neural collaborative filtering", WWW 2017. One thing differs: p and p' are no rows of a table of
    visitors but sums of embeddings of the items in a visitor's history (Kabbur et al., "FISM", KDD 2013). So whoever is
    new, or did something new, is scored without a fit, and nothing about a person is kept in the weights.
    """

    Settings = NeuMFSettings
    about = "product of factors beside a deep network over the pair"
    settings: NeuMFSettings

    @classmethod
    def space(cls, trial: Any) -> dict[str, Any]:
        """Sizes, negatives and rate."""
        return {
            "factors": trial.suggest_categorical("factors", [16, 32, 64]),
            "hidden": trial.suggest_categorical("hidden", [32, 64, 128]),
            "negatives": trial.suggest_int("negatives", 2, 10),
            "history_power": trial.suggest_float("history_power", 0.3, 1.0),
            "learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-2, log=True),
            "epochs": trial.suggest_int("epochs", 4, 30),
        }

    def fit(self, train: Interactions, fitting: Fitting = PLAIN) -> Self:
        """Learn to tell the pairs from others."""
        self.item_ids = train.item_ids
        seeded(self.settings.seed)
        self.network = NeuMFNetwork(train.item_count, self.settings)
        return self._fit_on(train, fitting, self.settings.epochs)

    def update(self, new: Interactions, fitting: Fitting = PLAIN) -> Self:
        """Go on from the present weights with new histories; items that are new too start at random."""
        seeded(self.settings.seed)
        network = NeuMFNetwork(new.item_count, self.settings)
        place = places(self.item_ids, new.item_ids)
        carry(self.network, network, [(network.histories, 0, place), (network.items, 0, place)])
        self.network, self.item_ids = network, new.item_ids
        return self._fit_on(new, fitting, self.settings.update_epochs)

    def _fit_on(self, train: Interactions, fitting: Fitting, epochs: int) -> Self:
        settings = self.settings
        pairs = Pairs.of(train.matrix(settings.weighted))

        def made(number: int) -> Iterator[Any]:
            rng = np.random.default_rng([settings.seed, number])
            yield from (batch for _, batch in history_batches(pairs, settings.batch, settings.negatives, rng))

        steps = max(1, epochs * -(-len(pairs) // settings.batch))
        # At one rate throughout, the quality of the last epochs goes up and down by a tenth.
        adam = LazyAdam(keras.optimizers.schedules.CosineDecay(settings.learning_rate, steps, alpha=0.1))
        network = self.network
        fit_epochs(self, network, network.loss, by_epoch(made, HISTORIES), adam, epochs, fitting)
        return self

    def score(self, queries: Queries) -> Floats:
        """Logits of all items."""
        network, count = self.network, len(self.item_ids)
        matrix = mean_history(queries.histories.matrix(self.settings.weighted), self.settings.history_power)
        visitors = (matrix @ network.histories.numpy()).astype(np.float32)
        shallow, deep = network.visitor_parts(visitors)
        items_shallow, items_deep = network.item_parts(network.items)
        scores: Floats = tf.matmul(shallow, items_shallow, transpose_b=True).numpy()
        width = int(items_deep.shape[1])
        block = min(count, max(1, CELLS // width))
        rows = max(1, CELLS // (width * block))
        for first in range(0, len(queries), rows):
            for left in range(0, count, block):
                some, these = slice(first, first + rows), slice(left, left + block)
                scores[some, these] += network.deep_scores(deep[some, None] + items_deep[None, these]).numpy()
        return scores

    def item_vectors(self) -> Floats:
        """[I, factors] the items' embeddings that are multiplied."""
        vectors: Floats = self.network.items.numpy()[:, : self.settings.factors]
        return vectors

    def state(self) -> dict[str, NDArray[Any]]:
        """The network's weights."""
        return weights_of(self.network)

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Take them back."""
        self.network = NeuMFNetwork(len(self.item_ids), self.settings)
        set_weights(self.network, state)


class NeuMFNetwork(tf.Module):
    """Embeddings of items as a history's and as a candidate: ``factors`` columns to multiply, then the deep ones.

    The first deep layer is linear in the visitor and the item before its activation, so for n visitors and I items its
    two products are made once for each, and only their sums n·I times.
    """

    def __init__(self, items: int, settings: NeuMFSettings) -> None:
        super().__init__()
        self.settings = settings
        columns = settings.factors + settings.hidden // 2
        self.histories = tf.Variable(tf.random.normal((items, columns), stddev=0.05), name="histories")
        self.items = tf.Variable(tf.random.normal((items, columns), stddev=0.05), name="items")
        widths = [max(1, settings.hidden >> depth) for depth in range(settings.layers)]
        self.visitor_layer = keras.layers.Dense(widths[0], use_bias=False)
        self.item_layer = keras.layers.Dense(widths[0])
        self.deeper = [keras.layers.Dense(width, "relu") for width in widths[1:]]
        self.product_layer = keras.layers.Dense(1, use_bias=False)
        self.deep_layer = keras.layers.Dense(1)
        self.product_layer.build((None, settings.factors))
        self.logits(tf.zeros((1, columns)), tf.zeros((1, 1, columns)))  # builds the others

    def visitor_parts(self, visitors: Any) -> tuple[Any, Any]:
        """[n, factors] with the last layer's weights in it, and [n, hidden], of visitors [n, columns]."""
        product = visitors[:, : self.settings.factors] * self.product_layer.kernel[:, 0]
        return product, self.visitor_layer(visitors[:, self.settings.factors :])

    def item_parts(self, items: Any) -> tuple[Any, Any]:
        """[.., factors] and [.., hidden] of items [.., columns]."""
        return items[..., : self.settings.factors], self.item_layer(items[..., self.settings.factors :])

    def deep_scores(self, sums: Any) -> Any:
        """[..] the deep part's share of the logits; its first layer before activation is ``sums`` [.., hidden]."""
        hidden = tf.nn.relu(sums)
        for layer in self.deeper:
            hidden = layer(hidden)
        return self.deep_layer(hidden)[..., 0]

    def logits(self, visitors: Any, items: Any) -> Any:
        """[b, m] logits of items [b, m, columns] for visitors [b, columns]."""
        product, deep = self.visitor_parts(visitors)
        items_product, items_deep = self.item_parts(items)
        return tf.einsum("bf,bmf->bm", product, items_product) + self.deep_scores(deep[:, None] + items_deep)

    def loss(self, batch: Any) -> Any:
        """Log loss of pairs and their negatives, mean over both."""
        items, negatives = batch[2], batch[4]
        visitors = rest_of_history(batch, self.histories, self.settings.history_power)
        candidates = tf.gather(self.items, tf.concat([items[:, None], negatives], axis=1))
        logits = self.logits(visitors, candidates)
        return tf.reduce_mean(tf.concat([tf.nn.softplus(-logits[:, :1]), tf.nn.softplus(logits[:, 1:])], axis=1))


MODEL = NeuMF
