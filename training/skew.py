"""Skew: what the service fed its ranker, against what the offline path makes of the same requests. Every feature.

What may differ is modelled. The online store serves what was materialised last, the banners' counts are kept for a
minute, and a session has the events that had arrived by then, so all are replayed as of the moments that the service
logged. A slate is scored as if each banner stood first. What cannot be replayed is left out and counted by reason: it
never passes for equal.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.matrix import COUNTS, SESSION_COUNTS
from features.store import refresh_offline
from marquee import contract
from marquee.errors import BundleError, NothingToDo
from marquee.settings import Settings
from training import registry
from training.replayed import replayed
from training.replayed_sessions import served_sessions
from training.served import logged_impressions, mark_late, replayable, why_nothing

REQUESTS: Final = 10_000
TOLERANCE: Final = 1e-6
"""Relative to the value, or to 1 where it is smaller: some rounding steps of a 32-bit float, and nothing more."""
OF_BANNER: Final = ("banner_impression_count_28d", "banner_click_rate")
"""Features that other visitors' events change."""
OF_VISITOR: Final = (
    *COUNTS,
    "cart_rate",
    "order_rate",
    "visitor_click_rate",
    "hours_since_seen",
    "mean_order_amount",
    "visitor_focus",
    "affinity_match",
    "affinity_cosine",
    "price_ratio",
)
"""Features that the visitor's events of earlier days change."""
OF_SESSION: Final = (
    *SESSION_COUNTS,
    "session_minutes",
    "session_affinity_match",
    "session_affinity_cosine",
    "last_category_share",
)
"""Features that the visitor's events of this very session change."""
_LATE, _UNSURE = -1, -2
REASONS: Final = {
    _LATE: "values whose events changed after they were written (late arrivals, erasures)",
    _UNSURE: "values of sessions of which the last second, or all, may have arrived after the request",
}
"""Why a value is not compared, by its verdict."""


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
    compared: dict[str, int]
    """Values compared by feature."""
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
        NothingToDo: no logged request could be compared, or no value of some feature that the store serves.
    """
    logged = logged_impressions(settings, requests, bundle, since)
    left_out: Counter[str] = Counter()
    rows = replayable(logged, left_out)
    if rows.empty:
        raise NothingToDo(why_nothing(left_out))
    store, _ = refresh_offline(settings)
    rows = mark_late(settings, rows)
    sessions, unsure = served_sessions(settings, rows)
    rows = rows.join(sessions).assign(is_session_unsure=unsure)
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
            again, served = replayed(settings, store, known, of_bundle), np.stack(of_bundle["served"].to_list())
            verdict = _compare(served, again, of_bundle)
            requests_asked = set(of_bundle["request_id"])
            parts.append(_Part(of_bundle["impression_id"].tolist(), requests_asked, served, again, verdict))
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
    for verdict, reason in REASONS.items():
        if count := sum(int((part.verdict == verdict).sum()) for part in parts):
            left_out[reason] = count
    names = contract.RANKER_FEATURES
    compared = {name: sum(int((p.verdict[:, place] >= 0).sum()) for p in parts) for place, name in enumerate(names)}
    differences = _differences(parts)
    unproved = [name for name in names if name in (*OF_VISITOR, *OF_BANNER, *OF_SESSION) and not compared[name]]
    if not parts or (unproved and not differences):
        raise NothingToDo(why_nothing(left_out, unproved if parts else ()))
    requests = len(set().union(*(part.requests for part in parts)))
    impressions = sum(len(part.impressions) for part in parts)
    return Skew(requests, impressions, sum(compared.values()), compared, differences, dict(left_out))


def _compare(served: NDArray[np.float64], replayed: NDArray[np.float64], rows: pd.DataFrame) -> NDArray[np.int8]:
    """[n, F] 1 where both differ, 0 where they agree, one of ``REASONS`` where they cannot be compared."""
    gap = np.abs(served - replayed) / np.maximum(1.0, np.abs(replayed))
    is_unknown = np.isnan(served) & np.isnan(replayed)
    verdict = np.where(is_unknown | (gap <= TOLERANCE), 0, 1).astype(np.int8)
    marks = ("is_visitor_late", OF_VISITOR, _LATE), ("is_banner_late", OF_BANNER, _LATE)
    for mark, features, why in (*marks, ("is_session_unsure", OF_SESSION, _UNSURE)):
        columns = np.array([name in features for name in contract.RANKER_FEATURES])
        verdict[np.outer(rows[mark].to_numpy(bool), columns)] = why
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
