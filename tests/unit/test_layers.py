"""Who may import whom, how big a file may be, and what a light module may load."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from marquee.settings import ROOT

PACKAGES = ("marquee", "ingestion", "expectations", "features", "training", "serving")
ALLOWED = {
    "marquee": {"marquee"},
    "ingestion": {"marquee", "ingestion"},
    "expectations": {"marquee", "expectations"},
    "features": {"marquee", "features"},
    "training": {"marquee", "features", "training"},
    "serving": {"marquee", "features", "training", "serving"},
}
SERVING_TOO = (
    *("catalogue_store", "deleted_events", "event_export", "event_forms", "event_query", "event_stream"),
    *("group_commit", "stream_choice", "valkey_log", "valkey_stream"),
)
"""Modules of ingestion that serving may import: where its events go, and where the managed catalogue is."""
COMPOSITION_ROOT = {
    *("marquee/cli.py", "marquee/upkeep.py", "marquee/demo.py", "marquee/overview.py", "marquee/dag_runs.py"),
    *("marquee/forget.py", "marquee/traces.py", "marquee/bench.py", "marquee/bench_options.py"),
    *(
        "marquee/experiments.py",
        "marquee/monitor.py",
        "marquee/promotions.py",
        "marquee/notify.py",
        "marquee/segments.py",
    ),
    *("marquee/sessions.py", "marquee/similar.py", "marquee/explain.py", "marquee/keys.py", "marquee/managed.py"),
}
"""Files that bring all packages together; they too do it inside functions."""
FIRST_PARTY = {*PACKAGES, "dags", "tests"}
NOT_IN_SERVING = {"tensorflow", "tensorflow_recommenders", "tf_keras", "airflow", "dbt", "great_expectations"}
LONGEST_FILE, LONGEST_DAG = 400, 80

FILES = {package: sorted((ROOT / package).rglob("*.py")) for package in PACKAGES}
DAGS = sorted((ROOT / "dags").rglob("*.py"))


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module: its dotted name, its line, and whether only a call imports it."""

    module: str
    line: int
    in_function: bool

    @property
    def root(self) -> str:
        return self.module.partition(".")[0]


def imports(source: str) -> list[Import]:
    """Every import of a file, wherever it stands; ``from p import m`` names ``p.m``."""
    found: list[Import] = []

    def visit(node: ast.AST, in_function: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, in_function) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            found.extend(Import(f"{prefix}.{alias.name}", node.lineno, in_function) for alias in node.names)
        inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(source), False)
    return found


def read(path: Path) -> list[Import]:
    return imports(path.read_text(encoding="utf-8"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def violations(package: str, file: str, found: list[Import]) -> list[str]:
    """The imports of a package's file that the layers forbid."""
    wrong = []
    for one in found:
        composes = file in COMPOSITION_ROOT and one.root in PACKAGES and (one.in_function or one.root == "marquee")
        streams = package == "serving" and f"{one.module}.".startswith(tuple(f"ingestion.{m}." for m in SERVING_TOO))
        foreign = one.root in FIRST_PARTY and one.root not in ALLOWED[package]
        if one.module.startswith(".") or (foreign and not composes and not streams):
            wrong.append(f"{file}:{one.line} imports {one.module}")
    return wrong


def test_imports_are_seen_wherever_they_stand() -> None:
    source = (
        "from typing import TYPE_CHECKING\n"
        "import a.b as c, d\n"
        "if TYPE_CHECKING:\n    from e import f\n"
        "class G:\n    def h(self):\n        try:\n            from i.j import k\n        finally:\n            pass\n"
        "from . import l\n"
    )
    assert [(one.module, one.line, one.in_function) for one in imports(source)] == [
        ("typing.TYPE_CHECKING", 1, False),
        ("a.b", 2, False),
        ("d", 2, False),
        ("e.f", 4, False),
        ("i.j.k", 8, True),
        ("..l", 11, False),
    ]


@pytest.mark.parametrize(
    ("package", "file", "source", "is_allowed"),
    [
        ("marquee", "marquee/policy.py", "def f():\n    import training.metrics", False),
        ("marquee", "marquee/demo.py", "def f():\n    import training.metrics", True),
        ("marquee", "marquee/demo.py", "import training.metrics", False),
        ("marquee", "marquee/cli.py", "def f():\n    import dags.train_models", False),
        ("features", "features/store.py", "from ingestion.load import connect", False),
        ("training", "training/ranker.py", "from serving import recommend", False),
        ("training", "training/ranker.py", "from features.matrix import codes", True),
        ("serving", "serving/service.py", "from ingestion.event_stream import EventStream", True),
        ("serving", "serving/service.py", "from ingestion import event_stream", True),
        ("serving", "serving/service.py", "from ingestion.event_stream_other import f", False),
        ("serving", "serving/service.py", "from ingestion import load", False),
        ("serving", "serving/service.py", "from .schemas import Event", False),
        ("ingestion", "ingestion/load.py", "from tests import tools", False),
    ],
)
def test_the_rules_themselves(package: str, file: str, source: str, is_allowed: bool) -> None:
    assert (not violations(package, file, imports(source))) is is_allowed


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_one_way_only(package: str) -> None:
    checked, own = 0, 0
    wrong: list[str] = []
    for path in FILES[package]:
        found = read(path)
        wrong += violations(package, name(path), found)
        checked += 1
        own += sum(one.root in PACKAGES for one in found)
    assert wrong == []
    assert checked == len(list((ROOT / package).rglob("*.py"))) >= 5
    assert own >= 5, "no first-party import was seen, so nothing was checked"


def test_the_composition_root_exists() -> None:
    assert sorted(file for file in COMPOSITION_ROOT if not (ROOT / file).is_file()) == []


def test_nothing_is_imported_by_a_name_made_at_run_time() -> None:
    """What ``ast`` cannot see must not exist: no ``__import__`` and no ``import_module``, but for the folder of models.

    A model is one file and nothing lists them, so that file's own package is the only one named there.
    """
    files = [path for paths in FILES.values() for path in paths] + DAGS
    finder = ROOT / "training" / "recommender.py"
    assert re.findall(r"import_module\((.*?)\)", finder.read_text(encoding="utf-8")) == ['f"training.models.{name}"']
    files.remove(finder)
    dynamic = re.compile(r"\b(__import__|import_module|spec_from_file_location)\b")
    assert [name(path) for path in files if dynamic.search(path.read_text(encoding="utf-8"))] == []
    assert len(files) > 60


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_serving_reaches_no_training_or_batch_tool_even_through_others() -> None:
    """All first-party files that serving imports, directly or not, inside functions too."""
    modules = {module_name(path): path for paths in FILES.values() for path in paths}
    pending, reached = [module for module in modules if module.partition(".")[0] == "serving"], set()
    wrong = []
    while pending:
        module = pending.pop()
        if module in reached:
            continue
        reached.add(module)
        for one in read(modules[module]):
            if one.root in NOT_IN_SERVING:
                wrong.append(f"{module} imports {one.module}")
            # `from p.m import x` names `p.m.x`: the module is whichever of both there is.
            pending += [known for known in (one.module, one.module.rpartition(".")[0]) if known in modules]
    assert wrong == []
    assert {"serving.service", "training.bundle", "features.store", "ingestion.event_stream"} <= reached
    assert not {"training.two_tower", "training.pipeline", "ingestion.load", "expectations.validate"} & reached


def test_packages_files_are_short() -> None:
    lines = {name(p): len(p.read_text(encoding="utf-8").splitlines()) for paths in FILES.values() for p in paths}
    assert {file: count for file, count in lines.items() if count > LONGEST_FILE} == {}
    assert len(lines) == sum(len(paths) for paths in FILES.values()) > 60


def test_dags_say_when_and_packages_say_what() -> None:
    names = ["ingest_events", "monitor_bundle", "plan_notifications", "promote_bundle"]
    names += ["train_models", "transform_events"]
    assert [path.stem for path in DAGS] == names
    called = 0
    for path in DAGS:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= LONGEST_DAG, path.name
        # Two words with an underscore equal no package, and dbt imports every module that starts with dbt_.
        assert re.fullmatch(r"(?!dbt_)[a-z]+_[a-z]+", path.stem), path.name
        assert path.stem not in PACKAGES
        # Airflow does not look into a file without these words.
        assert {"airflow", "dag"} <= set(re.findall(r"[a-z]+", text))
        for one in read(path):
            assert one.root not in {"dags", "tests"}, f"{path.name}:{one.line}"
            assert one.in_function or one.root not in set(PACKAGES) - {"marquee"}, f"{path.name}:{one.line}"
            called += one.in_function and one.root in PACKAGES
    assert called >= 2 * len(DAGS)


def test_folders_that_are_no_packages_stay_none() -> None:
    folders = ("dags", "dbt_project", "docker", "tests")
    assert [folder for folder in folders if not (ROOT / folder).is_dir()] == []
    assert [name(path) for folder in folders for path in (ROOT / folder).rglob("__init__.py")] == []
    # dbt imports every top-level module whose name starts with dbt_.
    tops = [path.stem for path in ROOT.glob("dbt_*.py")] + [path.parent.name for path in ROOT.glob("dbt_*/__init__.py")]
    assert tops == []


HEAVY = ("tensorflow", "feast", "great_expectations", "airflow", "bentoml", "dbt", "duckdb")
ARRAYS_ONLY = (
    "marquee.contract",
    "marquee.linear_bandit",
    "marquee.policy",
    "marquee.settings",
    "features.matrix",
    "training.metrics",
    "training.ope",
    "training.slate_ope",
    "training.eligibility",
    "serving.client",
)
SCORING = ("serving.recommend", "serving.reasons")
IMPORTER = """
import importlib, json, sys
names, heavy = json.loads(sys.argv[1])
loaded = {}
for name in names:
    importlib.import_module(name)
    loaded[name] = [module for module in heavy if module in sys.modules]
print(json.dumps(loaded))
"""


def loaded_by(names: tuple[str, ...], heavy: tuple[str, ...]) -> dict[str, list[str]]:
    """Which of the heavy modules are loaded after each import, in a fresh process."""
    call = [sys.executable, "-W", "ignore", "-c", IMPORTER, json.dumps([names, heavy])]
    done = subprocess.run(call, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    result: dict[str, list[str]] = json.loads(done.stdout)
    return result


def test_light_modules_load_arrays_and_nothing_more() -> None:
    assert loaded_by(ARRAYS_ONLY, (*HEAVY, "pandas", "pyarrow", "xgboost", "sklearn")) == {m: [] for m in ARRAYS_ONLY}


def test_scoring_loads_no_platform_tool() -> None:
    assert loaded_by(SCORING, HEAVY) == {module: [] for module in SCORING}


def test_the_budget_would_notice() -> None:
    assert loaded_by(("duckdb",), HEAVY) == {"duckdb": ["duckdb"]}
