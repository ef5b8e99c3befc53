"""The two towers in NumPy: what TensorFlow trained, without TensorFlow to serve it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


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
    def load(cls, path: Path) -> Towers:
        """Read what ``save`` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{field.name: arrays[field.name] for field in fields(cls)})


def visitor_inputs(shares: NDArray[np.float32], counts: NDArray[np.float64]) -> Array:
    """[n, C + counts]: category shares beside damped counts; a missing count is a count of nothing."""
    damped = np.log1p(np.nan_to_num(counts)) / 5.0
    return np.concatenate([shares, damped.astype(np.float32)], axis=1)


def banner_inputs(
    shares: NDArray[np.float32], product_counts: NDArray[np.float64], mean_prices: NDArray[np.float64]
) -> Array:
    """[B, C + 2]: category mix beside damped size and price."""
    content = np.log1p(np.stack([product_counts, mean_prices], axis=1)) / 5.0
    return np.concatenate([shares, content.astype(np.float32)], axis=1)


def _unit(vectors: Array) -> Array:
    # TensorFlow's l2_normalize floors the squared norm at 1e-12; so do we, to agree on zero vectors.
    squared = np.sum(vectors * vectors, axis=1, keepdims=True)
    unit: Array = (vectors / np.sqrt(np.maximum(squared, 1e-12))).astype(np.float32)
    return unit
