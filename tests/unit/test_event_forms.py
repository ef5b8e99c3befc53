"""What compiled code takes for an event is one to the API's model and to the stream's reader, and is the same event."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion.event_forms import decode_lines, decode_report, encode_lines
from ingestion.event_stream import parse_event
from ingestion.group_commit import event_line
from marquee import contract
from serving.http.events import _read_plain, read_events, read_report
from serving.http.problems import Problem
from serving.schemas import Event

IDS = st.sampled_from(["a", "ü", 'q"uote', "x" * 200, "back\\slash", "with: colon", '":'])
ODD = st.sampled_from([None, "", 1, 1.5, -1, True, 2**63, 2**70, "x" * 201, [], {}, "\x00", "tab\t", "1", "b\ud800"])
MOMENTS = st.sampled_from(
    [
        *("2026-02-02T12:00:03Z", "2026-02-02T12:00:03.123456+02:00", "2026-02-02 12:00:03", "2026-02-02T12:00:03.5"),
        *("1989-12-31T23:00:00-02:00", "1990-01-01T00:30:00+01:00", "2100-12-31T23:59:59Z", "2101-01-01T00:00:00Z"),
        *("9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "2026-02-02", "2026-02-30T00:00:00Z", "soon"),
    ]
)
GOOD: dict[str, Any] = {
    **dict.fromkeys(contract.BOUNDED, IDS),
    "occurred_at": MOMENTS | st.just("2026-02-02T12:00:03Z"),
    "position": st.integers(0, 5) | st.just(2**63 - 1),
    "quantity": st.floats(0, 9) | st.integers(0, 9),
    "amount": st.floats(0, allow_infinity=False),
    "propensity": st.floats(0.01, 1) | st.just(1),
    "device": st.sampled_from(contract.DEVICES),
    "kind": st.sampled_from(contract.EVENT_KINDS),
}
ALWAYS = (
    *("event_id", "kind", "occurred_at", "visitor_id", "product_id", "banner_id", "placement_id", "impression_id"),
    *("notification_id", "notification_type"),
)


@st.composite
def events(draw: st.DrawFn) -> dict[str, Any]:
    """Events that are mostly valid: any fields, now and then one that is odd, unknown or missing."""
    names = [*ALWAYS, *draw(st.lists(st.sampled_from(contract.EVENTS.names), max_size=6))]
    event = {name: draw(GOOD.get(name, st.text(max_size=5))) for name in dict.fromkeys(names)}
    if draw(st.integers(0, 5)) == 0:
        event[draw(st.sampled_from([*contract.EVENTS.names, "unknown"]))] = draw(ODD)
    if draw(st.integers(0, 7)) == 0:
        del event[draw(st.sampled_from(sorted(event)))]
    return event


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Such events as JSON, written this way or that; names come twice, texts are escaped, bytes break."""
    some = draw(st.lists(events(), max_size=3)) if draw(st.booleans()) else draw(events())
    text = json.dumps(some, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, None, 1])))
    rng = random.Random(draw(st.integers(0, 2**32)))
    if draw(st.booleans()):
        text = text.replace('": ', draw(st.sampled_from(['":', '" :', '"\n: ', '":\t'])))
    if draw(st.integers(0, 3)) == 0 and (pairs := [i for i, sign in enumerate(text) if sign == "{"]):
        at = rng.choice(pairs) + 1
        again = draw(st.sampled_from(['"event_id" :"n"', '"page":"\\u0022"', '"kind":"cart"', '"page":null', '"q":1']))
        text = f"{text[:at]}{again},{text[at:]}"
    raw = text.encode("utf-8", "surrogatepass")
    if raw and draw(st.integers(0, 5)) == 0:
        at = rng.randrange(len(raw))
        raw = raw[:at] + draw(st.sampled_from([b"", b"\x00", b"\xff", b'"', b",", b"\\"])) + raw[at + 1 :]
    return raw


def test_a_plain_body_is_read_as_the_model_reads_it() -> None:
    taken = {"plain": 0, "judged": 0}

    @settings(max_examples=1_500)
    @given(bodies())
    def check(body: bytes) -> None:
        plain, judged = _read_plain(body), told_of(lambda: read_events(body, 1_000))
        if isinstance(judged, bytes):
            assert plain is None
            assert told_of(lambda: read_report(body, 1_000)) == judged
            return
        slow, wrong = judged
        count, lines, rejected = read_report(body, 1_000)
        assert (count, rejected) == (len(slow), wrong)
        assert [row(parse_event(line)) for line in lines.splitlines()] == [row(event.row()) for event in slow]
        taken["plain" if plain else "judged"] += 1

    check()
    assert min(taken.values()) > 50, "both ways were taken"


def told_of(reading: Callable[[], Any]) -> Any:
    """What was read, or the body of the problem."""
    try:
        return reading()
    except Problem as problem:
        return problem.body("x")


def row(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


@given(st.lists(events(), max_size=4))
def test_lines_are_events_to_the_loader_as_well(some: list[dict[str, Any]]) -> None:
    data = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in some).encode("utf-8", "replace")
    try:
        found = decode_lines(data)
    except (ValueError, RecursionError):
        return
    for form, line in zip(found, data.splitlines(), strict=True):
        if not 1991 <= form.occurred_at.year < 2100:
            continue  # whoever reads lines looks at the moment
        if any(type(value) is int and value >= 2**63 for value in json.loads(line).values()):
            continue  # the loader takes such a number as a float alone, and that is how lines are written
        told = parse_event(line)
        at = form.occurred_at
        assert told["occurred_at"] == (at.astimezone(UTC).replace(tzinfo=None) if at.tzinfo else at)
        assert [told["event_id"], told["kind"], told["visitor_id"]] == [form.event_id, form.kind, form.visitor_id]
        assert [told.get("product_id"), told.get("session_id")] == [form.product_id or None, form.session_id or None]


@pytest.mark.parametrize("kind", contract.EVENT_KINDS)
def test_each_kind_needs_what_the_contract_says(kind: str) -> None:
    event = dict.fromkeys(contract.required_by_kind(kind), "x")
    event |= {"kind": kind, "occurred_at": "2026-02-02T12:00:00Z"}
    (form,) = decode_report(json.dumps(event).encode())
    assert (form.kind, form.occurred_at) == (kind, datetime(2026, 2, 2, 12, tzinfo=UTC))
    assert parse_event(encode_lines([form])) == parse_event(Event.model_validate(event).line())
    for name in contract.required_by_kind(kind):
        with pytest.raises(ValueError, match=name):
            decode_report(json.dumps({key: value for key, value in event.items() if key != name}).encode())


def test_whole_lines_with_blanks_between() -> None:
    line = event_line({"event_id": "e", "kind": "page_view", "occurred_at": datetime(2026, 2, 2), "visitor_id": "v"})
    assert len(decode_lines(line + b"     \n\n" + line)) == 2
    assert decode_lines(b"") == []
