"""What admitted data looked like, kept in the warehouse, and how far new data has drifted from it.

A batch is compared with the days before its main one of its own source: a service's stream and a shop's export need
not look alike. The cost is that of the batch and of one small row per trailing day and batch, not of history.
"""

# ruff: noqa: S608 – column names come from the contract; every value is bound

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

import duckdb
import numpy as np
import pandas as pd

from expectations.profile import OPTIONAL, WINDOW_DAYS, concerned_kinds, share, value
from marquee import contract

LEAST_DAYS: Final = 3
"""A window of fewer days says nothing yet."""
LEAST_EVENTS: Final = 200
"""A share of fewer events, on either side, says nothing: chance alone moves it by a few per cent."""
LEAST_CLICKS: Final = 30
TRAINING: Final = ("row_count", "clicked_count", "missing_propensity_count", "unknown_device_count")

MEASURES: Final[dict[str, str]] = {
    "main_day_volume": "events of the batch's main day over the mean of the trailing days",
    "most_daily_volume": "events of the batch's fullest day over the mean of the trailing days",
    "click_rate_ratio": "share of impressions clicked over that of the trailing days",
    "events_per_visitor_ratio": "events per visitor and day over those of the trailing days",
    "unknown_device_shift": "share of events of an unknown device, change from the trailing days",
    **{
        f"{kind}_shift": f"share of events that are {kind}, change from the trailing days"
        for kind in contract.VISIT_KINDS
    },
    **{f"missing_{name}_rise": f"share without {name}, rise over the trailing days" for name in OPTIONAL},
    "lag_rise_hours": "hours from the newest event to its load, beyond those of the batch before",
}
"""Each measure of ``batch_drift`` in words."""
TRAINING_MEASURES: Final[dict[str, str]] = {
    "row_count_ratio": "training rows over those accepted last",
    "click_rate_ratio": "share of training rows clicked over that of those accepted last",
    "missing_propensity_rise": "share without propensity, rise over those accepted last",
    "unknown_device_shift": "share of an unknown device, change from those accepted last",
}
"""Each measure of ``training_drift`` in words."""


def keep_batch(connection: duckdb.DuckDBPyConnection, batch_id: str, days: pd.DataFrame) -> None:
    """Keep the counts of a batch by day; they count as history once the batch is admitted."""
    columns = [name for name in days.columns if name not in ("event_date", "newest_at")]
    types = {"batch_id": "varchar", "event_date": "date", "newest_at": "timestamp"} | dict.fromkeys(columns, "bigint")
    _create_table(connection, "batch_profiles", types)
    connection.execute("delete from raw.batch_profiles where batch_id = ?", [batch_id])
    kept = days.assign(batch_id=batch_id)  # noqa: F841 - DuckDB reads it by its name
    connection.execute("insert into raw.batch_profiles by name select * from kept")


def main_day(days: pd.DataFrame) -> pd.Timestamp:
    """The day that most of a batch's visits are of; stragglers before and after it are no measure of volume."""
    counts = days["visit_event_count"] if days["visit_event_count"].any() else days["event_count"]
    return days["event_date"].loc[counts.idxmax()]


def trailing_days(connection: duckdb.DuckDBPyConnection, batch_id: str, days: pd.DataFrame) -> pd.DataFrame:
    """Counts by day and batch of the admitted batches of the same source in the window that ends with a main day.

    ``lag_hours`` is how much later than its newest event the last admitted batch of the source was loaded.
    """
    query = f"""
    with source_batches as (
        select batch_id, batch_number, loaded_at from raw.batches
        where status = 'admitted' and batch_id <> $batch_id
            and source = (select source from raw.batches where batch_id = $batch_id)
    ),
    last_batch as (
        select date_diff('second', max(newest_at), max(loaded_at)) / 3600.0 as lag_hours
        from source_batches join raw.batch_profiles using (batch_id)
        group by batch_number order by batch_number desc limit 1
    )
    select profiles.* exclude (batch_id), lag_hours
    from raw.batch_profiles profiles semi join source_batches using (batch_id), last_batch
    where event_date between $main_day::date - {WINDOW_DAYS} and $main_day::date
    """
    return connection.execute(query, {"batch_id": batch_id, "main_day": main_day(days)}).df()


def batch_drift(days: pd.DataFrame, trailing: pd.DataFrame, loaded_at: datetime) -> pd.DataFrame:
    """One row: each of ``MEASURES``, empty where the window or the batch is too small to tell.

    Args:
        days: the batch by day, of ``count_days``.
        trailing: the window, of ``trailing_days``.
        loaded_at: when the batch was loaded, UTC.
    """
    measures: dict[str, Any] = dict.fromkeys(MEASURES)
    if trailing["event_date"].nunique() >= LEAST_DAYS:
        now, then = (
            days.drop(columns=["event_date", "newest_at"]).sum(),
            trailing.drop(columns=["event_date", "newest_at"]).sum(),
        )
        volumes = _daily_volumes(days, trailing)
        measures["main_day_volume"] = volumes.get(main_day(days))
        measures["most_daily_volume"] = max(volumes.values(), default=None)
        measures["click_rate_ratio"] = _click_rate_ratio(now, then, "impression_count")
        measures["unknown_device_shift"] = _shift(now, then, "unknown_device_count", ["visit_event_count"])
        for kind in contract.VISIT_KINDS:
            measures[f"{kind}_shift"] = _shift(now, then, f"{kind}_count", ["visit_event_count"])
        for name in OPTIONAL:
            concerned = [f"{kind}_count" for kind in concerned_kinds(name)]
            measures[f"missing_{name}_rise"] = _rise(_shift(now, then, f"missing_{name}_count", concerned))
        if min(now["visit_event_count"], then["visit_event_count"]) >= LEAST_EVENTS:
            a_visitor = then["visit_event_count"] / max(then["visitor_count"], 1)
            measures["events_per_visitor_ratio"] = now["visit_event_count"] / max(now["visitor_count"], 1) / a_visitor
        lag = (loaded_at - days["newest_at"].max()).total_seconds() / 3600
        measures["lag_rise_hours"] = max(0.0, lag - float(trailing["lag_hours"].iloc[0]))
    return _row(measures)


def training_drift(profile: pd.DataFrame, accepted: pd.DataFrame) -> pd.DataFrame:
    """One row: each of ``TRAINING_MEASURES``; all empty when no training rows were accepted before."""
    measures: dict[str, Any] = dict.fromkeys(TRAINING_MEASURES)
    if len(accepted):
        now, then = profile.iloc[0], accepted.iloc[0]
        measures["row_count_ratio"] = share(now["row_count"], then["row_count"])
        measures["click_rate_ratio"] = _click_rate_ratio(now, then, "row_count")
        measures["missing_propensity_rise"] = _rise(_shift(now, then, "missing_propensity_count", ["row_count"]))
        measures["unknown_device_shift"] = _shift(now, then, "unknown_device_count", ["row_count"])
    return _row(measures)


def keep_training(connection: duckdb.DuckDBPyConnection, profile: pd.DataFrame, reason: str | None = None) -> None:
    """Keep what accepted training rows looked like; ``reason`` is why a person overruled the gate."""
    types = {"accepted_at": "timestamp", "reason": "varchar"} | dict.fromkeys(TRAINING, "bigint")
    _create_table(connection, "training_profiles", types)
    counts = [int(value(profile, name)) for name in TRAINING]
    connection.execute(
        "insert into raw.training_profiles values (now() at time zone 'UTC', ?, ?, ?, ?, ?)", [reason, *counts]
    )


def accepted_training(connection: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """The counts of the training rows accepted last, one row; none when there are none."""
    query = "select * from raw.training_profiles order by accepted_at desc, rowid desc limit 1"
    try:
        return connection.execute(query).df()
    except duckdb.CatalogException:
        return pd.DataFrame(columns=list(TRAINING))


def _create_table(connection: duckdb.DuckDBPyConnection, name: str, types: dict[str, str]) -> None:
    """Create a table of profiles; one whose columns are another version's is begun anew."""
    query = "select column_name from duckdb_columns() where schema_name = 'raw' and table_name = ?"
    known = {column for (column,) in connection.execute(query, [name]).fetchall()}
    if known and known != set(types):
        connection.execute(f"drop table raw.{name}")
    columns = ", ".join(f"{column} {type_}" for column, type_ in types.items())
    connection.execute(f"create schema if not exists raw; create table if not exists raw.{name} ({columns})")


def _daily_volumes(days: pd.DataFrame, trailing: pd.DataFrame) -> dict[pd.Timestamp, float]:
    """For each day of a batch, the events it would then hold over the mean of the other trailing days.

    Rows that come late are added to those the day has. The newest day may not be over: it is measured by as much of
    it as had passed at its newest event.
    """
    admitted = trailing[trailing["visit_event_count"] > 0].groupby("event_date")["visit_event_count"].sum()
    newest = days["event_date"].max()
    volumes = {}
    # Days of notifications alone, which come in bursts, say nothing of how many visits there were.
    visited = days[days["visit_event_count"] > 0]
    for date, newest_at, count in visited[["event_date", "newest_at", "visit_event_count"]].itertuples(index=False):
        others = admitted.drop(date, errors="ignore")
        passed = min(1.0, (newest_at - pd.Timestamp(date)) / pd.Timedelta(days=1)) if date == newest else 1.0
        expected = float(others.mean()) * passed if len(others) else 0.0
        if expected >= LEAST_EVENTS:
            volumes[date] = float(count + admitted.get(date, 0)) / expected
    return volumes


def _click_rate_ratio(now: pd.Series, then: pd.Series, shown: str) -> float | None:
    rate = share(then["clicked_count"], then[shown])
    if rate is None or rate * now[shown] < LEAST_CLICKS:
        return None
    return float(now["clicked_count"] / now[shown] / rate)


def _shift(now: pd.Series, then: pd.Series, part: str, whole: Iterable[str]) -> float | None:
    """Change of a share, signed; nothing where either side has too few rows."""
    columns = list(whole)
    rows_now, rows_then = now[columns].sum(), then[columns].sum()
    if min(rows_now, rows_then) < LEAST_EVENTS:
        return None
    return float(now[part] / rows_now - then[part] / rows_then)


def _rise(shift: float | None) -> float | None:
    return None if shift is None else max(0.0, shift)


def _row(measures: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame([measures]).astype(float).replace({None: np.nan})
