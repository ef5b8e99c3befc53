"""Reports of events to the real service: what was acknowledged is in the warehouse, once, whatever happens."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from ingestion.event_stream import parse_event
from marquee import contract
from marquee.settings import Settings
from serving.schemas import Event, Events

pytestmark = pytest.mark.tools
EVENTS = "/v1/events"
AT = "2026-02-02T11:59:00Z"
NOON = datetime(2026, 2, 2, 12)


def view(event_id: str, **other: Any) -> dict[str, Any]:
    return {"event_id": event_id, "kind": "page_view", "occurred_at": AT, "visitor_id": "v000001"} | other


def test_an_empty_optional_id_is_none() -> None:
    ids = ("customer_id", "session_id", "product_id", "banner_id", "placement_id", "request_id", "impression_id")
    (row,) = Events.model_validate(view("e") | dict.fromkeys((*ids, "order_id"), "")).rows()
    assert [row[name] for name in (*ids, "order_id")] == [None] * 8
    (row,) = Events.model_validate(view("e") | dict.fromkeys((*ids, "order_id"), "i" * 200)).rows()
    assert {row[name] for name in (*ids, "order_id")} == {"i" * 200}


def test_events_are_accepted_one_by_one_and_in_lists_and_count_once(served: Any) -> None:
    one = served.client.post(EVENTS, json=view("one"))
    assert (one.status_code, one.json()) == (202, {"accepted": 1, "rejected": []})
    many = served.client.post(
        EVENTS, json=[view("one"), view("two"), view("three", occurred_at="2026-02-02T13:59:00+02:00")]
    )
    assert (many.status_code, many.json()) == (202, {"accepted": 3, "rejected": []})
    assert served.client.post(EVENTS, json=[]).json() == {"accepted": 0, "rejected": []}
    assert served.loaded_times(["one", "two", "three", "x", "good"]) == {"one": 1, "two": 1, "three": 1}
    served.client.post(EVENTS, json=view("one"))
    assert served.loaded_times(["one"]) == {"one": 1}
    with duckdb.connect(str(served.settings.warehouse), read_only=True) as connection:
        query = "select distinct occurred_at from raw.events where event_id in ('one', 'two', 'three')"
        assert connection.execute(query).fetchall() == [(datetime(2026, 2, 2, 11, 59),)]


numbers = st.integers(-2, 2**66) | st.floats(-1, width=32) | st.sampled_from([2**63 - 1, 2**63, float("inf")])
VALUES = {"string": st.text(max_size=4), "int": numbers, "float": numbers}
needed = {"event_id": "e", "visitor_id": "v", "product_id": "p", "banner_id": "b", "placement_id": "p"}
optional = {
    column.name: st.none() | VALUES[column.type]
    for column in contract.EVENTS.columns
    if column.name not in (*needed, "kind", "occurred_at", "device")
}
moments = st.datetimes(datetime(1989, 12, 30), datetime(2101, 1, 2), timezones=st.timezones() | st.none())


@given(st.sampled_from(contract.EVENT_KINDS), moments, st.fixed_dictionaries({}, optional=optional))
@example("other", datetime(1990, 1, 1, tzinfo=timezone(timedelta(hours=14))), {})
@example("other", datetime(2100, 12, 31, 23, tzinfo=timezone(timedelta(hours=-5))), {})
@example("other", NOON, {"position": 2**63})
@example("other", NOON, {"quantity": float("inf")})
def test_what_the_api_accepts_the_loader_takes(kind: str, at: datetime, other: dict[str, Any]) -> None:
    """An acknowledged event may not be set aside later, when nobody is there to hear why."""
    body = json.dumps(needed | {"kind": kind, "impression_id": "i", "occurred_at": at.isoformat()} | other)
    try:
        event = Event.model_validate_json(body)
    except ValidationError:
        return
    assert parse_event(event.line())["occurred_at"] == event.row()["occurred_at"]


def test_what_was_acknowledged_survives_the_death_of_the_service(served: Any) -> None:
    """Workers are killed while eight clients send; each 202 that came back is one event in the warehouse."""
    acknowledged: list[str] = []
    stop = threading.Event()

    def send(client_number: int) -> None:
        with httpx.Client(base_url=served.client.base_url, timeout=5) as client:
            for number in range(10_000):
                if stop.is_set():
                    return
                event_id = f"kill-{client_number}-{number}"
                try:
                    if client.post(EVENTS, json=view(event_id)).status_code == 202:
                        acknowledged.append(event_id)
                except httpx.TransportError:
                    time.sleep(0.05)  # the worker is dead; its successor takes the next one

    def wait_for(count: int) -> None:
        limit = time.monotonic() + 90
        while len(acknowledged) < count and time.monotonic() < limit:
            time.sleep(0.002)
        assert len(acknowledged) >= count, "the service did not come back"

    with ThreadPoolExecutor(8) as clients:
        sending = [clients.submit(send, number) for number in range(8)]
        try:
            wait_for(100)
            killed = worker_pids(served.settings)
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
            before = len(acknowledged)
            wait_for(before + 100)
        finally:
            stop.set()
        assert all(future.result() is None for future in sending)
    assert killed
    assert not set(killed) & set(worker_pids(served.settings))
    assert served.loaded_times(acknowledged) == dict.fromkeys(acknowledged, 1)


def worker_pids(settings: Settings) -> list[int]:
    """The living workers of this installation's service: each streams to a file that bears its process id."""
    pids = [int(file.stem.removeprefix("service-")) for file in (settings.log / "stream").glob("service-*.jsonl")]
    return [pid for pid in pids if "serving.service" in command_line(pid)]


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return ""
