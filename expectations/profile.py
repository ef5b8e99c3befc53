"""Reads what the gates look at: exact aggregates computed in SQL, and samples small enough for a frame."""

# ruff: noqa: S608 – table and column names come from the contract; every value is bound

from __future__ import annotations

from typing import Any, Final

import duckdb
import pandas as pd

from marquee import contract

SAMPLE_ROWS: Final = 200_000
"""Most rows of a table that become a frame."""
CATALOGUE: Final = tuple(table for table in contract.RAW_TABLES.values() if table is not contract.EVENTS)


def profile_events(connection: duckdb.DuckDBPyConnection, batch_id: str) -> pd.DataFrame:
    """One row of aggregates over the events of a batch, whatever its size.

    Shares and rates are in [0, 1] and empty where there is nothing to take a share of. Banners and impressions count
    as known when this batch or an admitted one brought them.
    """
    return connection.execute(_EVENTS, {"batch_id": batch_id}).df()


def profile_catalogue(connection: duckdb.DuckDBPyConnection, batch_id: str) -> pd.DataFrame:
    """One row: all records of a batch, duplicates of earlier batches included, and counts of catalogue defects."""
    duplicates = " + ".join(
        f"(select count(*) - count(distinct row({', '.join(table.key)})) "
        f"from raw.{table.name} where batch_id = $batch_id)"
        for table in CATALOGUE
    )
    stored = " + ".join(f"(select count(*) from raw.{name} where batch_id = $batch_id)" for name in contract.RAW_TABLES)
    query = f"""
    select
        greatest({stored}, (
            select coalesce(sum(loaded + duplicate), 0) from raw.batch_tables where batch_id = $batch_id
        ))::bigint as row_count,
        ({duplicates})::bigint as duplicate_key_count,
        (select count(*) from raw.products where batch_id = $batch_id and price < 0) as negative_price_count,
        (select count(*) from raw.campaigns where batch_id = $batch_id and ends_at <= starts_at)
            as reversed_campaign_count
    """
    return connection.execute(query, {"batch_id": batch_id}).df()


def profile_training_rows(connection: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """One row of aggregates over ``marts.training_rows``; ``duckdb.CatalogException`` where there is no such mart."""
    return connection.execute(_TRAINING_ROWS).df()


def sample_events(connection: duckdb.DuckDBPyConnection, batch_id: str, rows: int = SAMPLE_ROWS) -> pd.DataFrame:
    """At most ``rows`` events of a batch, the same ones every time: those whose ids hash lowest."""
    columns = ", ".join(contract.EVENTS.names)
    query = f"select {columns} from raw.events where batch_id = $batch_id order by hash(event_id), event_id limit $rows"
    return connection.execute(query, {"batch_id": batch_id, "rows": rows}).df()


def sample_training_rows(connection: duckdb.DuckDBPyConnection, rows: int = SAMPLE_ROWS) -> pd.DataFrame:
    """At most ``rows`` training rows with every column the mart has, the same ones every time."""
    query = "select * from marts.training_rows order by hash(impression_id), impression_id limit $rows"
    return connection.execute(query, {"rows": rows}).df()


def value(frame: pd.DataFrame, column: str) -> Any:
    """The value of a column in a frame of one row."""
    return frame[column].iloc[0]


_EVENTS: Final = """
with batch as (select * from raw.events where batch_id = $batch_id),
trusted as (select batch_id from raw.batches where status = 'admitted' or batch_id = $batch_id),
known_banners as (select distinct banner_id from raw.banners semi join trusted using (batch_id)),
known_impressions as (
    select distinct impression_id from raw.events semi join trusted using (batch_id) where kind = 'impression'
),
clicks as (
    select count(*) as total, count(*) filter (known.impression_id is null) as unmatched
    from batch left join known_impressions known using (impression_id) where kind = 'click'
),
impressions as (
    select count(*) as total, count(*) filter (known.banner_id is null) as unknown,
        count(*) filter (impression_id in (select impression_id from batch where kind = 'click')) as clicked
    from batch left join known_banners known using (banner_id) where kind = 'impression'
),
days as (
    select date_diff('day', lag(day) over (order by day), day) as gap
    from (select distinct occurred_at::date as day from batch)
)
select
    count(*) as row_count,
    count(*) - count(distinct event_id) as duplicate_event_count,
    count(*) filter (visitor_id is null or visitor_id = '') as missing_visitor_count,
    (select unmatched / nullif(total, 0)::double from clicks) as unmatched_click_share,
    (select unknown / nullif(total, 0)::double from impressions) as unknown_banner_share,
    (select clicked / nullif(total, 0)::double from impressions) as click_rate,
    min(propensity) as propensity_min,
    max(propensity) as propensity_max,
    min(occurred_at) as occurred_at_min,
    max(occurred_at) as occurred_at_max,
    year(min(occurred_at)) as first_year,
    year(max(occurred_at)) as last_year,
    (select coalesce(max(gap), 0) from days) as largest_gap_days,
    avg((amount >= 0)::int) filter (kind = 'order' and amount is not null) as valid_amount_share
from batch
"""

_TRAINING_ROWS: Final = """
select
    count(*) as row_count,
    count(*) filter (is_clicked) as clicked_count,
    count(*) filter (not is_clicked) as unclicked_count,
    count(*) - count(distinct impression_id) as duplicate_impression_count,
    avg(is_clicked::int) as click_rate,
    min(propensity) as propensity_min,
    max(propensity) as propensity_max,
    min(position) as position_min,
    max(impressed_at) as impressed_at_max
from marts.training_rows
"""
