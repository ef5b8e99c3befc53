"""How much of its quality a model keeps when some of the events are lost, wrong or late."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from training.harness.disturbance import KINDS
from training.harness.judging import quality
from training.harness.task import Task
from training.interactions import Interactions
from training.recommender import Recommender

MOST_QUESTIONS = 10_000
"""Questions that a point of a curve is told from."""


def measure_robustness(
    model: Recommender,
    task: Task,
    shares: Sequence[float],
    metric: str,
    seed: int,
    refit: Callable[[Interactions], Recommender] | None = None,
    tell: Callable[[int, int], None] = lambda done, of: None,
) -> list[dict[str, Any]]:
    """A point for each kind of disturbance and each share of events.

    The answers asked for stay as they are: only what the model sees when it is asked is disturbed, and with ``refit``
    what it learns from too.

    Args:
        model: fitted on the undisturbed data.
        task: what is asked; of many questions some are drawn, the same for all points.
        shares: of the events.
        metric: name such as ``ndcg@10``.
        seed: of the drawing and of the disturbances.
        refit: fits the same model on other interactions.
        tell: told how many points are done, of how many.

    Returns:
        ``kind``, ``share``, ``value``, and ``kept``: the value over that of the undisturbed data (NaN if that is 0).
    """
    count = len(task.queries)
    rows = np.sort(np.random.default_rng(seed).permutation(count)[:MOST_QUESTIONS])
    asked = task.sample(rows)
    ks = [int(metric.partition("@")[2])]
    plain = quality(model, asked, ks)[metric]
    points = [(kind, share) for kind in KINDS for share in shares]
    found = []
    for done, (kind, share) in enumerate(points):
        tell(done, len(points))
        histories = KINDS[kind](asked.queries.histories, share, seed)
        worse = replace(asked, queries=replace(asked.queries, histories=histories))
        judge = refit(KINDS[kind](task.train, share, seed)) if refit else model
        value = quality(judge, worse, ks)[metric]
        found.append({"kind": kind, "share": share, "value": value, "kept": value / plain if plain else float("nan")})
    return found
