"""Team-draft interleaving: fair to both rankers, silent about equals, and right in a world with a known answer."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.interleaving import FIRST, SECOND, Draft, margins, preference, team_draft

RANKINGS = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=8)


class Coins:
    """A generator whose coins are known; what it is asked for is all that a draft asks."""

    def __init__(self, *coins: int) -> None:
        self.coins = list(coins)

    def integers(self, high: int) -> int:
        assert high == 2
        return self.coins.pop(0)


@pytest.mark.parametrize(
    ("coins", "items", "teams"),
    [
        # First picks a, second its best that is free, b; then the second begins with d, and the first has c.
        ((FIRST, SECOND), ["a", "b", "d", "c"], [FIRST, SECOND, SECOND, FIRST]),
        ((SECOND, FIRST), ["b", "a", "c", "d"], [SECOND, FIRST, FIRST, SECOND]),
    ],
)
def test_a_draft_by_hand(coins: tuple[int, ...], items: list[str], teams: list[int]) -> None:
    assert team_draft(["a", "b", "c"], ["b", "d", "c"], 4, Coins(*coins)) == Draft(items, teams)  # type: ignore[arg-type]


@given(RANKINGS, RANKINGS, st.integers(0, 10), st.integers(0, 999))
def test_a_draft_is_full_without_repeats_and_in_each_rankers_order(
    first: list[str], second: list[str], k: int, seed: int
) -> None:
    draft = team_draft(first, second, k, np.random.default_rng(seed))
    assert len(draft.items) == len(set(draft.items)) == len(draft.teams) == min(k, len({*first, *second}))
    for team, ranking in ((FIRST, first), (SECOND, second)):
        picked = [item for item, by in zip(draft.items, draft.teams, strict=True) if by == team]
        assert picked == sorted(picked, key=ranking.index)
    if len(first) == len(second) == 8:  # neither runs out
        for place in range(0, len(draft.teams) - 1, 2):
            assert {draft.teams[place], draft.teams[place + 1]} == {FIRST, SECOND}


@given(RANKINGS, RANKINGS, st.integers(1, 8), st.integers(0, 99))
def test_swapping_the_rankers_and_the_coins_swaps_the_teams(
    first: list[str], second: list[str], k: int, seed: int
) -> None:
    """So neither side has an advantage: both coins are as likely."""
    coins = np.random.default_rng(seed).integers(2, size=10)
    draft = team_draft(first, second, k, Coins(*coins))  # type: ignore[arg-type]
    swapped = team_draft(second, first, k, Coins(*(1 - coins)))  # type: ignore[arg-type]
    assert swapped == Draft(draft.items, [1 - team for team in draft.teams])


def test_each_side_picks_as_often_at_every_place() -> None:
    rng = np.random.default_rng(1)
    teams = np.array([team_draft("abcdef", "fedcba", 3, rng).teams for _ in range(4000)])
    assert np.abs(teams.mean(axis=0) - 0.5).max() < 4 * 0.5 / 4000**0.5


def sessions(first: str, second: str, rates: dict[str, float], count: int, seed: int) -> np.ndarray:
    """Margins of so many sessions of visitors who click each item with its own chance."""
    rng = np.random.default_rng(seed)
    drafts = [team_draft(first, second, 4, rng) for _ in range(count)]
    chances = np.array([[rates[item] for item in draft.items] for draft in drafts])
    return margins(np.array([draft.teams for draft in drafts]), rng.random(chances.shape) < chances)


RATES = dict(zip("abcdefgh", (0.3, 0.25, 0.2, 0.15, 0.1, 0.08, 0.06, 0.04), strict=True))


def test_equal_rankers_are_told_apart_no_oftener_than_chance() -> None:
    names = [str(n) for n in range(300)]
    values = [preference(sessions("abcdefgh", "abcdefgh", RATES, 300, seed), names).p_value for seed in range(150)]
    assert 0 <= np.mean(np.array(values) < 0.05) <= 0.09


def test_the_better_ranker_wins() -> None:
    names = [str(n) for n in range(600)]
    for seed in range(10):
        found = preference(sessions("abcdefgh", "hgfedcba", RATES, 600, seed), names)
        assert found.share is not None
        assert found.p_value < 0.001
        assert found.share.low > 0.5
        mirrored = preference(sessions("hgfedcba", "abcdefgh", RATES, 600, seed), names)
        assert mirrored.share is not None
        assert mirrored.share.high < 0.5


def test_margins_and_preference_by_hand() -> None:
    teams = np.array([[FIRST, SECOND, -1], [SECOND, FIRST, FIRST], [SECOND, FIRST, SECOND], [FIRST, SECOND, FIRST]])
    clicked = np.array([[1, 0, 1], [1, 1, 1], [1, 0, 0], [1, 1, 0]], dtype=bool)
    found = margins(teams, clicked)
    assert found.tolist() == [1, 1, -1, 0]
    # As sessions: two for the first, one for the second, one tie; two-sided sign test of 2 in 3 is 1.
    assert preference(found, ["a", "b", "c", "d"]).p_value == 1.0
    # Visitor x has +1 and −1, so none; y has +1; z a tie.
    by_visitor = preference(found, ["x", "y", "x", "z"])
    assert (by_visitor.first, by_visitor.second, by_visitor.ties) == (1, 0, 2)
    eight = preference(np.array([1] * 8), [str(n) for n in range(8)])
    assert eight.p_value == pytest.approx(2 / 2**8)
    assert preference(np.array([0, 0]), ["a", "b"]).share is None


def test_all_drafts_are_counted() -> None:
    """Two items, opposite rankings: two drafts, each as likely."""
    rng = np.random.default_rng(2)
    drafts = [team_draft("ab", "ba", 2, rng) for _ in range(1000)]
    counts = Counter(("".join(draft.items), tuple(draft.teams)) for draft in drafts)
    assert set(counts) == {("ab", (FIRST, SECOND)), ("ba", (SECOND, FIRST))}
    assert abs(counts["ab", (FIRST, SECOND)] - 500) < 4 * 250**0.5
