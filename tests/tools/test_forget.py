"""Forgetting a visitor who is everywhere: nothing of them is left, everybody else is untouched, and nothing breaks."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from features.session import SessionEvent
from features.session_store import open_session_store
from features.store import OnlineFeatures, materialize
from ingestion.event_stream import EventStream
from ingestion.load import admit_batch, ingest, load_pending, quarantine_batch
from ingestion.simulator import Simulator
from ingestion.sources.marquee_files import MarqueeFiles
from ingestion.transform import transform
from marquee import erasures
from marquee.cli import app
from marquee.forget import forget
from marquee.person import Person
from marquee.settings import Settings
from marquee.traces import find_visitor
from training.pipeline import require_latest_bundle

pytestmark = pytest.mark.tools
PERSON = "v000007"
LONGER = "v0000071"
"""Begins like the person, and must not notice."""
EARLIER = datetime(2026, 2, 2, 9)
"""On the day on which the installation is served, before its noon."""
ALONE = "nobody-else-41"
"""No other id holds this one, so none of its bytes may be left anywhere."""
ODD = ['o\'hara "x"', "100%_v", "vü/1@home", "v1", "1"]


def event(event_id: str, visitor_id: str, at: datetime = EARLIER, **other: Any) -> dict[str, Any]:
    return {"event_id": event_id, "kind": "page_view", "occurred_at": at, "visitor_id": visitor_id} | other


def lines_of(folder: Path, events: list[dict[str, Any]], broken: list[str] | None = None) -> Path:
    """A folder with a file of events as the source ``marquee`` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = [json.dumps(one, default=datetime.isoformat) for one in events] + (broken or [])
    (folder / "events.jsonl").write_text("\n".join(texts) + "\n", encoding="utf-8")
    return folder


def admit_all(settings: Settings) -> None:
    query = "select batch_id from raw.batches where status = 'loaded'"
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        waiting = [row[0] for row in connection.execute(query).fetchall()]
    for batch_id in waiting:
        admit_batch(settings, batch_id)


@pytest.fixture(scope="module")
def everywhere(copied: Callable[[Path], Settings], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """An installation where the person stands in every store, and others beside them."""
    settings = copied(tmp_path_factory.mktemp("forget") / "home")
    stream = EventStream(settings.log / "stream", "service-1")
    others = [LONGER, *ODD, "v000008", ALONE]
    stream.append([event(f"s-{place}", visitor) for place, visitor in enumerate([PERSON, *others, PERSON])])
    files = settings.home.parent / "files"
    rows = [event(f"f-{place}", visitor, customer_id=visitor) for place, visitor in enumerate([PERSON, *others])]
    ingest(
        MarqueeFiles(lines_of(files, rows, [f'{{"event_id": "x", "visitor_id": "{PERSON}", "kind": "unheard"}}'])),
        settings,
    )
    admit_all(settings)
    transform(settings)
    materialize(settings)
    aside = [event(f"q-{place}", visitor) for place, visitor in enumerate([PERSON, LONGER, ALONE])]
    refused = ingest(MarqueeFiles(lines_of(settings.home.parent / "refused", aside)), settings)
    quarantine_batch(settings, refused.batch_id, f"visitor {PERSON} looks odd")
    stream.append([event("s-late", PERSON), event("s-after", LONGER), event("s-alone", ALONE)])
    stream.close()
    store = open_session_store(settings)
    at = int(datetime.now(UTC).timestamp() * 1e6)
    for visitor in (PERSON, LONGER, ALONE):
        store.update({visitor: [SessionEvent(at, f"e-{visitor}", "product_view", "p1")]})
    store.close()
    for name in ("airflow/logs/task.log", "dbt/logs/dbt.log", "reports/validations/one.json", "lineage/events.jsonl"):
        path = settings.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as text:
            text.write(f'{{"visitor_id": "{PERSON}", "other": "{LONGER}", "third": "{ALONE}"}}\n')
    with sqlite3.connect(settings.features / "exports.db") as record:
        rows = [[visitor] for visitor in (PERSON, ALONE)]
        record.executemany("insert into retracted values (1, 'visitor_features_28d', ?)", rows)
    return settings


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What others have: a hash of their rows by table, and their lines of the stream."""

    tables: dict[str, Any]
    lines: list[str]
    online: dict[str, Any]


def others_of(settings: Settings, person: str = PERSON) -> Snapshot:
    tables = {}
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        # Views are computed anew from all who are left: a mean over everybody may move.
        query = """
            select table_schema, table_name
            from information_schema.columns join information_schema.tables using (table_schema, table_name)
            where column_name = 'visitor_id' and table_type = 'BASE TABLE'
        """
        for schema, name in connection.execute(query).fetchall():
            place = f'"{schema}"."{name}"'
            tables[place] = connection.execute(
                f"select count(*), bit_xor(hash(t)) from {place} t where visitor_id <> ?", [person]
            ).fetchone()
    assert len(tables) > 15
    lines = [
        line
        for file in sorted((settings.log / "stream").glob("*.jsonl"))
        for line in file.read_text(encoding="utf-8").splitlines()
        if line.strip() and json.loads(line)["visitor_id"] != person
    ]
    assert settings.as_of is not None
    online = OnlineFeatures(settings).visitors(["v000008", "v000009", "v000010", LONGER], settings.as_of)
    return Snapshot(tables, lines, online)


def balanced(settings: Settings) -> dict[str, tuple[int, int, int, int]]:
    """Books of each batch's events; they balance, and the raw table agrees."""
    query = """select batch_id, sum(read)::int, sum(loaded)::int, sum(quarantined)::int, sum(duplicate)::int
        from raw.batch_tables where table_name = 'events' group by 1"""
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        rows = connection.execute(query).fetchall()
        stored = dict(connection.execute("select batch_id, count(*) from raw.events group by 1").fetchall())
    for batch_id, read, loaded, quarantined, duplicate in rows:
        assert read == loaded + quarantined + duplicate, batch_id
        assert min(loaded, quarantined, duplicate) >= 0, batch_id
        assert loaded == stored.get(batch_id, 0), batch_id
    return {row[0]: row[1:] for row in rows}


def bytes_found(settings: Settings, text: str) -> list[str]:
    """Files that hold the bytes where the longer id does not stand."""
    wanted, longer = text.encode(), LONGER.encode()
    found = []
    for path in settings.home.rglob("*"):
        if path.is_file() and wanted in path.read_bytes().replace(longer, b""):
            found.append(path.name)
    return found


def test_a_visitor_is_found_in_every_store(everywhere: Settings) -> None:
    stores = {trace.store.split("/")[0] for trace in find_visitor(everywhere, Person(PERSON))}
    assert stores >= {"log", "quarantine", "warehouse.duckdb", "features", "airflow", "dbt", "reports", "lineage"}
    places = {trace.store for trace in find_visitor(everywhere, Person(PERSON)) if trace.store.startswith("features")}
    assert {"features/online.db", "features/sessions.sqlite", "features/exports.db"} <= places
    assert "features/training_set.parquet" in places


def test_forgetting_leaves_nothing_and_touches_nobody_else(everywhere: Settings) -> None:
    before, books, size = others_of(everywhere), balanced(everywhere), stream_size(everywhere)
    erasure = forget(everywhere, PERSON, "asked")
    assert erasure is not None
    assert erasure.left == []
    assert find_visitor(everywhere, Person(PERSON)) == []
    assert bytes_found(everywhere, PERSON) == []
    assert [one["bundle"] for one in erasure.bundles] == [require_latest_bundle(everywhere)]
    assert erasure.bundles[0]["rows"] > 0
    assert erasure.counts["features"]["online"] > 0
    assert erasure.counts["features"]["sessions"] == 1
    assert others_of(everywhere) == before
    assert stream_size(everywhere) == size
    after = balanced(everywhere)
    assert {batch: row[0] for batch, row in after.items()} == {batch: row[0] for batch, row in books.items()}
    assert find_visitor(everywhere, Person(LONGER)) != []


def test_of_an_id_that_no_other_holds_not_a_byte_is_left(everywhere: Settings) -> None:
    before = others_of(everywhere, ALONE)
    files = {trace.store for trace in find_visitor(everywhere, Person(ALONE)) if trace.place == "bytes"}
    assert files >= {"warehouse.duckdb", "features/sessions.sqlite", "features/exports.db"}
    assert len(bytes_found(everywhere, ALONE)) > 10
    erasure = forget(everywhere, ALONE, "asked")
    assert erasure is not None
    assert erasure.left == []
    assert bytes_found(everywhere, ALONE) == []
    assert others_of(everywhere, ALONE) == before


def stream_size(settings: Settings) -> int:
    return sum(file.stat().st_size for file in (settings.log / "stream").glob("*.jsonl"))


def test_the_audit_names_no_one_and_its_key_is_private(everywhere: Settings) -> None:
    key = erasures.person_hash(everywhere, PERSON)
    lines = [line for line in erasures.lines(everywhere) if line["person"] == key]
    assert [line["state"] for line in lines] == ["started", "finished"]
    assert lines[0]["reason"] == "asked"
    assert lines[0]["bundles"][0]["bundle"] == require_latest_bundle(everywhere)
    assert lines[1]["counts"]["warehouse"]["raw.events"] > 10
    text = erasures.audit_file(everywhere).read_text()
    assert PERSON not in text
    assert stat.S_IMODE(erasures.key_file(everywhere).stat().st_mode) == 0o600
    assert erasures.person_hash(everywhere, PERSON) == lines[0]["person"]
    assert erasures.person_hash(everywhere, LONGER) != lines[0]["person"]


def test_a_second_time_nothing_is_found_and_nothing_is_written(everywhere: Settings) -> None:
    before = erasures.audit_file(everywhere).read_bytes()
    assert forget(everywhere, PERSON, "again") is None
    assert forget(everywhere, "never-seen-99", "unknown") is None
    assert erasures.audit_file(everywhere).read_bytes() == before


def test_what_comes_again_is_set_aside(everywhere: Settings) -> None:
    """The same file, another file with the same person, and a line that reached the stream too late."""
    again = ingest(Simulator(seed=everywhere.seed, events=everywhere.events), everywhere)
    assert (again.loaded, again.read) == (0, again.quarantined + again.duplicate)
    assert again.quarantined > 0
    rows = [event("n-1", PERSON), event("n-2", LONGER), event("n-3", PERSON, EARLIER + timedelta(days=30))]
    other = ingest(MarqueeFiles(lines_of(everywhere.home.parent / "other", rows)), everywhere)
    assert (other.read, other.loaded, other.quarantined) == (3, 2, 1)
    stream = EventStream(everywhere.log / "stream", "service-1")
    stream.append([event("t-1", PERSON), event("t-2", LONGER)])
    stream.close()
    (part,) = load_pending(everywhere)
    assert (part.read, part.loaded, part.quarantined) == (2, 1, 1)
    with duckdb.connect(str(everywhere.warehouse), read_only=True) as connection:
        query = "select event_id from raw.events where visitor_id = ?"
        # They came back a month later: that is not what they asked to be forgotten.
        assert connection.execute(query, [PERSON]).fetchall() == [("n-3",)]
    balanced(everywhere)
    assert forget(everywhere, PERSON, "asked again") is not None
    assert find_visitor(everywhere, Person(PERSON)) == []


def test_a_warehouse_made_anew_from_the_log_has_the_same_books(everywhere: Settings, tmp_path: Path) -> None:
    books = balanced(everywhere)
    import shutil

    shutil.copytree(everywhere.log, tmp_path / "log")
    for name in ("erasures.jsonl", "erasure.key"):
        shutil.copy(everywhere.home / name, tmp_path / name)
    fresh = everywhere.model_copy(update={"home": tmp_path})
    load_pending(fresh)
    whole = {batch: row for batch, row in balanced(fresh).items() if not batch.startswith("stream-")}
    assert whole
    kept = {batch: books[batch][0] for batch in whole}
    assert {batch: row[0] for batch, row in whole.items()} == kept
    assert find_visitor(fresh, Person(PERSON)) == []


def test_the_pipeline_goes_on(everywhere: Settings) -> None:
    before = others_of(everywhere).online
    admit_all(everywhere)
    transform(everywhere)
    materialize(everywhere)
    assert find_visitor(everywhere, Person(PERSON)) == []
    assert set(others_of(everywhere).online) == set(before)


@pytest.mark.parametrize("odd", ODD)
def test_odd_ids_are_forgotten_and_no_other(everywhere: Settings, odd: str) -> None:
    before = others_of(everywhere, odd)
    assert find_visitor(everywhere, Person(odd)) != []
    erasure = forget(everywhere, odd, "odd")
    assert erasure is not None
    assert erasure.left == []
    assert others_of(everywhere, odd) == before


def test_the_verb_confirms_checks_and_says_what_it_did(everywhere: Settings) -> None:
    home = ["--home", str(everywhere.home)]

    def run(*words: str) -> Any:
        return CliRunner().invoke(app, ["forget", *words, *home])

    assert run("--visitor", LONGER, "--check").exit_code == 1
    refused = run("--visitor", LONGER)
    assert "--yes" in str(refused.exception)
    done = run("--visitor", LONGER, "--yes", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["left"] == []
    checked = run("--visitor", LONGER, "--check")
    assert (checked.exit_code, checked.output.strip()) == (0, "nothing of them is stored")
    unknown = run("--visitor", LONGER, "--yes")
    assert (unknown.exit_code, unknown.output.strip()) == (0, "nothing of this visitor is stored; nothing was changed")


def test_a_missing_key_is_an_error_and_not_a_person_who_comes_back(everywhere: Settings) -> None:
    key = erasures.key_file(everywhere)
    kept = key.rename(key.with_suffix(".away"))
    try:
        with pytest.raises(Exception, match=r"erasure\.key is missing"):
            load_pending(everywhere)
    finally:
        kept.rename(key)


PROGRAM = (
    "import sys; from pathlib import Path; from marquee.settings import Settings; from marquee.forget import forget; "
)
PROGRAM += "forget(Settings(home=Path(sys.argv[1]), events=int(sys.argv[2])), sys.argv[3], 'asked')"


@pytest.mark.slow
def test_killed_anywhere_and_run_again_it_ends_the_same(copied: Callable[[Path], Settings], tmp_path: Path) -> None:
    settings = copied(tmp_path / "home")
    before = others_of(settings)
    words = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(settings.home), str(settings.events), PERSON]
    kills = 0
    for wait in (1.0, 1.6, 2.2, 2.8, 3.4, 4.0, 5.0):
        child = subprocess.Popen(words, start_new_session=True)
        time.sleep(wait)
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            kills += 1
        child.wait()
    assert kills >= 3
    forget(settings, PERSON, "asked")
    assert find_visitor(settings, Person(PERSON)) == []
    assert bytes_found(settings, PERSON) == []
    assert others_of(settings) == before
    balanced(settings)
    states = [line["state"] for line in erasures.lines(settings)]
    assert states == ["started"] * (len(states) - 1) + ["finished"]
    assert len({line["erasure"] for line in erasures.lines(settings)}) == 1


def test_rows_are_read_as_whole_files_afterwards(everywhere: Settings) -> None:
    files = sorted(everywhere.home.rglob("*.parquet"))
    assert len(files) > 10
    assert sum(pq.read_table(file).num_rows for file in files) > 1000
