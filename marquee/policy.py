"""From scores to a slate whose propensities are exact; shared by serving and by evaluation. NumPy only.

One draw serves every policy: greedy (no exploration, no temperature), ε-greedy (exploration), softmax (temperature; a
slate is then Plackett–Luce, the top of scores / temperature plus Gumbel noise), Thompson sampling (several rows of
scores, each drawn from the posterior), LinUCB (scores with their width added).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Chance(Protocol):
    """A source of chance; NumPy's generators are some."""

    def random(self) -> float:
        """The next number, uniform in [0, 1)."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How the banners left become chances at each position, from the first on.

    Attributes:
        exploration: ε in [0, 1], share of each draw that is uniform over those left; above 0 nothing eligible has a
            lower propensity than ε / left, as off-policy evaluation needs.
        temperature: of the softmax over scores; 0 takes the best.
        diversity: what a banner's score loses for being like one above it: that times the highest similarity.
    """

    exploration: float = 0.0
    temperature: float = 0.0
    diversity: float = 0.0

    def chances(self, scores: Floats, left: NDArray[np.bool_]) -> Floats:
        """[m] chance of each banner to be taken now, 0 for those not left; they sum to 1.

        Args:
            scores: [H, m]; each row is as likely to decide as any other. Higher is better, ties go to the earlier one.
            left: [m] which are left; at least one.
        """
        among = np.where(left, scores, -np.inf)
        if len(scores) == 1 and not self.temperature:
            # What follows, to the last bit, without the arrays that a single best does not need.
            certain: Floats = left * (self.exploration / np.count_nonzero(left))
            certain[among.argmax()] += 1.0 - self.exploration
            return certain
        if self.temperature:
            best = among.max(axis=1, keepdims=True)
            shares = np.exp((among - best) / self.temperature)
            decided = (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
        else:
            decided = np.bincount(among.argmax(axis=1), minlength=scores.shape[1]) / len(scores)
        chances: Floats = self.exploration * left / left.sum() + (1.0 - self.exploration) * decided
        return chances


@dataclass(frozen=True, slots=True)
class Slate:
    """Banners drawn for one request, best position first.

    Attributes:
        items: [n] indices into the scores that were given.
        propensities: [n] probability of each item at its position, given the items above it.
        likeliest: [n] whether no other that was left had a higher one.
    """

    items: Ints
    propensities: Floats
    likeliest: NDArray[np.bool_]


def draw_slate(
    scores: Floats,
    n: int,
    policy: Policy,
    rng: Chance,
    similarity: Floats | None = None,
    tiers: Ints | None = None,
    groups: Ints | None = None,
) -> Slate:
    """Draw without replacement, position by position.

    Args:
        scores: [m] one score a candidate, or [H, m] one a candidate and draw from the posterior.
        n: positions to fill; fewer are filled when there are fewer candidates, or when groups leave none.
        policy: how scores become chances.
        rng: source of chance, so that a caller can replay a draw.
        similarity: [m, m] in [0, 1], for a policy with diversity.
        tiers: [m] of those left only the ones of the highest tier can be taken.
        groups: [m] a slate holds one candidate of each group; below 0 is none.
    """
    limits = _Limits(scores.shape[-1], tiers, groups)
    count = min(n, scores.shape[-1])
    slate = _filled(scores, count, policy, similarity, limits, lambda _, chances: _drawn(chances, rng))
    if groups is None:
        return slate
    filled = slate.propensities > 0
    return Slate(slate.items[filled], slate.propensities[filled], slate.likeliest[filled])


def slate_propensities(
    scores: Floats,
    items: Ints,
    policy: Policy,
    similarity: Floats | None = None,
    tiers: Ints | None = None,
    groups: Ints | None = None,
) -> Floats:
    """[n] propensity of each position of a slate that another policy drew, as ``draw_slate`` would have had it.

    It is 0 where ``draw_slate`` could not have taken that item.
    """
    limits = _Limits(scores.shape[-1], tiers, groups)
    return _filled(scores, len(items), policy, similarity, limits, lambda at, _: int(items[at])).propensities


def new_banner_boost(impressions: Floats, boost: float, until: float) -> Floats:
    """What to multiply scores with: 1 + boost for a banner never shown, falling to 1 at ``until`` impressions.

    It ends by itself: from there on a banner earns its place.

    Args:
        impressions: [m] how often each was shown; NaN counts as never.
    """
    shown = np.nan_to_num(impressions)
    share: Floats = np.maximum(0.0, 1.0 - shown / until) if until else np.zeros_like(shown)
    return 1.0 + boost * share


class _Limits:
    """Which candidates are left, and which of those may be taken now."""

    def __init__(self, size: int, tiers: Ints | None, groups: Ints | None) -> None:
        self.left = np.ones(size, dtype=bool)
        self._tiers, self._groups = tiers, groups

    def open(self) -> NDArray[np.bool_]:
        """[m] those left in the highest tier among them; one is left at least."""
        if self._tiers is None:
            return self.left
        open_now: NDArray[np.bool_] = self.left & (self._tiers == self._tiers[self.left].max())
        return open_now

    def take(self, item: int) -> None:
        """Close an item, and its group with it."""
        self.left[item] = False
        if self._groups is not None and self._groups[item] >= 0:
            self.left &= self._groups != self._groups[item]


def _filled(
    scores: Floats,
    count: int,
    policy: Policy,
    similarity: Floats | None,
    limits: _Limits,
    take: Callable[[int, Floats], int],
) -> Slate:
    """The slate whose item at each position is what ``take`` says, given the position and the chances.

    Where nothing may be taken any more, propensities are 0.
    """
    own = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    alike = np.zeros(own.shape[1])
    items, propensities = np.zeros(count, dtype=np.int64), np.zeros(count)
    likeliest = np.zeros(count, dtype=bool)
    for position in range(count):
        if not limits.left.any():
            break
        open_now = limits.open()
        chances = policy.chances(own - policy.diversity * alike if policy.diversity else own, open_now)
        item = take(position, chances)
        items[position], propensities[position] = item, chances[item]
        likeliest[position] = chances[item] == chances.max()
        limits.take(item)
        if policy.diversity and similarity is not None:
            alike = np.maximum(alike, similarity[item])
    return Slate(items, propensities, likeliest)


def _drawn(chances: Floats, rng: Chance) -> int:
    rising = np.cumsum(chances)
    # From the right: a chance of 0 has no width and is never hit, whatever the sum's last digit.
    return int(np.searchsorted(rising, rng.random() * rising[-1], side="right"))
