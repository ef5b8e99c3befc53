"""What is left of a data set: items and users with enough events, repeated events once, ids that are in use."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from training.interactions import Interactions, Ints


def dense(events: Interactions, described: bool = True) -> Interactions:
    """Without users and items that have no event; codes are new.

    Args:
        events: all of them.
        described: keep items without events where items have features, for a model can know them by these.
    """
    used = np.bincount(events.items, minlength=events.item_count) > 0
    features = events.item_features
    if features is not None:
        used |= described
        features = features[np.flatnonzero(used)]
    code = np.cumsum(used) - 1
    kept = events.take(np.flatnonzero(events.lengths > 0))
    return replace(kept, items=code[kept.items], item_ids=events.item_ids[used], item_features=features)


def first_events(events: Interactions) -> Interactions:
    """Each user's first event with each item."""
    keys = events.users * events.item_count + events.items
    keep = np.zeros(len(events), dtype=bool)
    keep[np.unique(keys, return_index=True)[1]] = True
    return events.where(keep)


def long_enough(events: Interactions, least: int) -> Interactions:
    """The events of users with at least so many; the other users stay without events."""
    return events.where(np.repeat(events.lengths >= least, events.lengths))


def common_enough(events: Interactions, least: int) -> Interactions:
    """The events with items that have at least so many; the other items stay without events."""
    return events.where(np.bincount(events.items, minlength=events.item_count)[events.items] >= least)


def core(events: Interactions, user_events: int, item_events: int) -> Interactions:
    """The k-core: filtered in turn until each user and each item left has enough events."""
    while True:
        kept = common_enough(long_enough(events, user_events), item_events)
        if len(kept) == len(events):
            return events
        events = kept


def recoded(events: Interactions, item_ids: NDArray[np.str_]) -> Interactions:
    """The events over other items, sorted by name: an item that is not among them gets the code -1."""
    place = np.searchsorted(item_ids, events.item_ids)
    place = np.minimum(place, max(len(item_ids) - 1, 0))
    same = item_ids[place] == events.item_ids if len(item_ids) else np.zeros(len(place), dtype=bool)
    return replace(events, items=np.where(same, place, -1)[events.items], item_ids=item_ids, item_features=None)


def split_at_gaps(events: Interactions, seconds: float) -> Interactions:
    """Sessions instead of users: a pause of so many seconds or more begins a new one, named user#1, user#2 and on."""
    begins = np.zeros(len(events), dtype=bool)
    begins[events.starts[:-1][events.lengths > 0]] = True
    begins[1:] |= np.diff(events.times) >= seconds
    starts = np.concatenate([np.flatnonzero(begins), [len(events)]]).astype(np.int64)
    user = events.users[starts[:-1]]
    first = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=events.user_count))])[user]
    number = np.char.mod("#%d", np.arange(len(user)) - first + 1)
    features = None if events.user_features is None else events.user_features[user]
    names = np.char.add(events.user_ids[user], number)
    return replace(events, user_ids=names, starts=starts, user_features=features)


def heads(events: Interactions, rows: Ints, lengths: Ints) -> Interactions:
    """The oldest ``lengths`` [q] events of the users in ``rows`` [q], in that order and as often."""
    return stretches(events, rows, events.starts[rows], lengths)


def tails(events: Interactions, rows: Ints, skipped: Ints) -> Interactions:
    """What ``heads`` leaves: all events behind the oldest ``skipped`` [q] of the users in ``rows`` [q]."""
    return stretches(events, rows, events.starts[rows] + skipped, events.lengths[rows] - skipped)


def stretches(events: Interactions, rows: Ints, begins: Ints, lengths: Ints) -> Interactions:
    """``lengths`` [q] events from the places ``begins`` [q] on, which belong to the users in ``rows`` [q]."""
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    places = np.repeat(begins - starts[:-1], lengths) + np.arange(starts[-1])
    return replace(
        events,
        user_ids=events.user_ids[rows],
        starts=starts,
        items=events.items[places],
        times=events.times[places],
        weights=events.weights[places],
        contexts=events.contexts[places],
        user_features=None if events.user_features is None else events.user_features[rows],
    )
