"""What many others took lately, in the same context: the baseline that every model must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from training.interactions import Floats, Interactions, Queries
from training.recommender import PLAIN, Fitting, Recommender

DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class PopularSettings:
    """Plain values.

    Attributes:
        days: only events of the last so many days count; 0 for all.
        half_life_days: an event so many days older counts half; 0 for no decay.
        prior: events of all contexts together that a context's own are mixed with; 0 ignores what others do.
    """

    days: float = 0.0
    half_life_days: float = 0.0
    prior: float = 100.0


class Popular(Recommender):
    """Shares of the events of a context, shrunk to the shares of all contexts: (n_ci + prior·p_i) / (n_c + prior)."""

    Settings = PopularSettings
    about = "what many others took, by context and window"
    settings: PopularSettings

    @classmethod
    def space(cls, trial: Any) -> dict[str, Any]:
        """Settings for a trial of Optuna."""
        return {
            "days": trial.suggest_categorical("days", [0.0, 1.0, 3.0, 7.0, 30.0]),
            "half_life_days": trial.suggest_categorical("half_life_days", [0.0, 0.25, 1.0, 7.0, 30.0]),
            "prior": trial.suggest_float("prior", 1.0, 10_000.0, log=True),
        }

    def fit(self, train: Interactions, fitting: Fitting = PLAIN) -> Self:
        """Count."""
        self.item_ids = train.item_ids
        age = (float(train.times.max()) - train.times) / DAY if len(train) else np.zeros(0)
        weights = train.weights.astype(np.float64)
        if self.settings.days:
            weights = weights * (age < self.settings.days)
        if self.settings.half_life_days:
            weights = weights * 0.5 ** (age / self.settings.half_life_days)
        contexts = int(train.contexts.max()) + 1 if len(train) else 1
        cells = np.bincount(
            train.contexts * train.item_count + train.items, weights=weights, minlength=contexts * train.item_count
        )
        counts = cells.reshape(contexts, train.item_count)
        overall = counts.sum(axis=0) / max(counts.sum(), 1e-12)
        shrunk = counts + self.settings.prior * overall
        by_context = shrunk / np.maximum(shrunk.sum(axis=1, keepdims=True), 1e-12)
        # Row 0 is everybody, for a context that was never seen; a context stands one row further.
        self.shares = np.concatenate([overall[None], by_context]).astype(np.float32)
        return self

    def score(self, queries: Queries) -> Floats:
        """The shares of the context of asking."""
        known = queries.contexts + 1 < len(self.shares)
        return self.shares[np.where(known, queries.contexts + 1, 0)]

    def state(self) -> dict[str, NDArray[Any]]:
        """The shares."""
        return {"shares": self.shares}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Take them back."""
        self.shares = state["shares"]


MODEL = Popular
