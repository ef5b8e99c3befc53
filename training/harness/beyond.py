"""What accuracy does not say of recommendation lists: how much of the catalogue they show, how new, how varied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray

from training.interactions import Interactions, Ints

LISTS = 2_000
"""Lists that diversity is told from, evenly spaced over the questions."""
UNSEEN, TAIL, MIDDLE, HEAD = range(4)
CLASSES = ("unseen", "tail", "middle", "head")
"""Of items by popularity, as ``popularity_classes`` numbers them."""


def item_counts(train: Interactions) -> Ints:
    """[I] events of each item: its popularity."""
    return np.bincount(train.items, minlength=train.item_count).astype(np.int64)


def popularity_classes(counts: Ints) -> Ints:
    """[I] place of each item's class in ``CLASSES``.

    The most popular items with a third of all events are the head, those with the next third the middle, all others
    with events the tail: few items, more items, most items, and about as many events in each.
    """
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    total = max(int(counts.sum()), 1)
    classes = np.empty(len(counts), dtype=np.int64)
    # Whole numbers only: an item that begins exactly at a third belongs to the next class.
    classes[order] = np.where(3 * before < total, HEAD, np.where(3 * before < 2 * total, MIDDLE, TAIL))
    classes[counts == 0] = UNSEEN
    return classes


def per_list_set(items: Ints, train: Interactions, ks: Sequence[int], features: Any = None) -> dict[str, float]:
    """Every metric of the lists as a whole, at every length of list, by names such as ``coverage@10``.

    - ``coverage@k``: items in at least one list / all items;
    - ``gini@k``: Gini index of how often items are shown, from 0 (all alike) to almost 1 (always the same);
    - ``novelty@k``: mean of -log2 (events of the item / all events) over what is shown; an item without events counts
      as if it had one (self-information, Castells, Vargas, Wang, "Novelty and diversity metrics", DDR 2011);
    - ``diversity@k``: 1 - mean cosine of the pairs of a list, mean over lists (intra-list diversity, Ziegler, McNee,
      Konstan, Lausen, WWW 2005); cosine of content where there are features, else of who took the items in training;
    - ``tail_share@k``, ``head_share@k``: share of what is shown that is of these classes, the unseen with the tail.

    Args:
        items: [n, K] recommended items; -1 where there is none.
        train: what popularity and likeness are taken from.
        ks: lengths of list, 1 to K.
        features: [I, F] content of the items; that of ``train`` when None.
    """
    counts = item_counts(train)
    classes = popularity_classes(counts)
    vectors = item_vectors(train, features)
    information = -np.log2(np.maximum(counts, 1) / max(int(counts.sum()), 1))
    found: dict[str, float] = {}
    for k in ks:
        shown = items[:, :k]
        exposure = np.bincount(shown[shown >= 0], minlength=train.item_count)
        total = max(int(exposure.sum()), 1)
        found[f"coverage@{k}"] = float(np.count_nonzero(exposure) / train.item_count)
        found[f"gini@{k}"] = gini(exposure)
        found[f"novelty@{k}"] = float(exposure @ information / total)
        found[f"diversity@{k}"] = diversity(shown, vectors)
        found[f"tail_share@{k}"] = float(exposure[classes <= TAIL].sum() / total)
        found[f"head_share@{k}"] = float(exposure[classes == HEAD].sum() / total)
    return found


def gini(counts: Ints) -> float:
    """Gini index of non-negative numbers: Σ (2i - n - 1) x_i / (n Σ x) with x ascending and i from 1."""
    ascending = np.sort(counts).astype(np.float64)
    n, total = len(ascending), ascending.sum()
    weights = 2.0 * np.arange(1, n + 1) - n - 1
    return float(weights @ ascending / (n * total)) if total else 0.0


def item_vectors(train: Interactions, features: Any = None) -> sparse.csr_matrix:
    """[I, ·] rows of length 1 whose dot products are the items' likeness; rows of items without anything are 0."""
    content = train.item_features if features is None else features
    raw = sparse.csr_matrix(train.matrix().T if content is None else content, dtype=np.float64)
    lengths = np.sqrt(np.asarray(raw.multiply(raw).sum(axis=1)).ravel())
    scale = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return sparse.csr_matrix(sparse.diags_array(scale) @ raw)


def diversity(items: Ints, vectors: sparse.csr_matrix, most: int = LISTS) -> float:
    """1 - mean cosine of the pairs in a list, mean over the lists with a pair; NaN where there is none.

    All pairs of a list at once: their dot products add up to half of |Σ v|² - Σ |v|².
    """
    lists = items[np.unique(np.linspace(0, max(len(items) - 1, 0), min(most, len(items))).astype(np.int64))]
    shown = lists >= 0
    lengths = shown.sum(axis=1)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    member = sparse.csr_matrix((np.ones(starts[-1]), lists[shown], starts), shape=(len(lists), vectors.shape[0]))
    own = np.asarray(vectors.multiply(vectors).sum(axis=1)).ravel()
    parts = [_row_squares(member[at : at + 256] @ vectors) for at in range(0, len(lists), 256)]
    sums = np.concatenate([np.zeros(0), *parts])
    pairs = lengths * (lengths - 1)
    some = pairs > 0
    return float(np.mean(1.0 - (sums - member @ own)[some] / pairs[some])) if some.any() else float("nan")


def _row_squares(matrix: sparse.csr_matrix) -> NDArray[np.float64]:
    return np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel()
