"""The recovering difference softmax: by hand, asleep, logged and kept."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marquee.errors import BundleError
from marquee.notifications import OUTCOMES
from training.notifications.bandit import (
    REWARDS,
    BanditSettings,
    NotificationBandit,
    choose,
    propensities,
    recovering,
    rewards,
)

ALL = np.array([[True, True, True], [False, True, True]])


def bandit() -> NotificationBandit:
    """Two groups; the first arm is awake in one of them only."""
    return NotificationBandit(("new", "loyal"), ("a", "b", "c"), ALL)


def filled() -> NotificationBandit:
    found = bandit()
    group = np.array([0, 0, 0, 1, 1])
    arm = np.array([0, 1, 2, 1, 2])
    found.update(group, arm, np.array([1.0, 0.0, 1.0, 1.0, 0.0]), np.array([0.5, 0.25, 0.25, 0.5, 0.5]))
    return found


def test_means_by_hand() -> None:
    """a: 1 where taken; else in its group 4·0 + 4·1 of 8. b: (0·4 + 1·2) / 6; else (2·1 + 4·1 + 2·0) / 8."""
    taken, left = filled().means()
    assert taken == pytest.approx([1.0, 2 / 6, 4 / 6])
    assert left == pytest.approx([4 / 8, 6 / 8, (2 + 0 + 2) / (2 + 4 + 2)])


def test_scores_by_hand() -> None:
    """With σ = 1: b has 36 / 20 effective rounds and so 1.8 · 0.75 = 1.35 successes expected, of 2.35."""
    raw = (2 / 6 - 0.75) / 0.75
    assert filled().scores(deviation=1.0)[1] == pytest.approx(1.35 / 2.35 * raw)
    prior = np.array([0.2, 0.2, 0.2])
    assert filled().scores(prior, deviation=1.0)[1] == pytest.approx(0.2 + 1.35 / 2.35 * (raw - 0.2))
    assert bandit().scores(prior) == pytest.approx(prior)
    assert filled().scores(deviation=1e6)[1] == pytest.approx(raw)


def test_an_arm_awake_among_those_who_click_anyway_gains_nothing_by_it() -> None:
    """Loyal visitors click half the time and new ones a tenth, whatever they get; only the loyal can get c."""
    rng = np.random.default_rng(3)
    found = NotificationBandit(("new", "loyal"), ("a", "b", "c"), np.array([[True, True, False], [False, True, True]]))
    group = rng.integers(0, 2, 40_000)
    arm = group + rng.integers(0, 2, 40_000)
    reward = (rng.random(40_000) < np.where(group == 1, 0.5, 0.1)).astype(float)
    found.update(group, arm, reward, np.full(40_000, 0.5))
    assert found.means()[0][2] > 4 * found.means()[0][0]
    assert np.abs(found.scores(deviation=10.0)).max() < 0.1


def test_weights_undo_what_the_policy_preferred() -> None:
    """Arm a was sent to keen visitors nine times in ten and to others once, and is worth nothing by itself."""
    rng = np.random.default_rng(4)
    keen = rng.random(60_000) < 0.5
    chance = np.where(keen, 0.9, 0.1)
    arm = np.where(rng.random(60_000) < chance, 0, 1)
    reward = (rng.random(60_000) < np.where(keen, 0.4, 0.1)).astype(float)
    found = NotificationBandit(("all",), ("a", "b"), np.ones((1, 2), dtype=bool))
    found.update(np.zeros(60_000, dtype=int), arm, reward, np.where(arm == 0, chance, 1 - chance))
    assert np.abs(found.scores(deviation=10.0)).max() < 0.06
    assert reward[arm == 0].mean() / reward[arm == 1].mean() > 2


def test_all_four_outcomes_are_learned_from() -> None:
    assert set(REWARDS) == set(OUTCOMES)
    assert REWARDS["clicked"] > REWARDS["opened"] > REWARDS["ignored"] > REWARDS["dismissed"]
    assert rewards(["ignored", "clicked"]).tolist() == [0.0, 1.0]
    for better, worse in (("clicked", "opened"), ("opened", "ignored"), ("ignored", "dismissed")):
        found = NotificationBandit(("all",), ("a", "b"), np.ones((1, 2), dtype=bool))
        half = np.tile([0, 1], 200)
        others = np.tile([REWARDS["clicked"], REWARDS["clicked"], 0.0, 0.0], 100)
        told = np.where(np.arange(400) < 200, others, np.where(half == 0, REWARDS[better], REWARDS[worse]))
        found.update(np.zeros(400, dtype=int), half, told, np.full(400, 0.5))
        assert found.scores()[0] > 0 > found.scores()[1]


def test_an_arm_recovers() -> None:
    settings = BanditSettings(penalty=0.4, half_life_days=5)
    assert recovering(np.array([0.0, 5.0, 10.0, np.inf]), settings) == pytest.approx([0.4, 0.2, 0.1, 0.0])


def test_propensities_by_hand() -> None:
    """Scores 0 and τ·ln 3 give a quarter and three quarters; a fifth of it is even over the two awake."""
    settings = BanditSettings(temperature=0.5, exploration=0.2)
    scores = np.array([[0.0, 0.5 * math.log(3), 9.0]])
    found = propensities(scores, np.array([[True, True, False]]), settings)
    assert found[0] == pytest.approx([0.8 * 0.25 + 0.1, 0.8 * 0.75 + 0.1, 0.0])


arms = st.integers(1, 6)


@given(st.data(), arms, st.floats(0.001, 2), st.floats(0, 1), st.integers(0, 2**32))
def test_chances_sum_to_one_over_awake_arms_and_no_sleeping_arm_is_taken(
    data: st.DataObject, size: int, temperature: float, exploration: float, seed: int
) -> None:
    rows = 20
    rng = np.random.default_rng(seed)
    awake = rng.random((rows, size)) < data.draw(st.floats(0, 1))
    scores = rng.normal(0, data.draw(st.sampled_from([0.1, 10.0, 1e6])), (rows, size))
    found = propensities(scores, awake, BanditSettings(temperature=temperature, exploration=exploration))
    assert found.sum(axis=1) == pytest.approx(awake.any(axis=1).astype(float))
    assert (found[~awake] == 0).all()
    least = exploration / np.maximum(awake.sum(axis=1, keepdims=True), 1)
    assert (found >= np.where(awake, least, 0.0) - 1e-12).all()
    for uniform in (np.zeros(rows), np.full(rows, np.nextafter(1, 0)), rng.random(rows)):
        taken = choose(found, uniform)
        some = awake.any(axis=1)
        assert (taken[~some] == -1).all()
        assert awake[np.flatnonzero(some), taken[some]].all()


def test_arms_are_taken_as_often_as_said() -> None:
    chances = np.tile([[0.1, 0.0, 0.6, 0.3]], (200_000, 1))
    taken = choose(chances, np.random.default_rng(1).random(200_000))
    assert np.bincount(taken, minlength=4) / 200_000 == pytest.approx(chances[0], abs=0.005)


def test_a_round_that_took_a_sleeping_arm_is_refused() -> None:
    with pytest.raises(ValueError, match="asleep"):
        bandit().update(np.array([1]), np.array([0]), np.array([1.0]), np.array([1.0]))


def test_state_is_text_that_gives_it_back() -> None:
    found = filled()
    again = NotificationBandit.from_json(found.as_json())
    assert (again.arms, again.groups) == (found.arms, found.groups)
    assert again.scores().tolist() == found.scores().tolist()
    found.forget(0.5)
    assert found.rounds.sum() == again.rounds.sum() / 2


@pytest.mark.parametrize("text", ["", "{}", json.dumps({"version": 99}), '{"version": 1, "groups": []}'])
def test_another_state_is_refused(text: str) -> None:
    with pytest.raises(BundleError, match="let it be relearned"):
        NotificationBandit.from_json(text)
