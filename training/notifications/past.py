"""Notifications sent before, as arrays: what caps, fatigue, the click model and the bandit each need of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from marquee.notifications import OUTCOMES
from training.notifications.bandit import REWARDS, NotificationBandit
from training.notifications.caps import LONG_AGO, UNKNOWN, UNWELCOME, streaks
from training.notifications.click_model import LONGEST_DAYS, Matrix, click_inputs, click_rates
from training.notifications.local_time import DAY, Ints, Moments, seconds
from training.notifications.send_time import BUCKETS, HOURS, Floats

_REWARD: Final = np.array([REWARDS[one] for one in OUTCOMES])
_CLICKED: Final = OUTCOMES.index("clicked")
_UNWELCOME: Final = [OUTCOMES.index(one) for one in UNWELCOME]


@dataclass(frozen=True, eq=False, slots=True)
class Past:
    """One row each, of one or more days, in any order.

    Attributes:
        visitor: [n] row of the visitor.
        type: [n] place of its type in ``Rules.types``.
        group: [n] place of the visitor's segment then in ``Rules.segments``.
        at: [n] when sent, or the latest when it will be.
        outcome: [n] place in ``OUTCOMES``, or ``UNKNOWN``.
        hour: [n] local hour when sent. bucket: [n] the arm's part of the day.
        weekday: [n] local, Monday 0. device: [n] place in ``DEVICES``.
        propensity: [n] of the arm, 0 where it was not logged.
    """

    visitor: Ints
    type: Ints
    group: Ints
    at: Moments
    outcome: Ints
    hour: Ints
    bucket: Ints
    weekday: Ints
    device: Ints
    propensity: Floats

    @classmethod
    def empty(cls) -> Past:
        """Nothing sent yet."""
        none = np.zeros(0, dtype=np.int64)
        return cls(none, none, none, none.astype("datetime64[s]"), none, none, none, none, none, np.zeros(0))

    def rows(self, chosen: NDArray[np.bool_] | Ints) -> Past:
        """Some of them."""
        return Past(*(getattr(self, name)[chosen] for name in self.__slots__))

    def and_then(self, later: Past) -> Past:
        """These and others."""
        return Past(*(np.concatenate([getattr(self, name), getattr(later, name)]) for name in self.__slots__))

    @property
    def unwelcome(self) -> Ints:
        """[n] 1 where dismissed or ignored, 0 where opened or clicked, ``UNKNOWN``."""
        return np.where(self.outcome == UNKNOWN, UNKNOWN, np.isin(self.outcome, _UNWELCOME).astype(np.int64))

    @property
    def clicked(self) -> NDArray[np.bool_]:
        """[n] whether it was."""
        return np.asarray(self.outcome == _CLICKED)

    @property
    def click_rate(self) -> float:
        """Clicks over those with a known outcome; 0.05 before there are any."""
        known = int((self.outcome != UNKNOWN).sum())
        return (float(self.clicked.sum()) + 0.5) / (known + 10.0)


@dataclass(frozen=True, eq=False, slots=True)
class Standing:
    """What each of V visitors has behind them.

    Attributes:
        click_rate: [V] shrunk.
        last_at: [V] when the last one of any type was sent.
        streak: [V] unwelcome in a row. streak_at: [V] when the last with an outcome was sent.
        type_at: [V, T] when the last of each type was sent; long ago where none was.
    """

    click_rate: Floats
    last_at: Moments
    streak: Ints
    streak_at: Moments
    type_at: Moments


def standing(past: Past, visitors: int, types: int) -> Standing:
    """What so many visitors have behind them, of so many types."""
    clicks = np.bincount(past.visitor[past.clicked], minlength=visitors)
    sends = np.bincount(past.visitor[past.outcome != UNKNOWN], minlength=visitors)
    streak, streak_at = streaks(past.visitor, past.at, past.unwelcome, visitors)
    type_at = np.full((visitors, types), LONG_AGO // 2, dtype=np.int64)
    np.maximum.at(type_at, (past.visitor, past.type), seconds(past.at))
    last_at = type_at.max(axis=1, initial=LONG_AGO // 2).astype("datetime64[s]")
    rate = click_rates(clicks, sends, past.click_rate)
    return Standing(rate, last_at, streak, streak_at, type_at.astype("datetime64[s]"))


def teach(bandit: NotificationBandit, past: Past) -> None:
    """Have the bandit learn from those with an outcome and a propensity."""
    arm = past.type * BUCKETS + past.bucket
    told = (past.outcome != UNKNOWN) & (past.propensity > 0)
    told &= bandit.awake[past.group, arm]
    bandit.update(past.group[told], arm[told], _REWARD[past.outcome[told]], past.propensity[told])


def training_rows(past: Past, habits: Floats) -> tuple[Matrix, NDArray[np.bool_], Ints]:
    """Inputs as they stood when each with an outcome was sent, whether it was clicked, and whose it is.

    Args:
        habits: [V, 24] shares of the visitors' hours.
    """
    order = np.lexsort((seconds(past.at), past.visitor))
    sorted_past = past.rows(order)
    known = sorted_past.outcome != UNKNOWN
    columns = _before(sorted_past, known) | {
        "type": sorted_past.type,
        "device": sorted_past.device,
        "hour": sorted_past.hour,
        "weekday": sorted_past.weekday,
        "habit": habit_ratio(habits[sorted_past.visitor, sorted_past.hour]),
    }
    matrix = click_inputs(columns, len(order))
    return matrix[known], sorted_past.clicked[known], sorted_past.visitor[known]


def habit_ratio(shares: Floats) -> Floats:
    """Logarithm of a share of the day's hours over an even one."""
    return np.asarray(np.log(np.maximum(shares, 1e-9) * HOURS))


def _before(past: Past, known: NDArray[np.bool_]) -> dict[str, Floats]:
    """Click rate, days since the last and streak before each row; rows by visitor, then by time."""
    place, first = np.arange(len(known)), np.r_[True, past.visitor[1:] != past.visitor[:-1]][: len(known)]
    start = np.maximum.accumulate(np.where(first, place, 0))
    clicks, sends = (np.cumsum(one) - one for one in (past.clicked.astype(np.int64), known.astype(np.int64)))
    gap = np.r_[0, np.diff(seconds(past.at))][: len(known)] / DAY
    # The last welcome one before this row, or the visitor's first row, ends the streak; unknown ones are passed over.
    bad = past.unwelcome == 1
    before_bad = np.cumsum(bad) - bad
    ended = np.maximum.accumulate(np.where(first | (past.unwelcome == 0), place, -1))
    ended = np.where(first, place, np.r_[0, ended[:-1]][: len(known)])
    return {
        "click_rate": click_rates(clicks - clicks[start], sends - sends[start], past.click_rate),
        "days_since": np.where(first, LONGEST_DAYS, np.minimum(gap, LONGEST_DAYS)),
        "streak": (before_bad - before_bad[ended]).astype(np.float64),
    }
