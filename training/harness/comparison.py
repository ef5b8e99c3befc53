"""From data to a table: read once, tune if asked, judge every model in turn, put the rows in order."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from marquee.errors import MarqueeError
from marquee.settings import Settings
from training.harness.bench import Row, Tell, judge_all
from training.harness.judging import ACCURACY
from training.harness.leaderboard import Board, make_board
from training.harness.origin import Origin, read_origin
from training.harness.task_files import save_task
from training.harness.tracking import Runs
from training.harness.trial import Job, read_job

BENCH, TUNE = "bench-models", "tune-models"
"""MLflow's experiments."""


def compare(
    settings: Settings, origin: Origin, jobs: Sequence[Job], tell: Tell, keep: bool = False, tune: float = 0.0
) -> tuple[Board, dict[str, Any]]:
    """Judge the jobs on one task; rows are tracked one by one, so that what was done stays when the rest is stopped.

    Args:
        settings: whose home holds the runs.
        origin: the task.
        jobs: models and settings.
        tell: told of progress.
        keep: whether fitted models are kept with their runs.
        tune: seconds in which their settings are first searched on validation data; 0 does not.

    Returns:
        The rows, and what the task is.

    Raises:
        MarqueeError: the data cannot be read or split.
    """
    tell({"stage": "read", "done": 0, "of": 0})
    task, plain = origin.task(), origin.described()
    runs = Runs(settings, BENCH)
    if tune:
        jobs = tuned(settings, origin, jobs, tune, tell)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        save_task(task, Path(name))
        for row in judge_all(list(jobs), Path(name), plain, runs, tell, keep=keep):
            rows.append(row)
            tell({"stage": "row", "done": len(rows), "of": len(jobs), "model": row.model})
    about = {**plain, "exclude_seen": task.exclude_seen, "split": task.about}
    return make_board(rows, jobs[0].metric, task.queries.histories.user_ids, jobs[0].seed), about


def tuned(settings: Settings, origin: Origin, jobs: Sequence[Job], seconds: float, tell: Tell) -> list[Job]:
    """The jobs with the best settings that were found in so many seconds, on validation data only."""
    found = {one.model: one for one in search(settings, origin, jobs, seconds, tell)}
    return [replace(job, settings=job.settings | found[job.model].settings) for job in jobs]


def search(settings: Settings, origin: Origin, jobs: Sequence[Job], seconds: float, tell: Tell) -> list[Any]:
    """What tuning finds for each job, as ``tuning.Tuned``."""
    from training.harness import tuning

    held = replace(origin, part="validation")
    tell({"stage": "read", "done": 0, "of": 0})
    with tempfile.TemporaryDirectory() as name:
        save_task(held.task(), Path(name))
        storage = tuning.storage_url(settings)
        on = tuning.Search(Path(name), held.described(), jobs[0].metric, jobs[0].seed, Runs(settings, TUNE), storage)
        plain = [
            replace(job, ks=(depth(job.metric),), speed=False, robustness=(), scaling=False, patience=0) for job in jobs
        ]
        return tuning.tune_all(on, plain, seconds, tell)


def repeat(settings: Settings, run_id: str, data: Path | None, tell: Tell) -> tuple[Row, dict[str, Any]]:
    """Make a row again from what its run recorded.

    Args:
        settings: whose home holds the runs.
        run_id: of the row.
        data: where the data are now, if they moved.
        tell: told of progress.

    Returns:
        The new row, and: ``figures``, each metric's value ``then`` and ``now``; ``equal``; ``same_code``.

    Raises:
        MarqueeError: no such run, or other data than it had.
    """
    runs = Runs(settings, BENCH)
    recorded = runs.recorded(run_id)
    request = dict(recorded.request)
    job = read_job(request.pop("job"))
    tell({"stage": "read", "done": 0, "of": 0})
    origin = read_origin(request, data)
    with tempfile.TemporaryDirectory() as name:
        save_task(origin.task(), Path(name))
        (row,) = judge_all([job], Path(name), origin.described(), runs, tell, tags={"rerun_of": run_id})
    if row.error:
        raise MarqueeError(f"{row.model} failed this time: {row.error}")
    then, now = (
        {name: one["value"] for name, one in result["metrics"].items()} | result["lists"]
        for result in (recorded.result, row.result)
    )
    figures = {name: {"then": then[name], "now": now.get(name)} for name in then}
    equal = all(one["now"] is not None and _alike(one["then"], one["now"]) for one in figures.values())
    return row, {"figures": figures, "equal": equal, "same_code": recorded.result["code"] == row.result["code"]}


def depth(metric: str) -> int:
    """The length of list that a metric such as ``ndcg@10`` looks at.

    Raises:
        MarqueeError: it is no metric's name.
    """
    name, _, k = metric.partition("@")
    if name not in ACCURACY or not k.isdecimal() or int(k) < 1:
        raise MarqueeError(f"there is no metric {metric!r}; write one of {', '.join(ACCURACY)} and @ and a length")
    return int(k)


def _alike(then: float, now: float) -> bool:
    """Equal but for the last digits; NaN equals NaN."""
    return abs(then - now) <= 1e-9 or (then != then and now != now)
