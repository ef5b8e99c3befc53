"""The two-tower retrieval model, trained with TensorFlow Recommenders. TensorFlow is imported here and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # TFRS is a Keras 2 library and refuses Keras 3.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
import tensorflow_recommenders as tfrs

from training.towers import Towers


@dataclass(frozen=True, slots=True)
class TwoTowerSettings:
    """Sizes and rates; plain values."""

    dimensions: int = 32
    hidden: int = 64
    embedding: int = 16
    epochs: int = 8
    batch: int = 256
    learning_rate: float = 3e-3
    temperature: float = 0.3
    unseen_share: float = 0.2
    seed: int = 7


class TwoTower(tfrs.Model):
    """Visitor and banner towers with an in-batch sampled softmax, corrected for banner frequency (log-Q).

    A thin wrapper: the same towers can be fitted with any Keras loop by calling ``visitor`` and ``banner``.
    Source: Yi et al., "Sampling-bias-corrected neural modeling", RecSys 2019.
    """

    def __init__(self, banners: int, settings: TwoTowerSettings) -> None:
        super().__init__()
        layers = tf.keras.layers
        self.visitor = tf.keras.Sequential(
            [layers.Dense(settings.hidden, activation="relu"), layers.Dense(settings.dimensions)]
        )
        self.embedding = layers.Embedding(banners + 1, settings.embedding)
        self.banner = tf.keras.Sequential(
            [layers.Dense(settings.hidden, activation="relu"), layers.Dense(settings.dimensions)]
        )
        self.task = tfrs.tasks.Retrieval(temperature=settings.temperature, remove_accidental_hits=True)

    def banner_vectors(self, ids: Any, inputs: Any) -> Any:
        """Unit vectors of banners."""
        return tf.math.l2_normalize(self.banner(tf.concat([self.embedding(ids), inputs], axis=1)), axis=1)

    def compute_loss(self, features: Any, training: bool = False) -> Any:
        """In-batch softmax loss of one batch of clicks."""
        visitors = tf.math.l2_normalize(self.visitor(features["visitor"]), axis=1)
        banners = self.banner_vectors(features["embedding_id"], features["banner"])
        return self.task(
            visitors,
            banners,
            candidate_ids=features["banner_id"],
            candidate_sampling_probability=features["probability"],
            compute_metrics=False,
        )


def fit_two_tower(
    visitors: NDArray[np.float32],
    banner_rows: NDArray[np.int64],
    banners: NDArray[np.float32],
    settings: TwoTowerSettings,
    on_epoch: Callable[[int, float], None] | None = None,
) -> Towers:
    """Fit on clicks and return the weights.

    Args:
        visitors: [n, V] tower inputs of the visitor of each click, as of its impression.
        banner_rows: [n] row of the clicked banner.
        banners: [B, W] tower inputs of all banners.
        on_epoch: called with the epoch's number and the loss of its last batch, summed over the batch.
    """
    tf.keras.utils.set_random_seed(settings.seed)
    tf.config.experimental.enable_op_determinism()
    model = TwoTower(len(banners), settings)
    model.compile(optimizer=tf.keras.optimizers.Adam(settings.learning_rate))
    report = tf.keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: on_epoch(epoch + 1, float(logs["loss"])) if on_epoch else None
    )
    clicks = _clicks(visitors, banner_rows, banners, settings)
    model.fit(clicks, epochs=settings.epochs, verbose=0, callbacks=[report])
    return _export(model)


def _clicks(
    visitors: NDArray[np.float32], rows: NDArray[np.int64], banners: NDArray[np.float32], settings: TwoTowerSettings
) -> Any:
    rng = np.random.default_rng(settings.seed)
    # Some clicks train the "never seen" row, so that a new banner is placed by its content alone.
    embedding_ids = np.where(rng.random(len(rows)) < settings.unseen_share, 0, rows + 1)
    probability = np.bincount(rows, minlength=len(banners)) / len(rows)
    data = tf.data.Dataset.from_tensor_slices(
        {
            "visitor": visitors,
            "banner": banners[rows],
            "embedding_id": embedding_ids,
            "banner_id": rows,
            "probability": probability[rows].astype(np.float32),
        }
    )
    return data.shuffle(len(rows), seed=settings.seed).batch(settings.batch).prefetch(2)


def _export(model: TwoTower) -> Towers:
    weights = [layer.numpy() for layer in (*model.visitor.weights, *model.embedding.weights, *model.banner.weights)]
    return Towers(*weights)
