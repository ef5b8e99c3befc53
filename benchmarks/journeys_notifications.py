"""Notifications: clicks beside a blast of the same volume, limits over a million decisions, and uplift."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import say
from benchmarks.notification_policies import Decider, Planner, Run, at_random, fixed_hour, run
from benchmarks.notification_world import World, new_world
from benchmarks.randomised_campaigns import uplift_figures
from training.metrics import Estimate, bootstrap
from training.notifications.quiet_hours import QuietHours

Floats = NDArray[np.float64]
VISITORS: Final = 2_500
DAYS: Final = 42
WORLDS: Final = 3
HOURS: Final = range(9, 21)
"""Local hours at which a blast may go out; the best of them is known only afterwards."""
LIMIT_VISITORS: Final = 16_500
LIMIT_DAYS: Final = 31
SPRING, AUTUMN = datetime(2026, 3, 7), datetime(2026, 10, 4)
"""Within a month of either, clocks change in America, Europe, Australia and New Zealand."""
NIGHT: Final = QuietHours(time(23, 30), time(2, 30))
"""Quiet hours with both ends where clocks are put forward and back."""


def notifications(work: Path, seed: int) -> dict[str, Any]:
    """All figures; the page with the Qini curve goes into ``work``."""
    found = clicks_beside_blasts(seed)
    say(f"notifications, clicks: {found}")
    limits = limits_kept(seed)
    say(f"notifications, limits: {limits}")
    uplift, page = uplift_figures(seed)
    work.mkdir(parents=True, exist_ok=True)
    (work / "notification_uplift.html").write_text(page, encoding="utf-8")
    return found | limits | {"notification_uplift": uplift}


def clicks_beside_blasts(seed: int, worlds: int = WORLDS, visitors: int = VISITORS, days: int = DAYS) -> dict[str, Any]:
    """Clicks per send over those of a blast of the same volume at its best hour, from the first day on.

    ``flat`` is the same in one world where neither type nor hour matters.
    """
    each = [_runs(seed + place, visitors, days, 1.0) for place in range(worlds)]
    flat = [_runs(seed, visitors, days, 0.0)]
    best = _ratio([(one["planner"], one["best_hour"]) for one in each], visitors, seed)
    last = _ratio([(one["planner"], one["best_hour"]) for one in each], visitors, seed, since=days // 2)
    told = {name: _ratio([(one["planner"], one[name]) for one in each], visitors, seed) for name in ("ten", "random")}
    no_gain = _ratio([(one["planner"], one["best_hour"]) for one in flat], visitors, seed)
    return {
        "clicks_vs_blast": best.value,
        "notification_clicks": {
            "vs_best_hour": best.as_dict(),
            "vs_best_hour_by_world": [_plain(one["planner"], one["best_hour"]) for one in each],
            "vs_best_hour_second_half": last.as_dict(),
            "vs_ten_oclock": told["ten"].as_dict(),
            "vs_random": told["random"].as_dict(),
            "flat_vs_best_hour": no_gain.as_dict(),
            "sends": [len(one["planner"].due) for one in each],
            "blast_sends": [len(one["best_hour"].due) for one in each],
        },
    }


def limits_kept(seed: int, visitors: int = LIMIT_VISITORS, days: int = LIMIT_DAYS) -> dict[str, Any]:
    """How often a cap or quiet hours were broken; one decision is one visitor on one day."""
    caps = quiet = sends = 0
    for start, hours in ((SPRING, QuietHours()), (AUTUMN, NIGHT)):
        world = new_world(seed, visitors)
        world = replace(world, rules=replace(world.rules, quiet=hours))
        done = run(world, Planner(), days, seed, start)
        caps, quiet = caps + cap_violations(world, done), quiet + quiet_violations(world, done)
        sends += len(done.due)
    decisions = 2 * visitors * days
    return {
        "cap_violations": caps,
        "quiet_violations": quiet,
        "notification_decisions": decisions,
        "notification_sends": sends,
    }


def cap_violations(world: World, done: Run) -> int:
    """Sends that are one too many in the seven days that end with them, counted one by one."""
    names, caps = world.rules.segments, world.rules.caps
    by_visitor: dict[int, list[datetime]] = {}
    for row, due in sorted(zip(done.visitor.tolist(), done.due.tolist(), strict=True)):
        by_visitor.setdefault(row, []).append(due)
    wrong = 0
    for row, moments in by_visitor.items():
        cap = min(caps.weekly[names[world.visitors.segment[row]]], caps.overall)
        for last, due in enumerate(moments):
            wrong += sum(due - one < timedelta(days=7) for one in moments[: last + 1]) > cap
    return wrong


def quiet_violations(world: World, done: Run) -> int:
    """Sends at a moment that the visitor's clock calls quiet, by the standard library's zones."""
    quiet, zones = world.rules.quiet, [ZoneInfo(name) for name in world.visitors.zones]
    wrong = 0
    for row, due in zip(done.visitor.tolist(), done.due.tolist(), strict=True):
        shown = due.replace(tzinfo=UTC).astimezone(zones[world.visitors.zone[row]]).time()
        over_midnight = quiet.start > quiet.end
        inside = shown >= quiet.start or shown < quiet.end if over_midnight else quiet.start <= shown < quiet.end
        wrong += inside
    return wrong


def _runs(seed: int, visitors: int, days: int, structure: float) -> dict[str, Run]:
    world = new_world(seed, visitors, structure=structure)
    planner = run(world, Planner(), days, seed)
    volume = np.bincount(planner.day, minlength=days)
    blasts = {hour: run(world, fixed_hour(hour, volume), days, seed) for hour in HOURS}
    best = max(blasts.values(), key=lambda one: float(one.clicked.mean()))
    evenly: Decider = at_random
    return {"planner": planner, "best_hour": best, "ten": blasts[10], "random": run(world, evenly, days, seed)}


def _ratio(pairs: list[tuple[Run, Run]], visitors: int, seed: int, since: int = 0) -> Estimate:
    """Clicks per send of the first over the second, over all worlds, resampling visitors."""
    sides = [[one.by_visitor(visitors, since) for one in side] for side in zip(*pairs, strict=True)]
    (clicks, sends), (other_clicks, other_sends) = (
        (np.concatenate([one[0] for one in side]), np.concatenate([one[1] for one in side])) for side in sides
    )

    def ratio(weights: Floats) -> float:
        own, other = (weights @ clicks) / (weights @ sends), (weights @ other_clicks) / (weights @ other_sends)
        return float(own / other)

    return bootstrap(ratio, np.arange(len(clicks)).astype(str), seed)


def _plain(one: Run, other: Run) -> float:
    return round(float(one.clicked.mean() / other.clicked.mean()), 3)
