"""What both session stores do alike: their error, how long they keep a visitor, and how a state is read."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from features.session import SessionEvent, VisitorState, decode
from marquee.errors import TryAgain

RETENTION_HOURS: Final = 48
"""How long a visitor without events is kept; beyond it a source's own session would start anew."""
VISITORS_AT_ONCE: Final = 200
LOG: Final = logging.getLogger("bentoml.marquee")
Events = Mapping[str, Sequence[SessionEvent]]


class SessionStoreError(TryAgain):
    """The session store cannot be reached or refuses; nothing else depends on it."""


def stored_state(stored: bytes | None) -> VisitorState:
    """What is stored, nothing when it is damaged: a session is soon over, and the log has its events."""
    if not stored:
        return VisitorState()
    try:
        return decode(stored)
    except ValueError as error:
        LOG.warning("a visitor's session was dropped: %s", error)
        return VisitorState()


def parts(events: Events) -> Iterator[list[str]]:
    """The visitors with events, as many at a time as one step may write."""
    visitor_ids = [visitor_id for visitor_id in events if events[visitor_id]]
    for start in range(0, len(visitor_ids), VISITORS_AT_ONCE):
        yield visitor_ids[start : start + VISITORS_AT_ONCE]
