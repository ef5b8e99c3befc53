"""The load into the warehouse: every row of the log once, whatever is killed, repeated or quarantined.

Run as a script, this file is the child process that its own tests kill.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from ingestion.batch import Batch, Rejected, records
from ingestion.builds import Asked, finish_build, next_build, start_build
from ingestion.event_log import EventStream, append_batches
from ingestion.load import (
    TakenBack,
    admit_batch,
    connect,
    create_tables,
    ingest,
    load_pending,
    quarantine_batch,
    rejected_rows,
)
from ingestion.warehouse import SLICE
from marquee import contract
from marquee.errors import GateError, MarqueeError, NothingToDo, SourceError
from marquee.settings import Settings

pytestmark = pytest.mark.tools
NOON = datetime(2026, 3, 1, 12)
BAD = Rejected("clicks.csv", 9, "no visitor", "a,b,\x00é'")


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


def view(number: int, page: str | None = None) -> dict[str, Any]:
    moment = NOON + timedelta(seconds=number)
    return {"event_id": f"e{number}", "kind": "page_view", "occurred_at": moment, "visitor_id": "v", "page": page}


def events(*numbers: int, page: str | None = None, rejected: list[Rejected] | None = None) -> Batch:
    return Batch("events", records(contract.EVENTS, [view(n, page) for n in numbers]), rejected or [])


def products(derived: bool = False, **prices: float | None) -> Batch:
    rows = [{"product_id": name, "price": price} for name, price in prices.items()]
    return Batch("products", records(contract.PRODUCTS, rows), derived=derived)


def query(settings: Settings, sql: str) -> list[Any]:
    with connect(settings, read_only=True) as connection:
        return connection.execute(sql).fetchall()


def tables(settings: Settings) -> dict[str, list[Any]]:
    """Everything in the schema raw but the clock."""
    names = [*contract.RAW_TABLES, "batches", "batch_tables", "rejected_rows", "stream_offsets"]
    with connect(settings, read_only=True) as connection:
        rows = {name: connection.execute(f"from raw.{name} order by all").fetchall() for name in names}
    rows["batches"] = [row[:-1] for row in rows["batches"]]
    return rows


def loaded_ids(settings: Settings) -> list[str]:
    return [event_id for (event_id,) in query(settings, "select event_id from raw.events order by all")]


def parquet_rows(file: Path) -> list[Any]:
    return sorted(pq.read_table(file).to_pylist(), key=str)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "it's home")


# --- one batch


def test_rows_arrive_unchanged_and_are_counted(settings: Settings) -> None:
    source = Listed([events(1, 2, page="/é", rejected=[BAD]), products(p1=1.5, p2=None, derived=True), events(2, 3)])
    heard: list[int] = []
    batch = ingest(source, settings, heard.append)
    assert heard == [3, 0, 2]
    assert [(t.table, t.is_derived, t.read, t.loaded, t.quarantined, t.duplicate) for t in batch.tables] == [
        ("events", False, 5, 3, 1, 1),
        ("products", True, 2, 2, 0, 0),
    ]
    assert (batch.read, batch.loaded, batch.quarantined, batch.duplicate) == (5, 3, 1, 1)
    rows = tables(settings)
    assert [(*row[:4], row[13]) for row in rows["events"]] == [
        ("e1", "page_view", NOON + timedelta(seconds=1), "v", "/é"),
        ("e2", "page_view", NOON + timedelta(seconds=2), "v", "/é"),  # the first of the two
        ("e3", "page_view", NOON + timedelta(seconds=3), "v", None),
    ]
    assert {row[-1] for row in rows["events"] + rows["products"]} == {batch.batch_id}
    assert rows["products"] == [("p1", None, None, 1.5, None, batch.batch_id), ("p2", *[None] * 4, batch.batch_id)]
    assert rows["rejected_rows"] == [(batch.batch_id, "events", "clicks.csv", 9, "no visitor", "a,b,\x00é'")]
    assert rows["batches"] == [(batch.batch_id, 1, "shop", "loaded", None)]


def test_the_raw_tables_have_the_contract_s_columns(settings: Settings) -> None:
    with connect(settings) as connection:
        create_tables(connection)
        create_tables(connection)
        found = connection.execute(
            "select table_name, column_name, lower(data_type), is_nullable = 'NO' from information_schema.columns "
            "where table_schema = 'raw' order by table_name, ordinal_position"
        ).fetchall()
    for table in contract.RAW_TABLES.values():
        expected = [(table.name, c.name, contract.SQL_TYPES[c.type], c.required) for c in table.columns]
        assert [row for row in found if row[0] == table.name] == [*expected, (table.name, "batch_id", "varchar", True)]


def test_ingesting_again_changes_nothing_and_reports_duplicates(settings: Settings) -> None:
    source = Listed([events(1, 2, 2, rejected=[BAD]), products(p1=1.0, derived=True)])
    first = ingest(source, settings)
    before = tables(settings)
    second = ingest(source, settings)
    assert tables(settings) == before
    assert (first.read, first.loaded, first.quarantined, first.duplicate) == (4, 2, 1, 1)
    assert (second.read, second.loaded, second.quarantined, second.duplicate) == (4, 0, 1, 3)
    assert second.batch_id == first.batch_id


def test_a_table_both_read_and_derived_counts_apart(settings: Settings) -> None:
    batch = ingest(Listed([products(a=1.0, b=2.0), products(b=3.0, c=4.0, derived=True)]), settings)
    counts = [(t.is_derived, t.read, t.loaded, t.duplicate) for t in batch.tables]
    assert counts == [(False, 2, 1, 1), (True, 2, 2, 0)]
    assert (batch.read, batch.loaded, batch.duplicate) == (2, 1, 1)
    assert query(settings, "select product_id, price from raw.products order by 1") == [("a", 1), ("b", 3), ("c", 4)]


def test_rejected_rows_are_told_in_file_order(settings: Settings) -> None:
    rows = [Rejected("b.csv", 1, "bad", "x"), Rejected("a.csv", 10, "bad", "x"), Rejected("a.csv", 9, "worse", "y")]
    batch = ingest(Listed([events(rejected=rows)]), settings)
    first = {"table": "events", "file": "a.csv", "line": 9, "reason": "worse", "text": "y"}
    assert rejected_rows(settings, batch.batch_id, 1) == [first]
    assert [row["line"] for row in rejected_rows(settings, batch.batch_id)] == [9, 10, 1]
    assert rejected_rows(settings, "another") == []


def test_a_batch_of_rejected_rows_only_is_loaded(settings: Settings) -> None:
    batch = ingest(Listed([events(rejected=[BAD])]), settings)
    assert (batch.read, batch.loaded, batch.quarantined, batch.duplicate) == (1, 0, 1, 0)


@pytest.mark.parametrize("failure", [SourceError("cut off"), KeyboardInterrupt()])
def test_a_truncated_source_leaves_the_warehouse_alone(settings: Settings, failure: BaseException) -> None:
    ingest(Listed([events(1)]), settings)
    before = tables(settings)
    with pytest.raises(type(failure)):
        ingest(Listed([events(2), events(3)], failure=failure), settings)
    assert load_pending(settings) == []
    assert tables(settings) == before


def test_events_lie_in_the_table_by_time_and_count_in_each_of_many_segments(settings: Settings) -> None:
    """More segments than are inserted at once, out of order and with repeats across them."""
    runs = [(9, 3), (8, 3), (1, 2), (7, 9), (6, 1), (5, 4), (0, 5), (10,)]
    assert len(runs) > 2 * SLICE
    batches = [batch for run in runs for batch in (events(*run), products(p=1.0, derived=True))]
    batch = ingest(Listed(batches), settings)
    assert [(t.table, t.read, t.loaded, t.duplicate) for t in batch.tables] == [
        ("events", 15, 11, 4),
        ("products", 8, 1, 7),
    ]
    found = [event for (event,) in query(settings, "select event_id from raw.events order by rowid")]
    assert sorted(found) == sorted(f"e{n}" for n in range(11))
    slices = [runs[first : first + SLICE] for first in range(0, len(runs), SLICE)]
    seen: set[int] = set()
    expected: list[str] = []
    for part in slices:
        new = sorted({n for run in part for n in run} - seen)
        seen |= set(new)
        expected += [f"e{n}" for n in new]
    assert found == expected


def test_pending_batches_load_oldest_first(settings: Settings) -> None:
    ids = [append_batches(settings.log, Listed([events(n)])).batch_id for n in range(5)]
    heard: list[int] = []
    assert [batch.batch_id for batch in load_pending(settings, heard.append)] == ids
    assert heard == [1] * 5
    assert query(settings, "select batch_id from raw.batches order by batch_number") == [(i,) for i in ids]


# --- versions of the catalogue


def test_a_catalogue_keeps_each_change_once(settings: Settings) -> None:
    prices = ({"p": 1.0, "q": None}, {"p": 1.0, "q": 5.0}, {"p": 2.0, "q": 5.0}, {"p": 1.0})
    batches = [ingest(Listed([products(**price)], name=f"s{n}"), settings) for n, price in enumerate(prices)]
    assert [(b.loaded, b.duplicate) for b in batches] == [(2, 0), (1, 1), (1, 1), (1, 0)]
    versions = query(
        settings,
        "select product_id, price from raw.products join raw.batches using (batch_id) "
        "order by product_id, batch_number",
    )
    assert versions == [("p", 1), ("p", 2), ("p", 1), ("q", None), ("q", 5)]


def test_the_last_row_of_a_key_wins_within_a_batch(settings: Settings) -> None:
    batch = ingest(Listed([products(p=1.0), products(p=2.0), products(p=3.0)]), settings)
    assert (batch.read, batch.loaded, batch.duplicate) == (3, 1, 2)
    assert query(settings, "select price from raw.products") == [(3,)]


# --- quarantine


def test_quarantine_takes_a_batch_out_whole_and_admitting_brings_it_back(settings: Settings) -> None:
    source = Listed([events(1, 2, 2, rejected=[BAD]), products(p=1.0)])
    ingest(Listed([events(2)], name="before"), settings)
    batch = ingest(source, settings)
    before = tables(settings)
    quarantine_batch(settings, batch.batch_id, "click rate 90 %")
    folder = settings.quarantine / batch.batch_id
    assert (folder / "reason.txt").read_text() == "click rate 90 %\n"
    assert [row["event_id"] for row in parquet_rows(folder / "events.parquet")] == ["e1"]
    assert [row["price"] for row in parquet_rows(folder / "products.parquet")] == [1.0]
    assert loaded_ids(settings) == ["e2"]
    assert query(settings, "select count(*) from raw.products") == [(0,)]
    counts = query(settings, "select read, loaded, quarantined, duplicate from raw.batch_tables order by all")
    assert counts == [(1, 0, 1, 0), (1, 1, 0, 0), (4, 0, 2, 2)]
    files = {p.name: p.read_bytes() for p in folder.iterdir()}
    quarantine_batch(settings, batch.batch_id, "again")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == files
    with pytest.raises(GateError, match=r"was quarantined: click rate 90 %.*correct the source"):
        ingest(source, settings)
    admit_batch(settings, batch.batch_id)
    after = tables(settings)
    status = {row[0]: row[3:] for row in after.pop("batches")}
    assert status[batch.batch_id] == ("admitted", "click rate 90 %")
    before.pop("batches")
    assert after == before
    assert not folder.exists()


def test_rows_that_a_good_batch_shares_with_a_quarantined_one_are_not_lost(settings: Settings) -> None:
    bad = ingest(Listed([events(1, 2), products(p=1.0)], name="bad"), settings)
    good = ingest(Listed([events(2, 3), products(p=1.0)], name="good"), settings)
    admit_batch(settings, good.batch_id)
    with EventStreamOf(settings) as stream:
        stream.append([view(1), view(4)])
    (streamed,) = load_pending(settings)
    assert (good.loaded, streamed.loaded) == (1, 1)
    quarantine_batch(settings, bad.batch_id, "bad")
    found = query(settings, "select event_id, batch_id from raw.events order by all")
    s, g = streamed.batch_id, good.batch_id
    assert found == [("e1", s), ("e2", g), ("e3", g), ("e4", s)]
    assert query(settings, "select price, batch_id from raw.products") == [(1, g)]
    # The gate has not seen what the admitted batch gained.
    assert query(settings, "select status from raw.batches order by batch_number") == [
        ("quarantined",),
        ("loaded",),
        ("loaded",),
    ]


def test_a_person_does_not_admit_what_no_gate_has_refused(settings: Settings) -> None:
    batch = ingest(Listed([events(1)]), settings)
    with pytest.raises(MarqueeError, match="refused by no gate yet; run `marquee check` first"):
        admit_batch(settings, batch.batch_id, "in a hurry")
    assert query(settings, "select status, reason from raw.batches") == [("loaded", None)]


def test_each_decision_keeps_the_reasons_before_it(settings: Settings) -> None:
    batch = ingest(Listed([events(1)]), settings)
    books = "select status, reason from raw.batches"
    quarantine_batch(settings, batch.batch_id, "bad")
    admit_batch(settings, batch.batch_id, "ada: it is right")
    assert query(settings, books) == [("admitted", "bad; then ada: it is right")]
    with pytest.raises(MarqueeError, match=rf"batch {batch.batch_id} is admitted already"):
        admit_batch(settings, batch.batch_id, "again")
    assert query(settings, books) == [("admitted", "bad; then ada: it is right")]
    assert quarantine_batch(settings, batch.batch_id, "bob: no") == TakenBack((), was_built=False)
    reasons = "bad; then ada: it is right; then bob: no"
    assert query(settings, books) == [("quarantined", reasons)]
    assert (settings.quarantine / batch.batch_id / "reason.txt").read_text() == f"{reasons}\n"
    assert quarantine_batch(settings, batch.batch_id, "once more") is None
    assert query(settings, books) == [("quarantined", reasons)]


def test_a_batch_taken_back_names_those_that_gained_its_rows(settings: Settings) -> None:
    bad = ingest(Listed([events(1, 2)], name="bad"), settings)
    good = ingest(Listed([events(2, 3)], name="good"), settings)
    other = ingest(Listed([events(3)], name="other"), settings)
    for batch in (bad, good, other):
        admit_batch(settings, batch.batch_id)
    with connect(settings) as connection:
        build = next_build(connection, "duckdb", "v1", Asked())
        assert build is not None
        finish_build(connection, start_build(connection, "duckdb", "v1", build), "duckdb", build)
    assert quarantine_batch(settings, bad.batch_id, "bad") == TakenBack((good.batch_id,), was_built=True)
    assert query(settings, "select status from raw.batches order by batch_number") == [
        ("quarantined",),
        ("loaded",),
        ("admitted",),
    ]


def test_a_batch_that_the_log_lacks_is_not_admitted(settings: Settings) -> None:
    batch = ingest(Listed([events(1)]), settings)
    quarantine_batch(settings, batch.batch_id, "bad")
    shutil.rmtree(settings.log / "batches" / batch.batch_id)
    before = tables(settings)
    with pytest.raises(MarqueeError, match=rf"batch {batch.batch_id} is not in the event log; restore its folder in"):
        admit_batch(settings, batch.batch_id, "it is right")
    assert tables(settings) == before


@pytest.mark.parametrize("act", [admit_batch, quarantine_batch])
def test_a_home_without_a_warehouse_is_not_given_one(settings: Settings, act: Any) -> None:
    with pytest.raises(MarqueeError, match=r"there is none at .*warehouse\.duckdb; check --home"):
        act(settings, "shop-1", "why")
    assert not settings.home.exists()


def test_repeats_within_a_batch_are_noted_and_those_of_earlier_batches_are_not(settings: Settings) -> None:
    ingest(Listed([events(1, 2)]), settings)
    again = ingest(Listed([events(1, 2), events(3)], name="again"), settings)
    first = ingest(Listed([events(4, 4), events(4, 1)], name="repeats"), settings)
    with EventStreamOf(settings) as stream:
        stream.append([view(5), view(5), view(6)])
    (part,) = load_pending(settings)
    found = dict(query(settings, "from raw.batch_repeats"))
    assert found == {again.batch_id: 0, first.batch_id: 2, part.batch_id: 1}


def test_an_unknown_batch_is_named(settings: Settings) -> None:
    ingest(Listed([events(1)]), settings)
    for act in (lambda: quarantine_batch(settings, "shop-1", "bad"), lambda: admit_batch(settings, "shop-1")):
        with pytest.raises(MarqueeError, match="shop-1 is not in the warehouse; `marquee status` lists"):
            act()


# --- counts for any sequence


@effort(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(st.lists(st.integers(0, 12), min_size=1, max_size=8), st.booleans()), min_size=1, max_size=6),
    st.data(),
)
def test_loaded_ids_are_the_distinct_ids_of_the_batches_that_stand(
    batches: list[tuple[list[int], bool]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as home:
        settings = Settings(home=Path(home))
        stream = EventStream(settings.log / "stream", "w0")
        seen: dict[str, set[str]] = {}
        for numbers, is_streamed in batches:
            if is_streamed:
                stream.append([view(n) for n in numbers])
                (batch,) = load_pending(settings)
            else:
                batch = ingest(Listed([events(*numbers[:3]), events(*numbers[3:])]), settings)
            known = set().union(*seen.values())
            ids = {f"e{n}" for n in numbers}
            assert (batch.read, batch.quarantined) == (len(numbers), 0)
            assert batch.loaded == len(ids - known)
            assert batch.duplicate == batch.read - batch.loaded
            seen[batch.batch_id] = ids
            assert loaded_ids(settings) == sorted(known | ids)
        stream.close()
        standing = dict(seen)
        for batch_id in data.draw(st.lists(st.sampled_from(sorted(seen)), max_size=3)):
            if batch_id in standing:
                quarantine_batch(settings, batch_id, "bad")
                del standing[batch_id]
            else:
                admit_batch(settings, batch_id)
                standing[batch_id] = seen[batch_id]
            assert loaded_ids(settings) == sorted(set().union(*standing.values()))
        books = "select count(*) from raw.batch_tables where read <> loaded + quarantined + duplicate"
        assert query(settings, books) == [(0,)]
        assert query(settings, "select sum(loaded) = (select count(*) from raw.events) from raw.batch_tables") == [
            (True,)
        ]


# --- damage and locks


@pytest.mark.parametrize("damage", ["missing", "shorter", "unreadable", "rejected"])
def test_a_damaged_log_stops_the_load_and_loads_nothing_of_the_batch(settings: Settings, damage: str) -> None:
    whole = append_batches(settings.log, Listed([events(1)])).batch_id
    damaged = append_batches(settings.log, Listed([events(2), products(p=1.0), events(3, 4, rejected=[BAD])])).batch_id
    folder = settings.log / "batches" / damaged
    if damage == "missing":
        (folder / "events-00001.parquet").unlink()
    elif damage == "shorter":
        (folder / "events-00001.parquet").write_bytes((folder / "events-00000.parquet").read_bytes())
    elif damage == "unreadable":
        (folder / "events-00001.parquet").write_bytes(b"PAR1")
    else:
        (folder / "rejected.jsonl").write_text("")
    with pytest.raises(MarqueeError, match=damaged):
        load_pending(settings)
    assert {row[-1] for row in tables(settings)["events"]} == {whole}
    assert query(settings, "select batch_id from raw.batches") == [(whole,)]


def test_a_warehouse_in_use_says_by_whom(settings: Settings) -> None:
    with pytest.raises(NothingToDo, match="ingest a source first"), connect(settings, read_only=True):
        pass
    ingest(Listed([events(1)]), settings)
    hold = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    arguments = [sys.executable, "-c", hold, str(settings.warehouse)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(MarqueeError, match=f"in use by process {holder.pid}.*then try again"):
            load_pending(settings)
        holder.communicate()
    assert load_pending(settings) == []


def test_a_file_that_is_no_warehouse_is_named(settings: Settings) -> None:
    settings.home.mkdir()
    settings.warehouse.write_text("hello" * 1000)
    with pytest.raises(MarqueeError, match=r"warehouse\.duckdb cannot be opened"):
        load_pending(settings)


# --- the stream


class EventStreamOf:
    """A stream that closes with its block."""

    def __init__(self, settings: Settings, writer: str = "w0") -> None:
        self.stream = EventStream(settings.log / "stream", writer)

    def __enter__(self) -> EventStream:
        return self.stream

    def __exit__(self, *_: object) -> None:
        self.stream.close()


def test_a_stream_loads_from_where_it_was_left(settings: Settings) -> None:
    with EventStreamOf(settings) as stream:
        stream.append([view(1), view(2)])
        first = stream.file.stat().st_size
        (batch,) = load_pending(settings)
        assert batch.batch_id == f"stream-w0-0-{first}"
        assert load_pending(settings) == []
        stream.append([view(2), view(3)])
    with stream.file.open("a") as file:
        file.write('nonsense\n{"event_id": "torn')
    with EventStreamOf(settings, "w1") as other:
        other.append([view(3), view(4)])
    batches = load_pending(settings)
    assert [(b.read, b.loaded, b.quarantined, b.duplicate) for b in batches] == [(3, 1, 1, 1), (2, 1, 0, 1)]
    assert loaded_ids(settings) == ["e1", "e2", "e3", "e4"]
    rejected = query(settings, "select file, line, text from raw.rejected_rows")
    assert rejected == [("w0.jsonl", 5, "nonsense")]
    assert not any((settings.log / "staging").iterdir())


def test_every_acknowledged_event_is_loaded_once_while_threads_append(settings: Settings) -> None:
    acknowledged: list[str] = []
    is_loaded_twice = threading.Event()
    with EventStreamOf(settings) as stream:

        def write(writer: int) -> None:
            for n in range(2_000):
                event = view(10_000 * writer + n)
                stream.append([event])
                acknowledged.append(event["event_id"])
                if n >= 60 and is_loaded_twice.is_set():
                    return

        threads = [threading.Thread(target=write, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        loads = 0
        while any(thread.is_alive() for thread in threads):
            loads += len(load_pending(settings))
            if loads >= 2:
                is_loaded_twice.set()
        for thread in threads:
            thread.join()
    loads += len(load_pending(settings))
    assert len(acknowledged) >= 360
    assert loads >= 2
    assert loaded_ids(settings) == sorted(acknowledged)


# --- kills


def work(settings: Settings) -> None:
    """What a day does: batches that overlap, a stream, a quarantine. Doing it again must change nothing."""
    for n in range(3):
        numbers = [n * 3000 + i for i in range(4000)]
        parts = [events(*numbers[i : i + 1000], rejected=[BAD]) for i in range(0, 4000, 1000)]
        with suppress(GateError):  # the second batch, once it is quarantined
            ingest(Listed([*parts, products(p=float(n // 2), derived=True)], name="shop"), settings)
        if n == 2:
            (second,) = query(settings, "select batch_id from raw.batches where batch_number = 2")[0]
            quarantine_batch(settings, second, "bad")


def write_stream(settings: Settings) -> None:
    """Append events and load them in between; prints what is acknowledged."""
    with EventStreamOf(settings) as stream:
        for n in range(0, 120, 2):
            stream.append([view(n), view(n + 1, page="/" + "x" * 20_000)])
            sys.stdout.write(f"e{n} e{n + 1}\n")
            sys.stdout.flush()
            if n % 20 == 0:
                load_pending(settings)


def kill_child(task: str, home: Path, after: float) -> tuple[int, str]:
    """Run ``task`` in a child process and kill it ``after`` seconds of work; its return code and what it printed."""
    child = subprocess.Popen([sys.executable, __file__, task, str(home)], stdout=subprocess.PIPE, text=True)
    assert child.stdout
    assert child.stdout.readline() == "ready\n"
    time.sleep(after)
    child.kill()
    printed, _ = child.communicate()
    return child.returncode, printed


def test_batches_killed_at_any_moment_end_as_if_nothing_had_happened(tmp_path: Path) -> None:
    unkilled = Settings(home=tmp_path / "unkilled")
    started = time.monotonic()
    work(unkilled)
    duration = time.monotonic() - started
    expected = tables(unkilled)
    assert [row[3] for row in expected["batches"]].count("quarantined") == 1
    assert len(expected["events"]) == 10_000 - 2_000  # those of the second batch that no other holds
    moments = random.Random(5)
    codes = []
    for attempt in range(7):
        settings = Settings(home=tmp_path / str(attempt))
        codes.append(kill_child("work", settings.home, moments.uniform(0, duration))[0])
        work(settings)
        assert tables(settings) == expected
        assert not any((settings.log / "staging").iterdir())
        (folder,) = settings.quarantine.iterdir()
        for file in (unkilled.quarantine / folder.name).glob("*.parquet"):
            assert parquet_rows(folder / file.name) == parquet_rows(file)
    assert codes.count(-9) >= 4


def test_a_killed_writer_loses_no_acknowledged_event(tmp_path: Path) -> None:
    moments = random.Random(6)
    codes = []
    for attempt in range(4):
        settings = Settings(home=tmp_path / str(attempt))
        code, printed = kill_child("stream", settings.home, moments.uniform(0.05, 1.0))
        codes.append(code)
        acknowledged = printed.split()
        with EventStreamOf(settings) as stream:
            stream.append([view(999)])
        load_pending(settings)
        ids = loaded_ids(settings)
        assert len(ids) == len(set(ids))
        assert set(acknowledged) | {"e999"} <= set(ids)
        # At most the append under way was stored without the word getting out.
        assert len(ids) <= len(acknowledged) + 3
        assert load_pending(settings) == []
    assert codes.count(-9) >= 2


if __name__ == "__main__":
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    {"work": work, "stream": write_stream}[sys.argv[1]](Settings(home=Path(sys.argv[2])))


# --- a warehouse and a log of an earlier version ----------------------------------------------------------------------


def test_columns_that_came_later_are_added_and_older_batches_still_load(tmp_path: Path) -> None:
    """A warehouse and batch files without the two columns of notifications; then events that have them."""
    settings = Settings(home=tmp_path)
    later = ("notification_id", "notification_type")
    view = {"event_id": "e1", "kind": "page_view", "occurred_at": NOON, "visitor_id": "v1"}
    ingest(Listed([Batch("events", records(contract.EVENTS, [view]))]), settings)
    with connect(settings) as connection:
        for name in later:
            connection.execute(f"alter table raw.events drop column {name}")
    old = records(contract.EVENTS, [view | {"event_id": "e2"}]).drop_columns(list(later))
    append_batches(settings.log, Listed([Batch("events", records(contract.EVENTS, [view | {"event_id": "e2"}]))]))
    (file,) = [
        f
        for f in (settings.log / "batches").glob("*/events-*.parquet")
        if pq.read_table(f)["event_id"][0].as_py() == "e2"
    ]
    pq.write_table(old, file)
    told = {"kind": "notification_sent", "notification_id": "n1", "notification_type": "price_drop"}
    stream = EventStream(settings.log / "stream", "service-1")
    stream.append([view | told | {"event_id": "e3"}])
    stream.close()
    load_pending(settings)
    load_pending(settings)
    with connect(settings) as connection:
        found = connection.execute(f"select event_id, {', '.join(later)} from raw.events order by 1").fetchall()
        columns = [name for name, *_ in connection.execute("describe raw.events").fetchall()]
    assert found == [("e1", None, None), ("e2", None, None), ("e3", "n1", "price_drop")]
    assert sorted(columns) == sorted([*contract.EVENTS.names, "batch_id"])
