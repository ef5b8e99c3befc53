"""Runs of the bench in MLflow: SQLite and local files under the installation's home, nothing sent anywhere."""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from marquee.errors import MarqueeError
from marquee.settings import Settings

REQUEST, RESULT = "request.json", "result.json"
LIBRARIES = ("marquee", "numpy", "scipy", "implicit", "tensorflow-cpu", "tf-keras", "tensorflow-recommenders")
FAILED, FINISHED, KILLED = "FAILED", "FINISHED", "KILLED"


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a run left: the request that made it, and what came of it."""

    request: dict[str, Any]
    result: dict[str, Any]


class Runs:
    """The runs of one experiment, one a row of a table.

    Args:
        settings: whose home holds the database.
        experiment: name that groups the runs.
    """

    def __init__(self, settings: Settings, experiment: str) -> None:
        self.experiment = experiment
        self.client = _client(settings)
        self.folder = (settings.home / "mlflow" / "artifacts").resolve()

    def start(self, model: str, request: dict[str, Any], tags: dict[str, str]) -> str:
        """Note that a run begins, with all that it needs to be repeated; returns its id."""
        run = self.client.create_run(self._experiment_id(), run_name=model, tags=tags)
        run_id = str(run.info.run_id)
        from mlflow.entities import Param

        try:
            params = flat({**request, **versions()})
            named = [Param(name, str(value)[:6000]) for name, value in params.items()]
            for start in range(0, len(named), 100):
                self.client.log_batch(run_id, params=named[start : start + 100])
            self.client.log_dict(run_id, request, REQUEST)
        except BaseException:
            self.fail(run_id, "interrupted", "", KILLED)
            raise
        return run_id

    def finish(self, run_id: str, result: dict[str, Any], figures: dict[str, float], losses: list[float]) -> None:
        """Note what came of a run: figures as metrics, the loss of each epoch as a curve, the whole as JSON."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(metric_name(name), value, now, 0) for name, value in figures.items()]
        metrics += [Metric("loss", value, now, step) for step, value in enumerate(losses, start=1)]
        for start in range(0, len(metrics), 500):
            self.client.log_batch(run_id, metrics=metrics[start : start + 500])
        self.client.log_param(run_id, "code", result["code"])
        self.client.log_dict(run_id, result, RESULT)
        self.client.set_terminated(run_id, FINISHED)

    def keep(self, run_id: str, folder: Path, name: str) -> None:
        """Keep a folder's files with the run."""
        self.client.log_artifacts(run_id, str(folder), name)

    def fail(self, run_id: str, reason: str, details: str, status: str = FAILED) -> None:
        """Note that a run failed, why, and what the process wrote last."""
        self.client.set_tag(run_id, "error", reason[:5000])
        if details:
            self.client.log_text(run_id, details, "error.txt")
        self.client.set_terminated(run_id, status)

    def recorded(self, run_id: str) -> Recorded:
        """What a finished run left, of whichever experiment.

        Raises:
            MarqueeError: there is no such run, or it did not finish.
        """
        from mlflow.exceptions import MlflowException

        try:
            run = self.client.get_run(run_id)
        except MlflowException:
            raise MarqueeError(f"there is no run {run_id!r}; the tables of `marquee bench-models` name them") from None
        if run.info.status != FINISHED:
            raise MarqueeError(f"run {run_id} did not finish, so there are no figures to compare with")
        return Recorded(self._read(run_id, REQUEST), self._read(run_id, RESULT))

    def _read(self, run_id: str, name: str) -> dict[str, Any]:
        from mlflow.exceptions import MlflowException

        with tempfile.TemporaryDirectory() as folder:
            try:
                path = self.client.download_artifacts(run_id, name, folder)
            except (MlflowException, OSError):
                raise MarqueeError(f"run {run_id} has lost its {name}; it cannot be repeated") from None
            found: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        return found

    def _experiment_id(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(self.experiment)
        if found is None:
            try:
                return str(self.client.create_experiment(self.experiment, artifact_location=self.folder.as_uri()))
            except MlflowException:  # another process was quicker
                found = self.client.get_experiment_by_name(self.experiment)
        return str(found.experiment_id)


def tracking_uri(settings: Settings) -> str:
    """Where the runs are kept, as MLflow's own command takes it."""
    return f"sqlite:///{(settings.home / 'mlflow' / 'mlflow.db').resolve()}"


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, names joined by dots; lists joined by commas."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = ",".join(map(str, value)) if isinstance(value, list | tuple) else value
    return found


def metric_name(name: str) -> str:
    """The name as MLflow allows it: ``ndcg@10`` is ``ndcg_at_10``."""
    return re.sub(r"[^\w\-. /:]", "_", name.replace("@", "_at_"))


def versions() -> dict[str, str]:
    """What figures may depend on beside the code."""
    installed = {distribution.metadata["Name"].lower() for distribution in metadata.distributions()}
    found = {f"version.{name}": metadata.version(name) for name in LIBRARIES if name in installed}
    return {"version.python": platform.python_version(), "machine": platform.machine(), **found}


def _client(settings: Settings) -> Any:
    """MLflow's client, silent: it reports use over the network unless told not to, and DO_NOT_TRACK=1 does not do."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    (settings.home / "mlflow").mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=tracking_uri(settings))
