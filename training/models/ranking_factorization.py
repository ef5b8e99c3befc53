"""Ranking factorization: biases, factors and the content of visitors and items in one sum, trained to rank."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray

from marquee.errors import MarqueeError
from training.interactions import Floats, Interactions, Queries, places
from training.matrix_batches import (
    HISTORIES,
    ROWS,
    STEP,
    TABLE,
    Pairs,
    by_epoch,
    carry,
    history_batches,
    mean_history,
    rest_of_history,
    rows_of,
    times,
)
from training.neural import LazyAdam, fit_epochs, seeded, set_weights, tf, weights_of
from training.recommender import PLAIN, Fitting, Recommender

LOSSES = ("logistic", "bpr", "rating")


@dataclass(frozen=True, slots=True)
class RankingFactorizationSettings:
    """Plain values.

    Attributes:
        factors: size of the visitors' and the items' vectors.
        negatives: items not taken, for each one taken.
        ranking_regularisation: how much a negative's loss counts beside a positive's; unused by "bpr".
        loss: "logistic": taken or not; "bpr": what was taken stands above what was not; "rating": the events' weights
            are ratings to be met, and negatives are pushed below nearly all ratings.
        regularisation: L2 penalty on the vectors of each pair.
        history_power: a visitor is the sum of his items' vectors over their number to this power; 1 for the mean.
        hidden_share: share of pairs in which the items' own vectors are hidden where items have features, so that the
            features learn to speak for a new item alone.
        epochs: passes over the pairs.
        update_epochs: passes over new pairs in ``update``.
        batch: pairs in a training step, without negatives.
        learning_rate: of Adam.
        weighted: use the events' weights rather than 1 for each item once seen; always so for "rating".
        seed: of weights, negatives and order.
    """

    factors: int = 32
    negatives: int = 4
    ranking_regularisation: float = 0.25
    loss: str = "logistic"
    regularisation: float = 3e-3
    history_power: float = 0.5
    hidden_share: float = 0.2
    epochs: int = 20
    update_epochs: int = 2
    batch: int = 1024
    learning_rate: float = 3e-3
    weighted: bool = False
    seed: int = 7


class RankingFactorization(Recommender):
    """Score = μ + w_i + w_j + a·x_i + b·y_j + u_i·v_j for visitor i with features x and item j with features y.

    Features enter the vectors too: v_j is the item's own plus what its features say, so an item without events has
    that alone. w_i and u_i are sums over the visitor's history (Kabbur et al., "FISM", KDD 2013) plus what his features
    say, so a new visitor needs no fit. Sources: Rendle, "Factorization machines", ICDM 2010; Rendle et al., "BPR",
    UAI 2009. Negatives that count for a part only: the ranking regularisation of GraphLab Create's model of this name.
    """

    Settings = RankingFactorizationSettings
    about = "biases, factors and side features in one sum, trained to rank"
    scores_new_items = True
    """Where items have features; without any, new items all have the same score."""
    settings: RankingFactorizationSettings

    @classmethod
    def space(cls, trial: Any) -> dict[str, Any]:
        """Loss, size, penalties and rate."""
        return {
            "loss": trial.suggest_categorical("loss", ["logistic", "bpr"]),
            "factors": trial.suggest_categorical("factors", [16, 32, 64, 128]),
            "negatives": trial.suggest_int("negatives", 2, 16),
            "ranking_regularisation": trial.suggest_float("ranking_regularisation", 0.1, 1.0, log=True),
            "regularisation": trial.suggest_float("regularisation", 1e-7, 1e-2, log=True),
            "history_power": trial.suggest_float("history_power", 0.3, 1.0),
            "learning_rate": trial.suggest_float("learning_rate", 5e-4, 1e-2, log=True),
            "epochs": trial.suggest_int("epochs", 5, 40),
        }

    def fit(self, train: Interactions, fitting: Fitting = PLAIN) -> Self:
        """Learn to put pairs above others.

        Raises:
            MarqueeError: there is no such loss.
        """
        if self.settings.loss not in LOSSES:
            raise MarqueeError(f"there is no loss {self.settings.loss!r}; there are {', '.join(LOSSES)}")
        self.item_ids = train.item_ids
        seeded(self.settings.seed)
        self.item_scale, self.user_scale = _scale(train.item_features), _scale(train.user_features)
        sizes = (train.item_count, len(self.item_scale), len(self.user_scale))
        self.network = RankingFactorizationNetwork(*sizes, self.settings)
        self.seen = np.zeros(train.item_count, dtype=bool)
        self.parts: Floats = np.zeros((train.item_count, self.settings.factors + 1), np.float32)
        return self._fit_on(train, fitting, self.settings.epochs)

    def update(self, new: Interactions, fitting: Fitting = PLAIN) -> Self:
        """Go on from the present weights with new histories; items that are new too start from their content.

        Raises:
            MarqueeError: there are not as many features as in the fit.
        """
        seeded(self.settings.seed)
        sizes = (new.item_count, len(self.item_scale), len(self.user_scale))
        network = RankingFactorizationNetwork(*sizes, self.settings)
        place = places(self.item_ids, new.item_ids)
        carry(self.network, network, [(network.histories, 0, place), (network.items, 0, place)])
        self.seen = np.where(place >= 0, self.seen[place], False)
        self.network, self.item_ids = network, new.item_ids
        return self._fit_on(new, fitting, self.settings.update_epochs)

    def _fit_on(self, train: Interactions, fitting: Fitting, epochs: int) -> Self:
        settings, network = self.settings, self.network
        self.seen |= np.bincount(train.items, minlength=train.item_count) > 0
        self.item_content = _scaled(train.item_features, self.item_scale, train.item_count)
        visitors = _scaled(train.user_features, self.user_scale, train.user_count)
        # An item that nobody could take yet must not be learnt as one that nobody wants.
        pairs = Pairs.of(self._matrix(train), np.flatnonzero(self.seen) if len(self.item_scale) else None)
        network.expect(pairs.values)
        made = by_epoch(
            lambda number: self._with_content(pairs, visitors, number), (HISTORIES, ROWS, ROWS, TABLE, STEP)
        )
        adam = LazyAdam(settings.learning_rate)
        fit_epochs(self, network, network.loss, made, adam, epochs, fitting, self._remember)
        self._remember()
        return self

    def _with_content(self, pairs: Pairs, visitors: sparse.csr_matrix, number: int) -> Iterator[Any]:
        """Pairs of an epoch, with features of their users and of all their items, once each, and the step's number."""
        settings = self.settings
        rng = np.random.default_rng([settings.seed, number])
        made = history_batches(pairs, settings.batch, settings.negatives, rng)
        for step, (users, batch) in enumerate(made, (number - 1) * -(-len(pairs) // settings.batch)):
            items = np.concatenate([batch[2][:, None], batch[4]], axis=1)
            once, place = np.unique(items, return_inverse=True)
            content = rows_of(visitors[users]), rows_of(self.item_content[once])
            yield batch, *content, place.reshape(items.shape), np.int64(step)

    def score(self, queries: Queries) -> Floats:
        """The sum for all items."""
        histories = queries.histories
        mean = mean_history(self._matrix(histories), self.settings.history_power)
        visitors = mean @ self.network.histories.numpy()
        if len(self.user_scale):
            features = _scaled(histories.user_features, self.user_scale, histories.user_count)
            visitors = visitors + features @ self.network.user_content.numpy()
        biases = self.network.mean.numpy() + visitors[:, :1] + self.parts[:, 0]
        scores: Floats = (biases + visitors[:, 1:] @ self.parts[:, 1:].T).astype(np.float32)
        return scores

    def item_vectors(self) -> Floats:
        """[I, factors] the items' vectors, from their content where they are new; biases are not in them."""
        return self.parts[:, 1:]

    def state(self) -> dict[str, NDArray[Any]]:
        """Weights by name, the items' biases and vectors, which items were seen, and the features' scales."""
        names = ("item_scale", "user_scale", "seen", "parts")
        return {name: getattr(self, name) for name in names} | weights_of(self.network)

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Take them back."""
        self.item_scale, self.user_scale = state["item_scale"], state["user_scale"]
        self.seen, self.parts = state["seen"], state["parts"]
        sizes = (len(self.item_ids), len(self.item_scale), len(self.user_scale))
        self.network = RankingFactorizationNetwork(*sizes, self.settings)
        set_weights(self.network, state)

    def _matrix(self, histories: Interactions) -> sparse.csr_matrix:
        return histories.matrix(self.settings.weighted or self.settings.loss == "rating")

    def _remember(self) -> None:
        """The items' own parts, or the unknown item's for those without events, plus their content's."""
        network = self.network
        parts = network.items.numpy()
        if len(self.item_scale):
            parts = np.where(self.seen[:, None], parts, network.unknown.numpy())
            parts += self.item_content @ network.item_content.numpy()
        self.parts = parts


class RankingFactorizationNetwork(tf.Module):
    """Tables whose column 0 is a bias and whose others are vectors: of items as histories, as candidates, of features.

    Content starts at zero: what it says beyond the items' own rows has to be learnt.
    """

    def __init__(self, items: int, item_features: int, user_features: int, settings: RankingFactorizationSettings):
        super().__init__()
        self.settings, columns = settings, settings.factors + 1
        self.mean = tf.Variable(0.0, name="mean")
        self.low = tf.Variable(0.0, name="low", trainable=False)
        self.histories = tf.Variable(tf.random.normal((items, columns), stddev=0.1), name="histories")
        self.items = tf.Variable(tf.random.normal((items, columns), stddev=0.1), name="items")
        self.unknown = tf.Variable(tf.zeros(columns), name="unknown")
        self.item_content = tf.Variable(tf.zeros((item_features, columns)), name="item_content")
        self.user_content = tf.Variable(tf.zeros((user_features, columns)), name="user_content")

    def expect(self, ratings: Floats) -> None:
        """Set what negatives are pushed below: nearly all ratings, or 0 where they are all alike."""
        spread = float(ratings.std()) if len(ratings) else 0.0
        self.low.assign(float(ratings.mean()) - 1.96 * spread if spread else 0.0)

    def loss(self, batch: Any) -> Any:
        """Mean loss of pairs and their negatives, with the penalty on their vectors."""
        pairs, user_rows, item_rows, place, step = batch
        visitors = rest_of_history(pairs, self.histories, self.settings.history_power)
        if self.user_content.shape[0]:
            visitors += tf.gather(times(user_rows, self.user_content), pairs[1])
        items = tf.gather(self.items, tf.concat([pairs[2][:, None], pairs[4]], axis=1))
        if self.item_content.shape[0]:
            drawn = tf.random.stateless_uniform(tf.shape(place), tf.stack([step, self.settings.seed]))
            items = tf.where(drawn[:, :, None] < self.settings.hidden_share, self.unknown, items)
            items += tf.gather(times(item_rows, self.item_content), place)
        scores = self.mean + visitors[:, :1] + items[:, :, 0]
        scores += tf.einsum("bf,bmf->bm", visitors[:, 1:], items[:, :, 1:])
        squares = tf.reduce_sum(tf.square(visitors)) + tf.reduce_sum(tf.square(items))
        penalty = self.settings.regularisation * squares / tf.cast(tf.shape(place)[0], tf.float32)
        return tf.reduce_mean(self.pair_losses(scores[:, 0], scores[:, 1:], pairs[3])) + penalty

    def pair_losses(self, positive: Any, negatives: Any, ratings: Any) -> Any:
        """[b] losses of scores of pairs [b] and of their negatives [b, k]."""
        share = self.settings.ranking_regularisation
        if self.settings.loss == "bpr":
            return ratings * tf.reduce_mean(tf.nn.softplus(negatives - positive[:, None]), axis=1)
        if self.settings.loss == "logistic":
            return ratings * tf.nn.softplus(-positive) + share * tf.reduce_sum(tf.nn.softplus(negatives), axis=1)
        above = tf.square(tf.nn.relu(negatives - self.low))
        return tf.square(positive - ratings) + share * tf.reduce_sum(above, axis=1)


def _scale(features: Any) -> Floats:
    """[F] largest size of each feature, to bring all to at most 1; empty where there are none."""
    if features is None:
        return np.zeros(0, np.float32)
    largest: Floats = abs(features).max(axis=0).toarray().ravel().astype(np.float32)
    return np.where(largest > 0, largest, 1.0).astype(np.float32)


def _scaled(features: Any, scale: Floats, rows: int) -> sparse.csr_matrix:
    """[rows, F] CSR matrix of features over their scale; of zeros where there are none.

    Raises:
        MarqueeError: there are not as many features as scales.
    """
    if features is None or not len(scale):
        return sparse.csr_matrix((rows, len(scale)), dtype=np.float32)
    if features.shape[1] != len(scale):
        raise MarqueeError(f"there are {features.shape[1]} features, and the model was fitted on {len(scale)}")
    found = sparse.csr_matrix(features @ sparse.diags(1.0 / scale), dtype=np.float32)
    found.sort_indices()
    return found


MODEL = RankingFactorization
