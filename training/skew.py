"""Skew: what the service fed its ranker, against what the offline path makes of the same requests. Every feature.

What may differ is modelled. The online store serves what was materialised last, and the banners' counts are kept for
a minute, so both are replayed as of the moments that the service logged. A slate is scored as if each banner stood
first. What cannot be replayed is left out and counted by reason: it never passes for equal.
"""

# ruff: noqa: S608 – table and column names come from the contract; every value is bound

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import duckdb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.matrix import BANNER_COUNTS, COUNTS, category_matrix, ranker_matrix
from marquee import contract, erasures
from marquee.errors import BundleError, NothingToDo
from marquee.settings import Settings
from marquee.warehouse import open_warehouse
from training import registry
from training.bundle import Bundle
from training.dataset import frame_columns

REQUESTS: Final = 10_000
TOLERANCE: Final = 1e-6
"""Relative to the value, or to 1 where it is smaller: some rounding steps of a 32-bit float, and nothing more."""
MOMENTS: Final = "as_of"
"""Key, beside the features of a logged impression, of the moments up to which they were known."""
OF_BANNER: Final = ("banner_impression_count_28d", "banner_click_rate")
"""Features that other visitors' events change."""
OF_VISITOR: Final = (
    *COUNTS,
    "visitor_click_rate",
    "hours_since_seen",
    "affinity_match",
    "affinity_cosine",
)
"""Features that the visitor's own events change."""
VISITOR_TABLES: Final = (contract.VISITOR_FEATURES_28D, contract.VISITOR_FEATURES_365D)


@dataclass(frozen=True, slots=True)
class Difference:
    """One feature that was served other than it is replayed: in how many impressions, and one of them."""

    feature: str
    count: int
    impression_id: str
    served: float | None
    replayed: float | None


@dataclass(frozen=True, slots=True)
class Skew:
    """What was compared, what differed, and how many impressions or values were left out for which reason."""

    requests: int
    impressions: int
    values: int
    differences: list[Difference] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)


def check_skew(
    settings: Settings, requests: int = REQUESTS, bundle: str | None = None, since: datetime | None = None
) -> Skew:
    """Replay the newest logged requests through the offline path and compare every feature of every impression.

    Args:
        settings: whose log, offline features and bundles.
        requests: how many at most.
        bundle: only requests that this bundle answered.
        since: only requests from then on, UTC.

    Raises:
        NothingToDo: no logged request could be compared.
    """
    from features.store import refresh_offline

    logged = _logged(settings, requests, bundle, since)
    left_out: Counter[str] = Counter()
    rows = _replayable(logged, left_out)
    if rows.empty:
        raise NothingToDo(_why_nothing(left_out))
    store, _ = refresh_offline(settings)
    rows = _mark_late(settings, rows)
    parts: list[_Part] = []
    for tag in sorted(set(rows["bundle"])):
        of_bundle = rows[rows["bundle"] == tag].reset_index(drop=True)
        try:
            known = registry.load_bundle(settings, tag)
        except BundleError as error:
            left_out[f"impressions of a bundle that cannot be read ({error})"] += len(of_bundle)
            continue
        is_known = of_bundle["banner_id"].isin(known.catalogue.banner_ids)
        if not is_known.all():
            left_out["impressions of a banner that the bundle does not know"] += int((~is_known).sum())
            of_bundle = of_bundle[is_known].reset_index(drop=True)
        if len(of_bundle):
            replayed, served = _replay(store, known, of_bundle), np.stack(of_bundle["served"].to_list())
            verdict = _compare(served, replayed, of_bundle)
            requests_asked = set(of_bundle["request_id"])
            parts.append(_Part(of_bundle["impression_id"].tolist(), requests_asked, served, replayed, verdict))
    return _summary(parts, left_out)


@dataclass(frozen=True, slots=True)
class _Part:
    """The comparison of one bundle's impressions: ids, and [n, F] arrays."""

    impressions: list[str]
    requests: set[str]
    served: NDArray[np.float64]
    replayed: NDArray[np.float64]
    verdict: NDArray[np.int8]


def _summary(parts: list[_Part], left_out: Counter[str]) -> Skew:
    if late := sum(int((part.verdict == -1).sum()) for part in parts):
        left_out["values whose events changed after they were written (late arrivals, erasures)"] = late
    values = sum(int((part.verdict >= 0).sum()) for part in parts)
    if not values:
        raise NothingToDo(_why_nothing(left_out))
    requests = len(set().union(*(part.requests for part in parts)))
    impressions = sum(len(part.impressions) for part in parts)
    return Skew(requests, impressions, values, _differences(parts), dict(left_out))


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


def _why_nothing(left_out: Counter[str]) -> str:
    reasons = "; ".join(f"{count:,} {reason}" for reason, count in left_out.items())
    return (
        "no logged request to replay: serve some, then ingest the stream and run `marquee transform`"
        if not left_out
        else f"no logged request can be replayed: {reasons}"
    )


def _logged(settings: Settings, requests: int, bundle: str | None, since: datetime | None) -> pd.DataFrame:
    """The impressions of the newest requests that a bundle of ours answered."""
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
            raise NothingToDo(_why_nothing(Counter())) from None
    return rows.drop_duplicates("impression_id")


def _replayable(logged: pd.DataFrame, left_out: Counter[str]) -> pd.DataFrame:
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
            row |= _moments(moments) | {"served": served}
        except (ValueError, TypeError, KeyError):
            left_out["impressions whose logged features cannot be read"] += 1
            continue
        kept.append(row)
    return pd.DataFrame(kept)


def _moments(moments: dict[str, Any]) -> dict[str, Any]:
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
    }


# --- what came after the features were written ------------------------------------------------------------------------

_LATE: Final = """
select impression_id, exists (
    select 1 from late where late.visitor_id = asked.visitor_id
    and late.occurred_at < asked.visitor_until and late.visible_at > asked.visitor_written
) as is_visitor_late, exists (
    select 1 from late where late.banner_id = asked.banner_id
    and late.occurred_at < asked.banner_until and late.visible_at > asked.banner_written
) as is_banner_late
from asked
"""


def _mark_late(settings: Settings, rows: pd.DataFrame) -> pd.DataFrame:
    """Mark rows whose visitor or banner got events from before the request once its features had been written.

    Their past is another one now. An event counts from the end of the first build of the warehouse after its load. An
    erasure takes events away from banners that nobody remembers, so it marks every banner that was written before it.
    """
    asked = rows[["impression_id", "visitor_id", "banner_id"]].copy()
    for name in ("visitor_until", "visitor_written", "banner_until", "banner_written"):
        asked[name] = pd.to_datetime(rows[name]).astype("datetime64[us]")
    with open_warehouse(settings) as connection:
        connection.register("asked_rows", asked)
        connection.execute("create temp table asked as select * from asked_rows")
        has_builds = connection.execute(
            "select count(*) from information_schema.tables where table_schema = 'raw' and table_name = 'builds'"
        ).fetchone()[0]
        first_build = "(select min(finished_at) from raw.builds where finished_at > loaded_at)"
        visible_at = f"coalesce({first_build}, loaded_at)" if has_builds else "loaded_at"
        connection.execute(
            f"""
            create temp table late as
            select visitor_id, banner_id, occurred_at, visible_at
            from raw.events join (select batch_id, {visible_at} as visible_at from raw.batches) using (batch_id)
            where visible_at > (select min(least(visitor_written, banner_written)) from asked)
            """
        )
        marks: pd.DataFrame = connection.execute(_LATE).df()
    marked = rows.merge(marks, on="impression_id", validate="one_to_one")
    erased = [datetime.fromisoformat(line["at"]) for line in erasures.lines(settings)]
    if erased:
        marked["is_banner_late"] |= asked["banner_written"] < max(erased)
    return marked


# --- the replay -------------------------------------------------------------------------------------------------------


def _replay(store: Any, bundle: Bundle, rows: pd.DataFrame) -> NDArray[np.float64]:
    """[n, F] the ranker's inputs from the offline store, as training makes them, at the first position."""
    frame = _join(store, rows, "visitor_until")
    alive = _join(store, rows, "impressed_at")
    for table in VISITOR_TABLES:
        names = [name for name in table.names if name in frame and name not in (*table.key, "feature_at")]
        # Written in time, but older than its TTL when it was asked for.
        frame.loc[alive[names].isna().all(axis=1), names] = None
    frame.loc[~rows["is_visitor_read"].to_numpy(bool), _visitor_names(frame)] = None
    if not rows["banner_until"].equals(rows["visitor_until"]):
        frame[list(BANNER_COUNTS)] = _join(store, rows, "banner_until")[list(BANNER_COUNTS)]
    for name in ("placement_id", "device", "impressed_at"):
        frame[name] = rows[name].to_numpy()
    frame["position"] = 0
    place = {banner: row for row, banner in enumerate(bundle.catalogue.banner_ids)}
    own = rows["banner_id"].map(place).to_numpy(np.int64)
    columns = frame_columns(frame, bundle.encoding) | {"mean_price": bundle.catalogue.mean_prices[own]}
    texts = [text if isinstance(text, str) else None for text in frame["category_affinity"]]
    shares = category_matrix(texts, bundle.encoding.categories)
    matrix: Any = ranker_matrix(columns, shares, bundle.banner_shares[own], bundle.encoding.base_rate)
    return np.asarray(matrix, dtype=np.float64)


def _join(store: Any, rows: pd.DataFrame, moment: str) -> pd.DataFrame:
    from features.training_set import join_features

    asked = rows[["impression_id", "visitor_id", "banner_id"]].copy()
    asked["impressed_at"] = pd.to_datetime(rows[moment]).astype("datetime64[us]")
    return join_features(store, asked)


def _visitor_names(frame: pd.DataFrame) -> list[str]:
    names = dict.fromkeys(name for table in VISITOR_TABLES for name in table.names)
    return [name for name in names if name in frame and name not in ("visitor_id", "feature_at")]


def _compare(served: NDArray[np.float64], replayed: NDArray[np.float64], rows: pd.DataFrame) -> NDArray[np.int8]:
    """[n, F] 1 where both differ, 0 where they agree, -1 where the past changed after the features were written."""
    gap = np.abs(served - replayed) / np.maximum(1.0, np.abs(replayed))
    is_unknown = np.isnan(served) & np.isnan(replayed)
    verdict = np.where(is_unknown | (gap <= TOLERANCE), 0, 1).astype(np.int8)
    names = contract.RANKER_FEATURES
    of_visitor = np.array([name in OF_VISITOR for name in names])
    of_banner = np.array([name in OF_BANNER for name in names])
    verdict[np.outer(rows["is_visitor_late"].to_numpy(bool), of_visitor)] = -1
    verdict[np.outer(rows["is_banner_late"].to_numpy(bool), of_banner)] = -1
    return verdict


def _differences(parts: list[_Part]) -> list[Difference]:
    """One line a feature, in the ranker's order."""
    found = []
    for column, name in enumerate(contract.RANKER_FEATURES):
        differing = [(part, np.flatnonzero(part.verdict[:, column] == 1)) for part in parts]
        count = sum(len(rows) for _, rows in differing)
        if count:
            part, rows = next(pair for pair in differing if len(pair[1]))
            served, replayed = part.served[rows[0], column], part.replayed[rows[0], column]
            found.append(Difference(name, count, part.impressions[rows[0]], _plain(served), _plain(replayed)))
    return found


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
