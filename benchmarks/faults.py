"""Kill -9 at a random moment of load, build or materialise, then run again: the end must be an undisturbed run's."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb

from benchmarks.measure import MARQUEE, environment, marquee, say

SOURCE: Final = {"source": "simulator", "seed": 11, "events": 8_000, "as_of": "2026-02-02T12:00:00"}
STEPS: Final = {"load": "ingest", "build": "transform", "materialise": "materialize"}
CLOCKS: Final = "^(loaded_at|started_at|finished_at|created_ts|.*build_id|seconds|.*checked_at|.*recorded_at)$"
"""Columns that hold the clock's time, not ours."""

Fingerprint = dict[str, tuple[int, str]]


@dataclass(slots=True)
class Outcome:
    """What 50 kills did: how many were sent and hit a living process, and rows lost or there twice afterwards."""

    kills: int = 0
    hits: int = 0
    lost: int = 0
    duplicate: int = 0
    different: int = 0


def kill_and_rerun(kills: int, seed: int) -> dict[str, object]:
    """Kill each step in turn ``kills`` times in all; each time from the state just before it."""
    chance, outcome, by_step = random.Random(seed), Outcome(), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="marquee-faults-") as folder:
        work = Path(folder)
        before, after, seconds = _reference(work)
        for number in range(kills):
            step = list(STEPS)[number % len(STEPS)]
            home = work / "killed"
            shutil.rmtree(home, ignore_errors=True)
            if before[step].exists():
                shutil.copytree(before[step], home)
            outcome.kills += 1
            if _kill(STEPS[step], home, chance.uniform(0, seconds[step])):
                outcome.hits += 1
                by_step[step] += 1
            marquee(STEPS[step], home=home, **SOURCE)
            _compare(after[step], fingerprint(home), outcome)
            if (number + 1) % 10 == 0:
                say(f"  {number + 1} of {kills} kills: {outcome}")
    return {
        "kills": outcome.kills,
        "hits": outcome.hits,
        "hits_by_step": dict(by_step),
        "rows_lost": outcome.lost,
        "rows_duplicate": outcome.duplicate,
        "tables_different": outcome.different,
        "tables_compared": sum(len(found) for found in after.values()),
    }


def _reference(work: Path) -> tuple[dict[str, Path], dict[str, Fingerprint], dict[str, float]]:
    """For each step: the home just before it, what an undisturbed run leaves, and how long it took."""
    home = work / "reference"
    before: dict[str, Path] = {}
    after: dict[str, Fingerprint] = {}
    seconds: dict[str, float] = {}
    for step, verb in STEPS.items():
        before[step] = work / f"before-{step}"
        if home.exists():
            shutil.copytree(home, before[step])
        seconds[step] = marquee(verb, home=home, **SOURCE).seconds
        after[step] = fingerprint(home)
        if step == "load":
            marquee("check", home=home, **SOURCE)
    return before, after, seconds


def _kill(verb: str, home: Path, after: float) -> bool:
    """Start a verb and kill it with all its children; whether it was still alive."""
    command = [MARQUEE, verb, "--home", str(home)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(
        command, env=environment(quiet=1, **SOURCE), cwd=home.parent, start_new_session=True, **quiet
    ) as child:
        try:
            child.wait(after)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            return True
    return False


def fingerprint(home: Path) -> Fingerprint:
    """Rows and a hash of every table of the warehouse and the online store, clocks apart."""
    found: Fingerprint = {}
    with duckdb.connect(str(home / "warehouse.duckdb"), read_only=True) as connection:
        names = connection.execute(
            "select table_schema, table_name from information_schema.tables "
            "where table_type = 'BASE TABLE' and table_name <> 'builds'"  # a killed build leaves its line there
        ).fetchall()
        for schema, table in names:
            query = f"select columns(lambda c: not regexp_matches(c, '{CLOCKS}')) from {schema}.{table}"  # noqa: S608
            found[f"{schema}.{table}"] = _digest(connection.execute(query).fetchall())
    store = home / "features" / "online.db"
    if store.exists():
        with sqlite3.connect(store) as connection:
            for (table,) in connection.execute(
                "select name from sqlite_master where type = 'table' and sql like '%entity_key%'"
            ).fetchall():
                columns = [row[1] for row in connection.execute(f"pragma table_info({table})")]
                kept = ", ".join(name for name in columns if name != "created_ts")
                found[f"online.{table}"] = _digest(connection.execute(f"select {kept} from {table}").fetchall())  # noqa: S608
    return found


def _digest(rows: list[tuple[object, ...]]) -> tuple[int, str]:
    return len(rows), hashlib.sha256("\n".join(sorted(map(repr, rows))).encode()).hexdigest()


def _compare(wanted: Fingerprint, found: Fingerprint, outcome: Outcome) -> None:
    for name in wanted.keys() | found.keys():
        (rows, digest), (now, present) = wanted.get(name, (0, "")), found.get(name, (0, ""))
        outcome.lost += max(rows - now, 0)
        outcome.duplicate += max(now - rows, 0)
        if digest != present:
            outcome.different += 1
            say(f"  {name}: {rows} rows undisturbed, {now} after a kill, content differs")
