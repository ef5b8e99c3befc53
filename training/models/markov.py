"""Markov: the next item's probability from the last few, backing off from long contexts to short ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray

from marquee.errors import MarqueeError
from training.co_occurrence import packed, unpacked
from training.interactions import Floats, Interactions, Ints, Queries
from training.recommender import PLAIN, Fitting, Recommender

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MarkovSettings:
    """Plain values.

    Attributes:
        order: the longest context: so many items before the next one.
        smoothing: what the shorter contexts count: "absolute", how often an item came; "kneser_ney", after how many
            different items it came.
        discount: D, taken off every count in favour of the shorter context, above 0 and below 1; 0 has it estimated
            for each length from the counts of 1 and 2: n₁ / (n₁ + 2 n₂).
    """

    order: int = 3
    smoothing: Literal["absolute", "kneser_ney"] = "absolute"
    discount: float = 0.0


class Markov(Recommender):
    """P(b | h) = (max(c(h b) − D, 0) + D · d(h) · P(b | h')) / c(h), h' being h without its oldest item.

    c(h b) counts how often b came right after the items h, c(h) = Σ_b c(h b), d(h) the different items that came. A
    context never seen leaves all to the shorter one; the empty one, popularity, is mixed in the same way with 1/I. So
    every item has a probability above 0, and a row sums to 1.

    Sources: interpolated absolute discounting, Ney, Essen, Kneser, "On structuring probabilistic dependences in
    stochastic language modelling", 1994; continuation counts, Kneser and Ney, "Improved backing-off for m-gram language
    modeling", ICASSP 1995. A history's first item has the empty context; the end of a history is no event.
    """

    Settings = MarkovSettings
    about = "the last items' successors, backing off"
    settings: MarkovSettings
    popular: Floats

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if self.settings.order < 1 or not 0 <= self.settings.discount < 1:
            raise MarqueeError("markov: order is 1 or more, and discount 0 (estimated) or below 1")
        if self.settings.smoothing not in ("absolute", "kneser_ney"):
            raise MarqueeError(f"markov: smoothing is absolute or kneser_ney, not {self.settings.smoothing!r}")

    @classmethod
    def space(cls, trial: Any) -> dict[str, Any]:
        """Settings for a trial of Optuna."""
        return {
            "order": trial.suggest_int("order", 1, 4),
            "smoothing": trial.suggest_categorical("smoothing", ["absolute", "kneser_ney"]),
            "discount": trial.suggest_float("discount", 0.05, 0.95),
        }

    def fit(self, train: Interactions, fitting: Fitting = PLAIN) -> Self:
        """Count what followed each context."""
        self.item_ids = train.item_ids
        place = np.arange(len(train)) - np.repeat(train.starts[:-1], train.lengths)
        context = np.zeros(len(train), dtype=np.int64)
        self.keys: list[Ints] = []
        counts = []
        for order in range(1, self.settings.order + 1):
            # A context is its newer part's number and one older item; those too close to the start have none.
            older = np.where(place >= order, train.items[np.maximum(np.arange(len(train)) - order, 0)], 0)
            key = np.where((place >= order) & (context >= 0), context * train.item_count + older, -1)
            known = np.unique(key[key >= 0])
            context = np.where(key >= 0, np.searchsorted(known, key), -1)
            self.keys.append(known)
            counts.append(_counted(context, train.items, (len(known), train.item_count)))
        popular = np.bincount(train.items, minlength=train.item_count).astype(np.float64)
        self._learn(popular, counts)
        return self

    def score(self, queries: Queries) -> Floats:
        """The probabilities."""
        contexts = self._contexts(queries.histories)
        found = np.tile(self.popular, (len(queries), 1))
        for context, own, rest in zip(contexts, self.own, self.rest, strict=True):
            rows = np.flatnonzero(context >= 0)
            found[rows] *= rest[context[rows], None]
            part = own[context[rows]]
            found[np.repeat(rows, np.diff(part.indptr)), part.indices] += part.data
        return found

    def log_probabilities(self, queries: Queries) -> Floats:
        """[n, I] natural logarithm of each item's probability to come next; the rows' probabilities sum to 1."""
        logarithms: Floats = np.log(self.score(queries))
        return logarithms

    def state(self) -> dict[str, NDArray[Any]]:
        """Popularity, and of each length the contexts, their discounted shares, and what they leave to shorter ones."""
        state: dict[str, NDArray[Any]] = {"popular": self.popular}
        for order, (keys, own, rest) in enumerate(zip(self.keys, self.own, self.rest, strict=True)):
            state |= {f"keys_{order}": keys, f"rest_{order}": rest, **packed(f"own_{order}", own)}
        return state

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Take them back."""
        orders = range(self.settings.order)
        self.popular = state["popular"]
        self.keys = [state[f"keys_{order}"] for order in orders]
        self.own = [unpacked(f"own_{order}", state) for order in orders]
        self.rest = [state[f"rest_{order}"] for order in orders]

    def _contexts(self, histories: Interactions) -> list[Ints]:
        """Of each length, the number of each history's context [n]; -1 where it was never seen or is too short."""
        newest = histories.padded(self.settings.order)
        context = np.zeros(histories.user_count, dtype=np.int64)
        found = []
        for order, keys in enumerate(self.keys, 1):
            older = newest[:, -order]
            key = np.where((older >= 0) & (context >= 0), context * histories.item_count + older, -1)
            place = np.minimum(np.searchsorted(keys, key), max(len(keys) - 1, 0))
            context = np.where(keys[place] == key, place, -1) if len(keys) else np.full(len(key), -1)
            found.append(context)
        return found

    def _learn(self, popular: Doubles, counts: list[sparse.csr_matrix]) -> None:
        """Shares from counts of all lengths, the longest last."""
        if self.settings.smoothing == "kneser_ney":
            popular, counts = _continuations(counts, self.keys)
        items = len(popular)
        discount = self._discount(popular)
        total = popular.sum()
        left = discount * np.count_nonzero(popular) / total if total else 1.0
        shares = np.maximum(popular - discount, 0.0) / max(total, 1.0) + left / max(items, 1)
        self.popular = shares.astype(np.float32)
        self.own, self.rest = [], []
        for count in counts:
            discount = self._discount(count.data)
            totals = np.asarray(count.sum(axis=1)).ravel()
            sizes = np.diff(count.indptr)
            # A context may have no continuation: histories that it opens are all the longer ones know of it.
            rest = np.where(totals > 0, discount * sizes / np.maximum(totals, 1.0), 1.0)
            self.rest.append(rest.astype(np.float32))
            own = count.copy()
            own.data = (own.data - discount) / np.repeat(totals, sizes)
            self.own.append(own.astype(np.float32))

    def _discount(self, counts: Doubles) -> float:
        """D of one length."""
        if self.settings.discount:
            return self.settings.discount
        once, twice = np.count_nonzero(counts == 1), np.count_nonzero(counts == 2)
        # Without any count of 1 or 2 nothing can be estimated; nor may all or nothing be left to shorter contexts.
        return float(np.clip(once / (once + 2 * twice), 0.05, 0.95)) if once + twice else 0.5


def _counted(contexts: Ints, items: Ints, shape: tuple[int, int]) -> sparse.csr_matrix:
    """CSR matrix of how often each item followed each context; events with context -1 are left out."""
    kept = contexts >= 0
    found = sparse.csr_matrix((np.ones(kept.sum()), (contexts[kept], items[kept])), shape=shape)
    found.sum_duplicates()
    return found


def _continuations(counts: list[sparse.csr_matrix], keys: list[Ints]) -> tuple[Doubles, list[sparse.csr_matrix]]:
    """Counts in which all lengths but the longest count different older items rather than events."""
    items = counts[0].shape[1]
    # Every different pair of a longer context and an item is one older item that the shorter context had before it.
    popular = np.bincount(counts[0].indices, minlength=items).astype(np.float64)
    changed = []
    for order in range(len(counts) - 1):
        longer = counts[order + 1]
        shorter = keys[order + 1] // items
        rows = np.repeat(shorter, np.diff(longer.indptr))
        changed.append(_counted(rows, longer.indices, counts[order].shape))
    return popular, [*changed, counts[-1]]


MODEL = Markov
