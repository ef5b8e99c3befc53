"""What an experiment's log says: rates of each arm, differences with intervals, and whether the log can be trusted.

    part               formula                                             source
    ratio              R = Σy / Σx over units, z = R + (y − Rx) / x̄        delta method; Deng, Knoblich and Lu, KDD 2018
    CUPED              z − θ(c − c̄), θ = cov(z, c) / var(c)                Deng, Xu, Kohavi and Walker, WSDM 2013
    fixed horizon      d ± t·se, t of the smaller arm's units less one      Student 1908; Welch 1947
    always valid       d ± se·√((s+1)/s · ln((s+1)/α²)), s = nρ²           Waudby-Smith et al., Ann. Stat. 2024, eq. 2

A unit is what was assigned: a visitor, or a period of a switchback. All of its rows count as one observation, so rows
of one visitor may depend on each other. Everything here is arrays; nothing reads or writes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from training.experiment_log import Shown, Units, days_with_all_arms, sample_ratio, share_drift, unit_totals
from training.metrics import Estimate

Floats = NDArray[np.float64]

METRICS: Final = {
    "ctr": ("clicks", "views"),
    "session_ctr": ("clicked_sessions", "sessions"),
    "value_per_view": ("value", "views"),
    "value_per_session": ("value", "sessions"),
}
"""Each metric as one total over another: click rate a view, share of sessions with a click, value a view, a session."""
ALPHA: Final = 0.05
LEAST_UNITS: Final = {"visitor": 50, "switchback": 10}
"""Units of each arm below which nothing is said."""
LEAST_POSITIVE: Final = 20
"""Units with anything above the fraction line that each arm should have if arms were alike, where it has visitors; a
normal interval around fewer is off (for small counts, as Cochran 1954 says of χ²)."""
PLANNED_UNITS: Final = {"visitor": 10_000, "switchback": 100}
"""Units at which always-valid intervals are at their narrowest; set before the start, never from the data."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One arm against the control in one metric; intervals hold with chance 1 − ``alpha``.

    Attributes:
        rate, control_rate: as logged.
        difference, lift: fixed horizon, right once, at an end set before the start; lift is relative, 0.1 is +10 %.
        difference_always, lift_always: right at all looks together.
        reduction: share of the variance that CUPED took away; None without a covariate.
    """

    arm: str
    metric: str
    alpha: float
    rate: float
    control_rate: float
    difference: Estimate
    difference_always: Estimate
    lift: Estimate | None
    lift_always: Estimate | None
    reduction: float | None


def always_valid_factor(units: int, alpha: float, planned: int) -> float:
    """By what a standard error is multiplied so that the interval holds at every number of units at once.

    An asymptotic confidence sequence by a normal mixture; its ρ makes it narrowest at ``planned`` units, where
    s = nρ² solves s = ln((s + 1) / α²). It wants units that come one after another, and enough of them at first look.
    """
    best = -special.lambertw(-(alpha**2) / math.e, -1).real - 1
    scaled = units * best / planned
    return math.sqrt((scaled + 1) / scaled * math.log((scaled + 1) / alpha**2))


@dataclass(frozen=True, slots=True)
class Design:
    """What was fixed before the start: the unit of assignment, the control, and the planned number of units."""

    control: str
    unit: str = "visitor"
    planned: int | None = None

    @property
    def horizon(self) -> int:
        """Planned units, or so many as a shop of middling size sees."""
        return self.planned or PLANNED_UNITS[self.unit]


def compare(units: Units, metric: str, arm: str, design: Design, alpha: float = ALPHA) -> Comparison | None:
    """One arm against the control; None, "cannot say", where there are too few units, or too few with any of it."""
    above, below = (units.totals[name] for name in METRICS[metric])
    sides = [units.arms == arm, units.arms == design.control]
    if not _is_enough([above[side] for side in sides], LEAST_UNITS[design.unit]):
        return None
    parts = [linearised(above[side], below[side]) for side in sides]
    raw = moments = [_moments(part) for part in parts]
    reduction = None
    if units.covariates is not None:
        moments = [_moments(part) for part in adjusted(parts, [units.covariates[side] for side in sides])]
        reduction = 1 - sum(variance for _, variance in moments) / sum(variance for _, variance in raw)
    sizes = [len(part) for part in parts]
    fixed = float(stats.t.ppf(1 - alpha / 2, min(sizes) - 1))
    always = always_valid_factor(sum(sizes), alpha, design.horizon)
    differences = [_difference(moments, factor) for factor in (fixed, always)]
    lifts = [_lift(moments, factor) for factor in (fixed, always)]
    rates = raw[0][0], raw[1][0]
    return Comparison(arm, metric, alpha, *rates, differences[0], differences[1], lifts[0], lifts[1], reduction)


def _is_enough(sides: list[Floats], least: int) -> bool:
    sizes, positive = [len(side) for side in sides], sum(np.count_nonzero(side) for side in sides)
    return min(sizes) >= least and positive * min(sizes) / sum(sizes) >= min(least, LEAST_POSITIVE)


def _moments(part: Floats) -> tuple[float, float]:
    """The mean and its variance."""
    return float(np.mean(part)), float(np.var(part, ddof=1)) / len(part)


def linearised(above: Floats, below: Floats) -> Floats:
    """Per-unit values, [u], whose mean is Σ above / Σ below and whose spread gives the ratio's own."""
    ratio = above.sum() / below.sum()
    values: Floats = ratio + (above - ratio * below) / below.mean()
    return values


def adjusted(parts: list[Floats], covariates: list[Floats]) -> list[Floats]:
    """CUPED; θ from both arms, each about its own mean, so that an effect is no part of it."""
    centred = np.concatenate([one - one.mean() for one in covariates])
    spread = float(centred @ centred)
    theta = float(np.concatenate([part - part.mean() for part in parts]) @ centred) / spread if spread else 0.0
    mean = float(np.mean(np.concatenate(covariates)))
    return [part - theta * (one - mean) for part, one in zip(parts, covariates, strict=True)]


def _difference(moments: list[tuple[float, float]], factor: float) -> Estimate:
    (mean, spread), (control, control_spread) = moments
    half = factor * math.sqrt(spread + control_spread)
    return Estimate(mean - control, mean - control - half, mean - control + half)


def _lift(moments: list[tuple[float, float]], factor: float) -> Estimate | None:
    """Relative lift with an interval made on the logarithm of the ratio; None where a rate is not positive."""
    (mean, spread), (control, control_spread) = moments
    if mean <= 0 or control <= 0:
        return None
    half = factor * math.sqrt(spread / mean**2 + control_spread / control**2)
    lift = math.log(mean / control)
    return Estimate(math.expm1(lift), math.expm1(lift - half), math.expm1(min(lift + half, 700.0)))


@dataclass(frozen=True, slots=True)
class Analysis:
    """Everything that an experiment's log says.

    Attributes:
        design: what was fixed before.
        arms: units and totals of each arm.
        first_day, last_day, days: UTC days that count; ``left_out`` days lacked an arm by chance.
        sample_ratio, share_drift: chances of such numbers of units, see ``training.experiment_log``.
        crossed: share of visitors that saw more than one arm.
        comparisons: each arm but the control in each metric; None where the log cannot say.
    """

    design: Design
    arms: dict[str, dict[str, float]]
    first_day: str
    last_day: str
    days: int
    left_out: int
    sample_ratio: float
    share_drift: float
    crossed: float
    comparisons: dict[str, dict[str, Comparison | None]]


def analyse(shown: Shown, shares: Mapping[str, float], design: Design, primary: str = "ctr") -> Analysis:
    """Compare every arm of ``shares`` with the control.

    The primary metric errs with chance 5 % over all arms; the others, which guard it, with 5 % over all of them too
    (Bonferroni).

    Raises:
        GateError: arms did not run side by side.
    """
    kept = days_with_all_arms(shown.where(np.isin(shown.arms, list(shares))), shares)
    units, days = unit_totals(kept), np.unique(kept.days)
    others = [arm for arm in shares if arm != design.control]
    alphas = {name: ALPHA / len(others) / (1 if name == primary else len(METRICS) - 1) for name in METRICS}
    return Analysis(
        design,
        {arm: _arm_totals(units, arm) for arm in shares},
        str(days[0]),
        str(days[-1]),
        len(days),
        len(np.unique(shown.days)) - len(days),
        sample_ratio(units, shares),
        share_drift(units) if design.unit == "visitor" else 1.0,
        units.crossed if design.unit == "visitor" else 0.0,
        {arm: {name: compare(units, name, arm, design, alphas[name]) for name in METRICS} for arm in others},
    )


def _arm_totals(units: Units, arm: str) -> dict[str, float]:
    own = units.arms == arm
    return {"units": float(own.sum())} | {name: float(column[own].sum()) for name, column in units.totals.items()}
