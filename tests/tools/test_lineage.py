"""Lineage: events that OpenLineage's specification takes, that reach from raw events to training rows."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from marquee import lineage
from marquee.settings import Settings, lineage_environment

pytestmark = pytest.mark.tools
Event = dict[str, Any]
REQUIRED = ("eventType", "eventTime", "run", "job", "producer", "schemaURL")


def read(path: Path) -> list[Event]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def check_events(events: list[Event]) -> None:
    """Each has what the specification requires, and each run a start and one end."""
    states: dict[str, list[str]] = {}
    for event in events:
        assert [name for name in REQUIRED if not event.get(name)] == []
        UUID(event["run"]["runId"])
        assert datetime.fromisoformat(event["eventTime"]).tzinfo is not None
        assert event["job"]["namespace"] == "marquee"
        assert event["job"]["name"]
        assert event["schemaURL"].startswith("https://openlineage.io/spec/")
        for dataset in [*event.get("inputs", []), *event.get("outputs", [])]:
            assert all((dataset["namespace"], dataset["name"]))
        states.setdefault(event["run"]["runId"], []).append(event["eventType"])
    assert {tuple(sorted(found)) for found in states.values()} == {("COMPLETE", "START")}
    assert len(states) >= 1


def upstream(events: list[Event], name: str) -> set[str]:
    """Names of all data sets that a data set was made of, however far back."""
    made_of: dict[str, set[str]] = {}
    for event in events:
        for output in event["outputs"]:
            made_of.setdefault(output["name"], set()).update(one["name"] for one in event["inputs"])
    found: set[str] = set()
    pending = [name]
    while pending:
        for parent in made_of.get(pending.pop(), set()) - found:
            found.add(parent)
            pending.append(parent)
    return found


def test_events_of_a_dbt_run_lead_from_training_rows_back_to_raw_events(
    copied: Callable[[Path], Settings], tmp_path: Path
) -> None:
    settings = copied(tmp_path / "home")
    file = settings.lineage_folder / "dbt.jsonl"
    file.unlink(missing_ok=True)
    lineage.emit_dbt_lineage(settings)
    events = read(file)
    check_events(events)
    results = json.loads((settings.home / "dbt" / "target" / "run_results.json").read_text())["results"]
    models = [one for one in results if one["unique_id"].startswith("model.") and one["status"] == "success"]
    assert len(events) == 2 * len(models) >= 40
    assert {one["namespace"] for event in events for one in event["outputs"]} == {f"duckdb://{settings.warehouse}"}
    found = upstream(events, "warehouse.marts.training_rows")
    assert {"warehouse.raw.events", "warehouse.staging.stg_events", "warehouse.raw.banners"} <= found
    assert not any(name.startswith("warehouse.marts.visitor_features") for name in found)
    assert (
        upstream([event for event in events if "stg_events" not in event["job"]["name"]], "warehouse.raw.events")
        == set()
    )


def test_events_of_our_own_runs_chain_with_those_of_dbt(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    raw, mart = lineage.table(settings, "raw", "events"), lineage.table(settings, "marts", "visitor_features_28d")
    started = datetime(2026, 1, 1, 12, tzinfo=UTC)
    lineage.emit_run(settings, "ingest.shop", [("file", "/data/shop.csv")], [raw], started)
    lineage.emit_run(settings, "features.materialize", [mart], [("file", "online.db")], started)
    events = read(tmp_path / "lineage" / "marquee.jsonl")
    check_events(events)
    assert [event["job"]["name"] for event in events] == ["ingest.shop"] * 2 + ["features.materialize"] * 2
    assert events[0]["eventTime"] == started.isoformat() < events[1]["eventTime"]
    assert upstream(events, "warehouse.raw.events") == {"/data/shop.csv"}


def test_lineage_that_fails_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(home=tmp_path)
    with caplog.at_level(logging.WARNING):
        lineage.emit_dbt_lineage(settings)  # dbt has not run
        (tmp_path / "lineage").write_text("a file where the folder should be")
        lineage.emit_run(settings, "job", [], [], datetime.now(UTC))
    assert [record.message.split(":")[0] for record in caplog.records] == ["no lineage was written"] * 2


def test_lineage_can_be_off_or_go_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    off = Settings(home=tmp_path, lineage=False)
    lineage.emit_run(off, "job", [], [], datetime.now(UTC))
    assert not off.lineage_folder.exists()
    assert lineage_environment(off) == {"AIRFLOW__OPENLINEAGE__DISABLED": "True"}
    on = Settings(home=tmp_path)
    transport = json.loads(lineage_environment(on)["AIRFLOW__OPENLINEAGE__TRANSPORT"])
    assert transport == {"type": "file", "log_file_path": str(tmp_path / "lineage" / "airflow.jsonl"), "append": True}
    elsewhere = {"type": "file", "log_file_path": str(tmp_path / "elsewhere.jsonl"), "append": True}
    for key, value in elsewhere.items():
        monkeypatch.setenv(
            f"OPENLINEAGE__TRANSPORT__{key.upper()}", str(value).lower() if value is True else str(value)
        )
    lineage.emit_run(on, "job", [], [], datetime.now(UTC))
    assert len(read(tmp_path / "elsewhere.jsonl")) == 2
    assert not on.lineage_folder.exists()
    assert "AIRFLOW__OPENLINEAGE__TRANSPORT" not in lineage_environment(on)


def test_a_password_of_the_warehouse_is_in_no_event(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path, dbt_target="postgres", postgres_url="postgresql://ada:hunter2@db.example:5433/shop"
    )
    assert lineage.dbt_namespace(settings) == "postgres://db.example:5433"
