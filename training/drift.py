"""Drift of one number's distribution: stored as bins and quantiles, compared by PSI and Kolmogorov–Smirnov. NumPy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BINS: Final = 10
QUANTILES: Final = 101
"""Of a sketch; its distribution function is right to one part in a hundred."""
FLOOR: Final = 1e-4
"""Least share of a bin: one visitor in a bin that was empty must not make the index infinite."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """What is kept of n values: JSON-ready, finite and of bounded size.

    Attributes:
        count: of values, the missing ones included.
        edges: upper ends of all bins but the last, rising; each bin includes its own.
        shares: of all values, one a bin, and last the missing ones; they sum to 1.
        quantiles: of the values that are there, from the lowest to the highest; empty when none is.
    """

    count: int
    edges: list[float]
    shares: list[float]
    quantiles: list[float]

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Distribution:
        """The inverse of ``to_dict``."""
        return cls(values["count"], list(values["edges"]), list(values["shares"]), list(values["quantiles"]))


def distribution(values: Floats, weights: Floats | None = None, count: int | None = None) -> Distribution:
    """Describe values [n], NaN where missing, in equally filled bins; a value with a tenth of them is an edge.

    Rarer ones share a bin with their neighbours: a bin with next to nothing in it would make a large index of chance.

    Args:
        values: at least one.
        weights: [n] how much each counts; 1 unless told.
        count: how many observations the weights stand for; n unless told.
    """
    mass = np.ones(len(values)) if weights is None else weights
    known = ~np.isnan(values)
    order = np.argsort(values[known], kind="stable")
    ordered, rising = values[known][order], np.cumsum(mass[known][order])
    edges = np.unique(_quantiles(ordered, rising, np.arange(1, BINS) / BINS))
    edges = edges[edges < ordered[-1]] if len(ordered) else edges
    points = _quantiles(ordered, rising, np.linspace(0, 1, QUANTILES))
    stood = len(values) if count is None else count
    return Distribution(stood, edges.tolist(), bin_shares(values, edges.tolist(), mass).tolist(), points.tolist())


def bin_shares(values: Floats, edges: list[float], weights: Floats | None = None) -> Floats:
    """[len(edges) + 2] shares of the values by bin, the missing ones last."""
    mass = np.ones(len(values)) if weights is None else weights
    missing = np.isnan(values)
    bins = np.where(missing, len(edges) + 1, np.searchsorted(np.array(edges), values, side="left"))
    shares: Floats = np.bincount(bins, mass, minlength=len(edges) + 2) / mass.sum()
    return shares


def stability_index(expected: Floats, actual: Floats) -> float:
    """Population stability index Σ (actual − expected) ln(actual / expected) over bins; 0 for equal shares.

    Below 0.1 is read as stable, above 0.25 as another population (Siddiqi 2006).
    """
    before, now = (np.maximum(shares, FLOOR) for shares in (expected, actual))
    before, now = before / before.sum(), now / now.sum()
    return float(((now - before) * np.log(now / before)).sum())


def psi(reference: Distribution, values: Floats) -> float:
    """The stability index of values [n] against what was stored, missing ones as a bin of their own."""
    return stability_index(np.array(reference.shares), bin_shares(values, reference.edges))


def kolmogorov_smirnov(reference: Distribution, values: Floats) -> tuple[float, float] | None:
    """Largest distance of the two distribution functions, and its two-sided p-value; None without known values.

    Missing values are left out. The p-value grants the distance what the sketch may be off by, so it errs on the side
    of no drift. With ties, which counts have, it is too large rather than too small.
    """
    from scipy.stats import kstwobign

    known = np.sort(values[~np.isnan(values)])
    sketch = np.array(reference.quantiles)
    if not len(known) or not len(sketch):
        return None
    points = np.concatenate([known, sketch])
    ours, theirs = (np.searchsorted(s, points, side="right") / len(s) for s in (known, sketch))
    distance = float(np.abs(ours - theirs).max())
    size = reference.count * (1 - reference.shares[-1])
    effective = np.sqrt(size * len(known) / (size + len(known)))
    return distance, float(kstwobign.sf(effective * max(0.0, distance - 1 / (QUANTILES - 1))))


def _quantiles(ordered: Floats, rising: Floats, at: Floats) -> Floats:
    """Values at these shares of the mass, each one that occurs (the inverse of the distribution function)."""
    if not len(ordered):
        return ordered
    places = np.searchsorted(rising / rising[-1], at - 1e-12, side="left")
    return np.asarray(ordered[np.minimum(places, len(ordered) - 1)])
