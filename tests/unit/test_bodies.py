"""Bodies as strict JSON, and problems that name the field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from serving.http.bodies import require_json, strict_json
from serving.http.events import read_events
from serving.http.problems import Problem, faults, field_name, invalid_body
from serving.http.slates import read_request

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=15,
)


def has_null(value: Any) -> bool:
    if isinstance(value, dict):
        return any(has_null(one) for pair in value.items() for one in pair)
    return any(map(has_null, value)) if isinstance(value, list) else isinstance(value, str) and "\x00" in value


@given(values)
@example("\\u0000")
@example({"\x00": 1})
def test_what_json_can_say_comes_back_and_null_characters_do_not(value: Any) -> None:
    body = json.dumps(value).encode()
    if has_null(value):
        with pytest.raises(Problem, match="null character"):
            strict_json(body)
    else:
        assert strict_json(body) == value


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting"),
        (b'{"a": 1, "a": 2}', "'a' is repeated"),
        (b'{"a": {"b": 1, "c": 2, "b": 1}}', "'b' is repeated"),
        (b'{"a": NaN}', "NaN"),
        (b"[-Infinity]", "Infinity"),
        (b"\xff", "utf-8"),
        (b"\xef\xbb\xbf{}", "BOM"),
        ("{}".encode("utf-16"), "utf-8"),
        (b"[" * 100_000, "nested"),
        (b"1" * 5000, "digits"),
        (b'"a\x00b"', "control character"),
    ],
)
def test_what_is_no_strict_json_is_a_400_that_says_why(body: bytes, told: str) -> None:
    with pytest.raises(Problem) as refused:
        strict_json(body)
    assert refused.value.status == 400
    assert told in refused.value.detail


EVENT = {"event_id": "e", "kind": "page_view", "occurred_at": "2026-02-02T12:00:00Z", "visitor_id": "v"}


@given(
    st.lists(st.fixed_dictionaries({"page": st.text(max_size=9) | st.sampled_from(['":', '\\":', '" :'])}), max_size=4),
    st.sampled_from([None, (",", ":"), (", ", " : ")]),
)
def test_a_repeated_name_is_found_however_the_body_is_written(
    pages: list[dict[str, str]], separators: tuple[str, str] | None
) -> None:
    """The quick count may ask the strict parser for nothing, but never lets a repetition pass."""
    body = json.dumps([EVENT | page for page in pages] + [EVENT], separators=separators).encode()
    if not any("\x00" in page["page"] for page in pages):
        assert len(read_events(body, 10)[0]) == len(pages) + 1
    again = body[:-2] + (b', "visitor_id":"w"}]' if separators is None else b', "visitor_id" :"w"}]')
    with pytest.raises(Problem, match=r"repeated|null character"):
        read_events(again, 10)


def test_a_text_that_looks_like_names_hides_no_repetition() -> None:
    body = json.dumps(EVENT | {"page": '":":":'})[:-1].encode()
    for more in (b', "visitor_id": "w"}', b', "visitor_id" : "w"}', b', "visitor_id"\n: "w"}'):
        with pytest.raises(Problem, match="'visitor_id' is repeated"):
            read_events(body + more, 10)
    request = b'{"visitor_id": "v", "placement": "p", "context": {"device": "mobile", "device": "mobile"}}'
    with pytest.raises(Problem, match="'device' is repeated"):
        read_request(request)
    assert read_request(request.replace(b', "device": "mobile"}', b"}")).context.device == "mobile"


@pytest.mark.parametrize("kind", [None, b"", b"text/plain", b"application/x-www-form-urlencoded", b"application/jsonp"])
def test_only_json_is_json(kind: bytes | None) -> None:
    with pytest.raises(Problem) as refused:
        require_json(kind)
    assert refused.value.status == 415


@pytest.mark.parametrize(
    "kind", [b"application/json", b"Application/JSON; charset=utf-8", b"application/merge-patch+json"]
)
def test_json_is_json(kind: bytes) -> None:
    assert require_json(kind) == b"application/json"


# --- events -----------------------------------------------------------------------------------------------------------


def test_each_event_of_a_list_is_judged_on_its_own() -> None:
    bad = [EVENT | {"kind": "dance"}, 7, EVENT | {"kind": "click", "event_id": ""}, EVENT | {"kind": "click"}]
    events, rejected = read_events(json.dumps([EVENT, *bad, EVENT]).encode(), 10)
    assert [event.event_id for event in events] == ["e", "e"]
    assert [(one["index"], one["event_id"]) for one in rejected] == [(1, "e"), (2, None), (3, None), (4, "e")]
    assert [one["errors"][0]["field"] for one in rejected] == ["kind", "", "event_id", "banner_id"]
    assert rejected[3]["errors"][0]["message"] == "banner_id is missing, which a click needs"


def test_more_events_than_may_be_are_refused_whether_valid_or_not() -> None:
    for events in ([EVENT] * 4, [EVENT] * 3 + [7]):
        with pytest.raises(Problem, match="at most 3 events"):
            read_events(json.dumps(events).encode(), 3)


def test_a_line_is_what_the_log_reads_back() -> None:
    given = EVENT | {"occurred_at": "2026-02-02T13:00:00+01:00", "amount": 1.5, "page": "/é\n", "session_id": ""}
    (event,), _ = read_events(json.dumps(given).encode(), 10)
    line = event.line()
    assert line.count(b"\n") == 1
    assert json.loads(line) == {
        "event_id": "e",
        "kind": "page_view",
        "occurred_at": "2026-02-02T12:00:00",
        "visitor_id": "v",
        "page": "/é\n",
        "amount": 1.5,
    }


# --- problems ---------------------------------------------------------------------------------------------------------


def test_fields_are_named_as_a_program_would_write_them() -> None:
    assert field_name(("body", "context", "device")) == "context.device"
    assert field_name((3, "occurred_at"), "events") == "events[3].occurred_at"
    assert field_name(("body", "hours", 0, "from_hour")) == "hours[0].from_hour"
    assert field_name(("body",)) == ""


class Span(BaseModel):
    model_config = ConfigDict(extra="forbid")

    first: int
    last_one: int

    @model_validator(mode="after")
    def _has_length(self) -> Span:
        if self.last_one <= self.first:
            raise ValueError("last_one must be later than first")
        return self


def test_a_rule_over_several_fields_names_the_one_that_it_begins_with() -> None:
    with pytest.raises(ValidationError) as error:
        Span.model_validate({"first": 2, "last_one": 1})
    told = [{"field": "last_one", "message": "last_one must be later than first"}]
    assert faults(error.value.errors()) == told
    problem = invalid_body(error.value)
    assert json.loads(problem.body("r")) == {
        "type": "about:blank",
        "title": "Invalid request",
        "status": 400,
        "detail": "last_one: last_one must be later than first",
        "request_id": "r",
        "errors": told,
    }
