"""Campaigns like Hillstrom's e-mail challenge (2008): customers, one action each drawn evenly, a visit or none after.

The truth is known: some visit because of a message, at their own time of day; some would anyway; and some, who hear too
much already, come less. Fields are those of that data set: recency, history, what was bought, channel, newcomer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.notifications.evaluation import NONE, Campaign, qini, qini_curve, uplift_page, uplifts
from training.notifications.uplift import fit_uplift

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
HOURS: Final = (10, 15, 20)
"""When a message may go out; action k + 1 is the k-th of them."""
FIXED: Final = 1
"""The action of a shop that sends at ten, whoever it is."""


@dataclass(frozen=True, eq=False, slots=True)
class Customers:
    """n customers, [n, F] features, and the truth: [n, K] chance of a visit under each action."""

    features: Floats
    chances: Floats


def new_customers(size: int, rng: np.random.Generator) -> Customers:
    """Draw customers; on average a message raises visits from about 10 to 13 %."""
    recency = rng.integers(1, 13, size)
    history = rng.lognormal(5.0, 0.9, size)
    mens, womens, newcomer = rng.random(size) < 0.55, rng.random(size) < 0.55, rng.random(size) < 0.5
    evening = rng.random(size)
    base = -2.2 - 0.06 * (recency - 6) + 0.25 * (np.log(history) - 5.0)
    moved = 0.9 * womens + 0.5 * (recency > 6) - 0.5 * (newcomer & (history < 100)) - 0.25
    fits = np.stack([1 - evening, np.full(size, 0.5), evening], axis=1)
    odds = np.column_stack([base, base[:, None] + moved[:, None] * (0.3 + 1.2 * fits)])
    features = np.column_stack([recency, np.log(history), mens, womens, newcomer, evening]).astype(np.float64)
    return Customers(features, 1.0 / (1.0 + np.exp(-odds)))


def draw(customers: Customers, rng: np.random.Generator) -> Campaign:
    """Give each an action evenly, and let them visit or not."""
    size, actions = customers.chances.shape
    action = rng.integers(0, actions, size)
    visited = rng.random(size) < customers.chances[np.arange(size), action]
    return Campaign(action, np.full((size, actions), 1 / actions), visited.astype(np.float64))


def uplift_figures(seed: int, size: int = 60_000) -> tuple[dict[str, Any], str]:
    """Learn on one half who to send to and when, and measure on the other; with the page that shows it.

    ``true`` figures are of the same choices under the chances that only the generator knows.
    """
    rng = np.random.default_rng([seed, 43])
    learned, judged = new_customers(size // 2, rng), new_customers(size // 2, rng)
    taught, campaign = draw(learned, rng), draw(judged, rng)
    model = fit_uplift(learned.features, taught.action, taught.outcome, len(HOURS) + 1, seed)
    uplift = model.uplift(judged.features)
    chosen = uplift.argmax(axis=1)
    at_any = 1 + np.arange(len(chosen)) % len(HOURS)
    others = {"over_none": NONE, "over_all": at_any, "over_fixed_hour": FIXED}
    found = uplifts(campaign, chosen, others, seed)
    each = np.arange(len(chosen))
    mine = judged.chances[each, chosen].mean()
    true = {
        name: mine - judged.chances[each, np.broadcast_to(one, chosen.shape)].mean() for name, one in others.items()
    }
    # The Qini curve is of one message against none: that of ten o'clock.
    rows = campaign.action <= FIXED
    score, treated, outcome = uplift[rows, FIXED], campaign.action[rows] == FIXED, campaign.outcome[rows]
    truth = (judged.chances[:, FIXED] - judged.chances[:, NONE])[rows]
    area = qini(score, treated, outcome, seed)
    blind = qini(np.random.default_rng(seed).random(len(score)), treated, outcome, seed)
    told = {name: one.as_dict() | {"true": float(true.get(name, mine))} for name, one in found.items()}
    curves = {"model": qini_curve(score, treated, outcome), "truth": qini_curve(truth, treated, outcome)}
    figures = {
        "uplift": told,
        "sent_share": float((chosen != NONE).mean()),
        "qini": area.as_dict(),
        "qini_of_truth": qini(truth, treated, outcome, seed).value,
        "qini_at_random": blind.as_dict(),
    }
    return figures, uplift_page("Uplift of a randomised campaign", found, curves)
