"""Reading rows: what is a row, what is rejected with which line and reason, what stops the whole file."""

import gzip
import json
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingestion.batch import Rejected
from ingestion.rows import LINE_LIMIT, Row, read_all, read_csv, read_json_lines, read_parquet
from marquee.errors import SourceError

COLUMNS = ("id", "price")


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _values(rows: list[Row | Rejected]) -> list[tuple[int, dict[str, str]]]:
    return [(row.line, row.values) for row in rows if isinstance(row, Row)]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize("is_gzip", [False, True])
def test_gzip_is_told_by_content_and_not_by_name(tmp_path: Path, name: str, is_gzip: bool) -> None:
    content = b"id,price\n1,2.5\n"
    file = _write(tmp_path / name, gzip.compress(content) if is_gzip else content)
    assert _values(list(read_csv(file, COLUMNS))) == [(2, {"id": "1", "price": "2.5"})]


def test_byte_order_mark_line_ends_blank_lines_quotes_and_delimiter(tmp_path: Path) -> None:
    file = _write(tmp_path / "a.csv", b'\xef\xbb\xbfid; price\r\n\r\n1;"2;5"\r\n\n2;"a ""b"""\r\n3;\xc3\xa9')
    expected = [(3, {"id": "1", "price": "2;5"}), (5, {"id": "2", "price": 'a "b"'}), (6, {"id": "3", "price": "é"})]
    assert _values(list(read_csv(file, COLUMNS, delimiter=";"))) == expected


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"1", "the line has 1 fields, the header 2"),
        (b"1,2,3", "the line has 3 fields, the header 2"),
        (b"a\xff,2", "not UTF-8: byte 0xff at position 2"),
        (b"a\0,2", "the line holds a NUL byte"),
        (b"a\rb,2", "the line holds a carriage return"),
        (b'"a,2', "fields cannot be told apart: a quoted field is not closed on its line"),
        (b'"a"b,2', "fields cannot be told apart: ',' expected after '\"'"),
        (b"a" * LINE_LIMIT + b",2", f"the line is longer than {LINE_LIMIT} bytes"),
    ],
)
def test_a_bad_line_is_rejected_and_the_next_one_is_read(tmp_path: Path, line: bytes, reason: str) -> None:
    file = _write(tmp_path / "a.csv", b"id,price\n1,2\n" + line + b"\n3,4\n")
    rows = list(read_csv(file, COLUMNS))
    assert _values(rows) == [(2, {"id": "1", "price": "2"}), (4, {"id": "3", "price": "4"})]
    assert rows[1] == Rejected("a.csv", 3, reason, line.decode("utf-8", "replace")[:200])


def test_lines_are_counted_across_blocks_and_lines_longer_than_one(tmp_path: Path) -> None:
    """Blocks are some four megabytes."""
    long = b"y" * (LINE_LIMIT + (6 << 20))
    lines = [b"1," + b"2" * 60] * 100_000 + [long, b"3,4", b"", b"5", b"6," + b"z" * (5 << 20), b"7,8"]
    file = _write(tmp_path / "a.csv", b"\xef\xbb\xbf\n\nid,price\n" + b"\n".join(lines))
    rows = list(read_csv(file, COLUMNS))
    assert [row.line for row in rows[:2]] == [4, 5]
    assert [(type(row), row.line) for row in rows[100_000:]] == [
        (Rejected, 100_004),
        (Row, 100_005),
        (Rejected, 100_007),
        (Row, 100_008),
        (Row, 100_009),
    ]
    assert len(rows) == 100_005


def test_files_without_rows_are_passed_over_unless_none_has_any(tmp_path: Path) -> None:
    full, bare = _write(tmp_path / "a.csv", b"id,price\n1,2\n"), _write(tmp_path / "b.csv", b"id,price\n\n")
    other = _write(tmp_path / "c.csv", b"id,price\n3,4\n")
    read = partial(read_csv, columns=COLUMNS)
    found = [(row.file, row.line) for row in read_all([bare, full, bare, other, bare], read)]
    assert found == [("a.csv", 2), ("c.csv", 2)]
    with pytest.raises(SourceError, match=r"b\.csv has a header but no rows"):
        list(read_all([bare, bare], read))
    with pytest.raises(SourceError, match=r"d\.csv is empty"):
        list(read_all([full, _write(tmp_path / "d.csv", b"")], read))
    # A row that is rejected is a row.
    assert len(list(read_all([bare, _write(tmp_path / "e.csv", b"id,price\n1\n")], read))) == 1


# Named, for a gzip header holds the time it was written: two test processes would collect different names.
@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "a.csv is empty", id="nothing"),
        pytest.param(b"\xef\xbb\xbf\n\n", "a.csv is empty", id="blank"),
        pytest.param(gzip.compress(b"", mtime=0), "a.csv is empty", id="gzip of nothing"),
        pytest.param(b"id,price\n\n", "a.csv has a header but no rows", id="header alone"),
        pytest.param(b"id,cost\n1,2\n", "column 'price' is missing; found: id, cost", id="missing column"),
        pytest.param(b"id,price,id\n1,2,3\n", "column 'id' appears twice; found: id, price, id", id="column twice"),
        pytest.param(
            b"i\xffd\n1\n", "line 1: no header can be read, not UTF-8: byte 0xff at position 2", id="header not utf-8"
        ),
        pytest.param(
            b'"id,price\n1,2\n', "line 1: no header can be read, fields cannot be told apart", id="open quote"
        ),
        pytest.param(
            gzip.compress(b"id,price\n1,2\n" * 99, mtime=0)[:-9],
            "is a truncated or corrupt gzip file",
            id="gzip cut short",
        ),
        pytest.param(
            gzip.compress(b"id,price\n1,2\n", mtime=0)[:-8] + b"12345678",
            "is a truncated or corrupt gzip file",
            id="gzip checksum",
        ),
        pytest.param(b"\x1f\x8bnot gzip", "is a truncated or corrupt gzip file", id="gzip in name only"),
    ],
)
def test_a_file_that_cannot_be_read_as_a_whole(tmp_path: Path, content: bytes, message: str) -> None:
    file = _write(tmp_path / "a.csv", content)
    with pytest.raises(SourceError) as error:
        list(read_csv(file, COLUMNS))
    assert message in str(error.value)
    assert str(file) in str(error.value)


def test_a_truncated_gzip_says_that_nothing_was_loaded(tmp_path: Path) -> None:
    file = _write(tmp_path / "a.csv.gz", gzip.compress(b"id,price\n" + b"1,2\n" * 10_000)[:-20])
    with pytest.raises(SourceError, match="nothing was loaded"):
        list(read_csv(file, COLUMNS))


def test_a_folder_and_a_missing_file_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(SourceError, match="cannot be read"):
            list(read_csv(path, COLUMNS))


def test_json_lines(tmp_path: Path) -> None:
    deep = b"[" * 100_000
    lines = [b'{"a": 1}', b"{", b"[1]", b"", deep, b"\xff", b'{"a": ' + b"9" * 5_000 + b"}", b'{"b": null}']
    rows = list(read_json_lines(_write(tmp_path / "a.jsonl.gz", gzip.compress(b"\n".join(lines)))))
    assert _values(rows) == [(1, {"a": 1}), (8, {"b": None})]
    rejected = {row.line: row.reason for row in rows if isinstance(row, Rejected)}
    assert rejected[2].startswith("not valid JSON: ")
    assert rejected[3] == "not a JSON object but a list"
    assert rejected[6].startswith("not UTF-8")
    assert sorted(rejected) == [2, 3, 5, 6, 7]
    with pytest.raises(SourceError, match="is empty"):
        list(read_json_lines(_write(tmp_path / "b.jsonl", b"\n")))


def test_parquet_times_are_naive_utc_whatever_the_unit_and_zone(tmp_path: Path) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 6)
    zoned = moment.replace(tzinfo=UTC)
    table = pa.table(
        {
            "naive": pa.array([1767323045000006789, None], pa.timestamp("ns")),
            "zoned": pa.array([zoned, None], pa.timestamp("us", "Europe/Paris")),
            "far": pa.array([2**60, None], pa.timestamp("us")),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    rows = list(read_parquet(tmp_path / "a.parquet"))
    assert rows[0][:2] == ("a.parquet", 1)
    assert rows[0].values == {"naive": moment, "zoned": moment, "far": 2**60}
    assert rows[1].values == dict.fromkeys(table.column_names)
    assert json.loads(rows[1].reject("x").text) == rows[1].values


def test_parquet_that_is_none_or_empty(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([], pa.int64())}), tmp_path / "empty.parquet")
    whole = (tmp_path / "empty.parquet").read_bytes()
    for content, message in [
        (whole, "has columns but no rows"),
        (whole[:-5], "is not a sound Parquet file"),
        (b"", "is not a sound"),
    ]:
        with pytest.raises(SourceError, match=message):
            list(read_parquet(_write(tmp_path / "a.parquet", content)))
