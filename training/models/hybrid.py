"""Hybrid: other models' lists in one, each item by the ranks that they give it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from marquee.errors import MarqueeError
from training.interactions import Floats, Interactions, Queries
from training.recommender import PLAIN, Fitting, Recommender, model_class


@dataclass(frozen=True, slots=True)
class HybridSettings:
    """Plain values.

    Attributes:
        models: names of the parts, with commas between; each is fitted with its own defaults.
        weights: what each part's ranks count for, with commas between; empty for all alike.
        steadiness: κ, how little the first ranks stand out; ∞ would count ranks alike.
    """

    models: str = "vstan,gru4rec"
    weights: str = "0.6,0.4"
    steadiness: float = 60.0


class Hybrid(Recommender):
    """s(i) = Σ_m w_m / (κ + rank_m(i)): reciprocal rank fusion, which needs no common scale of the parts' scores.

    Sources: Cormack, Clarke, Büttcher, SIGIR 2009; weighted hybrids in Burke, UMUAI 2002.
    """

    Settings = HybridSettings
    about = "other models' ranks, fused"
    settings: HybridSettings

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        names = [name.strip() for name in self.settings.models.split(",")]
        if self.name() in names:
            raise MarqueeError("hybrid: it cannot be a part of itself")
        self.weights = self._weights(len(names))
        self.parts = [model_class(name)() for name in names]

    @classmethod
    def space(cls, trial: Any) -> dict[str, Any]:
        """How much the first part counts."""
        share = trial.suggest_float("first", 0.2, 0.8)
        return {"weights": f"{share:.2f},{1 - share:.2f}"}

    def fit(self, train: Interactions, fitting: Fitting = PLAIN) -> Self:
        """Fit each part."""
        self.item_ids = train.item_ids
        for place, part in enumerate(self.parts):
            own = fitting.checkpoint and fitting.checkpoint / f"{place}-{part.name()}"
            part.fit(train, replace(fitting, checkpoint=own))
        return self

    def score(self, queries: Queries) -> Floats:
        """Weighted reciprocal ranks; a part's ties go by the item's code."""
        scores = np.zeros((len(queries), len(self.item_ids)), dtype=np.float32)
        places = np.arange(len(self.item_ids))
        for part, weight in zip(self.parts, self.weights, strict=True):
            worth = (weight / (self.settings.steadiness + 1 + places)).astype(np.float32)
            order = np.argsort(-part.score(queries), axis=1, kind="stable")
            for row, best_first in enumerate(order):
                scores[row, best_first] += worth
        return scores

    def state(self) -> dict[str, NDArray[Any]]:
        """The parts' states, each array with the part's number before its name."""
        return {
            f"{place}.{name}": array for place, part in enumerate(self.parts) for name, array in part.state().items()
        }

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Give each part its own."""
        for place, part in enumerate(self.parts):
            begin = f"{place}."
            part.item_ids = self.item_ids
            part.restore({name[len(begin) :]: array for name, array in state.items() if name.startswith(begin)})

    def _weights(self, parts: int) -> list[float]:
        given = self.settings.weights.split(",") if self.settings.weights else ["1"] * parts
        if len(given) != parts:
            raise MarqueeError(f"hybrid: {parts} models and {len(given)} weights; give one for each, or none")
        try:
            return [float(weight) for weight in given]
        except ValueError:
            raise MarqueeError(f"hybrid: weights are numbers, not {self.settings.weights!r}") from None


MODEL = Hybrid
