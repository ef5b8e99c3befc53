"""GRU4Rec: a recurrent network reads the session and says what comes next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from training.neural import keras
from training.sequences import SequenceRecommender, SequenceSettings


@dataclass(frozen=True, slots=True)
class GRU4RecSettings(SequenceSettings):
    """Plain values; ``layers`` GRUs of ``units`` cells, 0 for as many as ``dimensions``."""

    layers: int = 1
    units: int = 0


class GRUEncoder(keras.layers.Layer):
    """Stacked GRUs, and a projection where their cells are not as many as the embeddings'."""

    def __init__(self, settings: GRU4RecSettings) -> None:
        super().__init__()
        units = settings.units or settings.dimensions
        self.layers = [keras.layers.GRU(units, return_sequences=True) for _ in range(settings.layers)]
        self.projection = keras.layers.Dense(settings.dimensions) if units != settings.dimensions else None

    def call(self, embedded: Any, lengths: Any, training: bool = False) -> Any:
        """States [B, T, d]; ``lengths`` is not needed, as padding stands behind."""
        for layer in self.layers:
            embedded = layer(embedded, training=training)
        return self.projection(embedded) if self.projection else embedded


class GRU4Rec(SequenceRecommender):
    """Sources: Hidasi et al., ICLR 2016; Hidasi and Karatzoglou, CIKM 2018 (sampled softmax); tied embeddings."""

    Settings = GRU4RecSettings
    about = "recurrent network over the session"

    def encoder(self) -> Any:
        """The GRUs."""
        return GRUEncoder(self.settings)


MODEL = GRU4Rec
