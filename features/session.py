"""A visitor's current session, kept up event by event. Pure.

Its batch twins are the marts ``session_features`` and ``session_moments``.

The newest events are kept as they are and put in order again whenever one arrives, so that neither the order of
arrival nor a repetition matters. What grows older than that is folded into its session's counts and decayed sums. An
event that arrives after later ones were folded is left out, which also makes a replay harmless.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, NamedTuple

import msgspec

from marquee import contract

VERSION: Final = 1
KEPT_EVENTS: Final = 500
"""An event counts unless this many later ones of its visitor arrived before it."""
KEPT_HOURS: Final = 24
"""An event counts unless one of its visitor arrived before it that happened this much later."""
KEPT_SESSIONS: Final = 16
"""Folded sessions of one visitor; one more, and the one that was quiet longest is forgotten."""
COUNTED: Final = {
    "page_view": "session_view_count",
    "product_view": "session_view_count",
    "cart": "session_cart_count",
    "order": "session_order_count",
    "impression": "session_impression_count",
    "click": "session_click_count",
}
COUNTS: Final = tuple(dict.fromkeys(COUNTED.values()))
NEVER: Final = (-(2**63), "")
"""The horizon of a state of which nothing was folded."""
_COUNTED: Final = frozenset(COUNTS)
_SECOND: Final = 1_000_000
_GAP: Final = contract.SESSION_GAP_MINUTES * 60 * _SECOND
_HALF_LIFE: Final = contract.SESSION_HALF_LIFE_MINUTES * 60 * _SECOND
_EPOCH: Final = datetime(1970, 1, 1)
_EPOCH_UTC: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_DAMAGED: Final = "a session's state is damaged or of another version"


class CategoryPeriod(NamedTuple):
    """A category that a product has from one moment until before another; microseconds since 1970, UTC."""

    from_at: int
    until_at: int
    category_id: str


Categories = Mapping[str, tuple[CategoryPeriod, ...]]
"""By product, the categories that it has had; a product that never had one may be absent."""


class SessionEvent(NamedTuple):
    """What a session needs to know of one event; ``at`` is microseconds since 1970, UTC."""

    at: int
    event_id: str
    kind: str
    product_id: str | None = None
    category_id: str | None = None
    session_id: str | None = None


class Session(msgspec.Struct, array_like=True):
    """The sums of one session; ``own_id`` is the source's name for it, ``None`` where silence bounds it."""

    own_id: str | None
    started_at: int
    ended_at: int
    counts: dict[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    products: list[str] = msgspec.field(default_factory=list)
    interest: dict[str, tuple[float, int]] = msgspec.field(default_factory=dict)
    """By category: the sum, and the moment that it is decayed to."""

    def add(self, event: SessionEvent) -> None:
        """Count an event that is later than all before it."""
        self.ended_at = event.at
        if event.kind in COUNTED:
            self.counts[COUNTED[event.kind]] += 1
        if event.product_id is not None:
            if event.product_id in self.products:
                self.products.remove(event.product_id)
            self.products.insert(0, event.product_id)
            del self.products[contract.SESSION_PRODUCTS :]
        weight = contract.IMPLICIT_WEIGHTS.get(event.kind)
        if weight and event.category_id is not None:
            before = _decayed(self.interest.get(event.category_id, (0.0, event.at)), event.at)
            self.interest[event.category_id] = (before + weight, event.at)

    def copy(self) -> Session:
        """One that can be added to while this one stays."""
        own = self.counts.copy(), self.products.copy(), self.interest.copy()
        return Session(self.own_id, self.started_at, self.ended_at, *own)


@dataclass(frozen=True, slots=True)
class VisitorState:
    """What is known of one visitor: the newest events in order, and the sums of sessions up to the ``horizon``."""

    events: tuple[SessionEvent, ...] = ()
    horizon: tuple[int, str] = NEVER
    """Time and id of the last event folded."""
    folded: tuple[Session, ...] = ()


class _Stored(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A state as it is stored; what holds events alone, without anything folded, has no horizon."""

    version: Literal[1]
    horizon: tuple[int, str] | None
    events: tuple[SessionEvent, ...]
    folded: tuple[Session, ...]


_DECODER: Final = msgspec.json.Decoder(_Stored)


def events_by_visitor(rows: Iterable[Mapping[str, Any]], categories: Categories) -> dict[str, list[SessionEvent]]:
    """Rows of the contract's events table as session events, each with its product's category of that moment.

    An empty optional id is none, as it is in the warehouse; what tells of notifications is no part of a session.
    """
    result: dict[str, list[SessionEvent]] = {}
    for row in rows:
        if row["kind"] in contract.NOTIFICATION_KINDS:
            continue
        at, product_id = microseconds(row["occurred_at"]), row.get("product_id") or None
        category_id = category_at(categories.get(product_id, ()), at) if product_id else None
        session_id = row.get("session_id") or None
        event = SessionEvent(at, row["event_id"], row["kind"], product_id, category_id, session_id)
        result.setdefault(row["visitor_id"], []).append(event)
    return result


def category_at(periods: Iterable[CategoryPeriod], at: int) -> str | None:
    """The category of a product at a moment; ``None`` when it had none."""
    return next((period.category_id for period in periods if period.from_at <= at < period.until_at), None)


def absorb(state: VisitorState, events: Iterable[SessionEvent], kept: int = KEPT_EVENTS) -> VisitorState:
    """The state with these events in it, in any order and with repetitions; of one id the first to arrive counts."""
    known = {event.event_id for event in state.events}
    new: dict[str, SessionEvent] = {}
    folded_until = state.horizon[0]
    for event in events:
        if event.event_id not in known and (event.at > folded_until or event[:2] > state.horizon):
            new.setdefault(event.event_id, event)
    if not new:
        return state
    ordered = sorted((*state.events, *new.values()))  # no two share an id, so what follows it is never compared
    too_old = bisect_left(ordered, ordered[-1].at - KEPT_HOURS * 3600 * _SECOND, key=lambda event: event.at)
    surplus = max(too_old, len(ordered) - kept)
    if surplus <= 0:
        return VisitorState(tuple(ordered), state.horizon, state.folded)
    sessions = list(_sessions(state.folded, ordered[:surplus]).values())
    return VisitorState(tuple(ordered[surplus:]), _moment(ordered[surplus - 1]), tuple(sessions[-KEPT_SESSIONS:]))


def latest_session(state: VisitorState, visitor_id: str) -> dict[str, Any] | None:
    """Features of the session of the visitor's latest event, by the names of ``contract.SESSION_FEATURES``.

    ``last_products`` is a list and ``category_interest`` a dict; the mart has both as JSON. Behind them is what
    ``contract.SESSION_MOMENTS`` has besides: ``session_started_at``, ``session_product_count``, ``last_category``.
    """
    sessions = list(_sessions(state.folded, state.events).values())
    if not sessions:
        return None
    session = sessions[-1]
    return {
        "session_id": session.own_id or f"{visitor_id}@{_text(session.started_at)}",
        "visitor_id": visitor_id,
        "feature_at": moment(session.ended_at),
        **session.counts,
        "last_products": session.products,
        "category_interest": {name: _decayed(sums, session.ended_at) for name, sums in session.interest.items()},
        "session_started_at": moment(session.started_at),
        "session_product_count": len(session.products),
        "last_category": _last_category(session),
    }


def current_session(state: VisitorState, visitor_id: str, now: datetime) -> dict[str, Any] | None:
    """Features of the session under way; ``None`` once nothing happened for the gap. ``now`` is UTC without a zone."""
    features = latest_session(state, visitor_id)
    if features is None or now - features["feature_at"] >= timedelta(minutes=contract.SESSION_GAP_MINUTES):
        return None
    return features


def joined(states: Iterable[VisitorState]) -> VisitorState:
    """One state of several of a visitor, in the order in which they were stored; at most one has anything folded."""
    every = list(states)
    base = next((state for state in every if state.horizon != NEVER), VisitorState())
    return absorb(base, (event for state in every if state is not base for event in state.events))


def encode(state: VisitorState) -> bytes:
    """The state as one line of JSON."""
    horizon = None if state.horizon == NEVER else state.horizon
    return msgspec.json.encode(_Stored(VERSION, horizon, state.events, state.folded))


def decode(text: str | bytes) -> VisitorState:
    """The inverse of ``encode``.

    Raises:
        ValueError: it is damaged, or of another version.
    """
    try:
        stored = _DECODER.decode(text)
    except (RecursionError, ValueError) as error:
        raise ValueError(_DAMAGED) from error
    if any(session.counts.keys() != _COUNTED for session in stored.folded):
        raise ValueError(_DAMAGED)
    return VisitorState(stored.events, stored.horizon or NEVER, stored.folded)


def microseconds(at: datetime) -> int:
    """Microseconds since 1970 of a moment; one without a zone is in UTC."""
    return (at - (_EPOCH if at.tzinfo is None else _EPOCH_UTC)) // _MICROSECOND


def moment(at: int) -> datetime:
    """The inverse of ``microseconds``."""
    return _EPOCH + timedelta(microseconds=at)


def _sessions(folded: Iterable[Session], events: Iterable[SessionEvent]) -> dict[str | None, Session]:
    """Open sessions by their own id after these later events, the one of the latest event last."""
    sessions = {session.own_id: session.copy() for session in folded}
    for event in events:
        session = sessions.pop(event.session_id, None)
        if session is None or (event.session_id is None and event.at - session.ended_at >= _GAP):
            session = Session(event.session_id, event.at, event.at)
        session.add(event)
        sessions[event.session_id] = session
    return sessions


def _last_category(session: Session) -> str | None:
    """That of the last event that showed interest in one; of two at one moment the first in order."""
    last = max((at for _, at in session.interest.values()), default=None)
    return min((name for name, (_, at) in session.interest.items() if at == last), default=None)


def _decayed(sums: tuple[float, int], at: int) -> float:
    value, since = sums
    result: float = value * 2.0 ** ((since - at) / _HALF_LIFE)
    return result


def _moment(event: SessionEvent) -> tuple[int, str]:
    return event.at, event.event_id


def _text(at: int) -> str:
    """A moment as the warehouse writes it: no zone, no zeros at the end."""
    text = str(moment(at))
    return text.rstrip("0") if "." in text else text
