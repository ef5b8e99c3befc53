"""How often off-policy intervals hold the truth, and whether logs without overlap are refused: worlds drawn anew."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from training import ope
from training.metrics import Floats

WORLDS: Final = 200
SESSIONS, LENGTH, CONTEXTS, ACTIONS = 1_000, 2, 4, 5
"""Within a session the same is shown and done twice, so that rows are worth half their number."""
JUDGED: Final = ("replay", "ips", "snips", "dr", "switch_dr", "dr_os")
"""All but the direct method, whose interval knows nothing of its model's error."""


def coverage(seed: int) -> dict[str, Any]:
    """Share of worlds whose 95 % interval holds the truth, by estimator, and of overlap-free ones left unanswered."""
    held = dict.fromkeys(JUDGED, 0)
    said = dict.fromkeys(JUDGED, 0)
    refused = 0
    for number in range(WORLDS):
        rng = np.random.default_rng([seed, number])
        log, truth = _world(rng, overlap=True)
        values = ope.policy_values(log, number)
        for name in JUDGED:
            estimate = values[name]
            said[name] += estimate is not None
            held[name] += estimate is not None and estimate.low <= truth <= estimate.high
        apart, _ = _world(rng, overlap=False)
        told = ope.policy_values(apart, number)
        refused += all(told[name] is None for name in JUDGED)
    shares = {name: held[name] / said[name] for name in JUDGED}
    return {
        "ope_worlds": WORLDS,
        "coverage": shares["snips"],
        "coverage_by_estimator": shares,
        "ope_answered": said,
        "overlap_free_refused": refused,
    }


def _world(rng: np.random.Generator, overlap: bool) -> tuple[ope.LoggedActions, float]:
    """A log by one policy, and the true value of another; each world has its own rates and its own policies."""
    shares = rng.dirichlet(np.full(CONTEXTS, 5.0))
    rates = rng.uniform(0.05, 0.6, (CONTEXTS, ACTIONS))
    logging = 0.5 / ACTIONS + 0.5 * rng.dirichlet(np.ones(ACTIONS), CONTEXTS)
    target = 0.2 / ACTIONS + 0.8 * rng.dirichlet(np.ones(ACTIONS), CONTEXTS)
    if not overlap:
        # What the target does, the log never did.
        own = np.arange(ACTIONS) < ACTIONS // 2
        logging, target = _restricted(logging, own), _restricted(target, ~own)
    context = rng.choice(CONTEXTS, SESSIONS, p=shares)
    action = (rng.random(SESSIONS)[:, None] > np.cumsum(logging, axis=1)[context]).sum(axis=1)
    action = np.minimum(action, ACTIONS - 1)
    rewards = (rng.random(SESSIONS) < rates[context, action]).astype(np.float64)
    session = np.repeat(np.arange(SESSIONS), LENGTH)
    context, action, rewards = context[session], action[session], rewards[session]
    model = 0.7 * rates + 0.1  # a reward model that is off, as they are
    log = ope.LoggedActions(
        rewards,
        logging[context, action],
        target[context, action],
        session.astype("U4"),
        model[context, action],
        (target * model).sum(axis=1)[context],
    )
    return log, float(shares @ (target * rates).sum(axis=1))


def _restricted(policy: Floats, actions: Floats) -> Floats:
    kept: Floats = policy * actions
    return kept / kept.sum(axis=1, keepdims=True)
