"""Quiet hours: when nobody is to be disturbed, by the clock where the visitor is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import time
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.notifications.local_time import DAY, Clock, Ints, Moments, second_of_day, seconds

_CHANGES: Final = 4
"""Clock changes a search may pass; two that matter to one night do not come within a day of each other."""


@dataclass(frozen=True, slots=True)
class QuietHours:
    """From ``start`` to before ``end``, over midnight where ``end`` is earlier; none at all where both are the same.

    A moment is quiet when the clock shows so, whatever it did before. An end that the clock skips in spring is reached
    with the skip; a start that it shows twice in autumn begins the quiet hours the first time, and what the clock then
    shows again is judged again.
    """

    start: time = time(21)
    end: time = time(9)

    def is_quiet(self, clock: Clock, at: Any) -> NDArray[np.bool_]:
        """Whether each moment is quiet, same shape."""
        return self._covers(second_of_day(clock.local(at)))

    def next_allowed(self, clock: Clock, at: Any) -> Moments:
        """The first moment from each on that is not quiet, same shape."""
        return self._first(clock, at, quiet=False)

    def next_quiet(self, clock: Clock, at: Any) -> Moments:
        """The first moment from each on that is quiet; in the year 9999 where there are no quiet hours."""
        if self.start == self.end:
            return np.full(np.shape(at), np.datetime64("9999-01-01", "s"))
        return self._first(clock, at, quiet=True)

    def _covers(self, second: Ints) -> NDArray[np.bool_]:
        start, end = _second(self.start), _second(self.end)
        if start <= end:
            return (second >= start) & (second < end)
        return (second >= start) | (second < end)

    def _first(self, clock: Clock, at: Any, quiet: bool) -> Moments:
        """Between two changes of the clock it runs evenly: wait for the hour, or look again after the change."""
        moment, hour = seconds(at), _second(self.start if quiet else self.end)
        for _ in range(_CHANGES):
            shown = second_of_day(clock.local(moment.astype("datetime64[s]")))
            wait = np.where(self._covers(shown) == quiet, 0, (hour - shown) % DAY)
            moment = np.minimum(moment + wait, np.where(wait > 0, seconds(clock.next_change(moment)), moment))
        return moment.astype("datetime64[s]")


def _second(at: time) -> int:
    return at.hour * 3_600 + at.minute * 60 + at.second
