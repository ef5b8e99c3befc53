"""The policy: propensities proved by enumeration and by drawing, and slates that never repeat a banner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marquee.policy import Ints, Policy, draw_slate, new_banner_boost, slate_propensities

POLICIES = [
    pytest.param(Policy(), id="greedy"),
    pytest.param(Policy(exploration=0.4), id="epsilon-greedy"),
    pytest.param(Policy(temperature=0.2), id="softmax"),
    pytest.param(Policy(exploration=0.2, temperature=0.1, diversity=0.3), id="all at once"),
]
ONE = np.array([0.1, 0.3, 0.2, 0.25])
DRAWS = np.array([[0.1, 0.3, 0.2, 0.25], [0.4, 0.1, 0.2, 0.3], [0.2, 0.3, 0.35, 0.1]])
"""Three rows of scores, as from a posterior."""
ALIKE = np.array([[1.0, 0.9, 0.0, 0.1], [0.9, 1.0, 0.2, 0.0], [0.0, 0.2, 1.0, 0.5], [0.1, 0.0, 0.5, 1.0]])
policies = st.builds(Policy, st.floats(0, 1), st.one_of(st.just(0.0), st.floats(0.01, 10)), st.floats(0, 2))


def test_epsilon_greedy_of_three_banners_by_hand() -> None:
    scores, policy = np.array([0.2, 0.9, 0.5]), Policy(exploration=0.3)
    # Best first: 1, 2, 0. With ε = 0.3: the best of three has 0.7 + 0.1, each other 0.1; of two 0.7 + 0.15 and 0.15.
    assert slate_propensities(scores, np.array([1, 2, 0]), policy) == pytest.approx([0.8, 0.85, 1.0])
    assert slate_propensities(scores, np.array([0, 2, 1]), policy) == pytest.approx([0.1, 0.15, 1.0])


def test_plackett_luce_by_hand() -> None:
    """Strengths 1, 2 and 5: 2 first has 2/8, then 5 has 5/6, then 1 is left."""
    scores = np.log([1.0, 2.0, 5.0])
    found = slate_propensities(scores, np.array([1, 2, 0]), Policy(temperature=1.0))
    assert found == pytest.approx([2 / 8, 5 / 6, 1.0])
    sharper = slate_propensities(scores, np.array([1, 2, 0]), Policy(temperature=0.5))
    assert sharper == pytest.approx([4 / 30, 25 / 26, 1.0])


def test_plackett_luce_is_the_top_of_scores_with_gumbel_noise() -> None:
    scores, draws, rng = np.array([0.3, 1.2, 0.0, 0.7]), 40_000, np.random.default_rng(3)
    noisy = scores / 0.8 + rng.gumbel(size=(draws, 4))
    counts = Counter(tuple(row) for row in np.argsort(-noisy, axis=1)[:, :2].tolist())
    assert len(counts) == 12
    for slate, count in counts.items():
        p = float(np.prod(slate_propensities(scores, np.array(slate), Policy(temperature=0.8))))
        assert abs(count - draws * p) < 4.5 * np.sqrt(draws * p * (1 - p))


def test_each_draw_of_the_posterior_decides_as_often() -> None:
    """Best by row: 1, 0, 2. With 1 gone the rows say 3, 0, 2; with 0 gone too 3, 3, 2."""
    found = slate_propensities(DRAWS, np.array([1, 0, 3]), Policy())
    assert found == pytest.approx([1 / 3, 1 / 3, 2 / 3])


def test_a_banner_loses_for_one_like_it_above() -> None:
    """0 is first; 1 is like it (0.9) and loses 0.45, so 3 (0.25 − 0.05) comes before 2 and 1."""
    scores = np.array([0.4, 0.39, 0.15, 0.25])
    slate = draw_slate(scores, 4, Policy(diversity=0.5), np.random.default_rng(0), ALIKE)
    assert slate.items.tolist() == [0, 3, 1, 2]  # after 3: 1 has .39 − .45, 2 has .15 − .25
    plain = draw_slate(scores, 4, Policy(), np.random.default_rng(0), ALIKE)
    assert plain.items.tolist() == [0, 1, 3, 2]


@pytest.mark.parametrize("scores", [ONE, DRAWS], ids=["scores", "posterior"])
@pytest.mark.parametrize("policy", POLICIES)
def test_draws_come_as_often_as_their_propensity_says(policy: Policy, scores: np.ndarray) -> None:
    rng, draws = np.random.default_rng(5), 6_000
    counts = Counter(tuple(draw_slate(scores, 2, policy, rng, ALIKE).items.tolist()) for _ in range(draws))
    total = 0.0
    for slate in permutations(range(4), 2):
        p = float(np.prod(slate_propensities(scores, np.array(slate), policy, ALIKE)))
        total += p
        assert abs(counts[slate] - draws * p) <= 4.5 * np.sqrt(draws * p * (1 - p)) + 1e-9
    assert total == pytest.approx(1.0)


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), policies, st.integers(0, 2**32 - 1))
def test_probabilities_of_all_slates_add_to_one(rows: int, size: int, n: int, policy: Policy, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, alike = rng.integers(0, 4, (rows, size)) / 3.0, rng.random((size, size))
    slates = permutations(range(size), min(n, size))
    total = sum(float(np.prod(slate_propensities(scores, np.array(slate), policy, alike))) for slate in slates)
    assert total == pytest.approx(1.0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(1, 50), policies, st.integers(0, 2**32 - 1))
def test_a_drawn_slate_is_distinct_and_knows_its_propensities(
    scores: list[float], n: int, policy: Policy, seed: int
) -> None:
    values = np.array(scores)
    slate = draw_slate(values, n, policy, np.random.default_rng(seed))
    assert len(slate.items) == len(set(slate.items.tolist())) == min(n, len(scores))
    assert np.all((slate.propensities > 0) & (slate.propensities <= 1 + 1e-12))
    assert slate.propensities == pytest.approx(slate_propensities(values, slate.items, policy))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.floats(0.01, 1), policies, st.integers(0, 2**32 - 1))
def test_exploration_is_a_floor(scores: list[float], exploration: float, other: Policy, seed: int) -> None:
    policy = Policy(exploration, other.temperature, other.diversity)
    slate = draw_slate(np.array(scores), len(scores), policy, np.random.default_rng(seed))
    left = len(scores) - np.arange(len(scores))
    assert np.all(slate.propensities >= exploration / left - 1e-12)


# --- tiers and groups -----------------------------------------------------------------------------------------------

TIERS, GROUPS = np.array([0, 1, 0, 1]), np.array([5, -1, -1, 5])


def possible(size: int, n: int, tiers: Ints, groups: Ints, taken: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """Every slate that tiers and groups leave, as long as it can be."""
    used = {int(groups[item]) for item in taken if groups[item] >= 0}
    left = [item for item in range(size) if item not in taken and int(groups[item]) not in used]
    if len(taken) == n or not left:
        yield taken
        return
    top = max(tiers[item] for item in left)
    for item in left:
        if tiers[item] == top:
            yield from possible(size, n, tiers, groups, (*taken, item))


def test_higher_tiers_come_first_and_a_group_once_by_hand() -> None:
    """Of the upper tier 1 (0.3) comes before 3 (0.25), then of the lower 2 before 0, whose group 3 has used."""
    slate = draw_slate(ONE, 4, Policy(), np.random.default_rng(0), tiers=TIERS)
    assert slate.items.tolist() == [1, 3, 2, 0]
    slate = draw_slate(ONE, 4, Policy(), np.random.default_rng(0), None, TIERS, GROUPS)
    assert slate.items.tolist() == [1, 3, 2]
    assert len(slate.propensities) == len(slate.likeliest) == 3
    # Two are in the upper tier, so ε = 0.4 gives 0.2 to each; then one is left there; then 2 alone is no rival of 3.
    found = slate_propensities(ONE, np.array([3, 1, 2]), Policy(exploration=0.4), None, TIERS, GROUPS)
    assert found == pytest.approx([0.2, 1.0, 1.0])


@pytest.mark.parametrize("items", [[2, 1, 3, 0], [1, 3, 0, 2]])
def test_a_slate_that_could_not_have_been_drawn_has_no_chance(items: list[int]) -> None:
    found = slate_propensities(ONE, np.array(items), Policy(exploration=1.0), None, TIERS, GROUPS)
    assert found.prod() == 0


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), policies, st.integers(0, 2**32 - 1))
def test_probabilities_add_to_one_with_tiers_and_groups(
    rows: int, size: int, n: int, policy: Policy, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    scores, alike = rng.integers(0, 4, (rows, size)) / 3.0, rng.random((size, size))
    tiers, groups = rng.integers(-1, 2, size), rng.integers(-1, 2, size)
    slates = list(possible(size, n, tiers, groups))
    found = [slate_propensities(scores, np.array(slate), policy, alike, tiers, groups) for slate in slates]
    assert sum(float(np.prod(one)) for one in found) == pytest.approx(1.0)
    drawn = draw_slate(scores, n, policy, rng, alike, tiers, groups)
    assert tuple(drawn.items.tolist()) in slates
    again = slate_propensities(scores, drawn.items, policy, alike, tiers, groups)
    assert drawn.propensities.tolist() == again.tolist()
    assert np.all(drawn.propensities > 0)


@given(st.integers(1, 12), st.integers(1, 12), policies, st.integers(0, 2**32 - 1))
def test_one_tier_and_no_group_change_nothing(size: int, n: int, policy: Policy, seed: int) -> None:
    scores, none = np.random.default_rng(seed).random(size), np.full(size, -1)
    plain = draw_slate(scores, n, policy, np.random.default_rng(seed))
    same = draw_slate(scores, n, policy, np.random.default_rng(seed), None, none, none)
    assert (plain.items.tolist(), plain.propensities.tolist()) == (same.items.tolist(), same.propensities.tolist())


# --- the quick way --------------------------------------------------------------------------------------------------


def general_chances(policy: Policy, scores: np.ndarray, left: np.ndarray) -> np.ndarray:
    """As for many rows of scores, without a shortcut."""
    decided = np.bincount(np.where(left, scores, -np.inf).argmax(axis=1), minlength=scores.shape[1]) / len(scores)
    return policy.exploration * left / left.sum() + (1.0 - policy.exploration) * decided


@given(st.integers(1, 60), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_one_row_of_scores_has_the_same_chances_to_the_last_bit(size: int, exploration: float, seed: int) -> None:
    rng, policy = np.random.default_rng(seed), Policy(exploration=exploration)
    scores, left = rng.integers(-3, 4, (1, size)) / 7, rng.random(size) < 0.7
    left[rng.integers(size)] = True
    quick, general = policy.chances(scores, left), general_chances(policy, scores, left)
    assert quick.tobytes() == general.tobytes()


def test_without_exploration_the_best_come_in_order() -> None:
    slate = draw_slate(np.array([0.1, 0.4, 0.4, 0.9]), 3, Policy(), np.random.default_rng(0))
    assert slate.items.tolist() == [3, 1, 2]
    assert slate.propensities.tolist() == [1.0, 1.0, 1.0]
    assert slate.likeliest.all()


def test_what_exploration_put_there_is_known() -> None:
    scores, rng = np.array([0.9, 0.1, 0.2]), np.random.default_rng(2)
    slates = [draw_slate(scores, 1, Policy(exploration=0.5), rng) for _ in range(200)]
    assert {(int(slate.items[0]) == 0, bool(slate.likeliest[0])) for slate in slates} == {(True, True), (False, False)}


def test_very_low_temperatures_are_greedy_and_very_high_ones_even() -> None:
    cold = slate_propensities(ONE, np.array([1, 3, 2, 0]), Policy(temperature=1e-6))
    assert cold == pytest.approx([1, 1, 1, 1])
    hot = slate_propensities(ONE, np.array([0, 1, 2, 3]), Policy(temperature=1e9))
    assert hot == pytest.approx([1 / 4, 1 / 3, 1 / 2, 1])


def test_the_boost_of_a_new_banner_ends_by_itself() -> None:
    found = new_banner_boost(np.array([np.nan, 0, 250, 1_000, 9_999]), boost=0.5, until=1_000)
    assert found == pytest.approx([1.5, 1.5, 1.375, 1.0, 1.0])
    assert new_banner_boost(np.array([0.0]), boost=0.5, until=0.0) == pytest.approx([1.0])
