"""How well the next page is predicted on later sessions: each step of each session, from the pages before it."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.interactions import Interactions, Ints, Queries
from training.metrics import bootstrap, full_ranks, weighted_mean
from training.models.markov import Markov
from training.pages.graph import OTHER, PagePaths, numbered

Doubles = NDArray[np.float64]
DEPTH: Final = 20
MOST_STEPS: Final = 20_000
CELLS: Final = 400_000_000
"""Scores in all; of many pages fewer steps are asked."""
BATCH: Final = 16_000_000


def next_page_report(models: dict[str, Markov], later: PagePaths, seed: int) -> dict[str, Any]:
    """Mean reciprocal rank at 20 and accuracy of each model, and what each gains on the first; JSON-ready.

    A step to a page that the models do not know counts as missed. Many steps are sampled. Intervals are from resampled
    visitors.

    Args:
        models: by name, all over the pages of ``later``.
        later: sessions after those that the models are of.
        seed: of sampling and resampling.
    """
    asked, groups = _sampled(later, seed)
    if not len(asked):
        return {"steps": 0}
    ranks = {name: step_ranks(model, later, asked) for name, model in models.items()}
    gains = {name: np.where(found < DEPTH, 1.0 / (1.0 + found), 0.0) for name, found in ranks.items()}
    first = next(iter(gains.values()))
    told: dict[str, Any] = {"steps": len(asked), "known_rate": float(np.mean(_is_known(later)[later.codes[asked]]))}
    for name, own in gains.items():
        told[name] = {
            f"mrr@{DEPTH}": bootstrap(weighted_mean(own), groups, seed).as_dict(),
            "accuracy": bootstrap(weighted_mean((ranks[name] == 0).astype(np.float64)), groups, seed).as_dict(),
            "mrr_gain": bootstrap(weighted_mean(own - first), groups, seed).as_dict(),
        }
    return told


def step_ranks(model: Markov, later: PagePaths, asked: Ints) -> Doubles:
    """[n] rank from 0 of the page of each asked view among all pages with a name, after the views before it.

    Infinite for a page that the model does not know. Ties count against it.

    Args:
        model: over the pages of ``later``.
        later: sessions.
        asked: [n] places of views, none of them a session's first.
    """
    known = _is_known(later)
    found = np.full(len(asked), np.inf)
    hits = np.flatnonzero(known[later.codes[asked]])
    step = max(1, BATCH // len(later.pages))
    for start in range(0, len(hits), step):
        rows = hits[start : start + step]
        scores = model.score(_questions(later, asked[rows], model.settings.order))
        eligible = np.broadcast_to(known[: len(later.pages)], scores.shape)
        found[rows] = full_ranks(scores.astype(np.float64), later.codes[asked[rows]], eligible)
    return found


def _sampled(later: PagePaths, seed: int) -> tuple[Ints, NDArray[np.str_]]:
    """Places of the views to ask for, in order, and whose they are."""
    places = np.flatnonzero(~later.is_first)
    most = min(MOST_STEPS, CELLS // max(len(later.pages), 1))
    if len(places) > most:
        places = np.sort(np.random.default_rng(seed).choice(places, most, replace=False))
    owners = np.repeat(later.visitors, np.diff(later.starts))
    return places, owners[places].astype(np.str_)


def _is_known(later: PagePaths) -> NDArray[np.bool_]:
    """[S + 1] whether a page can be named; the last entry, of code -1, cannot."""
    return np.array([*(page != OTHER for page in later.pages), False], dtype=bool)


def _questions(later: PagePaths, places: Ints, order: int) -> Queries:
    """What came before each view, as far back as the model looks; a page that is none of the model's hides the rest."""
    firsts = np.repeat(later.starts[:-1], np.diff(later.starts))[places]
    back = places[:, None] - np.arange(order, 0, -1)
    codes = np.where(back >= firsts[:, None], later.codes[np.maximum(back, 0)], -1)
    # From the newest backwards: what lies behind an unknown page does not count.
    usable = np.logical_and.accumulate(codes[:, ::-1] >= 0, axis=1)[:, ::-1]
    starts = np.concatenate([[0], np.cumsum(usable.sum(axis=1))]).astype(np.int64)
    items, count = codes[usable], len(places)
    users, pages = numbered(count), numbered(len(later.pages))
    times, weights, contexts = np.zeros(len(items)), np.ones(len(items), np.float32), np.zeros(len(items), np.int64)
    history = Interactions(users, pages, starts, items, times, weights, contexts)
    return Queries(history, np.full(count, -1), np.zeros(count), np.zeros(count, np.int64))
