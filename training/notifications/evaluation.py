"""What sending is worth: uplift over sending to all, to none and at a fixed hour, and the Qini curve.

From a campaign whose actions were drawn at random with known chances, so that what an action causes can be told from
who got it. Radcliffe, "Using control groups to target on predicted lift", 2007; Horvitz and Thompson, JASA 1952.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.harness.intervals import difference, intervals
from training.metrics import Estimate, bootstrap
from training.page import new_figure, page, png

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
NONE: Final = 0
"""The action of sending nothing."""
POINTS: Final = 200
"""Of a Qini curve, evenly over the share that is treated."""


@dataclass(frozen=True, eq=False, slots=True)
class Campaign:
    """n visitors, an action each, drawn with known chances, and what came of it.

    Attributes:
        action: [n] ``NONE`` or what was sent, such as an hour.
        chances: [n, K] of each action under the draw; rows sum to 1.
        outcome: [n] such as a visit, 0 or 1, or an amount.
    """

    action: Ints
    chances: Floats
    outcome: Floats

    def values(self, chosen: Any) -> Floats:
        """[n] terms whose mean is the outcome per visitor had these actions been taken: outcome over the chance."""
        actions = np.broadcast_to(np.asarray(chosen, dtype=np.int64), self.action.shape)
        chance = self.chances[np.arange(len(self.action)), self.action]
        return np.asarray(np.where(actions == self.action, self.outcome / chance, 0.0))


def uplifts(campaign: Campaign, chosen: Any, others: Mapping[str, Any], seed: int = 0) -> dict[str, Estimate]:
    """Outcome per visitor of a policy over each other, with 95 % bootstrap intervals over visitors.

    Args:
        chosen: [n] the policy's actions, decided without looking at the outcomes.
        others: by name [n] actions, or one for all: ``{"none": NONE, "all": 1, "fixed_hour": 10}``.
    """
    own = campaign.values(chosen)
    against = {name: campaign.values(actions) for name, actions in others.items()}
    found = difference(dict.fromkeys(against, own), against, seed=seed)
    return intervals({"value": own}, seed=seed) | found


def qini_curve(score: Floats, treated: Bools, outcome: Floats, weights: Floats | None = None) -> tuple[Floats, Floats]:
    """Outcomes gained per visitor when the best-scored share of all visitors is treated, at each share from 0 to 1.

    At a share with n_t treated and n_c not, of outcomes y_t and y_c: y_t − y_c · n_t / n_c, over all that were treated.
    Ties of the score come in together.

    Args:
        score: [n] expected uplift. treated: [n]. outcome: [n]. weights: [n] how often each counts.
    """
    times = np.ones(len(score)) if weights is None else weights
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.r_[np.diff(score[order]) != 0, True])
    columns = [times * treated, times * ~treated, times * treated * outcome, times * ~treated * outcome]
    n_t, n_c, y_t, y_c = (np.cumsum(one[order])[last] for one in columns)
    gained = y_t - np.divide(y_c * n_t, n_c, out=np.zeros(len(last)), where=n_c > 0)
    share = np.r_[0.0, (n_t + n_c) / (n_t[-1] + n_c[-1])]
    return share, np.r_[0.0, gained / max(n_t[-1], 1e-12)]


def qini(score: Floats, treated: Bools, outcome: Floats, seed: int = 0) -> Estimate:
    """Area between the Qini curve and the line of treating at random, in outcomes per visitor; 0 is no better.

    The interval is a bootstrap over visitors.
    """

    def area(weights: Floats) -> float:
        share, gained = qini_curve(score, treated, outcome, weights)
        return float(np.trapezoid(gained - share * gained[-1], share))

    return bootstrap(area, np.arange(len(score)).astype(str), seed)


def uplift_page(title: str, found: Mapping[str, Estimate], curves: Mapping[str, tuple[Floats, Floats]]) -> str:
    """The uplifts as lines and the Qini curves as a plot, as HTML."""
    lines = [f"{name:16} {one.value:+.4f} [{one.low:+.4f}, {one.high:+.4f}]" for name, one in found.items()]
    figure = new_figure()
    axes = figure.subplots()
    for name, (share, gained) in curves.items():
        at = np.linspace(0, 1, POINTS)
        axes.plot(at, np.interp(at, share, gained), label=name)
    end = next(iter(curves.values()))[1][-1] if curves else 0.0
    axes.plot([0, 1], [0, end], "--", color="#999", label="at random")
    axes.set(xlabel="share that is sent one, best first", ylabel="outcomes gained per visitor")
    axes.legend(frameon=False)
    return page(title, lines, [("Qini curve", png(figure))])
