"""V-STAN: STAN's decays together with V-SKNN's, and rare items say more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from training.interactions import Ints
from training.session_neighbours import Asked, Doubles, Neighbours, SessionKNN, decayed


@dataclass(frozen=True, slots=True)
class VSTANSettings:
    """Plain values; a λ of 0 turns its decay off.

    Attributes:
        neighbours: how many sessions vote.
        sample: they are chosen from so many sessions, the newest that share an item.
        newest: how many events of the asker's history are looked at; 0 for all.
        lambda_spw: λ₁ in places: an item d places before the last one weighs exp(−d/λ₁).
        lambda_snh: λ₂ as a share of the time that training spans: a session that ended a before its end weighs
            exp(−a/λ₂).
        lambda_inh: λ₃ in places: an item d places from the newest shared one gets exp(−d/λ₃) of a vote.
        rarity: α: sharing an item weighs idf^α.
        size: β: a session of n different items is n^β times less similar; ½ makes the cosine.
        sharpness: γ: similarities are raised to that power before they are summed.
        idf: items are voted for with up to 1 + idf·log(sessions / sessions with the item).
    """

    neighbours: int = 500
    sample: int = 600
    newest: int = 50
    lambda_spw: float = 4.0
    lambda_snh: float = 1.4
    lambda_inh: float = 8.0
    rarity: float = 2.5
    size: float = 0.25
    sharpness: float = 1.6
    idf: float = 10.0


class VSTAN(SessionKNN):
    """s(b) = Σ_n sim(n)^γ · (1 + idf·idf_b) · exp(−|place_b − place_m|/λ₃) / log₁₀(d_m + 2.7), n the nearest with b.

    sim(n) = Σ idf_a^α · exp(−d_a/λ₁) / |n|^β · exp(−age_n/λ₂) over the items a that session n shares with the history,
    d_a places before the history's last event; |n| is the number of n's different items, m the shared item taken last.
    Ages are shares of the time that training spans.

    Source: Ludewig, Mauro, Latifi, Jannach, "Empirical analysis of session-based recommendation algorithms", UMUAI
    2021, which joins STAN and V-SKNN this way; α, β and γ are added here.
    """

    Settings = VSTANSettings
    about = "STAN's decays and V-SKNN's, and rare items say more"
    settings: VSTANSettings

    @classmethod
    def space(cls, trial: Any) -> dict[str, Any]:
        """Settings for a trial of Optuna."""
        return {
            "neighbours": trial.suggest_int("neighbours", 50, 1500, log=True),
            "sample": trial.suggest_int("sample", 500, 10_000, log=True),
            "lambda_spw": trial.suggest_float("lambda_spw", 0.5, 10.0, log=True),
            "lambda_snh": trial.suggest_float("lambda_snh", 0.02, 5.0, log=True),
            "lambda_inh": trial.suggest_float("lambda_inh", 1.0, 50.0, log=True),
            "rarity": trial.suggest_float("rarity", 0.0, 4.0),
            "size": trial.suggest_float("size", 0.0, 1.0),
            "sharpness": trial.suggest_float("sharpness", 0.5, 2.0),
            "idf": trial.suggest_float("idf", 0.01, 30.0, log=True),
        }

    def importance(self, asked: Asked) -> Doubles:
        """More for rare items, less for items taken longer ago."""
        rarity = np.maximum(self.index.rarity[asked.items], 0.0) ** self.settings.rarity
        weights: Doubles = rarity * decayed(asked.steps, self.settings.lambda_spw)
        return weights

    def closeness(self, found: Neighbours) -> Doubles:
        """Similarity for the session's size, less for older sessions."""
        size = self.index.sizes[found.sessions] ** self.settings.size
        return found.similarity / size * decayed(self.index.ages[found.sessions], self.settings.lambda_snh)

    def votes(self, found: Neighbours, voter: Ints, items: Ints, places: Ints) -> Doubles:
        """Less where the newest shared item is long ago or far away, more for rare items."""
        says = found.similarity**self.settings.sharpness / np.log10(found.steps + 2.7)
        near = decayed(np.abs(places - found.places[voter]), self.settings.lambda_inh)
        votes: Doubles = says[voter] * near * (1.0 + self.settings.idf * self.index.rarity[items])
        return votes


MODEL = VSTAN
