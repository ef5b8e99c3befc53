"""EASE: a linear item-to-item model in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from training.interactions import Floats, Interactions, Queries
from training.recommender import PLAIN, Fitting, Recommender


@dataclass(frozen=True, slots=True)
class EASESettings:
    """Plain values.

    Attributes:
        regularisation: L2 penalty λ; larger for more events or a longer tail.
        weighted: use the events' weights rather than 1 for each item once seen.
    """

    regularisation: float = 500.0
    weighted: bool = False


class EASE(Recommender):
    """B = I − P·diag(1/diag P), P = (XᵀX + λI)⁻¹; a history's scores are its row times B.

    Source: Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019. Memory: two I × I float32 matrices.
    """

    Settings = EASESettings
    about = "linear item-to-item model in closed form"
    settings: EASESettings

    def fit(self, train: Interactions, fitting: Fitting = PLAIN) -> Self:
        """Invert the items' Gram matrix, in place."""
        from scipy.linalg.lapack import spotrf, spotri

        self.item_ids = train.item_ids
        matrix = train.matrix(self.settings.weighted)
        gram = np.asfortranarray((matrix.T @ matrix).toarray(), dtype=np.float32)
        gram[np.diag_indices_from(gram)] += self.settings.regularisation
        # A Cholesky factor and its inverse, both over the same memory, and only one triangle of each.
        factor, failed = spotrf(gram, lower=1, overwrite_a=1)
        inverse, failed_too = spotri(factor, lower=1, overwrite_c=1)
        if failed or failed_too:
            raise ArithmeticError("the items' Gram matrix is not positive definite; raise the regularisation")
        _mirror(inverse)
        weights: Floats = inverse.T  # symmetric, so the same matrix, and its rows side by side in memory
        weights /= -np.diag(weights).copy()
        np.fill_diagonal(weights, 0.0)
        self.weights = weights
        return self

    def score(self, queries: Queries) -> Floats:
        """The histories' rows times the weights."""
        scores: Floats = queries.histories.matrix(self.settings.weighted) @ self.weights
        return scores

    def state(self) -> dict[str, NDArray[Any]]:
        """The weights."""
        return {"weights": self.weights}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Take them back."""
        self.weights = state["weights"]


def _mirror(matrix: Floats, block: int = 1024) -> None:
    """Copy the lower triangle over the upper one, in blocks that fit the cache."""
    for start in range(0, len(matrix), block):
        stop = min(start + block, len(matrix))
        matrix[start:stop, stop:] = matrix[stop:, start:stop].T
        corner = np.tril(matrix[start:stop, start:stop])
        matrix[start:stop, start:stop] = corner + np.tril(corner, -1).T


MODEL = EASE
