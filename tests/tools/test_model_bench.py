"""The model bench as its user meets it: one command compares models, keeps what it did, and can do it again."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from typer.testing import CliRunner

from marquee.cli import app
from marquee.errors import MarqueeError
from marquee.settings import ROOT, Settings
from training.harness.model_list import listing, typed
from training.harness.model_source import import_listing, read_listing
from training.harness.tracking import FAILED, FINISHED, KILLED, Runs, tracking_uri
from training.recommender import load_model, model_class, model_names

pytestmark = pytest.mark.tools
USERS, ITEMS, LENGTH = 120, 24, 8
EXAMPLE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


def checkerboard(path: Path) -> Path:
    """Even users take even items and odd users odd ones, eight each, one a day."""
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        file.write("user_id,item_id,timestamp\n")
        for user in range(USERS):
            for place, item in enumerate(rng.choice(np.arange(user % 2, ITEMS, 2), LENGTH, replace=False)):
                file.write(f"u{user:03d},i{item:02d},{1_600_000_000 + 86_400 * place + 60 * user}\n")
    return path


def told(*words: str | Path) -> dict[str, Any]:
    """What the verb says with ``--json`` when all went well."""
    answer = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert answer.exception is None, answer.exception
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def refused(*words: str | Path) -> str:
    """The one line that the verb ends with when something is wrong."""
    answer = CliRunner().invoke(app, [*map(str, words)])
    assert isinstance(answer.exception, MarqueeError), answer.output
    assert answer.stdout == ""
    line = str(answer.exception)
    assert "\n" not in line
    return line


def artifact(room: Path, run_id: str, name: str) -> Path:
    """A run's file or folder."""
    return room / "home" / "mlflow" / "artifacts" / run_id / "artifacts" / name


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the data, and an installation's home that the tests of this file share."""
    folder = tmp_path_factory.mktemp("bench")
    checkerboard(folder / "events.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def benched(room: Path) -> dict[str, Any]:
    """Three rows, with everything that can be measured."""
    return told(
        *("bench-models", "--data", "events.csv", "--protocol", "leave-one-out", "--k", "5", "--metric", "hr@5"),
        *("--models", "popular,ease,ease:weak", "--set", "ease:weak.regularisation=1e9", "--keep-models"),
        *("--robustness", "0.5", "--refit", "--scaling", "--home", room / "home", "--out", room / "report"),
    )


def test_one_command_compares_models_in_a_world_whose_answer_is_known(benched: dict[str, Any]) -> None:
    """Who knows the colour finds the right one of five unseen items of it for sure; popularity has 17 to choose from.

    With an endless penalty EASE's weights are proportional to how often two items were taken by one user, which is
    never where their colours differ; otherwise they are not far from that.
    """
    rows = {row["model"]: row for row in benched["rows"]}
    quality = {name: row["metrics"]["hr@5"]["value"] for name, row in rows.items()}
    assert list(quality) == ["ease:weak", "ease", "popular"]
    assert quality["ease:weak"] == 1.0 > quality["ease"] > 0.9
    assert 0.1 < quality["popular"] < 0.5
    gap = rows["popular"]["to_best"]
    assert gap["value"] == pytest.approx(quality["popular"] - 1.0)
    assert gap["high"] < 0
    assert rows["ease:weak"]["to_best"] is None
    assert rows["ease:weak"]["to_popular"]["value"] == -gap["value"]
    assert rows["ease:weak"]["settings"]["regularisation"] == 1e9
    assert rows["ease"]["settings"] == {one.name: one.default for one in listing("ease").settings}


def test_a_row_says_what_it_cost(benched: dict[str, Any]) -> None:
    for row in benched["rows"]:
        cost, speed = row["cost"], row["speed"]
        # NumPy and SciPy alone take tens of MB; this test's own process, with pytest and MLflow, takes hundreds.
        assert 20 < cost["peak_mb"] < 200
        assert 0 <= cost["own_mb"] < cost["peak_mb"]
        assert 0 < cost["fit_s"] < 60
        assert cost["epochs"] == 0
        assert 0 < speed["p50_ms"] <= speed["p99_ms"]
        assert speed["per_second"] > 100
        assert [one["items"] for one in row["scaling"]] == [2, 6, ITEMS]
        assert [one["kind"] for one in row["robustness"]] == ["dropped", "flipped", "delayed"]
    robust = {row["model"]: {one["kind"]: one["kept"] for one in row["robustness"]} for row in benched["rows"]}
    assert robust["ease"]["flipped"] < robust["ease"]["delayed"] <= 1.0


def test_the_report_is_a_folder_of_three_files(room: Path, benched: dict[str, Any]) -> None:
    assert files(room / "report") == ["report.html", "results.csv", "results.json"]
    page = (room / "report" / "report.html").read_text()
    # Quality, against time, by history (all have seven events, so none), by popularity, robustness, scaling.
    assert page.count("<img ") == 5
    assert page.count("events.csv") >= 2
    assert [line["model"] for line in csv.DictReader((room / "report" / "results.csv").open())] == [
        row["model"] for row in benched["rows"]
    ]
    about = json.loads((room / "report" / "results.json").read_text())["about"]
    assert about["split"]["questions"] == USERS
    assert about["files"]["data"]["path"] == str(room / "events.csv")


def test_runs_are_tracked_and_keep_their_models(room: Path, benched: dict[str, Any]) -> None:
    settings = Settings(home=room / "home")
    client = Runs(settings, "bench-models").client
    assert tracking_uri(settings) == f"sqlite:///{room}/home/mlflow/mlflow.db"
    for row in benched["rows"]:
        run = client.get_run(row["run_id"])
        assert run.info.status == FINISHED
        assert run.data.metrics["hr_at_5"] == row["metrics"]["hr@5"]["value"]
        assert run.data.params["job.model"] == row["model"]
        assert len(run.data.params["files.data.sha256"]) == 64
        assert {"version.numpy", "protocol", "job.seed", "code"} <= set(run.data.params)
        assert load_model(artifact(room, row["run_id"], "model")).name() == row["model"].partition(":")[0]


def test_a_row_is_repeated_from_its_run_id_alone(room: Path, benched: dict[str, Any]) -> None:
    row = next(row for row in benched["rows"] if row["model"] == "ease:weak")
    again = told("bench-models", "--rerun", row["run_id"], "--home", room / "home")
    assert again["equal"]
    assert again["same_code"]
    assert again["model"] == "ease:weak"
    assert again["run_id"] != row["run_id"]
    assert again["figures"]["hr@5"] == {"then": 1.0, "now": 1.0}
    assert len(again["figures"]) == 7 + 6
    text = CliRunner().invoke(app, ["bench-models", "--rerun", again["run_id"], "--home", str(room / "home")])
    assert "ease:weak: every figure is equal; the code is the same" in text.stdout


def test_a_row_is_not_repeated_on_other_data(room: Path, benched: dict[str, Any], tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text((room / "events.csv").read_text() + "u000,i01,1700000000\n")
    run_id = benched["rows"][0]["run_id"]
    call = ("bench-models", "--home", room / "home", "--rerun")
    assert "other.csv is not the file of that run: sha256" in refused(*call, run_id, "--data", other)
    assert refused(*call, "0" * 32).startswith(f"there is no run '{'0' * 32}'")


def test_figures_that_are_not_the_same_are_an_error(room: Path, benched: dict[str, Any]) -> None:
    """A record with another value than the model gives: the table is shown, and the command fails."""
    run_id = benched["rows"][0]["run_id"]
    path = artifact(room, run_id, "result.json")
    before = path.read_text()
    record = json.loads(before)
    assert record["metrics"]["hr@5"]["value"] == 1.0
    record["metrics"]["hr@5"]["value"] = 0.5
    path.write_text(json.dumps(record))
    answer = CliRunner().invoke(app, ["bench-models", "--rerun", run_id, "--home", str(room / "home")])
    path.write_text(before)
    assert "does not repeat run" in str(answer.exception)
    assert re.search(r"hr@5 +│ 0\.500000 │ 1\.000000", answer.stdout)


GIVEN = ("--data", "events.csv", "--protocol", "leave-one-out")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give --data FILE"),
        (("--data", "events.csv"), "give --protocol: sessions, leave-one-out"),
        (("--data", "events.csv", "--protocol", "random"), "there is no protocol 'random'"),
        (("--data", "none.csv", "--protocol", "temporal"), "there is no file none.csv"),
        ((*GIVEN, "--columns", "user"), "--columns user: write role=column"),
        ((*GIVEN, "--columns", "user=who"), "has no column 'who'"),
        ((*GIVEN, "--models", "easy"), "there is no model 'easy'"),
        ((*GIVEN, "--set", "ease.x=1"), "ease has no setting 'x'"),
        ((*GIVEN, "--models", "popular", "--set", "ease.weighted=true"), "--set names ease, which is not among"),
        ((*GIVEN, "--settings", "none.toml"), "none.toml: No such file"),
        ((*GIVEN, "--k", "0"), "--k 0: write numbers from 1"),
        ((*GIVEN, "--k", "ten"), "--k ten: write numbers from 1"),
        ((*GIVEN, "--metric", "auc@10"), "there is no metric 'auc@10'"),
        ((*GIVEN, "--metric", "ndcg"), "there is no metric 'ndcg'"),
        ((*GIVEN, "--robustness", "30"), "--robustness 30: write numbers from 0 to 1"),
        ((*GIVEN, "--test-share", "2"), "the test share is 2"),
        ((*GIVEN, "--out", "."), "which is no report of ours"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(
    words: tuple[str, ...], said: str, room: Path, tmp_path: Path
) -> None:
    before = files(room)
    assert said in refused("bench-models", *words, "--home", tmp_path / "home")
    assert [path for path in files(tmp_path) if not path.startswith("home/mlflow/")] == []
    assert files(room) == before


def test_models_are_listed_from_their_text_as_their_classes_have_them() -> None:
    compared = 0
    for name in model_names():
        path = ROOT / "training" / "models" / f"{name}.py"
        assert read_listing(name, path) == import_listing(name), name
        compared += 1
    assert compared == len(model_names()) >= 3


def test_every_search_space_draws_settings_that_its_model_has() -> None:
    searched = 0
    for name in model_names():
        kind, study = model_class(name), optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
        for _ in range(5):
            settings = kind.space(study.ask())
            model = kind(**settings)
            for setting, value in settings.items():
                assert typed(name, setting, value) == getattr(model.settings, setting), f"{name}.{setting}"
            searched += bool(settings)
    assert searched >= 5


def test_listing_models_loads_no_tensorflow() -> None:
    code = "import sys; from marquee.bench import models; models(); print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[-1] == "False"
    assert [line.split()[0] for line in lines[:-1:2]] == model_names()


BROKEN = "def fit(self) this is not Python\n"
ODD = '''
"""A model for tests of the bench."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import Any, Self

from training.interactions import Interactions, Queries
from training.recommender import PLAIN, Epoch, Fitting, Recommender


@dataclass(frozen=True, slots=True)
class OddSettings:
    """Plain values.

    Attributes:
        does: what happens in the fit.
        epochs: passes.
        right: with anything but 3 nothing is learnt.
    """

    does: str = "fit"
    epochs: int = 3
    right: float = 3.0


class Odd(Recommender):
    """What was taken together, in epochs, of which the second is the best; or a failure."""

    Settings = OddSettings
    about = "does what it is told"

    @classmethod
    def space(cls, trial: Any) -> dict[str, Any]:
        return {"right": float(trial.suggest_categorical("right", [2, 3]))}

    def fit(self, train: Interactions, fitting: Fitting = PLAIN) -> Self:
        if self.settings.does == "raise":
            raise ArithmeticError("the matrix is\\nsingular")
        if self.settings.does == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.settings.does == "sleep":
            time.sleep(600)
        self.item_ids = train.item_ids
        good = (train.matrix().T @ train.matrix()).toarray()
        best, quality = good, -1.0
        for number in range(1, self.settings.epochs + 1):
            self.together = good if number == 2 and self.settings.right == 3.0 else good * 0
            if fitting.validate and (now := fitting.validate(self)) > quality:
                best, quality = self.together, now
            if fitting.on_epoch:
                fitting.on_epoch(Epoch(number, self.settings.epochs, 1.0 / number))
        if fitting.validate:
            self.together = best
        return self

    def score(self, queries: Queries) -> Any:
        return queries.histories.matrix() @ self.together

    def state(self) -> dict[str, Any]:
        return {"together": self.together}

    def restore(self, state: dict[str, Any]) -> None:
        self.together = state["together"]


MODEL = Odd
'''
STILL = """
from typing import Any

from training.models.popular import Popular, PopularSettings


class Still(Popular):
    Settings = PopularSettings
    about = "has nothing to search"

    @classmethod
    def space(cls, trial: Any) -> dict[str, Any]:
        return {}


MODEL = Still
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code with three more models."""
    folder = tmp_path_factory.mktemp("tree")
    for package in ("training", "marquee", "features"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "training" / "models" / "broken.py").write_text(BROKEN)
    (folder / "training" / "models" / "odd.py").write_text(ODD)
    (folder / "training" / "models" / "still.py").write_text(STILL)
    return folder


def command(tree: Path, room: Path, *words: str) -> list[str]:
    assert (room / "events.csv").is_file()
    return [sys.executable, "-m", "marquee.cli", *words, "--home", str(room / "home")]


def environment(tree: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(tree)}


def run(tree: Path, room: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """One run of the copied code."""
    return subprocess.run(
        command(tree, room, *words), cwd=room, env=environment(tree), capture_output=True, text=True, check=False
    )


def test_a_model_that_fails_is_a_row_with_its_reason_and_the_others_go_on(tree: Path, room: Path) -> None:
    models = "broken,odd:raises,odd:dies,odd"
    changes = ("--set", "odd:raises.does=raise", "--set", "odd:dies.does=die", "--patience", "2")
    done = run(tree, room, "bench-models", *GIVEN, "--models", models, *changes, "--out", "odd", "--json")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line == "error: 3 of 4 models failed: broken, odd:raises, odd:dies; why: odd/errors"
    rows = {row["model"]: row for row in json.loads(done.stdout)["rows"]}
    assert list(rows) == ["odd", "broken", "odd:raises", "odd:dies"]
    assert rows["broken"]["error"].startswith("SyntaxError: ")
    raised = next(n for n, text in enumerate(ODD.splitlines(), 1) if "raise Arithmetic" in text)
    reason = f"ArithmeticError: the matrix is singular (training/models/odd.py:{raised})"
    assert rows["odd:raises"]["error"] == reason
    assert "killed (signal 9)" in rows["odd:dies"]["error"]
    # Three epochs with losses 1, 1/2 and 1/3. The validation event is no training data, so the fit that stopped by it
    # is the model, with the weights of the second epoch.
    assert rows["odd"]["cost"]["losses"] == [1.0, 0.5, 1 / 3]
    assert rows["odd"]["metrics"]["hr@10"]["value"] == 1.0
    assert files(room / "odd") == [
        *("errors/broken.txt", "errors/odd-dies.txt", "errors/odd-raises.txt"),
        *("report.html", "results.csv", "results.json"),
    ]
    assert "Traceback" in (room / "odd" / "errors" / "odd-raises.txt").read_text()
    client = Runs(Settings(home=room / "home"), "bench-models").client
    failed = client.get_run(rows["odd:raises"]["run_id"])
    assert (failed.info.status, failed.data.tags["error"]) == (FAILED, reason)
    finished = client.get_metric_history(rows["odd"]["run_id"], "loss")
    assert [(one.step, one.value) for one in finished] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


def test_a_fit_that_was_stopped_early_is_done_anew_on_all_data(tree: Path, room: Path) -> None:
    """Five of eight events are before the border and three of these before the validation's; two epochs were best.

    Seven items of the colour are unseen and three of them right, so one is among any five of the seven.
    """
    words = ("--data", "events.csv", "--protocol", "temporal", "--test-share", "0.4", "--models", "odd")
    done = run(tree, room, "bench-models", *words, "--patience", "2", "--metric", "hr@5", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    assert row["settings"]["epochs"] == row["cost"]["epochs"] == 2
    assert row["cost"]["losses"] == [1.0, 0.5]
    assert row["metrics"]["hr@5"]["value"] == 1.0


def test_tuning_finds_the_best_settings_and_goes_on_from_where_it_was(tree: Path, room: Path) -> None:
    words = ("tune-models", *GIVEN, "--models", "odd,still", "--metric", "hr@5", "--epochs", "2", "--budget", "300")
    done = run(tree, room, *words, "--set", "odd.right=1.0", "--out", "best.toml", "--json")
    assert done.returncode == 0, done.stderr
    odd, still = json.loads(done.stdout)["models"]
    assert odd["settings"] == {"right": 3.0, "epochs": 2}
    # Six of twelve are unseen, so who knows the colour finds one of them among five in 5/6 of all cases.
    assert odd["value"] > 0.7 > odd["default"]
    assert (odd["trials"], odd["note"]) == (3, "all there is was tried")
    assert (still["trials"], still["note"]) == (1, "its file names no settings to search")
    client = Runs(Settings(home=room / "home"), "tune-models").client
    best = client.get_run(odd["run_id"])
    assert best.data.params["part"] == "validation"
    assert best.data.params["job.settings.right"] == "3.0"
    assert f"# run {odd['run_id']}\n[odd]\n" in (room / "best.toml").read_text()
    count = len(client.search_runs([best.info.experiment_id]))
    again = run(tree, room, *words, "--set", "odd.right=1.0", "--out", "best.toml", "--json")
    assert json.loads(again.stdout)["models"][0] == odd
    assert len(client.search_runs([best.info.experiment_id])) == count, "nothing was fitted twice"


def test_tuning_keeps_to_its_budget(tree: Path, room: Path) -> None:
    words = ("tune-models", *GIVEN, "--models", "odd", "--set", "odd.does=sleep", "--budget", "2", "--out", "late.toml")
    start = time.monotonic()
    done = run(tree, room, *words, "--json")
    assert time.monotonic() - start < 120
    (odd,) = json.loads(done.stdout)["models"]
    assert odd["value"] is None
    assert re.fullmatch("with its present settings it did not end within [12] s", odd["note"])


def test_what_was_done_before_ctrl_c_is_kept(tree: Path, room: Path) -> None:
    before = {run.info.run_id for run in all_runs(room)}
    words = ("bench-models", *GIVEN, "--models", "popular,odd", "--set", "odd.does=sleep", "--out", "never")
    process = subprocess.Popen(
        command(tree, room, *words), cwd=room, env=environment(tree), stderr=subprocess.PIPE, text=True
    )
    waiting = time.monotonic() + 300
    while len(all_runs(room)) < len(before) + 2:
        assert time.monotonic() < waiting
        assert process.poll() is None
        time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said == "error: interrupted; rows that were done are tracked, and no report was written\n"
    assert not (room / "never").exists()
    status = {run.info.run_name: run.info.status for run in all_runs(room) if run.info.run_id not in before}
    assert status == {"popular": FINISHED, "odd": KILLED}


def all_runs(room: Path) -> list[Any]:
    client = Runs(Settings(home=room / "home"), "bench-models").client
    experiment = client.get_experiment_by_name("bench-models")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def test_the_documents_model_runs_through_the_bench(tree: Path, room: Path) -> None:
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", EXAMPLE, re.DOTALL) if "\nMODEL = " in block]
    (name,) = re.findall(r"`training/models/(\w+)\.py`, complete", EXAMPLE)
    tree_file = tree / "training" / "models" / f"{name}.py"
    tree_file.write_text(code)
    (room / "chosen.toml").write_text(f"[{name}]\nfading = 0.5\n")
    done = run(tree, room, "bench-models", *GIVEN, "--models", name, "--settings", "chosen.toml", "--k", "5", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    assert row["metrics"]["hr@5"]["value"] > 0.95
    defaults = {setting.name: setting.default for setting in read_listing(name, tree_file).settings}
    assert row["settings"] == defaults | {"fading": 0.5} != defaults
