"""What recommending a page does: the decision process over a page graph whose visitors may ignore it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray

from marquee.errors import MarqueeError
from training.pages.decision_process import DecisionProcess, evaluate
from training.pages.graph import OTHER, PageGraph

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]
SUCCESSORS: Final = 20
VALUABLE: Final = 5


@dataclass(frozen=True, slots=True)
class Following:
    """How visitors take a recommendation.

    Where page b is recommended in state a, a share f of the visitors goes there, whatever else they would have done,
    leaving included; the others do as they would by themselves:

        P_b(s | a) = (1 − f) · P(s | a) + f · [s = b],   f = min(share, (lift − 1) · P(b | a) / (1 − P(b | a)))

    so that P_b(b | a) is ``lift`` · P(b | a) where ``share`` does not bind. A lift is how Shani, Heckerman and Brafman
    ("An MDP-based recommender system", JMLR 2005, section 4) let a recommendation raise the probability of what is
    recommended and lower the rest in proportion; the share bounds it for pages that come often anyway.

    With a finite lift, no importance weight of a logged step is above it, and what nobody ever did is not recommended.

    Attributes:
        share: most visitors that follow, 0 to 1.
        lift: at least 1; infinite where every page is followed by the same share, wherever it is recommended.
    """

    share: float = 0.05
    lift: float = 5.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0 or not self.lift >= 1.0:
            raise MarqueeError(f"share is {self.share} and lift {self.lift}; use 0 to 1, and 1 or more")

    def followed(self, chances: Doubles) -> Doubles:
        """[n] f of pages that come next with the given probabilities by themselves."""
        if np.isinf(self.lift):
            return np.full(len(chances), self.share)
        odds = chances / np.maximum(1.0 - chances, 1e-12)
        return np.minimum(self.share, (self.lift - 1.0) * odds)


@dataclass(frozen=True, slots=True)
class Offering:
    """What may be recommended where.

    Attributes:
        successors: the most frequent next pages of each page.
        valuable: the pages of the highest value anywhere, on every page; only those that somebody may follow to.
        visits: so often must a page have been seen; the value of one seen less is mostly chance.
        steps: so often must a next page have come next. Of steps seen less, the best are those that came too often by
            chance, and would not come again.
    """

    successors: int = SUCCESSORS
    valuable: int = VALUABLE
    visits: int = 30
    steps: int = 5


def natural_process(graph: PageGraph, discount: float) -> DecisionProcess:
    """The process in which nothing is ever recommended."""
    size = len(graph)
    nothing = sparse.csr_matrix((size, size))
    return DecisionProcess(graph.natural, np.arange(size + 1), graph.rewards, np.ones(size), nothing, discount)


def offers_of(graph: PageGraph, following: Following, offering: Offering, discount: float) -> sparse.csr_matrix:
    """[S, S] CSR: share of visitors that follow a recommendation of a page in a state; only what may be recommended.

    Never the page itself or ``OTHER``.
    """
    may = graph.visits >= offering.visits
    may &= np.array([page != OTHER for page in graph.pages], dtype=bool)
    near = _successors(graph, may, following, offering)
    # With a finite lift, nobody follows to where nobody goes by themselves.
    if not offering.valuable or not np.isinf(following.lift):
        return near
    size = len(graph)
    values = np.where(may, evaluate(natural_process(graph, discount), np.arange(size)), -np.inf)
    top = np.argsort(-values, kind="stable")[: min(offering.valuable, int(np.count_nonzero(may)))]
    rows, columns = np.repeat(np.arange(size), len(top)), np.tile(top, size)
    kept = rows != columns
    shares = np.full(int(np.count_nonzero(kept)), following.share)
    return near.maximum(sparse.csr_matrix((shares, (rows[kept], columns[kept])), shape=(size, size)))


def page_process(graph: PageGraph, offers: sparse.csr_matrix, discount: float) -> DecisionProcess:
    """The decision process: in each state first to do nothing, then each of its offers in the order of their pages.

    What a page earns, it earns whatever is recommended on it; leaving earns nothing more.
    """
    size, offered = len(graph), np.diff(offers.indptr).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(offered + 1)]).astype(np.int64)
    states = np.repeat(np.arange(size), offered + 1)
    is_offer = np.ones(len(states), dtype=bool)
    is_offer[starts[:-1]] = False
    kept = np.ones(len(states))
    kept[is_offer] = 1.0 - offers.data
    indptr = np.concatenate([[0], np.cumsum(is_offer)])
    moved = sparse.csr_matrix((offers.data, offers.indices, indptr), shape=(len(states), size))
    return DecisionProcess(graph.natural, starts, graph.rewards[states], kept, moved, discount)


def highest(offers: sparse.csr_matrix, scores: Doubles) -> tuple[Ints, Doubles]:
    """[S] page of each state's offer with the highest score [nnz], -1 where none is above 0; and who follows, [S]."""
    size, states = offers.shape[0], np.repeat(np.arange(offers.shape[0]), np.diff(offers.indptr))
    order = np.lexsort((np.arange(len(scores)), -scores, states))
    first = order[np.unique(states[order], return_index=True)[1]]
    first = first[scores[first] > 0.0]
    targets, followed = np.full(size, -1), np.zeros(size)
    targets[states[first]], followed[states[first]] = offers.indices[first], offers.data[first]
    return targets, followed


def _successors(
    graph: PageGraph, may: NDArray[np.bool_], following: Following, offering: Offering
) -> sparse.csr_matrix:
    """[S, S] CSR: shares that follow to the frequent next pages of each page, of those that may be recommended."""
    natural, size = graph.natural, len(graph)
    rows = np.repeat(np.arange(size), np.diff(natural.indptr))
    usual = graph.steps.data >= offering.steps
    places = np.flatnonzero(usual & may[natural.indices] & (rows != natural.indices))
    places = places[np.lexsort((natural.indices[places], -natural.data[places], rows[places]))]
    rows = rows[places]
    nearest = np.arange(len(rows)) - np.searchsorted(rows, rows) < offering.successors
    rows, places = rows[nearest], places[nearest]
    shares = following.followed(natural.data[places])
    found = sparse.csr_matrix((shares, (rows, natural.indices[places])), shape=(size, size))
    found.eliminate_zeros()
    return found
