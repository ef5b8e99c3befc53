"""One request to one slate: eligibility, retrieval, ranking, policy, reasons. Pure: no clock, no network, no disk."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marquee.policy import draw_slate
from serving.reasons import reasons
from training.bundle import Bundle, Context
from training.eligibility import eligible_banners


@dataclass(frozen=True, slots=True)
class Placed:
    """One banner of a slate: its place, click probability, propensity, the ranker's inputs and the reasons."""

    row: int
    position: int
    score: float
    propensity: float
    features: NDArray[np.float32]
    reasons: list[str]


def recommend(
    bundle: Bundle,
    context: Context,
    n: int,
    visitor: dict[str, Any] | None,
    banner_counts: dict[str, NDArray[np.float64]],
    rng: np.random.Generator,
    explain: bool = True,
) -> list[Placed]:
    """Draw a slate of at most ``n`` banners; empty when nothing may be shown, never an error.

    Args:
        visitor: raw features by name, or None: then context and popularity decide.
        banner_counts: [B] arrays of the banners' counts, NaN for one never shown.
        rng: the draw's source of chance; ``request_rng`` makes it repeatable.
        explain: False leaves the reasons empty, for replays of many requests.
    """
    rows = bundle.retrieve(visitor, eligible_banners(bundle.catalogue, context.placement_id, context.at))
    if not len(rows):
        return []
    matrix = bundle.matrix(visitor, rows, banner_counts, context)
    scores = bundle.ranker.predict(matrix)
    alike = bundle.similarity(rows) if bundle.policy.diversity else None
    slate = draw_slate(bundle.appeal(scores, rows, banner_counts), n, bundle.policy, rng, alike)
    placed = [
        Placed(int(rows[item]), position, float(scores[item]), float(slate.propensities[position]), matrix[item], [])
        for position, item in enumerate(slate.items)
    ]
    if explain:
        contributions = bundle.ranker.contributions(matrix[slate.items])
        for banner, shares, likeliest in zip(placed, contributions, slate.likeliest, strict=True):
            banner.reasons.extend(reasons(bundle, banner.row, banner.features, shares, visitor, not likeliest))
    return placed


def request_rng(request_id: str) -> np.random.Generator:
    """Chance seeded by the request's id, so that a logged draw can be replayed."""
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(request_id.encode(), digest_size=8).digest()))
