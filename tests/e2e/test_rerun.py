"""Killed anywhere and run again, the pipeline ends where an undisturbed run ends: same tables, same bundle.

Each step is the real command in its own process group, killed with SIGKILL at a moment drawn from a seed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from marquee import contract

pytestmark = pytest.mark.e2e

MARQUEE = str(Path(sys.executable).with_name("marquee"))
SEED, EVENTS = 7, 6_000
STEPS = {
    "ingest": ["ingest", "--source", "simulator"],
    "check": ["check"],
    "transform": ["transform"],
    "check again": ["check"],
    "materialize": ["materialize"],
    "train": ["train"],
    # So small a log teaches too little to pass the gate.
    "promote": ["promote", "--override", "a small log"],
}
TO_MARTS = ("ingest", "check", "transform")
TO_CHAMPION = ("check again", "materialize", "train", "promote")


@dataclass
class Run:
    """A home and how long each of its steps took undisturbed, in seconds; ``killed`` names steps that were killed."""

    home: Path
    seconds: dict[str, float] = field(default_factory=dict)
    killed: list[str] = field(default_factory=list)

    def finish(self, *steps: str) -> None:
        """Run the steps to their end; each prints one JSON object and nothing else on stdout."""
        for step in steps:
            since = time.monotonic()
            done = subprocess.run(self._command(step), **self._where(), capture_output=True, text=True, timeout=300)
            self.seconds[step] = time.monotonic() - since
            assert done.returncode == 0, f"{step}: {done.stderr[-2000:]}"
            assert json.loads(done.stdout), step

    def kill(self, step: str, after: float) -> None:
        """Start the step and kill it and its children ``after`` so many seconds, unless it ends before."""
        where = self._where() | {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(self._command(step), **where, start_new_session=True) as child:
            try:
                child.wait(after)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                self.killed.append(step)

    def answer(self, *words: str) -> dict[str, Any]:
        """What a verb says with ``--json``."""
        command = [MARQUEE, *words, "--json", "--home", str(self.home)]
        text = subprocess.run(command, **self._where(), capture_output=True, text=True, timeout=300, check=True).stdout
        answer: dict[str, Any] = json.loads(text)
        return answer

    def _command(self, step: str) -> list[str]:
        return [MARQUEE, *STEPS[step], "--json", "--home", str(self.home)]

    def _where(self) -> dict[str, Any]:
        own = {"MARQUEE_SEED": str(SEED), "MARQUEE_EVENTS": str(EVENTS)}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MARQUEE_")}
        return {"cwd": self.home.parent, "env": inherited | own}


def tables(home: Path, schema: str) -> dict[str, list[str]]:
    """Every row of every table of a schema, in one order; when a batch was loaded is the clock's, not ours.

    Left out is what tells of runs and not of data: each build, and the training rows that a gate accepted last.
    """
    names = (
        "select table_name from information_schema.tables where table_schema = ? and table_type = 'BASE TABLE' "
        "and table_name not in ('builds', 'training_profiles')"
    )
    # A build that was killed has taken a number.
    query = "select columns(lambda name: name not in ('loaded_at', 'build_id')) from {}.{}"
    with duckdb.connect(str(home / "warehouse.duckdb"), read_only=True) as connection:
        found = [name for (name,) in connection.execute(names, [schema]).fetchall()]
        rows = {name: connection.execute(query.format(schema, name)).fetchall() for name in found}
    return {name: sorted(map(repr, rows[name])) for name in found}


def online(home: Path) -> dict[str, list[str]]:
    """What the online store serves, by view; when a value was written is the clock's."""
    with sqlite3.connect(home / "features" / "online.db") as connection:
        views = "select name from sqlite_master where type = 'table' and sql like '%entity_key%'"
        names = [name for (name,) in connection.execute(views)]
        assert len(names) == 4
        query = "select entity_key, feature_name, value, event_ts from {}"
        return {name: sorted(map(repr, connection.execute(query.format(name)).fetchall())) for name in names}


def assert_same_tables(one: Path, other: Path, schema: str, least: int) -> None:
    left, right = tables(one, schema), tables(other, schema)
    assert set(left) == set(right)
    assert len(left) >= least
    for name in left:
        assert left[name] == right[name], f"{schema}.{name} differs"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nothing disturbed."""
    run = Run(tmp_path_factory.mktemp("reference") / "home")
    run.finish(*STEPS)
    return run


@pytest.fixture(scope="module")
def to_marts(reference: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Another home, each step up to the marts killed once and run again."""
    run, moments = Run(tmp_path_factory.mktemp("killed") / "home"), random.Random(SEED)
    for step in TO_MARTS:
        run.kill(step, reference.seconds[step] * moments.uniform(0.2, 0.9))
        run.finish(step)
    return run


def test_killed_and_run_again_leaves_the_same_tables(reference: Run, to_marts: Run) -> None:
    assert len(to_marts.killed) >= len(TO_MARTS) - 1, "the steps ended before they could be killed"
    assert_same_tables(reference.home, to_marts.home, "raw", len(contract.RAW_TABLES) + 3)
    assert_same_tables(reference.home, to_marts.home, "marts", len(contract.MART_TABLES) + 3)
    assert len(tables(reference.home, "raw")["events"]) > 0.9 * EVENTS
    assert list((to_marts.home / "log" / "staging").iterdir()) == []
    assert [batch["status"] for batch in to_marts.answer("status")["batches"]] == ["admitted"]


def test_same_seed_gives_the_same_bundle_in_another_home(reference: Run, to_marts: Run, tmp_path: Path) -> None:
    run = Run(Path(shutil.copytree(to_marts.home, tmp_path / "home")))
    run.finish("materialize", "train")
    assert_same_bundle(reference, run)


@pytest.mark.slow
def test_killed_and_run_again_gives_the_same_champion(reference: Run, to_marts: Run, tmp_path: Path) -> None:
    """Each later step is killed twice, early and late, before it may end."""
    run, moments = Run(Path(shutil.copytree(to_marts.home, tmp_path / "home"))), random.Random(SEED)
    for step in TO_CHAMPION:
        run.kill(step, reference.seconds[step] * moments.uniform(0.2, 0.7))
        run.kill(step, reference.seconds[step] * moments.uniform(0.7, 0.95))
        run.finish(step)
    assert set(run.killed) == set(TO_CHAMPION), "a step ended before it could be killed"
    assert_same_bundle(reference, run)
    assert_same_tables(reference.home, run.home, "marts", len(contract.MART_TABLES) + 3)
    tag = reference.answer("status")["champion"]
    state = run.answer("status")
    assert (state["champion"], state["bundles"]) == (tag, [tag])
    assert [line["action"] for line in run.answer("history")["history"]] == ["promoted"]
    slate = run.answer("recommend", "v000001", "--placement", "home_hero", "--as-of", "2026-02-02T12:00:00")
    assert slate["bundle"] == tag
    assert len(slate["slate"]) == 3


def assert_same_bundle(reference: Run, run: Run) -> None:
    left, right = (pq.read_table(home / "features" / "training_set.parquet") for home in (reference.home, run.home))
    assert left.equals(right)
    assert left.num_rows > 500
    assert online(reference.home) == online(run.home)
    folders = [home / "training" / "bundle" for home in (reference.home, run.home)]
    names = [sorted(path.name for path in folder.iterdir()) for folder in folders]
    assert names[0] == names[1]
    differ = [name for name in names[0] if (folders[0] / name).read_bytes() != (folders[1] / name).read_bytes()]
    assert differ == [], "files of the bundle that differ"
    tags = [json.loads((home / "training" / "latest.json").read_text())["tag"] for home in (reference.home, run.home)]
    assert tags[0] == tags[1]
