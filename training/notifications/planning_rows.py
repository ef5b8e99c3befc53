"""What planning reads of the warehouse: who there is, when they come, what they were sent, and what to show."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import duckdb

from marquee.errors import NothingToDo
from marquee.settings import Settings
from marquee.warehouse import open_warehouse

Columns = dict[str, list[Any]]
ACTIVITY_DAYS: Final = 90
"""Days of events that habits are learned from."""
PAST_DAYS: Final = 180
"""Days of notifications that are looked at."""
_TABLES: Final = ("stg_events", "visitor_segments", "notifications", "banner_catalogue", "banner_features_28d")
_VISITORS: Final = """
    with known as (
        select
            visitor_id,
            arg_max(country, occurred_at) filter (where country is not null) as country,
            mode(device) filter (where device is not null) as device
        from staging.stg_events where occurred_at >= $since and occurred_at < $now group by visitor_id
    )
    select visitor_id, segment, country, coalesce(device, 'unknown') as device
    from marts.visitor_segments left join known using (visitor_id)
    order by visitor_id
"""
_ACTIVITY: Final = """
    select visitor_id, date_trunc('hour', occurred_at) as at, count(*) as events
    from staging.stg_events inner join marts.visitor_segments using (visitor_id)
    where occurred_at >= $since and occurred_at < $now and not starts_with(kind, 'notification_')
    group by 1, 2 order by 1, 2
"""
_PAST: Final = """
    select
        notification_id, visitor_id, notification_type, segment, sent_at, outcome, outcome_known_at, hour_bucket,
        propensity
    from marts.notifications inner join (select visitor_id from marts.visitor_segments) using (visitor_id)
    where sent_at >= $since and sent_at < $now
    order by visitor_id, sent_at, notification_id
"""
_CONTENT: Final = """
    select banner_id
    from marts.banner_catalogue
    left join (
        select banner_id, arg_max(banner_click_count_28d, feature_at) as clicks,
               arg_max(banner_impression_count_28d, feature_at) as shown
        from marts.banner_features_28d where feature_at <= $now group by banner_id
    ) using (banner_id)
    where status = 'active' and starts_at <= $now and ends_at > $now + interval '1' day
    order by (coalesce(clicks, 0) + 1) / (coalesce(shown, 0) + 50) desc, banner_id
    limit 1
"""


@dataclass(frozen=True, eq=False, slots=True)
class PlanningRows:
    """Columns of each of the four; ``visitors`` are those in a segment, by id."""

    visitors: Columns
    activity: Columns
    sent: Columns
    content: Columns


def read_planning_rows(settings: Settings, now: datetime) -> PlanningRows:
    """All that planning at a moment reads, of things before it.

    Raises:
        NothingToDo: no warehouse, or no marts.
        WarehouseBusy: another process writes to it.
    """
    with open_warehouse(settings) as connection:
        _require(connection)
        asked = ((_VISITORS, ACTIVITY_DAYS), (_ACTIVITY, ACTIVITY_DAYS), (_PAST, PAST_DAYS), (_CONTENT, 0))
        return PlanningRows(*(_columns(connection, query, now, days) for query, days in asked))


def _columns(connection: duckdb.DuckDBPyConnection, query: str, now: datetime, days: int) -> Columns:
    bound = {"now": now, "since": now - timedelta(days=days)}
    used = {name: value for name, value in bound.items() if f"${name}" in query}
    table = connection.sql(query, params=used).to_arrow_table()
    return {name: table[name].to_pylist() for name in table.column_names}


def _require(connection: duckdb.DuckDBPyConnection) -> None:
    found = {row[0] for row in connection.execute("select table_name from information_schema.tables").fetchall()}
    if missing := [name for name in _TABLES if name not in found]:
        raise NothingToDo(f"the warehouse has no {', '.join(missing)} yet; run `marquee transform` first")
