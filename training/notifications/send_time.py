"""At which hours a visitor is there: each one's own habit, shrunk to the segment's, and that to everybody's.

    visitor   p(h | v) = (c(v, h) + κ · p(h | segment)) / (n(v) + κ)
    segment   p(h | s) = (c(s, h) + λ · p(h)) / (n(s) + λ)
    all       p(h)     = (c(h) + ½) / (n + 12)

A hierarchical Dirichlet-multinomial (Gelman et al., Bayesian Data Analysis, ch. 5): κ and λ, how many events the level
above counts for, are those under which the counts are most likely (empirical Bayes; Minka, Estimating a Dirichlet
distribution, 2000). Where visitors differ, κ is small and each is believed early. Hours are of the visitor's own clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from training.notifications.local_time import Ints

Floats = NDArray[np.float64]
HOURS: Final = 24
BUCKET_HOURS: Final = 3
BUCKETS: Final = HOURS // BUCKET_HOURS
"""Parts of the day that the bandit tells apart, the first from midnight to three."""
WEAKEST, STRONGEST = 0.1, 1e4
"""Bounds of κ and λ in events; without anything to learn from it is the strongest."""
_SAMPLE: Final = 20_000
"""Visitors, most active first, that the strength is estimated from."""


@dataclass(frozen=True, eq=False, slots=True)
class SendTime:
    """Hours of everybody and of each segment.

    Attributes:
        overall: [24] shares of everybody's events by local hour.
        segments: names, in the order of ``by_segment``.
        by_segment: [S, 24].
        strength: κ, events that the segment's shares count for in a visitor's.
        segment_strength: λ, events that everybody's shares count for in a segment's.
    """

    overall: Floats
    segments: tuple[str, ...]
    by_segment: Floats
    strength: float
    segment_strength: float

    def shares(self, counts: Any, segments: Sequence[str]) -> Floats:
        """[n, 24] of visitors with these counts; rows sum to 1. One of an unknown segment is shrunk to everybody."""
        table = np.vstack([self.by_segment, self.overall])
        places = {name: place for place, name in enumerate(self.segments)}
        above = table[[places.get(name, len(self.segments)) for name in segments]]
        return _shrunk(np.asarray(counts, dtype=np.float64), above, self.strength)


def fit_send_time(counts: Any, segments: Sequence[str]) -> SendTime:
    """Learn from what visitors did at which local hour.

    Args:
        counts: [n, 24] events of each visitor by local hour.
        segments: [n] theirs.
    """
    table = np.asarray(counts, dtype=np.float64).reshape(-1, HOURS)
    overall = (table.sum(axis=0) + 0.5) / (table.sum() + 0.5 * HOURS)
    names, code = np.unique(np.asarray(segments, dtype=str), return_inverse=True)
    sums = np.zeros((len(names), HOURS))
    np.add.at(sums, code.ravel(), table)
    segment_strength = _strength(sums, np.broadcast_to(overall, sums.shape))
    by_segment = _shrunk(sums, np.broadcast_to(overall, sums.shape), segment_strength)
    busiest = np.argsort(-table.sum(axis=1), kind="stable")[:_SAMPLE]
    strength = _strength(table[busiest], by_segment[code.ravel()[busiest]])
    return SendTime(overall, tuple(map(str, names)), by_segment, strength, segment_strength)


def hour_counts(visitor: Ints, hours: Ints, size: int) -> Ints:
    """[size, 24] events by visitor and local hour, from one row each."""
    return np.bincount(visitor * HOURS + hours, minlength=size * HOURS).reshape(size, HOURS)


def _shrunk(counts: Floats, above: Floats, strength: float) -> Floats:
    found: Floats = (counts + strength * above) / (counts.sum(axis=1, keepdims=True) + strength)
    return found


def _strength(counts: Floats, above: Floats) -> float:
    """The κ of highest Dirichlet-multinomial likelihood; one row or fewer than two events each tell nothing of it."""
    told = counts.sum(axis=1) >= 2
    counts, above = counts[told], above[told]
    if len(counts) < 2:
        return float(STRONGEST)
    sizes = counts.sum(axis=1)

    def loss(log_strength: float) -> float:
        kappa = float(np.exp(log_strength))
        prior = kappa * above
        rows = special.gammaln(counts + prior) - special.gammaln(prior)
        return -float(rows.sum() + (special.gammaln(kappa) - special.gammaln(sizes + kappa)).sum())

    bounds = (float(np.log(WEAKEST)), float(np.log(STRONGEST)))
    return float(np.exp(optimize.minimize_scalar(loss, bounds=bounds, method="bounded").x))
