"""The two towers in NumPy: what TensorFlow trained, without TensorFlow to serve it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
CONTENT = 2
"""Columns of ``banner_inputs`` behind the category mix."""
FREE_DIMENSIONS, FREE_UNITS = 8, 16
"""What towers made from content leave to training, at least."""
FREE_SCALE = 0.3
"""Of the random weights of those, relative to 1 / √inputs."""
UNKNOWN_LENGTH = 0.5
"""Length that every visitor has along a free dimension, where the length of an interest in one category is 1."""


@dataclass(frozen=True, slots=True)
class Towers:
    """Weights of both towers: two dense layers each, and an embedding per banner (row 0: a banner never seen)."""

    visitor_hidden: Array
    visitor_hidden_bias: Array
    visitor_output: Array
    visitor_output_bias: Array
    banner_embedding: Array
    banner_hidden: Array
    banner_hidden_bias: Array
    banner_output: Array
    banner_output_bias: Array

    def visitor_vectors(self, inputs: Array) -> Array:
        """Unit vectors [n, d] of visitors from ``visitor_inputs``."""
        hidden = np.maximum(inputs @ self.visitor_hidden + self.visitor_hidden_bias, 0)
        return _unit(hidden @ self.visitor_output + self.visitor_output_bias)

    def banner_vectors(self, ids: NDArray[np.int64], inputs: Array) -> Array:
        """Unit vectors [n, d] of banners; id 0 stands for a banner that training did not see."""
        joined = np.concatenate([self.banner_embedding[ids], inputs], axis=1)
        hidden = np.maximum(joined @ self.banner_hidden + self.banner_hidden_bias, 0)
        return _unit(hidden @ self.banner_output + self.banner_output_bias)

    def save(self, path: Path) -> None:
        """Write an ``.npz`` without pickles."""
        np.savez(path, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def from_content(
        cls, visitor_width: int, banners: Array, dimensions: int, hidden: int, embedding: int, rng: np.random.Generator
    ) -> Towers:
        """Towers that know nothing but content, for training to start from: near the cosine of category shares.

        Both towers carry the shares, or as many of their principal directions as fit, through two of their hidden units
        each (ReLU keeps a value's positive part in one and its negative in the other). The remaining units and
        dimensions start small and at random; a visitor without a known interest points along one of them.

        Args:
            visitor_width: columns of ``visitor_inputs``.
            banners: [B, C + 2] ``banner_inputs`` of all banners.
            dimensions, hidden, embedding: sizes of the vectors, the hidden layers and the banners' embedding.
            rng: draws what is not content.
        """
        categories = banners.shape[1] - CONTENT
        carried = max(0, min(categories, dimensions - FREE_DIMENSIONS, (hidden - FREE_UNITS) // 2))
        basis = np.eye(categories, dtype=np.float32)
        if carried < categories:
            basis = np.linalg.svd(banners[:, :categories], full_matrices=True)[2][:carried].T
        sizes = (hidden, dimensions)
        visitor = _carrying(basis, 0, (visitor_width, *sizes), rng)
        banner = _carrying(basis, embedding, (embedding + banners.shape[1], *sizes), rng)
        visitor[3][min(carried, dimensions - 1)] = UNKNOWN_LENGTH
        table = rng.uniform(-0.05, 0.05, (len(banners) + 1, embedding)).astype(np.float32)
        weights = [*visitor, table, *banner]
        return cls(*weights)

    @classmethod
    def load(cls, path: Path) -> Towers:
        """Read what ``save`` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{field.name: arrays[field.name] for field in fields(cls)})


def visitor_inputs(shares: NDArray[np.float32], counts: NDArray[np.float64]) -> Array:
    """[n, C + counts]: category shares beside damped counts; a missing count is a count of nothing."""
    damped = np.log1p(np.where(np.isnan(counts), 0.0, counts)) / 5.0
    return np.concatenate([shares, damped.astype(np.float32)], axis=1)


def banner_inputs(
    shares: NDArray[np.float32], product_counts: NDArray[np.float64], mean_prices: NDArray[np.float64]
) -> Array:
    """[B, C + 2]: category mix beside damped size and price."""
    content = np.log1p(np.stack([product_counts, mean_prices], axis=1)) / 5.0
    return np.concatenate([shares, content.astype(np.float32)], axis=1)


def _carrying(basis: Array, first: int, sizes: tuple[int, int, int], rng: np.random.Generator) -> list[Array]:
    """Weights and biases of two layers that carry C inputs from column ``first`` on along a basis [C, k]."""
    inputs, hidden, outputs = sizes
    categories, carried = basis.shape
    into = rng.normal(0, FREE_SCALE / np.sqrt(inputs), (inputs, hidden))
    out = rng.normal(0, FREE_SCALE / np.sqrt(hidden), (hidden, outputs))
    into[:, : 2 * carried] = 0.0
    into[first : first + categories, :carried] = basis
    into[first : first + categories, carried : 2 * carried] = -basis
    out[: 2 * carried] = 0.0
    out[2 * carried :, :carried] = 0.0
    out[:carried, :carried] = np.eye(carried)
    out[carried : 2 * carried, :carried] = -np.eye(carried)
    layers = (into, np.zeros(hidden), out, np.zeros(outputs))
    return [layer.astype(np.float32) for layer in layers]


def _unit(vectors: Array) -> Array:
    # TensorFlow's l2_normalize floors the squared norm at 1e-12; so do we, to agree on zero vectors.
    squared = np.sum(vectors * vectors, axis=1, keepdims=True)
    unit: Array = (vectors / np.sqrt(np.maximum(squared, 1e-12))).astype(np.float32)
    return unit
