"""Who did what with which item, and when: the one shape in which every retrieval model learns and is asked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Interactions:
    """E events of U users with I items: each user's events side by side, oldest first.

    A user is whoever has one history: a visitor, or a session where sessions are anonymous. Ids are texts and stand
    here once; everything else is codes, the row of the id.

    Attributes:
        user_ids: [U] names of the users.
        item_ids: [I] names of all items that can be recommended, with and without events.
        starts: [U + 1] place of each user's first event; the last entry is E.
        items: [E] item of each event.
        times: [E] seconds since 1970, UTC; never falling within a user.
        weights: [E] how much the event says about taste; 1 unless the source says otherwise.
        contexts: [E] context of each event (a device, a placement) as codes from 0; all 0 where there is none.
        item_features: [I, F] content of the items, as a CSR matrix; None where there is none.
        user_features: [U, G] what else is known of the users, as a CSR matrix; None where there is nothing.
    """

    user_ids: NDArray[np.str_]
    item_ids: NDArray[np.str_]
    starts: Ints
    items: Ints
    times: NDArray[np.float64]
    weights: Floats
    contexts: Ints
    item_features: Any = None
    user_features: Any = None

    @property
    def user_count(self) -> int:
        """U."""
        return len(self.user_ids)

    @property
    def item_count(self) -> int:
        """I."""
        return len(self.item_ids)

    @property
    def lengths(self) -> Ints:
        """[U] number of events of each user."""
        return np.diff(self.starts)

    @property
    def users(self) -> Ints:
        """[E] user of each event."""
        return np.repeat(np.arange(self.user_count), self.lengths)

    def __len__(self) -> int:
        """E."""
        return len(self.items)

    def matrix(self, weighted: bool = False) -> sparse.csr_matrix:
        """[U, I] CSR matrix: 1 where there is an event, or the sum of the events' weights."""
        shape = (self.user_count, self.item_count)
        found = sparse.csr_matrix((self.weights, self.items, self.starts), shape=shape, copy=True, dtype=np.float32)
        found.sum_duplicates()
        if not weighted:
            found.data[:] = 1.0
        return found

    def take(self, rows: Ints) -> Interactions:
        """The users in ``rows``, in that order and as often; items keep their codes."""
        lengths = self.lengths[rows]
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        # Each taken event's place: where its user began, plus how far into the user it is.
        places = np.repeat(self.starts[rows] - starts[:-1], lengths) + np.arange(starts[-1])
        features = None if self.user_features is None else self.user_features[rows]
        return replace(self._events(places), user_ids=self.user_ids[rows], starts=starts, user_features=features)

    def where(self, keep: NDArray[np.bool_]) -> Interactions:
        """The events marked in ``keep`` [E]; users and items stay, some perhaps without events."""
        counts = np.bincount(self.users[keep], minlength=self.user_count)
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return replace(self._events(np.flatnonzero(keep)), starts=starts)

    def last(self, count: int) -> Interactions:
        """The newest ``count`` events of each user."""
        from_end = np.repeat(self.starts[1:], self.lengths) - np.arange(len(self))
        return self.where(from_end <= count)

    def padded(self, length: int, padding: int = -1) -> Ints:
        """[U, length] the newest items of each user, right-aligned, ``padding`` in front."""
        newest = self.last(length)
        table = np.full((self.user_count, length), padding, dtype=np.int64)
        columns = length - np.repeat(newest.starts[1:], newest.lengths) + np.arange(len(newest))
        table[newest.users, columns] = newest.items
        return table

    def _events(self, places: Ints) -> Interactions:
        return replace(
            self,
            items=self.items[places],
            times=self.times[places],
            weights=self.weights[places],
            contexts=self.contexts[places],
        )


@dataclass(frozen=True, slots=True)
class Queries:
    """n questions "what next?": a history each, over the items that the model was fitted on.

    Attributes:
        histories: what each asker did so far; empty for somebody nobody has seen.
        users: [n] row of the asker among the users that the model was fitted on; -1 for a new one.
        times: [n] moment of asking, seconds since 1970, UTC.
        contexts: [n] context of asking, as the events' contexts.
    """

    histories: Interactions
    users: Ints
    times: NDArray[np.float64]
    contexts: Ints

    def __len__(self) -> int:
        """n."""
        return self.histories.user_count

    def take(self, rows: Ints) -> Queries:
        """The questions in ``rows``."""
        return Queries(self.histories.take(rows), self.users[rows], self.times[rows], self.contexts[rows])


def from_events(
    users: NDArray[Any],
    items: NDArray[Any],
    times: NDArray[np.float64],
    weights: Floats | None = None,
    contexts: Ints | None = None,
    item_ids: NDArray[np.str_] | None = None,
) -> Interactions:
    """Interactions of parallel arrays [E] of events in any order; events of one moment keep their order.

    Args:
        users: id of each event's user.
        items: id of each event's item.
        times: seconds since 1970, UTC.
        weights: 1 each unless given.
        contexts: 0 each unless given.
        item_ids: names of all items, sorted, when there are more than have events.
    """
    user_ids, user = np.unique(np.asarray(users).astype(np.str_), return_inverse=True)
    names = np.asarray(items).astype(np.str_)
    if item_ids is None:
        item_ids, item = np.unique(names, return_inverse=True)
    else:
        item = np.searchsorted(item_ids, names)
    order = np.lexsort((times, user))  # stable: ties stay as they came
    starts = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=len(user_ids)))]).astype(np.int64)
    return Interactions(
        user_ids=user_ids,
        item_ids=item_ids,
        starts=starts,
        items=item[order].astype(np.int64),
        times=np.asarray(times, dtype=np.float64)[order],
        weights=np.ones(len(order), np.float32) if weights is None else weights[order].astype(np.float32),
        contexts=np.zeros(len(order), np.int64) if contexts is None else contexts[order].astype(np.int64),
    )


def ask(histories: Interactions, train: Interactions) -> Queries:
    """Questions right after the last event of each history; users are found in ``train`` by name."""
    last = np.maximum(histories.starts[1:] - 1, 0)
    some = histories.lengths > 0
    latest = float(train.times.max()) if len(train) else 0.0
    times = np.where(some, histories.times[last] if len(histories) else 0.0, latest)
    contexts = np.where(some, histories.contexts[last] if len(histories) else 0, 0)
    return Queries(histories, places(train.user_ids, histories.user_ids), times, contexts)


def places(known: NDArray[np.str_], names: NDArray[np.str_]) -> Ints:
    """[n] where each name stands among the known ones; -1 for a new name."""
    if not len(known):
        return np.full(len(names), -1)
    order = np.argsort(known)
    place = order[np.minimum(np.searchsorted(known, names, sorter=order), len(known) - 1)]
    return np.where(known[place] == names, place, -1)
