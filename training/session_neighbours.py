"""Sessions like the one at hand, found by the items that they share, most recent first."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray

from training.evidence import EvidenceRecommender
from training.interactions import Interactions, Ints, Queries
from training.recommender import PLAIN, Fitting

Doubles = NDArray[np.float64]
MATCHES = 1_000_000
"""Sessions, or their items, looked at together: about 100 MB."""


@dataclass(frozen=True, slots=True)
class SessionIndex:
    """U sessions, newest first, by what they hold and by who holds it; an item counts once in a session.

    Attributes:
        starts: [U + 1] where each session's items begin.
        items: [D] different items of the sessions.
        places: [D] place of the item's last event in its session, from 0.
        item_starts: [I + 1] where each item's sessions begin.
        sessions: [≤ D] the newest sessions of each item, newest first.
        session_places: [≤ D] place of the item in that session.
        ages: [U] how long before the end of training a session ended, as a share of the time from first to last event.
        rarity: [I] log(U / sessions with the item), the inverse document frequency.
    """

    starts: Ints
    items: NDArray[np.int32]
    places: NDArray[np.int32]
    item_starts: Ints
    sessions: NDArray[np.int32]
    session_places: NDArray[np.int32]
    ages: Doubles
    rarity: Doubles

    @property
    def sizes(self) -> Ints:
        """[U] number of different items of each session."""
        return np.diff(self.starts)


@dataclass(frozen=True, slots=True)
class Asked:
    """The different items of n histories, A in all.

    Attributes:
        rows: [A] which history, rising.
        items: [A] which item.
        steps: [A] how many places before the last event the item was taken last; 0 for the last item.
        lengths: [A] events of that history.
    """

    rows: Ints
    items: Ints
    steps: Ints
    lengths: Ints


@dataclass(frozen=True, slots=True)
class Neighbours:
    """N sessions that share an item with a history, by history and newest first.

    Attributes:
        rows: [N] which history.
        sessions: [N] which session.
        similarity: [N] summed weights of the shared items.
        steps: [N] of the shared item taken last by the asker, as in ``Asked``.
        places: [N] of that item in the session.
    """

    rows: Ints
    sessions: Ints
    similarity: Doubles
    steps: Ints
    places: Ints

    def take(self, which: NDArray[Any]) -> Neighbours:
        """Some of them, by mask or places."""
        return Neighbours(*(getattr(self, field.name)[which] for field in fields(self)))


class SessionKNN(EvidenceRecommender):
    """The base of models that let the sessions nearest to a history vote for their items.

    Their settings name ``neighbours``, ``sample`` and ``newest``. Write ``importance`` of the history's items, and the
    neighbours' ``votes``; ``closeness`` where it is more than the summed importance of shared items.
    """

    settings: Any
    index: SessionIndex

    @abstractmethod
    def importance(self, asked: Asked) -> Doubles:
        """[A] what sharing each item of a history adds to a session's similarity."""

    def closeness(self, found: Neighbours) -> Doubles:
        """[N] what the nearest are chosen by, and what ``votes`` gets as similarity."""
        return found.similarity

    @abstractmethod
    def votes(self, found: Neighbours, voter: Ints, items: Ints, places: Ints) -> Doubles:
        """[M] what the neighbours say for each of their items, M in all.

        Args:
            found: N neighbours, with their closeness for similarity.
            voter: [M] whose item it is, in ``found``.
            items: [M] which item.
            places: [M] its place in the session.
        """

    def fit(self, train: Interactions, fitting: Fitting = PLAIN) -> Self:
        """Make the index."""
        self.learn_items(train)
        self.index = session_index(train, self.settings.sample)
        return self

    def evidence(self, queries: Queries) -> sparse.csr_matrix:
        """The neighbours' votes, summed."""
        shape = (len(queries), len(self.item_ids))
        found = sparse.csr_matrix(shape, dtype=np.float64)
        asked = different_items(queries.histories, self.settings.newest)
        for part in _portions(asked, self.index):
            neighbours = sharing(part, self.importance(part), self.index, self.settings.sample)
            neighbours = nearest(neighbours, self.closeness(neighbours), self.settings.neighbours)
            for voters in _voters(neighbours, self.index):
                begins = self.index.starts[voters.sessions]
                voter, place = _stretches(begins, self.index.sizes[voters.sessions])
                items, places = (part[place].astype(np.int64) for part in (self.index.items, self.index.places))
                votes = self.votes(voters, voter, items, places)
                found += sparse.csr_matrix((votes, (voters.rows[voter], items)), shape=shape)
        found = found.astype(np.float32)
        found.eliminate_zeros()
        return found

    def state(self) -> dict[str, NDArray[Any]]:
        """The index and popularity."""
        index = {field.name: getattr(self.index, field.name) for field in fields(self.index)}
        return {"fallback": self.fallback, **index}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Take them back."""
        self.fallback = state["fallback"]
        self.index = SessionIndex(**{field.name: state[field.name] for field in fields(SessionIndex)})


def session_index(train: Interactions, sample: int) -> SessionIndex:
    """The index of all users' histories; of each item only the newest ``sample`` sessions can be found.

    No more are needed: of the newest ``sample`` sessions with any of some items, each is also among the newest
    ``sample`` with its own.
    """
    some = train.lengths > 0
    ends = np.full(train.user_count, -np.inf)
    ends[some] = train.times[train.starts[1:][some] - 1]
    newest_first = np.lexsort((-np.arange(train.user_count), -ends))
    owner, items, places = _different_items(train.take(newest_first))
    counts = np.bincount(items, minlength=train.item_count)
    by_item = np.argsort(items, kind="stable")
    by_item = by_item[_ranks(items[by_item]) < sample]
    span = float(np.ptp(train.times)) if len(train) else 0.0
    ages = np.where(some, (ends.max(initial=-np.inf, where=some) - np.where(some, ends, 0.0)) / max(span, 1e-9), 1.0)
    return SessionIndex(
        starts=_starts(np.bincount(owner, minlength=train.user_count)),
        items=items.astype(np.int32),
        places=places.astype(np.int32),
        item_starts=_starts(np.minimum(counts, sample)),
        sessions=owner[by_item].astype(np.int32),
        session_places=places[by_item].astype(np.int32),
        ages=ages[newest_first],
        rarity=np.log(max(train.user_count, 1) / np.maximum(counts, 1)),
    )


def _different_items(sessions: Interactions) -> tuple[Ints, Ints, Ints]:
    """Session, item, and place of the item's last event there, by session and item."""
    place = np.arange(len(sessions)) - np.repeat(sessions.starts[:-1], sessions.lengths)
    owner, items = sessions.users, sessions.items
    order = np.lexsort((place, items, owner))
    last = np.ones(len(order), dtype=bool)
    last[:-1] = (np.diff(owner[order]) != 0) | (np.diff(items[order]) != 0)
    kept = order[last]
    return owner[kept], items[kept], place[kept]


def _starts(counts: Ints) -> Ints:
    """Where each stretch begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def different_items(histories: Interactions, newest: int) -> Asked:
    """Each item of the newest events once, where it stands last; 0 for all events."""
    kept = histories.last(newest) if newest else histories
    rows = kept.users
    steps = kept.starts[1:][rows] - 1 - np.arange(len(kept))
    order = np.lexsort((steps, kept.items, rows))
    first = np.ones(len(order), dtype=bool)
    first[1:] = (np.diff(rows[order]) != 0) | (np.diff(kept.items[order]) != 0)
    order = order[first]
    return Asked(rows[order], kept.items[order], steps[order], kept.lengths[rows[order]])


def sharing(asked: Asked, importance: Doubles, index: SessionIndex, sample: int) -> Neighbours:
    """The newest ``sample`` sessions that share an item with each history."""
    begins = index.item_starts[asked.items]
    which, place = _stretches(begins, index.item_starts[asked.items + 1] - begins)
    sessions, steps = index.sessions[place], asked.steps[which]
    base = int(asked.steps.max(initial=0)) + 1
    pair = asked.rows[which] * len(index.ages) + sessions
    order = np.argsort(pair * base + steps)  # no two are equal: a history has one item at one place
    pair = pair[order]
    begins = np.flatnonzero(np.diff(pair, prepend=-1))
    similarity = np.add.reduceat(importance[which][order], begins) if len(begins) else np.zeros(0)
    first = order[begins]
    found = Neighbours(
        asked.rows[which][first],
        sessions[first].astype(np.int64),
        similarity,
        steps[first],
        index.session_places[place][first].astype(np.int64),
    )
    return found.take(_ranks(found.rows) < sample)


def nearest(found: Neighbours, closeness: Doubles, count: int) -> Neighbours:
    """The ``count`` closest of each history, the newer first of equal ones; closeness becomes their similarity."""
    order = np.lexsort((-closeness, found.rows))
    order = order[_ranks(found.rows[order]) < count]
    kept = found.take(order)
    return Neighbours(kept.rows, kept.sessions, closeness[order], kept.steps, kept.places)


def decayed(distance: Any, scale: float) -> Doubles:
    """exp(−distance / scale); 1 where the scale is 0."""
    found: Doubles = np.exp(-distance / scale) if scale else np.ones(len(distance))
    return found


def _portions(asked: Asked, index: SessionIndex) -> Iterator[Asked]:
    """Parts of whole histories that few enough sessions share an item with; a history alone may have more."""
    matches = np.cumsum(np.diff(index.item_starts)[asked.items])
    begin = 0
    while begin < len(asked.rows):
        done = int(matches[begin - 1]) if begin else 0
        stop = int(np.searchsorted(matches, done + MATCHES, "right"))
        if stop < len(asked.rows):
            stop = int(np.searchsorted(asked.rows, asked.rows[stop]))
        if stop <= begin:
            stop = int(np.searchsorted(asked.rows, asked.rows[begin], "right"))
        yield Asked(*(getattr(asked, field.name)[begin:stop] for field in fields(asked)))
        begin = stop


def _voters(found: Neighbours, index: SessionIndex) -> Iterator[Neighbours]:
    """Parts of the neighbours that have few enough items together; one alone may have more."""
    items = np.cumsum(index.sizes[found.sessions])
    cuts = np.searchsorted(items, np.arange(MATCHES, items[-1] if len(items) else 0, MATCHES), "right")
    for part in np.split(np.arange(len(items)), cuts):
        yield found.take(part)


def _stretches(begins: Ints, lengths: Ints) -> tuple[Ints, Ints]:
    """For stretches of an array: which stretch each element is of, and its place in the array."""
    which = np.repeat(np.arange(len(begins)), lengths)
    return which, np.arange(len(which)) + np.repeat(begins - np.cumsum(lengths) + lengths, lengths)


def _ranks(rows: Ints) -> Ints:
    """Place of each element among those of its row, rows being sorted."""
    begins = np.flatnonzero(np.diff(rows, prepend=-1))
    return np.arange(len(rows)) - np.repeat(begins, np.diff(np.append(begins, len(rows))))
