"""How many impressions campaigns may have: in all, a day, and by now. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from marquee.catalogue import Campaign
from serving.calendar import ALLOWED, Calendar, Day
from serving.rule import Codes, Rule
from serving.showings import Spent

HEAD_START: Final = 0.01
"""Share of a daily target that may be shown as the day begins; one impression at least."""


def allowance(campaign: Campaign, day: Day, at: int) -> int | None:
    """Impressions that a campaign may have had on a day by a moment (µs), None for any number."""
    target = campaign.daily_target
    if target is None or campaign.pacing == "asap":
        return target
    return min(target, math.floor(target * day.elapsed(at)) + max(1, math.floor(target * HEAD_START)))


class Budgets:
    """Budgets and daily targets of C campaigns, of which few have any."""

    def __init__(self, campaigns: Sequence[Campaign], calendar: Calendar) -> None:
        self._campaigns, self._calendar = campaigns, calendar
        self._limited = [row for row, one in enumerate(campaigns) if one.budget is not None]
        self._targeted = [row for row, one in enumerate(campaigns) if one.daily_target is not None]
        self._even = np.array([row for row in self._targeted if campaigns[row].pacing == "even"], dtype=np.int64)
        targets = [campaigns[row].daily_target or 0 for row in self._even]
        self._targets = np.array(targets, dtype=np.float64)
        self._heads = np.maximum(1.0, np.floor(self._targets * HEAD_START))
        self._zones = calendar.zone_of[self._even]
        self._known: tuple[Spent, list[Day], Codes, np.ndarray] | None = None

    @property
    def are_any(self) -> bool:
        """Whether any campaign has one."""
        return bool(self._limited or self._targeted)

    def codes(self, at: int, spent: Spent) -> Codes:
        """[C] code less one of what forbids each campaign at a moment (µs); not to be changed."""
        days = self._calendar.days(at)
        known = self._known
        if known is None or known[0] is not spent or known[1] is not days:
            self._known = known = (spent, days, *self._counted(spent, days))
        _, _, codes, today = known
        if not len(self._even):
            return codes
        shares = np.array([day.elapsed(at) for day in days])[self._zones]
        ahead = self._even[today >= np.floor(self._targets * shares) + self._heads]
        if len(ahead):
            codes = codes.copy()
            codes[ahead] = np.minimum(codes[ahead], Rule.AHEAD_OF_PACE - 1)
        return codes

    def _counted(self, spent: Spent, days: list[Day]) -> tuple[Codes, np.ndarray]:
        """[C] codes without pacing, and today's impressions of those that are paced evenly."""
        codes = np.full(len(self._campaigns), ALLOWED, dtype=np.uint8)
        today = {row: self._today(row, spent, days) for row in self._targeted}
        for row, count in today.items():
            if count >= (self._campaigns[row].daily_target or 0):
                codes[row] = Rule.DAILY_TARGET_REACHED - 1
        for row in self._limited:
            if spent.total.get(self._campaigns[row].campaign_id, 0) >= (self._campaigns[row].budget or 0):
                codes[row] = Rule.BUDGET_SPENT - 1
        return codes, np.array([today[row] for row in self._even.tolist()], dtype=np.float64)

    def _today(self, row: int, spent: Spent, days: list[Day]) -> int:
        return spent.daily.get((self._campaigns[row].campaign_id, days[self._calendar.zone_of[row]].name), 0)
