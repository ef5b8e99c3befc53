"""What Prometheus reads of the API, summed over all worker processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import REGISTRY

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5)
REQUESTS: Final = Histogram(
    "marquee_http_seconds", "Time from a request's head to its answer.", ["route", "status"], buckets=_SECONDS
)
REFUSED: Final = Counter(
    "marquee_http_refused", "Requests refused before they reached a handler, by problem.", ["problem"]
)
EVENTS: Final = Counter("marquee_events", "Events reported, by what became of them.", ["outcome"])
READ_AT: Final = Gauge(
    "marquee_cache_read_timestamp_seconds",
    "When what a process keeps in memory was last read from its source, the longest ago of all processes.",
    ["cache"],
    multiprocess_mode="livemin",
)


def page() -> bytes:
    """Every measure of every process, in Prometheus's text format."""
    if FOLDER not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def forget_the_dead() -> None:
    """Leave out what processes that were killed still seem to be doing; the next one in their place calls this."""
    folder = os.environ.get(FOLDER)
    if not folder:
        return
    pids = {
        int(part) for file in Path(folder).glob("gauge_live*.db") if (part := file.stem.rpartition("_")[2]).isdigit()
    }
    for pid in pids:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            mark_process_dead(pid)  # type: ignore[no-untyped-call]
        except PermissionError:
            continue
