"""How old the newest of everything is that serving and training live on."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Final

import duckdb

from features.freshness import TTL
from features.matrix import READS
from marquee.settings import Settings
from marquee.warehouse import open_warehouse
from training.readings import Reading

EVENT_LIMIT: Final = timedelta(hours=24)
ROWS_LIMIT: Final = timedelta(hours=72)
"""Of training rows: a day is built when it is over, and a label is final a day later."""
FEATURES_LIMIT: Final = timedelta(hours=48)
"""Features are those of a midnight, so a day old before the next are written; expired ones are not served at all."""

_EVENTS: Final = """select max(occurred_at) from raw.events semi join (
    select batch_id from raw.batches where status = 'admitted') using (batch_id)"""
_ROWS: Final = "select max(impressed_at) from marts.training_rows"


def freshness_readings(settings: Settings, now: datetime) -> list[Reading]:
    """Age in hours of the newest admitted event, training row, and online features of the view that is oldest."""
    return [
        _age("newest event", _newest(settings, _EVENTS), now, EVENT_LIMIT, "ingest_events has not run, or got nothing"),
        _age("newest training row", _newest(settings, _ROWS), now, ROWS_LIMIT, "transform_events has not run"),
        _age("online features", _features_until(settings), now, _features_limit(), "materialize has not run"),
    ]


def _age(name: str, newest: datetime | None, now: datetime, limit: timedelta, cause: str) -> Reading:
    hours = limit / timedelta(hours=1)
    if newest is None:
        return Reading(name, None, hours, "alarm", f"there is none: {cause}")
    age = (now - newest) / timedelta(hours=1)
    is_old = age > hours
    return Reading(name, age, hours, "alarm" if is_old else "fine", f"age in hours{f'; {cause}' if is_old else ''}")


def _newest(settings: Settings, query: str) -> datetime | None:
    with open_warehouse(settings) as connection:
        try:
            (newest,) = connection.execute(query).fetchone()
        except duckdb.CatalogException:
            return None
    return newest if isinstance(newest, datetime) else None


def _features_until(settings: Settings) -> datetime | None:
    path = settings.features / "materialized.json"
    if not path.exists():
        return None
    values = json.loads(path.read_text(encoding="utf-8"))
    if any(view not in values for view in READS):
        return None
    return min(datetime.fromisoformat(values[view][0]) for view in READS)


def _features_limit() -> timedelta:
    return min(FEATURES_LIMIT, *(TTL[view] for view in READS))
