"""Cursors: what a page gives is a place again, and nothing else is."""

from __future__ import annotations

import base64
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion.event_query import Place, Wanted, place_of

MOMENTS = st.datetimes(datetime(1990, 1, 1), datetime(2100, 12, 31))
IDS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=200)


@given(MOMENTS, IDS)
def test_a_cursor_names_its_place(moment: datetime, event_id: str) -> None:
    place = Place(moment, event_id)
    assert place_of(place.cursor) == place
    assert place.cursor.isascii()


@given(st.text(max_size=60))
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no cursor"):
        place_of(text)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        "[1]",
        '["1", "e"]',
        "[1, 2]",
        "[true, 2]",
        "[1.5, 3]",
        '[1e400, "e"]',
        '[99999999999999999999, "e"]',
    ],
)
def test_what_only_looks_like_one_is_refused(content: str) -> None:
    with pytest.raises(ValueError, match="no cursor"):
        place_of(base64.urlsafe_b64encode(content.encode()).decode().rstrip("="))


def test_a_condition_binds_every_value() -> None:
    noon = datetime(2026, 2, 2, 12)
    wanted = Wanted({"visitor_id": "v'1", "kind": "click"}, noon, noon)
    condition, bound = wanted.condition(Place(noon, "e'1"))
    assert "v'1" not in condition
    assert "e'1" not in condition
    assert bound == {"visitor_id": "v'1", "kind": "click", "since": noon, "until": noon, "at": noon, "id": "e'1"}
    assert Wanted().condition() == ("true", {})
