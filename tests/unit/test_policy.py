"""The policy: propensities proved by enumeration, and slates that never repeat a banner."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marquee.policy import draw_slate, slate_propensities


def test_propensities_of_three_banners_by_hand() -> None:
    scores = np.array([0.2, 0.9, 0.5])
    # Best first: 1, 2, 0. With ε = 0.3: the best of three has 0.7 + 0.1, each other 0.1; of two 0.7 + 0.15 and 0.15.
    assert slate_propensities(scores, np.array([1, 2, 0]), 0.3) == pytest.approx([0.8, 0.85, 1.0])
    assert slate_propensities(scores, np.array([0, 2, 1]), 0.3) == pytest.approx([0.1, 0.15, 1.0])


@given(st.lists(st.integers(0, 5), min_size=1, max_size=5), st.integers(1, 5), st.floats(0, 1))
def test_probabilities_of_all_slates_add_to_one(scores: list[int], n: int, exploration: float) -> None:
    size = min(n, len(scores))
    slates = permutations(range(len(scores)), size)
    values = np.array(scores, dtype=np.float64)
    total = sum(float(np.prod(slate_propensities(values, np.array(slate), exploration))) for slate in slates)
    assert total == pytest.approx(1.0)


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(1, 50), st.floats(0, 1), st.integers(0, 2**32 - 1)
)
def test_a_drawn_slate_is_distinct_and_knows_its_propensities(
    scores: list[float], n: int, exploration: float, seed: int
) -> None:
    values = np.array(scores)
    slate = draw_slate(values, n, exploration, np.random.default_rng(seed))
    assert len(slate.items) == len(set(slate.items.tolist())) == min(n, len(scores))
    assert np.all((slate.propensities > 0) & (slate.propensities <= 1 + 1e-12))
    assert slate.propensities == pytest.approx(slate_propensities(values, slate.items, exploration))


def test_draws_come_as_often_as_their_propensity_says() -> None:
    scores, rng, draws = np.array([0.1, 0.3, 0.2]), np.random.default_rng(5), 20_000
    counts = Counter(tuple(draw_slate(scores, 2, 0.4, rng).items.tolist()) for _ in range(draws))
    assert len(counts) == 6
    for slate, count in counts.items():
        p = float(np.prod(slate_propensities(scores, np.array(slate), 0.4)))
        assert abs(count - draws * p) < 4 * np.sqrt(draws * p * (1 - p))


def test_without_exploration_the_best_come_in_order() -> None:
    slate = draw_slate(np.array([0.1, 0.4, 0.4, 0.9]), 3, 0.0, np.random.default_rng(0))
    assert slate.items.tolist() == [3, 1, 2]
    assert slate.propensities.tolist() == [1.0, 1.0, 1.0]
