"""From scores to a slate whose propensities are exact; shared by serving and by evaluation. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Slate:
    """Banners drawn for one request, best position first.

    Attributes:
        items: [n] indices into the scores that were given.
        propensities: [n] probability of each item at its position, given the items above it.
    """

    items: NDArray[np.int64]
    propensities: NDArray[np.float64]


def draw_slate(scores: NDArray[np.float64], n: int, exploration: float, rng: np.random.Generator) -> Slate:
    """ε-greedy without replacement: at each position the best remaining item, or a uniform one with probability ε.

    Args:
        scores: [m] one score a candidate; higher is better, ties go to the earlier one.
        n: positions to fill; fewer are filled when there are fewer candidates.
        exploration: ε in [0, 1]; with ε > 0 every candidate has a positive propensity, as off-policy evaluation needs.
        rng: source of chance, so that a caller can replay a draw.
    """
    remaining = list(np.argsort(-scores, kind="stable"))
    count = min(n, len(remaining))
    items = np.empty(count, dtype=np.int64)
    propensities = np.empty(count, dtype=np.float64)
    for position in range(count):
        left = len(remaining)
        place = int(rng.integers(left)) if rng.random() < exploration else 0
        items[position] = remaining.pop(place)
        propensities[position] = exploration / left + (1.0 - exploration) * (place == 0)
    return Slate(items, propensities)


def slate_propensities(
    scores: NDArray[np.float64], items: NDArray[np.int64], exploration: float
) -> NDArray[np.float64]:
    """Propensity of each position of a slate that another policy drew, as ``draw_slate`` would have had it; [n]."""
    remaining = list(np.argsort(-scores, kind="stable"))
    result = np.empty(len(items), dtype=np.float64)
    for position, item in enumerate(items):
        place = remaining.index(int(item))
        result[position] = exploration / len(remaining) + (1.0 - exploration) * (place == 0)
        remaining.pop(place)
    return result
