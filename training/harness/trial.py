"""One model on one task, in a process of its own: ``python -m training.harness.trial FOLDER CHANNEL``.

Peak memory, import cost and failures are then that model's alone. The folder holds ``job.json`` and gets
``result.json`` and ``values.npz``; one JSON line a step goes to the open file descriptor CHANNEL.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from marquee.errors import MarqueeError
from marquee.settings import ROOT
from training.harness.judging import answers, judged, quality
from training.harness.measures import Values
from training.harness.model_list import base_name
from training.harness.robustness import measure_robustness
from training.harness.scaling import measure_scaling, measure_speed
from training.harness.task import Task
from training.harness.task_files import load_task
from training.harness.validation import validation_task
from training.interactions import Interactions
from training.recommender import Epoch, Fitting, Recommender, model_class

JOB, RESULT, VALUES = "job.json", "result.json", "values.npz"
END = "end"
"""Last stage that is told: the result is there."""
WATCHED = 2_000
"""Validation questions asked after each epoch of a fit that may stop early."""
Tell = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Job:
    """What to do with one model.

    Attributes:
        model: its name, perhaps with a label behind a colon.
        settings: those that differ from the defaults.
        metric: what decides, such as ``ndcg@10``.
        ks: lengths of the lists that are judged.
        seed: of all that is drawn while judging.
        patience: epochs without gain on validation data after which a fit stops; 0 fits all epochs on all data.
        speed: whether to measure latency and throughput.
        robustness: shares of the events that are disturbed.
        refit: whether the disturbed data are learnt from too.
        scaling: whether to measure speed over parts of the catalogue.
        keep: folder that the fitted model is saved to; empty for none.
    """

    model: str
    settings: dict[str, Any]
    metric: str
    ks: tuple[int, ...]
    seed: int
    patience: int = 0
    speed: bool = True
    robustness: tuple[float, ...] = ()
    refit: bool = False
    scaling: bool = False
    keep: str = ""


class Trial:
    """A job at work on a task.

    Args:
        job: what to do.
        task: on what.
        tell: told of each step: ``stage``, and ``done`` of ``of`` where there is a number to it.
    """

    def __init__(self, job: Job, task: Task, tell: Tell) -> None:
        self.job, self.task, self.tell = job, task, tell
        self.epochs: list[float] = []
        self.losses: list[float] = []

    def run(self) -> tuple[dict[str, Any], dict[str, Values]]:
        """Fit, judge and measure; the result in plain values, and each metric of each question."""
        job, task = self.job, self.task
        model_class(base_name(job.model))  # whose libraries are not the model's own memory
        before = memory_mb("VmRSS")
        model, seconds = self._fitted()
        self.tell(stage="judge", done=0, of=0)
        start = time.perf_counter()
        items = answers(model, task, max(job.ks))
        answering = time.perf_counter() - start
        peak = memory_mb("VmHWM")
        told, values = judged(items, task, job.ks, job.seed)
        cost = {
            "fit_s": seconds,
            "answer_s": answering,
            "epochs": len(self.epochs),
            # The median: the first epoch is longer by the time it takes to compile.
            "epoch_s": float(np.median(self.epochs)) if self.epochs else seconds,
            "losses": self.losses,
            "peak_mb": peak,
            "own_mb": peak - before,
        }
        if job.keep:
            model.save(Path(job.keep))
        described = {"about": model.about, "settings": asdict(model.settings)}
        return described | told | {"cost": cost} | self._measured(model) | {"code": code_hash()}, values

    def _measured(self, model: Recommender) -> dict[str, Any]:
        """What is measured on request, beside quality."""
        job, task, longest = self.job, self.task, max(self.job.ks)
        found: dict[str, Any] = {"speed": {}, "robustness": [], "scaling": []}
        if job.speed:
            self.tell(stage="speed", done=0, of=0)
            found["speed"] = asdict(measure_speed(model, task, longest, job.seed))
        if job.robustness:
            found["robustness"] = measure_robustness(
                model, task, job.robustness, job.metric, job.seed, self._again if job.refit else None, self._disturbed
            )
        if job.scaling:
            self.tell(stage="scaling", done=0, of=0)
            found["scaling"] = measure_scaling(model, self._shortly, task, longest, job.seed)
        return found

    def _disturbed(self, done: int, of: int) -> None:
        self.tell(stage="robustness", done=done, of=of)

    def _shortly(self, train: Interactions) -> Recommender:
        return fresh(self.job, epochs=1).fit(train)

    def _again(self, train: Interactions) -> Recommender:
        return fresh(self.job).fit(train)

    def _fitted(self) -> tuple[Recommender, float]:
        """The model and how long its fit took, the import of its libraries left out."""
        model = fresh(self.job)
        self.tell(stage="fit", done=0, of=0)
        start = self.started = time.perf_counter()
        if self.job.patience and hasattr(model.settings, "epochs"):
            model = self._stopped_early(model)
        else:
            model.fit(self.task.train, Fitting(on_epoch=self._on_epoch))
        return model, time.perf_counter() - start

    def _stopped_early(self, model: Recommender) -> Recommender:
        """Fitted until validation data say that it is enough, then anew on all data for as many epochs as were best.

        Where the validation split takes nothing out of training (leave-one-out), the first fit is the model.
        """
        held = validation_task(self.task, self.job.seed)
        rows = np.random.default_rng(self.job.seed).permutation(len(held.queries))[:WATCHED]
        part, ks = held.sample(np.sort(rows)), [int(self.job.metric.partition("@")[2])]
        seen: list[float] = []

        def validate(one: Recommender) -> float:
            seen.append(quality(one, part, ks)[self.job.metric])
            return seen[-1]

        model.fit(held.train, Fitting(on_epoch=self._on_epoch, validate=validate, patience=self.job.patience))
        if len(held.train) == len(self.task.train):
            return model
        self.epochs, self.losses = [], []
        return fresh(self.job, epochs=int(np.argmax(seen)) + 1).fit(self.task.train, Fitting(on_epoch=self._on_epoch))

    def _on_epoch(self, epoch: Epoch) -> None:
        now = time.perf_counter()
        self.epochs.append(now - self.started)
        self.losses.append(epoch.loss)
        self.started = now
        self.tell(stage="fit", done=epoch.number, of=epoch.of, loss=epoch.loss)


def read_job(plain: dict[str, Any]) -> Job:
    """The job that was written as plain values."""
    return Job(**plain | {name: tuple(plain[name]) for name in ("ks", "robustness")})


def fresh(job: Job, **other: Any) -> Recommender:
    """The model, not fitted; ``other`` settings count where it has them. JSON's lists become tuples again."""
    kind = model_class(base_name(job.model))
    names = {field.name for field in fields(kind.Settings)}
    settings = job.settings | {name: value for name, value in other.items() if name in names}
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()})


def code_hash() -> str:
    """SHA-256 of the files of ours that this process loaded: two runs with one hash ran the same code."""
    digest = hashlib.sha256()
    files = {file for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))}
    for path in sorted(Path(file) for file in files if file.startswith(f"{ROOT / 'training'}{os.sep}")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def memory_mb(name: str) -> float:
    """Memory of this process in MB (10⁶ bytes): ``VmRSS`` now, ``VmHWM`` the most there was, its parent's left out."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 / 1e6
    return float("nan")


def reason(error: BaseException) -> str:
    """Why a model failed, in one line: the error, and the last place of ours that it came from."""
    if isinstance(error, MarqueeError):
        return str(error)
    text = " ".join(str(error).split())[:300]
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(str(ROOT))]
    models = [frame for frame in ours if "/training/models/" in frame.filename] or ours
    where = f" ({Path(models[-1].filename).relative_to(ROOT)}:{models[-1].lineno})" if models else ""
    return f"{type(error).__name__}: {text}{where}"


def _end_with_parent() -> None:
    os.read(0, 1)  # not through sys.stdin, whose lock the interpreter would wait for at its end
    os._exit(1)


def main(folder: Path, channel: int) -> int:
    """Do the folder's job; the exit status is 1 if the model failed, and the result then says why."""
    # Whoever asked holds the other end of our input: when it closes they are gone, and so is the use of going on.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    described = json.loads((folder / JOB).read_text(encoding="utf-8"))
    job = read_job(described["job"])
    with os.fdopen(channel, "w", encoding="utf-8", buffering=1) as messages:
        try:
            task = load_task(Path(described["task"]))
            result, values = Trial(job, task, lambda **step: print(json.dumps(step), file=messages)).run()
        except Exception as error:
            result, values = {"error": reason(error), "details": traceback.format_exc()[-20_000:]}, {}
        arrays: dict[str, Any] = dict(values)
        np.savez(folder / VALUES, **arrays)
        (folder / RESULT).write_text(json.dumps(result), encoding="utf-8")
        print(json.dumps({"stage": END}), file=messages)
    return 1 if "error" in result else 0


if __name__ == "__main__":
    status = main(Path(sys.argv[1]), int(sys.argv[2]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # all is written, and libraries' threads may hold up an orderly end
