"""A Markov decision process with few actions a state, and its optimum by converged value iteration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray

from marquee.errors import MarqueeError

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]
TOLERANCE: Final = 1e-10
"""Of the largest value; of 1 where all are smaller."""
ROUNDING: Final = 16 * float(np.finfo(np.float64).eps)
"""How exact one sweep is, as a share of the largest value."""
MOST_ROUNDS: Final = 100_000
EVALUATIONS: Final = 10
"""Sweeps that follow the best actions found, between two that look for better ones."""


@dataclass(frozen=True, slots=True)
class DecisionProcess:
    """S states and A actions, those of one state side by side; what an action's probabilities lack to 1 ends it all.

    Action a in state s leads to s' with probability ``kept[a] · natural[s, s'] + moved[a, s']``: part of the visitors
    do as they would by themselves. The same matrix of that serves all actions of a state, so that a hundred thousand
    pages with ten links and ten recommendations each are two million numbers, not ten.

    Attributes:
        natural: [S, S] CSR, rows sum to 1 at most.
        starts: [S + 1] first action of each state; each has one at least.
        rewards: [A] earned in the state by the action, at once.
        kept: [A] in 0 to 1.
        moved: [A, S] CSR.
        discount: γ, in 0 to 1, 1 excluded.
    """

    natural: sparse.csr_matrix
    starts: Ints
    rewards: Doubles
    kept: Doubles
    moved: sparse.csr_matrix
    discount: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.discount < 1.0:
            raise MarqueeError(f"discount is {self.discount}; it must be 0 or more and below 1, or nothing converges")
        if np.any(np.diff(self.starts) < 1):
            raise MarqueeError("starts: every state of a decision process needs an action, if only to do nothing")
        leaving = np.asarray(self.natural.sum(axis=1)).ravel()
        sums = self.kept * leaving[self.states] + np.asarray(self.moved.sum(axis=1)).ravel()
        parts = (self.natural.data, self.kept, self.moved.data)
        if any(np.any(part < 0) for part in parts) or np.any(sums > 1 + 1e-9) or not np.all(np.isfinite(self.rewards)):
            raise MarqueeError("a decision process needs probabilities that sum to 1 at most, and finite rewards")

    @property
    def states(self) -> Ints:
        """[A] state of each action."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    def transitions(self) -> sparse.csr_matrix:
        """[A, S] probabilities of each action, written out."""
        return sparse.csr_matrix(sparse.diags(self.kept) @ self.natural[self.states] + self.moved)


@dataclass(frozen=True, slots=True)
class Solution:
    """What is best.

    Attributes:
        values: [S] expected discounted rewards under the best actions.
        q: [A] the same when an action is taken once and the best ones afterwards.
        best: [S] the best action of each state; of equal ones the first.
        error: no value is farther from the optimum than this.
        sweeps: over all states, those that only follow the best actions found among them.
    """

    values: Doubles
    q: Doubles
    best: Ints
    error: float
    sweeps: int

    def gains(self, process: DecisionProcess) -> Doubles:
        """[S] what the best action is worth above the first one of its state."""
        return np.asarray(self.q[self.best] - self.q[process.starts[:-1]])


def solve(process: DecisionProcess, tolerance: float = TOLERANCE, evaluations: int = EVALUATIONS) -> Solution:
    """Value iteration until the values are proven to be near the optimum.

    One sweep T is a contraction: ‖TV − V*‖ ≤ γ/(1 − γ) · ‖TV − V‖ in the largest absolute value, whatever V is. So it
    ends when the right side is small enough, and not before. Between sweeps, the values follow the best actions found,
    which is cheaper and lets the next sweep find better ones.

    Sources: Puterman, "Markov Decision Processes", 1994, theorem 6.3.1; modified policy iteration, Puterman and Shin,
    Management Science 1978.

    Args:
        process: what to solve.
        tolerance: most that a value may be off, as a share of the largest value, or of 1 where all are smaller.
        evaluations: sweeps that only follow; 0 is plain value iteration.

    Raises:
        MarqueeError: the tolerance is finer than the numbers are, or the discount too near 1 to get there.
    """
    states, factor, sweeps = process.states, process.discount / (1.0 - process.discount), 0
    rounding = (1.0 + factor) * ROUNDING
    if tolerance < 2.0 * rounding:
        raise MarqueeError(f"tolerance is {tolerance}; sums of this discount are not exact beyond {2.0 * rounding:.0e}")
    values, error, leaps = np.zeros(len(process.starts) - 1), np.inf, True
    for _ in range(MOST_ROUNDS):
        q = _q(process, states, values)
        improved = np.maximum.reduceat(q, process.starts[:-1])
        scale = max(1.0, float(np.abs(improved).max()))
        last, error = error, factor * float(np.abs(improved - values).max()) + rounding * scale
        values, best, sweeps = improved, _first_best(q, improved, states), sweeps + 1
        if error <= tolerance * scale:
            return Solution(values, _q(process, states, values), best, error, sweeps)
        leaps = leaps and error < last
        values = _followed(process, best, values, evaluations, leaps)
        sweeps += evaluations
    raise MarqueeError(
        f"values are off by up to {error:.1e} after {sweeps:,} sweeps; lower discount, now {process.discount}"
    )


def _followed(process: DecisionProcess, actions: Ints, values: Doubles, sweeps: int, leaps: bool) -> Doubles:
    """[S] values nearer to those of taking the given action [S] in each state.

    What is left to go shrinks by nearly the same factor in each sweep, so the rest of that series is added at the end
    (Aitken's extrapolation). Only speed rests on it: the caller gives it up for good the first time that it fails.
    """
    rewards, kept, moved = process.rewards[actions], process.kept[actions], process.moved[actions]
    step = np.zeros(len(values))
    shrinking = 0.0
    for _ in range(sweeps):
        found = rewards + process.discount * (kept * (process.natural @ values) + moved @ values)
        last, step = step, found - values
        squares = float(last @ last)
        shrinking, values = (float(step @ last) / squares if squares else 0.0), found
    leaps = leaps and 0.0 < shrinking < process.discount
    return values + step * (shrinking / (1.0 - shrinking)) if leaps else values


def evaluate(process: DecisionProcess, actions: Ints, tolerance: float = TOLERANCE) -> Doubles:
    """[S] values of taking the given action [S] in each state, to the same tolerance."""
    only = DecisionProcess(
        process.natural,
        np.arange(len(actions) + 1),
        process.rewards[actions],
        process.kept[actions],
        process.moved[actions],
        process.discount,
    )
    return solve(only, tolerance).values


def _q(process: DecisionProcess, states: Ints, values: Doubles) -> Doubles:
    onward = process.natural @ values
    found = process.rewards + process.discount * (process.kept * onward[states] + process.moved @ values)
    return np.asarray(found)


def _first_best(q: Doubles, values: Doubles, states: Ints) -> Ints:
    """[S] the first action of each state that has its value."""
    best = np.empty(len(values), dtype=np.int64)
    places = np.flatnonzero(q == values[states])[::-1]
    best[states[places]] = places  # of repeated places the last is kept, which is the first action
    return best
