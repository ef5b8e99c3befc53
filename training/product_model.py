"""Products for a visitor, as a bundle carries them: item vectors, popularity and a blend. NumPy only, no pickles."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from marquee.errors import BundleError
from training.top_k import top_k

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
BLOCK: Final = 1_024
WILSON_Z: Final = 1.96
"""Of the lower end of the 95 % interval of a popular product's share."""


@dataclass(frozen=True, slots=True)
class Learnt:
    """What was learnt besides the vectors; the manifest's part ``products``.

    Attributes:
        model: name of the model that the vectors are of.
        visitors: how many took anything.
        alpha, regularisation: the model's, for folding a history in.
        popularity: how much popularity counts beside both, 0 to 1.
        weight: how much similarity counts beside taste, 0 to 1, where there is a history.
        similarity_slope, similarity_intercept: log-odds of being taken next, from the cosine.
        taste_slope, taste_intercept: the same from the score for a history.
    """

    model: str
    visitors: int
    alpha: float
    regularisation: float
    popularity: float
    weight: float
    similarity_slope: float
    similarity_intercept: float
    taste_slope: float
    taste_intercept: float


@dataclass(frozen=True, slots=True)
class Listed:
    """k products, best first. A score is ``base`` + what popularity, similarity and taste add.

    Attributes:
        rows: [k] of the model's products.
        scores: [k] log-odds.
        popularity: [k] what it adds, above the mean of all products.
        base: log-odds of a product that nothing speaks for or against.
        similarity, taste: [k] what each adds; None where it was not asked.
    """

    rows: Ints
    scores: Floats
    popularity: Floats
    base: float
    similarity: Floats | None = None
    taste: Floats | None = None


class ProductModel:
    """Which products come next for a short history, exactly, over all I products.

    Args:
        ids: [I] products, each once.
        vectors: [I, d] of alternating least squares.
        counts: [I] visitors who took each.
        learnt: the rest.
    """

    def __init__(self, ids: NDArray[np.str_], vectors: Floats, counts: Ints, learnt: Learnt) -> None:
        self.ids, self.vectors, self.counts, self.learnt = ids, vectors, counts, learnt
        self.row_of = {name: row for row, name in enumerate(ids.tolist())}
        self.popularity = _log_odds(wilson(counts, learnt.visitors))
        self._mean_popularity = np.float32(self.popularity.mean()) if len(ids) else np.float32(0.0)
        self._inverse_norms: Floats = 1.0 / np.maximum(np.linalg.norm(vectors, axis=1), np.float32(1e-12))
        self._squares = (vectors.T @ vectors).astype(np.float64)

    def __len__(self) -> int:
        """I."""
        return len(self.ids)

    def rows(self, product_ids: Iterable[str]) -> Ints:
        """Rows of those products that the model knows, each once, in the given order."""
        found = (self.row_of.get(product) for product in dict.fromkeys(product_ids))
        return np.array([row for row in found if row is not None], dtype=np.int64)

    def similar(self, looked: int, history: Ints, allowed: Bools, n: int) -> Listed:
        """The best of the allowed products for somebody who looks at one, never that one; without a history by
        similarity alone.

        Args:
            looked: row of the product looked at.
            history: rows of what they took before; the one looked at does not count.
            allowed: [I] what may be listed.
            n: at most so many.
        """
        history, learnt = history[history != looked], self.learnt
        weight = learnt.weight if len(history) else 1.0
        direction = self.vectors[looked] * self._inverse_norms[looked]
        taste = self.vector_of(history) if weight < 1.0 else np.zeros_like(direction)
        found = self._products_with(np.stack([direction, taste], axis=1))
        of_similarity, of_taste = (1.0 - learnt.popularity) * weight, (1.0 - learnt.popularity) * (1.0 - weight)
        similarity = np.float32(of_similarity * learnt.similarity_slope) * found[:, 0] * self._inverse_norms
        liked = np.float32(of_taste * learnt.taste_slope) * found[:, 1]
        popular = np.float32(learnt.popularity) * (self.popularity - self._mean_popularity)
        base = of_similarity * learnt.similarity_intercept + of_taste * learnt.taste_intercept
        base += learnt.popularity * float(self._mean_popularity)
        scores = np.float32(base) + similarity + liked + popular
        listed = allowed.copy()
        listed[looked] = False
        rows = _best(scores, listed, n)
        own = liked[rows] if weight < 1.0 else None
        return Listed(rows, scores[rows], popular[rows], base, similarity[rows], own)

    def recommend(self, history: Ints, allowed: Bools, n: int) -> Listed:
        """The best of the allowed products after a history, newest first, none of it among them.

        The newest product is taken as the one looked at. Without a history: the popular ones.
        """
        if not len(history):
            return self.popular(allowed, n)
        unseen = allowed.copy()
        unseen[history] = False
        return self.similar(int(history[0]), history[1:], unseen, n)

    def popular(self, allowed: Bools, n: int) -> Listed:
        """The products taken by the most visitors; a score is the log-odds of the lower end of their share."""
        rows = _best(self.popularity, allowed, n)
        scores, mean = self.popularity[rows], self._mean_popularity
        return Listed(rows, scores, scores - mean, float(mean))

    def vector_of(self, history: Ints) -> Floats:
        """[d] the least-squares vector of somebody with just this history, of which each product counts once.

        Source: Hu, Koren and Volinsky, ICDM 2008, equation 4, with λ scaled by the sum of the confidences.
        """
        taken = self.vectors[np.unique(history)].astype(np.float64)
        alpha = self.learnt.alpha
        ridge = self.learnt.regularisation * (len(self) + alpha * len(taken))
        normal = self._squares + alpha * taken.T @ taken + ridge * np.eye(self.vectors.shape[1])
        found: Floats = np.linalg.solve(normal, (1.0 + alpha) * taken.sum(axis=0)).astype(np.float32)
        return found

    def _products_with(self, pair: Floats) -> Floats:
        """[I, 2] products of all vectors with two, in one pass: to read them takes the time.

        In blocks so small that BLAS needs no threads, which wait for each other when a server is busy.
        """
        found = np.empty((len(self), 2), np.float32)
        for start in range(0, len(self), BLOCK):
            np.matmul(self.vectors[start : start + BLOCK], pair, out=found[start : start + BLOCK])
        return found

    def weighted(self, weight: float, popularity: float) -> Self:
        """The same with other shares of similarity and popularity."""
        learnt = replace(self.learnt, weight=weight, popularity=popularity)
        return type(self)(self.ids, self.vectors, self.counts, learnt)

    def described(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self.learnt)

    def save(self, file: Path) -> None:
        """Write the arrays; what was learnt besides is in the manifest."""
        np.savez(file, ids=self.ids, vectors=self.vectors, counts=self.counts)

    @classmethod
    def load(cls, file: Path, described: dict[str, Any]) -> Self:
        """Read what ``save`` wrote; ``described`` is the manifest's part.

        Raises:
            BundleError: the file is not there, or does not hold what it should.
        """
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return cls(arrays["ids"], arrays["vectors"], arrays["counts"], Learnt(**described))
        except (OSError, EOFError, BadZipFile, KeyError, ValueError, TypeError) as error:
            raise BundleError(f"{file}: cannot be read as a product model: {error}") from None


def wilson(counts: Ints, total: int) -> NDArray[np.float64]:
    """[n] lower ends of the 95 % intervals of the shares ``counts`` / ``total``; 0 for none.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.
    """
    total = max(total, 1)
    share, z = np.asarray(counts, np.float64) / total, WILSON_Z
    middle = share + z * z / (2 * total)
    spread = z * np.sqrt(share * (1 - share) / total + z * z / (4.0 * total * total))
    return np.asarray(np.maximum((middle - spread) / (1 + z * z / total), 0.0))


def _log_odds(shares: NDArray[np.float64]) -> Floats:
    inside = np.clip(shares, 1e-9, 1 - 1e-9)
    found: Floats = np.log(inside / (1 - inside)).astype(np.float32)
    return found


def _best(scores: Floats, allowed: Bools, n: int) -> Ints:
    """Rows of the best allowed scores, best first, ties by row."""
    n = min(n, int(np.count_nonzero(allowed)))
    if n <= 0:
        return np.zeros(0, np.int64)
    found: Ints = top_k(np.where(allowed, scores, np.float32(-np.inf))[None], n)[0]
    return found
