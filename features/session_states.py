"""What both session stores do alike: their error, how long they keep a visitor, and what a visitor's parts are.

A store only appends: what arrived together of one visitor is a *part*, written as a state of which nothing was folded.
Reading joins a visitor's parts. When one has many events, the store folds their parts into one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from features.session import SessionEvent, VisitorState, decode, joined
from marquee.errors import TryAgain

RETENTION_HOURS: Final = 48
"""How long a visitor without events is kept; beyond it a source's own session would start anew."""
VISITORS_AT_ONCE: Final = 200
FOLDED_AFTER: Final = 200
"""Events of one visitor, by one process, after which their parts are folded; bounds what a read has to join."""
MOST_COUNTED: Final = 100_000
"""Visitors whose events are counted towards that; bounds the memory that it takes."""
LOG: Final = logging.getLogger("bentoml.marquee")
Events = Mapping[str, Sequence[SessionEvent]]


class SessionStoreError(TryAgain):
    """The session store cannot be reached or refuses; nothing else depends on it."""


def state_of(parts: Iterable[bytes]) -> VisitorState:
    """A visitor's state, without parts that are damaged: a session is soon over, and the log has its events."""
    return joined(_decoded(parts))


def _decoded(parts: Iterable[bytes]) -> Iterator[VisitorState]:
    for part in parts:
        try:
            yield decode(part)
        except ValueError as error:
            LOG.warning("a part of a visitor's session was dropped: %s", error)


class Tally:
    """Counts each visitor's events since their parts were last folded."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def due(self, events: Events) -> list[str]:
        """Count these; the visitors whose parts are to be folded now."""
        counts, due = self._counts, []
        if len(counts) > MOST_COUNTED:
            counts.clear()
        for visitor_id, some in events.items():
            count = counts.get(visitor_id, 0) + len(some)
            if count < FOLDED_AFTER:
                counts[visitor_id] = count
            else:
                counts.pop(visitor_id, None)
                due.append(visitor_id)
        return due
