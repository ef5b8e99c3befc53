"""Session features: the same whatever the order, the repetition and the folding, and as a plain reference has them."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.matrix import SESSION_FIELDS
from features.session import (
    COUNTS,
    KEPT_EVENTS,
    KEPT_HOURS,
    KEPT_SESSIONS,
    CategoryPeriod,
    SessionEvent,
    VisitorState,
    absorb,
    category_at,
    current_session,
    decode,
    encode,
    events_by_visitor,
    joined,
    latest_session,
    microseconds,
    moment,
)
from marquee import contract
from serving.schemas import Session

NOON = datetime(2026, 2, 2, 12)
MINUTE = 60_000_000


def event(minute: float, event_id: str = "", **other: Any) -> SessionEvent:
    at = microseconds(NOON) + int(minute * MINUTE)
    return SessionEvent(at, event_id or f"e{minute}", **{"kind": "product_view", **other})


def features(*events: SessionEvent) -> dict[str, Any]:
    found = latest_session(absorb(VisitorState(), events), "v1")
    assert found is not None
    return found


# --- by hand --------------------------------------------------------------------------------------------------------


def test_a_session_by_hand() -> None:
    told = features(
        event(0, product_id="p1", category_id="c1"),
        event(0, "e0b", kind="impression"),
        event(10, kind="cart", product_id="p2", category_id="c2"),
        event(15, kind="click"),
        event(20, kind="order", product_id="p1", category_id="c1"),
        event(20, "later", kind="page_view"),
        event(30, kind="return", product_id="p3", category_id="c3"),
    )
    assert told == {
        "session_id": "v1@2026-02-02 12:00:00",
        "visitor_id": "v1",
        "feature_at": datetime(2026, 2, 2, 12, 30),
        "session_view_count": 2,
        "session_cart_count": 1,
        "session_order_count": 1,
        "session_impression_count": 1,
        "session_click_count": 1,
        "last_products": ["p3", "p1", "p2"],
        # One half-life is 30 minutes: 1/2 + 3 * 2^(-1/3), and 1.5 * 2^(-2/3); a return shows no interest.
        "category_interest": pytest.approx({"c1": 2.8811015779522994, "c2": 0.944940787421155}, abs=1e-12),
        "session_started_at": NOON,
        "session_product_count": 3,
        "last_category": "c1",
    }


def test_silence_of_30_minutes_ends_a_session_and_less_does_not() -> None:
    assert features(event(0), event(29.999))["session_view_count"] == 2
    assert features(event(0), event(30))["session_view_count"] == 1
    assert features(event(0), event(29), event(58), event(87))["session_view_count"] == 4
    assert features(event(0.0123), event(1))["session_id"] == "v1@2026-02-02 12:00:00.738"


def test_a_session_that_its_source_names_has_no_gaps_and_bridges_none() -> None:
    named = event(0, session_id="s"), event(600, session_id="s")
    assert features(*named, event(300))["session_view_count"] == 2
    assert features(*named)["session_id"] == "s"
    assert features(event(0), event(20, session_id="s"), event(40))["session_view_count"] == 1


def test_ties_are_ordered_by_event_id() -> None:
    told = features(
        event(0, "b", product_id="pb", session_id="s"), event(0, "a", product_id="pa"), event(0, "c", product_id="pc")
    )
    assert (told["session_view_count"], told["last_products"]) == (2, ["pc", "pa"])


def test_ten_products_are_kept() -> None:
    assert contract.SESSION_PRODUCTS == 10
    told = features(*(event(i, product_id=f"p{i}") for i in range(12)), event(13, product_id="p5"))
    assert told["last_products"] == ["p5", "p11", "p10", "p9", "p8", "p7", "p6", "p4", "p3", "p2"]


def test_a_session_is_current_until_30_minutes_after_its_last_event() -> None:
    state = absorb(VisitorState(), [event(0)])
    assert current_session(state, "v1", NOON + timedelta(minutes=29, seconds=59)) is not None
    assert current_session(state, "v1", NOON + timedelta(minutes=30)) is None
    assert current_session(VisitorState(), "v1", NOON) is None


def test_rows_become_events_with_their_category() -> None:
    row = {"event_id": "e", "kind": "cart", "occurred_at": NOON, "visitor_id": "v", "product_id": "p"}
    at = microseconds(NOON)
    found = events_by_visitor(
        [
            row,
            row | {"visitor_id": "w", "product_id": "", "session_id": ""},
            row | {"visitor_id": "x", "product_id": "unheard-of", "session_id": "s"},
            *(row | {"kind": kind} for kind in contract.NOTIFICATION_KINDS),
        ],
        {"p": (CategoryPeriod(at, at + 1, "c"),), "": (CategoryPeriod(at, at + 1, "none"),)},
    )
    assert found == {
        "v": [SessionEvent(at, "e", "cart", "p", "c")],
        "w": [SessionEvent(at, "e", "cart")],
        "x": [SessionEvent(at, "e", "cart", "unheard-of", None, "s")],
    }


def test_a_product_has_the_category_of_the_moment() -> None:
    noon = microseconds(NOON)
    periods = (CategoryPeriod(noon - 10, noon, "before"), CategoryPeriod(noon, noon + 10, "after"))
    told = [category_at(periods, noon + step) for step in (-11, -10, -1, 0, 9, 10)]
    assert told == [None, "before", "before", "after", "after", None]
    assert category_at((), noon) is None


def test_the_names_are_the_contracts() -> None:
    further = ("session_started_at", "session_product_count", "last_category")
    assert tuple(features(event(0))) == (*contract.SESSION_FEATURES.names, *further)
    assert set(further) < set(contract.SESSION_MOMENTS.names)
    assert set(SESSION_FIELDS) <= set(features(event(0))) & set(contract.SESSION_MOMENTS.names)
    assert {*Session.model_fields, "visitor_id"} == set(contract.SESSION_FEATURES.names)
    assert len(COUNTS) == 5


# --- invariants -----------------------------------------------------------------------------------------------------

few = st.sampled_from(["a", "b", "c"])
one_event = st.builds(
    SessionEvent,
    at=st.integers(0, 300 * 12).map(lambda steps: microseconds(NOON) + steps * MINUTE // 12),
    event_id=st.integers(0, 60).map(str),
    kind=st.sampled_from(contract.EVENT_KINDS),
    product_id=st.none() | st.integers(0, 14).map(str),
    category_id=st.none() | few,
    session_id=st.none() | few,
)


def some_events(fewest: int) -> st.SearchStrategy[list[SessionEvent]]:
    return st.lists(one_event, min_size=fewest, max_size=60, unique_by=lambda event: event.event_id)


class FirstIsLast:
    """Text of which the first in order is the largest."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __lt__(self, other: FirstIsLast) -> bool:
        return other.text < self.text


def reference(events: list[SessionEvent]) -> dict[str, Any] | None:
    """The definition, word for word and as slow as that is."""
    ordered = sorted(events, key=lambda e: (e.at, e.event_id))
    if not ordered:
        return None
    latest = ordered[-1]
    own = [e for e in ordered if e.session_id == latest.session_id]
    if latest.session_id is None:
        starts = [i for i, e in enumerate(own) if i == 0 or e.at - own[i - 1].at >= 30 * MINUTE]
        own = own[starts[-1] :]
    products = list(dict.fromkeys(e.product_id for e in reversed(own) if e.product_id is not None))
    weights = {"page_view": 1, "product_view": 1, "favourite": 1.5, "cart": 1.5, "order": 3}
    interest: dict[str, float] = {}
    for e in own:
        if e.kind in weights and e.category_id is not None:
            decayed = weights[e.kind] * 2 ** -((latest.at - e.at) / 1e6 / (30 * 60))
            interest[e.category_id] = interest.get(e.category_id, 0) + decayed
    interested = [(e.at, FirstIsLast(e.category_id)) for e in own if e.kind in weights and e.category_id is not None]
    kinds = [e.kind for e in own]
    counts = [kinds.count(kind) for kind in ("cart", "order", "impression", "click")]
    return {
        "feature_at": moment(latest.at),
        **dict(zip(COUNTS, [kinds.count("page_view") + kinds.count("product_view"), *counts], strict=True)),
        "last_products": products[:10],
        "category_interest": pytest.approx(interest, abs=1e-9),
        "session_started_at": moment(own[0].at),
        "session_product_count": min(10, len(products)),
        "last_category": max(interested)[1].text if interested else None,
    }


def without_names(state: VisitorState) -> dict[str, Any] | None:
    told = latest_session(state, "v1")
    return told and {name: value for name, value in told.items() if name not in ("session_id", "visitor_id")}


@given(some_events(0), st.randoms(use_true_random=False), st.integers(1, 7))
def test_any_order_and_any_repetition_give_what_the_reference_gives(
    events: list[SessionEvent], random: Any, batch: int
) -> None:
    arriving = events + random.choices(events, k=len(events)) if events else []
    random.shuffle(arriving)
    state = VisitorState()
    for start in range(0, len(arriving), batch):
        state = decode(encode(absorb(state, arriving[start : start + batch])))
    assert without_names(state) == reference(events)
    assert state == absorb(VisitorState(), events)


@given(some_events(25), st.randoms(use_true_random=False), st.integers(8, 20))
def test_folding_changes_nothing_while_no_event_is_overtaken_by_too_many(
    events: list[SessionEvent], random: Any, kept: int
) -> None:
    ordered = sorted(events)
    arriving, waiting = [], []
    for one in ordered:  # at most kept // 2 later events arrive before any event
        waiting.append(one)
        if len(waiting) > kept // 2:
            random.shuffle(waiting)
            arriving += waiting
            waiting = []
    folded = VisitorState()
    for one in arriving + waiting:
        folded = decode(encode(absorb(folded, [one], kept)))
        folded = absorb(folded, [one], kept)
        assert len(folded.events) <= kept
    assert without_names(folded) == reference(events)
    assert folded.folded
    again = absorb(folded, random.choices(events, k=30), kept)
    assert again == folded, "what was folded is not counted again"


@given(some_events(25), st.randoms(use_true_random=False))
def test_parts_give_the_same_session_however_events_are_split_repeated_and_folded(
    events: list[SessionEvent], random: Any
) -> None:
    """As a store keeps them: parts are appended, several may be folded into one at any moment, in steps that repeat."""
    arriving = events + random.choices(events, k=10) if events else []
    random.shuffle(arriving)
    parts: list[bytes] = []
    while arriving:
        size = random.randint(1, 5)
        parts += [encode(VisitorState(tuple(arriving[:size])))] * random.choice([1, 1, 2])
        arriving = arriving[size:]
        if random.random() < 0.3:
            parts = [encode(joined(map(decode, parts)))]
    assert without_names(joined(map(decode, parts))) == reference(events)


# --- bounds ---------------------------------------------------------------------------------------------------------


def test_a_session_without_end_is_counted_to_the_last_and_kept_small() -> None:
    state, count = VisitorState(), 5_000
    events = [event(i / 10, f"{i:05d}", product_id=f"p{i}", category_id="c") for i in range(count)]
    for start in range(0, count, 50):
        state = absorb(state, events[start : start + 50])
    assert len(state.events) == KEPT_EVENTS
    assert len(encode(state)) < 60_000
    assert without_names(state) == reference(events)
    assert without_names(state)["session_view_count"] == count  # type: ignore[index]


def test_what_is_a_day_older_than_the_latest_is_folded_and_later_arrivals_from_then_are_left_out() -> None:
    state = absorb(VisitorState(), [event(0, session_id="s"), event(60 * KEPT_HOURS + 1, "new", session_id="s")])
    assert [one.event_id for one in state.events] == ["new"]
    told = latest_session(absorb(state, [event(-1, "too late", session_id="s")]), "v1")
    assert told is not None
    assert told["session_view_count"] == 2


def test_folded_sessions_are_bounded() -> None:
    events = [event(i / 100, f"{i:04d}", session_id=f"s{i}") for i in range(KEPT_EVENTS + 3 * KEPT_SESSIONS)]
    state = absorb(VisitorState(), events)
    assert [session.own_id for session in state.folded] == [
        f"s{i}" for i in range(2 * KEPT_SESSIONS, 3 * KEPT_SESSIONS)
    ]


# --- stored ---------------------------------------------------------------------------------------------------------


def test_states_survive_storage() -> None:
    state = absorb(VisitorState(), [event(i, product_id="ü", category_id="c") for i in range(20)], kept=5)
    assert state.folded
    assert decode(encode(state)) == state
    assert decode(encode(state).decode()) == state
    unfolded = absorb(VisitorState(), [event(0)])
    assert decode(encode(unfolded)) == unfolded


GOOD = json.loads(encode(absorb(VisitorState(), [event(i, product_id="p", category_id="c") for i in range(3)], 2)))


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"\xff\xfe",
        "{}",
        "[" * 100_000,
        "null",
        json.dumps([2, *GOOD[1:]]),
        json.dumps(GOOD[:3]),
        json.dumps([1, GOOD[1], [["not a time", "e", "cart"]], []]),
        json.dumps([1, GOOD[1], [[1, "e", "cart", 5]], []]),
        json.dumps([1, GOOD[1], [[1, None, "cart"]], []]),
        json.dumps([1, GOOD[1], [], [[*GOOD[3][0][:3], {}, [], {}]]]),
        json.dumps([1, GOOD[1], [], [[7, *GOOD[3][0][1:]]]]),
        json.dumps([1, GOOD[1], [], [[*GOOD[3][0][:5], {"c": ["x", 1]}]]]),
        json.dumps(GOOD)[:-5],
    ],
)
def test_a_damaged_state_says_so(stored: str | bytes) -> None:
    assert decode(json.dumps(GOOD)).folded
    with pytest.raises(ValueError, match="damaged or of another version"):
        decode(stored)


def test_states_are_values() -> None:
    """Adding to a state leaves the one before as it was."""
    before = absorb(VisitorState(), [event(i, product_id="p", category_id="c") for i in range(3)], 2)
    copy = replace(decode(encode(before)))
    absorb(before, [event(4, product_id="q", category_id="c"), event(5)], 2)
    latest_session(before, "v1")
    assert before == copy
