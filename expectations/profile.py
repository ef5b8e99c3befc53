"""Reads what the gates look at: exact aggregates computed in SQL, and samples small enough for a frame.

A batch is counted by event day, in one pass over its rows and whatever their number; what the gate asks of the whole
batch, and what ``history`` compares with other days, are sums of those counts.
"""

# ruff: noqa: S608 – table and column names come from the contract; every value is bound

from __future__ import annotations

from datetime import datetime
from math import sqrt
from typing import Any, Final

import duckdb
import pandas as pd

from marquee import contract
from marquee.erasures import ERASED

SAMPLE_ROWS: Final = 50_000
"""Most rows of a table that become a frame: they give examples, the counts are exact."""
WINDOW_DAYS: Final = 28
"""Days before a batch's main one that it is compared with, and before its first that its clicks may refer to."""
CATALOGUE: Final = tuple(table for table in contract.RAW_TABLES.values() if table is not contract.EVENTS)
OPTIONAL: Final = tuple(column.name for column in contract.EVENTS.columns if not column.required)
_ORDER_COLUMNS: Final = ("order_id", "quantity", "amount")
_IMPRESSION_COLUMNS: Final = (
    *("banner_id", "placement_id", "position", "request_id", "impression_id"),
    *("arm", "policy", "propensity", "features"),
)
_NOTIFICATION_COLUMNS: Final = ("notification_id", "notification_type")


_REQUIRED: Final = {
    column: tuple(kind for kind in contract.EVENT_KINDS if column in contract.required_by_kind(kind))
    for column in OPTIONAL
}


def _quoted(names: tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in names)


_INVALID_PROPENSITY: Final = "propensity is not null and not (propensity > 0 and propensity <= 1)"
DEFECTS: Final[dict[str, str]] = {
    "missing_visitor_count": "visitor_id is null or visitor_id = ''",
    "missing_reference_count": " or ".join(
        f"{name} is null and kind in ({_quoted(kinds)})" for name, kinds in _REQUIRED.items() if kinds
    ),
    "invalid_kind_count": f"kind not in ({_quoted(contract.EVENT_KINDS)})",
    "invalid_device_count": f"device not in ({_quoted(contract.DEVICES)})",
    "negative_number_count": "position < 0 or quantity < 0 or amount < 0",
    "invalid_propensity_count": _INVALID_PROPENSITY,
}
"""What no event may be: the name of the count of those that are, and the condition in SQL."""


def concerned_kinds(column: str) -> tuple[str, ...]:
    """The kinds of event of which it is worth knowing how many lack an optional column."""
    if column in _IMPRESSION_COLUMNS:
        return ("impression",)
    if column in _ORDER_COLUMNS:
        return ("order", "return")
    if column in _NOTIFICATION_COLUMNS:
        return _REQUIRED[column]
    return contract.PRODUCT_KINDS if column == "product_id" else contract.VISIT_KINDS


def count_days(connection: duckdb.DuckDBPyConnection, batch_id: str) -> pd.DataFrame:
    """One row per day on which a batch has events, in order, with counts that add up over days and batches.

    Columns: ``event_date``, ``newest_at``, ``event_count``, ``visit_event_count`` (without notifications),
    ``visitor_count`` (approximate: visitors of the day, without those who were only written to),
    ``<kind>_count``, ``missing_<column>_count`` (among ``concerned_kinds``), ``clicked_count`` (impressions clicked
    within the batch), ``unknown_device_count``, each of ``DEFECTS``, ``priced_order_count`` and ``valid_amount_count``.
    """
    days = connection.execute(_DAYS, {"batch_id": batch_id}).df()
    days["clicked_count"] = 0
    if days["click_count"].sum() and days["impression_count"].sum():
        clicked = connection.execute(_CLICKED, {"batch_id": batch_id}).df().set_index("event_date")["clicked_count"]
        days["clicked_count"] = days["event_date"].map(clicked).fillna(0).astype(int)
    return days


def profile_events(
    connection: duckdb.DuckDBPyConnection, batch_id: str, days: pd.DataFrame, now: datetime
) -> pd.DataFrame:
    """One row of aggregates over the events of a batch, from the counts of ``count_days`` and its references.

    Shares and rates are in [0, 1] and empty where there is nothing to take a share of. Banners and impressions count
    as known when this batch or an admitted one brought them, impressions of up to ``WINDOW_DAYS`` before the batch.
    ``now`` is UTC without a zone; what lies after it has not happened.
    """
    total = days.drop(columns=["event_date", "newest_at"]).sum()
    dates = pd.to_datetime(days["event_date"])
    gaps = dates.diff().dt.days
    profile = {
        "row_count": int(total["event_count"]),
        "duplicate_event_count": _duplicate_events(connection, batch_id),
        **{name: int(total[name]) for name in DEFECTS},
        "unmatched_click_share": None,
        "unknown_banner_share": None,
        "click_rate": share(total["clicked_count"], total["impression_count"]),
        "first_year": dates.min().year,
        "last_year": dates.max().year,
        "largest_gap_days": 0 if len(days) < 2 else int(gaps.max()),
        "future_hours": max(0.0, (days["newest_at"].max() - now).total_seconds() / 3600),
        "valid_amount_share": share(total["valid_amount_count"], total["priced_order_count"]),
    }
    if total["click_count"] or total["impression_count"]:
        window = {"window_days": WINDOW_DAYS, "first": dates.min(), "last": dates.max()}
        clicks, unmatched, impressions, unknown = connection.execute(
            _REFERENCES, {"batch_id": batch_id} | window
        ).fetchone()
        profile["unmatched_click_share"] = share(unmatched, clicks)
        profile["unknown_banner_share"] = share(unknown, impressions)
    return _one_row(profile)


def profile_catalogue(connection: duckdb.DuckDBPyConnection, batch_id: str) -> pd.DataFrame:
    """One row: all of a batch, with what the loader set aside or folded, and counts of catalogue defects.

    ``row_count`` has duplicates of earlier batches and rows of forgotten visitors in it: a batch of them alone is not
    empty. Rows of forgotten visitors are in no share; a share of nothing is empty.
    """
    bound = {"batch_id": batch_id, "repeated": _repeated_events(connection, batch_id)}
    shares = dict.fromkeys(("rejected_row_share", "repeated_event_share"), float)
    return connection.execute(_CATALOGUE, bound).df().astype(shares)


def profile_training_rows(connection: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """One row of aggregates over ``marts.training_rows``; ``duckdb.CatalogException`` where there is no such mart."""
    return connection.execute(_TRAINING_ROWS).df()


def sample_events(
    connection: duckdb.DuckDBPyConnection, batch_id: str, total: int, rows: int = SAMPLE_ROWS
) -> pd.DataFrame:
    """At most ``rows`` of a batch's ``total`` events, the same ones every time: those whose ids hash lowest."""
    query = f"select {', '.join(contract.EVENTS.names)} from raw.events where batch_id = $batch_id and "
    return _lowest_hashes(connection, query, "event_id", total, rows, {"batch_id": batch_id})


def sample_training_rows(connection: duckdb.DuckDBPyConnection, total: int, rows: int = SAMPLE_ROWS) -> pd.DataFrame:
    """At most ``rows`` of ``total`` training rows with every column the mart has, the same ones every time."""
    return _lowest_hashes(connection, "select * from marts.training_rows where ", "impression_id", total, rows, {})


def value(frame: pd.DataFrame, column: str) -> Any:
    """The value of a column in a frame of one row."""
    return frame[column].iloc[0]


def share(part: float, whole: float) -> float | None:
    """``part`` of ``whole``; nothing when there is no whole."""
    return float(part / whole) if whole else None


def _one_row(values: dict[str, Any]) -> pd.DataFrame:
    # An empty share is NaN, not None: Great Expectations compares a column of objects as text.
    return pd.DataFrame([{name: float("nan") if v is None else v for name, v in values.items()}])


def _repeated_events(connection: duckdb.DuckDBPyConnection, batch_id: str) -> int:
    """Events that the loader folded, for another of the same batch has their id."""
    try:
        query = "select event_count from raw.batch_repeats where batch_id = ?"
        row = connection.execute(query, [batch_id]).fetchone()
    except duckdb.CatalogException:  # no batch ever had any
        return 0
    return int(row[0]) if row else 0


def _duplicate_events(connection: duckdb.DuckDBPyConnection, batch_id: str) -> int:
    """Events that repeat an id of their batch. Hashes are three times as fast to tell apart, and never too many."""
    for key in ("hash(event_id)", "event_id"):
        query = f"select count(*) - count(distinct {key}) from raw.events where batch_id = $batch_id"
        (count,) = connection.execute(query, {"batch_id": batch_id}).fetchone()
        if not count:
            return 0
    return int(count)


def _lowest_hashes(
    connection: duckdb.DuckDBPyConnection, query: str, key: str, total: int, rows: int, values: dict[str, Any]
) -> pd.DataFrame:
    # Six standard deviations above the rows wanted: few rows are left to sort, and never too few.
    wanted = min(1.0, (rows + 6 * sqrt(rows) + 36) / max(total, 1))
    limits = {"highest": min(int(wanted * 2**64), 2**64 - 1), "rows": rows}
    query += f"hash({key}) <= $highest order by hash({key}), {key} limit $rows"
    return connection.execute(query, values | limits).df()


_DAYS: Final = f"""
select
    occurred_at::date as event_date,
    max(occurred_at) as newest_at,
    count(*) as event_count,
    count(*) filter (kind in ({_quoted(contract.VISIT_KINDS)})) as visit_event_count,
    approx_count_distinct(visitor_id) filter (kind in ({_quoted(contract.VISIT_KINDS)})) as visitor_count,
    {", ".join(f"count(*) filter (kind = '{kind}') as {kind}_count" for kind in contract.EVENT_KINDS)},
    {
    ", ".join(
        f"count(*) filter ({name} is null and kind in ({_quoted(concerned_kinds(name))})) as missing_{name}_count"
        for name in OPTIONAL
    )
},
    count(*) filter (
        (device is null or device = 'unknown') and kind in ({_quoted(contract.VISIT_KINDS)})
    ) as unknown_device_count,
    {", ".join(f"count(*) filter ({defect}) as {name}" for name, defect in DEFECTS.items())},
    count(*) filter (kind = 'order' and amount is not null) as priced_order_count,
    count(*) filter (kind = 'order' and amount >= 0) as valid_amount_count
from raw.events
where batch_id = $batch_id
group by all
order by all
"""

_REPEATED_KEYS: Final = " + ".join(
    f"(select count(*) - count(distinct row({', '.join(table.key)})) from raw.{table.name} where batch_id = $batch_id)"
    for table in CATALOGUE
)
_STORED: Final = " + ".join(
    f"(select count(*) from raw.{name} where batch_id = $batch_id)" for name in contract.RAW_TABLES
)
_CATALOGUE: Final = f"""
with books as (
    select
        coalesce(sum(loaded + duplicate), 0) as records,
        coalesce(sum(read) filter (not is_derived), 0) as read,
        coalesce(sum(quarantined) filter (not is_derived), 0) as rejected,
        coalesce(sum(loaded + duplicate) filter (table_name = '{contract.EVENTS.name}'), 0) as events
    from raw.batch_tables where batch_id = $batch_id
),
forgotten as (
    select count(*) as erased from raw.rejected_rows where batch_id = $batch_id and reason = '{ERASED}'
)
select
    (greatest({_STORED}, records) + erased)::bigint as row_count,
    (rejected - erased) / nullif(read - erased, 0) as rejected_row_share,
    $repeated / nullif(events, 0) as repeated_event_share,
    ({_REPEATED_KEYS})::bigint as duplicate_key_count,
    (select count(*) from raw.products where batch_id = $batch_id and price < 0) as negative_price_count,
    (select count(*) from raw.campaigns where batch_id = $batch_id and ends_at <= starts_at)
        as reversed_campaign_count
from books, forgotten
"""

_CLICKED: Final = """
with batch as (select * from raw.events where batch_id = $batch_id and kind in ('click', 'impression'))
select occurred_at::date as event_date, count(*) as clicked_count
from batch
where kind = 'impression' and impression_id in (select impression_id from batch where kind = 'click')
group by all
"""

_REFERENCES: Final = """
with batch as (select * from raw.events where batch_id = $batch_id and kind in ('click', 'impression')),
trusted as (select batch_id from raw.batches where status = 'admitted' or batch_id = $batch_id),
known_banners as (select distinct banner_id from raw.banners semi join trusted using (batch_id)),
clicks as (select impression_id from batch where kind = 'click'),
known_impressions as (
    select distinct impression_id from raw.events semi join trusted using (batch_id)
    where kind = 'impression' and occurred_at >= $first::timestamp - to_days($window_days)
        and occurred_at < $last::timestamp + interval 1 day and impression_id in (select impression_id from clicks)
)
select * from
    (select count(*), count(*) filter (known.impression_id is null)
     from clicks left join known_impressions known using (impression_id)),
    (select count(*), count(*) filter (known.banner_id is null)
     from batch left join known_banners known using (banner_id) where kind = 'impression')
"""

_TRAINING_ROWS: Final = f"""
select
    count(*) as row_count,
    count(*) filter (is_clicked) as clicked_count,
    count(*) filter (not is_clicked) as unclicked_count,
    count(*) - count(distinct impression_id) as duplicate_impression_count,
    avg(is_clicked::int) as click_rate,
    count(*) filter (propensity is null) as missing_propensity_count,
    count(*) filter ({_INVALID_PROPENSITY}) as invalid_propensity_count,
    count(*) filter (device = 'unknown') as unknown_device_count,
    min(position) as position_min,
    max(impressed_at) as impressed_at_max
from marts.training_rows
"""
