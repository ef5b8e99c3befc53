"""V-SKNN: the most similar recent sessions vote, with more weight on the newest items of the session at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from marquee.errors import MarqueeError
from training.interactions import Ints
from training.session_neighbours import Asked, Doubles, Neighbours, SessionKNN

Decay = Literal["same", "linear", "division", "quadratic", "logarithmic", "exponential"]
DECAYS: dict[str, Callable[[Ints, Any], Any]] = {
    "same": lambda steps, share: np.ones(len(steps)),
    "linear": lambda steps, share: np.maximum(1.0 - steps / 10.0, 0.0),
    "division": lambda steps, share: share,
    "quadratic": lambda steps, share: share**2,
    "logarithmic": lambda steps, share: 1.0 / np.log10(steps + 2.7),
    "exponential": lambda steps, share: np.exp(-steps / 2.0),
}
"""Weight of what lies so many steps back; ``share`` is what division takes."""


@dataclass(frozen=True, slots=True)
class VSKNNSettings:
    """Plain values.

    Attributes:
        neighbours: how many sessions vote.
        sample: they are chosen from so many sessions, the newest that share an item.
        newest: how many events of the asker's history are looked at; 0 for all.
        weighting: how much less an item says the longer ago it was taken.
        decay: how much less a neighbour says the longer ago the newest shared item was taken.
        idf: λ, rare items get up to 1 + λ·log(sessions / sessions with the item) times a neighbour's vote.
    """

    neighbours: int = 740
    sample: int = 740
    newest: int = 50
    weighting: Decay = "logarithmic"
    decay: Decay = "exponential"
    idf: float = 9.0


class VSKNN(SessionKNN):
    """s(b) = Σ_n sim(n) · decay(step_n) · (1 + λ·idf_b) over the nearest sessions n that hold b.

    sim(n) is the summed weight of the items that n shares with the history, step_n how long before the last event the
    newest of them was taken. Of a history of l events, the item d events before the last weighs: same 1; linear
    1 − d/10, not below 0; division (l − d)/l; quadratic ((l − d)/l)²; logarithmic 1/log₁₀(d + 2.7); exponential
    exp(−d/2). As a decay, division is 1/(d + 1) and quadratic its square.

    Source: Ludewig and Jannach, "Evaluation of session-based recommendation algorithms", UMUAI 2018.
    """

    Settings = VSKNNSettings
    about = "similar recent sessions vote"
    settings: VSKNNSettings

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name in ("weighting", "decay"):
            if getattr(self.settings, name) not in DECAYS:
                raise MarqueeError(f"vsknn: {name} is one of {', '.join(DECAYS)}")

    @classmethod
    def space(cls, trial: Any) -> dict[str, Any]:
        """Settings for a trial of Optuna."""
        return {
            "neighbours": trial.suggest_int("neighbours", 50, 1500, log=True),
            "sample": trial.suggest_int("sample", 500, 10_000, log=True),
            "weighting": trial.suggest_categorical("weighting", list(DECAYS)),
            "decay": trial.suggest_categorical("decay", list(DECAYS)),
            "idf": trial.suggest_float("idf", 0.01, 10.0, log=True),
        }

    def importance(self, asked: Asked) -> Doubles:
        """The items' weights."""
        share = (asked.lengths - asked.steps) / asked.lengths
        weights: Doubles = DECAYS[self.settings.weighting](asked.steps, share)
        return weights

    def votes(self, found: Neighbours, voter: Ints, items: Ints, places: Ints) -> Doubles:
        """Similarity, decay, and rarity of the item."""
        says = found.similarity * DECAYS[self.settings.decay](found.steps, 1.0 / (found.steps + 1.0))
        votes: Doubles = says[voter] * (1.0 + self.settings.idf * self.index.rarity[items])
        return votes


MODEL = VSKNN
