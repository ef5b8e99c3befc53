"""Judge models one after another on one task, each in a process of its own, each row tracked as soon as it is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marquee.settings import ROOT
from training.harness.tracking import KILLED, Runs
from training.harness.trial import END, JOB, RESULT, VALUES, Job

Tell = Callable[[dict[str, Any]], None]
"""Told what a model is doing: ``stage``, and ``done`` of ``of`` where there is a number to it."""


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one model.

    Attributes:
        model: its name.
        result: settings, figures and curves, as ``trial`` wrote them; empty where it failed.
        values: each metric of each question, [n].
        error: why it failed, in one line; empty where it did not.
        details: what its process wrote last, where it failed.
        run_id: its run in MLflow; empty where nothing is tracked.
    """

    model: str
    result: dict[str, Any] = field(default_factory=dict)
    values: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    error: str = ""
    details: str = ""
    run_id: str = ""

    @property
    def figures(self) -> dict[str, float]:
        """Every single figure by its name."""
        if not self.result:
            return {}
        metrics = {name: one["value"] for name, one in self.result["metrics"].items()} | self.result["lists"]
        measured = {f"{part}.{name}": value for part in ("cost", "speed") for name, value in self.result[part].items()}
        numbers = {name: float(value) for name, value in measured.items() if isinstance(value, int | float)}
        return {**metrics, **numbers}


def judge_all(
    jobs: list[Job],
    task: Path,
    origin: dict[str, Any],
    runs: Runs,
    tell: Tell,
    tags: dict[str, str] | None = None,
    seconds: float | None = None,
    keep: bool = False,
) -> Iterator[Row]:
    """A row for each job, as soon as it is there; a model that fails is a row with its reason.

    Args:
        jobs: what to do with which model.
        task: folder that ``save_task`` wrote.
        origin: where the task came from, enough to make it again; kept with each run.
        runs: where rows are tracked.
        tell: told of progress.
        tags: to find the runs by.
        seconds: after which a model is ended; None waits.
        keep: whether fitted models are kept with their runs.
    """
    for job in jobs:
        run_id = runs.start(job.model, request(origin, job), {"protocol": origin["protocol"], **(tags or {})})
        try:
            with tempfile.TemporaryDirectory() as folder:
                row = judge(replace(job, keep=folder if keep else ""), task, tell, seconds)
                if keep and not row.error:
                    runs.keep(run_id, Path(folder), "model")
            if row.error:
                runs.fail(run_id, row.error, row.details)
            else:
                runs.finish(run_id, row.result, row.figures, row.result["cost"]["losses"])
        except BaseException:
            runs.fail(run_id, "interrupted", "", KILLED)
            raise
        yield replace(row, run_id=run_id)


def request(origin: dict[str, Any], job: Job) -> dict[str, Any]:
    """All that makes a row, as plain values."""
    described = {name: value for name, value in asdict(job).items() if name != "keep"}
    return {**origin, "job": described}


def judge(job: Job, task: Path, tell: Tell, seconds: float | None = None) -> Row:
    """One model in a process of its own; it is ended after so many seconds, when given, and with this process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / JOB).write_text(json.dumps({"task": str(task.resolve()), "job": asdict(job)}), encoding="utf-8")
        returned, timed_out, written = _run(folder, tell, job.model, seconds)
        if timed_out:
            return Row(job.model, error=f"did not end within {seconds:.0f} s")
        try:
            result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return Row(job.model, error=_death(returned, written), details=written)
        if "error" in result:
            return Row(job.model, error=result["error"], details=result["details"])
        with np.load(folder / VALUES, allow_pickle=False) as values:
            return Row(job.model, result, dict(values))


def _run(folder: Path, tell: Tell, model: str, seconds: float | None) -> tuple[int, bool, str]:
    """Exit status, whether time ran out, and what the process wrote."""
    reading, writing = os.pipe()
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with (folder / "log").open("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "training.harness.trial", str(folder), str(writing)],
            # The process ends itself when this pipe closes, so it never outlives the one that asked.
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=(writing,),
            env=os.environ | {"PYTHONPATH": paths},
        )
        os.close(writing)
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds or 0.0, end)
        if seconds is not None:
            timer.start()
        try:
            with os.fdopen(reading, encoding="utf-8") as messages:
                # The last line is cut off when the process is killed while it writes.
                for step in (json.loads(line) for line in messages if line.endswith("\n")):
                    if step["stage"] == END:  # not the pipe's end: a process that a model started may hold it open
                        break
                    tell({"model": model, **step})
            returned = process.wait()
        finally:
            timer.cancel()
            process.kill()
            process.wait()
            process.stdin.close() if process.stdin else None
        log.seek(0)
        return returned, late.is_set() and returned != 0, log.read()[-20_000:]


def _death(returned: int, written: str) -> str:
    """Why a process ended that left no result."""
    if returned == -9:
        return "was killed (signal 9), as happens when memory runs out"
    if returned < 0:
        return f"was ended by signal {-returned}"
    last = (written.strip().splitlines() or ["it wrote nothing"])[-1]
    return f"ended with status {returned}: {last}"
