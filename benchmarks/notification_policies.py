"""Campaigns in the simulated world: Marquee's planner, which sees only what it logged, and those it is measured by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, time, timedelta
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.notification_world import Sent, World
from marquee.notifications import OUTCOMES
from training.notifications.bandit import BanditSettings
from training.notifications.caps import UNKNOWN, Fatigue
from training.notifications.click_model import ClickModel, fit_click_model
from training.notifications.decisions import Chooser, Decisions, decide, weekday_of
from training.notifications.local_time import Ints, clock_around, hour_of_day
from training.notifications.past import Past, teach, training_rows
from training.notifications.quiet_hours import QuietHours

Floats = NDArray[np.float64]
START: Final = datetime(2026, 2, 16)
"""Four weeks later clocks change in America, three weeks after that in Europe."""
REFIT_DAYS: Final = 14
KNOWN_AFTER: Final = np.timedelta64(72 * 3600, "s")
"""When all that will be known of a notification is known; until then nothing is learned from it."""


@dataclass(frozen=True, eq=False, slots=True)
class Run:
    """What was sent over all days, [n] each: whose, the day it was planned, when due, and whether it was clicked."""

    visitor: Ints
    day: Ints
    due: Any
    clicked: NDArray[np.bool_]
    chance: Floats

    def by_visitor(self, visitors: int, since: int = 0) -> tuple[Floats, Floats]:
        """[V] clicks and sends of each from a day on."""
        rows = self.day >= since
        clicks = np.bincount(self.visitor[rows], self.clicked[rows], visitors)
        return clicks, np.bincount(self.visitor[rows], minlength=visitors).astype(np.float64)


Decider = Callable[[World, datetime, Past, np.random.Generator], Decisions]


class Planner:
    """Marquee's: learns from what of the log is known by then, the trees every second week."""

    def __init__(self, settings: BanditSettings | None = None) -> None:
        self._settings, self._clicks, self._day = settings or BanditSettings(), None, 0
        self._clicks: ClickModel | None

    def __call__(self, world: World, now: datetime, past: Past, rng: np.random.Generator) -> Decisions:
        """Decide one day."""
        known = past.rows(past.at + KNOWN_AFTER <= np.datetime64(now, "s"))
        bandit = world.rules.new_bandit()
        teach(bandit, known)
        if self._day % REFIT_DAYS == 0:
            rows = training_rows(known, world.visitors.habits)
            self._clicks = fit_click_model(*rows, world.rules.types) if len(rows[0]) else None
        self._day += 1
        chooser = Chooser(bandit, self._clicks, self._settings)
        return decide(now, world.visitors, past, chooser, world.rules, rng.random(len(world.visitors.ids)))


def fixed_hour(hour: int, volume: Ints | None = None) -> Decider:
    """A blast: as many a day as ``volume`` says, to visitors drawn evenly, at one local hour, of an even type.

    It is the same code with the whole day quiet but that hour. Caps hold for it too; it knows no pauses for those who
    do not react, as then it could not send as many. What it may not send one day it makes up for later.
    """
    even, owed = BanditSettings(penalty=0.0, exploration=1.0), iter(() if volume is None else volume.tolist())
    left = [0]

    def decided(world: World, now: datetime, past: Past, rng: np.random.Generator) -> Decisions:
        rules = replace(world.rules, quiet=QuietHours(time((hour + 1) % 24), time(hour)), fatigue=Fatigue(patience=0))
        chooser = Chooser(rules.new_bandit(), None, even)
        made = decide(now, world.visitors, past, chooser, rules, rng.random(len(world.visitors.ids)))
        size = len(made.visitor)
        left[0] += next(owed, 0)
        most = size if volume is None else min(left[0], size)
        left[0] -= most
        kept = np.sort(rng.permutation(size)[:most])
        return Decisions(*(getattr(made, name)[kept] for name in Decisions.__slots__))

    return decided


def at_random(world: World, now: datetime, past: Past, rng: np.random.Generator) -> Decisions:
    """Any arm that is awake, evenly."""
    chooser = Chooser(world.rules.new_bandit(), None, BanditSettings(penalty=0.0, exploration=1.0))
    return decide(now, world.visitors, past, chooser, world.rules, rng.random(len(world.visitors.ids)))


def run(world: World, decider: Decider, days: int, seed: int, start: datetime = START) -> Run:
    """Let one policy decide day after day, and the world answer."""
    rng = np.random.default_rng([seed, 29])
    sent, past = Sent(len(world.visitors.ids), len(world.rules.types)), Past.empty()
    days_run: list[Run] = []
    for day in range(days):
        now = start + timedelta(days=day)
        made = decider(world, now, _as_known(past, now), rng)
        rows, chances = _send(world, made, sent, rng)
        past = past.and_then(rows)
        clicked = rows.clicked
        days_run.append(Run(rows.visitor, np.full(len(clicked), day), rows.at, clicked, chances))
    return Run(*(np.concatenate([getattr(one, name) for one in days_run]) for name in Run.__slots__))


def _send(world: World, made: Decisions, sent: Sent, rng: np.random.Generator) -> tuple[Past, Floats]:
    """What became of a day's, in the order in which they were due."""
    local = np.zeros(len(made.due), dtype="datetime64[s]")
    zone = world.visitors.zone[made.visitor]
    for place, name in enumerate(world.visitors.zones):
        local[zone == place] = clock_around(name, START).local(made.due[zone == place])
    hours = hour_of_day(local)
    chances = world.click_chances(made.visitor, made.type, hours, sent, made.due)
    sent.add(made.visitor, made.type, made.due)
    visitors = world.visitors
    rows = Past(
        visitor=made.visitor,
        type=made.type,
        group=visitors.segment[made.visitor],
        at=made.due,
        outcome=world.answers(chances, rng),
        hour=hours,
        bucket=made.bucket,
        weekday=weekday_of(local),
        device=visitors.device[made.visitor],
        propensity=made.propensity,
    )
    return rows, chances


def _as_known(past: Past, now: datetime) -> Past:
    """The log as it stands: what nobody reacted to is not known to be ignored for three days."""
    waiting = (past.at + KNOWN_AFTER > np.datetime64(now, "s")) & (past.outcome == OUTCOMES.index("ignored"))
    return replace(past, outcome=np.where(waiting, UNKNOWN, past.outcome))
