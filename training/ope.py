"""Off-policy evaluation: what a policy would have earned, from another policy's log. Functions of arrays.

With n logged actions of reward r, w the probability of each action under the target policy over that under the logging
policy, q a reward model's prediction for the action and v its mean prediction under the target policy:

    estimator         value                           source
    replay            mean r of accepted rows         Li et al., WSDM 2011
    ips               mean w·r                        Horvitz and Thompson, JASA 1952
    snips             Σ w·r / Σ w                     Swaminathan and Joachims, NeurIPS 2015
    direct_method     mean v                          Dudík, Langford and Li, ICML 2011
    doubly_robust     mean v + w·(r − q)              Dudík, Langford and Li, ICML 2011; Statistical Science 2014
    switch_dr         the same, w dropped above τ     Wang, Agarwal and Dudík, ICML 2017
    dr_os             the same, w shrunk to wλ/(w²+λ) Su et al., ICML 2020

Every estimator returns what each row adds above and below a fraction line, so that one bootstrap over sessions or
visitors serves all. Where the log covers the target policy too thinly the answer is None, "cannot say".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.metrics import BOOTSTRAPS, Estimate

Floats = NDArray[np.float64]
LEAST_EFFECTIVE_SAMPLE = 100.0
"""Below this many effective rows the logs say too little of the policy, and no number is given."""
LEAST_EFFECTIVE_GROUPS = 30.0
"""The same for sessions or visitors: resampling a handful of them gives an interval that is far too narrow."""
BLOCK = 50
"""Resamples that are summed together."""
WEIGHT_SLACK = 0.05
"""How far from 1 the mean weight may surely be. Lower, the target policy acts where the log has nothing; higher, the
logged propensities are not those that drew the log."""


class Terms(NamedTuple):
    """What each row adds to numerator and denominator; [n], or [n, k] for the sum of k fractions."""

    above: Floats
    below: Floats


@dataclass(frozen=True, slots=True)
class LoggedActions:
    """One row a logged action; every array is [n].

    Attributes:
        rewards: what the action earned.
        logged: probability of the action under the policy that logged it, in (0, 1].
        target: probability of the action under the policy to judge.
        groups: session or visitor; rows of one group may depend on each other.
        q_taken: reward model's prediction for the logged action; the model must not have seen these rows.
        q_target: its mean prediction over the actions of the target policy.
    """

    rewards: Floats
    logged: Floats
    target: Floats
    groups: Sequence[str] | NDArray[np.str_]
    q_taken: Floats | None = None
    q_target: Floats | None = None

    def __post_init__(self) -> None:
        columns = (self.logged, self.target, self.groups, self.q_taken, self.q_target)
        if any(column is not None and len(column) != len(self.rewards) for column in columns):
            raise ValueError("the columns of a log must be equally long")
        require_probabilities(self.logged, self.target)

    @property
    def weights(self) -> Floats:
        """Importance weights, [n]."""
        return self.target / self.logged

    @property
    def residuals(self) -> Floats:
        """What the reward model missed, [n]."""
        return self.rewards - self.model[0]

    @property
    def model(self) -> tuple[Floats, Floats]:
        """Predictions for the logged action and under the target policy.

        Raises:
            ValueError: the log carries no reward model.
        """
        if self.q_taken is None or self.q_target is None:
            raise ValueError("this estimator needs a reward model: give q_taken and q_target")
        return self.q_taken, self.q_target


def require_probabilities(logged: Floats, target: Floats) -> None:
    """Refuse what cannot be a probability, and 0 for an action that was logged.

    Raises:
        ValueError: there is such a value, or a NaN.
    """
    if not (np.all((logged > 0) & (logged <= 1 + 1e-9)) and np.all((target >= 0) & (target <= 1 + 1e-9))):
        raise ValueError("logged probabilities must be in (0, 1], target probabilities in [0, 1]")


def effective_sample(weights: Floats) -> float:
    """Kish's effective sample size, (Σw)² / Σw²; 0 when every weight is 0."""
    squares = float(np.sum(weights**2))
    return float(np.sum(weights)) ** 2 / squares if squares else 0.0


def replay(log: LoggedActions, seed: int) -> Terms:
    """Mean reward of the rows kept by rejection sampling, each with chance w / max w.

    Under a uniform log and a target policy that always does the same, those are the rows where both agree; otherwise
    the draw by ``seed`` makes the kept rows a sample of the target policy. Most rows are lost.
    """
    weights = log.weights
    # 1 − u is in (0, 1], so that weight 0 is never kept and the largest always is.
    bound = (1.0 - np.random.default_rng(seed).random(len(weights))) * weights.max(initial=0.0)
    kept = (bound <= weights) & (weights > 0)
    return Terms(kept * log.rewards, kept.astype(np.float64))


def ips(log: LoggedActions) -> Terms:
    """Inverse propensity score: unbiased where the logging policy has support, and of high variance."""
    return Terms(log.weights * log.rewards, np.ones(len(log.rewards)))


def snips(log: LoggedActions) -> Terms:
    """IPS over the mean weight: a bias that fades with n, for less variance and values within the rewards' range."""
    return Terms(log.weights * log.rewards, log.weights)


def direct_method(log: LoggedActions) -> Terms:
    """The reward model's word alone: no weights, and as wrong as the model; its interval knows nothing of that."""
    return Terms(log.model[1], np.ones(len(log.rewards)))


def doubly_robust(log: LoggedActions) -> Terms:
    """The model's value and its error as the log shows it: right where either propensities or model are right."""
    return _corrected(log, log.weights)


def switch_dr(log: LoggedActions, threshold: float) -> Terms:
    """Doubly robust up to weight τ ≥ 0, the model alone above; τ → ∞ is doubly robust, τ = 0 the direct method."""
    return _corrected(log, np.where(log.weights <= threshold, log.weights, 0.0))


def dr_os(log: LoggedActions, shrinkage: float) -> Terms:
    """Doubly robust with optimistic shrinkage λ ≥ 0; λ → ∞ is doubly robust, λ = 0 the direct method."""
    weights = log.weights
    # w / (w²/λ + 1) is the same as λw / (w² + λ), and stands an infinite λ.
    return _corrected(log, weights / (weights**2 / shrinkage + 1.0) if shrinkage else np.zeros(len(weights)))


def _corrected(log: LoggedActions, weights: Floats) -> Terms:
    return Terms(log.model[1] + weights * log.residuals, np.ones(len(log.rewards)))


def intervals(terms: Mapping[str, Terms], groups: Sequence[str] | NDArray[np.str_], seed: int) -> dict[str, Estimate]:
    """Each value with its 95 % percentile interval, from one resampling of whole groups that all share.

    Sharing lets two values be compared, and costs one pass. Draws where a denominator is 0 are left out.
    """
    names, group_of = np.unique(np.asarray(groups), return_inverse=True)
    columns = [part.reshape(len(group_of), -1) for one in terms.values() for part in one]
    # A resampled group brings all its rows, so its totals are all that is needed of it.
    totals = np.zeros((len(names), sum(part.shape[1] for part in columns)))
    np.add.at(totals, group_of, np.concatenate(columns, axis=1))
    rng, draws = np.random.default_rng(seed), np.empty((1 + BOOTSTRAPS, totals.shape[1]))
    draws[0] = totals.sum(axis=0)
    for start in range(1, 1 + BOOTSTRAPS, BLOCK):
        # Several at once, so that the totals are not read from memory for each.
        times = np.zeros((min(BLOCK, 1 + BOOTSTRAPS - start), len(names)))
        for row in times:
            row[:] = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
        draws[start : start + len(times)] = times @ totals
    result, start = {}, 0
    for name, (above, _) in terms.items():
        size = 1 if above.ndim == 1 else above.shape[1]
        result[name] = _estimate(draws[:, start : start + size], draws[:, start + size : start + 2 * size])
        start += 2 * size
    return result


def _estimate(above: Floats, below: Floats) -> Estimate:
    """Sum of fractions of totals; the first row is the log itself, the others are its resamples."""
    values = np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0).sum(axis=1)
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    return Estimate(float(values[0]), float(low), float(high))


def is_enough(weights: Floats, groups: Sequence[str] | NDArray[np.str_]) -> bool:
    """Whether the weight, [n], lies on enough rows and on enough groups to give a number with an interval."""
    _, group_of = np.unique(np.asarray(groups), return_inverse=True)
    by_group = np.bincount(group_of, weights).astype(np.float64)
    return effective_sample(weights) >= LEAST_EFFECTIVE_SAMPLE and effective_sample(by_group) >= LEAST_EFFECTIVE_GROUPS


def is_covered(weights: Floats, groups: Sequence[str] | NDArray[np.str_], seed: int) -> bool:
    """Whether rows of such importance weights, [n] or [n, k], say enough of the target policy to give a number.

    The mean weight estimates the target policy's mass on actions that the log could hold. So 1, give or take the
    slack, must be possible, and the weight must lie on enough rows; both at each of k positions.
    """
    columns = dict(enumerate(np.atleast_2d(weights.T)))
    if not all(is_enough(column, groups) for column in columns.values()):
        return False
    ones = np.ones(len(weights))
    means = intervals({str(k): Terms(column, ones) for k, column in columns.items()}, groups, seed).values()
    return all(mean.low <= 1.0 + WEIGHT_SLACK and mean.high >= 1.0 - WEIGHT_SLACK for mean in means)


def policy_value(
    rewards: Floats, target: Floats, logged: Floats, groups: Sequence[str] | NDArray[np.str_], seed: int
) -> tuple[Estimate | None, float]:
    """Self-normalised value of the target policy with interval, and the effective sample size.

    Args are those of ``LoggedActions``; the value is None where the log covers the target policy too thinly.
    """
    log = LoggedActions(rewards, logged, target, groups)
    covered = is_covered(log.weights, groups, seed)
    value = intervals({"snips": snips(log)}, groups, seed)["snips"] if covered else None
    return value, effective_sample(log.weights)


def policy_values(log: LoggedActions, seed: int) -> dict[str, Estimate | None]:
    """Every estimate of the target policy's value by name; None where the log cannot say.

    Those with a model only where the log carries one. Weights above √n are dropped or shrunk, τ = √n and λ = n: what
    that adds as bias fades with n, as for truncated weights (Ionides, JCGS 2008), and nothing is tuned on the rewards.
    """
    terms = {"replay": replay(log, seed), "ips": ips(log), "snips": snips(log)}
    if log.q_taken is not None:
        rows = len(log.rewards)
        terms |= {
            "dm": direct_method(log),
            "dr": doubly_robust(log),
            "switch_dr": switch_dr(log, rows**0.5),
            "dr_os": dr_os(log, float(rows)),
        }
    covered = is_covered(log.weights, log.groups, seed)
    # The direct method alone asks nothing of the weights, but it too needs rows.
    answers = {
        name: one for name, one in terms.items() if (covered or name == "dm") and is_enough(one.below, log.groups)
    }
    found = intervals(answers, log.groups, seed) if answers else {}
    return {name: found.get(name) for name in terms}
