"""``kill -9`` of service processes under load: what was acknowledged is in the warehouse once, whatever was killed."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb
import psutil

from benchmarks.measure import say
from benchmarks.service_process import Service, answers, bench_settings, finished, service, started_load
from benchmarks.serving_installation import PLACEMENT, build, event_bodies, recommend_bodies
from ingestion.load import load_pending
from marquee.settings import Settings

KILLS: Final = 20
RATE: Final = 120.0
MOST_REQUESTS: Final = 60_000
BACK_SECONDS: Final = 60.0
VISITORS: Final = 5_000
ASKED: Final = {"visitor_id": "v000001", "placement": PLACEMENT, "n": 1}


@dataclass(slots=True)
class Recovered:
    """Longest times from a kill until a request was answered, and until there were as many workers again."""

    answered: float = 0.0
    complete: float = 0.0


def kills(work: Path, workers: int, count: int = KILLS, seed: int = 7) -> dict[str, Any]:
    """Kill a random worker, or all, ``count`` times while events and requests for slates come; then load the log.

    Returns:
        Plain JSON values: ``kills_lost`` and ``kills_duplicates`` count acknowledged events and impressions.
    """
    settings, chance = bench_settings(work / "kills", max(workers, 2)), random.Random(seed)
    build(settings, 200, VISITORS)
    bodies = mixed_bodies(work, "kill", MOST_REQUESTS)
    recovered = Recovered()
    with service(settings) as ours:
        load = started_load(ours.address, bodies, rate=RATE, once=True, seconds=3_000, answers=work / "kill-answers")
        try:
            for number in range(count):
                time.sleep(chance.uniform(0.5, 2.0))
                _kill_some(ours, settings.service_workers, chance, recovered)
                if (number + 1) % 5 == 0:
                    say(f"  {number + 1} of {count} kills: {recovered}")
            time.sleep(1.0)
        finally:
            load.send_signal(signal.SIGTERM)
            made = finished(load)
    found = reconcile(settings, work / "kill-answers", bodies)
    return {
        "kills": count,
        **{f"kills_{name}": value for name, value in found.items()},
        "kills_statuses": made["statuses"],
        "kills_errors": made["errors"],
        "kills_answer_again_seconds": round(recovered.answered, 2),
        "kills_workers_back_seconds": round(recovered.complete, 2),
    }


def mixed_bodies(work: Path, prefix: str, count: int) -> Path:
    """A file of reports and requests for slates in turn; no event id comes twice."""
    slates = recommend_bodies(work / f"{prefix}-slates", count // 2, visitors=VISITORS)
    reports = event_bodies(work / f"{prefix}-reports", count // 2, 3, prefix)
    file = work / f"{prefix}-bodies"
    with slates.open(encoding="utf-8") as first, reports.open(encoding="utf-8") as second, file.open("w") as out:
        for pair in zip(first, second, strict=True):
            out.writelines(pair)
    return file


def reconcile(settings: Settings, told: Path, bodies: Path) -> dict[str, Any]:
    """Load what the log holds and look for each acknowledged event and impression: missing, and there twice."""
    sent = bodies.read_text(encoding="utf-8").splitlines()
    acknowledged = {one for answer in answers(told) for one in _acknowledged(answer, sent)}
    load_pending(settings)
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        held = dict(connection.execute("select event_id, count(*) from raw.events group by 1").fetchall())
    return {
        "acknowledged": len(acknowledged),
        "lost": sum(one not in held for one in acknowledged),
        "duplicates": sum(count - 1 for count in held.values()),
    }


def _acknowledged(answer: tuple[float, int, int, str], sent: list[str]) -> Iterator[str]:
    """Ids of the events of an answered report, or of the impressions of an answered slate."""
    _, number, status, body = answer
    if status == 202:
        yield from (event["event_id"] for event in json.loads(sent[number].partition(" ")[2]))
    elif status == 200:
        yield from (banner["impression_id"] for banner in json.loads(body)["slate"])


def _kill_some(ours: Service, wanted: int, chance: random.Random, recovered: Recovered) -> None:
    alive = ours.workers()
    victims = alive if chance.random() < 0.4 else [chance.choice(alive)]
    since = time.monotonic()
    for victim in victims:
        victim.kill()
    _until(lambda: ours.ask("/v1/banners/recommend", ASKED)[0] == 200, since)
    recovered.answered = max(recovered.answered, time.monotonic() - since)
    gone = {victim.pid for victim in victims}
    _until(lambda: len(_others(ours.workers(), gone)) >= wanted and ours.is_ready(), since)
    recovered.complete = max(recovered.complete, time.monotonic() - since)


def _others(workers: list[psutil.Process], gone: set[int]) -> list[psutil.Process]:
    return [one for one in workers if one.pid not in gone]


def _until(holds: Any, since: float) -> None:
    while not holds():
        if time.monotonic() - since > BACK_SECONDS:
            raise TimeoutError(f"the service did not come back in {BACK_SECONDS:.0f} s")
        time.sleep(0.05)
