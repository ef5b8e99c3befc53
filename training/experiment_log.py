"""The log of an experiment: its impressions, their totals by unit, and whether arms ran side by side as they should.

A unit is what was assigned: a visitor, or a period of a switchback. Everything here is arrays; nothing reads or writes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from marquee.errors import GateError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Strings = NDArray[np.str_] | NDArray[np.object_]

CHANCE: Final = 1e-3
"""Below it, what is missing is not missing by chance (Fabijan et al., KDD 2019)."""
DAY: Final = 86_400_000_000
"""In microseconds."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One row an impression; every array is [n].

    Attributes:
        arms: the arm that each impression carries.
        units: visitor, or period of a switchback.
        sessions: session, unique over visitors.
        days: UTC day, datetime64[D].
        clicked: whether it was clicked.
        values: what it earned, in the shop's currency.
        covariates: something of the unit known before the experiment, the same in all of its rows; for CUPED.
    """

    arms: Strings
    units: Strings | Ints
    sessions: Strings
    days: NDArray[np.datetime64]
    clicked: NDArray[np.bool_]
    values: Floats
    covariates: Floats | None = None

    def where(self, kept: NDArray[np.bool_]) -> Shown:
        """The rows that are True in ``kept``, [n]."""
        return Shown(
            self.arms[kept],
            self.units[kept],
            self.sessions[kept],
            self.days[kept],
            self.clicked[kept],
            self.values[kept],
            None if self.covariates is None else self.covariates[kept],
        )


@dataclass(frozen=True, slots=True)
class Units:
    """One row per arm and unit, [u]: its arm, totals by name, covariate, first day."""

    arms: Strings
    totals: Mapping[str, Floats]
    covariates: Floats | None = None
    first_days: NDArray[np.datetime64] | None = None
    crossed: float = 0.0
    """Share of units that were seen in more than one arm."""


def periods(shown_at: NDArray[np.datetime64], per_day: int) -> Ints:
    """The period of a switchback that each moment (UTC) falls into, [n], counted since 1970."""
    days, micros = np.divmod(shown_at.astype("datetime64[us]").astype(np.int64), DAY)
    result: Ints = days * per_day + micros * per_day // DAY
    return result


def unit_totals(shown: Shown) -> Units:
    """Add the rows of each arm and unit up; a session that two units share counts in both."""
    names, arm_of = np.unique(shown.arms, return_inverse=True)
    unit_ids, unit_of = np.unique(shown.units, return_inverse=True)
    pairs, pair_of = np.unique(arm_of * len(unit_ids) + unit_of, return_inverse=True)
    session_ids, session_of = np.unique(shown.sessions, return_inverse=True)
    visits, visit_of = np.unique(pair_of * len(session_ids) + session_of, return_inverse=True)
    pair_of_visit, size = visits // max(len(session_ids), 1), len(pairs)
    clicked_visits = np.bincount(visit_of, shown.clicked, minlength=len(visits)) > 0
    counts = {
        "views": np.bincount(pair_of, minlength=size),
        "clicks": np.bincount(pair_of, shown.clicked, minlength=size),
        "sessions": np.bincount(pair_of_visit, minlength=size),
        "clicked_sessions": np.bincount(pair_of_visit, clicked_visits, minlength=size),
        "value": np.bincount(pair_of, shown.values, minlength=size),
    }
    first_days = np.full(size, np.datetime64("NaT", "D"))
    np.fmin.at(first_days, pair_of, shown.days.astype("datetime64[D]"))
    covariates = None
    if shown.covariates is not None:
        covariates = np.zeros(size)
        covariates[pair_of] = shown.covariates
    totals = {name: column.astype(np.float64) for name, column in counts.items()}
    return Units(names[pairs // max(len(unit_ids), 1)], totals, covariates, first_days, size / len(unit_ids) - 1)


def days_with_all_arms(shown: Shown, shares: Mapping[str, float]) -> Shown:
    """The rows of days on which every arm was shown: days are never compared with days.

    A day that lacks an arm is left out where chance can do that (few units, a small share), else the log is refused.

    Raises:
        GateError: an arm is missing from a day that it should have had, or no day has all arms.
    """
    days, day_of = np.unique(shown.days, return_inverse=True)
    complete = np.ones(len(days), dtype=bool)
    for arm, share in shares.items():
        complete &= np.bincount(day_of[shown.arms == arm], minlength=len(days)) > 0
        if not complete.all():
            _require_chance(shown, days, day_of, arm, share)
    if not complete.any():
        raise GateError(f"no day has all of {', '.join(shares)}; arms must run side by side to be compared")
    return shown.where(complete[day_of])


def _require_chance(
    shown: Shown, days: NDArray[np.datetime64], day_of: NDArray[np.intp], arm: str, share: float
) -> None:
    has = np.bincount(day_of[shown.arms == arm], minlength=len(days)) > 0
    for day in np.flatnonzero(~has):
        units = len(np.unique(shown.units[day_of == day]))
        if (1 - share) ** units < CHANCE / len(days):
            told = f"on {days[day]} arm {arm} was not shown, to none of {units:,} units"
            raise GateError(
                f"{told}; arms must run side by side on each day: narrow --since and --until, or run it anew"
            )


def sample_ratio(units: Units, shares: Mapping[str, float]) -> float:
    """Chance of numbers of units this far from the shares, [arms] by χ²; tiny when units were lost or moved."""
    counts = np.array([np.sum(units.arms == arm) for arm in shares], dtype=np.float64)
    expected = counts.sum() * np.array(list(shares.values())) / math.fsum(shares.values())
    return float(stats.chisquare(counts, expected).pvalue)


def share_drift(units: Units) -> float:
    """Chance that shares differ this much over the days on which units were first seen; 1 for a single day.

    Arms whose shares change, as a canary's that grows, would be compared over different days (Simpson's paradox).
    """
    if units.first_days is None:
        return 1.0
    table = stats.contingency.crosstab(units.first_days.astype(np.int64), units.arms).count
    return float(stats.chi2_contingency(table).pvalue) if min(table.shape) > 1 else 1.0
