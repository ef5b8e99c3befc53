"""Which page comes next, and which to recommend, as a bundle carries it. NumPy and SciPy only, no pickles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self
from zipfile import BadZipFile

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray

from marquee.errors import BundleError, MarqueeError
from training.co_occurrence import packed, unpacked
from training.interactions import Interactions, Queries
from training.models.markov import Markov
from training.pages.answers import PageAction, PageCluster, PageEdge, PageFigures, PageState, figures_of
from training.pages.graph import OTHER, PageGraph, numbered
from training.pages.page_policy import highest
from training.top_k import top_k

__all__ = ["Learnt", "PageAction", "PageCluster", "PageEdge", "PageFigures", "PageModel", "PageState"]
Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]
_COLUMNS: Final = (
    *("visits", "entries", "exits", "bounces"),
    *("seconds", "worth", "rewards", "leaving"),
)


@dataclass(frozen=True, slots=True)
class Learnt:
    """What was chosen and learnt besides the arrays; the manifest's part ``pages``.

    Attributes:
        order, smoothing, markov_discount: settings of the Markov model of the next page.
        share: most visitors that follow a recommendation, 0 to 1.
        lift: how many times as often as by itself a page is visited at most, when recommended; None for no such bound.
        discount: what a step later is worth, below 1.
        error: most that a value is off the optimum of the model.
        sweeps: of value iteration.
        visits, sessions: page views and sessions that it was learnt from.
    """

    order: int
    smoothing: str
    markov_discount: float
    share: float
    lift: float | None
    discount: float
    error: float
    sweeps: int
    visits: int
    sessions: int


class PageModel:
    """Next pages and recommendations over S pages.

    Args:
        graph: how visitors move by themselves.
        offers: [S, S] CSR matrix: the probability that a page's recommendation, in a row's state, is followed by one
            who would have gone elsewhere.
        values: [S] of the states under the optimal policy.
        labels: [S] cluster of each page, from 0, by visits.
        markov: P(next page | path), over the same pages.
        learnt: the rest.
    """

    def __init__(
        self, graph: PageGraph, offers: sparse.csr_matrix, values: Doubles, labels: Ints, markov: Markov, learnt: Learnt
    ) -> None:
        self.graph, self.offers, self.values, self.labels = graph, offers, values, labels
        self.markov, self.learnt = markov, learnt
        self.pages = graph.pages
        self.natural = graph.natural
        self._code = {page: number for number, page in enumerate(self.pages)}
        self._other = self._code.get(OTHER, -1)
        self._numbers = numbered(len(self.pages))
        states = np.repeat(np.arange(len(self.pages)), np.diff(offers.indptr))
        ahead = values[offers.indices] - (self.natural @ values)[states]
        gains: Doubles = learnt.discount * offers.data * ahead
        # Values may be off by the error, and so may a gain: less than that is none.
        self._gains = np.where(gains > learnt.error, gains, 0.0)

    def __len__(self) -> int:
        """S."""
        return len(self.pages)

    def knows(self, page: str) -> bool:
        """Whether the page has a state of its own."""
        return page in self._code and page != OTHER

    def next_pages(self, path: Sequence[str], n: int) -> list[tuple[str, float]]:
        """The n most probable next pages of somebody who goes on, with their probabilities, best first.

        Args:
            path: pages seen so far, oldest first. A page that is not known counts as a rare one; where the model has
                no rare ones, only what came after it counts. Of an empty path the popular pages.
        """
        return self._listed(self._chances(path), n)

    def recommend(self, page: str, n: int) -> list[PageAction]:
        """The n best pages to recommend on a page, best first; only those with a gain.

        A page that is not known is answered as a rare one; with nothing where the model has no rare ones.
        """
        state = self._code.get(page, self._other)
        if state < 0:
            return []
        part = slice(self.offers.indptr[state], self.offers.indptr[state + 1])
        targets, shares, gains = self.offers.indices[part], self.offers.data[part], self._gains[part]
        order = np.argsort(-gains, kind="stable")[: max(n, 0)]
        return [self._action(state, targets[k], shares[k], gains[k]) for k in order if gains[k] > 0.0]

    def policy(self, most: int | None = None, start: int = 0) -> list[PageState]:
        """The best action of each page, the most visited pages first; ``most`` of them from place ``start`` on."""
        order = np.argsort(-self.graph.visits, kind="stable")[start:][:most]
        names = [self.pages[code] for code in order]
        best = [self.recommend(name, 1) for name in names]
        return [
            PageState(name, float(self.values[code]), found[0] if found else None)
            for name, code, found in zip(names, order, best, strict=True)
        ]

    @property
    def best(self) -> tuple[Ints, Doubles]:
        """[S] the page to recommend on each, -1 for none, and the share that follows it there."""
        return highest(self.offers, self._gains)

    @property
    def probable(self) -> tuple[Ints, Doubles]:
        """The same for recommending the most probable next page, of those that may be."""
        states = np.repeat(np.arange(len(self)), np.diff(self.offers.indptr))
        some = len(states) > 0
        chances = np.asarray(self.natural[states, self.offers.indices]).ravel() if some else np.zeros(0)
        return highest(self.offers, chances)

    def clusters(self, most: int | None = None, start: int = 0) -> list[PageCluster]:
        """The clusters, the most visited first; ``most`` of them from place ``start`` on."""
        return [self.cluster(number) for number in range(int(self.labels.max()) + 1)[start:][:most]]

    def cluster(self, number: int) -> PageCluster:
        """One of them."""
        codes = np.flatnonzero(self.labels == number)
        codes = codes[np.argsort(-self.graph.visits[codes], kind="stable")]
        return PageCluster(
            figures_of(self.graph, self.values, self.labels, codes), tuple(self.pages[code] for code in codes)
        )

    def figures(self, page: str) -> PageFigures | None:
        """What is known of a page; None of one without a state."""
        code = self._code.get(page, -1)
        return figures_of(self.graph, self.values, self.labels, np.array([code])) if code >= 0 else None

    def edges(self, most: int, page: str | None = None, cluster: int | None = None, start: int = 0) -> list[PageEdge]:
        """The most frequent steps: of all, from and to one page, or among the pages of one cluster.

        The ``most`` from place ``start`` on.
        """
        steps = self.graph.steps
        rows = np.repeat(np.arange(len(self)), np.diff(steps.indptr))
        columns, kept = steps.indices, np.ones(steps.nnz, dtype=bool)
        if page is not None:
            code = self._code.get(page, -1)
            kept &= (rows == code) | (columns == code)
        if cluster is not None:
            kept &= (self.labels[rows] == cluster) & (self.labels[columns] == cluster)
        places = np.flatnonzero(kept)
        places = places[np.argsort(-steps.data[places], kind="stable")[start:][:most]]
        return [
            PageEdge(self.pages[rows[k]], self.pages[columns[k]], int(steps.data[k]), float(self.natural.data[k]))
            for k in places
        ]

    def described(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self.learnt)

    def save(self, file: Path) -> None:
        """Write the arrays; what was learnt besides is in the manifest."""
        names = [page.encode() for page in self.pages]
        arrays: dict[str, Any] = {"pages": np.frombuffer(b"".join(names), np.uint8)}
        arrays |= {"page_lengths": np.array([len(name) for name in names], dtype=np.int64)}
        arrays |= {"values": self.values, "labels": self.labels} | {
            name: getattr(self.graph, name) for name in _COLUMNS
        }
        arrays |= packed("steps", self.graph.steps) | packed("offers", self.offers)
        arrays |= {f"markov_{name}": array for name, array in self.markov.state().items()}
        np.savez(file, **arrays)

    @classmethod
    def load(cls, file: Path, told: dict[str, Any]) -> Self:
        """Read what ``save`` wrote; ``told`` is the manifest's part.

        Raises:
            BundleError: the file is not there, or does not hold what it should.
        """
        try:
            learnt = Learnt(**told)
            with np.load(file, allow_pickle=False) as opened:
                arrays = dict(opened)
            text, ends = arrays["pages"].tobytes(), np.cumsum(arrays["page_lengths"]).tolist()
            pages = tuple(text[start:end].decode() for start, end in zip([0, *ends[:-1]], ends, strict=True))
            columns = {name: arrays[name] for name in _COLUMNS}
            graph = PageGraph(pages, unpacked("steps", arrays), **columns)
            markov = Markov(order=learnt.order, smoothing=learnt.smoothing, discount=learnt.markov_discount)
            markov.restore({name.removeprefix("markov_"): array for name, array in arrays.items()})
            sizes = {len(column) for column in (*columns.values(), arrays["values"], arrays["labels"], markov.popular)}
            if sizes != {len(pages)} or graph.steps.shape != (len(pages), len(pages)):
                raise ValueError("its arrays are not of the same pages")
            return cls(graph, unpacked("offers", arrays), arrays["values"], arrays["labels"], markov, learnt)
        except (OSError, EOFError, BadZipFile, LookupError, ValueError, TypeError, MarqueeError) as error:
            raise BundleError(f"{file}: cannot be read as a page model: {error}") from None

    def _chances(self, path: Sequence[str]) -> NDArray[np.float32]:
        """[S] P(next page | path), of somebody who goes on."""
        codes: list[int] = []
        for page in path[-self.learnt.order :]:
            code = self._code.get(page, self._other)
            codes = [*codes, code] if code >= 0 else []
        items = np.array(codes, dtype=np.int64)
        nobody, zeros = np.array([""]), np.zeros(len(items))
        starts = np.array([0, len(items)])
        history = Interactions(nobody, self._numbers, starts, items, zeros, zeros.astype(np.float32), zeros.astype(int))
        asked = Queries(history, np.array([-1]), np.zeros(1), np.zeros(1, np.int64))
        chances: NDArray[np.float32] = self.markov.score(asked)[0]
        return chances

    def _listed(self, chances: NDArray[np.float32], n: int) -> list[tuple[str, float]]:
        """The n best, ``OTHER`` not among them."""
        known = len(self) - (self._other >= 0)
        if min(n, known) <= 0:
            return []
        best = top_k(chances[None], min(n, known) + (self._other >= 0))[0]
        return [(self.pages[code], float(chances[code])) for code in best if code != self._other][:n]

    def _action(self, state: int, target: int, share: float, gain: float) -> PageAction:
        part = slice(self.natural.indptr[state], self.natural.indptr[state + 1])
        targets, chances = self.natural.indices[part], self.natural.data[part]
        by_itself = float(chances[targets == target].sum())
        probability = by_itself * (1.0 - share) + share
        return PageAction(self.pages[target], float(gain), float(self.values[target]), float(probability))
