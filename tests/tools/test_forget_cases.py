"""Forgetting in odd states: what was killed, moved aside, mistyped, mentioned by others, or is in use meanwhile."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from features import erasure as features
from features.session import SessionEvent
from features.session_store import SqliteSessions
from ingestion.batch import Batch, Rejected, records
from ingestion.builds import Asked, Build, finish_build, next_build, start_build
from ingestion.erasure import erase_from_stream
from ingestion.event_log import clear_staging
from ingestion.event_stream import EventStream
from ingestion.forgotten import OnePerson
from ingestion.load import admit_batch, connect, ingest, load_pending, quarantine_batch
from marquee import contract, erasures, sqlite
from marquee.cli import app
from marquee.errors import MarqueeError, WarehouseBusy
from marquee.forget import Erasure, forget, require_erased
from marquee.person import Person
from marquee.settings import Settings
from marquee.sqlite import erase_from_sqlite
from marquee.traces import find_visitor

pytestmark = pytest.mark.tools
PERSON, LONGER = "v000007", "v0000071"
NOON = datetime(2026, 2, 2, 12)


class Shop:
    """A source of given batches."""

    name = "shop"

    def __init__(self, *batches: Batch) -> None:
        self._batches = batches

    def read(self) -> Any:
        yield from self._batches


def event(event_id: str, visitor_id: str, **other: Any) -> dict[str, Any]:
    return {"event_id": event_id, "kind": "page_view", "occurred_at": NOON, "visitor_id": visitor_id} | other


def events(*rows: dict[str, Any], rejected: list[Rejected] | None = None) -> Batch:
    return Batch("events", records(contract.EVENTS, list(rows)), rejected or [])


def query(settings: Settings, sql: str) -> list[Any]:
    with connect(settings, read_only=True) as connection:
        return connection.execute(sql).fetchall()


def change(settings: Settings, sql: str) -> None:
    with connect(settings) as connection:
        connection.execute(sql)


def places(settings: Settings, person: Person | None = None) -> list[tuple[str, str]]:
    return [(trace.store, trace.place) for trace in find_visitor(settings, person or Person(PERSON))]


def forgotten(settings: Settings, visitor_id: str = PERSON) -> Erasure:
    erasure = forget(settings, visitor_id, "asked")
    assert erasure is not None
    require_erased(erasure)
    return erasure


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """An installation with an event of the person and one of somebody else."""
    settings = Settings(home=tmp_path / "home")
    batch = ingest(Shop(events(event("a", PERSON), event("b", LONGER))), settings)
    admit_batch(settings, batch.batch_id)
    return settings


# --- what killed runs leave


@pytest.mark.parametrize("end", ["\u0085", "\u2028", "\u2029", "\x0b", "\x1c"])
def test_a_rejected_row_may_hold_what_looks_like_the_end_of_a_line(settings: Settings, end: str) -> None:
    rejected = [Rejected("f.csv", 2, "bad", f"x{end}{PERSON},y"), Rejected("f.csv", 3, "bad", f"{end}{LONGER}")]
    ingest(Shop(events(event("c", PERSON), event("d", LONGER), rejected=rejected)), settings)
    forgotten(settings)
    rows = "select line, reason, text from raw.rejected_rows where reason <> 'erased'"
    assert query(settings, rows) == [(3, "bad", f"{end}{LONGER}")]
    counts = "select read, loaded, quarantined from raw.batch_tables order by read"
    assert query(settings, counts) == [(2, 1, 1), (4, 1, 3)]
    fresh = Settings(home=settings.home.parent / "fresh")
    fresh.home.mkdir()
    for name in ("log", "erasures.jsonl", "erasure.key"):
        (settings.home / name).rename(fresh.home / name)
    load_pending(fresh)
    assert query(fresh, rows) == [(3, "bad", f"{end}{LONGER}")]
    assert sorted(query(fresh, counts)) == [(2, 1, 1), (4, 1, 3)]


def test_what_a_killed_load_left_goes(settings: Settings) -> None:
    left = settings.log / "staging" / "0123456789ab"
    left.mkdir(parents=True)
    left.with_name(f"{left.name}.lock").touch()
    pq.write_table(pa.table({"visitor_id": [PERSON]}), left / "events-00000.parquet", compression="none")
    content = (left / "events-00000.parquet").read_bytes()
    (left / "events-00001.parquet").write_bytes(content[:-12])
    (settings.quarantine / "shop-1").mkdir(parents=True)
    (settings.quarantine / "shop-1" / "_events.parquet.partial").write_bytes(content[:-12])
    unreadable = "text of an unreadable file"
    assert ("log/staging/0123456789ab/events-00001.parquet", unreadable) in places(settings)
    forgotten(settings)
    assert not any((settings.log / "staging").iterdir())
    assert not any(settings.quarantine.rglob("*.partial"))


@pytest.mark.parametrize("name", ["training_set.partial", "flagged_sessions.partial"])
def test_what_a_killed_training_step_left_goes(settings: Settings, name: str) -> None:
    settings.features.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"visitor_id": [PERSON]}), settings.features / name, compression="none")
    forgotten(settings)
    assert not (settings.features / name).exists()


def test_a_load_that_is_running_keeps_its_staging(settings: Settings) -> None:
    from ingestion.event_log import staging_folder

    with staging_folder(settings.log) as folder:
        clear_staging(settings.log)
        assert folder.exists()


def test_a_file_that_nobody_can_read_is_named(settings: Settings) -> None:
    refused = ingest(Shop(events(event("q", PERSON))), settings)
    quarantine_batch(settings, refused.batch_id, "bad")
    file = settings.quarantine / refused.batch_id / "events.parquet"
    file.write_bytes(file.read_bytes()[:-12])
    assert not any("quarantine" in store for store, _ in places(settings, Person("somebody-else-9")))
    for _ in range(2):
        with pytest.raises(MarqueeError, match=r"quarantine/.*/events\.parquet is not a sound Parquet file.*delete it"):
            forget(settings, PERSON, "asked")
    file.unlink()
    forgotten(settings)
    settings.features.mkdir()
    broken = settings.features / "exports.db"
    broken.write_bytes(b"SQLite format 3\0" + b"\1" * 100 + f" {LONGER} ".encode())
    assert places(settings, Person(LONGER))[0] == ("features/exports.db", "bytes")
    assert ("features/exports.db", "text of an unreadable file") in places(settings, Person(LONGER))
    with pytest.raises(MarqueeError, match=r"exports\.db: .*; restore it, or delete it"):
        forget(settings, LONGER, "asked")


def test_an_attempt_that_goes_on_has_a_moment_and_bundles_of_its_own(settings: Settings) -> None:
    key = erasures.person_hash(settings, PERSON)
    bundle = {"bundle": "banner_bundle:1", "trained_until": "2026-01-01", "rows": 3}
    started = {"erasure": "e1", "state": "started", "at": "2026-01-01T00:00:00", "person": key, "by": "ada"}
    erasures.record(settings, started | {"reason": "asked", "until": "2026-01-01T00:00:00", "bundles": [bundle]})
    erasure = forgotten(settings)
    assert erasure.bundles == [bundle]
    lines = erasures.lines(settings)
    assert [(line["erasure"], line["state"]) for line in lines] == [("e1", name) for name in ("started",) * 2] + [
        ("e1", "finished")
    ]
    assert lines[1]["bundles"] == [bundle]
    assert lines[1]["until"] == lines[2]["until"] > "2026-02-02"
    late = ingest(Shop(events(event("late", PERSON))), settings)
    assert (late.read, late.loaded, late.quarantined) == (1, 0, 1)


# --- stores that the settings do not name


def test_stores_beside_the_ones_in_use_are_cleaned(settings: Settings, tmp_path: Path) -> None:
    spark = settings.home / "spark" / "raw" / "events"
    spark.mkdir(parents=True)
    pq.write_table(pa.table({"visitor_id": [PERSON, LONGER]}), spark / "b.parquet")
    store = SqliteSessions(settings)
    for visitor in (PERSON, LONGER):
        store.update({visitor: [SessionEvent(1, f"e-{visitor}", "product_view", "p1")]})
    store.close()
    online = settings.features / "online.db"
    with closing(sqlite3.connect(online)) as connection, connection:
        connection.execute("create table marquee_view (entity_key blob, feature_name text)")
        key = features._entity_key(Person(PERSON))
        connection.execute("insert into marquee_view values (?, 'a')", [key])
    erasure = forgotten(settings)
    assert erasure.counts["target"] == {"files": 1}
    assert erasure.counts["features"] == {"online": 1, "sessions": 1}
    assert pq.read_table(spark / "b.parquet").column("visitor_id").to_pylist() == [LONGER]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ({"valkey_url": SecretStr("redis://:secret@127.0.0.1:1/0")}, "valkey: .*; start it, or take valkey_url out"),
        ({"postgres_url": SecretStr("postgresql://u:secret@127.0.0.1:1/x")}, "Postgres: .*, or take postgres_url out"),
    ],
    ids=["valkey", "postgres"],
)
def test_a_store_that_does_not_answer_is_not_claimed_to_be_clean(
    settings: Settings, url: dict[str, SecretStr], says: str
) -> None:
    silent = settings.model_copy(update=url)
    for act in (lambda: find_visitor(silent, Person(PERSON)), lambda: forget(silent, PERSON, "asked")):
        with pytest.raises(MarqueeError, match=says) as caught:
            act()
        assert "secret" not in str(caught.value)
    assert erasures.lines(settings) == []
    assert query(settings, "select count(*) from raw.events") == [(2,)]


# --- customers


def test_customers_who_are_nobody_else_go_and_the_others_are_named(settings: Settings) -> None:
    rows = [event("k1", PERSON, customer_id="own"), event("k2", PERSON, customer_id="both")]
    rows += [event("k3", LONGER, customer_id="both"), event("k4", LONGER, customer_id="other")]
    rows += [event("k5", PERSON, customer_id="elsewhere")]
    ingest(Shop(events(*rows)), settings)
    aside = ingest(Shop(events(event("k6", LONGER, customer_id="elsewhere"))), settings)
    quarantine_batch(settings, aside.batch_id, "bad")
    change(settings, "create schema marts")
    for table in ("customer_segments", "rfm_scores"):
        values = "('own'), ('both'), ('other'), ('elsewhere')"
        change(settings, f"create table marts.{table} as select * from (values {values}) t(customer_id)")
    person = Person(PERSON, ["own"])
    assert {place for _, place in places(settings, person)} >= {
        "marts.customer_segments.customer_id",
        "marts.rfm_scores.customer_id",
    }
    erasure = forgotten(settings)
    assert erasure.shared_customers == ("both", "elsewhere")
    assert erasure.counts["warehouse"]["marts.rfm_scores"] == 1
    kept = query(settings, "select customer_id from marts.customer_segments order by 1")
    assert kept == query(settings, "select customer_id from marts.rfm_scores order by 1")
    assert kept == [("both",), ("elsewhere",), ("other",)]
    assert places(settings, person) == []


# --- mentions by others


def test_mentions_by_others_are_starred_out(settings: Settings) -> None:
    page, starred = f"/profile/{PERSON}", "/profile/*******"
    stream = EventStream(settings.log / "stream", "service")
    stream.append([event("s1", "v2", page=page), event("s2", PERSON), event("s3", "v3", page="/")])
    load_pending(settings)
    ingest(Shop(events(event("p1", "v2", page=page), event("p2", LONGER, page=f"/profile/{LONGER}"))), settings)
    aside = ingest(Shop(events(event("p3", "v3", page=page))), settings)
    quarantine_batch(settings, aside.batch_id, "bad")
    change(settings, f"create table raw.training_profiles as select 'as {PERSON} said' as reason, 5 as row_count")
    with closing(sqlite3.connect(settings.registry)) as connection, connection:
        connection.execute("create table promotions (id integer primary key, reason text)")
        connection.execute("insert into promotions values (1, ?), (2, ?)", [f"for {PERSON}", f"for {LONGER}"])
    erasure = forgotten(settings)
    assert erasure.counts["registry"] == {"texts": 1}
    pages = query(settings, "select event_id, page from raw.events where page is not null order by 1")
    assert pages == [("p1", starred), ("p2", f"/profile/{LONGER}"), ("s1", starred), ("s3", "/")]
    assert query(settings, "from raw.training_profiles") == [("as ******* said", 5)]
    lines = [json.loads(line) for line in stream.file.read_text().splitlines() if line.strip()]
    assert [(line["event_id"], line.get("page")) for line in lines] == [("s1", starred), ("s3", "/")]
    (segment,) = (settings.log / "batches" / aside.batch_id).glob("*.parquet")
    assert pq.read_table(segment).column("page").to_pylist() == [starred]
    stream.close()
    # Nothing was lost, so a load of what there is finds nothing new, and the quarantined batch comes back.
    assert load_pending(settings) == []
    admit_batch(settings, aside.batch_id)
    assert query(settings, "select page from raw.events where event_id = 'p3'") == [(starred,)]


def test_what_no_store_erases_is_named_and_not_promised_to_go(settings: Settings) -> None:
    (settings.home / "airflow").mkdir()
    with closing(sqlite3.connect(settings.home / "airflow" / "airflow.db")) as connection, connection:
        connection.execute("create table dag_run (conf text)")
        connection.execute("insert into dag_run values (?)", [f"visitor {PERSON}"])
    erasure = forget(settings, PERSON, "asked")
    assert erasure is not None
    assert {trace.store for trace in erasure.left} == {"airflow/airflow.db"}
    with pytest.raises(
        MarqueeError, match=r"airflow/airflow.db \(dag_run.conf\): 1.*in no store of Marquee's: take it"
    ):
        require_erased(erasure)


# --- bytes


def test_a_longer_id_that_only_the_sessions_know_is_no_trace(settings: Settings) -> None:
    store = SqliteSessions(settings)
    for visitor in (PERSON, "v0000072", "x-v000007"):
        store.update({visitor: [SessionEvent(1, f"e-{visitor}", "product_view", "p1")]})
    store.close()
    ingest(Shop(events(event(f"seen_by_{PERSON}", "v2"))), settings)  # not a word of its own, so no mention either
    forgotten(settings)
    assert ("features/sessions.sqlite", "bytes") in places(settings, Person("v0000072"))


def test_deleted_rows_that_can_still_be_read_are_found(settings: Settings) -> None:
    """In the free pages of a database, in its write-ahead log, and in the journal that a killed writer leaves."""
    file = settings.home / "registry.sqlite"
    forgotten(settings)
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma secure_delete = off")
        connection.execute("create table notes (text)")
        connection.execute("pragma wal_checkpoint(truncate)")
        connection.executemany("insert into notes values (?)", [[f"{PERSON}x"], [f"{LONGER}"], [PERSON]])
        connection.execute("delete from notes")
        assert (file.name + "-wal", "bytes") in places(settings)
        connection.execute("pragma wal_checkpoint(truncate)")
        assert places(settings) == [(file.name, "bytes")]
    assert erase_from_sqlite(file, Person(PERSON), {}) == 0
    assert places(settings) == []
    for name in ("registry.sqlite-journal", "warehouse.duckdb.wal.bak.wal"):
        left = settings.home / name
        left.write_bytes(f"\0abc{PERSON}def\0".encode())
        assert places(settings) == []  # a longer word, as far as anybody can tell
        left.write_bytes(f"\0abc\0{PERSON}\1def\0".encode())
        assert (name, "bytes") in places(settings)
        left.unlink()


def test_bytes_are_found_wherever_blocks_end(settings: Settings) -> None:
    ingest(Shop(events(event("x", f"x-{PERSON}"))), settings)
    forgotten(settings)
    left = settings.home / "registry.sqlite-journal"
    for shift in range(-30, 3):
        words = f"{LONGER}\0x-{PERSON}\0{PERSON}\0".encode()
        left.write_bytes(b"\0" * ((1 << 20) + shift) + words + b"\0" * (1 << 20))
        assert [
            (trace.place, trace.count) for trace in find_visitor(settings, Person(PERSON)) if trace.place == "bytes"
        ] == [("bytes", 1)]


def test_a_reader_that_holds_the_write_ahead_log_is_told_of(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
    store = SqliteSessions(settings)
    store.update({PERSON: [SessionEvent(1, "e", "product_view", "p1")]})
    with closing(sqlite3.connect(settings.features / "sessions.sqlite", isolation_level=None)) as reader:
        reader.execute("begin")
        reader.execute("select count(*) from visitor_parts").fetchall()
        with pytest.raises(MarqueeError, match=r"sessions\.sqlite is being read.*run the same command again"):
            features.erase_sessions(settings, Person(PERSON))
        reader.execute("commit")
        assert features.erase_sessions(settings, Person(PERSON)) == 0
    store.close()
    forgotten(settings)


# --- the stream


def test_a_stream_is_searched_without_its_writer_s_lock(settings: Settings) -> None:
    stream = EventStream(settings.log / "stream", "service")
    stream.append([event(f"s{place}", visitor) for place, visitor in enumerate([PERSON, LONGER, PERSON])])
    waited: list[bool] = []

    class Meanwhile(OnePerson):
        """Looks at a line only after the service has written another."""

        def in_event(self, row: dict[str, Any]) -> bool:
            writer = threading.Thread(target=stream.append, args=[[event(f"m{len(waited)}", PERSON)]], daemon=True)
            writer.start()
            writer.join(10)
            waited.append(writer.is_alive())
            return super().in_event(row)

    assert erase_from_stream(stream.file, Meanwhile(Person(PERSON))) == 2
    stream.close()
    assert waited == [False] * 3
    lines = stream.file.read_text().splitlines()
    # What was written meanwhile came later than the end that was looked for.
    assert [json.loads(line)["event_id"] if line.strip() else None for line in lines] == [
        None,
        "s1",
        None,
        "m0",
        "m1",
        "m2",
    ]


def test_a_line_that_was_taken_back_meanwhile_is_not_overwritten(settings: Settings) -> None:
    """A writer that could not store a line whole cuts it off again, and writes another in its place."""
    file = settings.log / "stream" / "service.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    line, other = (json.dumps(event("s", one), default=str) + "\n" for one in (PERSON, LONGER))
    file.write_text(line)

    class Meanwhile(OnePerson):
        """The writer changes its mind while the line is looked at."""

        def in_event(self, row: dict[str, Any]) -> bool:
            with file.open("r+b") as stream:
                stream.truncate(0)
                stream.write(other.encode())
            return super().in_event(row)

    assert erase_from_stream(file, Meanwhile(Person(PERSON))) == 0
    assert file.read_text() == other


# --- afterwards


def test_the_next_build_begins_at_the_first_day_that_lost_an_event(settings: Settings) -> None:
    rows = [event(f"d{day}", visitor, occurred_at=datetime(2026, 2, day)) for day, visitor in ((1, "v2"), (9, "v2"))]
    rows += [event("p5", PERSON, occurred_at=datetime(2026, 2, 5, 23)), event("p7", PERSON, occurred_at=NOON)]
    admit_batch(settings, ingest(Shop(events(*rows)), settings).batch_id)
    with connect(settings) as connection:
        connection.execute("create schema marts")
        for name in contract.MART_TABLES:
            connection.execute(f"create table marts.{name} (a int)")
        build = next_build(connection, "duckdb", "v1", Asked())
        assert build == Build(date(2026, 2, 1), date(2026, 2, 9), is_full=True)
        finish_build(connection, start_build(connection, "duckdb", "v1", build), "duckdb", build)
        assert next_build(connection, "duckdb", "v1", Asked()) is None
    forgotten(settings)
    forgotten(settings, LONGER)
    with connect(settings) as connection:
        due = next_build(connection, "duckdb", "v1", Asked())
        assert due is not None
        assert (due.window, due.is_full) == ((date(2026, 2, 2), date(2026, 2, 9)), False)
        assert connection.execute("select count(*) from raw.builds where finished_at is null").fetchall() == [(2,)]
        finish_build(connection, start_build(connection, "duckdb", "v1", due), "duckdb", due)
        assert next_build(connection, "duckdb", "v1", Asked()) is None


# --- the command line


def run(*words: str) -> Any:
    return CliRunner().invoke(app, ["forget", *words])


@pytest.mark.parametrize("words", [["--check"], ["--yes"]])
def test_a_home_without_an_installation_proves_nothing(tmp_path: Path, words: list[str]) -> None:
    missing = tmp_path / "mistyped"
    done = run("--visitor", PERSON, "--home", str(missing), *words)
    assert (done.exit_code, type(done.exception)) == (1, MarqueeError)
    assert str(done.exception).startswith(f"there is no installation at {missing}; check --home")
    for act in (
        lambda: find_visitor(Settings(home=missing), Person(PERSON)),
        lambda: forgotten(Settings(home=missing)),
    ):
        with pytest.raises(MarqueeError, match="there is no installation at"):
            act()
    assert not missing.exists()


def test_an_id_that_is_no_text_is_refused(settings: Settings) -> None:
    done = run("--visitor", os.fsdecode(b"v\xff7"), "--home", str(settings.home), "--yes")
    assert isinstance(done.exception, MarqueeError)
    assert "--visitor is not UTF-8" in str(done.exception)


def test_the_verb_tells_of_customers_that_stay(settings: Settings) -> None:
    ingest(Shop(events(event("k1", PERSON, customer_id="c1"), event("k2", LONGER, customer_id="c1"))), settings)
    home = ["--home", str(settings.home)]
    done = run("--visitor", PERSON, "--yes", *home)
    assert done.exit_code == 0, done.output
    assert "kept: customer c1, whom other visitors' events name too" in done.output
    assert run("--visitor", PERSON, "--check", *home).exit_code == 0


def test_a_warehouse_that_is_cut_short_is_no_one_s(settings: Settings) -> None:
    """Such as the copy that a killed erasure leaves."""
    left = settings.home / "warehouse.fresh.duckdb"
    left.write_bytes(settings.warehouse.read_bytes()[:5000])
    forgotten(settings)
    assert not left.exists()
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        assert connection.execute("select visitor_id from raw.events").fetchall() == [(LONGER,)]


READER = """
import sys, duckdb
held = duckdb.connect(sys.argv[1], read_only=True)
print("open", flush=True)
sys.stdin.read()
"""


def test_nothing_is_erased_while_somebody_reads_the_warehouse(settings: Settings) -> None:
    ingest(Shop(events(event("e1", PERSON), event("e2", "v2"))), settings)
    before = {path: path.read_bytes() for path in settings.log.rglob("*") if path.is_file()}
    words = [sys.executable, "-c", READER, str(settings.warehouse)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"open\n"
        with pytest.raises(WarehouseBusy):
            forget(settings, PERSON, "asked")
        reader.communicate()
    assert {path: path.read_bytes() for path in settings.log.rglob("*") if path.is_file()} == before
    assert not erasures.lines(settings)
    assert forget(settings, PERSON, "asked") is not None
