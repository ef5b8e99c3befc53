"""How long a rollback takes, from the command to the last wrong answer, while clients ask the service without pause."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import duckdb
import httpx

from benchmarks.measure import marquee, say
from benchmarks.spoiled import Workshop
from marquee.process import free_port, running_service
from marquee.settings import Settings, load_settings, quiet_environment
from training import registry
from training.pipeline import require_latest_bundle
from training.promotion import promote

RUNS: Final = 5
CLIENTS: Final = 4
QUIET_SECONDS: Final = 3.0
"""How long no answer may carry another bundle before the switch counts as done; workers look once a second."""
MOST_SECONDS: Final = 60.0
ASKER: Final = "bench"
WHY: Final = "to be rolled back by the bench"


@dataclass(frozen=True, slots=True)
class Answer:
    """When it came (monotonic seconds) and from which bundle; None for a request that failed."""

    at: float
    bundle: str | None


@dataclass(slots=True)
class Traffic:
    """Clients that ask in turn, each the next as soon as it has its answer; what they were told."""

    address: str
    askers: list[tuple[str, str]]
    answers: list[Answer] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def ask(self, first: int) -> None:
        """One client's life."""
        with httpx.Client(base_url=self.address, timeout=10) as client:
            number = first
            while not self.stop.is_set():
                bundle = _bundle_of(client, *self.askers[number % len(self.askers)])
                self.answers.append(Answer(time.monotonic(), bundle))
                number += CLIENTS

    def settled(self, bundle: str, since: float) -> float:
        """Seconds from ``since`` to the first answer after which all carry the bundle.

        Raises:
            TimeoutError: some still carry another, or none comes.
        """
        limit = time.monotonic() + MOST_SECONDS
        while time.monotonic() < limit:
            time.sleep(0.1)
            later = [answer for answer in self.answers.copy() if answer.at >= since]
            wrong = max((answer.at for answer in later if answer.bundle not in (bundle, None)), default=since)
            right = [answer.at for answer in later if answer.bundle == bundle and answer.at > wrong]
            if right and time.monotonic() - wrong >= QUIET_SECONDS:
                return min(right) - since
        raise TimeoutError(f"after {MOST_SECONDS:.0f} s the service does not answer with {bundle} alone")


def rollback_seconds(home: Path) -> dict[str, Any]:
    """Promote a twin and roll back, ``RUNS`` times, on a trained installation; its champion is in force afterwards.

    Returns:
        Plain JSON values: ``rollback_seconds``, the longest of all runs, and each run's in ``rollback_each``; the
        ``requests`` that clients made meanwhile, and how many ``failed``: another status than 200, an exception, or
        no banner.
    """
    settings = _settings(home)
    former = registry.champion(settings) or require_latest_bundle(settings)
    promote(settings, former, ASKER, override=WHY)
    shop = Workshop(settings, former)
    twin = shop.with_manifest(lambda manifest: manifest["policy"].update(exploration=0.5))
    with running_service(settings, home / "rollback.log") as address, _traffic(settings, address) as traffic:
        each = [_roll_back(settings, traffic, twin, former) for _ in range(RUNS)]
    return {
        "rollback_seconds": round(max(each), 2),
        "rollback_each": [round(seconds, 2) for seconds in each],
        "rollback_runs": len(each),
        "rollback_requests": len(traffic.answers),
        "rollback_failed": sum(answer.bundle is None for answer in traffic.answers),
    }


def _roll_back(settings: Settings, traffic: Traffic, twin: str, former: str) -> float:
    since = time.monotonic()
    promote(settings, twin, ASKER, override=WHY)
    traffic.settled(twin, since)
    since = time.monotonic()
    done = marquee("rollback", "--reason", "the bench asks for it", home=settings.home)
    seconds = traffic.settled(former, since)
    say(f"  {seconds:.2f} s, of them the command {done.seconds:.2f} s; {len(traffic.answers)} answers so far")
    return seconds


@contextmanager
def _traffic(settings: Settings, address: str) -> Iterator[Traffic]:
    """The clients at work; they have ended afterwards."""
    traffic = Traffic(address, _askers(settings))
    clients = [threading.Thread(target=traffic.ask, args=(number,)) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        yield traffic
    finally:
        traffic.stop.set()
        for client in clients:
            client.join()


def _bundle_of(client: httpx.Client, visitor: str, placement: str) -> str | None:
    """The bundle that answered with a slate; None for anything else."""
    try:
        answer = client.post("/v1/banners/recommend", json={"visitor_id": visitor, "placement": placement, "n": 3})
        told = answer.json() if answer.status_code == 200 else {}
    except (httpx.HTTPError, ValueError):
        return None
    return str(told["bundle"]) if told.get("slate") else None


def _settings(home: Path) -> Settings:
    """Of a service on a free port of this machine, at noon of the day after the log."""
    settings = load_settings(home, service_port=free_port("127.0.0.1", 0), quiet=True)
    os.environ.update(quiet_environment(settings))
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        query = "select date_trunc('day', max(impressed_at)) from marts.training_rows"
        (day,) = connection.execute(query).fetchall()[0]
    noon: datetime = datetime(day.year, day.month, day.day) + timedelta(days=1, hours=12)
    return settings.model_copy(update={"as_of": noon, "service_host": "127.0.0.1"})


def _askers(settings: Settings) -> list[tuple[str, str]]:
    query = (
        "select visitor_id, max(placement_id) from marts.training_rows group by 1 order by count(*) desc, 1 limit 20"
    )
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        rows: list[tuple[str, str]] = connection.execute(query).fetchall()
    return rows
