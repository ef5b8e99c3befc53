"""Commands of the product as processes of their own: how long they took and how much memory they held at most."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

MARQUEE: Final = str(Path(sys.executable).with_name("marquee"))
POLL_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Measured:
    """Wall seconds of a command, and the peak of what it and its children held together, in GB (10^9 bytes)."""

    seconds: float
    peak_gb: float

    def __add__(self, other: Measured) -> Measured:
        return Measured(self.seconds + other.seconds, max(self.peak_gb, other.peak_gb))


def environment(**settings: object) -> dict[str, str]:
    """This process's environment with no other Marquee settings than these."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MARQUEE_")}
    return inherited | {f"MARQUEE_{name.upper()}": str(value) for name, value in settings.items()}


def marquee(*words: str, home: Path, may_refuse: bool = False, **settings: object) -> Measured:
    """Run a verb to its end; ``may_refuse`` lets it end with 1, as a gate does that refuses something.

    Raises:
        RuntimeError: it failed; the message holds what it wrote to stderr.
    """
    since, peak = time.perf_counter(), 0
    command = [MARQUEE, *words, "--home", str(home)]
    with subprocess.Popen(
        command,
        env=environment(quiet=1, **settings),
        cwd=home.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        watched = psutil.Process(child.pid)
        while child.poll() is None:
            peak = max(peak, _held(watched))
            time.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - since
        assert child.stderr is not None
        if child.returncode not in ((0, 1) if may_refuse else (0,)):
            raise RuntimeError(f"marquee {' '.join(words)}: {child.stderr.read()[-2000:]}")
    return Measured(seconds, peak / 1e9)


def _held(process: psutil.Process) -> int:
    """Resident bytes of a process and its children; what they share counts twice."""
    total = 0
    try:
        for one in (process, *process.children(recursive=True)):
            total += one.memory_info().rss
    except psutil.NoSuchProcess:
        return total
    return total


def say(text: str) -> None:
    """One line of progress on stderr; stdout is for the result."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
