"""Run the dbt project on the warehouse, in this process."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import duckdb

from marquee.errors import MarqueeError, NothingToDo
from marquee.settings import ROOT, Settings

PROJECT: Final = ROOT / "dbt_project"
FAILED: Final = ("error", "fail", "runtime error")


@dataclass(frozen=True, slots=True)
class DbtResult:
    """How many nodes of each kind dbt ran, and what it warned of, one line each."""

    models: int
    data_tests: int
    unit_tests: int
    warnings: tuple[str, ...]


def transform(settings: Settings) -> DbtResult:
    """Build every model and run every test on the admitted batches.

    Raises:
        NothingToDo: no batch has been admitted yet.
        MarqueeError: a model or a test failed; the message names it.
    """
    if not _has_admitted_batch(settings):
        raise NothingToDo("no admitted batch to transform yet: ingest some events and let the gate check them first")
    result = run_dbt(settings, "build")
    if not (result.models and result.data_tests and result.unit_tests):
        raise MarqueeError(f"dbt build skipped a whole kind of node, so it proved nothing: {result}")
    return result


def run_dbt(settings: Settings, verb: str = "build", *args: str) -> DbtResult:
    """Run one dbt command on ``settings.dbt_target``; its logs and compiled SQL go to ``home/dbt``.

    Args:
        settings: whose warehouse and attribution window to use.
        verb: ``build``, ``run``, ``test``, ``seed`` or ``compile``.
        args: further arguments as on dbt's command line, such as ``--select``, ``visitor_features``.

    Raises:
        MarqueeError: the project does not parse, a node failed or nothing was selected; the first failed node and
            the first line of its message are named.
    """
    from dbt.cli.main import dbtRunner

    home = settings.home / "dbt"
    home.mkdir(parents=True, exist_ok=True)
    with _environment({"DBT_DUCKDB_PATH": str(settings.warehouse), "DO_NOT_TRACK": "1"}):
        try:
            answer = dbtRunner().invoke([*_global_flags(settings), verb, *_flags(settings), *args])
        finally:
            _release_warehouse()
    results = list(getattr(answer.result, "results", None) or [])
    _raise_on_failure(verb, answer, results)
    if not results:
        raise MarqueeError(f"dbt {verb} ran nothing: no node matches {' '.join(args) or 'the project'}")
    return _summary(results)


def _global_flags(settings: Settings) -> list[str]:
    logs = str(settings.home / "dbt" / "logs")
    return ["--log-level", "none", "--no-use-colors", "--no-send-anonymous-usage-stats", "--log-path", logs]


def _flags(settings: Settings) -> list[str]:
    variables = {"attribution_days": settings.attribution_days}
    return [
        *("--project-dir", str(PROJECT)),
        *("--profiles-dir", str(PROJECT)),
        *("--target", settings.dbt_target),
        *("--target-path", str(settings.home / "dbt" / "target")),
        *("--vars", json.dumps(variables)),
    ]


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    # Put back afterwards: DBT_DUCKDB_PATH is the profile's, and load_settings refuses names it does not know.
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _release_warehouse() -> None:
    # dbt keeps the DuckDB file open for writing after it returns, which locks every other process out.
    from dbt.adapters.duckdb.connections import DuckDBConnectionManager

    DuckDBConnectionManager.close_all_connections()


def _raise_on_failure(verb: str, answer: Any, results: list[Any]) -> None:
    failed = [result for result in results if str(result.status) in FAILED]
    if failed:
        first = failed[0]
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise MarqueeError(f"dbt {verb}: {first.node.resource_type} {first.node.name} failed{more}: {_line(first)}")
    if answer.exception is not None:
        # The first line only says what kind of error it is: "Parsing Error".
        text = ": ".join(line.strip() for line in str(answer.exception).splitlines()[:2])
        raise MarqueeError(f"dbt {verb}: {text[:500]}") from answer.exception
    if not answer.success:
        raise MarqueeError(f"dbt {verb} failed without saying why; see dbt/logs under the installation's home")


def _line(result: Any) -> str:
    """The first line of a node's message that says something: dbt's own first line repeats the node's name."""
    lines = [line.strip() for line in (result.message or "no message").splitlines() if line.strip()]
    return lines[1] if len(lines) > 1 and re.match(r"\w+ Error in ", lines[0]) else lines[0]


def _summary(results: list[Any]) -> DbtResult:
    kinds = Counter(str(result.node.resource_type) for result in results if str(result.status) != "skipped")
    warnings = tuple(f"{r.node.name}: {_line(r)}" for r in results if str(r.status) == "warn")
    return DbtResult(kinds["model"], kinds["test"], kinds["unit_test"], warnings)


def _has_admitted_batch(settings: Settings) -> bool:
    if not settings.warehouse.exists():
        return False
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        try:
            row = connection.execute("select count(*) from raw.batches where status = 'admitted'").fetchone()
        except duckdb.CatalogException:
            return False
    return bool(row[0])
