"""A bundle scored beside the one that answers: what it would have shown, and how long it took. Nobody sees it."""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from marquee.errors import BundleError
from marquee.settings import Settings
from serving.decision import Inputs, decide
from serving.lineup import LOG, Standing

WAITING: Final = 200
"""Requests that may wait; further ones are left out, so that a slow shadow costs the answers nothing."""
MOST_BYTES: Final = 50_000_000
"""Of one process's file on one shadow: some hundred thousand requests say what there is to say."""


@dataclass(frozen=True, slots=True)
class Compared:
    """What a shadow did so far: requests scored and failed, the mean share of the shown banners that it would have
    shown too and of slates that it would have begun alike, and the 99th percentile of its time in ms."""

    bundle: str
    requests: int
    errors: int
    overlap: float | None
    same_first: float | None
    p99_ms: float | None
    first_error: str = ""
    left_out: int = 0
    """Requests that came while it was too slow, or had filled its file."""

    def lines(self) -> list[str]:
        """The same for a person."""
        told = [f"shadow {self.bundle}: {self.requests:,} requests scored, {self.errors:,} failed"]
        if self.overlap is not None:
            told.append(
                f"it would have shown {self.overlap:.1%} of the banners shown, {self.same_first:.1%} at the top"
            )
            told.append(f"99 % of its answers took {self.p99_ms:.1f} ms at most")
        if self.left_out:
            told.append(f"{self.left_out:,} requests were left out: it was too slow, or its file is full")
        return [*told, *([f"first failure: {self.first_error}"] if self.first_error else [])]


@dataclass(frozen=True, slots=True)
class Seen:
    """One answered request: what it was decided from, and the banners that were shown."""

    inputs: Inputs
    shown: list[str]


class Shadow:
    """One thread that scores requests after they were answered, and a file of what it found."""

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.shadow
        self._waiting: queue.Queue[tuple[Standing, Seen]] = queue.Queue(WAITING)
        self._left_out: Counter[str] = Counter()
        threading.Thread(target=self._work, name="shadow", daemon=True).start()

    def ask(self, standing: Standing, seen: Seen) -> None:
        """Leave a request to the shadow; at once, whatever the shadow does."""
        try:
            self._waiting.put_nowait((standing, seen))
        except queue.Full:
            self._left_out[standing.tag] += 1

    def drain(self) -> None:
        """Wait until all that was asked is written."""
        self._waiting.join()

    def _work(self) -> None:
        while True:
            standing, seen = self._waiting.get()
            try:
                self._write(standing.tag, _scored(standing, seen))
            except Exception as error:  # a shadow must not end with its first mistake
                LOG.error("the shadow %s failed: %s", standing.tag, error)
            finally:
                self._waiting.task_done()

    def _write(self, tag: str, line: dict[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        with shadow_file(self._folder, tag, os.getpid()).open("a", encoding="utf-8") as file:
            if file.tell() > MOST_BYTES:
                self._left_out[tag] += 1
                return
            file.write(json.dumps(line | {"left_out": self._left_out.pop(tag, 0)}) + "\n")


def shadow_file(folder: Path, tag: str, process: int) -> Path:
    """Where one process keeps what it saw of one shadow."""
    return folder / f"{tag.partition(':')[2]}-{process}.jsonl"


def _scored(standing: Standing, seen: Seen) -> dict[str, Any]:
    """It names no visitor, so that there is nothing to erase."""
    inputs, board = seen.inputs, standing.board
    line: dict[str, Any] = {"request_id": inputs.request_id, "at": inputs.ask.at.isoformat(), "shown": seen.shown}
    since = time.perf_counter()
    try:
        slate = decide(board, inputs, explain=False).slate
    except Exception as error:  # told, as it would have been an error page
        return line | {"error": f"{type(error).__name__}: {error}"}
    would = [board.bundle.catalogue.banner_ids[placed.row] for placed in slate]
    return line | {"would": would, "ms": round((time.perf_counter() - since) * 1e3, 3)}


def compare_shadow(settings: Settings, tag: str | None) -> Compared:
    """What the shadow's files hold, of all processes.

    Raises:
        BundleError: there is no shadow.
    """
    if tag is None:
        raise BundleError("there is no shadow; start one with `marquee shadow TAG`")
    files = sorted(settings.shadow.glob(shadow_file(settings.shadow, tag, 0).name.replace("-0.", "-*.")))
    lines = [line for file in files for line in _read_lines(file)]
    failed = [line["error"] for line in lines if "error" in line]
    scored = [line for line in lines if "would" in line and line["shown"]]
    told: dict[str, Any] = {
        "errors": len(failed),
        "first_error": failed[0] if failed else "",
        "left_out": sum(line.get("left_out", 0) for line in lines),
    }
    if not scored:
        return Compared(tag, 0, overlap=None, same_first=None, p99_ms=None, **told)
    overlap = np.mean([len({*line["would"]} & {*line["shown"]}) / len(line["shown"]) for line in scored])
    first = np.mean([line["would"][:1] == line["shown"][:1] for line in scored])
    slow = np.percentile([line["ms"] for line in scored], 99)
    return Compared(tag, len(scored), overlap=float(overlap), same_first=float(first), p99_ms=float(slow), **told)


def _read_lines(file: Path) -> list[dict[str, Any]]:
    """A process that was killed leaves half a line, and one that follows it may write on behind it."""
    found = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError):
            found.append(json.loads(line))
    return found
