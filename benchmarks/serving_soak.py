"""Ten minutes at half of what the service can do: its memory and its open files must not grow."""

from __future__ import annotations

import statistics
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.measure import say
from benchmarks.service_process import Service, bench_settings, finished, run_load, service, started_load
from benchmarks.serving_installation import build
from benchmarks.serving_kills import mixed_bodies

SECONDS: Final = 600.0
WARM_SHARE, WARM_SECONDS = 0.1, 60.0
"""The first sample is taken after a minute, or a tenth of a shorter soak."""
WINDOW_SECONDS: Final = 10.0
PROBE_SECONDS: Final = 5.0
BODIES: Final = 40_000


@dataclass(frozen=True, slots=True)
class Sample:
    """What the service's processes held together at one moment."""

    at: float
    pids: frozenset[int]
    resident_mb: float
    descriptors: int


def soak(work: Path, workers: int, seconds: float = SECONDS) -> dict[str, Any]:
    """Slates and reports at half the rate that was measured just before, for ``seconds``."""
    settings = bench_settings(work / "soak", workers)
    build(settings, 200)
    bodies = mixed_bodies(work, "soak", BODIES)
    with service(settings) as ours:
        rate = run_load(ours.address, bodies, seconds=PROBE_SECONDS)["per_second"] / 2
        say(f"  {rate:.0f} requests a second for {seconds:.0f} s")
        since = time.monotonic()
        load = started_load(ours.address, bodies, rate=rate, seconds=seconds, connections=64)
        samples = []
        while load.poll() is None:
            samples.append(_sample(ours, time.monotonic() - since))
            time.sleep(1.0)
        made = finished(load)
    warm = min(WARM_SECONDS, WARM_SHARE * seconds)
    first = _window(samples, warm, warm + WINDOW_SECONDS)
    last = _window(samples, seconds - WINDOW_SECONDS, seconds)
    memory = [statistics.median(one.resident_mb for one in part) for part in (first, last)]
    files = [statistics.median(one.descriptors for one in part) for part in (first, last)]
    return {
        "soak_seconds": round(seconds),
        "soak_per_second": round(rate, 1),
        "soak_requests": made["requests"],
        "soak_statuses": made["statuses"],
        "soak_errors": made["errors"],
        "soak_p50_ms": made["p50_ms"],
        "soak_p99_ms": made["p99_ms"],
        "soak_resident_mb": [round(megabytes, 1) for megabytes in memory],
        "soak_rss_growth": round(memory[1] / memory[0] - 1, 4),
        "soak_descriptors": files,
        "soak_restarts": len({one.pids for one in samples}) - 1,
    }


def _sample(ours: Service, at: float) -> Sample:
    held, descriptors, pids = 0, 0, set()
    for one in ours.workers():
        with suppress(psutil.NoSuchProcess):
            held += one.memory_info().rss
            descriptors += one.num_fds()
            pids.add(one.pid)
    return Sample(at, frozenset(pids), held / 1e6, descriptors)


def _window(samples: list[Sample], start: float, stop: float) -> list[Sample]:
    """The samples of a span; the nearest one where there is none."""
    return [one for one in samples if start <= one.at <= stop] or [min(samples, key=lambda one: abs(one.at - start))]
