"""SASRec: self-attention over the history says what comes next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from training.neural import Dropout, keras, tf
from training.sequences import SequenceRecommender, SequenceSettings


@dataclass(frozen=True, slots=True)
class SASRecSettings(SequenceSettings):
    """Plain values.

    Attributes:
        blocks: attention and feed-forward layers on top of each other.
        heads: attention heads; they share ``dimensions``.
        hidden: cells of the feed-forward layer, in multiples of ``dimensions``.
    """

    dimensions: int = 100
    length: int = 200
    scale: float = 16.0
    blocks: int = 2
    heads: int = 2
    hidden: int = 1


class AttentionEncoder(keras.layers.Layer):
    """A vector for each position is added, then blocks of causal attention, normalised before each part.

    Padding stands behind, where causal attention never looks from inside a history.
    """

    def __init__(self, settings: SASRecSettings) -> None:
        super().__init__()
        self.settings = settings
        self.blocks = [AttentionBlock(settings, settings.seed + 10 * place) for place in range(1, settings.blocks + 1)]
        self.normalise = keras.layers.LayerNormalization(epsilon=1e-6)

    def build(self, shape: Any) -> None:
        """Make the table of positions."""
        self.positions = self.add_weight(
            "positions", (self.settings.length, self.settings.dimensions), initializer="random_normal"
        )
        super().build(shape)

    def call(self, embedded: Any, lengths: Any, training: bool = False) -> Any:
        """States [B, T, d]."""
        states = embedded * self.settings.dimensions**0.5 + self.positions[: tf.shape(embedded)[1]]
        for block in self.blocks:
            states = block(states, training=training)
        return self.normalise(states)


class AttentionBlock(keras.layers.Layer):
    """x + attention(norm x), then x + feed-forward(norm x)."""

    def __init__(self, settings: SASRecSettings, seed: int) -> None:
        super().__init__()
        layers, width = keras.layers, settings.dimensions
        self.norms = [layers.LayerNormalization(epsilon=1e-6) for _ in range(2)]
        self.attention = layers.MultiHeadAttention(settings.heads, width // settings.heads)
        self.widen = layers.Dense(width * settings.hidden, activation="gelu")
        self.narrow = layers.Dense(width)
        self.dropouts = [Dropout(settings.dropout, seed + part) for part in range(2)]

    def call(self, states: Any, training: bool = False) -> Any:
        """States [B, T, d]."""
        normal = self.norms[0](states)
        attended = self.attention(normal, normal, use_causal_mask=True)
        states = states + self.dropouts[0](attended, training=training)
        inner = self.narrow(self.widen(self.norms[1](states)))
        return states + self.dropouts[1](inner, training=training)


class SASRec(SequenceRecommender):
    """Sources: Kang and McAuley, ICDM 2018; sampled softmax or gBCE as in Petrov and Macdonald, RecSys 2023."""

    Settings = SASRecSettings
    about = "self-attention over the history"

    def encoder(self) -> Any:
        """The attention blocks."""
        return AttentionEncoder(self.settings)


MODEL = SASRec
