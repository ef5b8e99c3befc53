"""A full disk and a clock that jumps, under load: nothing is acknowledged that is not stored, and all goes on after."""

from __future__ import annotations

import json
import resource
import shutil
import struct
import subprocess
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.measure import say
from benchmarks.service_process import Service, answers, bench_settings, finished, service, started_load
from benchmarks.serving_installation import CAMPAIGNS, build
from benchmarks.serving_kills import mixed_bodies, reconcile
from marquee.settings import Settings

RATE: Final = 60.0
BEFORE_SECONDS, FULL_SECONDS, AFTER_SECONDS = 4.0, 8.0, 10.0
SETTLE_SECONDS: Final = 0.5
"""Answers this close to a change count for neither side: their requests may have been under way."""
ROOM: Final = 700
"""Bytes that the disk still takes: less than most reports have, so that it ends within one."""
STEPS: Final = (3_600, -3_600, 86_400, 0)
"""Seconds that the clock is wrong by, one after the other."""
STEP_SECONDS: Final = 4.0
VISITORS: Final = 5_000
SHIM: Final = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static volatile long *shift;
static long seconds(void) {
    if (!shift) {
        const char *name = getenv("BENCH_CLOCK");
        int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
        void *found = file < 0 ? MAP_FAILED : mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
        if (file >= 0) close(file);
        if (found == MAP_FAILED) return 0;
        shift = found;
    }
    return *shift;
}
int clock_gettime(clockid_t clock, struct timespec *at) {
    int failed = syscall(SYS_clock_gettime, clock, at);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) at->tv_sec += seconds();
    return failed;
}
int gettimeofday(struct timeval *at, void *zone) {
    int failed = syscall(SYS_gettimeofday, at, zone);
    if (!failed) at->tv_sec += seconds();
    return failed;
}
time_t time(time_t *into) {
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    if (into) *into = at.tv_sec;
    return at.tv_sec;
}
"""


@dataclass(slots=True)
class Phases:
    """What became of reports and of requests for slates, by phase of the load: how many got which answer."""

    reports: dict[str, Counter[str]] = field(default_factory=dict)
    slates: dict[str, Counter[str]] = field(default_factory=dict)


def disk(work: Path, workers: int) -> dict[str, Any]:
    """Let the log's disk end within a report (RLIMIT_FSIZE of the running workers), then give room again.

    Half of the campaigns have a cap: banners of the others may be shown without counting, if they can be logged.
    """
    settings = bench_settings(work / "disk", workers)
    build(settings, 200, VISITORS, capped=CAMPAIGNS // 2)
    bodies, file = mixed_bodies(work, "disk", 6_000), work / "disk-answers"
    with service(settings) as ours:
        seconds = BEFORE_SECONDS + FULL_SECONDS + AFTER_SECONDS
        load = started_load(ours.address, bodies, rate=RATE, once=True, seconds=seconds, answers=file)
        time.sleep(BEFORE_SECONDS)
        before = {one.pid for one in ours.workers()}
        full = time.time()
        _limit(ours, settings, is_full=True)
        time.sleep(FULL_SECONDS)
        room = time.time()
        _limit(ours, settings, is_full=False)
        finished(load)
        survived = before == {one.pid for one in ours.workers()}
    told = list(answers(file))
    phases = _phases(told, {"full": (full, room), "after": (room + 2.0, room + 3_600)})
    again = [at - room for at, _, status, _ in told if at > room and status in (200, 202)]
    return {
        "disk_full_reports": phases.reports["full"],
        "disk_full_slates": phases.slates["full"],
        "disk_after_reports": phases.reports["after"],
        "disk_after_slates": phases.slates["after"],
        "disk_again_seconds": round(min(again), 2) if again else None,
        "disk_workers_survived": survived,
        **{f"disk_{name}": value for name, value in reconcile(settings, file, bodies).items()},
    }


def clock(work: Path, workers: int) -> dict[str, Any]:
    """Set the service's wall clock forward an hour, back, a day forward and right again, by a library before libc's.

    Returns:
        Plain JSON values; ``clock_covered`` is False, and nothing else there, where no C compiler is.
    """
    library, shift = work / "clock.so", work / "clock"
    shift.write_bytes(struct.pack("l", 0))
    if not _compiled(library):
        return {"clock_covered": False}
    settings = bench_settings(work / "clock-home", workers)
    build(settings, 200, VISITORS)
    bodies, file = mixed_bodies(work, "clock", 6_000), work / "clock-answers"
    with service(settings, LD_PRELOAD=str(library), BENCH_CLOCK=str(shift)) as ours:
        seconds = STEP_SECONDS * (len(STEPS) + 1)
        load = started_load(ours.address, bodies, rate=RATE, once=True, seconds=seconds, answers=file)
        for wrong_by in STEPS:
            time.sleep(STEP_SECONDS)
            with shift.open("r+b") as mapped:  # in place: the workers have this file mapped
                mapped.write(struct.pack("l", wrong_by))
        made = finished(load)
    return {
        "clock_covered": True,
        "clock_statuses": made["statuses"],
        "clock_errors": made["errors"],
        "clock_p99_ms": made["p99_ms"],
        "clock_days_logged": _days(settings),
        **{f"clock_{name}": value for name, value in reconcile(settings, file, bodies).items()},
    }


def _limit(ours: Service, settings: Settings, is_full: bool) -> None:
    """Set how large a file each worker may make: hardly more than its stream is, or any size."""
    for one in ours.workers():
        stream = settings.log / "stream" / f"service-{one.pid}.jsonl"
        most = resource.RLIM_INFINITY
        if is_full:
            most = (stream.stat().st_size if stream.exists() else 0) + ROOM
        resource.prlimit(one.pid, resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


def _phases(told: list[tuple[float, int, int, str]], spans: dict[str, tuple[float, float]]) -> Phases:
    found = Phases()
    for name, (start, stop) in spans.items():
        within = [answer for answer in told if start + SETTLE_SECONDS < answer[0] < stop]
        # Of mixed bodies every second one is a report.
        found.slates[name] = Counter(_named(status, body) for _, number, status, body in within if number % 2 == 0)
        found.reports[name] = Counter(str(status) for _, number, status, _ in within if number % 2)
    return found


def _named(status: int, body: str) -> str:
    """The status; of a slate without banners also why: it shows nothing that would have to be stored."""
    if status != 200:
        return str(status)
    slate = json.loads(body)
    return "200" if slate["slate"] else f"200, none: {slate['fallback']}"


def _compiled(library: Path) -> bool:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        say("  no C compiler, so the clock cannot be moved")
        return False
    source = library.with_suffix(".c")
    source.write_text(SHIM, encoding="utf-8")
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return True


def _days(settings: Settings) -> int:
    """Days on which impressions were logged: a day forward must show."""
    days = set()
    for file in (settings.log / "stream").glob("*.jsonl"):
        for line in file.read_text(encoding="utf-8").splitlines():
            with suppress(IndexError):
                if '"impression"' in line:
                    days.add(line.split('"occurred_at"')[1].split('"')[1][:10])
    return len(days)
