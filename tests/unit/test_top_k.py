"""The best k of many scores are exactly those of a stable sort, whatever is tied, infinite or left over."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from training.top_k import BLOCK, ENOUGH, top_k


def sorted_first(scores: NDArray[Any], k: int) -> NDArray[np.int64]:
    return np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.int64)


def scores_of(kind: str, rows: int, columns: int, seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    table = {
        "plain": lambda: rng.normal(size=(rows, columns)),
        "few values": lambda: rng.integers(0, rng.integers(1, 40), (rows, columns)),
        "mostly nothing": lambda: np.where(rng.random((rows, columns)) < 0.01, rng.random((rows, columns)), 0),
        "mostly excluded": lambda: np.where(rng.random((rows, columns)) < 0.01, rng.random((rows, columns)), -np.inf),
        "some infinite": lambda: np.where(rng.random((rows, columns)) < 0.05, np.inf, rng.random((rows, columns))),
        "two zeros": lambda: np.where(rng.random((rows, columns)) < 0.5, 0.0, -0.0),
        "rising": lambda: np.arange(rows * columns).reshape(rows, columns) // 3,
        "falling": lambda: -np.arange(rows * columns).reshape(rows, columns) // 3,
    }
    return np.asarray(table[kind](), dtype=np.float32)


KINDS = (
    *("plain", "few values", "mostly nothing", "mostly excluded", "some infinite", "two zeros", "rising", "falling"),
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("rows", "columns", "k"),
    [
        (1, 1, 1),
        (7, 64, 64),
        (7, 65, 3),
        (5, BLOCK * ENOUGH * 3, 3),  # just enough blocks
        (5, BLOCK * ENOUGH * 3 - 1, 3),  # just not
        (40, 5_000, 10),
        (70, 5_007, 1),
        (130, 6_463, 20),  # columns behind the last block, and more than one step of rows
    ],
)
def test_it_is_a_stable_sort(kind: str, rows: int, columns: int, k: int) -> None:
    scores = scores_of(kind, rows, columns, seed=columns)
    before = scores.copy()
    found = top_k(scores, k)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, sorted_first(scores, k))
    np.testing.assert_array_equal(scores, before)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(KINDS), st.integers(1, 6), st.integers(1, 3_000), st.integers(0, 2**32), st.data())
def test_it_is_a_stable_sort_of_anything(kind: str, rows: int, columns: int, seed: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, min(columns, 40)))
    scores = scores_of(kind, rows, columns, seed)
    np.testing.assert_array_equal(top_k(scores, k), sorted_first(scores, k))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=400), st.data())
def test_any_floats(values: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(values)))
    scores = np.array([values, values[::-1]], dtype=np.float32)
    np.testing.assert_array_equal(top_k(scores, k), sorted_first(scores, k))


def test_other_layouts_and_no_rows() -> None:
    scores = scores_of("few values", 3_000, 40, 0)
    for view in (scores.T, scores.T[::2], scores.T[:, ::-1], scores.T.astype(np.float64)):
        np.testing.assert_array_equal(top_k(view, 9), sorted_first(view, 9))
    assert top_k(np.zeros((0, 5_000), np.float32), 3).shape == (0, 3)


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "columns", "k"), [(512, 43_000, 20), (1_024, 20_000, 10)])
@pytest.mark.parametrize("kind", ["plain", "mostly nothing"])
def test_it_is_faster_than_a_partition(kind: str, rows: int, columns: int, k: int) -> None:
    scores = scores_of(kind, rows, columns, 0)

    def partition() -> None:
        best = np.argpartition(scores, columns - k, axis=1)[:, columns - k :]
        np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)

    def seconds(run: Any) -> float:
        started = time.process_time()
        run()
        return time.process_time() - started

    pairs = [(seconds(lambda: top_k(scores, k)), seconds(partition)) for _ in range(3)]
    ours, theirs = (min(times) for times in zip(*pairs, strict=True))
    assert ours < theirs / 1.5
