"""The bench's metrics against fractions worked out by hand, against slow plain code, and against what must hold."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from math import log2
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from training.harness.beyond import (
    CLASSES,
    diversity,
    gini,
    item_counts,
    item_vectors,
    per_list_set,
    popularity_classes,
)
from training.harness.measures import hits, means, per_question
from training.harness.task import Task, Truth
from training.interactions import Interactions, ask, from_events


def truth(*answers: list[int]) -> Truth:
    lengths = [len(one) for one in answers]
    return Truth(
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.array([item for one in answers for item in one], dtype=np.int64),
    )


def one(items: list[int], right: list[int], k: int) -> dict[str, float]:
    """Every metric of one question at one length."""
    found = per_question(np.array([items]), truth(right), [k])
    return {name.partition("@")[0]: float(values[0]) for name, values in found.items()}


L2, L3, L4 = 1.0, log2(3), 2.0  # log2 of 2, 3 and 4: what rank 1, 2 and 3 are divided by

BY_HAND: list[tuple[list[int], list[int], int, dict[str, float]]] = [
    # The only right item at rank 1: everything is 1, but for precision, 1 of 3.
    (
        [7, 1, 2],
        [7],
        3,
        {"hr": 1, "recall": 1, "recall_capped": 1, "precision": 1 / 3, "mrr": 1, "map": 1, "ndcg": 1},
    ),
    # At rank 3 of 3: precision at 3 is 1/3, which over min(3, 1) is also MAP; NDCG (1/log2 4) / (1/log2 2) = 1/2.
    (
        [1, 2, 7],
        [7],
        3,
        {"hr": 1, "recall": 1, "recall_capped": 1, "precision": 1 / 3, "mrr": 1 / 3, "map": 1 / 3, "ndcg": 1 / 2},
    ),
    # At rank 3, looked at to rank 2: nothing.
    (
        [1, 2, 7],
        [7],
        2,
        {"hr": 0, "recall": 0, "recall_capped": 0, "precision": 0, "mrr": 0, "map": 0, "ndcg": 0},
    ),
    # Two of four right items, at ranks 1 and 3 of 3. Recall 2/4, over min(3, 4) 2/3; MAP (1/1 + 2/3) / 3 = 5/9;
    # NDCG (1 + 1/2) / (1 + 1/log2 3 + 1/2).
    (
        [4, 9, 5, 6],
        [4, 5, 6, 8],
        3,
        {
            "hr": 1,
            "recall": 2 / 4,
            "recall_capped": 2 / 3,
            "precision": 2 / 3,
            "mrr": 1,
            "map": 5 / 9,
            "ndcg": (1 / L2 + 1 / L4) / (1 / L2 + 1 / L3 + 1 / L4),
        },
    ),
    # Both right items at ranks 2 and 3, one of them and an unknown one: R = 3. MAP (1/2 + 2/3) / 3 = 7/18;
    # NDCG (1/log2 3 + 1/2) / (1 + 1/log2 3 + 1/2).
    (
        [9, 4, 5],
        [5, -1, 4],
        3,
        {
            "hr": 1,
            "recall": 2 / 3,
            "recall_capped": 2 / 3,
            "precision": 2 / 3,
            "mrr": 1 / 2,
            "map": 7 / 18,
            "ndcg": (1 / L3 + 1 / L4) / (1 / L2 + 1 / L3 + 1 / L4),
        },
    ),
    # Only unknown items are right: a miss, even against "no item".
    (
        [-1, 3, -1],
        [-1],
        3,
        {"hr": 0, "recall": 0, "recall_capped": 0, "precision": 0, "mrr": 0, "map": 0, "ndcg": 0},
    ),
    # A list of one, with two right items: recall 1/2, capped 1.
    ([4], [4, 5], 1, {"hr": 1, "recall": 1 / 2, "recall_capped": 1, "precision": 1, "mrr": 1, "map": 1, "ndcg": 1}),
]


@pytest.mark.parametrize(("items", "right", "k", "expected"), BY_HAND)
def test_by_hand(items: list[int], right: list[int], k: int, expected: dict[str, float]) -> None:
    found = one(items, right, k)
    assert set(found) == set(expected)
    assert found == pytest.approx(expected, abs=1e-12)


def test_several_questions_and_lengths() -> None:
    """The second's right item is the first's second: rows do not mix. Means of hr 1/2, 1; of mrr 1/4, 3/4."""
    items = np.array([[1, 2, 3], [2, 1, 3]])
    found = per_question(items, truth([2], [2]), [1, 2])
    assert found["hr@1"].tolist() == [0, 1]
    assert found["mrr@2"].tolist() == [1 / 2, 1]
    assert means(found)["hr@1"] == 1 / 2
    assert means(found)["mrr@2"] == 3 / 4
    assert len(found) == 7 * 2


@pytest.mark.parametrize(
    ("items", "right", "ks", "says"),
    [
        ([[1]], truth([]), [1], "has no answer"),
        ([[1]], truth([1], [1]), [1], "1 lists for 2 questions"),
        ([[1]], truth([1]), [2], "lists have 1 items"),
        ([[1]], truth([1]), [0], "lists have 1 items"),
        ([[1]], truth([1]), [], "lists have 1 items"),
    ],
)
def test_mistakes_in_the_harness(items: list[list[int]], right: Truth, ks: list[int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        per_question(np.array(items), right, ks)


def plainly(items: list[int], right: list[int], k: int) -> dict[str, float]:
    """The same by definition, one question at a time."""
    shown, wanted, count = items[:k], {item for item in right if item >= 0}, len(right)
    hit = [item in wanted for item in shown]
    ranks = [rank for rank, good in enumerate(hit, 1) if good]
    precise = [Fraction(sum(hit[:rank]), rank) for rank in ranks]
    best = sum(1 / log2(rank + 1) for rank in range(1, min(k, count) + 1))
    return {
        "hr": float(any(hit)),
        "recall": sum(hit) / count,
        "recall_capped": sum(hit) / min(k, count),
        "precision": sum(hit) / k,
        "mrr": 1 / ranks[0] if ranks else 0.0,
        "map": float(sum(precise, Fraction(0)) / min(k, count)),
        "ndcg": sum(1 / log2(rank + 1) for rank in ranks) / best,
    }


CATALOGUE = 12
questions = st.lists(
    st.tuples(
        st.permutations(range(CATALOGUE)).map(lambda order: order[:8]),
        st.lists(st.integers(0, CATALOGUE - 1), unique=True, max_size=10),
        st.integers(0, 2),
    ).map(lambda drawn: (drawn[0], [*drawn[1], *([-1] * (drawn[2] or not drawn[1]))])),
    min_size=1,
    max_size=6,
)


@settings(max_examples=150, deadline=None)
@given(questions)
def test_it_agrees_with_plain_code_and_stays_in_bounds(asked: list[tuple[list[int], list[int]]]) -> None:
    items, right = np.array([shown for shown, _ in asked]), truth(*(answers for _, answers in asked))
    ks = [1, 2, 3, 5, 8]
    found = per_question(items, right, ks)
    for k in ks:
        for row, (shown, answers) in enumerate(asked):
            expected = plainly(shown, answers, k)
            assert {name: float(found[f"{name}@{k}"][row]) for name in expected} == pytest.approx(expected, abs=1e-12)
    for values in found.values():
        assert ((values >= 0) & (values <= 1 + 1e-12)).all()
    for name in ("hr", "recall", "mrr"):
        for shorter, longer in pairwise(ks):
            assert (found[f"{name}@{longer}"] >= found[f"{name}@{shorter}"]).all()
    # Neither the order of the questions nor that of the right items, nor the names of the items, matter.
    order = np.random.default_rng(0).permutation(len(asked))
    turned = per_question(items[order], right.take(order), ks)
    names = np.append(np.random.default_rng(1).permutation(CATALOGUE), -1)
    renamed = per_question(names[items], truth(*(names[answers[::-1]].tolist() for _, answers in asked)), ks)
    for name, values in found.items():
        np.testing.assert_array_equal(turned[name], values[order])
        np.testing.assert_array_equal(renamed[name], values)


@settings(max_examples=60, deadline=None)
@given(
    st.permutations(range(CATALOGUE)),
    st.lists(st.integers(0, CATALOGUE - 1), unique=True, min_size=1),
    st.integers(1, 12),
)
def test_ndcg_is_scikit_learn_s(order: list[int], right: list[int], k: int) -> None:
    from sklearn.metrics import average_precision_score, ndcg_score

    relevant = np.isin(np.arange(CATALOGUE), right).astype(float)
    scores = -np.argsort(np.array(order)).astype(float)  # first in the order is highest
    found = one(list(order), right, k)
    assert found["ndcg"] == pytest.approx(ndcg_score(relevant[None], scores[None], k=k))
    if k == CATALOGUE:
        assert found["map"] == pytest.approx(average_precision_score(relevant, scores))


def test_hits_in_a_large_catalogue() -> None:
    """Keys of question and item stay apart where codes are large."""
    big = 2_000_000_000
    assert hits(np.array([[big, 0], [0, big]]), truth([big], [big - 1])).tolist() == [[True, False], [False, False]]
    assert not hits(np.array([[0, 1]]), truth([-1])).any()
    # "No item" of the second question lies beside the last item of the first.
    assert not hits(np.array([[0], [-1]]), truth([3], [0])).any()


def small() -> Interactions:
    """Events of items a to e: 4, 2, 1, 1, 0."""
    rows = ["ua", "ub", "va", "vb", "wa", "wc", "xa", "xd"]
    return from_events(
        np.array([row[0] for row in rows]),
        np.array([row[1] for row in rows]),
        np.arange(8.0),
        item_ids=np.array(list("abcde")),
    )


class TestLists:
    def test_by_hand(self) -> None:
        # Shown: a a b e, and to length 1: a a. Shares of events 4/8, 2/8, and 1/8 for e, counted as if it had one.
        found = per_list_set(np.array([[0, 1], [0, 4]]), small(), [1, 2])
        expected = {
            "coverage@1": 1 / 5,
            "coverage@2": 3 / 5,
            # Of (0, 0, 0, 0, 2): (2·5 - 5 - 1)·2 / (5·2) = 4/5. Of (0, 0, 1, 1, 2): (0·1 + 2·1 + 4·2) / (5·4) = 1/2.
            "gini@1": 4 / 5,
            "gini@2": 1 / 2,
            # -log2 of 1/2, 1/4, 1/8 is 1, 2, 3.
            "novelty@1": 1.0,
            "novelty@2": (1 + 1 + 2 + 3) / 4,
            # Takers of a: u v w x, of b: u v: cosine 2/√(4·2) = 1/√2; of e: nobody, 0. Mean of 1 - 1/√2 and 1.
            "diversity@2": (1 - 1 / np.sqrt(2) + 1) / 2,
            # Half the events are a's: the first third begins with it. b begins at 4/8, before 2/3: middle. c at 6/8.
            "head_share@1": 1.0,
            "head_share@2": 2 / 4,
            "tail_share@1": 0.0,
            "tail_share@2": 1 / 4,
        }
        assert np.isnan(found.pop("diversity@1"))
        assert found == pytest.approx(expected, abs=1e-12)

    def test_classes_of_popularity(self) -> None:
        assert [CLASSES[place] for place in popularity_classes(item_counts(small()))] == [
            "head", "middle", "tail", "tail", "unseen"
        ]  # fmt: skip
        # Nine items of one event each: thirds begin at 0, 3 and 6.
        assert [CLASSES[place] for place in popularity_classes(np.ones(9, dtype=np.int64))] == [
            *["head"] * 3, *["middle"] * 3, *["tail"] * 3
        ]  # fmt: skip

    def test_lists_that_are_not_full(self) -> None:
        found = per_list_set(np.array([[0, -1], [-1, -1]]), small(), [2])
        assert found["coverage@2"] == 1 / 5
        assert found["novelty@2"] == 1.0
        assert np.isnan(found["diversity@2"])

    def test_content_comes_before_takers(self) -> None:
        # Orthogonal, alike, and at 60°: 1, 0, 1/2.
        content = np.array([[1.0, 0.0], [0.0, 3.0], [2.0, 0.0], [0.5, np.sqrt(0.75)], [0.0, 0.0]])
        vectors = item_vectors(small(), sparse.csr_matrix(content))
        assert [diversity(np.array([pair]), vectors) for pair in ([0, 1], [0, 2], [0, 3])] == pytest.approx([1, 0, 0.5])
        # A list of three: mean of the pairs (0, 1), (0, 2), (1, 2): 1, 0, 1.
        assert diversity(np.array([[0, 1, 2]]), vectors) == pytest.approx(2 / 3)
        described = per_list_set(np.array([[0, 2]]), small(), [2], content)
        assert described["diversity@2"] == pytest.approx(0.0)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.integers(1, 5))
    def test_gini(self, counts: list[int], times: int) -> None:
        found = gini(np.array(counts))
        gaps = sum(abs(one - other) for one in counts for other in counts)  # half the relative mean difference
        total = sum(counts)
        assert found == pytest.approx(gaps / (2 * len(counts) * total) if total else 0.0)
        assert gini(np.array(counts) * times) == pytest.approx(found)
        assert 0 <= found + 1e-12 <= 1

    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_diversity_agrees_with_pairs(self, data: st.DataObject) -> None:
        rng = np.random.default_rng(data.draw(st.integers(0, 99)))
        content = rng.random((CATALOGUE, 4)) * (rng.random((CATALOGUE, 4)) < 0.6)
        lists = [
            data.draw(st.lists(st.integers(0, CATALOGUE - 1), unique=True, max_size=5))
            for _ in range(data.draw(st.integers(1, 4)))
        ]
        lengths = np.linalg.norm(content, axis=1)
        unit = content / np.where(lengths > 0, lengths, 1.0)[:, None]
        each = [
            np.mean([1 - unit[a] @ unit[b] for place, a in enumerate(shown) for b in shown[:place]])
            for shown in lists
            if len(shown) > 1
        ]
        table = np.array([[*shown, *[-1] * (5 - len(shown))] for shown in lists])
        found = diversity(table, item_vectors(small(), content))
        assert found == pytest.approx(np.mean(each)) if each else np.isnan(found)


def test_questions_are_what_a_model_is_asked() -> None:
    """From histories to metrics: a model that knows the answer has 1 everywhere, one that never does 0."""
    train = small()
    queries = ask(train, train)
    right = truth([2], [2], [1], [1])
    task = Task("leave-one-out", train, queries, right, True)
    found: dict[str, Any] = means(per_question(np.array([[2], [2], [1], [1]]), task.truth, [1]))
    assert set(found.values()) == {1.0}
    found = means(per_question(np.array([[0], [0], [0], [0]]), task.truth, [1]))
    assert set(found.values()) == {0.0}
