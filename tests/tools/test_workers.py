"""Several worker processes: they measure together, tell a collector of requests, and end without failing one."""

from __future__ import annotations

import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from marquee.process import environment
from marquee.settings import Settings

pytestmark = pytest.mark.tools
EVENT = {"kind": "page_view", "occurred_at": "2026-02-02T11:59:00Z", "visitor_id": "v"}


def test_workers_measure_together_and_tell_a_collector(
    promoted: Callable[[Path], Settings],
    serving: Callable[[Settings], AbstractContextManager[Any]],
    tmp_path: Path,
) -> None:
    told: list[tuple[str, bytes]] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *words: Any) -> None:
            pass

    collector = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    chosen = {"service_workers": 2, "traces_url": f"http://127.0.0.1:{collector.server_port}/v1/traces"}
    with serving(promoted(tmp_path).model_copy(update=chosen)) as served:
        writers: set[str] = set()
        limit = time.monotonic() + 60
        sent = 0
        while len(writers) < 2:
            assert time.monotonic() < limit, "one of the workers never answered"
            with httpx.Client(base_url=served.client.base_url) as client:  # a connection of its own, to any worker
                assert client.post("/v1/events", json=EVENT | {"event_id": f"e{sent}"}).status_code == 202
            sent += 1
            files = (served.settings.log / "stream").glob("service-*.jsonl")
            writers = {file.stem for file in files if file.stat().st_size}
        page = served.client.get("/metrics").text
        counted = re.search(r'marquee_http_seconds_count\{route="/v1/events",status="202"\} ([\d.]+)', page)
        assert counted is not None
        assert float(counted[1]) == sent
        assert f'marquee_events_total{{outcome="accepted"}} {sent}.0' in page
        limit = time.monotonic() + 20
        while not told:
            assert time.monotonic() < limit, "no trace arrived"
            time.sleep(0.1)
    collector.shutdown()
    assert told[0][0] == "/v1/traces"
    assert b"marquee" in b"".join(body for _, body in told)


def test_a_service_that_is_told_to_end_answers_what_it_was_asked(
    promoted: Callable[[Path], Settings], tmp_path: Path
) -> None:
    """SIGTERM to ``marquee serve``, with bodies under way: each is answered, what was acknowledged is kept, exit 0."""
    settings = promoted(tmp_path / "home")
    command = [str(Path(sys.executable).with_name("marquee")), "serve", "--home", str(settings.home)]
    command += ["--port", str(settings.service_port), "--as-of", "2026-02-02T12:00:00"]
    with (tmp_path / "service.log").open("wb") as log:
        service = subprocess.Popen(command, env=environment(settings), stdout=log, stderr=log)
    try:
        wait_until_ready(settings, service)
        statuses, acknowledged = in_flight_at_the_end(settings, service)
        assert service.wait(30) == 0
    finally:
        service.kill()
    assert statuses == [202] * len(statuses)
    files = (settings.log / "stream").glob("service-*.jsonl")
    written = {json.loads(line)["event_id"] for file in files for line in file.read_text().splitlines()}
    assert acknowledged <= written
    lines = (tmp_path / "service.log").read_text().splitlines()
    logged = [json.loads(line) for line in lines if line.startswith('{"at"')]
    assert sum(line.get("route") == "/v1/events" for line in logged) == len(acknowledged), "no line is lost at the end"


def wait_until_ready(settings: Settings, service: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + 90
    while time.monotonic() < limit and service.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{settings.service_port}/readyz", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError("the service was not ready")


def in_flight_at_the_end(settings: Settings, service: subprocess.Popen[bytes]) -> tuple[list[int], set[str]]:
    """Twenty requests whose bodies are half sent when the service is told to end."""
    ids = [f"drain-{number}" for number in range(20)]
    connections = []
    for event_id in ids:
        body = json.dumps(EVENT | {"event_id": event_id}).encode()
        head = "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}"
        connection = socket.create_connection(("127.0.0.1", settings.service_port))
        connection.sendall(head.encode() + b"\r\n\r\n" + body[:30])
        connections.append((connection, body[30:]))
    time.sleep(0.3)  # they reach the worker
    os.kill(service.pid, signal.SIGTERM)
    time.sleep(0.3)

    def finish(one: tuple[socket.socket, bytes]) -> int:
        connection, rest = one
        with connection:
            connection.settimeout(10)
            connection.sendall(rest)
            return int((connection.recv(4096) or b"HTTP/1.1 000 ").split(b" ")[1])

    with ThreadPoolExecutor(20) as pool:
        statuses = list(pool.map(finish, connections))
    return statuses, {one for one, status in zip(ids, statuses, strict=True) if status == 202}
