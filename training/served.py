"""What the service logged of its requests: each impression's features as served, and as of when they were known.

The online store serves what was materialised last, the banners' counts are kept for a minute, and a session has what
arrived of it, so the service logs the moments of all three. What cannot be replayed as of them is left out and counted
by reason.
"""

# ruff: noqa: S608 – table and column names come from the contract; every value is bound

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import duckdb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from marquee import contract, erasures
from marquee.errors import NothingToDo
from marquee.settings import Settings
from marquee.warehouse import open_warehouse

MOMENTS: Final = "as_of"
"""Key, beside the features of a logged impression, of the moments up to which they were known."""


def served_features(text: str) -> tuple[NDArray[np.float64], dict[str, Any] | None]:
    """[F] the ranker's inputs of a logged impression (NaN: unknown), and its moments; ``ValueError`` for other JSON."""
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    missing = [name for name in contract.RANKER_FEATURES if name not in values]
    if missing:
        raise ValueError(f"{missing[0]} is missing")
    numbers = [np.nan if values[name] is None else values[name] for name in contract.RANKER_FEATURES]
    return np.array(numbers, dtype=np.float64), values.get(MOMENTS)


def why_nothing(left_out: Mapping[str, int], features: Sequence[str] = ()) -> str:
    """Why no request, or no value of these features, can be replayed."""
    if not left_out:
        return "no logged request to replay: serve some, then ingest the stream and run `marquee transform`"
    what = f"value of {', '.join(features)}" if features else "request"
    return f"no logged {what} can be replayed: {'; '.join(f'{n:,} {reason}' for reason, n in left_out.items())}"


def logged_impressions(settings: Settings, requests: int, bundle: str | None, since: datetime | None) -> pd.DataFrame:
    """The impressions of the newest requests that a bundle of ours answered.

    Raises:
        NothingToDo: the warehouse holds no events yet.
    """
    query = """
        with ours as (
            select impression_id, coalesce(request_id, impression_id) as request_id, visitor_id, banner_id,
                placement_id, coalesce(device, 'unknown') as device, occurred_at as impressed_at, features,
                regexp_extract(policy, '@(.+:[0-9a-f]+)$', 1) as bundle
            from raw.events where kind = 'impression' and features is not null
        ),
        newest as (
            select request_id, max(impressed_at) as asked_at from ours
            where bundle = coalesce($bundle, nullif(bundle, ''))
                and impressed_at >= coalesce($since, '-infinity'::timestamp)
            group by 1 order by asked_at desc, request_id limit $requests
        )
        select ours.* from ours semi join newest using (request_id) where bundle <> ''
        order by impressed_at, impression_id
    """
    with open_warehouse(settings) as connection:
        try:
            values = {"bundle": bundle, "since": since, "requests": requests}
            rows: pd.DataFrame = connection.execute(query, values).df()
        except duckdb.CatalogException:
            raise NothingToDo(why_nothing({})) from None
    return rows.drop_duplicates("impression_id")


def replayable(logged: pd.DataFrame, left_out: Counter[str]) -> pd.DataFrame:
    """The rows that say as of when their features were read, with what was served of them."""
    kept: list[dict[str, Any]] = []
    for row in logged.to_dict("records"):
        try:
            served, moments = served_features(row.pop("features"))
            if moments is None:
                left_out["impressions that do not say as of when their features were known"] += 1
                continue
            if moments["banner"] is None or (moments["visitor"] is None and moments["is_visitor_read"]):
                left_out["impressions served while features were being written, or before any were"] += 1
                continue
            row |= _moments(moments, row["impressed_at"]) | {"served": served}
        except (ValueError, TypeError, KeyError):
            left_out["impressions whose logged features cannot be read"] += 1
            continue
        kept.append(row)
    return pd.DataFrame(kept)


def _moments(moments: dict[str, Any], impressed_at: datetime) -> dict[str, Any]:
    banner_until, banner_written = (datetime.fromisoformat(text) for text in moments["banner"])
    # The online store was down: the visitor was served as one of whom nothing is known.
    visitor = moments["visitor"] or moments["banner"]
    visitor_until, visitor_written = (datetime.fromisoformat(text) for text in visitor)
    return {
        "is_visitor_read": bool(moments["is_visitor_read"]),
        "visitor_until": visitor_until,
        "visitor_written": visitor_written,
        "banner_until": banner_until,
        "banner_written": banner_written,
        "counted_at": datetime.fromisoformat(moments["counted_at"]) if moments.get("counted_at") else impressed_at,
        # The last event in the served session; None where none was served.
        "session_at": datetime.fromisoformat(moments["session_at"]) if moments.get("session_at") else None,
        "is_session_given": bool(moments.get("is_session_given")),
    }


# --- what came after the features were written ------------------------------------------------------------------------

_LATE: Final = """
select impression_id, exists (
    select 1 from late where late.visitor_id = asked.visitor_id
    and late.occurred_at < date_trunc('day', asked.visitor_until) and late.visible_at > asked.visitor_written
) as is_visitor_late, exists (
    select 1 from late where late.banner_id = asked.banner_id
    and late.occurred_at < date_trunc('day', asked.banner_until) and late.visible_at > asked.banner_written
) as is_banner_late
from asked
"""


def mark_late(settings: Settings, rows: pd.DataFrame) -> pd.DataFrame:
    """Mark rows whose visitor or banner got events from before the request once its features had been written.

    Their past is another one now: that of the last row online, which is of a midnight and holds nothing later. An
    erasure takes events away from banners that nobody remembers, so it marks every banner that was written before it.
    """
    asked = rows[["impression_id", "visitor_id", "banner_id"]].copy()
    for name in ("visitor_until", "visitor_written", "banner_until", "banner_written"):
        asked[name] = pd.to_datetime(rows[name]).astype("datetime64[us]")
    with open_warehouse(settings) as connection:
        connection.register("asked_rows", asked)
        connection.execute("create temp table asked as select * from asked_rows")
        connection.execute(
            f"""
            create temp table late as
            select visitor_id, banner_id, occurred_at, visible_at
            from raw.events join ({_visible(connection)}) using (batch_id)
            where visible_at > (select min(least(visitor_written, banner_written)) from asked)
            """
        )
        marks: pd.DataFrame = connection.execute(_LATE).df()
    marked = rows.merge(marks, on="impression_id", validate="one_to_one")
    erased = [datetime.fromisoformat(line["at"]) for line in erasures.lines(settings)]
    if erased:
        marked["is_banner_late"] |= asked["banner_written"] < max(erased)
    return marked


def _visible(connection: duckdb.DuckDBPyConnection) -> str:
    """A query for when each batch's events came into the marts: with the first build of all of it."""
    (has_builds,) = connection.execute(
        "select count(*) from information_schema.columns "
        "where table_schema = 'raw' and table_name = 'built_batches' and column_name = 'build_id'"
    ).fetchone()
    if not has_builds:  # a warehouse that this version has not built yet: rather too many late than too few
        return "select batch_id, loaded_at as visible_at from raw.batches"
    # A build of some days, asked for by hand, may have taken in a part of what is still due.
    return """
        select batch_id, coalesce(min(built.finished_at), max(partial.finished_at)) as visible_at
        from raw.batches
        left join raw.built_batches using (batch_id)
        left join raw.builds as built on built.build_id = built_batches.build_id
        left join raw.builds as partial on not partial.covers_pending and partial.finished_at > batches.loaded_at
        group by batch_id
    """
