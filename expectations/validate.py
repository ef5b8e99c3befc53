"""The two gates: raw batches before dbt reads them, training rows before anything is trained on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import duckdb
import pandas as pd

from expectations.data_docs import Check, run_checks
from expectations.profile import (
    profile_catalogue,
    profile_events,
    profile_training_rows,
    sample_events,
    sample_training_rows,
    value,
)
from expectations.suites import (
    batch_profile_suite,
    catalogue_profile_suite,
    events_suite,
    training_profile_suite,
    training_rows_suite,
)
from marquee.errors import GateError, MarqueeError, NothingToDo
from marquee.settings import Settings


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gate said of one batch or table: ``subject`` names it, ``rows`` is how many rows it holds."""

    subject: str
    passed: bool
    rows: int
    expectations: int
    failures: tuple[str, ...]
    warnings: tuple[str, ...]


def check_raw(
    settings: Settings, admit: Callable[[str], None], quarantine: Callable[[str, str], None]
) -> list[Verdict]:
    """Check each batch that no gate has seen yet, oldest first, and have it admitted or quarantined whole.

    Args:
        settings: whose warehouse to read and whose reports to write.
        admit: called with the id of a batch that passed, with the warehouse closed.
        quarantine: called with the id of a refused batch and the reason, with the warehouse closed.

    Returns:
        One verdict a batch; none when no batch is waiting.

    Raises:
        GateError: a batch was refused; the others have been decided all the same.
    """
    verdicts: list[Verdict] = []
    # Asked anew each time: quarantining one batch can send another back to the gate.
    while waiting := _next_batch(settings):
        batch_id, loaded_at = waiting
        if verdicts and verdicts[-1].subject == batch_id:
            raise MarqueeError(f"batch {batch_id} still waits for the gate that has just decided on it")
        verdict = _verdict(batch_id, settings, loaded_at, _raw_checks(settings, batch_id))
        verdicts.append(verdict)
        if verdict.passed:
            admit(batch_id)
        else:
            quarantine(batch_id, "; ".join(verdict.failures))
    _raise_if_refused(verdicts)
    return verdicts


def check_training_rows(settings: Settings) -> Verdict:
    """Check the training rows that dbt made.

    Raises:
        NothingToDo: dbt has not made any table of them yet.
        GateError: they were refused, with every reason.
    """
    try:
        with _open(settings) as connection:
            profile, sample = profile_training_rows(connection), sample_training_rows(connection)
    except (duckdb.CatalogException, FileNotFoundError):
        raise NothingToDo("no training rows to check yet: run transform_events first") from None
    checks = [Check(training_profile_suite(), profile), Check(training_rows_suite(), sample)]
    latest = value(profile, "impressed_at_max")
    at = datetime(1970, 1, 1) if pd.isna(latest) else latest.to_pydatetime()
    verdict = _verdict("training_rows", settings, at, checks)
    _raise_if_refused([verdict])
    return verdict


def _open(settings: Settings) -> duckdb.DuckDBPyConnection:
    if not settings.warehouse.exists():
        raise FileNotFoundError(settings.warehouse)
    return duckdb.connect(str(settings.warehouse), read_only=True)


def _next_batch(settings: Settings) -> tuple[str, datetime] | None:
    query = "select batch_id, loaded_at from raw.batches where status = 'loaded' order by batch_number limit 1"
    try:
        with _open(settings) as connection:
            row = connection.execute(query).fetchone()
    except (duckdb.CatalogException, FileNotFoundError):
        return None
    return None if row is None else (str(row[0]), row[1])


def _raw_checks(settings: Settings, batch_id: str) -> list[Check]:
    with _open(settings) as connection:
        checks = [Check(catalogue_profile_suite(), profile_catalogue(connection, batch_id))]
        events = profile_events(connection, batch_id)
        # A batch of catalogue rows alone has no events to be asked about.
        if value(events, "row_count"):
            checks.append(Check(batch_profile_suite(), events))
            checks.append(Check(events_suite(), sample_events(connection, batch_id)))
    return checks


def _verdict(subject: str, settings: Settings, at: datetime, checks: Sequence[Check]) -> Verdict:
    findings = run_checks(settings.reports, subject, at, checks)
    failures = tuple(finding.text for finding in findings if finding.failed and finding.is_critical)
    warnings = tuple(finding.text for finding in findings if finding.failed and not finding.is_critical)
    rows = int(value(checks[0].frame, "row_count"))
    return Verdict(subject, not failures, rows, len(findings), failures, warnings)


def _raise_if_refused(verdicts: Sequence[Verdict]) -> None:
    refused = [verdict for verdict in verdicts if not verdict.passed]
    if refused:
        reasons = "\n".join(f"{verdict.subject}: {'; '.join(verdict.failures)}" for verdict in refused)
        raise GateError(f"the gate refused {len(refused)} of {len(verdicts)}:\n{reasons}")
