"""What the serving bench measures with: its load counts what a server did, and its reckoning finds what is missing."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from benchmarks.service_process import answers, finished, run_load, started_load
from benchmarks.serving_kills import reconcile
from ingestion.event_stream import EventStream
from marquee.settings import Settings

pytestmark = pytest.mark.tools


@contextmanager
def server(answer: Any) -> Iterator[tuple[str, list[str]]]:
    """A server whose requests ``answer`` answers; its address, and the bodies that it got."""
    got: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body leave together, or the second waits for the first's receipt

        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["content-length"])).decode())
            answer(self, len(got))

        def log_message(self, format: str, *args: Any) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}", got
    finally:
        running.shutdown()
        thread.join()
        running.server_close()


def tell(handler: BaseHTTPRequestHandler, status: int, body: bytes = b'{"a": 1}') -> None:
    handler.send_response(status)
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def bodies(folder: Path, count: int) -> Path:
    file = folder / "bodies"
    file.write_text("".join(f"/ask {json.dumps({'number': number})}\n" for number in range(count)), encoding="utf-8")
    return file


def test_a_load_sends_each_body_once_and_counts_each_status(tmp_path: Path) -> None:
    with server(lambda handler, number: tell(handler, 503 if number % 4 == 0 else 200)) as (address, got):
        told = run_load(address, bodies(tmp_path, 40), once=True, connections=3, answers=tmp_path / "answers")
    assert told["statuses"] == {"200": 30, "503": 10}
    assert (told["requests"], told["errors"]) == (40, {})
    assert sorted(json.loads(body)["number"] for body in got) == list(range(40))
    assert sorted(number for _, number, _, _ in answers(tmp_path / "answers")) == list(range(40))
    assert {body for _, _, _, body in answers(tmp_path / "answers")} == {'{"a": 1}'}


def test_a_load_counts_lost_connections_and_goes_on(tmp_path: Path) -> None:
    def answer(handler: BaseHTTPRequestHandler, number: int) -> None:
        if number == 5:
            handler.close_connection = True
        else:
            tell(handler, 200)

    with server(answer) as (address, _):
        told = run_load(address, bodies(tmp_path, 20), once=True, connections=1)
    assert (told["statuses"], told["errors"]) == ({"200": 19}, {"connection lost": 1})


def test_a_load_at_a_rate_counts_time_from_when_a_request_was_due(tmp_path: Path) -> None:
    def answer(handler: BaseHTTPRequestHandler, number: int) -> None:
        if number == 1:
            time.sleep(0.5)
        tell(handler, 200)

    with server(answer) as (address, _):
        told = run_load(address, bodies(tmp_path, 1_000), seconds=2, rate=50, connections=1)
    assert 90 <= told["requests"] <= 101
    # One connection: the requests due while the first was slow were late, each by what was left of it.
    assert told["max_ms"] > 450
    assert told["p90_ms"] > 100


def test_a_load_ends_when_it_is_told_to(tmp_path: Path) -> None:
    with server(lambda handler, number: tell(handler, 200)) as (address, _):
        load = started_load(address, bodies(tmp_path, 10), seconds=60, rate=20)
        time.sleep(2)
        load.terminate()
        told = finished(load)
    assert 0 < told["requests"] < 200


def test_what_was_acknowledged_and_is_not_stored_is_lost(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", lineage=False)
    seen = {"kind": "page_view", "occurred_at": "2026-01-01T00:00:00Z", "visitor_id": "v"}
    reports = [[seen | {"event_id": f"e{number}-{place}"} for place in range(2)] for number in range(3)]
    sent, told = tmp_path / "sent", tmp_path / "told"
    sent.write_text("".join(f"/v1/events {json.dumps(report)}\n" for report in reports), encoding="utf-8")
    slate = {"slate": [{"impression_id": "shown-0"}]}
    told.write_text(
        f"1.0 0 202 {{}}\n1.0 1 202 {{}}\n1.0 2 503 {{}}\n2.0 7 200 {json.dumps(slate)}\n", encoding="utf-8"
    )
    stream = EventStream(settings.log / "stream", "service-1")
    stream.append([*reports[0], reports[1][0], *reports[2]])
    stream.close()
    found = reconcile(settings, told, sent)
    # The second report's second event and the slate's impression were never written.
    assert found == {"acknowledged": 5, "lost": 2, "duplicates": 0}
