"""Google Analytics 4: what a line of the BigQuery export becomes."""

import gzip
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from ingestion.batch import Batch
from ingestion.sources import open_source
from marquee.errors import SourceError

Object = dict[str, Any]
AT = datetime(2021, 1, 31, 12, 0, 0, 250)
MICROS = 1612094400000250
BASE = {
    "occurred_at": AT,
    "visitor_id": "1.2",
    "session_id": "77",
    "page": "/shop/a",
    "device": "mobile",
    "country": "France",
    "referrer": "newsletter",
}


def _line(name: str, items: list[Object] | None = None, **changes: Any) -> Object:
    line = {
        "event_timestamp": str(MICROS),
        "event_name": name,
        "event_params": [
            {"key": "ga_session_id", "value": {"string_value": None, "int_value": "77"}},
            {"key": "page_location", "value": {"string_value": "https://shop.example/shop/a?b=c"}},
            {"key": "engaged", "value": {}},
        ],
        "user_pseudo_id": "1.2",
        "user_id": None,
        "device": {"category": "mobile"},
        "geo": {"country": "France"},
        "traffic_source": {"source": "google"},
        "collected_traffic_source": {"manual_source": "newsletter"},
        "items": items or [],
    }
    return line | changes


def _read(path: Path, *lines: Object | str) -> list[Batch]:
    file = path / "events_20210131.json"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return list(open_source("ga4", file).read())


def _events(batches: list[Batch], derived: bool) -> list[Object]:
    rows = [row for batch in batches if batch.derived is derived for row in batch.records.to_pylist()]
    return [{key: value for key, value in row.items() if value is not None and key != "event_id"} for row in rows]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (_line("page_view"), BASE | {"kind": "page_view"}),
        (_line("scroll", event_timestamp=MICROS, user_id="u1"), BASE | {"kind": "other", "customer_id": "u1"}),
        (_line("view_item", [{"item_id": "p"}]), BASE | {"kind": "product_view", "product_id": "p"}),
        (_line("add_to_wishlist", [{"item_id": 9}]), BASE | {"kind": "favourite", "product_id": "9"}),
        (_line("add_to_cart", [{"item_id": "p"}]), BASE | {"kind": "cart", "product_id": "p", "quantity": 1.0}),
        (
            _line("purchase", [{"item_id": "p", "price": 2.5, "quantity": "3"}], ecommerce={"transaction_id": "t"}),
            BASE | {"kind": "order", "product_id": "p", "quantity": 3.0, "amount": 7.5, "order_id": "t"},
        ),
        (
            _line("purchase", [{"item_id": "p", "item_revenue": 4}], ecommerce={"transaction_id": "(not set)"}),
            BASE | {"kind": "order", "product_id": "p", "quantity": 1.0, "amount": 4.0},
        ),
        (
            _line("page_view", device={"category": "smart tv"}, geo=None, collected_traffic_source=None),
            {key: value for key, value in BASE.items() if key != "country"}
            | {"kind": "page_view", "device": "unknown", "referrer": "google"},
        ),
    ],
)
def test_each_kind(tmp_path: Path, line: Object, expected: Object) -> None:
    batches = _read(tmp_path, line)
    assert _events(batches, derived=False) == [expected]
    assert _events(batches, derived=True) == []


def test_further_items_of_a_line_are_derived(tmp_path: Path) -> None:
    items = [{"item_id": name, "price": 1} for name in ("a", "b", "b")]
    batches = _read(tmp_path, _line("purchase", items), _line("purchase", items), _line("page_view"))
    assert [event.get("product_id") for event in _events(batches, derived=False)] == ["a", "a", None]
    assert [event["product_id"] for event in _events(batches, derived=True)] == ["b", "b", "b", "b"]
    ids = [event for batch in batches for event in batch.records["event_id"].to_pylist()]
    assert len(ids) == 7
    assert len(set(ids)) == 4


def test_a_select_promotion_joins_the_view_of_its_visitor_and_session(tmp_path: Path) -> None:
    promotion = {"promotion_id": "summer", "creative_slot": "hero", "index": 2, "item_id": "p"}
    second = {"promotion_id": "(not set)", "creative_name": "sale", "location_id": "top", "item_list_index": "1"}
    third = {"promotion_name": "last", "index": "(not set)"}
    later = {"event_timestamp": MICROS + 10**9}
    other_session = [{"key": "ga_session_id", "value": {"int_value": 78}}]
    batches = _read(
        tmp_path,
        _line("view_promotion", [promotion, second, promotion | {"item_id": "q", "index": 5}, third]),
        _line("select_promotion", [promotion], **later),
        _line("select_promotion", [promotion], **later, event_params=other_session),
        _line("view_promotion", [promotion], **later),
    )
    view, click, stranger, again = _events(batches, derived=False)
    impression_id = view.pop("impression_id")
    assert view == BASE | {"kind": "impression", "banner_id": "summer", "placement_id": "hero", "position": 2}
    assert (click["kind"], click["impression_id"], click["banner_id"]) == ("click", impression_id, "summer")
    assert stranger["impression_id"] != impression_id
    assert again["impression_id"] == impression_id
    ids = [event for batch in batches if not batch.derived for event in batch.records["event_id"].to_pylist()]
    assert ids[3] == ids[0]
    assert len(set(ids)) == 3
    more = [(e["banner_id"], e["placement_id"], e.get("position")) for e in _events(batches, derived=True)]
    assert more == [("sale", "top", 1), ("last", "unknown", None)]


def test_a_promotion_may_be_told_in_the_params_alone(tmp_path: Path) -> None:
    params = [{"key": "promotion_id", "value": {"string_value": "summer"}}]
    (event,) = _events(_read(tmp_path, _line("view_promotion", event_params=params)), derived=False)
    assert (event["banner_id"], event["placement_id"]) == ("summer", "unknown")


def _param(value: Any) -> list[Object]:
    return [{"key": "page_location", "value": value}]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not valid JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("3", "not a JSON object but a int"),
        (_line("view_item"), "items are missing, which a view_item needs"),
        (_line("select_promotion"), "items are missing, which a select_promotion needs"),
        (_line("purchase", items=["a"]), "items ['a'] is not a list of objects"),
        (_line("purchase", items=[{"item_id": "p"}, {"item_name": "q"}]), "items: item_id is missing"),
        (_line("view_promotion", items=[{"item_id": "p"}]), "items: promotion_id is missing, and so are creative_name"),
        (_line("purchase", items=[{"item_id": "p", "price": "dear"}]), "price 'dear' is not a number"),
        (_line("purchase", items=[{"item_id": "p", "price": -1}]), "price '-1' is negative"),
        (_line("page_view", event_name=None), "event_name is missing"),
        (_line("page_view", user_pseudo_id=None), "user_pseudo_id is missing"),
        (_line("page_view", event_timestamp=None), "event_timestamp is missing"),
        (_line("page_view", event_timestamp=1.5), "event_timestamp '1.5' is not a whole number of microseconds"),
        (_line("page_view", event_timestamp=7), "event_timestamp 7 is not a time between 1990 and 2100"),
        (_line("page_view", device="phone"), "device 'phone' is not an object"),
        (_line("page_view", event_params={"a": 1}), "event_params {'a': 1} is not a list of objects"),
        (_line("page_view", event_params=_param(5)), "value 5 is not an object"),
        (_line("page_view", event_params=_param({"string_value": "http://[x"})), "page_location 'http://[x' is not an"),
        (_line("page_view", user_pseudo_id="a\ud800"), "user_pseudo_id is not a text that UTF-8 can hold"),
        (_line("page_view", user_pseudo_id="a\0"), "user_pseudo_id 'a\\x00' holds a NUL byte"),
        (_line("page_view", user_pseudo_id=["a"]), "user_pseudo_id ['a'] is not a text"),
    ],
)
def test_a_bad_line_is_rejected_with_its_number(tmp_path: Path, line: Object | str, reason: str) -> None:
    batches = _read(tmp_path, _line("page_view"), "", line, _line("scroll"))
    (rejected,) = [row for batch in batches for row in batch.rejected]
    assert (rejected.file, rejected.line) == ("events_20210131.json", 3)
    assert rejected.reason.startswith(reason)
    assert [event["kind"] for event in _events(batches, derived=False)] == ["page_view", "other"]


def test_a_folder_of_gzipped_files_and_whole_file_errors(tmp_path: Path) -> None:
    for name in ("events_2-0.json.gz", "events_1-0.jsonl"):
        (tmp_path / name).write_bytes(gzip.compress(json.dumps(_line(name)).encode()))
    (tmp_path / "schema.txt").write_text("not an export")
    assert [b.records.num_rows for b in open_source("ga4", tmp_path).read()] == [2]
    (tmp_path / "events_1-0.jsonl").write_bytes(gzip.compress(b"{}")[:-4])
    with pytest.raises(SourceError, match=r"events_1-0\.jsonl is a truncated or corrupt gzip file"):
        list(open_source("ga4", tmp_path).read())
    (tmp_path / "events_1-0.jsonl").write_bytes(b"")  # a day without events
    assert [b.records.num_rows for b in open_source("ga4", tmp_path).read()] == [1]
    with pytest.raises(SourceError, match=r"events_1-0\.jsonl is empty"):
        list(open_source("ga4", tmp_path / "events_1-0.jsonl").read())
    (tmp_path / "events_2-0.json.gz").write_bytes(b"")  # no gzip at all
    with pytest.raises(SourceError, match=r"events_2-0\.json\.gz is empty"):
        list(open_source("ga4", tmp_path).read())
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"empty holds no file named \*\.json or \*\.jsonl"):
        list(open_source("ga4", tmp_path / "empty").read())
