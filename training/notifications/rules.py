"""What may be sent to whom and when: the shop's rules, whatever has been learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from training.notifications.bandit import NotificationBandit
from training.notifications.caps import Caps, Fatigue
from training.notifications.local_time import HOUR, clock_around
from training.notifications.quiet_hours import QuietHours
from training.notifications.send_time import BUCKET_HOURS, BUCKETS, HOURS

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Rules:
    """What may be sent.

    Attributes:
        types_of: types that each segment is eligible for.
        room_minutes: least time from due to the next quiet hours, in which it can be tried again.
        keep_hours: it expires so long after it was due, or when quiet hours begin.
    """

    types_of: Mapping[str, Sequence[str]]
    quiet: QuietHours = field(default_factory=QuietHours)
    caps: Caps = field(default_factory=Caps)
    fatigue: Fatigue = field(default_factory=Fatigue)
    room_minutes: int = 15
    keep_hours: float = 6.0

    @property
    def segments(self) -> tuple[str, ...]:
        """Names in the order of all codes of segments."""
        return tuple(sorted(self.types_of))

    @property
    def types(self) -> tuple[str, ...]:
        """Names in the order of all codes of types."""
        return tuple(sorted({one for types in self.types_of.values() for one in types}))

    def awake(self) -> Bools:
        """[S, T × BUCKETS] arms that a segment can ever get: of its types, at hours that are not all quiet."""
        open_hours = np.array([not self._is_hour_quiet(hour) for hour in range(HOURS)])
        buckets = open_hours.reshape(BUCKETS, BUCKET_HOURS).any(axis=1)
        types = np.array([[one in self.types_of[segment] for one in self.types] for segment in self.segments])
        return (types.reshape(len(self.segments), -1)[:, :, None] & buckets).reshape(len(self.segments), -1)

    def new_bandit(self) -> NotificationBandit:
        """One that knows nothing yet of these arms."""
        arms = [f"{one}@{place}" for one in self.types for place in range(BUCKETS)]
        return NotificationBandit(self.segments, arms, self.awake())

    def _is_hour_quiet(self, hour: int) -> bool:
        utc = clock_around("UTC", datetime(2000, 1, 1))
        starts = np.datetime64("2000-01-01", "s") + hour * HOUR + np.arange(0, HOUR, 900)
        return bool(self.quiet.is_quiet(utc, starts).all())
