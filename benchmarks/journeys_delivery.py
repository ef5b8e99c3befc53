"""``kill -9`` of dispatchers while they send: each notification arrives as planned, and once where keys are kept."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import duckdb

from benchmarks.measure import say
from ingestion.load import load_pending
from marquee.notifications import CHANNELS, PlannedNotification, notification_id
from marquee.outbox import Outbox, open_outbox
from marquee.settings import Settings

EACH_KILL: Final = 20
"""Notifications planned for each kill."""
DISPATCHERS: Final = 2
TIMEOUT: Final = 0.25
"""Seconds, so that what a killed one held is free again soon."""
WAIT_SECONDS: Final = 60.0
PROGRAM: Final = "import sys; from marquee.cli import main; sys.argv[0] = 'marquee'; main()"


@dataclass
class Receiver:
    """A web hook on loopback; remembers every body that came, by key."""

    seed: int
    bodies: dict[str, list[bytes]] = field(default_factory=dict)
    count: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, key: str, body: bytes) -> None:
        """Keep one."""
        with self.lock:
            self.bodies.setdefault(key, []).append(body)
            self.count += 1


def dispatcher_kills(work: Path, kills: int, seed: int = 7) -> dict[str, Any]:
    """Kill one of two dispatchers ``kills`` times while they send by web hook and to a file; then let them finish.

    Returns:
        Plain JSON values. ``dispatcher_missing``: notifications that never came. ``dispatcher_twice``: taken twice by a
        receiver that keeps keys. ``dispatcher_again``: came again to one that does not, with the same key.
        ``dispatcher_wrong``: came with another one's content. ``dispatcher_unrecorded`` and
        ``dispatcher_recorded_twice``: of the events in the warehouse.
    """
    settings, chance, receiver = Settings(home=work / "dispatcher"), random.Random(seed), Receiver(seed)
    settings.log.mkdir(parents=True)
    planned = {one.notification_id: one for one in _planned(max(kills, 1) * EACH_KILL)}
    started = time.monotonic()
    with closing(open_outbox(settings)) as outbox, _serving(receiver) as url:
        outbox.enqueue(planned.values())
        _kill_all(settings, url, receiver, kills, chance)
        with _dispatchers(settings, url):
            _until(lambda: not _waiting(outbox), "not all was sent")
        counts = outbox.counts()
    arrived = {key: list(bodies) for key, bodies in receiver.bodies.items()}
    for line in _lines(settings.notifications / "email.jsonl"):
        arrived.setdefault(_key(line), []).append(line)
    return {
        "dispatcher_kills": kills,
        "dispatcher_planned": len(planned),
        **{f"dispatcher_{name}": value for name, value in judged(planned, arrived).items()},
        **{f"dispatcher_{name}": value for name, value in _recorded(settings, planned).items()},
        "dispatcher_not_sent": len(planned) - counts["sent"],
        "dispatcher_seconds": round(time.monotonic() - started, 1),
    }


def judged(planned: dict[str, PlannedNotification], arrived: dict[str, list[bytes]]) -> dict[str, int]:
    """What came, against what was planned."""
    # What a receiver takes that keeps keys; each visitor was planned one.
    kept = Counter(str(json.loads(several[0])["visitor_id"]) for several in arrived.values())
    bodies = [(key, body) for key, several in arrived.items() for body in several]
    return {
        "missing": len(planned.keys() - arrived.keys()),
        "twice": sum(count - 1 for count in kept.values()),
        "again": len(bodies) - len(arrived),
        "wrong": sum(not _is_as_planned(planned, key, body) for key, body in bodies),
    }


def _is_as_planned(planned: dict[str, PlannedNotification], key: str, body: bytes) -> bool:
    told = json.loads(body)
    wanted = asdict(planned[key]) if key in planned else {}
    moments = {name: f"{value.isoformat()}Z" for name, value in wanted.items() if isinstance(value, datetime)}
    wanted |= moments | {"key": key}
    return bool(wanted) and all(told.get(name) == value for name, value in wanted.items())


def _kill_all(settings: Settings, url: str, receiver: Receiver, kills: int, chance: random.Random) -> None:
    """Each time once some more came, so that kills fall among sendings and not before the first."""
    with _dispatchers(settings, url) as ours:
        for number in range(kills):
            wanted = receiver.count + chance.randint(1, 12)
            _until(lambda wanted=wanted: receiver.count >= wanted, "nothing is sent")
            time.sleep(chance.uniform(0, 0.02))
            victim = chance.randrange(len(ours))
            ours[victim].kill()
            ours[victim].wait()
            ours[victim] = _dispatcher(settings, url)
            if (number + 1) % 10 == 0:
                say(f"  {number + 1} of {kills} dispatchers killed, {receiver.count} came")


@contextmanager
def _dispatchers(settings: Settings, url: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    ours = [_dispatcher(settings, url) for _ in range(DISPATCHERS)]
    try:
        yield ours
    finally:
        for one in ours:
            one.terminate()
        codes = [one.wait(WAIT_SECONDS) for one in ours]
    if set(codes) - {0, -signal.SIGTERM}:  # one that had only just begun ends by the signal
        raise RuntimeError(f"dispatchers that were told to end did so with {codes}")


def _dispatcher(settings: Settings, url: str) -> subprocess.Popen[bytes]:
    chosen = {"MARQUEE_NOTIFY_WEBHOOK_URL": url, "MARQUEE_NOTIFY_TIMEOUT": str(TIMEOUT)}
    chosen |= {"MARQUEE_NOTIFY_PUSH": "webhook", "MARQUEE_NOTIFY_WEBHOOK": "webhook"}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MARQUEE_")}
    command = [sys.executable, "-c", PROGRAM, "notify", "dispatch", "--home", str(settings.home)]
    return subprocess.Popen(
        command, env=inherited | chosen, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


@contextmanager
def _serving(receiver: Receiver) -> Iterator[str]:
    class Hook(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(length := int(self.headers["content-length"]))
            if len(body) < length:  # its sender was killed before it had said all
                self.close_connection = True
                return
            receiver.take(self.headers["idempotency-key"], body)
            time.sleep(0.003)  # so that kills find it between taking and answering, too
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Say nothing of a dispatcher that was killed."""

    server = Quiet(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/notify"
    finally:
        server.shutdown()
        server.server_close()


def _planned(count: int) -> Iterator[PlannedNotification]:
    now = datetime.now(UTC).replace(tzinfo=None, microsecond=0)
    for number in range(count):
        visitor, kind, due = f"v{number:06d}", "win_back_offer", now - timedelta(seconds=count - number)
        yield PlannedNotification(
            notification_id=notification_id(visitor, kind, due),
            visitor_id=visitor,
            segment="at_risk",
            notification_type=kind,
            channel=CHANNELS[number % len(CHANNELS)],
            content_id=f"b{number}",
            due_at=due,
            hour_bucket=number % 8,
            propensity=0.25,
            policy="bench",
            planned_at=now - timedelta(days=1),
            expires_at=now + timedelta(hours=6),
        )


def _waiting(outbox: Outbox) -> bool:
    counts = outbox.counts()
    return bool(counts["planned"] + counts["claimed"] + counts["failed"])


def _recorded(settings: Settings, planned: dict[str, PlannedNotification]) -> dict[str, int]:
    load_pending(settings)
    query = "select notification_id, visitor_id from raw.events where kind = 'notification_sent'"
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        found = connection.execute(query).fetchall()
    counts = Counter(key for key, _ in found)
    right = {key for key, visitor in found if key in planned and planned[key].visitor_id == visitor}
    return {"unrecorded": len(planned.keys() - right), "recorded_twice": len(found) - len(counts)}


def _key(body: bytes) -> str:
    return str(json.loads(body)["key"])


def _lines(file: Path) -> list[bytes]:
    """The whole lines of a file; of one that was cut off by a kill, nothing."""
    found = []
    for line in file.read_bytes().split(b"\n"):
        try:
            json.loads(line)
        except ValueError:
            continue
        found.append(line)
    return found


def _until(holds: Any, told: str) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"{told} in {WAIT_SECONDS:.0f} s")
        time.sleep(0.005)
