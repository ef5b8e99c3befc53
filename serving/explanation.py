"""A logged answer made again from its bundle and its inputs, bit for bit, and why each banner was shown or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ingestion.catalogue_store import Managed
from marquee import contract
from marquee.catalogue import Banner, Campaign, Placement
from marquee.errors import BundleError, MarqueeError
from marquee.settings import Settings
from serving.decision import Board, Decision, Inputs, decide
from serving.decision_log import find_decision, inputs_from_json, read_state
from serving.live_catalogue import Live
from serving.reasons import contributions
from serving.rule import sentence
from training import registry
from training.bundle import Bundle
from training.catalogue import Catalogue

MOST_SHARES: Final = 5
"""Features of a banner whose shares in its log-odds are told."""


@dataclass(frozen=True, slots=True)
class Told:
    """Why one banner was shown or not.

    Attributes:
        position: in the slate, None outside of it.
        rank: by what the policy draws by, from 1; None for one that the ranker did not see.
        score: click probability, where the ranker saw it.
        why: one sentence.
        evidence: log-odds by kind of evidence, against a typical candidate; of banners in the slate.
        shares: the largest shares of single features in its log-odds (SHAP); of banners in the slate.
    """

    banner_id: str
    position: int | None
    rank: int | None
    score: float | None
    propensity: float | None
    why: str
    evidence: dict[str, float]
    shares: dict[str, float]


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision made again: ``is_same`` when banners, scores and propensities equal the logged ones bit for bit."""

    request_id: str
    visitor_id: str | None
    placement_id: str
    at: str
    bundle: str
    engine: str
    fallback: str | None
    is_same: bool
    difference: str
    banners: list[Told]


def explain(settings: Settings, request_id: str) -> Explanation:
    """Make a decision again.

    Raises:
        MarqueeError: nothing is kept of the request, or its state or bundle is gone.
    """
    line = find_decision(settings, request_id)
    if line is None:
        raise MarqueeError(
            f"nothing is kept of request {request_id!r}: quick answers leave nothing, and others go after explain_days "
            f"({settings.explain_days:g})"
        )
    board, inputs = _board(settings, line), inputs_from_json(line["inputs"])
    decision = decide(board, inputs)
    difference = _difference(board, decision, line["slate"])
    if difference and line["engine"] != board.bundle.ranker.engine.name:
        difference += f"; it was made with {line['engine']}, here is {board.bundle.ranker.engine.name}"
    return Explanation(
        request_id=request_id,
        visitor_id=inputs.ask.visitor_id,
        placement_id=inputs.ask.placement_id,
        at=inputs.ask.at.isoformat(),
        bundle=board.tag,
        engine=line["engine"],
        fallback=line["fallback"],
        is_same=not difference,
        difference=difference,
        banners=_told(board, inputs, decision),
    )


def _board(settings: Settings, line: dict[str, Any]) -> Board:
    try:
        bundle = registry.load_bundle(settings, line["bundle"])
        state = read_state(settings, line["state"])
        return _restored(line["bundle"], bundle, state)
    except (BundleError, OSError, EOFError, ValueError) as error:
        raise MarqueeError(f"request {line['request_id']} cannot be made again: {error}") from error


def _restored(tag: str, bundle: Bundle, state: dict[str, Any]) -> Board:
    catalogue = Catalogue.from_rows(state["catalogue"])
    live = Live(
        version=0,
        catalogue=catalogue,
        campaigns={one["campaign_id"]: Campaign.model_validate(one) for one in state["campaigns"]},
        banners={one["banner_id"]: Banner.model_validate(one) for one in state["banners"]},
        placements={one["placement_id"]: Placement.model_validate(one) for one in state["placements"]},
        products={},
        unavailable=frozenset(state["unavailable"]),
        base={},
        managed=Managed(),
    )
    counts = {name: np.array([np.nan if v is None else v for v in values]) for name, values in state["counts"].items()}
    return Board(tag, bundle.with_catalogue(catalogue), live, counts)


def _difference(board: Board, decision: Decision, logged: list[list[Any]]) -> str:
    ids = board.bundle.catalogue.banner_ids
    made: list[list[Any]] = [[ids[placed.row], placed.score, placed.propensity] for placed in decision.slate]
    if made == logged:
        return ""
    if [one[0] for one in made] != [one[0] for one in logged]:
        return f"logged {', '.join(one[0] for one in logged) or 'nothing'}, made {', '.join(one[0] for one in made)}"
    place = next(place for place, one in enumerate(made) if one != logged[place])
    return f"{made[place][0]} at position {place}: logged {logged[place][1:]}, made {made[place][1:]}"


def _told(board: Board, inputs: Inputs, decision: Decision) -> list[Told]:
    """All banners: the slate, then what else was ranked, then what was not."""
    ids, ranked = board.bundle.catalogue.banner_ids, decision.ranked
    shown = {placed.row: placed for placed in decision.slate}
    ranks: dict[int, tuple[int, float]] = {}
    if ranked is not None:
        appeal = np.atleast_2d(board.bundle.appeal(ranked.scores, ranked.rows, board.counts)).mean(axis=0)
        order = np.argsort(-appeal, kind="stable")
        ranks = {int(ranked.rows[item]): (place + 1, float(ranked.scores[item])) for place, item in enumerate(order)}
    evidence, shares = _evidence(board, decision)
    told = []
    for row, banner_id in enumerate(ids):
        placed, (rank, score) = shown.get(row), ranks.get(row, (None, None))
        if placed is not None:
            why = "; ".join(placed.reasons)
        elif rank is not None:
            why = f"it may be shown, and ranked {rank} of {len(ranks)}"
        elif decision.codes[row]:
            why = sentence(int(decision.codes[row]))
        else:
            why = f"it may be shown, but {board.bundle.candidates} others are nearer to the visitor in retrieval"
        told.append(
            Told(
                banner_id,
                placed.position if placed else None,
                rank,
                score,
                placed.propensity if placed else None,
                why,
                evidence.get(row, {}),
                shares.get(row, {}),
            )
        )
    last = len(told)
    return sorted(told, key=lambda one: (one.position is None, one.position or 0, one.rank or last, one.banner_id))


def _evidence(board: Board, decision: Decision) -> tuple[dict[int, dict[str, float]], dict[int, dict[str, float]]]:
    """By row of the slate: log-odds by kind of evidence, and the largest shares of single features."""
    if decision.ranked is None or not decision.slate:
        return {}, {}
    ranked = decision.ranked
    rows = [placed.row for placed in decision.slate]
    items = np.array([int(np.flatnonzero(ranked.rows == row)[0]) for row in rows])
    gains = contributions(board.bundle, ranked.matrix, ranked.scores, items)
    evidence = {
        row: {kind: round(float(values[place]), 4) for kind, values in gains.items()} for place, row in enumerate(rows)
    }
    shap = board.bundle.ranker.contributions(ranked.matrix[items])[:, :-1]
    shares = {}
    for place, row in enumerate(rows):
        largest = np.argsort(-np.abs(shap[place]))[:MOST_SHARES]
        shares[row] = {contract.RANKER_FEATURES[one]: round(float(shap[place][one]), 4) for one in largest}
    return evidence, shares
