"""Quality of recommendation lists over all items: how early and how much of the truth they hold, question by question.

Relevance is binary and every metric is a mean over questions of what stands here; definitions as in Järvelin and
Kekäläinen (NDCG, TOIS 2002), Voorhees (MRR, TREC-8 1999) and Manning, Raghavan, Schütze (precision, MAP, 2008).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.harness.task import Truth
from training.interactions import Ints

Values = NDArray[np.float64]


def hits(items: Ints, truth: Truth) -> NDArray[np.bool_]:
    """[n, K] whether each recommended item is among the right ones.

    Args:
        items: [n, K] recommended items, each once a row, best first; -1 where there is none.
        truth: n answers.
    """
    if len(items) != len(truth):
        raise ValueError(f"{len(items)} lists for {len(truth)} questions")
    span = int(max(items.max(initial=0), truth.items.max(initial=0))) + 1
    known = truth.items >= 0
    right = np.sort(np.repeat(np.arange(len(truth)), np.diff(truth.starts))[known] * span + truth.items[known])
    if not len(right):
        return np.zeros(items.shape, dtype=bool)
    wanted = np.arange(len(items))[:, None] * span + items
    place = np.minimum(np.searchsorted(right, wanted), len(right) - 1)
    return np.asarray((right[place] == wanted) & (items >= 0))


def per_question(items: Ints, truth: Truth, ks: Sequence[int]) -> dict[str, Values]:
    """Every accuracy metric at every length of list: [n] values by names such as ``ndcg@10``.

    With h_r = 1 where the r-th item is right and R = number of right items, unknown ones included:

    - ``hr@k``: max h_r, whether anything is right (hit rate);
    - ``recall@k``: Σ h_r / R;
    - ``recall_capped@k``: Σ h_r / min(k, R), the Recall of Liang et al., WWW 2018, which a full list can bring to 1;
    - ``precision@k``: Σ h_r / k;
    - ``mrr@k``: 1 / rank of the first right item, 0 without one;
    - ``map@k``: Σ h_r · (precision at r) / min(k, R);
    - ``ndcg@k``: Σ h_r / log2(r + 1), divided by what min(k, R) right items at the top would give.

    Args:
        items: [n, K] recommended items, each once a row, best first; -1 where there is none.
        truth: n answers, each with one item at least; -1 for one that the model could not know.
        ks: lengths of list, 1 to K.

    Raises:
        ValueError: a question without answer, or a length that the lists do not have.
    """
    right = np.diff(truth.starts)
    if (right == 0).any():
        raise ValueError("a question has no answer, so nothing about it can be right or wrong")
    if not ks or min(ks) < 1 or max(ks) > items.shape[1]:
        raise ValueError(f"lists have {items.shape[1]} items, so quality at {sorted(ks)} cannot be told")
    hit = hits(items, truth)
    ranks = np.arange(1, items.shape[1] + 1)
    so_far = np.cumsum(hit, axis=1)
    gain = np.cumsum(hit / np.log2(ranks + 1), axis=1)
    ideal = np.cumsum(1.0 / np.log2(ranks + 1))
    precise = np.cumsum(hit * so_far / ranks, axis=1)
    first = np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, np.inf)
    found: dict[str, Values] = {}
    for k in ks:
        capped = np.minimum(k, right)
        count = so_far[:, k - 1]
        found[f"hr@{k}"] = (count > 0).astype(np.float64)
        found[f"recall@{k}"] = count / right
        found[f"recall_capped@{k}"] = count / capped
        found[f"precision@{k}"] = count / k
        found[f"mrr@{k}"] = np.where(first <= k, 1.0 / first, 0.0)
        found[f"map@{k}"] = precise[:, k - 1] / capped
        found[f"ndcg@{k}"] = gain[:, k - 1] / ideal[capped - 1]
    return found


def means(values: dict[str, Values]) -> dict[str, float]:
    """The mean of each metric over the questions; NaN without any."""
    return {name: float(one.mean()) if len(one) else float("nan") for name, one in values.items()}
