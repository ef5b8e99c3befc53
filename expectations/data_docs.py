"""Runs suites through Great Expectations and keeps its data docs; the only module that opens a GX context."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from expectations.gate_page import was_judged, write_gate_page
from expectations.library import great_expectations

if TYPE_CHECKING:
    import great_expectations as gx
    from great_expectations.data_context import EphemeralDataContext

LOG: Final = logging.getLogger("marquee.gates")
SITE: Final = "data_docs"
SHOWN_RUNS: Final = 500
"""Latest validations that the index page lists; pages of older ones stay on disk."""


@dataclass(frozen=True, slots=True)
class Check:
    """One suite and the frame it is asked of."""

    suite: gx.ExpectationSuite
    frame: pd.DataFrame


@dataclass(frozen=True, slots=True)
class Finding:
    """What one expectation found, in one sentence."""

    failed: bool
    is_critical: bool
    is_judged: bool
    column: str | None
    text: str


def run_checks(
    reports: Path, subject: str, at: datetime, checks: Sequence[Check]
) -> tuple[list[Finding], Callable[[], None]]:
    """Ask every expectation.

    Returns:
        What each one found, and what rebuilds ``reports/gates.html`` and ``reports/data_docs/index.html``: to be called
        once the gate's decision is kept. It never raises, for no page may stop a gate.

    Args:
        reports: folder that keeps validation results and data docs.
        subject: the run's name in the docs. Checking the same subject as of the same moment replaces its page.
        at: moment of the data, UTC, not of the check, so that docs of equal data are equal.
        checks: suites with their frames.
    """
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    great_expectations()
    from great_expectations.core.run_identifier import RunIdentifier

    context = _open_context(reports)
    run = RunIdentifier(run_name=subject, run_time=at)
    findings = [finding for check in checks for finding in _run(context, check, run)]
    return findings, lambda: _publish(context, reports, checks, run)


@contextmanager
def imported_meanwhile() -> Iterator[None]:
    """Import Great Expectations in a thread beside the block, whose queries take as long; ready when it ends."""
    thread = Thread(target=great_expectations, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def describe(result: Any) -> str:
    """A failed result as one sentence: what was observed where, and which expectation it broke."""
    config, seen = result.expectation_config, result.result or {}
    kwargs = {key: value for key, value in config.kwargs.items() if key != "batch_id" and value is not None}
    column = kwargs.pop("column", None)
    where = f"column {column}" if column else "table"
    about = (config.meta or {}).get("about")
    if about and seen.get("partial_unexpected_list"):
        observed = ", ".join(f"{item:.3g}" for item in seen["partial_unexpected_list"])
        bounds = ", ".join(f"{key} {kwargs[key]:g}" for key in ("min_value", "max_value") if key in kwargs)
        return f"{column} ({about}) is {observed}, which breaks {bounds}"
    limits = ", ".join(f"{key} {_limit(value)}" for key, value in kwargs.items())
    return f"{where}: {_observed(seen, result.exception_info)}, which breaks {config.type}({limits})"


def _publish(context: EphemeralDataContext, reports: Path, checks: Sequence[Check], run: Any) -> None:
    try:
        write_gate_page(reports)
        # Only this run's pages and the index: all pages anew would cost more with each batch there ever was.
        context.build_data_docs(resource_identifiers=_pages(context, checks, run))
    except Exception as error:
        # A full disk, or whatever the renderers make of an old result: the decision stands and the work goes on.
        LOG.warning("the gate has decided, but its pages in %s were not written: %s", reports, error)


def _run(context: EphemeralDataContext, check: Check, run: Any) -> Iterator[Finding]:
    gx = great_expectations()

    name = check.suite.name
    suite = context.suites.add(check.suite)
    source = context.data_sources.add_pandas(name)
    data = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe(name)
    validation = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=data, suite=suite))
    answer = validation.run(batch_parameters={"dataframe": check.frame}, run_id=run)
    for result in answer.results:
        critical = str(result.expectation_config.severity.value) == "critical"
        column = result.expectation_config.kwargs.get("column")
        text = "" if result.success else describe(result)
        yield Finding(not result.success, critical, was_judged(result.result), column, text)


def _pages(context: EphemeralDataContext, checks: Sequence[Check], run: Any) -> list[Any]:
    from great_expectations.data_context.types.resource_identifiers import ExpectationSuiteIdentifier

    keys = [key for key in context.validation_results_store.list_keys() if key.run_id == run]
    return keys + [ExpectationSuiteIdentifier(check.suite.name) for check in checks]


def _open_context(reports: Path) -> EphemeralDataContext:
    gx = great_expectations()
    from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults

    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        analytics_enabled=False,
        progress_bars={"globally": False},
        data_docs_sites={
            SITE: {
                "class_name": "SiteBuilder",
                "show_how_to_buttons": False,
                "store_backend": _files(reports / SITE),
                "site_index_builder": {
                    "class_name": "DefaultSiteIndexBuilder",
                    "validation_results_limit": SHOWN_RUNS,
                },
            }
        },
    )
    # Suites are code; results alone must outlive the process, for the docs to show earlier runs too.
    config.stores["validation_results_store"] = {
        "class_name": "ValidationResultsStore",
        "store_backend": _files(reports / "validations") | {"filepath_suffix": ".json"},
    }
    return gx.get_context(project_config=config, mode="ephemeral")


def _files(folder: Path) -> dict[str, str]:
    return {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)}


def _observed(seen: dict[str, Any], exceptions: dict[str, Any] | None) -> str:
    if "unexpected_count" in seen:
        examples = ", ".join(repr(item) for item in seen.get("partial_unexpected_list", [])[:3])
        return f"observed {examples} in {seen['unexpected_count']} of {seen['element_count']} rows"
    if "observed_value" in seen:
        return f"observed {seen['observed_value']}"
    raised = [entry["exception_message"] for entry in (exceptions or {}).values() if isinstance(entry, dict)]
    return f"could not be checked ({'; '.join(raised) or 'no reason given'})"


def _limit(value: Any) -> str:
    if isinstance(value, dict) and "column" in value:
        return f"{value['column']['name']} {value['operator']} {value['parameter']}"
    return str(value)
