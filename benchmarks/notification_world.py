"""A simulated world of people who get notifications: where they live, when they look, what they like, what tires them.

Whether one is clicked is drawn from log-odds of six parts: how people of all kinds take to the type, how this visitor
does, how much of their day they spend at that hour, their device, how many they got within a week, and whether one of
the same type came lately. Nothing of it can be read by a policy: it sees zones, segments, devices, past activity by
hour, and what became of what it sent. ``structure`` 0 makes a world where neither type nor hour matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from marquee.contract import DEVICES
from marquee.notifications import OUTCOMES
from marquee.settings import Settings
from training.notifications.decisions import Visitors
from training.notifications.local_time import DAY, seconds
from training.notifications.planning_data import installation_rules
from training.notifications.rules import Rules
from training.notifications.send_time import HOURS, fit_send_time

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
ZONES: Final = {
    "Europe/Paris": 0.25,
    "Europe/London": 0.15,
    "America/New_York": 0.15,
    "America/Los_Angeles": 0.1,
    "America/Sao_Paulo": 0.07,
    "Asia/Kolkata": 0.07,
    "Asia/Kathmandu": 0.03,
    "Asia/Tokyo": 0.06,
    "Australia/Sydney": 0.05,
    "Australia/Lord_Howe": 0.02,
    "Pacific/Auckland": 0.03,
    "America/St_Johns": 0.02,
}
"""Shares of visitors; some zones never change their clocks, some run half or three quarters of an hour beside."""
ACTIVE_DAYS: Final = 28
"""Days of activity known before the first notification."""
BASE: Final = -3.4
HOUR_WEIGHT: Final = 0.5
"""An hour at which four times as much of the day is spent has twice the odds of a click."""
TYPE_SPREAD, TASTE_SPREAD, DEVICE_SPREAD = 0.5, 0.4, 0.2
TIRED_BY_EACH, TIRED_BY_SAME = 0.15, 0.5
TYPE_HALF_LIFE_DAYS: Final = 5.0
OPENED_TOO: Final = 3.0
"""Openings for one click."""
DISMISSED: Final = 0.06


def seed_rules() -> Rules:
    """The rules of an installation nobody changed."""
    return installation_rules(Settings())


@dataclass(frozen=True, eq=False, slots=True)
class World:
    """V visitors and what only the world knows of them.

    Attributes:
        visitors: what a policy sees; ``habits`` are estimated from ``counts``.
        counts: [V, 24] what they did in the weeks before, by local hour.
        attention: [V, 24] shares of their day.
        appeal: [T] of types. taste: [V, T] of visitors. by_device: [4].
        structure: what all of it is multiplied by.
    """

    rules: Rules
    visitors: Visitors
    counts: Ints
    attention: Floats
    appeal: Floats
    taste: Floats
    by_device: Floats
    structure: float

    def click_chances(self, who: Ints, types: Ints, hours: Ints, sent: Sent, at: Any) -> Floats:
        """[n] the truth, for these visitors and types at these local hours, given what was sent before."""
        hour = HOUR_WEIGHT * np.log(np.maximum(self.attention[who, hours] * HOURS, 0.05))
        odds = self.structure * (self.appeal[types] + self.taste[who, types] + hour)
        odds += self.by_device[self.visitors.device[who]] - TIRED_BY_EACH * sent.within_week(who, at)
        odds -= TIRED_BY_SAME * 0.5 ** (sent.days_since_type(who, types, at) / TYPE_HALF_LIFE_DAYS)
        return np.asarray(1.0 / (1.0 + np.exp(-(BASE + odds))))

    def answers(self, chances: Floats, rng: np.random.Generator) -> Ints:
        """[n] what becomes of each, as places in ``OUTCOMES``."""
        draw = rng.random(len(chances))
        opened = np.minimum(chances * (1 + OPENED_TOO), 0.9)
        bounds = np.stack([chances, opened, opened + DISMISSED * (1 - opened)])
        names = ("clicked", "opened", "dismissed", "ignored")
        return np.array([OUTCOMES.index(name) for name in names])[(draw >= bounds).sum(axis=0)]


class Sent:
    """When visitors got what, kept as the truth needs it."""

    def __init__(self, visitors: int, types: int) -> None:
        self._times: Ints = np.full((visitors, 8), -(10**12), dtype=np.int64)
        self._by_type: Ints = np.full((visitors, types), -(10**12), dtype=np.int64)

    def add(self, who: Ints, types: Ints, at: Any) -> None:
        """One more for each of these visitors, none of whom is named twice."""
        self._times[who] = np.roll(self._times[who], -1, axis=1)
        self._times[who, -1] = self._by_type[who, types] = seconds(at)

    def within_week(self, who: Ints, at: Any) -> Ints:
        """[n] how many each got in the seven days before."""
        return np.asarray((self._times[who] > (seconds(at) - 7 * DAY)[:, None]).sum(axis=1))

    def days_since_type(self, who: Ints, types: Ints, at: Any) -> Floats:
        """[n] days since each got that type."""
        return np.asarray((seconds(at) - self._by_type[who, types]) / DAY)


def new_world(seed: int, visitors: int, rules: Rules | None = None, structure: float = 1.0) -> World:
    """Draw a world."""
    known, rng = rules or seed_rules(), np.random.default_rng([seed, 17])
    segment = rng.integers(0, len(known.segments), visitors)
    attention = _attention(segment, len(known.segments), rng)
    activity = rng.poisson(rng.lognormal(0.0, 1.0, visitors) * ACTIVE_DAYS)
    counts = np.array([rng.multinomial(n, p) for n, p in zip(activity, attention, strict=True)]).reshape(-1, HOURS)
    names = np.array(known.segments)[segment].tolist()
    seen = Visitors(
        ids=[f"v{row:06d}" for row in range(visitors)],
        segment=segment,
        zones=tuple(ZONES),
        zone=rng.choice(len(ZONES), visitors, p=np.array(list(ZONES.values())) / sum(ZONES.values())),
        device=rng.integers(0, len(DEVICES) - 1, visitors),
        habits=fit_send_time(counts, names).shares(counts, names),
    )
    types = len(known.types)
    return World(
        known,
        seen,
        counts,
        attention,
        rng.normal(0, TYPE_SPREAD, types),
        rng.normal(0, TASTE_SPREAD, (visitors, types)),
        rng.normal(0, DEVICE_SPREAD, len(DEVICES)),
        structure,
    )


def _attention(segment: Ints, segments: int, rng: np.random.Generator) -> Floats:
    """[V, 24] one or two peaks a day, around those of the visitor's segment, and a little at all hours."""
    size, hour = len(segment), np.arange(HOURS)
    usual = rng.uniform(8, 22, segments)[segment]
    peaks = np.stack([usual + rng.normal(0, 3.5, size), rng.uniform(7, 23, size)])
    share = rng.beta(2, 1, size)
    rise = np.exp(3.0 * (np.cos(2 * np.pi * (hour - peaks[:, :, None]) / HOURS) - 1))
    rise /= rise.sum(axis=2, keepdims=True)
    mixed = share[:, None] * rise[0] + (1 - share)[:, None] * rise[1]
    found: Floats = 0.9 * mixed + 0.1 / HOURS
    return found / found.sum(axis=1, keepdims=True)
