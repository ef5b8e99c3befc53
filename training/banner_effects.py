"""What the ranker does not know of each banner, and how surely: a random intercept on its log-odds. NumPy only.

Log-odds of a click = logit(the ranker's probability) + effect[banner], effect ~ N(0, prior²): the ranker is what all
banners share, the effect what each has of its own. Zhang et al., "GLMix: generalized linear mixed models for
large-scale response prediction", KDD 2016. The posterior is Laplace's: a normal at the mode with the curvature there.
No two banners share an effect, so each has a posterior of its own. Scores drawn from it are Thompson sampling (Chapelle
and Li, "An empirical evaluation of Thompson sampling", NIPS 2011); its mean plus a width in deviations is an upper
bound as LinUCB has one. A banner never shown has the prior's deviation, so it is explored; less so as impressions come.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PRIOR_DEVIATION: Final = 0.5
"""Of effects, in log-odds: two banners in three have odds within a factor of 1.65 of what the ranker says.

Not fitted: the ranker's own rows leave less of an effect than there is, and a prior that small would explore nothing.
"""
LONGEST_STEP: Final = 0.5
"""Within it the curvature changes by a factor √e at most, so Newton's steps cannot go back and forth. Bach (2010)."""
MOST_STEPS: Final = 200
LEAST_PROBABILITY: Final = 1e-6


@dataclass(frozen=True, slots=True)
class BannerEffects:
    """Posterior of each banner's effect in log-odds: ``mean`` [B] and ``deviation`` [B]."""

    mean: Floats
    deviation: Floats

    def sampled(self, heads: int, seed: int) -> Floats:
        """[H, B] effects drawn from the posterior; the same for the same seed."""
        return self.mean + self.deviation * np.random.default_rng(seed).standard_normal((heads, len(self.mean)))

    def optimistic(self, width: float) -> Floats:
        """[1, B] effects at ``width`` deviations above their mean."""
        return (self.mean + width * self.deviation)[None]

    def of_catalogue(
        self, fitted: Sequence[str], wanted: Sequence[str], heads: int, optimism: float, seed: int
    ) -> Floats:
        """[H, len(wanted)] effects of these banners: sampled where there are heads, else optimistic.

        One that was not ``fitted`` has the prior's. Each banner's draws are its own, whatever others there are.

        Args:
            fitted: the banner of each place of ``mean``.
            wanted: banners whose effects are asked for.
        """
        own = self.sampled(heads, seed) if heads else self.optimistic(optimism)
        place = {banner: number for number, banner in enumerate(fitted)}
        found = np.empty((len(own), len(wanted)))
        for column, banner in enumerate(wanted):
            if banner in place:
                found[:, column] = own[:, place[banner]]
            elif heads:
                found[:, column] = PRIOR_DEVIATION * _generator(seed, banner).standard_normal(heads)
            else:
                found[:, column] = optimism * PRIOR_DEVIATION
        return found

    def to_dict(self) -> dict[str, list[float]]:
        """As a manifest holds them."""
        return {"mean": self.mean.tolist(), "deviation": self.deviation.tolist()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> BannerEffects:
        """What ``to_dict`` made."""
        return cls(np.array(values["mean"], np.float64), np.array(values["deviation"], np.float64))


def fit_banner_effects(
    probabilities: Floats,
    clicked: NDArray[np.bool_],
    banner_rows: NDArray[np.int64],
    banners: int,
    prior: float = PRIOR_DEVIATION,
) -> BannerEffects:
    """Mode and curvature of each banner's posterior, by Newton's method.

    Args:
        probabilities: [N] what the ranker says of each impression. From rows that it was fitted on, effects come out
            nearer to 0 than they are: it has taken some of them in.
        clicked: [N] whether each was clicked.
        banner_rows: [N] the banner of each, below ``banners``.
        banners: B.
        prior: standard deviation of effects, above 0; that of a banner without impressions stays there.
    """
    logit = _logit(probabilities)
    clicks = _totals(clicked.astype(np.float64), banner_rows, banners)
    mean, precision = np.zeros(banners), np.full(banners, 1 / prior**2)
    for _ in range(MOST_STEPS):
        p = _sigmoid(logit + mean[banner_rows])
        slope = clicks - _totals(p, banner_rows, banners) - mean / prior**2
        precision = _totals(p * (1 - p), banner_rows, banners) + 1 / prior**2
        step = np.clip(slope / precision, -LONGEST_STEP, LONGEST_STEP)
        mean = mean + step
        if np.abs(step).max(initial=0.0) < 1e-10:
            break
    return BannerEffects(mean, 1 / np.sqrt(precision))


def with_effects(probabilities: Floats, effects: Floats) -> Floats:
    """[H, ..., n] click probabilities of n banners [..., n] under each of H rows of their effects [H, n]."""
    logit = _logit(probabilities)
    return np.stack([_sigmoid(logit + row) for row in effects])


def _generator(seed: int, banner: str) -> np.random.Generator:
    return np.random.default_rng([seed, *hashlib.blake2b(banner.encode(), digest_size=8).digest()])


def _totals(values: Floats, banner_rows: NDArray[np.int64], banners: int) -> Floats:
    """[B] sum of each banner's values [N]."""
    return np.bincount(banner_rows, weights=values, minlength=banners).astype(np.float64)


def _logit(probabilities: Floats) -> Floats:
    inside = np.clip(probabilities, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    return np.asarray(np.log(inside) - np.log1p(-inside), dtype=np.float64)


def _sigmoid(logit: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(logit, -500.0, 500.0))), dtype=np.float64)
