"""What monitoring reads off a window of traffic: drift, calibration, click rate, propensities. Each may not know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from features.matrix import Floats
from marquee import contract
from training import metrics
from training.bundle import Bundle
from training.drift import Distribution, kolmogorov_smirnov, psi
from training.metrics import Estimate
from training.window import Window

Verdict = Literal["fine", "warning", "alarm", "cannot say"]
PSI_WARNING, PSI_ALARM = 0.1, 0.25
KS_WARNING, KS_ALARM, KS_BANNER_ALARM = 0.1, 0.2, 0.6
KS_CHANCE: Final = 1e-3
"""A distance counts when chance alone would give it less often than this."""
OF_BANNERS: Final = ("banner_impression_count_28d", "banner_click_rate", "mean_price", "product_count", "banner_focus")
"""All requests of a day share them, so that a dozen banners, not thousands of impressions, make their distribution."""
LEAST_IMPRESSIONS: Final = 300
LEAST_CLICKS: Final = 30
"""Clicks to be expected in a window that says something of a click rate."""
CALIBRATION_LIMIT: Final = 1.5
"""Factor by which clicks may differ from what was predicted, either way."""
CLICK_RATE_MARGIN: Final = 0.1
EXPLORATION_LIMIT: Final = 4.5
"""Standard deviations; chance alone exceeds it once in 150,000 windows."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One row of the report: what was measured, the limit at which it alarms, and what it means."""

    name: str
    value: float | None
    threshold: float | None
    verdict: Verdict
    about: str


def drift_readings(reference: dict[str, Any], bundle: Bundle, window: Window, hours: float) -> list[Reading]:
    """PSI and KS of each feature and of the predictions, over first positions."""
    first = window.where(window.positions == 0)
    stored = reference["features"]
    kept = {name: Distribution.from_dict(stored[name]) for name in contract.RANKER_FEATURES if name in stored}
    columns = {name: first.feature(name) for name in kept}
    kept["predictions"] = Distribution.from_dict(reference["predictions"])
    columns["predictions"] = _predictions(bundle, first)
    found = []
    for name, values in columns.items():
        why = _unknown_drift(name, len(first), hours)
        found.append(_unsaid(f"psi {name}", PSI_ALARM, why) if why else _psi(name, kept[name], values))
        found.append(_unsaid(f"ks {name}", KS_ALARM, why) if why else _ks(name, kept[name], values))
    return found


def _predictions(bundle: Bundle, window: Window) -> Floats:
    return bundle.ranker.predict(window.features.astype(np.float32)) if len(window) else np.empty(0)


def _unknown_drift(name: str, count: int, hours: float) -> str:
    if count < LEAST_IMPRESSIONS:
        return f"{count:,} impressions at first positions, {LEAST_IMPRESSIONS} are needed"
    if name.startswith("campaign_"):
        return "campaigns are older by now, and have less time left"
    if name == "hour_of_day" and hours < 24:
        return "a window shorter than a day has other hours"
    if name == "day_of_week" and hours < 7 * 24:
        return "a window shorter than a week has other days"
    return ""


def _unsaid(name: str, threshold: float | None, why: str) -> Reading:
    return Reading(name, None, threshold, "cannot say", why)


def _psi(name: str, kept: Distribution, values: Floats) -> Reading:
    value = psi(kept, values)
    verdict: Verdict = "alarm" if value > PSI_ALARM else "warning" if value > PSI_WARNING else "fine"
    about = f"{len(values):,} first positions against {kept.count:,} held-out requests"
    if name in OF_BANNERS:
        return Reading(
            f"psi {name}", value, None, "warning" if value > PSI_ALARM else "fine", f"of few banners; {about}"
        )
    return Reading(f"psi {name}", value, PSI_ALARM, verdict, about)


def _ks(name: str, kept: Distribution, values: Floats) -> Reading:
    limit = KS_BANNER_ALARM if name in OF_BANNERS else KS_ALARM
    found = kolmogorov_smirnov(kept, values)
    if found is None:
        return _unsaid(f"ks {name}", limit, "no known value to compare")
    distance, chance = found
    lowest: Verdict = "warning" if distance > KS_WARNING else "fine"
    verdict: Verdict = ("alarm" if distance > limit else lowest) if chance < KS_CHANCE else "fine"
    return Reading(f"ks {name}", distance, limit, verdict, f"largest distance of distributions, p = {chance:.2g}")


def outcome_readings(
    reference: dict[str, Any], bundle: Bundle, window: Window, before: Window, seed: int
) -> list[Reading]:
    """Calibration, and click rates against the log's policy and the champion before, over first positions."""
    now, then = (part.where(part.positions == 0) for part in (window, before))
    return [
        _calibration(reference["calibration"]["ratio"], _predictions(bundle, now), now, seed),
        _click_rate(_expected(reference, now), now, seed),
        _click_rate_before(now, then, seed),
    ]


def _calibration(ratio: float, predictions: Floats, window: Window, seed: int) -> Reading:
    name = "calibration"
    expected = float(predictions.sum())
    if why := _too_few(expected) or ("" if ratio > 0 else "the held-out window had no click"):
        return _unsaid(name, CALIBRATION_LIMIT, why)
    clicked = window.clicked.astype(np.float64)
    found = metrics.bootstrap(metrics.weighted_mean(clicked, predictions * ratio), window.visitors, seed)
    is_off = found.low > CALIBRATION_LIMIT or found.high < 1 / CALIBRATION_LIMIT
    about = f"clicks by predicted clicks, {_told(found)}, {ratio:.2f} when held out taken as 1"
    return Reading(name, found.value, CALIBRATION_LIMIT, "alarm" if is_off else "fine", about)


def _expected(reference: dict[str, Any], window: Window) -> Floats:
    """[N] the click rate of each impression's placement in the reference; that of all for a placement not there."""
    rates = {name: values["click_rate"] for name, values in reference["placements"].items()}
    return np.array([rates.get(name, reference["click_rate"]) for name in window.placements.tolist()], np.float64)


def _click_rate(expected: Floats, window: Window, seed: int) -> Reading:
    limit = 1 - CLICK_RATE_MARGIN
    if why := _too_few(float(expected.sum())):
        return _unsaid("click rate", limit, why)
    rates = metrics.weighted_mean(window.clicked.astype(np.float64), expected)
    found = metrics.bootstrap(rates, window.visitors, seed)
    about = f"click rate by that of the log it learned from, same placements, {_told(found)}"
    return Reading("click rate", found.value, limit, "alarm" if found.high < limit else "fine", about)


def _click_rate_before(now: Window, then: Window, seed: int) -> Reading:
    name, limit = "click rate before", 1 - CLICK_RATE_MARGIN
    if not then.clicked.sum():
        return _unsaid(name, limit, "no clicks of a champion before it to compare with")
    rate = float(then.clicked.mean())
    if why := _too_few(rate * len(now)) or _too_few(float(then.clicked.sum())):
        return _unsaid(name, limit, why)
    found = metrics.bootstrap(_relative(now, then), np.concatenate([now.visitors, then.visitors]), seed)
    about = f"click rate by that of the champion before it, {_told(found)}"
    return Reading(name, found.value, limit, "alarm" if found.high < limit else "fine", about)


def _relative(now: Window, then: Window) -> Callable[[Floats], float]:
    """Rate of the first by rate of the second, as a function of the weights of both one after the other."""
    ours = metrics.weighted_mean(now.clicked.astype(np.float64))
    theirs = metrics.weighted_mean(then.clicked.astype(np.float64))

    def statistic(weights: Floats) -> float:
        below = theirs(weights[len(now) :])
        return ours(weights[: len(now)]) / below if below else float("nan")

    return statistic


def _too_few(expected: float) -> str:
    return f"{expected:.1f} clicks to be expected, {LEAST_CLICKS} are needed" if expected < LEAST_CLICKS else ""


def _told(found: Estimate) -> str:
    return f"95 % interval {found.low:.2f} to {found.high:.2f}"


def propensity_readings(bundle: Bundle, window: Window) -> list[Reading]:
    """Whether each propensity can be one, and whether banners were explored as often as the propensities claim."""
    if not len(window):
        return [
            _unsaid(name, limit, "no impressions") for name, limit in (("propensities", 0.0), ("exploration", None))
        ]
    chances = window.propensities
    lowest = bundle.policy.exploration / bundle.candidates * (1 - 1e-9)
    is_wrong = ~((chances > 0) & (chances <= 1) & (chances >= lowest))
    about = f"of {len(chances):,} impressions, those without a propensity from {lowest:.2g} to 1"
    wrong = int(is_wrong.sum())
    return [
        Reading("propensities", float(wrong), 0.0, "alarm" if wrong else "fine", about),
        _exploration(bundle, chances[~is_wrong]),
    ]


def _exploration(bundle: Bundle, chances: Floats) -> Reading:
    """Standard deviations by which the number of banners drawn against the best differs from what was claimed.

    Under ε-greedy one propensity tells the best one's: itself where it is that of the best, 1 − ε above it elsewhere.
    """
    share = bundle.policy.exploration
    has_draws = bundle.effects is not None and len(bundle.effects) > 1  # Thompson sampling spreads the rest too
    if has_draws or bundle.policy.temperature or not 0 < share < 0.5 or len(chances) < LEAST_IMPRESSIONS:
        return _unsaid("exploration", EXPLORATION_LIMIT, "needs an ε-greedy policy and enough sound propensities")
    is_explored = chances < 0.5
    against = np.clip(np.where(is_explored, share - chances, 1 - chances), 0.0, 1.0)
    spread = float(np.sqrt((against * (1 - against)).sum()))
    gap = abs(float(is_explored.sum() - against.sum())) / max(spread, 1e-9)
    about = f"{int(is_explored.sum()):,} banners drawn against the best, {against.sum():.1f} claimed; gap in deviations"
    return Reading("exploration", gap, EXPLORATION_LIMIT, "alarm" if gap > EXPLORATION_LIMIT else "fine", about)
