"""Linear rewards with what is not known of them: LinUCB and linear Thompson sampling. NumPy only."""

from __future__ import annotations

import numpy as np

from marquee.policy import Floats


class LinearBandit:
    """Ridge regression of rewards on features, kept as sums, so that each new reward counts at once.

    The weights' posterior is normal around ``weights`` with covariance σ² · (λI + Σ x xᵀ)⁻¹. Sources: Li, Chu, Langford
    and Schapire, "A contextual-bandit approach to personalized news article recommendation", WWW 2010 (LinUCB); Agrawal
    and Goyal, "Thompson sampling for contextual bandits with linear payoffs", ICML 2013.

    Args:
        size: number of features, d.
        ridge: λ, as if so many rewards of 0 had been seen in each direction.
    """

    def __init__(self, size: int, ridge: float = 1.0) -> None:
        self.ridge = ridge
        self.gram: Floats = np.zeros((size, size))
        self.moment: Floats = np.zeros(size)

    def update(self, features: Floats, rewards: Floats, weights: Floats | None = None) -> None:
        """Take in rewards [n] of actions with features [n, d]; ``weights`` [n] where rows do not count once."""
        weighted = features if weights is None else features * weights[:, None]
        self.gram += weighted.T @ features
        self.moment += weighted.T @ rewards

    def forget(self, share: float) -> None:
        """Let all seen so far count that share less, for a world that changes; the ridge stays."""
        self.gram *= 1.0 - share
        self.moment *= 1.0 - share

    @property
    def precision(self) -> Floats:
        """[d, d] inverse of the posterior's covariance at σ = 1."""
        found: Floats = self.gram + self.ridge * np.eye(len(self.moment))
        return found

    @property
    def weights(self) -> Floats:
        """[d] mean of the posterior."""
        return np.asarray(np.linalg.solve(self.precision, self.moment), dtype=np.float64)

    def optimistic(self, features: Floats, width: float) -> Floats:
        """[m] LinUCB's scores of m actions [m, d]: expected reward plus ``width`` standard deviations at σ = 1."""
        spread: Floats = np.einsum("md,dm->m", features, np.linalg.solve(self.precision, features.T))
        return np.asarray(features @ self.weights + width * np.sqrt(np.maximum(spread, 0.0)))

    def sampled(self, features: Floats, draws: int, deviation: float, rng: np.random.Generator) -> Floats:
        """[H, m] scores of m actions [m, d] under H draws of the weights at σ = ``deviation``.

        Given to ``draw_slate`` they are Thompson sampling: each position is decided by one draw, so propensities are
        exact for these draws.
        """
        lower = np.linalg.cholesky(self.precision)
        noise = np.linalg.solve(lower.T, rng.standard_normal((len(self.moment), draws)))
        scores: Floats = (self.weights[:, None] + deviation * noise).T @ features.T
        return scores
