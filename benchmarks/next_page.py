"""Which model says best what page comes next on a news site: Globo's clicks, split by time, MRR over all pages."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import say
from marquee.settings import Settings
from training.harness.bench import Row, judge_all
from training.harness.intervals import difference
from training.harness.origin import Origin
from training.harness.protocols import Files
from training.harness.questions import Splitting
from training.harness.reading import Reading
from training.harness.task_files import save_task
from training.harness.tracking import Runs
from training.harness.trial import Job

FOLDER: Final = "globo_clicks/clicks"
"""A file an hour."""
METRIC: Final = "mrr@20"
SINCE, UNTIL, TEST_DAYS = "2017-10-09", "2017-10-13", 0.5
"""News age within days, so more days to learn from would be no help."""
SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "markov:first": {"order": 1},
    "markov": {"order": 3},
    "gru4rec": {"epochs": 4},
}
"""Chosen on the days from 2 to 4 October, which are no part of what is judged; there 2 epochs had .097, 5 had .103."""
FIRST, LONGER, SEQUENCE = SETTINGS


def globo(data: Path, work: Path, seed: int, most: int = 0, since: str = SINCE, until: str = UNTIL) -> dict[str, Any]:
    """MRR@20 of each model with its interval, and what each longer memory gains over the shorter, paired.

    Args:
        data: the folder that holds ``globo_clicks``; without that, only what was not measured.
        work: an empty folder.
        seed: of fits and intervals.
        most: questions at most, drawn at random; 0 asks all.
        since: first day that is learnt from.
        until: the day after the last one, whose last hours are the test.
    """
    folder = data / FOLDER
    if not folder.is_dir():
        return {"next_page_mrr": None, "globo_skipped": f"there is no {folder}; give the folder that holds it"}
    reading = Reading(item="click_article_id", time="click_timestamp", since=since, until=until)
    origin = Origin("sessions", Files(folder), reading, Splitting(test_days=TEST_DAYS, most_queries=most, seed=seed))
    task = origin.task()
    say(f"  {task.about['events']:,} views of {task.about['items']:,} pages, {task.about['questions']:,} questions")
    jobs = [Job(name, _seeded(name, seed), METRIC, (20,), seed, speed=False) for name in SETTINGS]
    rows: dict[str, Row] = {}
    with tempfile.TemporaryDirectory(dir=work) as name:
        save_task(task, Path(name))
        for row in judge_all(jobs, Path(name), origin.described(), Runs(Settings(home=work), "next-page"), _silent):
            if row.error:
                raise RuntimeError(f"{row.model}: {row.error}")
            say(f"  {row.model}: {METRIC} {row.figures[METRIC]:.4f}, {row.result['cost']['fit_s']:.0f} s")
            rows[row.model] = row
    counts = {name: task.about[name] for name in ("events", "items", "users", "questions", "sessions_asked")}
    return {"globo": counts | {"since": since, "until": until, "test_days": TEST_DAYS}} | _compared(
        rows, task.queries.histories.user_ids, seed
    )


def _compared(rows: dict[str, Row], askers: NDArray[np.str_], seed: int) -> dict[str, Any]:
    """Each model's figure, and both steps of the order with their paired intervals."""

    def gain(one: str, other: str) -> dict[str, float]:
        found = difference({METRIC: rows[one].values[METRIC]}, {METRIC: rows[other].values[METRIC]}, askers, seed)
        return asdict(found[METRIC])

    sequence, longer = gain(SEQUENCE, LONGER), gain(LONGER, FIRST)
    return {
        "next_page_mrr": {name: row.result["metrics"][METRIC] for name, row in rows.items()},
        "sequence_over_markov": sequence,
        "markov_over_first_order": longer,
        "next_page_ordered": sequence["low"] > 0 and longer["low"] > 0,
    }


def _seeded(name: str, seed: int) -> dict[str, Any]:
    return SETTINGS[name] | ({} if name.startswith("markov") else {"seed": seed})


def _silent(step: dict[str, Any]) -> None:
    pass
