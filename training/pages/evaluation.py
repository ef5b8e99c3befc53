"""What a page policy would have earned, from sessions in which nobody was recommended anything; with intervals.

The action that a session's log holds is the page that came next, drawn by the visitor from P(· | page). Under the
policy it would have been drawn from P_b(· | page), so a step to s' weighs ``(1 − f) + f · [s' = b] / P(b | page)``, and
what happens after some steps weighs their product. With w such a product, r what a page earned, V values that the
model gives pages and c(s) the mean of V after s under the policy:

    estimator   value                                                source
    wpdis       Σ_t Σ w r / Σ w                                      Precup, Sutton and Singh, ICML 2000
    wdr         mean V(first) + Σ_t Σ w (r + c(s) − V(s)) / Σ w      Thomas and Brunskill, ICML 2016, equation 11

Each step's weights are normalised over all sessions, those that have ended included.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.ope import Terms, effective_sample, intervals, is_covered
from training.pages.graph import PagePaths
from training.pages.page_model import PageModel

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]
HORIZON: Final = 10
"""The policy that is judged recommends on so many pages of a session; every further one makes the weights wilder."""


def policy_report(model: PageModel, later: PagePaths, seed: int) -> dict[str, Any]:
    """What sessions would be like under the policy and what they are like, by measure; JSON-ready.

    Each measure has ``policy``, ``actual`` and ``gain``, the difference, with 95 % intervals from resampled visitors;
    the value too what it would be if the most probable next page were recommended everywhere, ``probable``, and what
    the policy gains on that. To recommend anything keeps some who would have left, by the model of following; so only
    the gain on the most probable page is owed to which pages are recommended. Where the sessions say too little of a
    policy, its estimates are None: it cannot be said.

    Args:
        model: judged; of sessions before the later ones.
        later: sessions over the model's pages, -1 for a page that is none of them.
        seed: of the resampling.
    """
    if not later.session_count:
        return {"sessions": 0}
    groups = later.visitors.astype(np.str_)
    weights = {name: session_weights(model, later, one) for name, one in _policies(model).items()}
    covered = {name: is_covered(one[:, -1], groups, seed) for name, one in weights.items()}
    covered |= {"actual": True, "gain": covered["policy"], "gain_on_probable": all(covered.values())}
    terms = _measures(model, later, weights)
    asked = {key: one for key, one in terms.items() if covered[key[1]]}
    found = intervals({" ".join(key): one for key, one in asked.items()}, groups, seed)
    told: dict[str, Any] = {
        "sessions": later.session_count,
        "horizon": HORIZON,
        "effective_sample": effective_sample(weights["policy"][:, -1]),
        "recommended_rate": float(np.mean((later.codes >= 0) & (model.best[0][later.codes] >= 0))),
    }
    for name, part in terms:
        told.setdefault(name, {})[part] = found[f"{name} {part}"].as_dict() if covered[part] else None
    return told


def _policies(model: PageModel) -> dict[str, tuple[Ints, Doubles]]:
    return {"policy": model.best, "probable": model.probable}


def session_weights(model: PageModel, later: PagePaths, policy: tuple[Ints, Doubles]) -> Doubles:
    """[N, HORIZON] how much likelier a session's first 1, 2, … steps are under a policy than by themselves."""
    return np.asarray(_table(later, step_ratios(model, later, policy), 1.0).cumprod(axis=1))


def step_ratios(model: PageModel, later: PagePaths, policy: tuple[Ints, Doubles]) -> Doubles:
    """[E] how much likelier a policy makes what came after each view, the end included, than visitors do.

    Args:
        model: whose chain says what visitors do.
        later: sessions.
        policy: [S] page recommended on each page, -1 for none, and the share that follows.
    """
    targets, followed = policy
    ratios = np.ones(len(later))
    after = np.append(later.codes[1:], -1)
    after[later.is_last] = -2
    advised = np.flatnonzero((later.codes >= 0) & (targets[later.codes] >= 0))
    if not len(advised):
        return ratios
    states = later.codes[advised]
    wanted, shares = targets[states], followed[states]
    chances = np.asarray(model.natural[states, wanted]).ravel()
    hits = after[advised] == wanted
    # Where nobody was seen to go, no weight is right; the bound keeps one such step from being all there is.
    ratios[advised] = (1.0 - shares) + np.where(hits, shares / np.maximum(chances, 1e-6), 0.0)
    return ratios


def _measures(model: PageModel, later: PagePaths, weights: dict[str, Doubles]) -> dict[tuple[str, str], Terms]:
    """Terms of each measure and part."""
    own, seconds, ones = weights["policy"], np.nan_to_num(later.seconds), np.ones(len(later))
    values = {name: _wdr(model, later, weights[name], one) for name, one in _policies(model).items()}
    found = _parts("value", values["policy"], _sums(later, later.amounts))
    found["value", "probable"] = values["probable"]
    found["value", "gain_on_probable"] = _difference(values["policy"], values["probable"])
    for name, rewards in {"value_wpdis": later.amounts, "seconds": seconds, "pages": ones}.items():
        found |= _parts(name, _weighted(later, rewards, own), _sums(later, rewards))
    bounced = (np.diff(later.starts) == 1).astype(np.float64)
    return found | _parts("bounce_rate", Terms(own[:, :1] * bounced[:, None], own[:, :1]), bounced)


def _parts(name: str, policy: Terms, sums: Doubles) -> dict[tuple[str, str], Terms]:
    actual = Terms(sums[:, None], np.ones((len(sums), 1)))
    return {(name, "policy"): policy, (name, "actual"): actual, (name, "gain"): _difference(policy, actual)}


def _difference(one: Terms, other: Terms) -> Terms:
    return Terms(np.column_stack([one.above, -other.above]), np.column_stack([one.below, other.below]))


def _weighted(later: PagePaths, rewards: Doubles, weights: Doubles) -> Terms:
    """Weighted per-decision importance sampling of the sum of rewards [E]; all after the horizon has one weight."""
    before = np.column_stack([np.ones(len(weights)), weights])
    sums = np.column_stack([_table(later, rewards, 0.0), _beyond(later, rewards)])
    return Terms(before * sums, before)


def _wdr(model: PageModel, later: PagePaths, weights: Doubles, policy: tuple[Ints, Doubles]) -> Terms:
    """The weighted doubly robust estimate of the amounts, with the optimal policy's values whatever is judged."""
    (targets, followed), rewards = policy, later.amounts
    values = np.append(model.values, 0.0)  # of page -1, where nothing is known
    onward = model.natural @ model.values
    onward = (1.0 - followed) * onward + followed * np.where(targets >= 0, values[targets], 0.0)
    corrected = rewards + np.append(onward, 0.0)[later.codes] - values[later.codes]
    lengths = np.diff(later.starts)
    reached = np.where(lengths > HORIZON, later.codes[np.minimum(later.starts[:-1] + HORIZON, len(later) - 1)], -1)
    before = np.column_stack([np.ones(len(weights)), weights])
    last = _beyond(later, rewards) - values[reached]
    sums = np.column_stack([_table(later, corrected, 0.0), last])
    first = values[later.codes[later.starts[:-1]]]
    return Terms(np.column_stack([first, before * sums]), np.column_stack([np.ones(len(first)), before]))


def _table(later: PagePaths, values: Doubles, padding: float) -> Doubles:
    """[N, HORIZON] the values [E] of each session's first views."""
    lengths = np.diff(later.starts)
    place = np.arange(len(later)) - np.repeat(later.starts[:-1], lengths)
    found, near = np.full((later.session_count, HORIZON), padding), place < HORIZON
    found[np.repeat(np.arange(later.session_count), lengths)[near], place[near]] = values[near]
    return found


def _sums(later: PagePaths, values: Doubles) -> Doubles:
    """[N] sum of each session's values."""
    return np.asarray(np.add.reduceat(values, later.starts[:-1]))


def _beyond(later: PagePaths, values: Doubles) -> Doubles:
    """[N] sum of each session's values after the horizon."""
    place = np.arange(len(later)) - np.repeat(later.starts[:-1], np.diff(later.starts))
    return _sums(later, np.where(place >= HORIZON, values, 0.0))
