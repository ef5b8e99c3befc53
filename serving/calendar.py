"""When campaigns run: first and last moments, hours of the week, and days in their time zones. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from features.session import microseconds, moment
from marquee.catalogue import Campaign, Window
from serving.rule import Codes, Rule

MINUTE: Final = 60_000_000
ALLOWED: Final = np.uint8(255)
"""Nothing forbids, among codes less one: so the first rule is the least, and adding one gives the codes."""
DAY: Final = timedelta(days=1)


def forbidden(mask: NDArray[np.bool_], rule: Rule) -> Codes:
    """Codes less one: this rule where the mask is True."""
    return np.where(mask, np.uint8(rule - 1), ALLOWED)


@dataclass(frozen=True, slots=True)
class Day:
    """A day in a time zone, of 23, 24 or 25 hours: its name and, in µs, its first moment and that of the next one."""

    name: str
    start: int
    end: int

    @classmethod
    def at(cls, moment_us: int, zone: ZoneInfo) -> Day:
        """The day that it is there at a moment."""
        today = _local(moment_us, zone).date()
        return cls(today.isoformat(), _midnight(today, zone), _midnight(today + DAY, zone))

    def elapsed(self, moment_us: int) -> float:
        """The share of it that is over, in [0, 1]."""
        return min(max((moment_us - self.start) / (self.end - self.start), 0.0), 1.0)


class Calendar:
    """When each of C campaigns runs. Its arrays are worked out again only when they change."""

    def __init__(self, campaigns: Sequence[Campaign]) -> None:
        names = sorted({campaign.time_zone for campaign in campaigns})
        self.zones: Final = [ZoneInfo(name) for name in names]
        self.zone_of: Final = np.array([names.index(campaign.time_zone) for campaign in campaigns], dtype=np.int64)
        self._starts = np.array([microseconds(campaign.starts_utc) for campaign in campaigns], dtype=np.int64)
        self._ends = np.array([microseconds(campaign.ends_utc) for campaign in campaigns], dtype=np.int64)
        self._edges: list[int] = sorted({*self._starts.tolist(), *self._ends.tolist()})
        timed = [row for row, campaign in enumerate(campaigns) if campaign.hours]
        self._timed = np.array(timed, dtype=np.int64)
        self._hours = np.array([_week(campaigns[row].hours) for row in timed]).reshape(-1, 7 * 24)
        self._days: list[Day] = []

    def state(self, at: int) -> tuple[int, int]:
        """What ``codes`` depends on: the edges that are past, and the minute if hours of the week count."""
        return bisect_right(self._edges, at), at // MINUTE if len(self._timed) else 0

    def codes(self, at: int) -> Codes:
        """[C] code less one of what forbids each campaign at a moment (µs)."""
        codes = np.full(len(self._starts), ALLOWED, dtype=np.uint8)
        if len(self._timed):
            zone_hours = np.array([_hour_of_week(at, zone) for zone in self.zones])
            runs = self._hours[np.arange(len(self._timed)), zone_hours[self.zone_of[self._timed]]]
            codes[self._timed[~runs]] = Rule.OUTSIDE_HOURS - 1
        codes[self._ends <= at] = Rule.ENDED - 1
        codes[at < self._starts] = Rule.NOT_STARTED - 1
        return codes

    def days(self, at: int) -> list[Day]:
        """The day in each of ``zones``; the same list as long as no day ends."""
        days = self._days
        if not days or not all(day.start <= at < day.end for day in days):
            self._days = days = [Day.at(at, zone) for zone in self.zones]
        return days


def _week(windows: Sequence[Window]) -> NDArray[np.bool_]:
    week = np.zeros((7, 24), dtype=bool)
    for window in windows:
        for weekday in window.weekdays:
            week[weekday, window.from_hour : window.until_hour] = True
    return week.ravel()


def _local(at: int, zone: ZoneInfo) -> datetime:
    return moment(at).replace(tzinfo=UTC).astimezone(zone)


def _hour_of_week(at: int, zone: ZoneInfo) -> int:
    there = _local(at, zone)
    return there.weekday() * 24 + there.hour


def _midnight(day: date, zone: ZoneInfo) -> int:
    """Where clocks skip midnight, the moment at which they do."""
    return microseconds(datetime.combine(day, time(), zone).astimezone(UTC).replace(tzinfo=None))
