"""How often at most: caps over any seven days, a pause between two, and longer ones for who does not react."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from marquee.notifications import Outcome
from training.notifications.local_time import DAY, HOUR, Ints, Moments, seconds

WEEK: Final = 7 * DAY
"""Seconds of the window of weekly caps. It is half open: two sent exactly a week apart are in no window together."""
LONG_AGO: Final = -(2**61)
"""Stands where a visitor was sent fewer than others."""
UNKNOWN: Final = -1
"""An outcome that is not known yet."""
UNWELCOME: Final[tuple[Outcome, ...]] = ("dismissed", "ignored")


@dataclass(frozen=True, slots=True)
class Caps:
    """Limits for one visitor.

    Attributes:
        weekly: most in any seven days, by segment.
        overall: the same whatever the segment; the lower of both holds.
        gap_hours: least time between two.
    """

    weekly: Mapping[str, int] = field(default_factory=dict)
    overall: int = 3
    gap_hours: float = 20.0

    def of(self, segments: Any) -> Ints:
        """The weekly cap of visitors in these segments, [n]; a segment without one gets nothing."""
        names, code = np.unique(np.asarray(segments, dtype=str), return_inverse=True)
        caps = [min(self.weekly.get(str(name), 0), self.overall) for name in names]
        return np.array(caps, dtype=np.int64)[code.ravel()]

    def allow(self, sent: Ints, at: Any, weekly: Ints) -> NDArray[np.bool_]:
        """Whether one more at these moments breaks no limit, whether the others came before or are planned for later.

        Args:
            sent: [n, k] seconds since 1970 of those sent or planned, rising, ``LONG_AGO`` first where there are fewer.
            at: [n, s] moments of one more each.
            weekly: [n] caps, of ``of``.
        """
        moments = seconds(at)
        allowed = np.ones(moments.shape, dtype=np.bool_)
        for cap in np.unique(weekly):
            rows = weekly == cap
            allowed[rows] = _fits(sent[rows], moments[rows], int(cap), WEEK)
        return allowed & _fits(sent, moments, 1, int(self.gap_hours * HOUR))


@dataclass(frozen=True, slots=True)
class Fatigue:
    """Who let ``patience`` in a row pass is left alone for ``pause_days``, doubled with each further one.

    Attributes:
        longest_days: no pause is longer.
    """

    patience: int = 3
    pause_days: float = 7.0
    longest_days: float = 84.0

    def until(self, streak: Ints, last: Any) -> Moments:
        """When each pause ends; long ago where there is none.

        Args:
            streak: [n] of ``streaks``.
            last: [n] when the last one of the streak was sent.
        """
        beyond = np.clip(streak - self.patience, 0, 30)
        days = np.minimum(self.pause_days * 2.0**beyond, self.longest_days)
        tired = (streak >= self.patience) & (self.patience > 0)
        return np.where(tired, seconds(last) + (days * DAY).astype(np.int64), LONG_AGO // 2).astype("datetime64[s]")


def streaks(visitor: Ints, at: Any, unwelcome: Any, size: int) -> tuple[Ints, Moments]:
    """How many in a row, to the newest, each visitor dismissed or ignored, and when the newest was sent.

    Args:
        visitor: [n] row of the visitor. at: [n] when sent.
        unwelcome: [n] 1 for dismissed or ignored, 0 for opened or clicked, ``UNKNOWN``, which is passed over.
        size: number of visitors.
    """
    told = np.asarray(unwelcome, dtype=np.int64)
    known = np.flatnonzero(told != UNKNOWN)
    order = known[np.lexsort((seconds(at)[known], visitor[known]))]
    who, bad = visitor[order], told[order] == 1
    place = np.arange(len(order))
    welcome = np.full(size, -1, dtype=np.int64)
    np.maximum.at(welcome, who[~bad], place[~bad])
    after = bad & (place > welcome[who])
    streak = np.bincount(who[after], minlength=size)
    last = np.full(size, LONG_AGO // 2, dtype=np.int64)
    np.maximum.at(last, who, seconds(at)[order])
    return streak, last.astype("datetime64[s]")


def side_by_side(visitor: Ints, at: Any, size: int, since: Any) -> Ints:
    """[size, k] what each visitor was sent from a moment on, as ``Caps.allow`` wants it."""
    moments = seconds(at)
    recent = np.flatnonzero(moments >= seconds(since))
    order = recent[np.lexsort((moments[recent], visitor[recent]))]
    who = visitor[order]
    counts = np.bincount(who, minlength=size)
    most = int(counts.max(initial=0))
    table = np.full((size, most), LONG_AGO, dtype=np.int64)
    first = np.cumsum(counts) - counts
    table[who, most - counts[who] + np.arange(len(who)) - first[who]] = moments[order]
    return table


def _fits(sent: Ints, at: Ints, cap: int, window: int) -> NDArray[np.bool_]:
    """No ``cap`` others lie with it in one window: any that do are neighbours in time, so runs of ``cap`` suffice."""
    if cap <= 0:
        return np.zeros(at.shape, dtype=np.bool_)
    fits = np.ones(at.shape, dtype=np.bool_)
    for first in range(sent.shape[1] - cap + 1):
        low, high = sent[:, first, None], sent[:, first + cap - 1, None]
        fits &= np.maximum(high, at) - np.minimum(low, at) >= window
    return fits
