"""Which arm each visitor gets: type and part of the day, drawn for all visitors of a segment at once.

The arms awake are the types of the visitor's segment at the parts of the day that quiet hours, caps and fatigue leave.
An arm's value is what the bandit says of it on average times how much more this visitor takes to it than visitors on
average, by the click model, or by their hours alone while there is none. One arm is drawn, and its chance is the
propensity. Within its part of the day it is the hour at which the visitor is most often there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.notifications.bandit import BanditSettings, NotificationBandit, choose, propensities, recovering
from training.notifications.caps import WEEK, side_by_side
from training.notifications.click_model import LONGEST_DAYS, ClickModel, click_inputs
from training.notifications.local_time import DAY, HOUR, Ints, Moments, clock_around, hour_of_day, seconds
from training.notifications.past import Past, Standing, habit_ratio, standing
from training.notifications.rules import Rules
from training.notifications.send_time import BUCKET_HOURS, BUCKETS, HOURS, Floats

Bools = NDArray[np.bool_]
_CHUNK: Final = 50_000
"""Visitors whose values are worked out at once."""


@dataclass(frozen=True, eq=False, slots=True)
class Visitors:
    """V visitors, side by side.

    Attributes:
        ids: [V]. segment: [V] place in ``Rules.segments``, -1 for none.
        zones: names. zone: [V] place in ``zones``.
        device: [V] place in ``contract.DEVICES``.
        habits: [V, 24] shares of their hours, of ``SendTime.shares``.
    """

    ids: Sequence[str]
    segment: Ints
    zones: tuple[str, ...]
    zone: Ints
    device: Ints
    habits: Floats


@dataclass(frozen=True, eq=False, slots=True)
class Chooser:
    """What has been learned, and how it is acted upon; ``clicks`` is None while there is too little to learn from."""

    bandit: NotificationBandit
    clicks: ClickModel | None = None
    settings: BanditSettings = field(default_factory=BanditSettings)


@dataclass(frozen=True, eq=False, slots=True)
class Decisions:
    """What was decided for the n visitors that get something.

    Attributes:
        visitor: [n] row. type, bucket: [n] the arm. due, expires: [n] moments.
        propensity: [n]. click_chance: [n] what the arm was thought to bring this visitor, relative or a probability.
    """

    visitor: Ints
    type: Ints
    bucket: Ints
    due: Moments
    expires: Moments
    propensity: Floats
    click_chance: Floats


@dataclass(frozen=True, eq=False, slots=True)
class _Slots:
    """The coming day's hours: when, and by zone what the clock shows then, whether it is open, and until when."""

    at: Moments
    hour: Ints
    weekday: Ints
    is_open: Bools
    closes: Moments


def decide(now: datetime, visitors: Visitors, past: Past, chooser: Chooser, rules: Rules, uniform: Floats) -> Decisions:
    """Draw for every visitor at once.

    Args:
        now: UTC without a zone; nothing is due before.
        past: of these visitors; those that are planned but not sent count as sent.
        uniform: [V] numbers in [0, 1) that decide.
    """
    slots = _slots(now, visitors.zones, rules)
    stand = standing(past, len(visitors.ids), len(rules.types))
    free = _free(now, visitors, past, stand, slots, rules)
    parts = [
        _decide_segment(rows, place, visitors, stand, slots, free, chooser, rules, uniform)
        for place in range(len(rules.segments))
        if len(rows := np.flatnonzero((visitors.segment == place) & free.any(axis=1)))
    ]
    if not parts:
        none, never = np.zeros(0, dtype=np.int64), np.zeros(0, dtype="datetime64[s]")
        return Decisions(none, none, none, never, never, np.zeros(0), np.zeros(0))
    return Decisions(*(np.concatenate([getattr(one, name) for one in parts]) for name in Decisions.__slots__))


def weekday_of(local: Moments) -> Ints:
    """Day of the week that local times show, Monday 0."""
    return (seconds(local) // DAY + 3) % 7


def _slots(now: datetime, zones: Sequence[str], rules: Rules) -> _Slots:
    first = -(-int(seconds(np.datetime64(now, "us").astype("datetime64[s]") + (now.microsecond > 0))) // HOUR) * HOUR
    at = (first + HOUR * np.arange(HOURS)).astype("datetime64[s]")
    room = np.timedelta64(rules.room_minutes * 60, "s")
    hours, weekdays, is_open, closes = [], [], [], []
    for name in zones:
        clock = clock_around(name, now)
        local, until = clock.local(at), rules.quiet.next_quiet(clock, at)
        hours.append(hour_of_day(local))
        weekdays.append(weekday_of(local))
        is_open.append(until - at >= np.maximum(room, np.timedelta64(1, "s")))
        closes.append(until)
    shape = (len(zones), HOURS)
    return _Slots(at, *(np.array(one).reshape(shape) for one in (hours, weekdays, is_open, closes)))


def _free(now: datetime, visitors: Visitors, past: Past, stand: Standing, slots: _Slots, rules: Rules) -> Bools:
    """[V, 24] hours at which each visitor may get one."""
    size = len(visitors.ids)
    since = np.datetime64(now, "s") - np.timedelta64(WEEK + DAY, "s")
    sent = side_by_side(past.visitor, past.at, size, since)
    names = np.array([*rules.segments, ""])
    weekly = rules.caps.of(names[visitors.segment])
    paused = rules.fatigue.until(stand.streak, stand.streak_at)
    free = np.zeros((size, HOURS), dtype=np.bool_)
    for start in range(0, size, _CHUNK):
        part = slice(start, start + _CHUNK)
        at = np.broadcast_to(slots.at, (len(weekly[part]), HOURS))
        free[part] = rules.caps.allow(sent[part], at, weekly[part]) & (at >= paused[part, None])
        free[part] &= slots.is_open[visitors.zone[part]]
    return free


def _best_slots(free: Bools, hours: Ints, habits: Floats) -> Ints:
    """[n, BUCKETS] the free hour of each part of the day at which the visitor is most often there; -1 for none."""
    found = np.full((len(free), BUCKETS), -1, dtype=np.int64)
    share = np.take_along_axis(habits, hours, axis=1)
    for bucket in range(BUCKETS):
        score = np.where(free & (hours // BUCKET_HOURS == bucket), share, -1.0)
        best = score.argmax(axis=1)
        found[:, bucket] = np.where(score[np.arange(len(best)), best] >= 0, best, -1)
    return found


def _decide_segment(
    rows: Ints,
    segment: int,
    visitors: Visitors,
    stand: Standing,
    slots: _Slots,
    free: Bools,
    chooser: Chooser,
    rules: Rules,
    uniform: Floats,
) -> Decisions:
    """Draw for the visitors of one segment that may get something."""
    types = np.array(
        [rules.types.index(one) for one in sorted(rules.types_of[rules.segments[segment]])], dtype=np.int64
    )
    hours = slots.hour[visitors.zone[rows]]
    best = _best_slots(free[rows], hours, visitors.habits[rows])
    awake = np.broadcast_to((best >= 0)[:, None, :], (len(rows), len(types), BUCKETS))
    told = _click_chances(rows, types, best, visitors, stand, slots, chooser)
    scores = _scores(told, awake, types, chooser) - _penalties(rows, types, best, stand, slots, chooser.settings)
    flat = (len(rows), len(types) * BUCKETS)
    chances = propensities(scores.reshape(flat), awake.reshape(flat), chooser.settings)
    arm = choose(chances, uniform[rows])
    each = np.arange(len(rows))
    slot = best[each, arm % BUCKETS]
    due = slots.at[slot]
    keep = np.timedelta64(int(rules.keep_hours * HOUR), "s")
    expires = np.minimum(due + keep, slots.closes[visitors.zone[rows], slot])
    return Decisions(
        rows, types[arm // BUCKETS], arm % BUCKETS, due, expires, chances[each, arm], told.reshape(flat)[each, arm]
    )


def _click_chances(
    rows: Ints, types: Ints, best: Ints, visitors: Visitors, stand: Standing, slots: _Slots, chooser: Chooser
) -> Floats:
    """[n, types, BUCKETS] click probabilities, or shares of the visitors' hours without a model; 0 where asleep."""
    who, bucket = np.nonzero(best >= 0)
    slot, row = best[who, bucket], rows[who]
    hour = slots.hour[visitors.zone[row], slot]
    habit = visitors.habits[row, hour]
    found = np.zeros((len(rows), len(types), BUCKETS))
    if chooser.clicks is None:
        found[who, :, bucket] = habit[:, None]
        return found
    days = (seconds(slots.at[slot]) - seconds(stand.last_at[row])) / DAY
    columns = {
        "device": visitors.device[row],
        "hour": hour,
        "weekday": slots.weekday[visitors.zone[row], slot],
        "habit": habit_ratio(habit),
        "click_rate": stand.click_rate[row],
        "days_since": np.minimum(days, LONGEST_DAYS),
        "streak": stand.streak[row],
    }
    for place, one in enumerate(types):
        found[who, place, bucket] = chooser.clicks.predict(click_inputs(columns | {"type": one}, len(who)))
    return found


def _scores(told: Floats, awake: Bools, types: Ints, chooser: Chooser) -> Floats:
    """(1 + s(a)) × this visitor's chance over the arm's mean one, less 1; the means also are the prior of s."""
    count = awake.sum(axis=0)
    mean = told.sum(axis=0) / np.maximum(count, 1)
    level = float((mean * (count > 0)).sum() / max(int((count > 0).sum()), 1))
    prior = np.zeros(len(chooser.bandit.arms))
    arms = types[:, None] * BUCKETS + np.arange(BUCKETS)
    prior[arms] = np.where(count > 0, mean / max(level, 1e-12) - 1.0, 0.0)
    score = chooser.bandit.scores(prior, chooser.settings.prior_deviation)[arms]
    found: Floats = (1.0 + score) * told / np.maximum(mean, 1e-12) - 1.0
    return found


def _penalties(rows: Ints, types: Ints, best: Ints, stand: Standing, slots: _Slots, settings: BanditSettings) -> Floats:
    """[n, types, BUCKETS] what is lost to having got the same type lately."""
    at = seconds(slots.at)[np.maximum(best, 0)][:, None, :]
    last = seconds(stand.type_at)[rows][:, types, None]
    return recovering(np.maximum(at - last, 0) / DAY, settings)
