"""Off-policy evaluation: what a policy would have earned, from another policy's log. Functions of arrays.

Source: Swaminathan and Joachims, "The self-normalized estimator for counterfactual learning", NeurIPS 2015.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.metrics import Estimate, bootstrap, weighted_mean

Floats = NDArray[np.float64]
LEAST_EFFECTIVE_SAMPLE = 100.0
"""Below this many effective rows the logs say too little of the policy, and no number is given."""


def effective_sample(weights: Floats) -> float:
    """Kish's effective sample size, (Σw)² / Σw²; 0 when every weight is 0."""
    squares = float(np.sum(weights**2))
    return float(np.sum(weights)) ** 2 / squares if squares else 0.0


def ips(rewards: Floats, weights: Floats) -> float:
    """Inverse propensity score estimate: mean of weight × reward; unbiased where the logging policy has support."""
    return float(np.mean(weights * rewards))


def snips(rewards: Floats, weights: Floats) -> float:
    """Self-normalised estimate: Σ weight × reward / Σ weight; NaN when every weight is 0."""
    total = float(np.sum(weights))
    return float(np.sum(weights * rewards)) / total if total else float("nan")


def policy_value(
    rewards: Floats, target: Floats, logged: Floats, groups: Sequence[str] | NDArray[np.str_], seed: int
) -> tuple[Estimate | None, float]:
    """Self-normalised value of the target policy with interval, and the effective sample size.

    Args:
        rewards: [n] observed reward of each logged action.
        target: [n] probability of that action under the policy to judge.
        logged: [n] probability under the policy that logged it, in (0, 1].
        groups: [n] visitor of each row; the bootstrap resamples visitors.

    Returns:
        ``(None, ess)`` where the overlap is too small to say anything.
    """
    weights = target / logged
    size = effective_sample(weights)
    if size < LEAST_EFFECTIVE_SAMPLE:
        return None, size
    return bootstrap(weighted_mean(weights * rewards, weights), groups, seed), size
