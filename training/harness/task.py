"""What a model is asked to do on one data set: learn from this, answer these, and here is what came."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from training.interactions import Interactions, Ints, Queries


@dataclass(frozen=True, slots=True)
class Truth:
    """What each of n askers took next: row ``r``'s items stand in ``items[starts[r]:starts[r + 1]]``.

    Items that the model could not know are the code -1: they count as missed, not as absent.
    """

    starts: Ints
    items: Ints

    def __len__(self) -> int:
        """n."""
        return len(self.starts) - 1

    def take(self, rows: Ints) -> Truth:
        """The answers of the questions in ``rows``."""
        lengths = np.diff(self.starts)[rows]
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        places = np.repeat(self.starts[rows] - starts[:-1], lengths) + np.arange(starts[-1])
        return Truth(starts, self.items[places])


@dataclass(frozen=True, slots=True)
class Task:
    """One protocol on one data set.

    Attributes:
        protocol: name of the way of splitting.
        train: what models learn from; nothing in it is later than what it is judged on.
        queries: n questions.
        truth: n answers.
        exclude_seen: whether the protocol leaves a history's items out of the answers.
        about: counts and choices of reading and splitting, for the report: plain JSON values.
    """

    protocol: str
    train: Interactions
    queries: Queries
    truth: Truth
    exclude_seen: bool
    about: dict[str, Any] = field(default_factory=dict)

    def sample(self, rows: Ints) -> Task:
        """The same task with only the questions in ``rows``."""
        return replace(self, queries=self.queries.take(rows), truth=self.truth.take(rows))
