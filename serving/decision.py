"""What one answer is decided from, and the decision: pure, so that a logged one can be made again bit for bit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.matrix import BANNER_COUNTS, Floats, smoothed_rate
from features.moments import Moment
from marquee.policy import Ints
from serving.live_catalogue import Live
from serving.recommend import Allowed, Placed, Ranked, RequestChance, draw, rank
from serving.rule import Ask, Rule
from serving.rules import Rules
from serving.showings import Shows, Spent
from training.bundle import Bundle, Context


class Board:
    """All that answers at one moment: a bundle over the live catalogue, its rules, its counts. What it decides from
    never changes; only when the counts were last found to be so is kept up.

    Args:
        tag: the bundle's.
        live: the catalogue as it is managed, from which the rules were made.
        counts: [B] arrays of the banners' counts; NaN for one never shown, all NaN while the store is down.
        counts_moment, counted_at: of what moment the counts are, if of one, and when they were read, if ever.
    """

    def __init__(
        self,
        tag: str,
        bundle: Bundle,
        live: Live,
        counts: dict[str, Floats] | None = None,
        counts_moment: Moment | None = None,
        counted_at: datetime | None = None,
    ) -> None:
        ids = bundle.catalogue.banner_ids
        self.tag, self.bundle, self.live = tag, bundle, live
        self.rules = Rules.of(ids, live.campaigns, live.banners, live.placements, live.unavailable)
        self.counts = counts or dict.fromkeys(BANNER_COUNTS, np.full(len(ids), np.nan))
        self.counts_moment, self.counted_at = counts_moment, counted_at
        self.policy: str = bundle.manifest["policy"]["name"]
        self.rows = {banner: row for row, banner in enumerate(ids)}
        counts = self.counts
        rates = smoothed_rate(counts[BANNER_COUNTS[1]], counts[BANNER_COUNTS[0]], bundle.encoding.base_rate)
        self.by_popularity: Ints = np.argsort(-rates * bundle.worth, kind="stable")
        """Rows of the catalogue, the most clicked first."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """All that a decision depends on besides the board."""

    request_id: str
    context: Context
    n: int
    visitor: dict[str, Any] | None
    ask: Ask
    shows: Shows
    spent: Spent
    elsewhere: tuple[str, ...] = ()
    """Banners that stand on the same page already."""
    taken: tuple[str, ...] = ()
    """Banners that could not be reserved at earlier draws: others took the last showing meanwhile."""
    dropped: tuple[str, ...] = ()
    """Banners that could not be reserved at the last draw, and are not in its slate."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A slate, why each banner was left out of it ([B] codes of ``Rule``, 0 for none), and what the ranker saw."""

    slate: list[Placed]
    codes: NDArray[np.uint8]
    ranked: Ranked | None

    def without(self, positions: frozenset[int]) -> Decision:
        """The same without some of its banners; those below move up."""
        if not positions:
            return self
        left = [placed for placed in self.slate if placed.position not in positions]
        slate = [placed if placed.position == at else replace(placed, position=at) for at, placed in enumerate(left)]
        return replace(self, slate=slate)


def decide(board: Board, inputs: Inputs, explain: bool = True) -> Decision:
    """Draw the slate; ``explain`` False leaves the reasons empty."""
    codes = board.rules.forbidding(inputs.ask, inputs.shows, inputs.spent)
    if inputs.elsewhere or inputs.taken:
        for banners, rule in ((inputs.elsewhere, Rule.ELSEWHERE_ON_PAGE), (inputs.taken, Rule.TAKEN_MEANWHILE)):
            codes[[board.rows[banner] for banner in banners if banner in board.rows]] = rule
        board.rules.settle(codes)
    allowed = _allowed(board.rules, codes)
    ranked = rank(board.bundle, inputs.context, inputs.visitor, board.counts, allowed)
    if not len(ranked.rows):
        return Decision([], codes, None)
    n = board.rules.slots(inputs.ask.placement_id, inputs.n)
    rng = RequestChance(f"{inputs.request_id}#{len(inputs.taken)}" if inputs.taken else inputs.request_id)
    slate = draw(board.bundle, ranked, n, inputs.visitor, board.counts, rng, explain, allowed)
    lost = {board.rows[banner] for banner in inputs.dropped if banner in board.rows}
    return Decision(slate, codes, ranked).without(frozenset(one.position for one in slate if one.row in lost))


def decide_quickly(board: Board, ask: Ask, n: int, spent: Spent, elsewhere: tuple[str, ...] = ()) -> list[Placed]:
    """The most clicked banners that may be shown to anybody: no visitor is read and nothing is reserved.

    For moments in which a personal answer would come too late. Banners with a cap or a budget are left out.

    Args:
        elsewhere: banners that stand on the same page already.
    """
    codes = board.rules.forbidding(ask, Shows.none(), spent)
    codes[board.rules.limited] = Rule.CANNOT_COUNT
    codes[[board.rows[banner] for banner in elsewhere if banner in board.rows]] = Rule.ELSEWHERE_ON_PAGE
    allowed = _allowed(board.rules, board.rules.settle(codes))
    rows = board.by_popularity[allowed.mask[board.by_popularity]]
    slate: list[Placed] = []
    taken: set[int] = set()
    for row in rows if allowed.tiers is None else rows[np.argsort(-allowed.tiers[rows], kind="stable")]:
        group = -1 if allowed.groups is None else int(allowed.groups[row])
        if group >= 0 and group in taken:
            continue
        taken.add(group)
        slate.append(Placed(int(row), len(slate), float("nan"), 1.0, np.empty(0, np.float32), [POPULAR]))
        if len(slate) == board.rules.slots(ask.placement_id, n):
            break
    return slate


POPULAR = "clicked most often of what may be shown here now"


def _allowed(rules: Rules, codes: NDArray[np.uint8]) -> Allowed:
    return Allowed(codes == 0, rules.tiers(codes), rules.groups)
