"""Sessions as paths over pages, and what they add up to: how often which page leads where, and what it is worth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray

from training.interactions import Interactions
from training.pages.credibility import shrunk

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]
OTHER: Final = "(other)"
"""The state that stands for all pages too rare to have one of their own; it is never recommended."""


@dataclass(frozen=True, slots=True)
class PagePaths:
    """E page views of N sessions, each session's side by side, oldest first.

    Attributes:
        pages: names of the pages, S of them.
        starts: [N + 1] place of each session's first view; the last entry is E.
        codes: [E] page of each view.
        times: [E] seconds since 1970, UTC.
        amounts: [E] worth of the orders placed on the page: from the view to the next one of the session.
        seconds: [E] how long the page was looked at; NaN where nobody knows, as for a session's last.
        visitors: [N] code of whose session it is.
        ends: [N] when a session's last view or order was, seconds since 1970, UTC.
    """

    pages: tuple[str, ...]
    starts: Ints
    codes: Ints
    times: Doubles
    amounts: Doubles
    seconds: Doubles
    visitors: Ints
    ends: Doubles

    def __len__(self) -> int:
        """E."""
        return len(self.codes)

    @property
    def session_count(self) -> int:
        """N."""
        return len(self.starts) - 1

    @property
    def is_first(self) -> NDArray[np.bool_]:
        """[E] whether a view is the first of its session."""
        found = np.zeros(len(self), dtype=bool)
        found[self.starts[:-1]] = True
        return found

    @property
    def is_last(self) -> NDArray[np.bool_]:
        """[E] whether a view is the last of its session."""
        found = np.zeros(len(self), dtype=bool)
        found[self.starts[1:] - 1] = True
        return found

    @property
    def session_amounts(self) -> Doubles:
        """[N] worth of each session's orders."""
        return np.asarray(np.add.reduceat(self.amounts, self.starts[:-1])) if len(self) else np.zeros(0)

    def take(self, sessions: NDArray[np.bool_]) -> PagePaths:
        """The sessions marked, [N]."""
        lengths = np.diff(self.starts)
        views, starts = np.repeat(sessions, lengths), np.concatenate([[0], np.cumsum(lengths[sessions])])
        columns = {name: getattr(self, name)[views] for name in ("codes", "times", "amounts", "seconds")}
        visitors, ends = self.visitors[sessions], self.ends[sessions]
        return replace(self, starts=starts.astype(np.int64), visitors=visitors, ends=ends, **columns)

    def before(self, moment: float) -> PagePaths:
        """Only the sessions that had ended at a moment, their orders included."""
        return self.take(self.ends < moment)

    def since(self, moment: float) -> PagePaths:
        """Only the sessions that began at a moment or later."""
        return self.take(self.times[self.starts[:-1]] >= moment)

    def interactions(self) -> Interactions:
        """The sessions as users of models of sequences; pages are named by their codes, as page names may be long."""
        users, items = numbered(self.session_count), numbered(len(self.pages))
        ones, zeros = np.ones(len(self), np.float32), np.zeros(len(self), np.int64)
        return Interactions(users, items, self.starts, self.codes, self.times, ones, zeros)

    def onto(self, pages: tuple[str, ...]) -> PagePaths:
        """The same views in other pages' codes: what is not among them is ``OTHER``, or -1 where that is not either."""
        code = {page: number for number, page in enumerate(pages)}
        rest = code.get(OTHER, -1)
        mapped = np.array([code.get(page, rest) for page in self.pages], dtype=np.int64)
        return replace(self, pages=pages, codes=mapped[self.codes])

    def frequent(self, most: int, least: int) -> PagePaths:
        """The same views over the ``most`` frequent pages seen ``least`` times or more; the rest is ``OTHER``."""
        counts = np.bincount(self.codes, minlength=len(self.pages))
        order = np.argsort(-counts, kind="stable")[:most]
        kept = [self.pages[code] for code in order[counts[order] >= max(least, 1)] if self.pages[code] != OTHER]
        names = set(kept)
        whole = counts[[code for code, page in enumerate(self.pages) if page in names]].sum() == len(self)
        return self.onto(tuple(kept) if whole else (*kept, OTHER))


@dataclass(frozen=True, slots=True)
class PageGraph:
    """How visitors move among S pages by themselves, and what happens on each.

    Attributes:
        pages: names.
        steps: [S, S] CSR matrix of how often a page led to another, or to itself; integers.
        visits, entries, exits, bounces: [S] views; those that began a session, ended one, were all of one.
        seconds: [S] mean time on the page; NaN where it is never known.
        worth: [S] page value: mean amount of orders from a view of the page to the end of its session.
        rewards: [S] mean amount of orders placed on the page, per view, drawn towards that of all pages.
        leaving: [S] probability that a view is the session's last, drawn towards that of all pages.
    """

    pages: tuple[str, ...]
    steps: sparse.csr_matrix
    visits: Ints
    entries: Ints
    exits: Ints
    bounces: Ints
    seconds: Doubles
    worth: Doubles
    rewards: Doubles
    leaving: Doubles

    def __len__(self) -> int:
        """S."""
        return len(self.pages)

    @classmethod
    def of(cls, paths: PagePaths) -> PageGraph:
        """Count the paths, all of whose views are of their pages.

        A page seen a few times has a mean order value and an exit rate that are mostly chance, and what is best by
        such means is best by chance: both are credibility estimates.
        """
        size, codes, first, last = len(paths.pages), paths.codes, paths.is_first, paths.is_last

        def total(values: NDArray[Any]) -> Doubles:
            return np.asarray(np.bincount(codes, values, minlength=size), dtype=np.float64)

        visits = np.bincount(codes, minlength=size)
        known = np.isfinite(paths.seconds)
        seconds, timed = total(np.where(known, paths.seconds, 0.0)), total(known)
        left, bounced = total(last), total(first & last)
        return cls(
            pages=paths.pages,
            steps=_steps(paths),
            visits=visits.astype(np.int64),
            entries=total(first).astype(np.int64),
            exits=left.astype(np.int64),
            bounces=bounced.astype(np.int64),
            seconds=np.divide(seconds, timed, out=np.full(size, np.nan), where=timed > 0),
            worth=total(_to_go(paths)) / np.maximum(visits, 1),
            rewards=shrunk(total(paths.amounts), total(paths.amounts**2), visits),
            leaving=np.clip(shrunk(left, left, visits), 0.0, 1.0),
        )

    @property
    def natural(self) -> sparse.csr_matrix:
        """[S, S] CSR matrix of P(next page | page); what a row lacks to 1 is the probability to leave."""
        found = self.steps.astype(np.float64)
        sums = np.asarray(found.sum(axis=1)).ravel()
        stays = np.divide(1.0 - self.leaving, sums, out=np.zeros(len(sums)), where=sums > 0)
        found.data *= np.repeat(stays, np.diff(found.indptr))
        return found

    @property
    def bounce_rates(self) -> Doubles:
        """[S] share of the sessions begun on a page that had no other; NaN where none began."""
        rates = np.full(len(self), np.nan)
        return np.asarray(np.divide(self.bounces, self.entries, out=rates, where=self.entries > 0))

    @property
    def entry_shares(self) -> Doubles:
        """[S] share of the sessions that begin on a page."""
        return np.asarray(self.entries / max(int(self.entries.sum()), 1), dtype=np.float64)

    def grouped(self, labels: Ints) -> PageGraph:
        """The graph of groups of pages, named by their numbers: page s is in group ``labels[s]``, from 0.

        A step within a group leads from it to itself, and a group's bounces are those of its pages.
        """
        size, ones = int(labels.max()) + 1, np.ones(len(self))
        member = sparse.csr_matrix((ones, (labels, np.arange(len(self)))), shape=(size, len(self)))
        counts = [(member @ one).astype(np.int64) for one in (self.visits, self.entries, self.exits, self.bounces)]

        def mean(values: Doubles) -> Doubles:
            weights = np.where(np.isfinite(values), self.visits, 0)
            above, below = member @ (weights * np.nan_to_num(values)), member @ weights
            return np.asarray(np.divide(above, below, out=np.full(size, np.nan), where=below > 0))

        steps = sparse.csr_matrix(member @ self.steps @ member.T).astype(np.int64)
        means = [mean(one) for one in (self.seconds, self.worth, self.rewards, self.leaving)]
        return PageGraph(tuple(map(str, range(size))), steps, *counts, *means)


def numbered(count: int) -> NDArray[np.str_]:
    """[count] the numbers from 0 as texts: names where real ones are not needed."""
    return np.arange(count).astype(np.str_)


def _steps(paths: PagePaths) -> sparse.csr_matrix:
    """[S, S] how often one page was followed by another."""
    before, after = paths.codes[:-1], paths.codes[1:]
    within = ~paths.is_last[:-1]
    size = len(paths.pages)
    ones = np.ones(int(np.count_nonzero(within)), np.int64)
    found = sparse.csr_matrix((ones, (before[within], after[within])), shape=(size, size))
    found.sum_duplicates()
    return found


def _to_go(paths: PagePaths) -> Doubles:
    """[E] amount of orders from each view to the end of its session."""
    if not len(paths):
        return np.zeros(0)
    done = np.cumsum(paths.amounts) - paths.amounts
    totals = np.cumsum(paths.amounts)[paths.starts[1:] - 1]
    return np.maximum(np.repeat(totals, np.diff(paths.starts)) - done, 0.0)
