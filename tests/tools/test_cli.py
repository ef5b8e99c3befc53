"""The command line as its user meets it: every test runs the installed ``marquee`` in a process of its own.

What cannot be read is refused with one line and leaves nothing behind; what can is counted to the last row.
"""

from __future__ import annotations

import getpass
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from marquee import contract

pytestmark = pytest.mark.tools

MARQUEE = str(Path(sys.executable).with_name("marquee"))
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("MARQUEE_")}
RETAIL = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
GLOBO = (
    "user_id,session_id,click_article_id,click_timestamp,click_deviceGroup,click_country,click_referrer_type,"
    "click_environment,click_os,click_region,session_start,session_size\n"
)
Done = subprocess.CompletedProcess[str]


def marquee(home: Path, *words: str, **environment: str) -> Done:
    """One run of the command in the home's parent, where no ``marquee.toml`` is."""
    return subprocess.run(
        [MARQUEE, *words, "--home", str(home)],
        env=ENVIRONMENT | environment,
        cwd=home.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def result(done: Done) -> dict[str, Any]:
    """What a successful run with ``--json`` says; nothing but that one object is on stdout."""
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def assert_refused(done: Done, *parts: str) -> None:
    """Exit code 1, nothing on stdout, one line on stderr that holds every one of ``parts``."""
    assert (done.returncode, done.stdout) == (1, ""), done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line
    assert len(line) < 500


def raw_tables(home: Path, with_batch: bool = True) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every raw table, books included, in one order whatever order they were written in."""
    columns = "*" if with_batch else "* exclude (batch_id)"
    books = {"batches": "* exclude (loaded_at)", "batch_tables": "*", "rejected_rows": "*"} if with_batch else {}
    with duckdb.connect(str(home / "warehouse.duckdb"), read_only=True) as connection:
        return {
            name: sorted(connection.execute(f"select {wanted} from raw.{name}").fetchall(), key=repr)
            for name, wanted in (dict.fromkeys(contract.RAW_TABLES, columns) | books).items()
        }


def kept(home: Path) -> tuple[dict[str, list[tuple[Any, ...]]], list[str]]:
    """All that an ingest may change: the raw tables, and the log's files with what is being written to it."""
    files = sorted(str(path.relative_to(home)) for path in (home / "log").rglob("*"))
    return raw_tables(home), files


def event(number: int, kind: str = "page_view", **other: Any) -> dict[str, Any]:
    moment = f"2026-01-{5 + number % 20:02}T12:{number % 60:02}:00Z"
    return {"event_id": f"e{number}", "kind": kind, "occurred_at": moment, "visitor_id": f"v{number % 7}"} | other


def write_events(path: Path, events: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that holds one batch of forty page views."""
    home = tmp_path_factory.mktemp("shop") / "home"
    path = write_events(home.parent / "events.jsonl", [event(number) for number in range(40)])
    found = result(marquee(home, "ingest", "--source", "marquee", "--path", str(path), "--json"))
    assert (found["read"], found["loaded"]) == (40, 40)
    return home


# --- what cannot be read ------------------------------------------------------------------------------------


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _text(text: str) -> Callable[[Path], Any]:
    return lambda path: path.write_text(text, encoding="utf-8")


def _truncated(header: str, row: str, rows: int) -> Callable[[Path], None]:
    """A gzip file cut short after more rows than fit one batch, so that a part of it has been staged by then."""

    def write(path: Path) -> None:
        whole = gzip.compress((header + "".join(row.format(n) for n in range(rows))).encode())
        path.write_bytes(whole[: len(whole) - 40])

    return write


UNREADABLE: dict[str, tuple[str, str, Callable[[Path], Any], tuple[str, ...]]] = {
    "no such path": ("marquee", "nowhere", lambda path: None, ("nowhere does not exist", "*.jsonl")),
    "no such folder": ("completejourney", "nowhere", lambda path: None, ("nowhere does not exist",)),
    "empty folder": ("globo", "clicks", Path.mkdir, ("clicks holds no file named clicks_hour_*.csv",)),
    "a file where a folder is meant": ("retailrocket", "a.csv", _empty, ("a.csv is a file", "folder")),
    "empty JSON lines": ("marquee", "events.jsonl", _empty, ("events.jsonl is empty",)),
    "blank CSV": ("online-retail", "lines.csv", _text("\n\n"), ("lines.csv is empty",)),
    "header alone": ("online-retail", "lines.csv", _text(RETAIL), ("lines.csv has a header but no rows",)),
    "missing column": ("globo", "a.csv", _text("user_id,session_id\n1,2\n"), ("a.csv", "click_article_id", "missing")),
    "repeated column": ("tmall", "a.csv", _text("user_id,user_id\n1,2\n"), ("a.csv", "'user_id' appears twice")),
    "truncated gzip": (
        "globo",
        "clicks_hour_000.csv.gz",
        _truncated(GLOBO, "{0},{0},7,1506826800026,1,1,2,4,17,21,1506826800026,2\n", 60_000),
        ("clicks_hour_000.csv.gz is a truncated or corrupt gzip file", "nothing was loaded"),
    ),
    "damaged Parquet": ("marquee", "events.parquet", _text("PAR1 but no more"), ("events.parquet", "Parquet")),
    "a table that is none": ("marquee", "shoes.jsonl", _text('{"a": 1}\n'), ("shoes.jsonl", "banner_products")),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_unreadable_source_is_one_line_and_leaves_nothing(case: str, shop: Path, tmp_path: Path) -> None:
    source, name, write, parts = UNREADABLE[case]
    write(tmp_path / name)
    before = kept(shop)
    assert_refused(marquee(shop, "ingest", "--source", source, "--path", str(tmp_path / name)), *parts)
    assert kept(shop) == before


WRONG: dict[str, tuple[list[str], dict[str, str], tuple[str, ...]]] = {
    "a path for the simulator": (["ingest", "--path", "x"], {}, ("simulator reads no files", "--source")),
    "no path": (["ingest", "--source", "globo"], {}, ("globo needs a path", "--path")),
    "unknown source": (["ingest", "--source", "nope"], {}, ("unknown source 'nope'", "completejourney")),
    "unknown variable": (["status"], {"MARQUEE_SEEED": "1"}, ("unknown setting MARQUEE_SEEED", "MARQUEE_SEED")),
    "malformed variable": (["status"], {"MARQUEE_SEED": "many"}, ("setting seed", "integer")),
    "too few events": (["simulate", "--events", "999"], {}, ("setting events", "1000")),
    "too many events": (["simulate", "--events", "10000001"], {}, ("setting events", "10000000")),
    "negative seed": (["simulate", "--seed", "-1"], {}, ("setting seed",)),
    "no such batch": (["admit", "nope", "--reason", "x"], {}, ("batch nope is not in the warehouse", "marquee status")),
    "no batch to take back": (["quarantine", "nope", "--reason", "x"], {}, ("batch nope is not in the warehouse",)),
    "no such bundle": (["evaluate", "banner_bundle:nope"], {}, ("no bundle 'banner_bundle:nope'", "stored: none")),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_setting_is_one_line_and_changes_nothing(case: str, shop: Path) -> None:
    words, environment, parts = WRONG[case]
    before = kept(shop)
    assert_refused(marquee(shop, *words, **environment), *parts)
    assert kept(shop) == before


@pytest.mark.parametrize("words", [["shop"], ["ingest", "--pth", "x"], ["simulate", "--events", "many"], ["admit"]])
def test_wrong_usage_is_exit_code_2_and_points_to_the_help(words: list[str], tmp_path: Path) -> None:
    done = marquee(tmp_path / "home", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--help" in done.stderr
    assert done.stderr.count("Error: ") == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "home").exists()


def test_home_that_is_a_file_and_folder_that_is_not_empty_are_named(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("mine", encoding="utf-8")
    assert_refused(marquee(tmp_path / "home", "simulate", "--events", "1000"), str(tmp_path / "home"))
    out = tmp_path / "out"
    words = ("simulate", "--events", "1000", "--out", str(out))
    assert marquee(tmp_path / "other", *words).returncode == 0
    written = {path: path.read_bytes() for path in out.iterdir()}
    assert_refused(marquee(tmp_path / "other", *words), "exists already", "empty folder")
    assert {path: path.read_bytes() for path in out.iterdir()} == written


def test_warehouse_in_use_is_named_with_its_holder(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert marquee(home, "simulate", "--events", "1000").returncode == 0
    with duckdb.connect(str(home / "warehouse.duckdb")):
        for verb in ("status", "check", "transform", "materialize"):
            assert_refused(marquee(home, verb), f"in use by process {os.getpid()}")


def test_interrupted_load_says_so_and_can_be_run_again(tmp_path: Path) -> None:
    """Ctrl-C while DuckDB loads, which its write-ahead log tells us; run again, each row is there once."""
    home, words = tmp_path / "home", ["simulate", "--events", "300000", "--json"]
    command = [MARQUEE, *words, "--home", str(home)]
    with subprocess.Popen(command, env=ENVIRONMENT, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as child:
        while not (home / "warehouse.duckdb.wal").exists() and child.poll() is None:
            time.sleep(0.01)
        time.sleep(0.2)
        child.send_signal(signal.SIGINT)
        _, stderr = child.communicate(timeout=60)
    if child.returncode == 0:
        pytest.skip("the load was over before the signal came")
    # 130 and no word when Python itself was interrupted, 1 and one line when DuckDB was.
    assert child.returncode in (1, 130)
    told = "error: interrupted; nothing is half-loaded, run the same command again\n"
    assert stderr == (told if child.returncode == 1 else "")
    again = result(marquee(home, *words))
    assert again["read"] == again["loaded"] > 300_000
    assert again["loaded"] == sum(result(marquee(home, "status", "--json"))["tables"].values())


# --- what can ---------------------------------------------------------------------------------------------------


def test_malformed_rows_are_set_aside_with_file_line_and_reason(tmp_path: Path) -> None:
    good = "536365,85123A,LANTERN,{},2010-12-01 08:26:00,2.55,17850,United Kingdom\n"
    lines = [RETAIL, good.format(6), good.format("six"), good.format(7)]
    path = tmp_path / "lines.csv"
    path.write_bytes("".join(lines).encode() + b"536366,71053,M\xe9TAL,1,2010-12-01 08:28:00,3.39,17850,France\n")
    words = ("ingest", "--source", "online-retail", "--path", str(path))
    found = result(marquee(tmp_path / "a", *words, "--json"))
    counts = [found[name] for name in ("read", "loaded", "quarantined", "duplicate")]
    assert counts == [4, 2, 2, 0]
    assert [(row["file"], row["line"], row["reason"]) for row in found["rejected"]] == [
        ("lines.csv", 3, "Quantity 'six' is not a number"),
        ("lines.csv", 5, "not UTF-8: byte 0xe9 at position 15"),
    ]
    done = marquee(tmp_path / "b", *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert "read 4 = loaded 2 + quarantined 2 + duplicate 0" in done.stdout
    assert "quarantined lines.csv:3: Quantity 'six' is not a number" in done.stdout
    assert "quarantined lines.csv:5: not UTF-8" in done.stdout
    assert len(raw_tables(tmp_path / "b")["rejected_rows"]) == 2


def test_same_file_twice_changes_nothing(shop: Path, tmp_path: Path) -> None:
    home = shutil.copytree(shop, tmp_path / "home")
    before = kept(home)
    path = write_events(tmp_path / "renamed-events.jsonl", [event(number) for number in range(40)])
    words = ("ingest", "--source", "marquee", "--path", str(path), "--json")
    found = result(marquee(home, *words))
    assert [found[name] for name in ("read", "loaded", "quarantined", "duplicate")] == [40, 0, 0, 40]
    assert kept(home) == before
    assert len(before[0]["events"]) == 40


def test_simulated_files_ingest_to_the_rows_of_the_simulator(tmp_path: Path) -> None:
    size = ("--events", "3000", "--seed", "3")
    direct = result(marquee(tmp_path / "a", "simulate", *size, "--json"))
    written = result(marquee(tmp_path / "c", "simulate", *size, "--out", str(tmp_path / "out"), "--json"))
    ingested = result(
        marquee(tmp_path / "b", "ingest", "--source", "marquee", "--path", str(tmp_path / "out"), "--json")
    )
    assert not (tmp_path / "c").exists()
    assert sum(written["rows"].values()) == ingested["loaded"] == direct["loaded"] > 3_000
    assert raw_tables(tmp_path / "a", with_batch=False) == raw_tables(tmp_path / "b", with_batch=False)


def test_status_counts_what_is_there_before_and_after(shop: Path, tmp_path: Path) -> None:
    nothing = result(marquee(tmp_path / "home", "status", "--json"))
    assert (nothing["batches"], nothing["tables"], nothing["bundles"], nothing["champion"]) == ([], {}, [], None)
    assert "nothing ingested yet" in marquee(tmp_path / "home", "status").stdout
    assert not (tmp_path / "home").exists()
    found = result(marquee(shop, "status", "--json"))
    (batch,) = found["batches"]
    assert (batch["status"], batch["read"], batch["loaded"]) == ("loaded", 40, 40)
    assert found["tables"] == dict.fromkeys((f"raw.{name}" for name in contract.RAW_TABLES), 0) | {"raw.events": 40}
    assert batch["batch_id"] in marquee(shop, "status").stdout


# --- verbs before their time ----------------------------------------------------------------------------------


VERBS: dict[str, list[str]] = {
    "check": ["check"],
    "transform": ["transform"],
    "materialize": ["materialize"],
    "train": ["train"],
    "evaluate": ["evaluate"],
    "promote": ["promote", "--override", "because"],
    "rollback": ["rollback", "--reason", "because"],
    "serve": ["serve", "--port", "3999"],
    "recommend": ["recommend", "v1", "--placement", "home_hero"],
}


def assert_all_point_to(home: Path, verb: str, verbs: list[str]) -> None:
    for name in verbs:
        assert_refused(marquee(home, *VERBS[name]), f"run `marquee {verb}` first")


def test_each_verb_says_what_to_run_first(shop: Path, tmp_path: Path) -> None:
    """With nothing there, and with a batch that no gate has seen."""
    assert_all_point_to(tmp_path / "home", "ingest", list(VERBS))
    assert not (tmp_path / "home").exists()
    assert_all_point_to(shop, "check", ["transform", "materialize", "recommend"])


# --- the gate ---------------------------------------------------------------------------------------------------


def every_banner_clicked(home: Path) -> list[dict[str, Any]]:
    """Clicks that outnumber the impressions of banners the home knows: a click rate of 100 %."""
    with duckdb.connect(str(home / "warehouse.duckdb"), read_only=True) as connection:
        banners = [banner for (banner,) in connection.execute("select banner_id from raw.banners").fetchall()[:5]]
    events = []
    for number in range(20):
        on = {"banner_id": banners[number % 5], "impression_id": f"bad{number}"}
        shown = on | {"placement_id": "home_hero", "position": 0, "propensity": 0.5}
        events.append(event(number, "impression", event_id=f"bad-i{number}", **shown))
        events += [event(number, "click", event_id=f"bad-c{number}-{copy}", **on) for copy in range(2)]
    return events


@pytest.fixture(scope="module")
def admitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small simulated shop whose one batch the gate has admitted."""
    home = tmp_path_factory.mktemp("admitted") / "home"
    assert marquee(home, "simulate", "--events", "2000").returncode == 0
    found = result(marquee(home, "check", "--json"))
    assert [verdict["passed"] for verdict in found["verdicts"]] == [True]
    assert "transform" in found["pending"]
    return home


def test_bad_batch_is_refused_whole_until_a_person_admits_it(admitted: Path, tmp_path: Path) -> None:
    home = shutil.copytree(admitted, tmp_path / "home")
    before = raw_tables(home)["events"]
    path = write_events(tmp_path / "events-bad.jsonl", every_banner_clicked(home))
    words = ("ingest", "--source", "marquee", "--path", str(path), "--json")
    batch = result(marquee(home, *words))["batch"]
    done = marquee(home, "check")
    assert (done.returncode, done.stdout) == (1, "")
    first, second = done.stderr.splitlines()
    assert first == "error: the gate refused 1 of 1:"
    for part in (batch, "click_rate", "observed 1", "0.9"):
        assert part in second
    assert raw_tables(home)["events"] == before, "a refused batch leaves nothing in the raw tables"
    assert (home / "quarantine" / batch / "events.parquet").is_file()
    good, bad = result(marquee(home, "status", "--json"))["batches"]
    assert (good["status"], bad["status"]) == ("admitted", "quarantined")
    assert "click_rate" in bad["reason"]
    assert_refused(marquee(home, *words), batch, "was quarantined", "admit")
    assert result(marquee(home, "transform", "--json"))["models"] > 20
    assert result(marquee(home, "admit", batch, "--reason", "a test of us all", "--json")) == {"admitted": batch}
    assert len(raw_tables(home)["events"]) == len(before) + 60
    words = ("quarantine", batch, "--reason", "on second thoughts")
    taken = {"quarantined": batch, "gained": [], "full_build": False}
    assert result(marquee(home, *words, "--json")) == taken, "no build has seen it since"
    assert raw_tables(home)["events"] == before
    assert_refused(marquee(home, *words), batch, "is quarantined already", "marquee status")
    again = result(marquee(home, "status", "--json"))["batches"][1]
    assert again["status"] == "quarantined"
    who = getpass.getuser()
    assert again["reason"].startswith(bad["reason"])
    assert again["reason"].endswith(
        f"; then admitted by {who}: a test of us all; then quarantined by {who}: {words[-1]}"
    )


def test_batch_of_known_rows_alone_passes_the_gate_and_changes_nothing(admitted: Path, tmp_path: Path) -> None:
    home = shutil.copytree(admitted, tmp_path / "home")
    path = write_events(tmp_path / "all.jsonl", [event(number) for number in range(40)])
    assert result(marquee(home, "ingest", "--source", "marquee", "--path", str(path), "--json"))["loaded"] == 40
    before = raw_tables(home)["events"]
    path = write_events(tmp_path / "some.jsonl", [event(number) for number in range(10, 20)])
    found = result(marquee(home, "ingest", "--source", "marquee", "--path", str(path), "--json"))
    assert [found[name] for name in ("read", "loaded", "quarantined", "duplicate")] == [10, 0, 0, 10]
    verdicts = result(marquee(home, "check", "--json"))["verdicts"]
    assert [(verdict["passed"], verdict["rows"]) for verdict in verdicts] == [(True, 40), (True, 10)]
    assert {batch["status"] for batch in result(marquee(home, "status", "--json"))["batches"]} == {"admitted"}
    assert raw_tables(home)["events"] == before
    assert_all_point_to(home, "transform", ["materialize", "train", "promote"])
