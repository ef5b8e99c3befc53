"""`marquee notify` as a process: it sends, ends when told, and is killed at any moment without losing or mixing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.journeys_delivery import PROGRAM, dispatcher_kills, judged
from marquee.cli import app
from marquee.notifications import PlannedNotification
from marquee.outbox import open_outbox
from marquee.settings import Settings

pytestmark = pytest.mark.tools
CLEAN = ("missing", "twice", "wrong", "unrecorded", "recorded_twice", "not_sent")


def now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def planned(number: int, due: datetime, **other: Any) -> PlannedNotification:
    made = PlannedNotification(
        notification_id=f"n{number:04d}",
        visitor_id=f"v{number:04d}",
        segment="loyal",
        notification_type="price_drop",
        channel="push",
        content_id=None,
        due_at=due,
        hour_bucket=4,
        propensity=0.25,
        policy="p",
        planned_at=due - timedelta(hours=9),
        expires_at=due + timedelta(hours=6),
    )
    return replace(made, **other)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(home=tmp_path / "home")
    settings.log.mkdir(parents=True)
    return settings


def enqueue(settings: Settings, *some: PlannedNotification) -> None:
    with closing(open_outbox(settings)) as outbox:
        outbox.enqueue(some)


def notify(settings: Settings, *words: str) -> Any:
    answer = CliRunner().invoke(app, ["notify", *words, "--home", str(settings.home), "--json"])
    assert answer.exit_code == 0, answer.exception
    return json.loads(answer.stdout)


def start(settings: Settings, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, "notify", *words, "--home", str(settings.home), "--json"]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MARQUEE_")}
    return subprocess.Popen(command, env=inherited, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_once_sends_what_is_due_and_records_it_in_the_stream(settings: Settings) -> None:
    enqueue(settings, *(planned(n, now()) for n in range(45)), planned(99, now() + timedelta(hours=1)))
    done = start(settings, "dispatch", "--once")
    told, errors = done.communicate(timeout=60)
    assert (done.returncode, errors) == (0, "")
    assert json.loads(told) == {"sent": 45, "failed": 0, "dead": 0, "expired": 0, "lost": 0, "recorded": 45}
    lines = (settings.notifications / "push.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["visitor_id"] for line in lines) == [f"v{n:04d}" for n in range(45)]
    (stream,) = (settings.log / "stream").glob("notify-*.jsonl")
    events = [json.loads(line) for line in stream.read_text().splitlines()]
    assert {(event["kind"], event["event_id"]) for event in events} == {
        ("notification_sent", f"n{n:04d}-sent") for n in range(45)
    }


def test_it_waits_for_what_becomes_due_and_ends_gracefully(settings: Settings) -> None:
    process = start(settings, "dispatch")
    try:
        enqueue(settings, planned(1, now()))
        file = settings.notifications / "push.jsonl"
        end = time.monotonic() + 30
        while not (file.exists() and file.read_bytes().endswith(b"\n")) and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        told, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, errors) == (0, "")
    assert json.loads(told)["sent"] == 1
    assert notify(settings, "list")["counts"]["sent"] == 1


def test_the_verb_lists_calls_back_and_tries_again(settings: Settings) -> None:
    enqueue(settings, *(planned(n, now()) for n in range(3)))
    with closing(open_outbox(settings)) as outbox:
        for entry in outbox.claim("a", now(), now() + timedelta(minutes=1), 2):
            outbox.bury(entry.notification.notification_id, "a", "no such address")
    told = notify(settings, "list", "--state", "dead")
    assert {name: count for name, count in told["counts"].items() if count} == {"planned": 1, "dead": 2}
    assert [(one["notification_id"], one["reason"]) for one in told["items"]] == [
        ("n0000", "no such address"),
        ("n0001", "no such address"),
    ]
    assert told["items"][0]["due_at"].endswith("Z")
    assert notify(settings, "retry-dead", "n0001") == {"planned_anew": 1}
    assert notify(settings, "retry-dead") == {"planned_anew": 1}
    assert notify(settings, "cancel", "n0001", "n9999") == {"cancelled": 1}
    shown = CliRunner().invoke(app, ["notify", "list", "--home", str(settings.home)]).stdout
    assert "planned 2   cancelled 1" in shown
    assert "called back by hand" in shown


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["list", "n1"], "marquee notify list takes no ids"),
        (["cancel"], "write it as: marquee notify cancel ID …"),
        (["list", "--state", "gone"], "--state 'gone' is not one of planned, claimed"),
    ],
)
def test_wrong_words_are_said(settings: Settings, words: list[str], told: str) -> None:
    error = CliRunner().invoke(app, ["notify", *words, "--home", str(settings.home)]).exception
    assert str(error).startswith(told)


def test_the_judge_of_kills_sees_each_fault() -> None:
    ours = {f"n{n:04d}": planned(n, datetime(2026, 2, 3, 12)) for n in range(3)}
    bodies = {
        key: json.dumps(
            {n: f"{v.isoformat()}Z" if isinstance(v, datetime) else v for n, v in asdict(one).items()} | {"key": key}
        )
        for key, one in ours.items()
    }
    good = {key: [body.encode()] for key, body in bodies.items()}
    clean = {"missing": 0, "twice": 0, "again": 0, "wrong": 0}
    assert judged(ours, good) == clean
    assert judged(ours, good | {"n0000": good["n0000"] * 3}) == clean | {"again": 2}
    assert judged(ours, {key: good[key] for key in ("n0000", "n0001")}) == clean | {"missing": 1}
    assert judged(ours, good | {"n0000": [bodies["n0001"].encode()]}) == clean | {"wrong": 1, "twice": 1}
    assert judged(ours, good | {"stray": good["n0000"]}) == clean | {"wrong": 1, "twice": 1}


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_any_moment_each_arrives_as_planned(tmp_path: Path, kills: int) -> None:
    found = dispatcher_kills(tmp_path, kills)
    assert {name: found[f"dispatcher_{name}"] for name in CLEAN} == dict.fromkeys(CLEAN, 0)
    assert found["dispatcher_kills"] == kills
