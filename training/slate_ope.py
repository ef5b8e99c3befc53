"""Off-policy value of whole slates: clicks a slate, from slates that another policy drew. Functions of arrays.

Both estimators are self-normalised at each position and add the positions up; with one position they are ``ope.snips``.
They differ in what a click may depend on, and so in the probabilities they need:

- position-wise: on the visitor, the item and its position alone. Weights are ratios of *marginal* probabilities of the
  item at its position (Li, Abbasi-Yadkori, Kveton, Muthukrishnan, Vinay and Wen, KDD 2018).
- cascade: also on the items above. Weights are products, down to the position, of ratios of probabilities *given the
  items above* (McInerney, Brost, Chandar, Mehrotra and Carterette, KDD 2020).

The first has far less variance; the second holds in more worlds. All slates of a log have k positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.metrics import Estimate
from training.ope import Floats, Terms, intervals, is_covered, require_probabilities


@dataclass(frozen=True, slots=True)
class LoggedSlates:
    """One row a logged slate.

    Attributes:
        rewards: [n, k] what each position earned.
        logged: [n, k] probability of each position's item under the policy that logged it, in (0, 1]; marginal for
            ``position_wise``, given the items above for ``cascade``.
        target: [n, k] the same under the policy to judge.
        groups: [n] session or visitor.
    """

    rewards: Floats
    logged: Floats
    target: Floats
    groups: Sequence[str] | NDArray[np.str_]

    def __post_init__(self) -> None:
        shape = self.rewards.shape
        if len(shape) != 2 or not shape[1] or {self.logged.shape, self.target.shape} != {shape}:
            raise ValueError("rewards and probabilities of slates must be tables of one shape, [n, k]")
        if len(self.groups) != len(self.rewards):
            raise ValueError("the columns of a log must be equally long")
        require_probabilities(self.logged, self.target)


def position_wise(log: LoggedSlates) -> Terms:
    """Σ over positions of Σ w·r / Σ w, w the ratio of marginal probabilities at the position; [n, k]."""
    weights = log.target / log.logged
    return Terms(weights * log.rewards, weights)


def cascade(log: LoggedSlates) -> Terms:
    """Σ over positions of Σ w·r / Σ w, w the product of ratios from the first position to this one; [n, k]."""
    weights = np.asarray(np.cumprod(log.target / log.logged, axis=1), dtype=np.float64)
    return Terms(weights * log.rewards, weights)


def slate_value(terms: Terms, groups: Sequence[str] | NDArray[np.str_], seed: int) -> Estimate | None:
    """Expected reward of a slate with interval; None, "cannot say", where one position is covered too thinly."""
    return intervals({"slate": terms}, groups, seed)["slate"] if is_covered(terms.below, groups, seed) else None
