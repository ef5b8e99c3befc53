"""Run the dbt project on the warehouse, in this process."""

from __future__ import annotations

import fcntl
import gc
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from ingestion.builds import Asked, Build, finish_build, has_batches, next_build, start_build
from ingestion.warehouse import connect, create_tables
from marquee import contract
from marquee.errors import MarqueeError, NothingToDo, WarehouseBusy
from marquee.lineage import emit_dbt_lineage
from marquee.settings import ROOT, Settings
from marquee.warehouse import lock_holder

PROJECT: Final = ROOT / "dbt_project"
EVENTS_ONLY: Final = [
    "--exclude",
    *("path:models/staging", "path:seeds", "source:*", "config.materialized:view", "tag:catalogue"),
]
"""Leaves out what new events cannot change: views, seeds, and what is tested of the catalogue as it came."""
NO_BATCH: Final = "no admitted batch to transform yet: ingest some events and let the gate check them first"
FAILED: Final = ("error", "fail", "runtime error")
Window = tuple[date, date]
"""First and last day to build, both inclusive."""


@dataclass(frozen=True, slots=True)
class DbtResult:
    """How many nodes of each kind dbt ran, what it warned of, one line each, and which days it built (None: all)."""

    models: int
    data_tests: int
    unit_tests: int
    warnings: tuple[str, ...]
    window: Window | None = None


def transform(
    settings: Settings, from_date: date | None = None, to_date: date | None = None, full_refresh: bool = False
) -> DbtResult:
    """Build the days that admitted batches changed, or those asked for, and test what was built.

    Everything is built the first time and whenever a variable, a model or the target changed or a batch was taken
    back. A build that was interrupted is made up for. Without anything new no node runs at all.

    Raises:
        NothingToDo: no batch has been admitted yet.
        WarehouseBusy: another build is running, or another process has the warehouse.
        MarqueeError: a model or a test failed (the message names it), there is no event on the days asked for, or days
            were asked for and a full refresh too.
    """
    if full_refresh and (from_date or to_date):
        raise MarqueeError("a full refresh builds all days; ask for it or for days, not for both")
    if not settings.warehouse.exists():
        raise NothingToDo(NO_BATCH)
    with _only_build(settings):
        target, vars_hash = _target_id(settings), _vars_hash(settings)
        with connect(settings) as connection:
            create_tables(connection)
            if not has_batches(connection):
                raise NothingToDo(NO_BATCH)
            build = next_build(connection, target, vars_hash, Asked(from_date, to_date, full_refresh))
            if build is None:
                return DbtResult(0, 0, 0, ())
            build_id = start_build(connection, target, vars_hash, build)
        result = _build(settings, build)
        with connect(settings) as connection:
            finish_build(connection, build_id, target, build)
    return result


@contextmanager
def _only_build(settings: Settings) -> Iterator[None]:
    """Hold the installation's builds; two at once would read each other's half-built tables and dbt's own files."""
    path = settings.home / "dbt" / "build.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise WarehouseBusy(
                f"another build is running in {lock.read() or 'another process'}; wait for it to end, then try again"
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()}")
        lock.flush()
        yield


def _build(settings: Settings, build: Build) -> DbtResult:
    if settings.dbt_target != "duckdb":
        from ingestion import targets

        targets.push(settings)
    chosen = ["--full-refresh"] if build.is_full else [] if build.has_catalogue else EVENTS_ONLY
    result = run_dbt(settings, "build", "--exclude-resource-type", "unit_test", *chosen, window=build.window)
    emit_dbt_lineage(settings)
    if not (result.models and result.data_tests):
        raise MarqueeError(f"dbt build skipped a whole kind of node, so it proved nothing: {result}")
    if settings.dbt_target != "duckdb":
        targets.pull(settings, build.window)
    return result


def run_dbt(settings: Settings, verb: str = "build", *args: str, window: Window | None = None) -> DbtResult:
    """Run one dbt command on ``settings.dbt_target``; its logs and compiled SQL go to ``home/dbt``.

    Args:
        settings: whose warehouse and attribution window to use.
        verb: ``build``, ``run``, ``test``, ``seed`` or ``compile``.
        args: further arguments as on dbt's command line, such as ``--select``, ``visitors``.
        window: the days to build; all of them if not given.

    Raises:
        MarqueeError: the project does not parse, a node failed or nothing was selected; the first failed node and
            the first line of its message are named.
    """
    from dbt.cli.main import dbtRunner

    home = settings.home / "dbt"
    home.mkdir(parents=True, exist_ok=True)
    with _environment(_variables(settings)), _target_started(settings), _uncollected():
        try:
            # Parsed without the window: dbt parses everything again when a variable differs from the last time.
            parsed = dbtRunner().invoke([*_global_flags(settings), "parse", *_flags(settings)])
            _raise_on_failure("parse", parsed, [])
            runner = dbtRunner(manifest=parsed.result)
            answer = runner.invoke([*_global_flags(settings), verb, *_flags(settings, window), *args])
        finally:
            _release_warehouse()
    results = list(getattr(answer.result, "results", None) or [])
    _raise_on_failure(verb, answer, results)
    if not results:
        raise MarqueeError(f"dbt {verb} ran nothing: no node matches {' '.join(args) or 'the project'}")
    return _summary(results, window)


def dbt_vars(settings: Settings) -> dict[str, Any]:
    """The dbt variables that settings and contract decide; the others stand in ``dbt_project.yml``."""
    return {
        "attribution_days": settings.attribution_days,
        "notification_hours": settings.notification_hours,
        "implicit_weights": contract.IMPLICIT_WEIGHTS,
        "session_minutes": contract.SESSION_GAP_MINUTES,
        "session_half_life_minutes": contract.SESSION_HALF_LIFE_MINUTES,
        "session_products": contract.SESSION_PRODUCTS,
    }


def _vars_hash(settings: Settings) -> str:
    """Fingerprint of all that decides what an event becomes: the variables and the project's SQL."""
    digest = hashlib.sha256(json.dumps(dbt_vars(settings), sort_keys=True).encode())
    files = [PROJECT / "dbt_project.yml"]
    files += [f for folder in ("models", "macros", "seeds") for f in (PROJECT / folder).rglob("*") if f.is_file()]
    for file in sorted(files):
        if file.suffix in (".sql", ".csv") or file.name == "dbt_project.yml":
            digest.update(f"{file.relative_to(PROJECT)}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _target_id(settings: Settings) -> str:
    if settings.dbt_target == "duckdb":
        return "duckdb"
    from ingestion import targets

    return targets.target_id(settings)


def _variables(settings: Settings) -> dict[str, str]:
    quiet = {"DO_NOT_TRACK": "1"}
    if settings.dbt_target == "duckdb":
        return {"DBT_DUCKDB_PATH": str(settings.warehouse)} | quiet
    from ingestion import targets

    return targets.environment(settings) | quiet


@contextmanager
def _target_started(settings: Settings) -> Iterator[None]:
    if settings.dbt_target == "duckdb":
        yield
        return
    from ingestion import targets

    targets.start(settings)
    yield


def _global_flags(settings: Settings) -> list[str]:
    logs = str(settings.home / "dbt" / "logs")
    return [
        "--log-level",
        "none",
        "--log-level-file",
        "info",
        "--no-use-colors",
        "--no-send-anonymous-usage-stats",
        "--log-path",
        logs,
    ]


def _flags(settings: Settings, window: Window | None = None) -> list[str]:
    days = dict(zip(("from_date", "to_date"), map(str, window), strict=True)) if window else {}
    return [
        *("--project-dir", str(PROJECT)),
        *("--profiles-dir", str(PROJECT)),
        *("--target", settings.dbt_target),
        *("--target-path", str(settings.home / "dbt" / "target")),
        *("--vars", json.dumps(dbt_vars(settings) | days)),
    ]


@contextmanager
def _uncollected() -> Iterator[None]:
    # dbt makes millions of objects that live as long as its run; looking among them for garbage takes a tenth of it.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


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
    said = "".join(f"{result.message}" for result in failed[:1]) + str(answer.exception or "")
    if holder := lock_holder(MarqueeError(said)):
        raise WarehouseBusy(f"the warehouse is in use by {holder}; wait for it to end, then try again")
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


def _summary(results: list[Any], window: Window | None) -> DbtResult:
    kinds = Counter(str(result.node.resource_type) for result in results if str(result.status) != "skipped")
    warnings = tuple(f"{r.node.name}: {_line(r)}" for r in results if str(r.status) == "warn")
    return DbtResult(kinds["model"], kinds["test"], kinds["unit_test"], warnings, window)
