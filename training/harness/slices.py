"""Parts of a task that are judged apart: who has how long a history, and how popular what they took is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.harness.beyond import CLASSES, UNSEEN, item_counts, popularity_classes
from training.harness.task import Task, Truth
from training.interactions import Ints

HISTORIES = (("history 0", 0), ("history 1", 1), ("history 2-4", 2), ("history 5-9", 5), ("history 10+", 10))
"""Names and least lengths."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Some questions, perhaps with only some of their answers.

    Attributes:
        name: what they have in common.
        rows: [s] which questions.
        truth: s answers.
    """

    name: str
    rows: Ints
    truth: Truth


def slices(task: Task) -> list[Slice]:
    """Every part that holds a question: by length of history, then by popularity of the right items.

    A question with right items of several classes is in each of these slices, with that class's items alone; items
    that models cannot know are with the unseen ones.
    """
    return [one for one in (*by_history(task), *by_popularity(task)) if len(one.rows)]


def by_history(task: Task) -> list[Slice]:
    """Questions by the number of events in the history: 0 (cold visitors), 1, 2-4, 5-9, 10 and more."""
    bucket = np.searchsorted([least for _, least in HISTORIES], task.queries.histories.lengths, side="right") - 1
    parts = [(name, np.flatnonzero(bucket == place)) for place, (name, _) in enumerate(HISTORIES)]
    return [Slice(name, rows, task.truth.take(rows)) for name, rows in parts]


def by_popularity(task: Task) -> list[Slice]:
    """Questions by the popularity in training of what is right: unseen (cold items), tail, middle, head."""
    truth = task.truth
    known = np.append(popularity_classes(item_counts(task.train)), UNSEEN)
    classes = known[truth.items]  # the code -1 is the last place
    question = np.repeat(np.arange(len(truth)), np.diff(truth.starts))
    found = []
    for place, name in enumerate(CLASSES):
        inside = np.flatnonzero(classes == place)
        rows, lengths = np.unique(question[inside], return_counts=True)
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        found.append(Slice(f"target {name}", rows, Truth(starts, truth.items[inside])))
    return found
