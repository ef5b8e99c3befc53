"""Which type at which part of the day: a bandit whose arms sleep and recover, and that logs its propensities.

    score       s(a) = (μ⁺ − μ⁻) / μ⁻: rewards where a was taken, relative to those where it was awake but not taken
    recovery    s*(a) = s(a) − γ · ½^(d / h), d days since this visitor last got one of its type
    choice      π(a) = (1 − ε) · exp(s*(a) / τ) / Σ exp(s*(b) / τ) + ε / number of arms awake

The recovering difference softmax of Yancey and Settles, "A Sleeping, Recovering Bandit Algorithm for Optimizing
Recurring Notifications", KDD 2020. An arm that is awake among visitors who would have come anyway gains nothing by it,
since both means are over rounds in which it was awake. Rounds count 1/π of what was taken, so μ⁺ is what a would have
got in all of them, and μ⁻ what the others would have got if drawn evenly, whatever drew them (self-normalised
importance weights).

Beyond the paper: ε keeps propensities, and so weights, bounded; and an arm of few rounds is held to what is told of it
by other means, by a normal prior of deviation σ on its relative difference, as c / (c + σ⁻²) of expected successes c.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from marquee.errors import BundleError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
REWARDS: Final = {"opened": 0.1, "clicked": 1.0, "dismissed": -0.2, "ignored": 0.0}
"""What each outcome is worth. A click is what is wanted; an opening shows interest, and a dismissal that it annoyed."""
LEAST_REWARD: Final = 1e-3
"""What μ⁻ is taken for where it is lower: relative to nothing, any reward would be without bounds."""
PRIOR_DEVIATION: Final = 0.3
VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class BanditSettings:
    """Defaults are for click rates of some per cent; the paper's daily practice needs a tenth of them.

    Attributes:
        penalty: γ, what the type got today loses of its score.
        half_life_days: h, the penalty halves in this time.
        temperature: τ of the softmax.
        exploration: ε, share of each choice that is even over the arms awake.
        prior_deviation: σ, how far relative differences of arms lie from what is told of them.
    """

    penalty: float = 0.3
    half_life_days: float = 7.0
    temperature: float = 0.07
    exploration: float = 0.05
    prior_deviation: float = PRIOR_DEVIATION


class NotificationBandit:
    """Sums over rounds by group of visitors and arm; rounds of one group had the same arms awake.

    Attributes:
        groups: names of the groups, such as segments.
        arms: names of the arms.
        awake: [G, A] which arms are awake in a group's rounds.
        rounds, weight, reward, square: [G, A] number of rounds in which the arm was taken, and sums over them of 1/π,
            reward/π and 1/π².
    """

    def __init__(self, groups: Sequence[str], arms: Sequence[str], awake: Bools) -> None:
        self.groups, self.arms, self.awake = tuple(groups), tuple(arms), np.asarray(awake, dtype=np.bool_)
        shape = (len(self.groups), len(self.arms))
        self.rounds, self.weight, self.reward, self.square = (np.zeros(shape) for _ in range(4))

    def update(self, group: Ints, arm: Ints, reward: Floats, propensity: Floats) -> None:
        """Take in rounds, [n] each; ones that took an arm asleep in their group are an error of who logged them."""
        if not self.awake[group, arm].all():
            raise ValueError("a round took an arm that was asleep")
        weight = 1.0 / propensity
        for sums, of_each in (
            (self.rounds, np.ones(len(arm))),
            (self.weight, weight),
            (self.reward, weight * reward),
            (self.square, weight**2),
        ):
            np.add.at(sums, (group, arm), of_each)

    def forget(self, share: float) -> None:
        """Let all rounds so far count that share less, for tastes that change."""
        for sums in (self.rounds, self.weight, self.reward, self.square):
            sums *= 1.0 - share

    def means(self) -> tuple[Floats, Floats]:
        """[A] μ⁺ and μ⁻ of each arm; NaN where there was no such round."""
        others_weight = self.weight.sum(axis=1, keepdims=True) - self.weight
        others_reward = self.reward.sum(axis=1, keepdims=True) - self.reward
        with np.errstate(invalid="ignore"):
            taken = self.reward.sum(axis=0) / self.weight.sum(axis=0)
            left = (others_reward * self.awake).sum(axis=0) / (others_weight * self.awake).sum(axis=0)
        return taken, left

    def scores(self, prior: Floats | None = None, deviation: float = PRIOR_DEVIATION) -> Floats:
        """[A] relative differences, held to ``prior`` [A] (0 when None) the more, the fewer successes are expected."""
        taken, left = self.means()
        below = np.maximum(left, LEAST_REWARD)
        told = np.zeros(len(self.arms)) if prior is None else prior
        with np.errstate(invalid="ignore"):
            effective = self.weight.sum(axis=0) ** 2 / self.square.sum(axis=0)
            raw, successes = (taken - left) / below, effective * below
        share = successes / (successes + deviation**-2)
        return np.where(np.isfinite(raw) & np.isfinite(share), told + share * (raw - told), told)

    def as_json(self) -> str:
        """All of it as text; ``from_json`` gives it back exactly."""
        sums = {name: getattr(self, name).tolist() for name in ("rounds", "weight", "reward", "square")}
        told = {"version": VERSION, "groups": self.groups, "arms": self.arms, "awake": self.awake.tolist()}
        return json.dumps(told | sums)

    @classmethod
    def from_json(cls, text: str) -> NotificationBandit:
        """The inverse of ``as_json``.

        Raises:
            BundleError: it is none, or of another version.
        """
        try:
            told = json.loads(text)
            if told["version"] != VERSION:
                raise BundleError(
                    f"the bandit's state has version {told['version']}, this is {VERSION}; let it be relearned"
                )
            found = cls(told["groups"], told["arms"], np.array(told["awake"], dtype=np.bool_))
            for name in ("rounds", "weight", "reward", "square"):
                setattr(found, name, np.array(told[name], dtype=np.float64).reshape(found.awake.shape))
        except (KeyError, ValueError, TypeError) as error:
            raise BundleError(f"the bandit's state cannot be read: {error!r}; let it be relearned") from error
        return found


def recovering(days: Floats, settings: BanditSettings) -> Floats:
    """What a score loses so many days after the same visitor got the same type; nothing where ``days`` is infinite."""
    return np.asarray(settings.penalty * 0.5 ** (days / settings.half_life_days))


def propensities(scores: Floats, awake: Bools, settings: BanditSettings) -> Floats:
    """[n, A] chance of each arm; 0 asleep, and rows sum to 1 but those with no arm awake, which are 0.

    Args:
        scores: [n, A]. awake: [n, A].
    """
    with np.errstate(over="ignore"):
        shown = np.where(awake, scores / settings.temperature, -np.inf)
    top = shown.max(axis=1, keepdims=True, initial=-np.inf)
    weight = np.where(awake, np.exp(shown - np.where(np.isfinite(top), top, 0.0)), 0.0)
    count = awake.sum(axis=1, keepdims=True)
    soft = weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-300)
    even = awake / np.maximum(count, 1)
    return np.asarray((1.0 - settings.exploration) * soft + settings.exploration * even)


def choose(chances: Floats, uniform: Floats) -> Ints:
    """[n] the arm that a number in [0, 1) falls on; -1 where none is awake. Never one of chance 0."""
    sums = np.cumsum(chances, axis=1)
    arm = (sums <= uniform[:, None] * sums[:, -1:]).sum(axis=1)
    awake = chances > 0
    last = chances.shape[1] - 1 - np.argmax(awake[:, ::-1], axis=1)
    return np.where(awake.any(axis=1), np.minimum(arm, last), -1)


def rewards(outcomes: Sequence[str], worth: Mapping[str, float] = REWARDS) -> Floats:
    """[n] what these outcomes are worth; all four of ``marquee.notifications.OUTCOMES`` count."""
    return np.array([worth[one] for one in outcomes], dtype=np.float64)
