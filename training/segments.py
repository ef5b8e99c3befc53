"""How each customer segment responds to banners: rates with intervals, every visitor in exactly one segment.

    part             formula                                                  source
    rate             r = Σs / Σt over visitors
    its variance     m/(m−1) · Σ(s − rt)² / (Σt)² over m visitors             Cochran 1977, §6.3 (ratio estimator)
    interval         Wilson's on n* = min(Σt, r(1−r)/variance) trials         Wilson 1927; Korn and Graubard 1998
    its quantile     Student's t with m − 1 degrees of freedom

Impressions of one visitor depend on each other, so they count as fewer. Where nobody or everybody responded nothing
tells by how much, and each visitor counts once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import duckdb
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from marquee.errors import NothingToDo
from marquee.settings import Settings
from marquee.warehouse import open_warehouse
from training.metrics import Estimate

Floats = NDArray[np.float64]

NO_SEGMENT: Final = "none"
"""Of visitors whose customer is in no segment: those who never ordered, or are not known to have."""


@dataclass(frozen=True, slots=True)
class Response:
    """What the visitors of one segment did with what they were shown; both rates are per impression."""

    segment: str
    visitors: int
    impressions: int
    clicks: int
    conversions: int
    click_rate: Estimate
    conversion_rate: Estimate


def segment_responses(settings: Settings) -> list[Response]:
    """Each segment's response, the most shown first, and ``none`` last; together they are all clean impressions.

    Raises:
        NothingToDo: the mart has not been built, or nobody was shown anything.
    """
    rows = _fetched(
        settings,
        "select coalesce(segment, ?) as segment, impression_count, click_count, conversion_count "
        "from marts.visitor_responses order by visitor_id",
        [NO_SEGMENT],
    )
    if not len(rows["segment"]):
        raise NothingToDo("no banner has been shown to anybody yet, so no segment has responded")
    segments = rows["segment"].astype(str)
    found = [_response(name, rows, segments == name) for name in map(str, np.unique(segments))]
    return sorted(found, key=lambda one: (one.segment == NO_SEGMENT, -one.impressions, one.segment))


def segments_by_visitor(settings: Settings) -> dict[str, str]:
    """The segment of each visitor who is in one, as it is now.

    Raises:
        NothingToDo: the mart has not been built.
    """
    rows = _fetched(settings, "select visitor_id, segment from marts.visitor_segments", [])
    return dict(zip(rows["visitor_id"].tolist(), rows["segment"].tolist(), strict=True))


def clustered_rate(successes: Floats, trials: Floats) -> Estimate:
    """Σ successes / Σ trials with a 95 % interval, where those of one visitor depend on each other.

    Args:
        successes, trials: [m] of each visitor; every visitor has a trial.
    """
    visitors, total = len(trials), float(trials.sum())
    rate = float(successes.sum()) / total
    if visitors < 2:
        return Estimate(rate, 0.0, 1.0)
    spread = rate * (1 - rate)
    variance = visitors / (visitors - 1) * float(((successes - rate * trials) ** 2).sum()) / total**2
    effective = float(visitors) if spread == 0 else min(total, spread / max(variance, spread / total))
    low, high = _wilson(rate, effective, float(stats.t.ppf(0.975, visitors - 1)))
    return Estimate(rate, low, high)


def _wilson(rate: float, trials: float, quantile: float) -> tuple[float, float]:
    share = quantile**2 / trials
    middle = (rate + share / 2) / (1 + share)
    half = float(np.sqrt(share * (rate * (1 - rate) + share / 4))) / (1 + share)
    # Rounding must not move an end past the rate at 0 or 1.
    return min(rate, max(0.0, middle - half)), max(rate, min(1.0, middle + half))


def _response(segment: str, rows: dict[str, NDArray[Any]], here: NDArray[np.bool_]) -> Response:
    names = ("impression_count", "click_count", "conversion_count")
    shown, clicked, converted = (rows[name][here].astype(np.float64) for name in names)
    return Response(
        segment=segment,
        visitors=int(here.sum()),
        impressions=int(shown.sum()),
        clicks=int(clicked.sum()),
        conversions=int(converted.sum()),
        click_rate=clustered_rate(clicked, shown),
        conversion_rate=clustered_rate(converted, shown),
    )


def _fetched(settings: Settings, query: str, values: list[Any]) -> dict[str, NDArray[Any]]:
    with open_warehouse(settings) as warehouse:
        try:
            found: dict[str, NDArray[Any]] = warehouse.execute(query, values).fetchnumpy()
            return found
        except duckdb.CatalogException as error:
            raise NothingToDo("the segments' marts have not been built yet: run transform_events") from error
