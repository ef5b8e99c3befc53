"""The two gates: raw batches before dbt reads them, training rows before anything is trained on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import duckdb
import pandas as pd

from expectations.data_docs import Check, imported_meanwhile, run_checks
from expectations.history import (
    LEAST_DAYS,
    accepted_training,
    batch_drift,
    keep_batch,
    keep_training,
    trailing_days,
    training_drift,
)
from expectations.profile import (
    count_days,
    profile_catalogue,
    profile_events,
    profile_training_rows,
    sample_events,
    sample_training_rows,
    value,
)
from expectations.suites import (
    batch_drift_suite,
    batch_profile_suite,
    catalogue_profile_suite,
    events_suite,
    training_drift_suite,
    training_profile_suite,
    training_rows_suite,
)
from marquee.contract import TRAINING_ROWS
from marquee.errors import GateError, MarqueeError, NothingToDo
from marquee.settings import Settings, settings_now
from marquee.warehouse import open_warehouse

NO_TRAINING_ROWS: Final = "no training rows to check yet: run transform_events first"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gate said of one batch or table: ``subject`` names it, ``rows`` is how many rows it holds.

    ``unjudged`` says what could not be asked and why; it neither passed nor failed.
    """

    subject: str
    passed: bool
    rows: int
    expectations: int
    failures: tuple[str, ...]
    warnings: tuple[str, ...]
    unjudged: tuple[str, ...] = ()


def check_raw(
    settings: Settings, admit: Callable[[str], object], quarantine: Callable[[str, str], object]
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
        checks, unjudged = _raw_checks(settings, batch_id, loaded_at)
        verdict, publish = _judge(batch_id, settings, loaded_at, checks, unjudged)
        verdicts.append(verdict)
        if verdict.passed:
            admit(batch_id)
        else:
            quarantine(batch_id, "; ".join(verdict.failures))
        publish()
    _raise_if_refused(verdicts)
    return verdicts


def check_training_rows(settings: Settings) -> Verdict:
    """Check the training rows that dbt made, against themselves and against those accepted last.

    Raises:
        NothingToDo: dbt has not made any table of them yet.
        GateError: they were refused, with every reason.
    """
    with imported_meanwhile(), _open(settings) as connection:
        profile = _training_profile(connection)
        sample = sample_training_rows(connection, int(value(profile, "row_count")))
        accepted = accepted_training(connection)
    checks = [
        Check(training_profile_suite(), profile),
        Check(training_rows_suite(), sample),
        Check(training_drift_suite(), training_drift(profile, accepted)),
    ]
    unjudged = () if len(accepted) else ("drift: no history yet, no training rows were accepted before",)
    latest = value(profile, "impressed_at_max")
    at = datetime(1970, 1, 1) if pd.isna(latest) else latest.to_pydatetime()
    verdict, publish = _judge(TRAINING_ROWS.name, settings, at, checks, unjudged)
    if verdict.passed:
        with _open(settings, writes=True) as connection:
            keep_training(connection, profile)
    publish()
    _raise_if_refused([verdict])
    return verdict


def accept_training_rows(settings: Settings, reason: str) -> None:
    """Take the training rows as they are for the measure of those to come: a person overrules the gate's drift.

    Raises:
        NothingToDo: dbt has not made any table of them yet.
    """
    with _open(settings, writes=True) as connection:
        keep_training(connection, _training_profile(connection), reason)


def _training_profile(connection: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    try:
        return profile_training_rows(connection)
    except duckdb.CatalogException:
        raise NothingToDo(NO_TRAINING_ROWS) from None


@contextmanager
def _open(settings: Settings, writes: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
    if not settings.warehouse.exists():
        raise NothingToDo(NO_TRAINING_ROWS)
    with open_warehouse(settings, read_only=not writes) as connection:
        yield connection


def _next_batch(settings: Settings) -> tuple[str, datetime] | None:
    query = "select batch_id, loaded_at from raw.batches where status = 'loaded' order by batch_number limit 1"
    try:
        with _open(settings) as connection:
            row = connection.execute(query).fetchone()
    except (duckdb.CatalogException, NothingToDo):
        return None
    return None if row is None else (str(row[0]), row[1])


def _raw_checks(settings: Settings, batch_id: str, loaded_at: datetime) -> tuple[list[Check], tuple[str, ...]]:
    """What to ask of a batch, and what cannot be asked."""
    with imported_meanwhile(), _open(settings, writes=True) as connection:
        catalogue = profile_catalogue(connection, batch_id)
        days = count_days(connection, batch_id)
        if not days.empty:
            keep_batch(connection, batch_id, days)
            trailing = trailing_days(connection, batch_id, days)
            sample = sample_events(connection, batch_id, int(days["event_count"].sum()))
            profile = profile_events(connection, batch_id, days, _latest_now(settings))
    checks = [Check(catalogue_profile_suite(), catalogue)]
    # A batch of catalogue rows alone has no events to be asked about.
    if days.empty:
        return checks, ()
    checks.append(Check(batch_profile_suite(), profile))
    checks.append(Check(events_suite(), sample))
    checks.append(Check(batch_drift_suite(), batch_drift(days, trailing, loaded_at)))
    known = trailing["event_date"].nunique()
    why = f"drift: no history yet, {known} of the {LEAST_DAYS} trailing days that its source must have"
    return checks, () if known >= LEAST_DAYS else (why,)


def _latest_now(settings: Settings) -> datetime:
    """The clock, or ``as_of`` where that is later: a replay that serves an old moment takes in what came since."""
    return max(settings_now(settings), datetime.now(UTC).replace(tzinfo=None))


def _judge(
    subject: str, settings: Settings, at: datetime, checks: Sequence[Check], unjudged: tuple[str, ...]
) -> tuple[Verdict, Callable[[], None]]:
    """The verdict, and what shows it; see ``run_checks``."""
    findings, publish = run_checks(settings.reports, subject, at, checks)
    failed = [finding for finding in findings if finding.failed]
    failures = tuple(finding.text for finding in failed if finding.is_critical)
    refused = {finding.column for finding in failed if finding.is_critical}
    # What breaks the wider limits breaks the narrower ones too, and is said once.
    warnings = tuple(f.text for f in failed if not f.is_critical and f.column not in refused)
    rows = int(value(checks[0].frame, "row_count"))
    judged = sum(finding.is_judged for finding in findings)
    return Verdict(subject, not failures, rows, judged, failures, warnings, unjudged), publish


def _raise_if_refused(verdicts: Sequence[Verdict]) -> None:
    refused = [verdict for verdict in verdicts if not verdict.passed]
    if refused:
        reasons = "\n".join(f"{verdict.subject}: {'; '.join(verdict.failures)}" for verdict in refused)
        raise GateError(f"the gate refused {len(refused)} of {len(verdicts)}:\n{reasons}")
