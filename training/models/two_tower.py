"""Two-tower: a history's vector beside an item's, both learnt by a softmax over a batch's items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray

from training.interactions import Floats, Interactions, Queries, places
from training.recommender import PLAIN, Fitting, Recommender


@dataclass(frozen=True, slots=True)
class TwoTowerSettings:
    """Plain values.

    Attributes:
        dimensions: length of the vectors, without the item's bias.
        length: events in a row of a training batch, so the longest history that is learnt from.
        history: events of a history that are read when asked; 0 for all.
        half_life: an event so many events back counts half in the history's mean; 0 for a plain mean.
        repeats: whether an item that the user took before is a target too.
        temperature: what products of unit vectors are divided by in the softmax.
        negatives: items drawn evenly besides those of the batch; where there are no more, all are candidates.
        dropout: share of a history's events that are hidden while training.
        id_dropout: share of the items whose own vector is hidden in a step, so that content learns to place them.
        epochs: passes over the events.
        update_epochs: as ``epochs``, for ``update``.
        batch: events in a training step.
        learning_rate: of Adam.
        seed: of first weights, order, dropout and negatives.
    """

    dimensions: int = 64
    length: int = 64
    history: int = 0
    half_life: float = 0.0
    repeats: bool = False
    temperature: float = 0.3
    negatives: int = 1024
    dropout: float = 0.5
    id_dropout: float = 0.1
    epochs: int = 16
    update_epochs: int = 3
    batch: int = 2048
    learning_rate: float = 2e-3
    seed: int = 7


class TwoTower(Recommender):
    """s(h, i) = cos(q(h), v(i)) / temperature + b(i).

    The item tower adds an item's own vector and its content's; the query tower takes the mean of the history's items,
    turns it by a matrix and adds what is known of the user. Trained to predict each event from those before it with a
    softmax over the items of the batch and others drawn evenly, corrected for how likely each was to be a candidate.

    An item without events is placed by its content. Without content too it comes last. New users need nothing: a
    history is all that is asked for.

    Sources: Yi et al., "Sampling-bias-corrected neural modeling for large corpus item recommendations", RecSys 2019;
    Yang et al., "Mixed negative sampling for learning two-tower neural networks in recommendations", WWW 2020; the
    mean of the history's items as in Covington et al., "Deep neural networks for YouTube recommendations", RecSys 2016.
    """

    Settings = TwoTowerSettings
    about = "towers for history and item, with content of both; batch softmax with log-Q and mixed negatives"
    scores_new_items = True
    settings: TwoTowerSettings

    @classmethod
    def space(cls, trial: Any) -> dict[str, Any]:
        """Settings for a trial of Optuna."""
        return {
            "dimensions": trial.suggest_categorical("dimensions", [32, 64, 128]),
            "temperature": trial.suggest_float("temperature", 0.05, 0.5, log=True),
            "dropout": trial.suggest_float("dropout", 0.0, 0.8),
            "half_life": trial.suggest_categorical("half_life", [0.0, 3.0, 10.0, 30.0]),
            "learning_rate": trial.suggest_float("learning_rate", 5e-4, 5e-3, log=True),
        }

    def fit(self, train: Interactions, fitting: Fitting = PLAIN) -> Self:
        """Learn from all events, from random vectors and the items' shares as biases."""
        return self._fit_on(train, fitting, self.settings.epochs, known=None)

    def update(self, new: Interactions, fitting: Fitting = PLAIN) -> Self:
        """Go on with all events; items that are new start at random."""
        return self._fit_on(new, fitting, self.settings.update_epochs, known=(self.item_ids, self.weights))

    def _fit_on(
        self, train: Interactions, fitting: Fitting, epochs: int, known: tuple[Any, dict[str, Floats]] | None
    ) -> Self:
        from training.history_towers import HistoryNetwork, event_rows
        from training.neural import LazyAdam, fit_epochs, seeded

        settings = self.settings
        seeded(settings.seed)
        network = HistoryNetwork(train, settings)
        if known:
            network.carry(known[1], places(known[0], train.item_ids))
        fit_epochs(
            self,
            network,
            lambda batch: network.compute_loss(batch, training=True),
            lambda number: event_rows(train, settings, number),
            LazyAdam(settings.learning_rate),
            epochs,
            fitting,
            lambda: self.take(network, train),
        )
        self.take(network, train)
        return self

    def take(self, network: Any, train: Interactions) -> None:
        """Be what a ``HistoryNetwork`` learnt from these events."""
        self.item_ids, self.weights = train.item_ids, network.learnt()
        self.vectors, self.biases = placed(self.weights, train.item_features, network.seen)

    def score(self, queries: Queries) -> Floats:
        """cos / temperature + bias, which is near a log-probability."""
        return self.query_vectors(queries) @ (self.vectors.T / np.float32(self.settings.temperature)) + self.biases

    def query_vectors(self, queries: Queries) -> Floats:
        """[n, d] unit vectors of the histories, as the query tower makes them."""
        histories = queries.histories.last(self.settings.history) if self.settings.history else queries.histories
        back = np.repeat(histories.starts[1:], histories.lengths) - np.arange(len(histories)) - 1
        weights = 0.5 ** (back / self.settings.half_life) if self.settings.half_life else np.ones(len(histories))
        shape = (histories.user_count, len(self.vectors))
        shares = sparse.csr_matrix((weights.astype(np.float32), histories.items, histories.starts), shape=shape)
        totals = np.asarray(shares.sum(axis=1))
        means = (shares @ self.vectors) / np.maximum(totals, 1e-12)
        turned = means @ self.weights["projection"] + np.where(totals == 0, self.weights["nobody"], 0.0)
        if "user_vectors" in self.weights and histories.user_features is not None:
            turned = turned + histories.user_features @ self.weights["user_vectors"]
        return unit(turned)

    def item_vectors(self) -> Floats:
        """The item tower's unit vectors."""
        return self.vectors

    def state(self) -> dict[str, NDArray[Any]]:
        """Where the items stand, and the weights to go on from."""
        return {"vectors": self.vectors, "biases": self.biases, **self.weights}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Take them back."""
        self.vectors, self.biases = state.pop("vectors"), state.pop("biases")
        self.weights = state


def placed(weights: dict[str, Floats], content: Any, seen: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Unit vectors [I, d] and biases [I] of all items, from their own weights where training saw them and content."""
    vectors = np.where(seen[:, None], weights["id_vectors"], np.float32(0))
    biases = np.where(seen, weights["id_biases"], weights["new_bias"])
    if content is None:
        blank = ~seen
    else:
        vectors = vectors + content @ weights["content_vectors"]
        biases = biases + (content @ weights["content_biases"])[:, 0]
        blank = ~seen & (np.diff(content.indptr) == 0)
    biases[blank] = biases.min(initial=0.0)
    return unit(vectors), biases.astype(np.float32)


def unit(vectors: NDArray[Any]) -> Floats:
    """Each row divided by its length; TensorFlow's floor under the length, so that both agree on a row of zeros."""
    squared = np.sum(vectors * vectors, axis=1, keepdims=True)
    found: Floats = (vectors / np.sqrt(np.maximum(squared, 1e-12))).astype(np.float32)
    return found


MODEL = TwoTower
