"""Load on an HTTP service from a process of its own: ``python -m benchmarks.load --url URL --bodies FILE --seconds S``.

Keep-alive HTTP/1.1 over asyncio's protocols on uvloop: requests are encoded before the clock starts, and of an answer
nothing is looked at but its status and its length. stdout is one JSON object. Each line of ``FILE`` is a path, a space
and a JSON body. Without ``--rate`` every connection asks again as soon as it has its answer; with it requests are due
at even moments, and their time counts from when they were due.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
import time
from array import array
from collections import Counter, deque
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, Final, TextIO
from urllib.parse import urlsplit

import numpy as np
import uvloop

RECONNECT_SECONDS: Final = 0.05
TICK_SECONDS: Final = 0.002
PATIENCE_SECONDS: Final = 10.0
"""How long after the end an answer is still waited for."""
END: Final = b"\r\n\r\n"


class Load:
    """The requests to make, what is due, and what came of those made."""

    def __init__(self, requests: list[bytes], rate: float, once: bool, answers: TextIO | None) -> None:
        self.requests, self.answers = requests, answers
        self.is_open = rate > 0
        # From anywhere, so that one load after the other does not ask for the same few visitors.
        self.numbers: Iterator[int] = iter(range(len(requests))) if once else count(random.randrange(len(requests)))
        self.is_over = False
        self.due: deque[float] = deque()
        self.idle: deque[Connection] = deque()
        self.statuses: Counter[int] = Counter()
        self.errors: Counter[str] = Counter()
        self.seconds = array("d")
        self.in_flight = 0

    def next(self, connection: Connection) -> None:
        """Have an idle connection ask, or wait for what is due."""
        if self.is_over:
            return
        if not self.is_open:
            self._send(connection, time.perf_counter())
        elif self.due:
            self._send(connection, self.due.popleft())
        else:
            self.idle.append(connection)

    def now_due(self, moment: float) -> None:
        """One more request of an open load."""
        self.due.append(moment)
        while self.idle and self.due:
            connection = self.idle.popleft()
            if connection.transport is not None:
                self._send(connection, self.due.popleft())

    def _send(self, connection: Connection, due: float) -> None:
        number = next(self.numbers, None)
        if number is None:
            self.is_over = True
            return
        self.in_flight += 1
        connection.ask(number, self.requests[number % len(self.requests)], due)


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request on its way; opened again whenever it is lost."""

    def __init__(self, load: Load, host: str, port: int) -> None:
        self._load, self._host, self._port = load, host, port
        self.transport: Any = None
        self._number: int | None = None
        self._due = 0.0
        self._buffer = b""
        self._length: int | None = None

    def ask(self, number: int, request: bytes, due: float) -> None:
        """Send a request."""
        self._number, self._due, self._buffer, self._length = number, due, b"", None
        self.transport.write(request)

    def connection_made(self, transport: Any) -> None:
        """Ask at once."""
        self.transport = transport
        self._load.next(self)

    def data_received(self, data: bytes) -> None:
        """Take part of an answer; with the last part ask again."""
        self._buffer += data
        if self._length is None:
            end = self._buffer.find(END)
            if end < 0:
                return
            self._length = _whole_length(self._buffer[:end].lower(), end + len(END))
        if len(self._buffer) >= self._length or (self._length == sys.maxsize and self._buffer.endswith(b"0" + END)):
            self._answered()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count what was on its way as an error, and connect again after a moment."""
        self.transport = None
        if self._number is not None:
            self._number = None
            self._load.in_flight -= 1
            self._load.errors["connection lost"] += 1
        if not self._load.is_over:
            asyncio.get_running_loop().call_later(RECONNECT_SECONDS, lambda: asyncio.ensure_future(self.connect()))

    async def connect(self) -> None:
        """Open the connection; try again while the service is away."""
        while not self._load.is_over:
            try:
                await asyncio.get_running_loop().create_connection(lambda: self, self._host, self._port)
            except OSError:
                self._load.errors["no connection"] += 1
                await asyncio.sleep(RECONNECT_SECONDS)
            else:
                return

    def _answered(self) -> None:
        load, number, status = self._load, self._number, int(self._buffer[9:12])
        load.seconds.append(time.perf_counter() - self._due)
        load.statuses[status] += 1
        load.in_flight -= 1
        if load.answers is not None:
            body = self._buffer[self._buffer.find(END) + len(END) :].decode("utf-8", "replace").replace("\n", " ")
            load.answers.write(f"{time.time():.6f} {number} {status} {body}\n")
        self._number = None
        if b"\r\nconnection: close" in self._buffer[: self._buffer.find(END)].lower():
            self.transport.close()
        else:
            load.next(self)


def _whole_length(head: bytes, start: int) -> int:
    """Bytes of the answer, its head included; the largest number there is for one sent in chunks."""
    place = head.find(b"\r\ncontent-length:")
    if place < 0:
        return sys.maxsize if b"\r\ntransfer-encoding:" in head else start
    return start + int(head[place + 17 :].split(b"\r\n", 1)[0])


async def run(load: Load, host: str, port: int, connections: int, seconds: float, rate: float) -> dict[str, Any]:
    """Make the requests for that long, or until SIGTERM; the figures."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: setattr(load, "is_over", True))
    for _ in range(connections):
        asyncio.ensure_future(Connection(load, host, port).connect())  # noqa: RUF006 - they end with the loop
    since, cpu = time.perf_counter(), time.process_time()
    made = 0
    while (now := time.perf_counter()) < since + seconds and not load.is_over:
        while rate and made < (now - since) * rate:
            load.now_due(since + made / rate)
            made += 1
        await asyncio.sleep(TICK_SECONDS if rate else 0.01)
    load.is_over = True
    took, cpu = time.perf_counter() - since, time.process_time() - cpu
    answered = len(load.seconds)
    limit = time.perf_counter() + PATIENCE_SECONDS
    while load.in_flight and time.perf_counter() < limit:
        await asyncio.sleep(0.01)
    if load.in_flight:
        load.errors["no answer"] += load.in_flight
    return figures(load, answered, took) | {"cpu_us": round(1e6 * cpu / max(answered, 1), 1)}


def figures(load: Load, answered: int, seconds: float) -> dict[str, Any]:
    """What came of all requests; the rate is of those answered before the end."""
    times = np.array(load.seconds) * 1e3
    p50, p90, p99 = np.percentile(times, [50, 90, 99]).round(3).tolist() if len(times) else (None, None, None)
    return {
        "requests": len(times),
        "seconds": round(seconds, 3),
        "per_second": round(answered / seconds, 1),
        "statuses": {str(status): number for status, number in sorted(load.statuses.items())},
        "errors": dict(load.errors),
        "p50_ms": p50,
        "p90_ms": p90,
        "p99_ms": p99,
        "max_ms": round(float(times.max()), 3) if len(times) else None,
    }


def encoded(file: Path, host: str, path: str | None = None) -> list[bytes]:
    """The file's requests as bytes to send; ``path`` instead of the lines' own."""
    requests = []
    for line in file.read_bytes().splitlines():
        own, _, body = line.partition(b" ")
        target = path.encode() if path else own
        head = b"POST %b HTTP/1.1\r\nHost: %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        requests.append(head % (target, host.encode(), len(body)) + body)
    return requests


def main() -> None:
    """Run the load that the command line describes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--url", required=True, help="of the service, such as http://127.0.0.1:3000")
    parser.add_argument("--bodies", type=Path, required=True)
    parser.add_argument("--path", help="ask here, whatever the bodies' lines say")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second; 0 for as many as are answered")
    parser.add_argument("--once", action="store_true", help="send each body once and end with the last")
    parser.add_argument("--answers", type=Path, help="file of all answers: time, body's number, status, body")
    asked = parser.parse_args()
    address = urlsplit(asked.url)
    requests = encoded(asked.bodies, address.netloc, asked.path)
    answers = asked.answers.open("w", encoding="utf-8") if asked.answers else None
    load = Load(requests, asked.rate, asked.once, answers)
    whole = run(load, address.hostname or "", address.port or 80, asked.connections, asked.seconds, asked.rate)
    sys.stdout.write(json.dumps(uvloop.run(whole)) + "\n")
    if answers:
        answers.close()


if __name__ == "__main__":
    main()
