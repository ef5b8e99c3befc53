"""Reading in columns gives what reading row by row gives, and leaves everything doubtful to it."""

import gzip
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingestion.batch import Batch, Rejected, event_id
from ingestion.columnar import Doubt, event_ids, read_columns
from ingestion.event_log import append_batches
from ingestion.mapping import batches
from ingestion.rows import read_all, read_csv, read_csv_blocks
from ingestion.sources import globo
from marquee import contract

DATA = Path(os.environ.get("MARQUEE_DATA") or Path(__file__).parents[3] / "shared" / "data")
HEADER = ",".join(globo.COLUMNS)
GOOD = b"6,91,8,1507664000000,1,1,2"


def by_rows(files: list[Path]) -> list[Batch]:
    """The files' batches by the row mapping alone."""
    rows = read_all(files, partial(read_csv, columns=globo.COLUMNS))
    return list(batches(contract.EVENTS, rows, globo._page_view))


def found(batches: list[Batch]) -> tuple[pa.Table | None, list[Rejected]]:
    tables = [batch.records for batch in batches]
    for table in tables:
        table.validate(full=True)
    return (pa.concat_tables(tables) if tables else None), [row for batch in batches for row in batch.rejected]


def blocks_in_columns(file: Path) -> int:
    """How many of a file's blocks are read in columns."""
    count = 0
    for block in read_csv_blocks(file, globo.COLUMNS):
        try:
            globo._page_views(read_columns(block, globo.COLUMNS))
            count += 1
        except Doubt:
            pass
    return count


def write(folder: Path, lines: list[bytes], header: str = HEADER) -> Path:
    file = folder / "clicks_hour_000.csv"
    file.write_bytes(b"\n".join([header.encode(), *lines]))
    return file


NUMBERS = st.sampled_from([b"0", b"1", b"3", b"90", b"007", b"-4", b""]) | st.integers(0, 10**12).map(
    lambda n: str(n).encode()
)
TIMES = st.integers(1_500_000_000_000, 1_510_000_000_000).map(lambda n: str(n).encode())
ODD_TIMES = [b"0x1F", b"+5", b"15e11", b" 1507664000000", b"631152000000", b"631151999999", b"4133980800000", b"9" * 18]
ODD_TIMES += [
    b"0x15F079EFE00",
    b"+1507664000000",
    b"4133980799999",
    b"01507664000000",
    b"1507664000000.0",
    b"-0",
    b"9" * 19,
    b"nan",
    b"null",
    b"",
]
PIECES = [b'"', b'""', b" ", b"\t", b"\0", b"\r", b"\x1c", b"\x85", b"\xc2\xa0", b"\xc3\xa9", b"\xff", b",", b"\n"]
PIECES += [b"\xef\xbb\xbf", b"\n\n", b"\r\n", b"NULL", b"\\", b"\\n", b"#", b"\v", b"\f"]


@st.composite
def line(draw: st.DrawFn) -> bytes:
    """A row of clicks: most are good, some have one odd field, some an odd piece anywhere."""
    fields = [draw(NUMBERS) for _ in globo.COLUMNS]
    fields[3] = draw(TIMES)
    kind = draw(st.integers(0, 11))
    if kind == 0:
        fields[3] = draw(st.sampled_from(ODD_TIMES))
    elif kind > 3:
        fields[:3] = [field or b"1" for field in fields[:3]]
    raw = b",".join(fields)
    if kind == 1:
        place = draw(st.integers(0, len(raw)))
        raw = raw[:place] + draw(st.sampled_from(PIECES) | st.binary(max_size=3)) + raw[place:]
    return raw


@settings(max_examples=300, deadline=None, derandomize=True)
@given(lines=st.lists(line(), min_size=1, max_size=6))
@example(lines=[b"\xef\xbb\xbf" + GOOD])
@example(lines=[GOOD + b"\r", GOOD])
@example(lines=[b" " + GOOD])
@example(lines=[GOOD + b" "])
@example(lines=[GOOD + b" ", GOOD])
@example(lines=[b"", GOOD, b""])
@example(lines=[b"6,91,8,1507664000000,,,"])
def test_both_ways_give_the_same_records_and_the_same_rejected_rows(lines: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as name:
        file = write(Path(name), lines)
        if b"".join(lines).strip(b"\r\n"):
            assert found(list(globo.Globo(file).read())) == found(by_rows([file]))


@pytest.mark.parametrize("field", range(len(globo.COLUMNS)))
@pytest.mark.parametrize("value", [*ODD_TIMES, *PIECES, b"1 ", b" 1", b"UK"])
def test_each_odd_value_in_each_field(tmp_path: Path, field: int, value: bytes) -> None:
    fields = GOOD.split(b",")
    fields[field] = value
    file = write(tmp_path, [GOOD, b",".join(fields), GOOD])
    assert found(list(globo.Globo(file).read())) == found(by_rows([file]))


def test_plain_files_are_read_in_columns_and_only_they(tmp_path: Path) -> None:
    other = HEADER.replace("session_id", "note,session_id")
    assert blocks_in_columns(write(tmp_path, [GOOD, b"", GOOD])) == 1
    assert blocks_in_columns(write(tmp_path, [b"6, one\\two ,91,8,1507664000000,1,1,2"], other)) == 0
    assert blocks_in_columns(write(tmp_path, [b"6,one two,91,8,1507664000000,1,1,2"], other)) == 1
    for odd in (b"6,91,8,1507664000000,1,1", b"6,,8,1507664000000,1,1,2", b"6,91,8,soon,1,1,2", GOOD + b"\r"):
        assert blocks_in_columns(write(tmp_path, [GOOD, odd])) == 0


def test_a_doubtful_block_leaves_the_others_alone(tmp_path: Path) -> None:
    """Blocks are some four megabytes: one bad line among 400,000 costs one block its speed and no row its place."""
    lines = [GOOD] * 400_000
    lines[350_000] = b"6,,8,1507664000000,1,1,2"
    file = write(tmp_path, lines)
    assert blocks_in_columns(file) == 2
    records, rejected = found(list(globo.Globo(file).read()))
    assert records is not None
    assert records.num_rows == 399_999
    assert [(row.line, row.reason) for row in rejected] == [(350_002, "session_id is empty")]
    first, last = records.slice(0, 1).to_pylist(), records.slice(399_998).to_pylist()
    assert first == last
    assert first[0]["event_id"] == event_id("globo", "6", "91", "8", "1507664000000")


def test_the_batch_is_the_same_whichever_way_it_was_read(tmp_path: Path) -> None:
    class ByRows(globo.Globo):
        def read(self) -> Iterator[Batch]:
            return iter(by_rows([self.path]))

    file = write(tmp_path, [GOOD, b"6,91,9,1507664000001,3,,"])
    ids = {append_batches(tmp_path / "log", source(file)).batch_id for source in (globo.Globo, ByRows)}
    assert len(ids) == 1


def test_ids_of_columns_are_those_of_rows() -> None:
    parts = [["6", "", "é\x1f"], ["91", "x", ""]]
    ids = event_ids("globo", *(pa.array(part) for part in parts)).to_pylist()
    assert ids == [event_id("globo", *row) for row in zip(*parts, strict=True)]
    # Written down, for an id must never change: rows of the day before would come in a second time.
    assert ids[0] == "globo-8abfd3cf1dcaf924bf05cf38"


@pytest.mark.tools
@pytest.mark.parametrize("hour", ["000", "007", "200", "383"])
def test_real_hours_are_read_in_columns_and_equal_their_rows(hour: str) -> None:
    file = DATA / "globo_clicks" / "clicks" / f"clicks_hour_{hour}.csv.gz"
    if not file.exists():
        pytest.skip(f"globo_clicks is not under {DATA}; set MARQUEE_DATA to the folder that holds it")
    assert blocks_in_columns(file) == 1
    records, rejected = found(list(globo.Globo(file).read()))
    assert (records, rejected) == found(by_rows([file]))
    assert records is not None
    assert records.num_rows == gzip.decompress(file.read_bytes()).count(b"\n") - 1 > 0
