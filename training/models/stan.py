"""STAN: session kNN that minds the order of items, the age of sessions, and how far apart items stand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from training.interactions import Ints
from training.session_neighbours import Asked, Doubles, Neighbours, SessionKNN, decayed


@dataclass(frozen=True, slots=True)
class STANSettings:
    """Plain values; 0 turns a decay off.

    Attributes:
        neighbours: how many sessions vote.
        sample: they are chosen from so many sessions, the newest that share an item.
        newest: how many events of the asker's history are looked at; 0 for all.
        lambda_spw: λ₁ in places: an item d places before the last one weighs exp(−d/λ₁).
        lambda_snh: λ₂ as a share of the time that training spans: a session that ended a before its end weighs
            exp(−a/λ₂).
        lambda_inh: λ₃ in places: an item d places from the newest shared one gets exp(−d/λ₃) of a vote.
    """

    neighbours: int = 500
    sample: int = 6000
    newest: int = 50
    lambda_spw: float = 1.25
    lambda_snh: float = 0.6
    lambda_inh: float = 8.0


class STAN(SessionKNN):
    """s(b) = Σ_n sim(n) · exp(−age_n/λ₂) · exp(−|place_b − place_m|/λ₃) over the nearest sessions n that hold b.

    sim(n) = Σ exp(−d_a/λ₁) / √|n| over the items a that n shares with the history, d_a places before the history's last
    event; |n| is the number of n's different items, m the shared item taken last. The history's own length, which is
    the same for all n, is left out. Ages are shares of the time that training spans, so that λ₂ needs no unit of
    time, and sessions without times have the order of the file for one.

    Source: Garg, Gupta, Malhotra, Vig, Shroff, "Sequence and time aware neighborhood for session-based
    recommendations: STAN", SIGIR 2019.
    """

    Settings = STANSettings
    about = "similar sessions vote, minding order, age and distance"
    settings: STANSettings

    @classmethod
    def space(cls, trial: Any) -> dict[str, Any]:
        """Settings for a trial of Optuna."""
        return {
            "neighbours": trial.suggest_int("neighbours", 50, 1500, log=True),
            "sample": trial.suggest_int("sample", 500, 10_000, log=True),
            "lambda_spw": trial.suggest_float("lambda_spw", 0.5, 10.0, log=True),
            "lambda_snh": trial.suggest_float("lambda_snh", 0.02, 5.0, log=True),
            "lambda_inh": trial.suggest_float("lambda_inh", 0.5, 20.0, log=True),
        }

    def importance(self, asked: Asked) -> Doubles:
        """Less for items taken longer ago."""
        return decayed(asked.steps, self.settings.lambda_spw)

    def closeness(self, found: Neighbours) -> Doubles:
        """Cosine similarity, less for older sessions."""
        size = np.sqrt(self.index.sizes[found.sessions])
        return found.similarity / size * decayed(self.index.ages[found.sessions], self.settings.lambda_snh)

    def votes(self, found: Neighbours, voter: Ints, items: Ints, places: Ints) -> Doubles:
        """Less for items further away from the shared one."""
        return found.similarity[voter] * decayed(np.abs(places - found.places[voter]), self.settings.lambda_inh)


MODEL = STAN
