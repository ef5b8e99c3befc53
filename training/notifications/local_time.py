"""What the clock on a visitor's wall shows, for many moments at once, daylight-saving changes included.

Moments are UTC without a zone, ``datetime64[s]``; local times are what a clock there shows, of the same type. A zone is
two arrays, the moments at which its offset changes and the offsets, so a million moments take milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from marquee.errors import SettingsError

Moments = NDArray[np.datetime64]
Ints = NDArray[np.int64]
DAY: Final = 86_400
HOUR: Final = 3_600
_STEP: Final = DAY // 2
"""Seconds between looks at a zone's offset; no zone changed it twice within half a day in this century."""


@dataclass(frozen=True, eq=False, slots=True)
class Clock:
    """A zone's local time between two years.

    Attributes:
        name: IANA name, such as Europe/Paris.
        changes: [k] seconds since 1970, UTC, from which each offset holds; the first is before all moments asked for.
        offsets: [k] seconds that local time is ahead of UTC.
    """

    name: str
    changes: Ints
    offsets: Ints

    def local(self, at: Any) -> Moments:
        """What the clock shows at these moments, same shape."""
        moments = seconds(at)
        found = moments + self.offsets[np.searchsorted(self.changes, moments, side="right") - 1]
        return found.astype("datetime64[s]")

    def next_change(self, at: Any) -> Moments:
        """The first moment after each at which the clock is put forward or back; the year 9999 where there is none."""
        far = np.append(self.changes, seconds(np.datetime64("9999-01-01", "s")))
        return far[np.searchsorted(self.changes, seconds(at), side="right")].astype("datetime64[s]")


def seconds(at: Any) -> Ints:
    """Moments as whole seconds since 1970."""
    return np.asarray(at, dtype="datetime64[s]").astype(np.int64)


def second_of_day(local: Any) -> Ints:
    """Seconds since midnight that a local time shows."""
    return seconds(local) % DAY


def hour_of_day(local: Any) -> Ints:
    """Hour that a local time shows, 0 to 23."""
    return second_of_day(local) // HOUR


@lru_cache(2_048)
def clock(name: str, first_year: int, last_year: int) -> Clock:
    """The clock of a zone, right from the beginning of the first year to the end of the last.

    Raises:
        SettingsError: there is no such zone.
    """
    zone = known_zone(name)
    first, last = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (first_year, last_year + 1))
    since, offset = first - DAY, _offset(zone, first - DAY)
    changes, offsets = [since], [offset]
    for until in range(since + _STEP, last + DAY, _STEP):
        if (now := _offset(zone, until)) != offset:
            changes.append(_change(zone, until - _STEP, until))
            offsets.append(now)
            offset = now
    return Clock(name, np.array(changes), np.array(offsets))


def clock_around(name: str, at: datetime) -> Clock:
    """The clock of a zone for the years before and after a moment's."""
    return clock(name, at.year - 2, at.year + 2)


def known_zone(name: str) -> ZoneInfo:
    """The zone of that name.

    Raises:
        SettingsError: there is none.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise SettingsError(f"{name!r} is no time zone; write an IANA name such as Europe/Paris") from error


def _offset(zone: ZoneInfo, second: int) -> int:
    offset = datetime.fromtimestamp(second, zone).utcoffset()
    return int(offset.total_seconds()) if offset is not None else 0


def _change(zone: ZoneInfo, before: int, after: int) -> int:
    """The second at which the offset becomes what it is ``after``."""
    held = _offset(zone, before)
    while after - before > 1:
        middle = (before + after) // 2
        if _offset(zone, middle) == held:
            before = middle
        else:
            after = middle
    return after
