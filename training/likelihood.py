"""How likely a session was, under a model that gives each item a probability to come next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from marquee.errors import MarqueeError
from training.interactions import Floats, Interactions, Ints, Queries
from training.recommender import PLAIN, Fitting, model_class

CAP = 1.0
"""Deviations above what the model expects at which one event's surprise ends: one odd step is nothing, all are much."""
CELLS = 4_000_000
"""Probabilities held at once: 32 MB."""
EVEN = 0.01
"""Share of an even distribution in every probability, so that what a model rules out is unlikely and not impossible."""


@runtime_checkable
class SequenceModel(Protocol):
    """A model that says how likely each item comes next; ``markov``, ``gru4rec`` and ``sasrec`` do."""

    item_ids: NDArray[np.str_]

    def fit(self, train: Interactions, fitting: Fitting = PLAIN) -> Self:
        """Learn from the sessions."""

    def log_probabilities(self, queries: Queries) -> Floats:
        """[n, I] natural logarithm of each item's chance to come next; the rows' chances sum to 1."""


@dataclass(frozen=True, slots=True)
class Surprise:
    """What a model thought of each of U sessions, summed over its events from the second on, in nats.

    An event's surprise is −log p, but at most ``CAP`` deviations above its mean. Uncapped, a single step that hardly
    anybody takes outweighs all others (Huber, "Robust estimation of a location parameter", 1964).

    Attributes:
        events: [U] how many events were judged.
        likelihood: [U] log p of what came.
        found: [U] surprise at what came.
        expected: [U] the mean of the surprise under the model itself.
        variance: [U] the variance of the surprise under the model itself.
    """

    events: Ints
    likelihood: NDArray[np.float64]
    found: NDArray[np.float64]
    expected: NDArray[np.float64]
    variance: NDArray[np.float64]


def sequence_model(name: str, **settings: Any) -> SequenceModel:
    """A model of that name, not fitted.

    Raises:
        MarqueeError: there is none, or it gives no probabilities.
    """
    model = model_class(name)(**settings)
    if not isinstance(model, SequenceModel):
        raise MarqueeError(f"{name} gives scores and no probabilities; take a sequence model, such as markov")
    return model


def ask_next(table: Ints, item_ids: NDArray[np.str_], at: float = 0.0) -> Queries:
    """Questions what comes next for unknown askers.

    Args:
        table: [n, h] items of each history, oldest first, -1 in front where it is shorter.
        item_ids: names of all items.
        at: moment of asking and of all events.
    """
    lengths = (table >= 0).sum(axis=1)
    items = table[table >= 0]
    histories = Interactions(
        user_ids=np.full(len(table), "", dtype=np.str_),
        item_ids=item_ids,
        starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=items,
        times=np.full(len(items), at),
        weights=np.ones(len(items), np.float32),
        contexts=np.zeros(len(items), np.int64),
    )
    return Queries(histories, np.full(len(table), -1), np.full(len(table), at), np.zeros(len(table), np.int64))


def surprise(model: SequenceModel, sessions: Interactions, history: int) -> Surprise:
    """Judge every event but the first of each session by what came before it.

    Args:
        model: fitted, on the same items.
        sessions: what is judged.
        history: newest events before it that the model is told; the fewer, the more often the same question is asked,
            and each is answered once.
    """
    place = np.arange(len(sessions)) - np.repeat(sessions.starts[:-1], sessions.lengths)
    judged = np.flatnonzero(place > 0)
    histories, question = np.unique(_histories(sessions, judged, history), axis=0, return_inverse=True)
    question = question.ravel()
    order = np.argsort(question, kind="stable")
    bounds = np.searchsorted(question[order], np.arange(len(histories) + 1))
    values = np.zeros((4, len(judged)))
    step = max(1, CELLS // max(1, sessions.item_count))
    for start in range(0, len(histories), step):
        stop = min(start + step, len(histories))
        here = order[bounds[start] : bounds[stop]]
        row = question[here] - start
        chances = _chances(model.log_probabilities(ask_next(histories[start:stop], sessions.item_ids)))
        bits = -np.log(chances)
        values[0, here] = -bits[row, sessions.items[judged[here]]]
        mean, variance = _moments(chances, bits)
        bits = np.minimum(bits, (mean + CAP * np.sqrt(variance))[:, None])
        values[1, here] = bits[row, sessions.items[judged[here]]]
        mean, variance = _moments(chances, bits)
        values[2, here], values[3, here] = mean[row], variance[row]
    users, count = sessions.users[judged], sessions.user_count
    sums = [np.bincount(users, weights=one, minlength=count).astype(np.float64) for one in values]
    return Surprise(np.bincount(users, minlength=count), *sums)


def _histories(sessions: Interactions, places: Ints, history: int) -> Ints:
    """[n, history] items before each place within its session, -1 in front."""
    begins = np.repeat(sessions.starts[:-1], sessions.lengths)[places]
    before = places[:, None] - np.arange(history, 0, -1)
    return np.where(before >= begins[:, None], sessions.items[np.maximum(before, 0)], -1)


def _moments(chances: NDArray[np.float64], bits: NDArray[np.float64]) -> tuple[Any, Any]:
    """[n] mean and [n] variance of each row's values."""
    mean = np.einsum("ni,ni->n", chances, bits)
    return mean, np.maximum(np.einsum("ni,ni->n", chances * bits, bits) - mean**2, 0.0)


def _chances(log_probabilities: Floats) -> NDArray[np.float64]:
    """[n, I] probabilities, a little evened out."""
    chances: NDArray[np.float64] = np.exp(log_probabilities.astype(np.float64))
    chances *= 1.0 - EVEN
    chances += EVEN / chances.shape[1]
    return chances
