"""The sessions of simulated visitors as they stand when a page asks for a slate: what they looked at so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from features.matrix import SESSION_COUNTS, Floats, Shares
from ingestion.traffic import SECOND, Rows
from ingestion.world import Ints, World
from marquee import contract

HALF_LIFE: Final = contract.SESSION_HALF_LIFE_MINUTES * 60 * SECOND


@dataclass(frozen=True, slots=True)
class LiveSessions:
    """Of n requests: raw session features by name, [n] each, and the interest shown, [n, C]; NaN where none was."""

    columns: dict[str, Floats]
    interest: Shares


def live_sessions(world: World, asked: Rows, views: Rows) -> LiveSessions:
    """Each request's session from the day's product views before it; carts and orders are not known yet."""
    n, categories = len(asked), world.mix.shape[1]
    columns = {name: np.full(n, np.nan) for name in (*SESSION_COUNTS, "session_started_at", "last_category")}
    interest = np.full((n, categories), np.nan, np.float32)
    ordered = views[np.lexsort((views["at"], views["session"]))]
    first = np.searchsorted(ordered["session"], asked["session"])
    end = np.searchsorted(ordered["session"], asked["session"], side="right")
    for row in range(n):
        seen = ordered[first[row] : end[row]]
        seen = seen[seen["at"] < asked["at"][row]]
        if len(seen):
            category = world.product_category[seen["product"]]
            counts = (len(seen), 0, 0, min(len(np.unique(seen["product"])), contract.SESSION_PRODUCTS))
            values = (*counts, seen["at"][0] / SECOND, category[-1])
            for name, value in zip(columns, values, strict=True):
                columns[name][row] = value
            interest[row] = _shares(seen["at"], category, categories)
    return LiveSessions(columns, Shares.of(interest))


def _shares(at: Ints, category: Ints, categories: int) -> Floats:
    weights = 2.0 ** ((at - at[-1]) / HALF_LIFE)
    totals = np.bincount(category, weights=weights, minlength=categories)
    return np.asarray(totals / totals.sum(), dtype=np.float64)
