"""Marquee's own files: the table by the name, every type as the contract has it."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingestion.batch import Batch, arrow_schema
from ingestion.sources import open_source
from marquee import contract
from marquee.errors import SourceError

EVENT = {"event_id": "e1", "kind": "page_view", "occurred_at": "2026-01-02T03:04:05.000006", "visitor_id": "v"}
CAMPAIGN = {"campaign_id": "c", "starts_at": "2026-01-01", "ends_at": "2026-02-01T00:00:00+02:00", "status": "active"}


def _read(path: Path) -> list[Batch]:
    return list(open_source("marquee", path).read())


def _write(file: Path, *rows: Any) -> Path:
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return file


def _rows(batches: list[Batch]) -> list[dict[str, Any]]:
    rows = [row for batch in batches for row in batch.records.to_pylist()]
    return [{key: value for key, value in row.items() if value is not None} for row in rows]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-02T03:04:05", datetime(2026, 1, 2, 3, 4, 5)),
        ("2026-01-02 03:04:05Z", datetime(2026, 1, 2, 3, 4, 5)),
        ("2026-01-02T03:04:05.25+05:30", datetime(2026, 1, 1, 21, 34, 5, 250000)),
    ],
)
def test_times_with_a_zone_become_utc(tmp_path: Path, text: str, expected: datetime) -> None:
    (event,) = _rows(_read(_write(tmp_path / "events.jsonl", EVENT | {"occurred_at": text})))
    assert event["occurred_at"] == expected


def test_every_table_by_its_name_and_by_its_columns(tmp_path: Path) -> None:
    values = {"string": "x", "int": 1, "float": 2, "bool": True, "timestamp": "2026-01-02T00:00:00Z"}
    fixed = {"kind": "click", "status": "paused", "device": "tablet", "propensity": 0.5}
    for table in contract.RAW_TABLES.values():
        row = {c.name: fixed.get(c.name, values[c.type]) for c in table.columns}
        _write(tmp_path / f"{table.name}-2026.ndjson", row)
    _write(tmp_path / "log_2026.jsonl", EVENT)
    batches = _read(tmp_path)
    assert sorted(batch.table for batch in batches) == sorted([*contract.RAW_TABLES, "events"])
    assert all(batch.records.schema == arrow_schema(contract.RAW_TABLES[batch.table]) for batch in batches)
    assert [batch.records.num_rows for batch in batches] == [1] * 10
    by_table = {batch.table: batch.records.to_pylist()[0] for batch in batches}
    assert by_table["products"] == {
        "product_id": "x",
        "category_id": "x",
        "title": "x",
        "price": 2.0,
        "is_available": True,
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"colour": "red"}, "unknown field 'colour'; events has event_id, kind"),
        ({"visitor_id": None}, "visitor_id is missing, which a page_view needs"),
        ({"visitor_id": ""}, "visitor_id is missing, which a page_view needs"),
        ({"visitor_id": 5}, "visitor_id 5 is not a string"),
        ({"visitor_id": "\ud800"}, "visitor_id '\\ud800' holds half of a surrogate pair"),
        ({"visitor_id": "a\0"}, "visitor_id 'a\\x00' holds a NUL byte"),
        ({"kind": "buy"}, "kind 'buy' is not one of page_view"),
        ({"kind": "order"}, "product_id is missing, which a order needs"),
        ({"occurred_at": 1767322800}, "occurred_at 1767322800 is not an ISO 8601 time"),
        ({"occurred_at": "yesterday"}, "occurred_at 'yesterday' is not an ISO 8601 time"),
        ({"occurred_at": "0001-01-01T00:00:00+05:00"}, "occurred_at '0001-01-01T00:00:00+05:00' is not an ISO"),
        ({"occurred_at": "1900-01-01T00:00:00"}, "occurred_at datetime.datetime(1900, 1, 1, 0, 0) is not a UTC time"),
        ({"position": 1.0}, "position 1.0 is not a int"),
        ({"position": True}, "position True is not a int"),
        ({"position": 2**63}, "position 9223372036854775808 is not a int"),
        ({"amount": "1"}, "amount '1' is not a float"),
        ({"amount": float("inf")}, "amount inf is not a float"),
        ({"amount": -1}, "amount -1.0 is negative"),
        ({"propensity": 0}, "propensity 0.0 is not in (0, 1]"),
        ({"device": "fridge"}, "device 'fridge' is not one of desktop, mobile, tablet, unknown"),
    ],
)
def test_a_row_that_breaks_the_contract(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    batches = _read(_write(tmp_path / "events.jsonl", EVENT, EVENT | change, EVENT | {"event_id": "e2"}))
    (rejected,) = [row for batch in batches for row in batch.rejected]
    assert (rejected.file, rejected.line) == ("events.jsonl", 2)
    assert rejected.reason.startswith(reason)
    assert [event["event_id"] for event in _rows(batches)] == ["e1", "e2"]


def test_rows_of_other_tables_that_break_the_contract(tmp_path: Path) -> None:
    late = CAMPAIGN | {"starts_at": "2300-01-01"}
    paused = CAMPAIGN | {"status": "sleeping"}
    batches = _read(_write(tmp_path / "campaigns.jsonl", CAMPAIGN, late, paused, CAMPAIGN | {"campaign_id": ""}))
    assert _rows(batches) == [
        CAMPAIGN | {"starts_at": datetime(2026, 1, 1), "ends_at": datetime(2026, 1, 31, 22)},
    ]
    assert [row.reason for row in batches[0].rejected] == [
        "starts_at 2300-01-01 00:00:00 is not between 1990 and 2100",
        "status 'sleeping' is not one of active, paused",
        "campaign_id is missing, which a row of campaigns needs",
    ]


def test_parquet(tmp_path: Path) -> None:
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    columns = {name: pa.array([value] * 3) for name, value in EVENT.items()}
    columns["occurred_at"] = pa.array([moment, moment, None], pa.timestamp("ns", "Europe/Paris"))
    columns["visitor_id"] = pa.array(["v", None, "w"]).dictionary_encode()
    pq.write_table(pa.table(columns), tmp_path / "events-1.parquet")
    batches = _read(tmp_path)
    assert _rows(batches) == [EVENT | {"occurred_at": moment.replace(tzinfo=None)}]
    assert [(row.file, row.line, row.reason) for row in batches[0].rejected] == [
        ("events-1.parquet", 2, "visitor_id is missing, which a page_view needs"),
        ("events-1.parquet", 3, "occurred_at is missing, which a page_view needs"),
    ]


def test_parquet_whose_columns_do_not_fit(tmp_path: Path) -> None:
    file = tmp_path / "banners.parquet"
    pq.write_table(pa.table({"banner_id": ["b"], "campaign_id": ["c"], "colour": ["red"]}), file)
    with pytest.raises(SourceError, match=r"banners\.parquet: column 'colour' is not one of banners; its columns"):
        _read(file)
    pq.write_table(pa.table({"banner_id": ["b"]}), file)
    with pytest.raises(SourceError, match=r"banners\.parquet: column 'campaign_id' is missing; found: banner_id"):
        _read(file)
    file.write_bytes(b"PAR1")
    with pytest.raises(SourceError, match="is not a sound Parquet file"):
        _read(file)


def test_files_that_belong_to_no_table(tmp_path: Path) -> None:
    for row in ({"a": 1}, [1]):
        with pytest.raises(SourceError, match=r"log\.jsonl is named after no table and does not hold events; the tabl"):
            _read(_write(tmp_path / "log.jsonl", row))
    (tmp_path / "log.jsonl").write_text("")
    with pytest.raises(SourceError, match=r"log\.jsonl is empty"):
        _read(tmp_path)
    with pytest.raises(SourceError, match="none does not exist"):
        _read(tmp_path / "none")


def test_files_without_rows_are_passed_over_unless_none_has_any(tmp_path: Path) -> None:
    for name in ("banners.jsonl", "2026-01-01.jsonl"):
        (tmp_path / name).write_text("\n")
    pq.write_table(arrow_schema(contract.PRODUCTS).empty_table(), tmp_path / "products.parquet")
    with pytest.raises(SourceError, match=r"2026-01-01\.jsonl is empty"):
        _read(tmp_path)
    _write(tmp_path / "events.jsonl", EVENT)
    assert [(batch.table, batch.records.num_rows) for batch in _read(tmp_path)] == [("events", 1)]


def test_decimals_of_parquet_are_the_numbers_that_they_say(tmp_path: Path) -> None:
    """Each as the nearest float, which is what the same digits give in JSON; a whole one is a position too."""
    amounts = ["19.90", "0.10", "-0.01", "9007199254740993.00", None]
    positions = ["0", "7", "1", "2", "1.5"]
    columns = {"event_id": [f"e{n}" for n in range(5)], "kind": ["order"] * 5, "visitor_id": ["v"] * 5}
    columns |= {"product_id": ["p"] * 5, "occurred_at": [datetime(2026, 1, 2)] * 5}
    decimals = {
        "amount": pa.array([text and Decimal(text) for text in amounts], pa.decimal128(38, 2)),
        "position": pa.array([Decimal(text) for text in positions], pa.decimal256(40, 1)),
    }
    pq.write_table(pa.table(columns | decimals), tmp_path / "events.parquet")
    batches = _read(tmp_path / "events.parquet")
    found = [(row["event_id"], row["amount"], row["position"]) for row in _rows(batches)]
    # 2^53 + 1 lies between two floats, and 2^53 is the even one.
    assert found == [("e0", 19.9, 0), ("e1", 0.1, 7), ("e3", 9007199254740992.0, 2)]
    reasons = [(row.line, row.reason) for batch in batches for row in batch.rejected]
    assert reasons == [(3, "amount -0.01 is negative"), (5, "position 1.5 is not a int")]
    as_json = [EVENT | {"event_id": f"j{n}", "amount": float(text)} for n, text in enumerate(["19.90", "0.10"])]
    assert [row["amount"] for row in _rows(_read(_write(tmp_path / "events.jsonl", *as_json)))] == [19.9, 0.1]
