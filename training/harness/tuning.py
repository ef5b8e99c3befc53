"""Search a model's settings for the best quality on validation data, within a time budget, with Optuna."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna

from marquee.settings import Settings
from training.harness.bench import Row, Tell, judge_all
from training.harness.model_list import base_name, model_file
from training.harness.origin import name_of
from training.harness.tracking import Runs
from training.harness.trial import Job
from training.recommender import model_class

COMPLETE, FAIL = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL
SAME_AGAIN = 20
"""Proposals in a row that were tried before, after which a space counts as searched."""
FAILURES = 3
"""Trials in a row that failed, after which a model is given up."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """What was found for one model.

    Attributes:
        model: its name.
        settings: the best that were tried; empty where nothing beat the defaults.
        value: their quality on validation data; None where nothing ended in time.
        default: what the defaults gave.
        trials: how many settings were judged, in this and earlier searches.
        run_id: the run that found the best.
        note: why there is less than was asked for; else empty.
    """

    model: str
    settings: dict[str, Any] = field(default_factory=dict)
    value: float | None = None
    default: float | None = None
    trials: int = 0
    run_id: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Search:
    """What all models are tuned on, and where it is kept.

    Attributes:
        task: folder of the validation task.
        origin: where the task came from; kept with each run, and its hash names the search, so that the next one on
            the same data goes on from it.
        metric: what is to be highest.
        seed: of the proposals.
        runs: where each trial is tracked.
        storage: Optuna's database.
    """

    task: Path
    origin: dict[str, Any]
    metric: str
    seed: int
    runs: Runs
    storage: str


def storage_url(settings: Settings) -> str:
    """Optuna's database under the installation's home."""
    (settings.home / "mlflow").mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{(settings.home / 'mlflow' / 'optuna.db').resolve()}"


def tune_all(search: Search, jobs: list[Job], budget: float, tell: Tell) -> list[Tuned]:
    """Tune each model within its share of what is left of the budget, in seconds; what one leaves, the next may use.

    Args:
        search: what on.
        jobs: models, with the settings that are not to be changed.
        budget: seconds for all of them.
        tell: told of each trial.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ends, found = time.monotonic() + budget, []
    for place, job in enumerate(jobs):
        share = (ends - time.monotonic()) / (len(jobs) - place)
        found.append(_Hunt(search, job, time.monotonic() + share, tell).run())
    return found


def as_toml(found: list[Tuned], metric: str, about: str) -> str:
    """The best settings as a file that ``bench-models --settings`` takes."""
    lines = [f"# Best settings on validation data by {metric}: {about}"]
    for one in found:
        value, default = (f"{number:.4f}" if number is not None else "–" for number in (one.value, one.default))
        lines += ["", f"# {metric} {value}, defaults {default}, {one.trials} tried" + (one.note and f"; {one.note}")]
        lines += [f"# run {one.run_id}"] if one.run_id else []
        lines.append(f"[{_toml(one.model) if ':' in one.model else one.model}]")
        lines += [f"{name} = {_toml(setting)}" for name, setting in one.settings.items()]
    return "\n".join(lines) + "\n"


class _Hunt:
    """The search for one model's settings, until its time is over or there is nothing left to try."""

    def __init__(self, search: Search, job: Job, ends: float, tell: Tell) -> None:
        self.search, self.job, self.ends, self.tell = search, job, ends, tell
        self.study = _study(search, job)

    def run(self) -> Tuned:
        """Judge the settings as they are, then others that Optuna proposes."""
        try:
            space = model_class(base_name(self.job.model)).space
        except Exception as error:  # a model that cannot be imported is a line of the answer, not the end of it
            return Tuned(self.job.model, note=f"cannot be imported: {error}")
        default = self.study.user_attrs.get("default")
        if default is None:
            row = self._judged(self.job)
            if row.error:
                return Tuned(self.job.model, note=f"with its present settings it {row.error}")
            default = {"value": row.figures[self.search.metric], "run_id": row.run_id}
            self.study.set_user_attr("default", default)
        return self._best(default, self._proposals(space))

    def _proposals(self, space: Callable[[Any], dict[str, Any]]) -> str:
        """Try what is proposed; returns why it ended before its time, or nothing."""
        again = failed = 0
        while time.monotonic() < self.ends:
            trial = self.study.ask()
            try:
                settings = space(trial)
                value = self._value(trial, settings) if settings else None
            except BaseException:
                self.study.tell(trial, state=FAIL)
                raise
            self.study.tell(trial, value, state=COMPLETE if value is not None else FAIL)
            if not settings:
                return "its file names no settings to search"
            again = again + 1 if "again" in trial.user_attrs else 0
            failed = failed + 1 if value is None else 0
            if failed == FAILURES:
                return f"the last {FAILURES} trials failed: {trial.user_attrs['error']}"
            if again == SAME_AGAIN:
                return "all there is was tried"
        return ""

    def _value(self, trial: optuna.Trial, settings: dict[str, Any]) -> float | None:
        """Quality of the settings, from an earlier trial if there was one; None if the model failed."""
        wanted = json.dumps(settings, sort_keys=True)
        for one in self.study.get_trials(deepcopy=False, states=(COMPLETE,)):
            if json.dumps(one.user_attrs.get("settings"), sort_keys=True) == wanted:
                trial.set_user_attr("again", True)
                return None if one.value is None else float(one.value)
        trial.set_user_attr("settings", settings)
        row = self._judged(replace(self.job, settings=self.job.settings | settings))
        trial.set_user_attr("run_id", row.run_id)
        if row.error:
            trial.set_user_attr("error", row.error)
            return None
        return row.figures[self.search.metric]

    def _judged(self, job: Job) -> Row:
        """A row in a process of its own, tracked; it is ended when the time is over."""
        tried = len(self.study.get_trials(deepcopy=False, states=(COMPLETE,)))
        self.tell({"stage": "tune", "model": job.model, "trial": tried + 1})
        left = max(1.0, self.ends - time.monotonic())
        tags = {"study": self.study.study_name, "part": "validation"}
        (row,) = judge_all([job], self.search.task, self.search.origin, self.search.runs, self._relayed, tags, left)
        return row

    def _relayed(self, step: dict[str, Any]) -> None:
        self.tell({**step, "stage": "tune"})

    def _best(self, default: dict[str, Any], note: str) -> Tuned:
        complete = self.study.get_trials(deepcopy=False, states=(COMPLETE,))
        tried = [trial for trial in complete if "settings" in trial.user_attrs]
        best = max(tried, key=lambda trial: (trial.value or 0.0, -trial.number), default=None)
        fixed = {name: value for name, value in self.job.settings.items() if name != "seed"}
        if best is None or (best.value or 0.0) <= default["value"]:
            found, value, run_id = {}, default["value"], default["run_id"]
        else:
            found, value, run_id = best.user_attrs["settings"], best.value, best.user_attrs["run_id"]
        return Tuned(self.job.model, fixed | found, value, default["value"], len(tried) + 1, run_id, note)


def _study(search: Search, job: Job) -> optuna.Study:
    """The search of this model on these data, begun or gone on with; it proposes by the seed and by how far it is."""
    code = model_file(job.model).read_text(encoding="utf-8")
    fixed = json.dumps([search.metric, job.settings, name_of(search.origin), code], sort_keys=True)
    name = f"{job.model} {hashlib.sha256(fixed.encode()).hexdigest()[:16]}"
    study = optuna.create_study(storage=search.storage, study_name=name, direction="maximize", load_if_exists=True)
    done = len(study.get_trials(deepcopy=False))
    # Were the seed the same each time, a search that goes on would propose once more what it began with.
    study.sampler = optuna.samplers.TPESampler(seed=search.seed + done, n_startup_trials=8)
    return study


def _toml(value: Any) -> str:
    """A plain value as TOML writes it."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value) if isinstance(value, str | bool) else repr(value)
