"""How fast a fitted model answers, and how that changes with the size of the catalogue."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from training.harness.task import Task
from training.interactions import Interactions, Ints, Queries
from training.recommender import Recommender

SHARES = (1 / 16, 1 / 4, 1.0)
"""Parts of the catalogue, most popular items first."""
ONE_BY_ONE, BATCH = 200, 1024
PATIENCE_S = 5.0
"""Seconds for each of the two measurements, at most, once one call of it is done."""


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast one model answered over one catalogue.

    Attributes:
        items: size of the catalogue.
        p50_ms: half of the single questions were answered within that many milliseconds.
        p99_ms: nearly all were.
        per_second: questions a second, asked in batches.
    """

    items: int
    p50_ms: float
    p99_ms: float
    per_second: float


def measure_speed(model: Recommender, task: Task, k: int, seed: int) -> Speed:
    """Ask one at a time, then in batches, after a warm-up that is not counted; the best k of all items each time."""
    count = len(task.queries)
    k = min(k, task.train.item_count)
    chosen = np.random.default_rng(seed).permutation(count)[: max(ONE_BY_ONE, BATCH)]
    single = [task.queries.take(chosen[place : place + 1]) for place in range(min(ONE_BY_ONE, count))]
    batch = task.queries.take(np.resize(chosen, BATCH))

    def answer(queries: Queries) -> float:
        start = time.perf_counter()
        model.recommend(queries, k, task.exclude_seen)
        return time.perf_counter() - start

    for queries in single[:3]:
        answer(queries)
    alone = _repeated(lambda place: answer(single[place % len(single)]), ONE_BY_ONE)
    answer(batch)
    together = _repeated(lambda place: answer(batch), 10)
    p50, p99 = np.percentile(alone, [50, 99]) * 1e3
    return Speed(task.train.item_count, float(p50), float(p99), BATCH / float(np.median(together)))


def measure_scaling(
    fitted: Recommender, fit: Callable[[Interactions], Recommender], task: Task, k: int, seed: int
) -> list[dict[str, Any]]:
    """Speed over parts of the catalogue, the smallest first.

    Args:
        fitted: the model on the whole catalogue.
        fit: fits the same model, perhaps shortly, on other interactions.
        task: whose questions are asked.
        k: how many items each answer has.
        seed: of the choice of questions.
    """
    found = []
    for share in SHARES:
        part = popular_part(task, share)
        model = fitted if share == 1 else fit(part.train)
        speed = measure_speed(model, part, k, seed)
        found.append({"share": share, **{name: getattr(speed, name) for name in Speed.__slots__}})
    return found


def popular_part(task: Task, share: float) -> Task:
    """The task over the most popular items only: the users stay, their events with other items do not."""
    count = max(1, round(share * task.train.item_count))
    events = np.bincount(task.train.items, minlength=task.train.item_count)
    kept = np.sort(np.argsort(-events, kind="stable")[:count])
    histories = with_items(task.queries.histories, kept)
    return replace(task, train=with_items(task.train, kept), queries=replace(task.queries, histories=histories))


def with_items(interactions: Interactions, kept: Ints) -> Interactions:
    """The same over only the items in ``kept``, which get new codes in that order."""
    code = np.full(interactions.item_count, -1)
    code[kept] = np.arange(len(kept))
    inside = interactions.where(code[interactions.items] >= 0)
    content = interactions.item_features
    return replace(
        inside,
        items=code[inside.items],
        item_ids=interactions.item_ids[kept],
        item_features=None if content is None else content[kept],
    )


def _repeated(measure: Callable[[int], float], times: int) -> list[float]:
    """Durations of up to so many calls; fewer where they take long."""
    found: list[float] = []
    while len(found) < times and sum(found) < PATIENCE_S:
        found.append(measure(len(found)))
    return found
