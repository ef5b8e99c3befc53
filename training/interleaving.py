"""Two rankers in one slate: team-draft interleaving (Radlinski, Kurup and Joachims, CIKM 2008).

Captains draft as for a game: each round a coin says who picks first, and each takes the best of its ranking that is
still free. Every visitor sees both rankers at once, so that the comparison is within visitors, and needs far fewer of
them than arms do (Chapelle, Joachims, Radlinski and Yue, TOIS 2012). It says which ranker wins, not by how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from training.metrics import Estimate

FIRST, SECOND = 0, 1


@dataclass(frozen=True, slots=True)
class Draft:
    """A slate, best first, and which ranker (FIRST or SECOND) picked each place."""

    items: list[str]
    teams: list[int]


@dataclass(frozen=True, slots=True)
class Preference:
    """Units that preferred each ranker; ``share`` of the first among those with a preference, None where none has.

    ``p_value`` is that of a two-sided sign test against equal chances.
    """

    first: int
    second: int
    ties: int
    share: Estimate | None
    p_value: float


def team_draft(first: Sequence[str], second: Sequence[str], k: int, rng: np.random.Generator) -> Draft:
    """A slate of up to ``k`` items from two rankings, best first, each without repeats.

    Where a ranking has nothing left the other goes on; fewer than ``k`` only where both end. Swapping the rankings
    swaps the teams in distribution, so that neither has an advantage.
    """
    rankings = list(dict.fromkeys(first)), list(dict.fromkeys(second))
    items: list[str] = []
    teams: list[int] = []
    while len(items) < k:
        starts = int(rng.integers(2))
        before = len(items)
        for team in (starts, 1 - starts):
            pick = next((item for item in rankings[team] if item not in items), None)
            if pick is not None and len(items) < k:
                items.append(pick)
                teams.append(team)
        if len(items) == before:
            break
    return Draft(items, teams)


def margins(teams: NDArray[np.int64], clicked: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Clicks on the first ranker's picks less those on the second's, [n], from [n, k] slates; team −1 is no pick."""
    credit = np.where(teams == FIRST, 1, np.where(teams == SECOND, -1, 0))
    result: NDArray[np.int64] = (credit * clicked).sum(axis=1)
    return result


def preference(margins: NDArray[np.int64], units: Sequence[str] | NDArray[np.str_], alpha: float = 0.05) -> Preference:
    """Sign test over units, sessions or visitors: each counts once, for the ranker that has more of its clicks.

    Args:
        margins: [n] of each slate.
        units: [n] whose slate it is; slates of one unit depend on each other and are added up.
        alpha: chance that the interval (Wilson 1927) misses.
    """
    _, unit_of = np.unique(np.asarray(units), return_inverse=True)
    totals = np.rint(np.bincount(unit_of, margins))
    first, second = int(np.sum(totals > 0)), int(np.sum(totals < 0))
    ties = len(totals) - first - second
    if first + second == 0:
        return Preference(0, 0, ties, None, 1.0)
    test = stats.binomtest(first, first + second)
    low, high = test.proportion_ci(1 - alpha, method="wilson")
    return Preference(first, second, ties, Estimate(test.statistic, float(low), float(high)), float(test.pvalue))
