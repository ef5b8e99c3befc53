"""Slate estimators against fractions worked out by hand, and against the estimator for single actions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from training import ope, slate_ope
from training.ope import Floats, Terms
from training.slate_ope import LoggedSlates

# Ratios of probabilities: 2 and 1/2; 1/2 and 2; 1 and 1.
TABLE = LoggedSlates(
    rewards=np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]),
    logged=np.array([[1 / 4, 1 / 2], [1 / 2, 1 / 4], [1 / 2, 1 / 2]]),
    target=np.array([[1 / 2, 1 / 4], [1 / 4, 1 / 2], [1 / 2, 1 / 2]]),
    groups=["a", "b", "c"],
)


def value(terms: Terms) -> float:
    return ope.intervals({"one": terms}, np.arange(len(terms.above)).astype(str), seed=0)["one"].value


def test_position_wise_by_hand() -> None:
    first = (2 * 1 + 1 / 2 * 0 + 1 * 1) / (2 + 1 / 2 + 1)
    second = (1 / 2 * 0 + 2 * 1 + 1 * 1) / (1 / 2 + 2 + 1)
    assert value(slate_ope.position_wise(TABLE)) == pytest.approx(first + second)


def test_cascade_by_hand() -> None:
    # The second position weighs 2·1/2, 1/2·2 and 1·1.
    first = (2 * 1 + 1 / 2 * 0 + 1 * 1) / (2 + 1 / 2 + 1)
    assert value(slate_ope.cascade(TABLE)) == pytest.approx(first + (0 + 1 + 1) / 3)


def test_a_third_position_weighs_the_product_of_all_three() -> None:
    log = LoggedSlates(np.ones((1, 3)), np.array([[1 / 2, 1 / 3, 1 / 4]]), np.array([[1 / 4, 2 / 3, 3 / 4]]), ["a"])
    assert slate_ope.position_wise(log).below[0] == pytest.approx([1 / 2, 2, 3])
    assert slate_ope.cascade(log).below[0] == pytest.approx([1 / 2, 1, 3])


unit, propensity = st.floats(0, 1), st.floats(0.05, 1)


@effort(deadline=None)
@given(st.lists(st.tuples(unit, propensity, unit), min_size=1, max_size=12))
def test_with_one_position_both_are_snips(rows: list[tuple[float, float, float]]) -> None:
    columns = np.array(rows).T
    groups = np.arange(len(rows)).astype(str)
    expected = ope.snips(ope.LoggedActions(*columns, groups))
    for estimator in (slate_ope.position_wise, slate_ope.cascade):
        terms = estimator(LoggedSlates(*(column[:, None] for column in columns), groups))
        assert (terms.above[:, 0] == expected.above).all()
        assert (terms.below[:, 0] == expected.below).all()
        if expected.below.any():
            assert value(terms) == pytest.approx(value(expected))


@effort(deadline=None)
@given(st.integers(1, 6), st.integers(1, 4), unit)
def test_constant_rewards_are_worth_one_constant_a_position(n: int, k: int, reward: float) -> None:
    rng = np.random.default_rng(n)
    logged, target = 0.1 + 0.9 * rng.random((n, k)), 0.1 + 0.9 * rng.random((n, k))
    log = LoggedSlates(np.full((n, k), reward), logged, target, np.arange(n).astype(str))
    for estimator in (slate_ope.position_wise, slate_ope.cascade):
        assert value(estimator(log)) == pytest.approx(k * reward)


def log_with(target: Floats) -> LoggedSlates:
    half = np.full(target.shape, 1 / 2)
    return LoggedSlates(np.ones(target.shape), half, target, np.arange(len(target)).astype(str))


def can_say(log: LoggedSlates) -> list[bool]:
    terms = slate_ope.position_wise(log), slate_ope.cascade(log)
    return [slate_ope.slate_value(one, log.groups, seed=1) is not None for one in terms]


def test_slates_without_overlap_at_any_position_say_nothing() -> None:
    assert can_say(log_with(np.full((200, 2), 1 / 2))) == [True, True]
    assert can_say(log_with(np.full((99, 2), 1 / 2))) == [False, False]
    assert can_say(log_with(np.zeros((200, 2)))) == [False, False]
    assert can_say(log_with(np.tile([1 / 2, 0.0], (200, 1)))) == [False, False]


def test_ever_fewer_slates_agree_down_a_cascade() -> None:
    """The target policy is sure of each of four items and the log draws one of two: 1/16 of 800 slates agree on all."""
    agree = np.random.default_rng(4).random((800, 4)) < 1 / 2
    assert ope.effective_sample(slate_ope.cascade(log_with(agree.astype(float))).below[:, 3]) < 100
    assert can_say(log_with(agree.astype(float))) == [True, False]


@pytest.mark.parametrize(
    ("rewards", "logged", "groups"),
    [
        (np.ones(2), np.ones(2), ["a", "b"]),
        (np.ones((2, 0)), np.ones((2, 0)), ["a", "b"]),
        (np.ones((2, 2)), np.ones((2, 3)), ["a", "b"]),
        (np.ones((2, 2)), np.ones((2, 2)), ["a"]),
        (np.ones((2, 2)), np.zeros((2, 2)), ["a", "b"]),
    ],
)
def test_what_is_no_log_of_slates_is_refused(rewards: Floats, logged: Floats, groups: list[str]) -> None:
    with pytest.raises(ValueError, match=r"one shape|equally long|probabilities"):
        LoggedSlates(rewards, logged, rewards, groups)
