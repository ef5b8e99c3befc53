"""LinUCB and linear Thompson sampling: by hand, beside MABWiser on the same stream, and in a world that is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from marquee.linear_bandit import LinearBandit
from marquee.policy import Policy, draw_slate

ARMS, SIZE = 3, 4


def test_one_feature_by_hand() -> None:
    """λ = 1, features 1 and 2 with rewards 1 and 0: the sum of squares is 1 + 5, the moment 1."""
    bandit = LinearBandit(1)
    bandit.update(np.array([[1.0], [2.0]]), np.array([1.0, 0.0]))
    assert bandit.weights == pytest.approx([1 / 6])
    found = bandit.optimistic(np.array([[1.0], [3.0]]), width=2.0)
    assert found == pytest.approx([1 / 6 + 2 / 6**0.5, 3 / 6 + 2 * 3 / 6**0.5])
    bandit.forget(0.5)
    assert bandit.weights == pytest.approx([0.5 / (1 + 2.5)])


def test_rows_can_count_more_than_once() -> None:
    rng = np.random.default_rng(0)
    features, rewards = rng.normal(size=(5, SIZE)), rng.random(5)
    often, weighted = LinearBandit(SIZE), LinearBandit(SIZE)
    often.update(np.repeat(features, 3, axis=0), np.repeat(rewards, 3))
    weighted.update(features, rewards, np.full(5, 3.0))
    assert weighted.weights == pytest.approx(often.weights)


@pytest.fixture(scope="module")
def stream() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """300 decisions: features, arm taken, reward."""
    rng = np.random.default_rng(11)
    return rng.normal(size=(300, SIZE)), rng.integers(0, ARMS, 300), rng.random(300)


def ours(stream: Any, ridge: float) -> list[LinearBandit]:
    """A bandit an arm, fed in three batches."""
    bandits = [LinearBandit(SIZE, ridge) for _ in range(ARMS)]
    features, taken, rewards = stream
    for part in np.array_split(np.arange(300), 3):
        for arm, bandit in enumerate(bandits):
            rows = part[taken[part] == arm]
            bandit.update(features[rows], rewards[rows])
    return bandits


@pytest.mark.parametrize(("width", "ridge"), [(0.0, 1.0), (1.3, 1.0), (0.7, 5.0)])
def test_linucb_is_mabwisers_on_the_same_stream(stream: Any, width: float, ridge: float) -> None:
    from mabwiser.mab import MAB, LearningPolicy

    features, taken, rewards = stream
    theirs = MAB(list(range(ARMS)), LearningPolicy.LinUCB(alpha=width, l2_lambda=ridge))
    theirs.fit(taken, rewards, features)
    asked = np.random.default_rng(2).normal(size=(40, SIZE))
    expected = np.array([[row[arm] for arm in range(ARMS)] for row in theirs.predict_expectations(asked)])
    found = np.array([bandit.optimistic(asked, width) for bandit in ours(stream, ridge)]).T
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


def test_linear_thompson_draws_are_mabwisers_in_mean_and_spread(stream: Any) -> None:
    from mabwiser.mab import MAB, LearningPolicy

    features, taken, rewards = stream
    theirs = MAB(list(range(ARMS)), LearningPolicy.LinTS(alpha=0.5, l2_lambda=1.0))
    theirs.fit(taken, rewards, features)
    asked = np.random.default_rng(2).normal(size=(1, SIZE))
    told = theirs.predict_expectations(np.repeat(asked, 4_000, axis=0))
    expected = np.array([[row[arm] for arm in range(ARMS)] for row in told])
    rng = np.random.default_rng(3)
    found = np.array([bandit.sampled(asked, 4_000, 0.5, rng)[:, 0] for bandit in ours(stream, 1.0)]).T
    error = expected.std(axis=0) / np.sqrt(4_000)
    assert np.all(np.abs(found.mean(axis=0) - expected.mean(axis=0)) < 5 * error)
    assert found.std(axis=0) == pytest.approx(expected.std(axis=0), rel=0.06)


def test_draws_have_the_posteriors_covariance() -> None:
    rng = np.random.default_rng(5)
    bandit = LinearBandit(SIZE, 2.0)
    bandit.update(rng.normal(size=(50, SIZE)), rng.random(50))
    draws = bandit.sampled(np.eye(SIZE), 60_000, 0.3, rng)
    expected = 0.09 * np.linalg.inv(bandit.precision)
    np.testing.assert_allclose(np.cov(draws.T), expected, atol=0.04 * expected.max())
    np.testing.assert_allclose(draws.mean(axis=0), bandit.weights, atol=5 * np.sqrt(expected.max() / 60_000))


@pytest.mark.parametrize("kind", ["thompson", "linucb"])
def test_regret_stops_growing(kind: str) -> None:
    """In a world of linear rewards the last thousand decisions earn nearly what the best would."""
    rng = np.random.default_rng(7)
    truth, bandit = np.array([0.5, -0.2, 0.1, 0.3]), LinearBandit(4)
    earned, best = [], []
    for _ in range(3_000):
        actions = rng.normal(size=(8, 4))
        scores = bandit.sampled(actions, 8, 0.3, rng) if kind == "thompson" else bandit.optimistic(actions, 0.3)
        item = draw_slate(scores, 1, Policy(), rng).items[0]
        value = actions @ truth
        bandit.update(actions[[item]], np.array([value[item] + rng.normal(scale=0.3)]))
        earned.append(value[item])
        best.append(value.max())
    assert sum(earned[-1_000:]) > 0.98 * sum(best[-1_000:])
    assert sum(earned[:20]) < 0.9 * sum(best[:20])  # it had to learn: at first it earns much less
