"""The verb that judges an experiment: what it reads, writes and refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from marquee.errors import MarqueeError, NothingToDo
from marquee.experiment import Arm, Experiment, assign
from marquee.experiments import experiment
from marquee.settings import load_settings
from training import registry
from training.registry import Promotion

TOML = '[[arms]]\nname = "champion"\nshare = 0.5\n[[arms]]\nname = "canary"\nshare = 0.5\n'


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An installation whose warehouse holds what the verb reads: 1,500 visitors with clicks from before."""
    rng = np.random.default_rng(8)
    plan = Experiment("hero", (Arm("champion", 0.5), Arm("canary", 0.5)))
    visitors = np.array([f"v{n}" for n in range(1500)])
    arms = np.array([assign(plan, name, datetime(2026, 1, 1)).name for name in visitors])
    of = np.repeat(np.arange(1500), 4)
    minutes = rng.integers(6 * 1440, size=len(of)) * np.timedelta64(1, "m")
    rates = rng.beta(2, 12, 1500) * np.where(arms == "canary", 1.8, 1)
    rows = {
        "i": np.array([f"i{n}" for n in range(len(of))]),
        "arm": arms[of],
        "v": visitors[of],
        "shown_at": np.datetime64("2026-01-01", "us") + minutes,
        "clicked": rng.random(len(of)) < rates[of],
    }
    with duckdb.connect(str(tmp_path / "warehouse.duckdb")) as warehouse:
        warehouse.execute("create schema marts; create schema intermediate; create table marts.training_rows (x int)")
        warehouse.register("rows", rows)
        warehouse.execute(
            "create table intermediate.int_impressions_clean as select i as impression_id, arm, v as visitor_id, "
            "'s' as session_id, shown_at as impressed_at, clicked as is_clicked from rows union all "
            "select 'old' || i, 'champion', v, 's0', shown_at - interval 10 day, clicked from rows where i like '%3'"
        )
        warehouse.execute(
            "create table intermediate.int_orders_attributed as select i as impression_id, 2.5 as amount from rows "
            "where clicked"
        )
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "hero.toml").write_text(TOML)
    return tmp_path


def call(home: Path, *words: str) -> Any:
    app = typer.Typer()
    app.command("experiment")(experiment)
    return CliRunner().invoke(app, [*words, "--home", str(home)])


def test_the_verb_decides_and_writes_why(home: Path) -> None:
    answer = call(home, "hero", "--planned", "1500", "--json")
    assert answer.exception is None, answer.exception
    found = json.loads(answer.output)
    (decision,) = found["decisions"]
    assert (decision["arm"], decision["verdict"]) == ("canary", "ship")
    folder = home / "reports" / "experiments" / "hero"
    assert found["written"] == str(folder / "decision.json")
    assert json.loads((folder / "decision.json").read_text())["decisions"] == found["decisions"]
    page = (folder / "decision.html").read_text()
    assert "SHIP" in page
    assert "data:image/png" in page
    analysis = found["analysis"]
    clicks = sum(arm["clicks"] for arm in analysis["arms"].values())
    assert sum(arm["value"] for arm in analysis["arms"].values()) == 2.5 * clicks
    assert analysis["first_day"] == "2026-01-01"
    assert 0 < analysis["comparisons"]["canary"]["ctr"]["reduction"] < 0.5


def test_the_verb_tells_a_person(home: Path) -> None:
    lines = call(home, "hero", "--until", "2026-01-05", "--fixed-horizon", "--out", str(home / "o")).output.splitlines()
    assert lines[0].startswith("hero: 4 days from 2026-01-01 to 2026-01-04")
    assert [line for line in lines if line.startswith("canary: SHIP: ctr rose: difference +")]
    assert lines[-1] == f"written to {home / 'o' / 'decision.json'}, and beside it as a page"


def test_a_switchback_is_judged_by_periods(home: Path) -> None:
    """This log was assigned by visitor, so both arms run in each period; its units are periods all the same."""
    (home / "experiments" / "hero.toml").write_text(f'unit = "switchback"\nperiod_hours = 2\n{TOML}')
    found = json.loads(call(home, "hero", "--json").output)["analysis"]
    assert {arm["units"] for arm in found["arms"].values()} == {72.0}  # 6 days of 12 periods
    assert found["comparisons"]["canary"]["ctr"]["reduction"] is None
    assert (found["share_drift"], found["crossed"]) == (1.0, 0.0)


def test_from_since_to_before_until_and_to_the_last_impression_without(home: Path) -> None:
    """Two impressions a day an arm, at 00:00 and 12:00 of five days."""
    with duckdb.connect(str(home / "warehouse.duckdb")) as warehouse:
        warehouse.execute(
            "create or replace table intermediate.int_impressions_clean as select 'i' || n || arm as impression_id, "
            "arm, 'v' || n || arm as visitor_id, 's' as session_id, timestamp '2026-01-01' + n * interval 12 hour as "
            "impressed_at, false as is_clicked from range(10) as r(n), (values ('champion'), ('canary')) as a(arm)"
        )

    def views(*words: str) -> float:
        answer = call(home, "hero", "--json", *words)
        return float(json.loads(answer.output)["analysis"]["arms"]["canary"]["views"])

    assert views() == 10
    assert views("--since", "2026-01-02", "--until", "2026-01-04") == 4


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["other"], "other.toml: there is no such experiment; describe its arms there"),
        (["hero", "--control", "x"], "experiment hero: arms have no 'x'; name one of champion, canary"),
        (["hero", "--metric", "x"], "--metric 'x' is unknown; use one of ctr, session_ctr, value_per_view"),
        (["hero", "--fixed-horizon"], "--fixed-horizon needs --until, the end that was set before the start"),
        (["hero", "--since", "2027-01-01"], "has the arm canary; see --since and --until"),
    ],
)
def test_the_verb_refuses_in_one_line(home: Path, words: list[str], told: str) -> None:
    error = call(home, *words).exception
    assert isinstance(error, MarqueeError), error
    assert told in str(error)
    assert len(str(error).splitlines()) == 1


def canary(share: float, at: str) -> Promotion:
    return Promotion("banner_bundle:0123", "canary", at, "x", "try", [], share)


def test_a_canary_is_judged_since_its_share_stands(home: Path) -> None:
    assert str(call(home, "canary").exception) == "no canary has been begun yet, so there is nothing to judge"
    settings = load_settings(home)
    registry.record(settings, canary(0.05, "2026-01-01T00:00:00"))
    registry.record(settings, canary(0.5, "2026-01-03T00:00:00"))
    registry.record(settings, replace(canary(0.5, "2026-01-07T00:00:00"), action="canary ended", share=None))
    found = json.loads(call(home, "canary", "--json").output)
    assert found["analysis"]["first_day"] == "2026-01-03"
    assert found["analysis"]["sample_ratio"] > 0.001
    assert [one["arm"] for one in found["decisions"]] == ["canary"]


def test_the_file_that_the_service_runs_is_the_one_judged(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "served.toml").write_text(TOML)
    monkeypatch.setenv("MARQUEE_EXPERIMENT", str(tmp_path / "served.toml"))
    answer = call(home, "served", "--json")
    assert answer.exception is None, answer.exception
    assert json.loads(answer.output)["experiment"] == "served"


def test_arms_that_were_never_shown_are_named(home: Path) -> None:
    (home / "experiments" / "new.toml").write_text(TOML.replace("canary", "x").replace("champion", "y"))
    error = call(home, "new", "--control", "y").exception
    assert isinstance(error, NothingToDo)
    assert str(error) == "no impression has the arms y, x yet; serve the experiment first"
