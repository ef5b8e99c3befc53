"""Where dbt builds: in the dock itself (DuckDB), or in Postgres or Spark with the dock as their quay.

Load, gates and bookkeeping always live in the dock, the DuckDB file under ``home``. For another target the rows of
admitted batches go out before dbt (``push``) and what the product reads comes back after it (``pull``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from typing import Final

from ingestion.targets.books import Target, bring_back, follow
from ingestion.warehouse import connect
from marquee.errors import SettingsError
from marquee.settings import Settings

__all__ = ["DUCKDB", "environment", "opened", "pull", "push", "release", "start", "target_id"]

DUCKDB: Final = "duckdb"


def environment(settings: Settings) -> dict[str, str]:
    """The variables that ``dbt_project/profiles.yml`` reads for the target; passwords only under dbt's secret prefix.

    Raises:
        SettingsError: the target needs a setting that is missing or malformed.
    """
    variables = {"DBT_DUCKDB_PATH": str(settings.warehouse)}
    if settings.dbt_target == "postgres":
        from ingestion.targets.postgres import dbt_variables

        variables |= dbt_variables(settings)
    return variables


def target_id(settings: Settings) -> str:
    """Names the very target: another server, database or folder has another id, and holds nothing of what was built.

    Raises:
        MarqueeError: the target cannot be reached or started.
    """
    if settings.dbt_target == DUCKDB:
        return DUCKDB
    with opened(settings) as target:
        return f"{settings.dbt_target}:{target.identity()}"


def start(settings: Settings) -> None:
    """Start what dbt needs in this process (Spark's session); safe to call always.

    Raises:
        MarqueeError: it is not installed or does not start.
    """
    if settings.dbt_target == "spark":
        from ingestion.targets.spark_session import require_pyspark, session

        require_pyspark()
        session(settings)


def push(settings: Settings) -> int:
    """Make the target's schema ``raw`` hold exactly the admitted batches; returns the rows that went out.

    A batch goes out whole, in one transaction, and once. One that is no longer admitted is taken back; one that lost
    rows to an erasure is replaced. Doing it again changes nothing.

    Raises:
        MarqueeError: the target cannot be reached or started, or refused a row; the message names the batch.
        WarehouseBusy: another process holds the dock or the target.
    """
    if settings.dbt_target == DUCKDB:
        return 0
    with opened(settings) as target, connect(settings, read_only=True) as dock:
        return follow(dock, target)


def pull(settings: Settings, window: tuple[date, date] | None = None) -> int:
    """Bring what the product reads back to the dock, in one transaction; returns the rows that came.

    Args:
        settings: whose dock and target.
        window: first and last day that were built; None means everything. Tables with a day are replaced from the
            first on (and from as far before it as labels look back), the others whole.

    Raises:
        MarqueeError: the target cannot be reached, or lacks a table that dbt should have built.
        WarehouseBusy: another process holds the dock.
    """
    if settings.dbt_target == DUCKDB:
        return 0
    since = window[0] - timedelta(days=math.ceil(settings.attribution_days) + 1) if window else None
    with opened(settings) as target, connect(settings) as dock:
        return bring_back(dock, target, since)


def release(settings: Settings) -> None:
    """Stop what the target keeps running in this process (Spark's session); safe to call always."""
    if settings.dbt_target == "spark":
        from ingestion.targets.spark_session import stop

        stop()


@contextmanager
def opened(settings: Settings) -> Iterator[Target]:
    """The target of the settings, for as long as the block lasts."""
    if settings.dbt_target == "postgres":
        from ingestion.targets.postgres import opened as open_postgres

        with open_postgres(settings) as target:
            yield target
    elif settings.dbt_target == "spark":
        from ingestion.targets.spark import opened as open_spark

        with open_spark(settings) as target:
            yield target
    else:
        raise SettingsError(f"setting dbt_target: {settings.dbt_target!r} is the dock itself or unknown")
