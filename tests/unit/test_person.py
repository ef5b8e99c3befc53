"""Whom an id names in text, and whom it does not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marquee.person import Person


@pytest.mark.parametrize(
    ("visitor", "text", "count"),
    [
        ("v1", '{"visitor_id": "v1"}', 1),
        ("v1", "visitor v1 left; visitor v11 stayed", 1),
        ("v1", "visitor_id=v1, customer 'v1'", 2),
        ("v1", "GET /v1/events", 0),
        ("1", '{"retries": "1", "category": "1"}', 0),
        ("v000123", "v000123 and v0001234, v000123-1 and v000123.5", 1),
        ("v000123", "session v000123@2026-02-01 09:00:00.", 1),
        ("v000123", "see v000123.", 1),
        ("a <b> c d", "visitor a &lt;b&gt; c d", 1),
    ],
)
def test_mentions(visitor: str, text: str, count: int) -> None:
    assert Person(visitor).count(text.encode()) == count


def test_a_session_is_theirs_only_with_a_moment_behind_it() -> None:
    assert Person("v1").is_session("v1@2026-02-01 09:00:00")
    assert not Person("v1").is_session("v1@home")
    assert not Person("v1").is_session("v11@2026-02-01 09:00:00")


@given(st.text(min_size=1, max_size=30), st.text(max_size=20), st.text(max_size=20))
def test_blanking_keeps_the_length_and_leaves_no_mention(visitor: str, before: str, after: str) -> None:
    person = Person(visitor)
    text = f"{before}\n{json.dumps({'visitor_id': visitor})}\n{after}".encode("utf-8", "surrogatepass")
    blanked = person.blank(text)
    assert len(blanked) == len(text)
    if visitor.strip("*"):
        assert person.count(blanked) == 0


def test_customers_are_the_person_in_their_own_column_alone() -> None:
    person = Person("v1", ["c2", "c1"])
    assert person.ids("customer_id") == ["v1", "c1", "c2"]
    assert person.ids("visitor_id") == ["v1"]


def test_longer_words_are_those_that_hold_the_id() -> None:
    text = b'{"a": "v000123", "b": "v0001234", "c": "x-v000123_1 v000123@2026 v00012"}'
    assert Person("v000123").longer_words(text) == {b"v0001234", b"x-v000123_1"}


@given(st.text(min_size=1, max_size=20), st.binary(max_size=40), st.binary(max_size=40))
def test_places_are_what_blanking_overwrites(visitor: str, before: bytes, after: bytes) -> None:
    person = Person(visitor)
    text = before + b'{"visitor_id": "' + person.encoded + b'"}' + after
    starred = bytearray(text)
    for start, stop in person.places(text):
        starred[start:stop] = b"*" * (stop - start)
    assert bytes(starred) == person.blank(text)
