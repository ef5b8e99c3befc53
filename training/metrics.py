"""Quality of scores against outcomes, in NumPy, with intervals from a bootstrap over visitors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BOOTSTRAPS = 300


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """As JSON-ready values."""
        return {"value": self.value, "low": self.low, "high": self.high}


def auc(labels: NDArray[np.bool_], scores: Floats) -> float:
    """Area under the ROC curve: the chance that a clicked row outscores one not clicked, ties counting half.

    NaN when there is only one class (Mann and Whitney 1947).
    """
    return weighted_auc(labels, scores)(np.ones(len(labels)))


def weighted_auc(labels: NDArray[np.bool_], scores: Floats) -> Callable[[Floats], float]:
    """AUC as a function of row weights [n]; the rows are sorted once, so that a bootstrap need not sort again."""
    order = np.argsort(scores, kind="stable")
    ties = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])
    clicked = labels[order].astype(np.float64)

    def statistic(weights: Floats) -> float:
        ordered = weights[order]
        positives = np.add.reduceat(ordered * clicked, ties)
        negatives = np.add.reduceat(ordered * (1 - clicked), ties)
        pairs = positives.sum() * negatives.sum()
        below = np.cumsum(negatives) - negatives / 2.0
        return float((positives * below).sum() / pairs) if pairs else float("nan")

    return statistic


def log_loss(labels: NDArray[np.bool_], probabilities: Floats) -> float:
    """Mean negative log-likelihood, in nats."""
    return float(log_losses(labels, probabilities).mean())


def log_losses(labels: NDArray[np.bool_], probabilities: Floats) -> Floats:
    """Negative log-likelihood of each row, [n], in nats."""
    p = np.clip(probabilities, 1e-12, 1 - 1e-12)
    return np.asarray(-np.where(labels, np.log(p), np.log1p(-p)))


def calibration_error(labels: NDArray[np.bool_], probabilities: Floats, bins: int = 10) -> float:
    """Expected calibration error over equally filled bins: mean |click rate − mean probability|, weighted by rows."""
    bins_of = reliability(labels, probabilities, bins)
    return float(sum(abs(clicked - told) * rows for told, clicked, rows in bins_of) / len(labels))


def reliability(labels: NDArray[np.bool_], probabilities: Floats, bins: int = 10) -> list[list[float]]:
    """Mean probability, click rate and rows of equally filled bins, lowest probabilities first."""
    parts = np.array_split(np.argsort(probabilities, kind="stable"), min(bins, len(labels)))
    return [[float(probabilities[part].mean()), float(labels[part].mean()), len(part)] for part in parts]


def recall_at(ranks: NDArray[np.int64], k: int) -> float:
    """Share of held-out clicks whose banner is among the first ``k``; ``ranks`` count from 0 over all candidates."""
    return float(np.mean(ranks < k)) if len(ranks) else float("nan")


def full_ranks(scores: Floats, target: NDArray[np.int64], eligible: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Rank from 0 of each row's target among its eligible candidates, ties counted against it.

    Args:
        scores: [n, m] scores of all candidates.
        target: [n] column of the true one.
        eligible: [n, m] candidates that count; the target always does.
    """
    own = scores[np.arange(len(target)), target][:, None]
    beaten_by = (scores >= own) & eligible
    beaten_by[np.arange(len(target)), target] = False
    ranks: NDArray[np.int64] = beaten_by.sum(axis=1)
    return ranks


def bootstrap(statistic: Callable[[Floats], float], groups: Sequence[str] | NDArray[np.str_], seed: int) -> Estimate:
    """The statistic with a percentile interval from resampling whole groups (visitors), which keeps their dependence.

    Args:
        statistic: takes a weight for each row, [n], and returns one number; draws that give NaN are left out.
        groups: [n] the group of each row.
        seed: of the resampling.
    """
    names, group_of = np.unique(np.asarray(groups), return_inverse=True)
    rng = np.random.default_rng(seed)
    draws = np.empty(BOOTSTRAPS)
    for draw in range(BOOTSTRAPS):
        times = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
        draws[draw] = statistic(times[group_of].astype(np.float64))
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return Estimate(statistic(np.ones(len(group_of))), float(low), float(high))


def weighted_mean(values: Floats, shares: Floats | None = None) -> Callable[[Floats], float]:
    """Σ weight × value / Σ weight × share as a function of row weights; the plain mean when ``shares`` are all 1."""
    below = np.ones(len(values)) if shares is None else shares

    def statistic(weights: Floats) -> float:
        total = float(weights @ below)
        return float(weights @ values) / total if total else float("nan")

    return statistic
