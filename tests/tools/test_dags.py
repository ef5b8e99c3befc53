"""The DAGs as Airflow sees them: light to import, chained by assets, and skipped when there is nothing to do."""

from __future__ import annotations

import ast
import json
import re
import sqlite3
import subprocess
import sys
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

from marquee import schedule
from marquee.errors import TryAgain, WarehouseBusy
from marquee.process import environment, migrate
from marquee.schedule import given_days, task_outcome
from marquee.settings import ROOT, Settings

pytestmark = pytest.mark.tools

TASKS: dict[str, dict[str, list[str]]] = {
    "ingest_events": {
        "forget_pending": [],
        "read_source": ["forget_pending"],
        "load_log": ["read_source"],
        "check_raw": ["load_log"],
    },
    "transform_events": {
        "build_marts": [],
        "check_training_rows": ["build_marts"],
        "materialize_features": ["check_training_rows"],
    },
    "train_models": {
        "flag_sessions": [],
        "join_features": ["flag_sessions"],
        "train_retrieval": ["join_features"],
        "train_ranker": ["join_features"],
        "assemble_bundle": ["train_ranker", "train_retrieval"],
    },
    "promote_bundle": {"judge_and_promote": []},
    "plan_notifications": {"plan_and_enqueue": []},
    "monitor_bundle": {"watch_champion": []},
}
"""Tasks of each DAG with those they wait for."""
CHAIN = [
    ("ingest_events", "check_raw", schedule.RAW_EVENTS_ASSET, "transform_events"),
    ("transform_events", "materialize_features", schedule.TRAINING_ROWS_ASSET, "train_models"),
    ("train_models", "assemble_bundle", schedule.BUNDLE_ASSET, "promote_bundle"),
]
"""DAG, the task that announces the asset, the asset, the DAG that waits for it."""
PARSE_SECONDS = 5.0

READ_BAG = """
import json, sys, time
from airflow.dag_processing.dagbag import DagBag
started = time.monotonic()
bag = DagBag(sys.argv[1])
seconds = time.monotonic() - started

def described(dag):
    tasks = {
        task.task_id: {
            "upstream": sorted(task.upstream_task_ids),
            "retries": task.retries,
            "retry_seconds": task.retry_delay.total_seconds(),
            "outlets": [asset.name for asset in task.outlets],
            "about": task.python_callable.__doc__,
        }
        for task in dag.tasks
    }
    waits_for = [asset.name for asset in dag.schedule] if isinstance(dag.schedule, list) else []
    schedule = dag.schedule if isinstance(dag.schedule, str) else None
    return {
        "tasks": tasks, "waits_for": waits_for, "schedule": schedule, "catchup": dag.catchup,
        "max_active_runs": dag.max_active_runs, "params": sorted(dag.params), "about": dag.doc_md,
    }

dags = {dag_id: described(dag) for dag_id, dag in bag.dags.items()}
print("FOUND " + json.dumps({"errors": bag.import_errors, "seconds": seconds, "dags": dags}))
"""

IMPORT_FILES = """
import importlib.util, json, sys
import airflow.sdk
before = set(sys.modules)
loaded = {}
for path in sys.argv[1:]:
    spec = importlib.util.spec_from_file_location("dag_file", path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    loaded[path] = sorted({name.partition(".")[0] for name in set(sys.modules) - before})
print("FOUND " + json.dumps(loaded))
"""
FIRST_PARTY = {"ingestion", "expectations", "features", "training", "serving"}
HEAVY = {"tensorflow", "feast", "great_expectations", "dbt", "bentoml", "duckdb"}
ARRAYS = {"numpy", "pandas", "pyarrow", "sklearn", "xgboost", "matplotlib"}


def run(code: str, home: Path, *arguments: str) -> Any:
    """What a fresh process of this installation printed after ``FOUND``."""
    call = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    done = subprocess.run(
        call, env=environment(Settings(home=home)), cwd=home, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-1000:]
    return json.loads(re.findall(r"^FOUND (.*)$", done.stdout, re.MULTILINE)[0])


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found: dict[str, Any] = run(READ_BAG, tmp_path_factory.mktemp("bag"), str(ROOT / "dags"))
    return found


def test_the_dags_are_these_and_parse_fast(bag: dict[str, Any]) -> None:
    assert bag["errors"] == {}
    assert set(bag["dags"]) == set(TASKS) == {path.stem for path in (ROOT / "dags").glob("*.py")}
    assert bag["seconds"] < PARSE_SECONDS


def test_a_broken_dag_file_is_an_import_error(tmp_path: Path) -> None:
    folder = tmp_path / "dags"
    folder.mkdir()
    (folder / "break_things.py").write_text("from airflow.sdk import dag\nraise RuntimeError('broken on purpose')\n")
    found = run(READ_BAG, tmp_path, str(folder))
    assert found["dags"] == {}
    assert ["broken on purpose" in error for error in found["errors"].values()] == [True]


@pytest.mark.parametrize("dag_id", TASKS)
def test_tasks_stand_in_order_and_are_tried_again(bag: dict[str, Any], dag_id: str) -> None:
    dag = bag["dags"][dag_id]
    assert {name: task["upstream"] for name, task in dag["tasks"].items()} == TASKS[dag_id]
    for name, task in dag["tasks"].items():
        assert task["retries"] >= 1, name
        assert 0 < task["retry_seconds"] <= 600, name
        assert task["about"], name
    # One run at a time, none for the past: the warehouse has one writer, and a run takes all there is.
    assert (dag["max_active_runs"], dag["catchup"]) == (1, False)
    assert dag["about"]


def test_assets_chain_the_dags(bag: dict[str, Any]) -> None:
    outlets = [
        (dag_id, name, asset)
        for dag_id, dag in bag["dags"].items()
        for name, task in dag["tasks"].items()
        for asset in task["outlets"]
    ]
    assert sorted(outlets) == sorted((dag_id, task, asset) for dag_id, task, asset, _ in CHAIN)
    waiting = {dag_id: dag["waits_for"] for dag_id, dag in bag["dags"].items()}
    expected = {"ingest_events": [], "monitor_bundle": []} | {after: [asset] for _, _, asset, after in CHAIN}
    assert waiting == expected | {"plan_notifications": [schedule.TRAINING_ROWS_ASSET]}
    assert [bag["dags"][name]["schedule"] for name in ("ingest_events", "monitor_bundle")] == ["@hourly"] * 2
    assert bag["dags"]["ingest_events"]["params"] == ["path", "source"]
    assert bag["dags"]["transform_events"]["params"] == ["from_date", "full_refresh", "to_date"]


def test_dag_files_load_nothing_that_airflow_does_not(tmp_path: Path) -> None:
    files = [str(path) for path in sorted((ROOT / "dags").glob("*.py"))]
    loaded = run(IMPORT_FILES, tmp_path, *files)
    assert len(loaded) == len(TASKS)
    for path, roots in loaded.items():
        assert "marquee" in roots, path
        assert set(roots) & (FIRST_PARTY | HEAVY | ARRAYS) == set(), path


def test_on_an_empty_installation_a_run_skips_and_says_why(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    migrate(settings)
    airflow = str(Path(sys.executable).with_name("airflow"))
    done = subprocess.run(
        [airflow, "dags", "test", "transform_events"],
        env=environment(settings),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    log = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    assert done.returncode == 0, log[-1000:]
    assert "no admitted batch to transform yet" in log
    assert "state=success" in log
    assert "new_state=skipped" in log
    assert not re.search(r"new_state=(success|failed|up_for_retry)", log)
    assert not settings.warehouse.exists()
    states = task_states(settings)
    assert states == dict.fromkeys(TASKS["transform_events"], "skipped")
    events = [json.loads(line) for line in (settings.lineage_folder / "airflow.jsonl").read_text().splitlines()]
    of_task = [one["eventType"] for one in events if one["job"]["name"] == "transform_events.build_marts"]
    assert of_task == ["START", "COMPLETE"]
    for one in events:
        assert {"eventType", "eventTime", "run", "job", "producer", "schemaURL"} <= set(one)
        assert "sourceCode" not in one["job"]["facets"]


@pytest.mark.parametrize(
    ("first", "last", "error"),
    [
        ("2026-02-30", "", "from_date is '2026-02-30', which is no day"),
        ("", "tomorrow", "to_date is 'tomorrow', which is no day"),
        ("2026-01-02", "2026-01-01", "from_date 2026-01-02 is later than to_date 2026-01-01"),
    ],
)
def test_wrong_days_fail_for_good(first: str, last: str, error: str) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    with pytest.raises(AirflowFailException, match=error), task_outcome():
        given_days(first, last)


def test_a_store_that_is_down_for_a_while_is_tried_again(tmp_path: Path) -> None:
    """As a busy warehouse is; what a person must repair is not."""
    from airflow.sdk.exceptions import AirflowFailException
    from pydantic import SecretStr

    from features.store import OnlineFeatures

    url = SecretStr("redis://127.0.0.1:1/0")
    online = OnlineFeatures(Settings(home=tmp_path, online_store="valkey", valkey_url=url))
    with pytest.raises(TryAgain, match=r"^Valkey at 127\.0\.0\.1:1: "), task_outcome():
        online.visitors(["v1"], datetime(2026, 1, 1))
    with pytest.raises(TryAgain), task_outcome():
        raise WarehouseBusy("another process writes")
    with pytest.raises(AirflowFailException, match="valkey_url must be set"), task_outcome():
        OnlineFeatures(Settings(home=tmp_path, online_store="valkey"))


def test_days_left_open_are_none() -> None:
    assert given_days("", None) == (None, None)
    assert given_days("2026-01-01", "2026-01-01") == (date(2026, 1, 1), date(2026, 1, 1))


def test_no_task_reads_settings_where_a_bad_one_would_be_tried_again() -> None:
    found = 0
    for path in sorted((ROOT / "dags").glob("*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef) or function.name == path.stem:
                continue
            inside = [node for block in ast.walk(function) if isinstance(block, ast.With) for node in ast.walk(block)]
            calls = [
                n for n in ast.walk(function) if isinstance(n, ast.Call) and "load_settings" in ast.unparse(n.func)
            ]
            assert [call.lineno for call in calls if call not in inside] == [], path.name
            found += len(calls)
    assert found >= 8


def test_a_refused_batch_stops_what_comes_after_and_the_asset_is_not_announced(tmp_path: Path) -> None:
    """The ingest DAG on a file whose every banner is unknown: its gate fails once, for good, and announces nothing."""
    shop = tmp_path / "shop"
    write_shop(shop)
    settings = Settings(home=tmp_path / "home")
    migrate(settings)
    airflow = str(Path(sys.executable).with_name("airflow"))
    conf = json.dumps({"source": "marquee", "path": str(shop)})
    subprocess.run(
        [airflow, "dags", "test", "ingest_events", "--conf", conf],
        env=environment(settings),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    done = dict.fromkeys(("forget_pending", "read_source", "load_log"), "success")
    assert task_states(settings) == done | {"check_raw": "failed"}
    with sqlite3.connect(settings.home / "airflow" / "airflow.db") as connection:
        assert connection.execute("select count(*) from asset_event").fetchone() == (0,)
    (reason,) = (settings.quarantine).glob("*/reason.txt")
    assert "unknown_banner_share" in reason.read_text()
    lineage = [json.loads(line) for line in (settings.lineage_folder / "airflow.jsonl").read_text().splitlines()]
    ended = {one["job"]["name"]: one["eventType"] for one in lineage}
    assert ended["ingest_events.check_raw"] == "FAIL"


def write_shop(folder: Path) -> None:
    """Ten impressions of banners that no catalogue has, as a file of events."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    at = [datetime(2026, 1, 1, 12, minute) for minute in range(10)]
    names = [f"i{number}" for number in range(10)]
    columns = {"event_id": names, "kind": ["impression"] * 10, "occurred_at": at, "visitor_id": ["v1"] * 10}
    columns |= {"banner_id": ["b9"] * 10, "placement_id": ["home"] * 10, "impression_id": names}
    pq.write_table(pa.table(columns), folder / "events.parquet")


def task_states(settings: Settings) -> dict[str, str]:
    """State of each task of the only run, as Airflow's own database has it."""
    with sqlite3.connect(settings.home / "airflow" / "airflow.db") as connection:
        rows = connection.execute("select task_id, state from task_instance").fetchall()
    assert len(rows) == len({task for task, _ in rows})
    return dict(rows)
