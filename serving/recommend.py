"""One request to one slate: eligibility, retrieval, ranking, policy, reasons. Pure: no clock, no network, no disk."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marquee.policy import Chance, Ints, draw_slate
from serving.reasons import reasons
from training.bundle import Bundle, Context
from training.eligibility import eligible_banners


@dataclass(frozen=True, slots=True)
class Allowed:
    """What may be shown: [B] whether, in which order a slate is filled, and which of them exclude each other.

    Attributes:
        tiers: higher ones fill a slate first; None where all are alike.
        groups: of one group a slate holds one banner, -1 for none; None where no banner excludes another.
    """

    mask: NDArray[np.bool_]
    tiers: Ints | None = None
    groups: Ints | None = None


@dataclass(frozen=True, slots=True)
class Placed:
    """One banner of a slate: its place, click probability, propensity, the ranker's inputs and the reasons."""

    row: int
    position: int
    score: float
    propensity: float
    features: NDArray[np.float32]
    reasons: list[str]


@dataclass(frozen=True, slots=True)
class Ranked:
    """What the ranker saw: n rows of the catalogue, their inputs [n, F] and click probabilities [n]."""

    rows: Ints
    matrix: NDArray[np.float32]
    scores: NDArray[np.float64]


def recommend(
    bundle: Bundle,
    context: Context,
    n: int,
    visitor: dict[str, Any] | None,
    banner_counts: dict[str, NDArray[np.float64]],
    rng: Chance,
    explain: bool = True,
    allowed: Allowed | None = None,
) -> list[Placed]:
    """Draw a slate of at most ``n`` banners; empty when nothing may be shown, never an error.

    Args:
        visitor: raw features by name, or None: then context and popularity decide.
        banner_counts: [B] arrays of the banners' counts, NaN for one never shown.
        rng: the draw's source of chance; ``RequestChance`` makes it repeatable.
        explain: False leaves the reasons empty, for replays of many requests.
        allowed: what the shop's rules allow; without it calendar, status and placement decide.
    """
    may = allowed or Allowed(eligible_banners(bundle.catalogue, context.placement_id, context.at))
    ranked = rank(bundle, context, visitor, banner_counts, may)
    return draw(bundle, ranked, n, visitor, banner_counts, rng, explain, may) if len(ranked.rows) else []


def rank(
    bundle: Bundle,
    context: Context,
    visitor: dict[str, Any] | None,
    banner_counts: dict[str, NDArray[np.float64]],
    allowed: Allowed,
) -> Ranked:
    """The banners that retrieval hands on, with their click probabilities; no rows when nothing may be shown."""
    rows = bundle.shortlist(visitor, allowed.mask, banner_counts, allowed.tiers)
    matrix = bundle.matrix(visitor, rows, banner_counts, context)
    return Ranked(rows, matrix, bundle.ranker.predict(matrix) if len(rows) else np.empty(0))


def draw(
    bundle: Bundle,
    ranked: Ranked,
    n: int,
    visitor: dict[str, Any] | None,
    banner_counts: dict[str, NDArray[np.float64]],
    rng: Chance,
    explain: bool,
    allowed: Allowed,
) -> list[Placed]:
    """The slate that the policy draws from ranked banners, at least one of them."""
    rows, scores = ranked.rows, ranked.scores
    alike = bundle.similarity(rows) if bundle.policy.diversity else None
    tiers = None if allowed.tiers is None else allowed.tiers[rows]
    groups = None if allowed.groups is None else allowed.groups[rows]
    appeal = bundle.appeal(scores, rows, banner_counts)
    slate = draw_slate(appeal, n, bundle.policy, rng, alike, tiers, groups)
    why: list[list[str]] = [[] for _ in slate.items]
    if explain:
        why = reasons(bundle, ranked.matrix, scores, rows, slate.items, visitor, ~slate.likeliest)
    return [
        Placed(
            int(rows[item]),
            position,
            float(scores[item]),
            float(slate.propensities[position]),
            ranked.matrix[item],
            why[position],
        )
        for position, item in enumerate(slate.items)
    ]


class RequestChance(Chance):
    """Uniform numbers from a request's id alone, so that a logged draw can be made again.

    BLAKE2b in counter mode, 53 bits a number: a generator of NumPy's takes ten times as long to be made as a slate
    needs numbers.
    """

    def __init__(self, request_id: str) -> None:
        self._key, self._block, self._left = request_id.encode(), 0, b""

    def random(self) -> float:
        """The next number in [0, 1)."""
        if not self._left:
            self._left = hashlib.blake2b(self._key, salt=self._block.to_bytes(8, "big")).digest()
            self._block += 1
        word, self._left = self._left[:8], self._left[8:]
        return (int.from_bytes(word, "big") >> 11) * 2.0**-53
