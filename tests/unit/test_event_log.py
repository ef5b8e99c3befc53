"""The event log: what is in it is whole and durable, whatever happened to the process that wrote it."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingestion.batch import Batch, Rejected, arrow_schema, records
from ingestion.event_log import SEGMENT_ROWS, EventStream, append_batches, read_manifest
from ingestion.event_stream import StreamPart, parse_event, pending_part, read_part
from marquee import contract
from marquee.errors import MarqueeError, SourceError

NOON = datetime(2026, 3, 1, 12, 0, 0, 250)


def view(number: int, **more: Any) -> dict[str, Any]:
    event = {"event_id": f"e{number}", "kind": "page_view", "occurred_at": NOON, "visitor_id": f"v{number % 3}"}
    return event | more


def events(*numbers: int, rejected: list[Rejected] | None = None) -> Batch:
    return Batch("events", records(contract.EVENTS, [view(n) for n in numbers]), rejected or [])


@dataclass
class Listed:
    """A source that holds its batches in memory, and may fail after them."""

    batches: list[Batch]
    name: str = "shop"
    failure: BaseException | None = None

    def read(self) -> Iterator[Batch]:
        yield from self.batches
        if self.failure:
            raise self.failure


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- batches


def test_a_batch_holds_its_records_its_rejected_rows_and_its_counts(tmp_path: Path) -> None:
    product = Batch("products", records(contract.PRODUCTS, [{"product_id": "p1"}]), derived=True)
    bad = Rejected("clicks.csv", 3, "no visitor", "x" * 20 + "\udcff")
    heard: list[int] = []
    appended = append_batches(tmp_path, Listed([events(1, 2, rejected=[bad]), product, events(3)]), heard.append)
    folder = tmp_path / "batches" / appended.batch_id
    assert sorted(p.name for p in folder.iterdir()) == [
        "batch.json",
        "events-00000.parquet",
        "events-00001.parquet",
        "products-00000.parquet",
        "rejected.jsonl",
    ]
    segment = pq.ParquetFile(folder / "events-00000.parquet")
    assert segment.schema_arrow == arrow_schema(contract.EVENTS)
    assert segment.metadata.row_group(0).column(0).compression == "ZSTD"
    assert segment.read().to_pylist()[1] == dict.fromkeys(contract.EVENTS.names) | view(2)
    assert json.loads((folder / "rejected.jsonl").read_text()) == {
        "table": "events",
        "derived": False,
        "file": "clicks.csv",
        "line": 3,
        "reason": "no visitor",
        "text": "x" * 20 + "?",
    }
    assert json.loads((folder / "batch.json").read_text())["tables"] == [
        {"table": "events", "derived": False, "read": 4, "rejected": 1},
        {"table": "products", "derived": True, "read": 1, "rejected": 0},
    ]
    assert read_manifest(folder) == appended.manifest
    assert heard == [3, 0, 1]
    assert not any((tmp_path / "staging").iterdir())


def test_the_same_content_is_kept_once_whatever_the_file_was_called(tmp_path: Path) -> None:
    first = append_batches(tmp_path / "a", Listed([events(1, 2, rejected=[Rejected("a.csv", 3, "bad", "x")])]))
    renamed = Listed([events(1, 2, rejected=[Rejected("b.csv", 3, "bad", "x")])])
    second = append_batches(tmp_path / "a", renamed)
    assert (first.already_there, second.already_there) == (False, True)
    assert first.batch_id == second.batch_id
    assert [p.name for p in (tmp_path / "a" / "batches").iterdir()] == [first.batch_id]
    assert not any((tmp_path / "a" / "staging").iterdir())
    append_batches(tmp_path / "b", Listed([events(1, 2, rejected=[Rejected("a.csv", 3, "bad", "x")])]))
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


@pytest.mark.parametrize(
    "other",
    [
        [events(1, 3)],
        [events(2, 1)],
        [events(1, 2, rejected=[Rejected("a.csv", 3, "bad", "x")])],
        [Batch("events", events(1, 2).records, derived=True)],
        [events(1, 2), Batch("products", records(contract.PRODUCTS, [{"product_id": "p"}]))],
    ],
)
def test_other_content_is_another_batch(tmp_path: Path, other: list[Batch]) -> None:
    first = append_batches(tmp_path, Listed([events(1, 2)]))
    second = append_batches(tmp_path, Listed(other))
    assert first.batch_id != second.batch_id
    assert not second.already_there


@pytest.mark.parametrize(
    "failure", [SourceError("clicks.csv: cut off in line 7"), KeyboardInterrupt(), OSError("gone")]
)
def test_a_read_that_fails_leaves_nothing(tmp_path: Path, failure: BaseException) -> None:
    with pytest.raises(type(failure)):
        append_batches(tmp_path, Listed([events(1, 2), events(3)], failure=failure))
    assert files_of(tmp_path) == {}


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "holds no rows"),
        ([events()], "holds no rows"),
        ([Batch("visits", events(1).records)], "'visits' is not one of events"),
        ([Batch("products", events(1).records)], "table products"),
        ([Batch("events", records(contract.EVENTS, [view(1, visitor_id=None)]))], "visitor_id"),
        ([Batch("banner_placements", pa.table({"banner_id": [[1]], "placement_id": ["p"]}))], "banner_placements"),
    ],
)
def test_what_breaks_the_schema_is_refused(tmp_path: Path, batches: list[Batch], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        append_batches(tmp_path, Listed(batches))
    assert files_of(tmp_path) == {}


def test_a_source_cannot_write_outside_the_log(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="may only hold"):
        append_batches(tmp_path / "log", Listed([events(1)], name="../shop"))
    assert files_of(tmp_path) == {}


STAGE = """
import sys
from pathlib import Path
from ingestion.event_log import staging_folder
with staging_folder(Path(sys.argv[1])) as folder:
    (folder / "events-00000.parquet").write_bytes(b"PAR1")
    print(folder, flush=True)
    sys.stdin.read()
"""


def staging(log: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process in the middle of an append, and its folder."""
    child = subprocess.Popen(
        [sys.executable, "-c", STAGE, str(log)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout
    return child, Path(child.stdout.readline().strip())


def test_what_a_killed_run_left_is_removed_and_a_living_one_is_let_be(tmp_path: Path) -> None:
    (killed, dead), (living, alive) = staging(tmp_path), staging(tmp_path)
    killed.kill()
    killed.communicate()
    older = tmp_path / "staging" / "123-ab"  # without a lock, as an earlier version left it
    older.mkdir()
    assert (dead / "events-00000.parquet").exists()
    append_batches(tmp_path, Listed([events(1)]))
    assert sorted((tmp_path / "staging").iterdir()) == [alive, alive.with_name(f"{alive.name}.lock")]
    assert (alive / "events-00000.parquet").exists()
    living.communicate()
    assert living.returncode == 0
    assert list((tmp_path / "staging").iterdir()) == []


def test_many_appends_at_once_do_not_take_each_other_for_dead(tmp_path: Path) -> None:
    failed: list[BaseException] = []

    def append(writer: int) -> None:
        try:
            for n in range(30):
                append_batches(tmp_path, Listed([events(100 * writer + n)]))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=append, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(list((tmp_path / "batches").iterdir())) == 120
    assert list((tmp_path / "staging").iterdir()) == []


def test_small_batches_share_segments_and_keep_their_order(tmp_path: Path) -> None:
    """What stands beside each other, of one table, up to the size of a segment."""
    big = records(contract.EVENTS, [view(n) for n in range(1000)])
    bad = [Rejected("a.csv", line, "bad", "x") for line in (7, 9)]
    product = Batch("products", records(contract.PRODUCTS, [{"product_id": "p"}]))
    parts = [Batch("events", big) for _ in range(SEGMENT_ROWS // 1000)]
    source = Listed([events(1, rejected=bad[:1]), *parts, events(2, rejected=bad[1:]), product, events(3)])
    manifest = append_batches(tmp_path, source).manifest
    assert [(s.file, s.rows, s.rejected) for s in manifest.segments] == [
        ("events-00000.parquet", SEGMENT_ROWS - 1000 + 1, 1),
        ("events-00001.parquet", 1001, 1),
        ("products-00000.parquet", 1, 0),
        ("events-00002.parquet", 1, 0),
    ]
    (folder,) = (tmp_path / "batches").iterdir()
    first = pq.read_table(folder / "events-00000.parquet")["event_id"].to_pylist()
    assert first[:3] + first[-1:] == ["e1", "e0", "e1", "e999"]
    assert [json.loads(line)["line"] for line in (folder / "rejected.jsonl").read_text().splitlines()] == [7, 9]


def test_a_missing_segment_is_named(tmp_path: Path) -> None:
    source = Listed([events(1), Batch("products", records(contract.PRODUCTS, [{"product_id": "p"}])), events(2)])
    folder = tmp_path / "batches" / append_batches(tmp_path, source).batch_id
    (folder / "events-00001.parquet").unlink()
    with pytest.raises(MarqueeError, match=r"events-00001\.parquet is missing"):
        read_manifest(folder)


# --- the stream


def stored(file: Path) -> list[str]:
    whole = file.read_bytes().rpartition(b"\n")[0]  # behind it, another thread may be writing
    return [json.loads(line)["event_id"] for line in whole.splitlines()]


def test_events_come_back_as_they_were(tmp_path: Path) -> None:
    stream = EventStream(tmp_path, "w0")
    aware = NOON.replace(tzinfo=UTC).astimezone(timezone(timedelta(hours=2)))
    stream.append([view(1, page="/a\nb é"), view(2, occurred_at=aware, amount=2.5, position=3)])
    stream.append([])
    stream.append([view(3)])
    stream.close()
    assert len(stream.file.read_text().splitlines()) == 3
    part = pending_part(stream.file, 0)
    assert part == StreamPart(stream.file, 0, stream.file.stat().st_size)
    assert part.batch_id == f"stream-w0-0-{part.stop}"
    (batch,) = read_part(part)
    nothing: dict[str, Any] = dict.fromkeys(contract.EVENTS.names)
    expected = [view(1, page="/a\nb é"), view(2, amount=2.5, position=3), view(3)]
    assert batch.records.to_pylist() == [nothing | event for event in expected]
    assert batch.rejected == []
    assert pending_part(stream.file, part.stop) is None


@pytest.mark.parametrize("torn", ['{"event_id": "e9"', "x" * 200_000])
def test_a_torn_last_line_is_cut_off_on_opening(tmp_path: Path, torn: str) -> None:
    stream = EventStream(tmp_path, "w0")
    stream.append([view(1), view(2)])
    stream.close()
    with stream.file.open("a") as file:
        file.write(torn)
    part = pending_part(stream.file, 0)
    assert part is not None
    assert [b.records.num_rows for b in read_part(part)] == [2]
    again = EventStream(tmp_path, "w0")
    assert stream.file.stat().st_size == part.stop
    again.append([view(3)])
    again.close()
    assert stored(stream.file) == ["e1", "e2", "e3"]


def test_threads_append_without_mixing_their_lines(tmp_path: Path) -> None:
    stream = EventStream(tmp_path, "w0")
    acknowledged: list[list[str]] = [[] for _ in range(8)]

    def write(writer: int) -> None:
        for n in range(20):
            batch = [view(1000 * writer + 2 * n + i, page="/" + "x" * 3000) for i in range(2)]
            stream.append(batch)
            lines = stored(stream.file)
            assert {e["event_id"] for e in batch} <= set(lines)  # stored before append returns
            acknowledged[writer] += [e["event_id"] for e in batch]

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stream.close()
    ids = stored(stream.file)
    assert len(ids) == 8 * 40
    for own in acknowledged:
        assert len(own) == 40
        assert [i for i in ids if i in set(own)] == own


FULL_DISK = """
import json, resource, sys
from pathlib import Path
from ingestion.event_log import EventStream
from marquee.errors import MarqueeError
stream = EventStream(Path(sys.argv[1]), "w0")
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
kept, refused = [], []
for n in range(30):
    event = {"event_id": f"e{n}", "page": "/" + "x" * 300}
    if n == 20:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    try:
        stream.append([event])
        kept.append(event["event_id"])
    except MarqueeError as error:
        refused.append(str(error))
    text = stream.file.read_text()
    assert text.endswith("\\n"), "half a line stayed in the file"
print(json.dumps([kept, refused]))
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit on file sizes on this system")
def test_a_full_disk_refuses_events_and_never_leaves_half_a_line(tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert child.returncode == 0, child.stderr
    kept, refused = json.loads(child.stdout)
    assert len(refused) >= 5
    assert "were not stored" in refused[0]
    assert kept[-10:] == [f"e{n}" for n in range(20, 30)]
    assert (tmp_path / "w0.jsonl").read_bytes().endswith(b"\n")
    assert stored(tmp_path / "w0.jsonl") == kept


def test_an_event_that_is_no_json_is_refused_whole(tmp_path: Path) -> None:
    stream = EventStream(tmp_path, "w0")
    for bad in (float("nan"), object(), "\udcff"):
        with pytest.raises((ValueError, TypeError)):
            stream.append([view(1), view(2, page=bad)])
    stream.close()
    assert stream.file.read_bytes() == b""


def test_one_name_has_one_writer_and_a_closed_stream_takes_nothing(tmp_path: Path) -> None:
    stream = EventStream(tmp_path, "w0")
    with pytest.raises(MarqueeError, match="already has a writer"):
        EventStream(tmp_path, "w0")
    with pytest.raises(MarqueeError, match="may only hold"):
        EventStream(tmp_path, "../w0")
    stream.close()
    with pytest.raises(MarqueeError, match="were not stored"):
        stream.append([view(1)])
    EventStream(tmp_path, "w0").close()


def line(**changes: Any) -> bytes:
    event = view(1) | {"occurred_at": NOON.isoformat()} | changes
    return json.dumps({k: v for k, v in event.items() if v != "absent"}).encode()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"\n", "Expecting value"),
        (b"[1]", "not a JSON object"),
        (b'{"page": "\xff"}', "can't decode byte 0xff"),
        (b"[" * 100_000, "recursion"),
        (line(colour="red"), "unknown field 'colour'"),
        (line(visitor_id="absent"), "visitor_id is missing"),
        (line(visitor_id=7), "visitor_id 7 is not a string"),
        (line(page="\udcff"), "surrogates"),
        (line(occurred_at="yesterday"), "yesterday"),
        (line(occurred_at=1_700_000_000), "occurred_at 1700000000 is not a timestamp"),
        (line(occurred_at="1815-01-01T00:00:00"), "between 1990 and 2100"),
        (line(position=True), "position True is not a int"),
        (line(position=2**70), "position"),
        (line(amount="3"), "amount '3' is not a float"),
        (line(amount=float("nan")), "negative"),
        (line(kind="cart"), "product_id is missing"),
        (line(kind="dance"), "kind 'dance' is not one of"),
    ],
)
def test_a_malformed_line_says_what_is_wrong(text: bytes, reason: str) -> None:
    assert parse_event(line())["occurred_at"] == NOON
    with pytest.raises((ValueError, RecursionError), match=reason):
        parse_event(text)


def test_rejected_lines_are_numbered_within_the_whole_file(tmp_path: Path) -> None:
    file = tmp_path / "w0.jsonl"
    start = b"".join(line(event_id=f"e{n}") + b"\n" for n in range(3))
    file.write_bytes(start + line(event_id="e4") + b"\nnonsense\n" + line(event_id="e6") + b"\n" + b'{"torn')
    part = pending_part(file, len(start))
    assert part is not None
    (batch,) = read_part(part)
    assert batch.records["event_id"].to_pylist() == ["e4", "e6"]
    assert [(r.file, r.line, r.text) for r in batch.rejected] == [("w0.jsonl", 5, "nonsense")]


def test_a_file_shorter_than_what_was_loaded_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "w0.jsonl"
    file.write_bytes(line() + b"\n")
    with pytest.raises(MarqueeError, match="restore the file"):
        pending_part(file, 10_000)
    with pytest.raises(MarqueeError, match="restore the file"):
        list(read_part(StreamPart(file, 0, 10_000)))
