"""Hold something out of what a task lets models learn from, so that tuning never sees its answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from training.harness.filtering import first_events, heads, tails
from training.harness.protocols import leave_one_out, temporal
from training.harness.questions import Splitting, make_task
from training.harness.reading import Events
from training.harness.session_split import sessions
from training.harness.task import Task
from training.interactions import Interactions

FOLD_IN = 0.8
"""Share of a held-out user's items that are asked with, as in Liang et al. 2018."""
MOST_STRANGERS = 10_000
"""Users held out at most, as many as Liang et al. take of MovieLens-20M."""


def validation_task(task: Task, seed: int) -> Task:
    """The same protocol within the training part of a task.

    ``sessions`` and ``temporal`` are split anew at an earlier border. ``leave-one-out`` asks the very model that the
    test asks, for the last but one event, where that was kept out of training; else training loses its last events.
    ``given-split`` holds the newest items of each user out, or, where there is no time, a share drawn with the seed;
    where the test asks for unknown users, so does the validation.

    Args:
        task: as a protocol made it.
        seed: of all that is drawn.

    Raises:
        MarqueeError: there is too little to hold anything out.
    """
    about = {"splitting": {}, "timed": True, "strong": False, **task.about}
    splitting = replace(Splitting(**about["splitting"]), seed=seed, least_item_events=1, gap_minutes=0.0)
    events = Events(task.train, bool(about["timed"]), True, _about(task))
    if task.protocol == "sessions":
        return sessions(events, splitting)
    if task.protocol == "temporal":
        return temporal(events, splitting)
    if task.protocol == "leave-one-out":
        return _last_but_one(task, splitting) if splitting.hold_validation else leave_one_out(events, splitting)
    return _strangers(task, splitting) if about["strong"] else _held_out(task, splitting)


def _last_but_one(task: Task, splitting: Splitting) -> Task:
    """The questions of a leave-one-out task one event earlier: what a history has beyond training is the answer.

    Where training did not know that item the history lacks it, and the user is not asked.
    """
    histories, users = task.queries.histories, task.queries.users
    rows = np.flatnonzero((users >= 0) & (histories.lengths > task.train.lengths[users]))
    lengths = histories.lengths[rows] - 1
    before, later = heads(histories, rows, lengths), tails(histories, rows, lengths)
    return make_task(task.protocol, task.train, before, later, splitting, _about(task))


def _held_out(task: Task, splitting: Splitting) -> Task:
    """Some of each user's items are the answers, the others are learnt from."""
    before, later = _parted(task.train, splitting.test_share, bool(task.about.get("timed", True)), splitting.seed)
    return make_task(task.protocol, before, before, later, splitting, _about(task))


def _strangers(task: Task, splitting: Splitting) -> Task:
    """Some users are kept out of training altogether, and asked with some of their items for the others."""
    count = task.train.user_count
    some = min(max(1, round(count * splitting.test_share)), MOST_STRANGERS)
    drawn = np.zeros(count, dtype=bool)
    drawn[np.random.default_rng(splitting.seed).choice(count, some, replace=False)] = True
    asked = task.train.take(np.flatnonzero(drawn))
    before, later = _parted(asked, 1.0 - FOLD_IN, bool(task.about.get("timed", True)), splitting.seed)
    train = task.train.take(np.flatnonzero(~drawn))
    return make_task(task.protocol, train, before, later, splitting, _about(task))


def _parted(events: Interactions, share: float, timed: bool, seed: int) -> tuple[Interactions, Interactions]:
    """Each user's events before and after a cut, for the same users.

    The part behind the cut has that share of the user's different items, one at least where there are two: the newest
    ones with all events from the first of them on, or, without time, items drawn with the seed.
    """
    once = first_events(events)
    held = np.where(once.lengths > 1, np.clip(np.rint(once.lengths * share), 1, once.lengths - 1), 0).astype(np.int64)
    if timed:
        new = np.zeros(len(events), dtype=bool)
        keys = events.users * events.item_count + events.items
        new[np.unique(keys, return_index=True)[1]] = True
        # How many new items the user has had, with this event; the cut is where that exceeds what is to be kept.
        so_far = np.cumsum(new)
        so_far -= np.repeat(so_far[events.starts[:-1] - 1] * (events.starts[:-1] > 0), events.lengths)
        behind = so_far > np.repeat(once.lengths - held, events.lengths)
    else:
        order = np.lexsort((np.random.default_rng(seed).random(len(once)), once.users))
        place = np.arange(len(once)) - np.repeat(once.starts[:-1], once.lengths)
        chosen = order[place < np.repeat(held, once.lengths)]
        picked = once.users[chosen] * once.item_count + once.items[chosen]
        behind = np.isin(events.users * events.item_count + events.items, picked)
    return events.where(~behind), events.where(behind)


def _about(task: Task) -> dict[str, Any]:
    """What the counts of a validation split begin with."""
    kept = {name: task.about[name] for name in ("timed", "strong") if name in task.about}
    return {"validation_of": task.about.get("sha256", ""), **kept}
