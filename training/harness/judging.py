"""Ask a fitted model every question of a task, and say how good the answers are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from training.harness.beyond import per_list_set
from training.harness.intervals import intervals
from training.harness.measures import Values, means, per_question
from training.harness.slices import slices
from training.harness.task import Task
from training.interactions import Ints
from training.recommender import Recommender

ACCURACY = ("ndcg", "recall", "recall_capped", "precision", "hr", "mrr", "map")
"""What is told of each question, at every length of list."""


def answers(model: Recommender, task: Task, k: int) -> Ints:
    """[n, k] the best of all items for each question; -1 where a model has nothing more to say."""
    least = min(k, task.train.item_count)
    items, scores = model.recommend(task.queries, least, task.exclude_seen)
    found = np.full((len(items), k), -1, dtype=np.int64)
    found[:, :least] = np.where(np.isneginf(scores), -1, items)
    return found


def quality(model: Recommender, task: Task, ks: Sequence[int]) -> dict[str, float]:
    """The mean of each metric, without intervals."""
    return means(per_question(answers(model, task, max(ks)), task.truth, ks))


def judged(items: Ints, task: Task, ks: Sequence[int], seed: int) -> tuple[dict[str, Any], dict[str, Values]]:
    """Metrics with intervals, of the lists as a whole, and by slice; and each metric of each question.

    Args:
        items: [n, K] answers.
        task: what was asked.
        ks: lengths of list.
        seed: of the bootstrap, whose groups are the askers.
    """
    values = per_question(items, task.truth, ks)
    estimates = intervals(values, task.queries.histories.user_ids, seed)
    parts = [
        {
            "slice": one.name,
            "questions": len(one.rows),
            "metrics": means(per_question(items[one.rows], one.truth, ks)),
        }
        for one in slices(task)
    ]
    told = {
        "metrics": {name: asdict(one) for name, one in estimates.items()},
        "lists": per_list_set(items, task.train, ks),
        "slices": parts,
    }
    return told, values
