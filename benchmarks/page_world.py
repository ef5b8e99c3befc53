"""A simulated site whose truth is known: where visitors go by themselves, what they follow, and what pages earn.

A visitor on page s leaves or goes on by himself, unless a recommended page takes him along, which it never does where
nobody goes from s anyway. A page view earns the page's amount with the page's chance, as a purchase does. No model
knows any of it but from the views that ``walk`` returns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Advice = Callable[[Ints], Ints]
"""[m, depth] newest pages of m visitors, the newest last and -1 before the first, to [m] pages; -1 recommends none."""

DEPTH: Final = 4
"""Pages of a path that an advice is told."""
LONGEST: Final = 60
"""Views after which a session ends in any case; at most one in a million gets there."""
LEAVE: Final = 0.25
LINKS: Final = 10
TOPIC: Final = 12
"""Pages of a topic: most links stay within one."""
SHARE, LIFT = 0.1, 5.0
"""Most visitors who follow a recommendation, and how many times its usual visitors a page gets by it at most."""


@dataclass(frozen=True, slots=True)
class PageWorld:
    """What is true of a site of n pages.

    Attributes:
        natural: [n, n] chance to go from a page to another without any recommendation; what a row lacks to 1 is the
            chance to leave.
        follow: [n, n] chance that a visitor of a page takes the recommended one.
        chances: [n] that a view earns something.
        amounts: [n] what it then earns.
        entries: [n] share of the sessions that begin there.
    """

    natural: Floats
    follow: Floats
    chances: Floats
    amounts: Floats
    entries: Floats

    @property
    def values(self) -> Floats:
        """[n] what a view earns on average."""
        return self.chances * self.amounts


@dataclass(frozen=True, slots=True)
class Views:
    """Page views, session by session and each session's in order.

    Attributes:
        sessions: [v] number of the session, ascending.
        pages: [v] what was seen.
        earned: [v] what it earned.
        count: of sessions.
    """

    sessions: Ints
    pages: Ints
    earned: Floats
    count: int

    def values(self) -> Floats:
        """[count] what each session earned."""
        return np.asarray(np.bincount(self.sessions, weights=self.earned, minlength=self.count), dtype=np.float64)


def make_world(pages: int, seed: int, valued: bool = True, taper: float = 0.0) -> PageWorld:
    """A site with topics and popular pages; unless ``valued``, all pages earn alike and are left alike.

    A recommendation is followed by min(SHARE, (LIFT − 1) · P / (1 − P)) of the visitors, P of whom go there by
    themselves (Shani, Heckerman and Brafman, JMLR 2005, and a most).

    Args:
        pages: how many.
        seed: of everything drawn.
        valued: one page in twelve earns much, the others nothing, and pages are left more or less readily.
        taper: above 0, less usual pages are followed by fewer: (P / the row's largest P)^taper of those. No model of
            ours supposes so.
    """
    rng = np.random.default_rng(seed)
    popular: Floats = (1.0 + rng.permutation(pages).astype(np.float64)) ** -0.6
    # Drawn in either case, so that the two worlds of a seed differ in nothing else.
    leave = np.clip(rng.beta(4.0, 12.0, pages), 0.08, 0.7)
    dear = rng.choice(pages, max(1, pages // 12), replace=False)
    amounts = np.zeros(pages)
    amounts[dear] = rng.lognormal(3.0, 0.6, len(dear))
    if not valued:
        leave, amounts = np.full(pages, LEAVE), np.full(pages, 4.0)
    natural = _links(popular, rng) * (1.0 - leave)[:, None]
    follow = np.minimum(SHARE, (LIFT - 1.0) * natural / (1.0 - natural))
    follow *= (natural / natural.max(axis=1, keepdims=True)) ** taper
    return PageWorld(natural, follow, np.full(pages, 0.25), amounts, popular / popular.sum())


def _links(popular: Floats, rng: np.random.Generator) -> Floats:
    """[n, n] shares of the next pages, rows summing to 1: mostly pages of the same topic, more often popular ones."""
    pages = len(popular)
    topic = np.arange(pages) // TOPIC
    chance = popular * np.where(topic[:, None] == topic, 1.0, 0.05)
    np.fill_diagonal(chance, 0.0)
    # Gumbel's trick draws without replacement: the largest of log chance + noise.
    drawn = np.argsort(-(np.log(np.maximum(chance, 1e-300)) + rng.gumbel(size=chance.shape)), axis=1)[:, :LINKS]
    links = np.zeros_like(chance)
    np.put_along_axis(links, drawn, rng.gamma(0.7, 1.0, drawn.shape) + 0.05, axis=1)
    np.fill_diagonal(links, 0.0)
    shares: Floats = links / links.sum(axis=1, keepdims=True)
    return shares


def exact_value(world: PageWorld, advised: Ints | None = None) -> float:
    """Expected value of a session, (I − T)⁻¹ v weighted by the entries.

    Args:
        world: whose.
        advised: [n] page recommended on each page, -1 for none; None recommends nothing.
    """
    nothing = np.full(len(world.natural), -1)
    rates = _rates(world, nothing if advised is None else advised)
    worth = np.linalg.solve(np.eye(len(rates)) - rates, world.values)
    return float(world.entries @ worth)


def _rates(world: PageWorld, advised: Ints) -> Floats:
    """[n, n] chance to go from a page to another under an advice."""
    rates = world.natural.copy()
    here = np.flatnonzero(advised >= 0)
    taken = world.follow[here, advised[here]]
    rates[here] *= 1.0 - taken[:, None]
    rates[here, advised[here]] += taken
    return rates


def best_advice(world: PageWorld) -> Ints:
    """[n] the truly best page to recommend on each page, -1 for none, by Howard's policy iteration on the truth."""
    pages = np.arange(len(world.natural))
    advised = np.full(len(pages), -1)
    while True:
        worth = np.linalg.solve(np.eye(len(pages)) - _rates(world, advised), world.values)
        gains = world.follow * (worth[None, :] - (world.natural @ worth)[:, None])
        now = np.where(advised >= 0, gains[pages, advised], 0.0)
        best = gains.argmax(axis=1)
        # Of pages that are equal but for rounding the first one found stays, or this would never end.
        better = gains[pages, best] > now + 1e-9 * np.abs(worth).max()
        if not better.any():
            return advised
        advised = np.where(better, best, advised)


def probable_advice(world: PageWorld) -> Ints:
    """[n] the page that visitors go to most often by themselves."""
    found: Ints = world.natural.argmax(axis=1)
    return found


def walk(world: PageWorld, sessions: int, seed: int, advise: Advice | None = None) -> Views:
    """Sessions from entry to leaving. With the same seed, session i has the same luck whatever is recommended.

    Args:
        world: whose visitors.
        sessions: how many.
        seed: of everything drawn.
        advise: what is recommended; None recommends nothing.
    """
    rng = np.random.default_rng(seed)
    onward = np.cumsum(world.natural, axis=1)
    paths = np.full((sessions, DEPTH), -1)
    going = np.arange(sessions)
    paths[:, -1] = rng.choice(len(world.entries), sessions, p=world.entries)
    seen: list[tuple[Ints, Ints, Floats]] = []
    for _ in range(LONGEST):
        luck = rng.random((3, sessions))
        here = paths[going, -1]
        earned = np.where(luck[0, going] < world.chances[here], world.amounts[here], 0.0)
        seen.append((going, here, earned))
        target = _onward(onward[here], luck[1, going])
        if advise is not None:
            advised = advise(paths[going])
            taken = (advised >= 0) & (luck[2, going] < world.follow[here, advised])
            target = np.where(taken, advised, target)
        stays = target < len(onward)
        going = going[stays]
        if not len(going):
            break
        paths[going, :-1] = paths[going, 1:]
        paths[going, -1] = target[stays]
    return _in_order(seen, sessions)


def _onward(cumulative: Floats, luck: Floats) -> Ints:
    """[m] page where each visitor goes by himself, n for leaving."""
    found: Ints = (cumulative <= luck[:, None]).sum(axis=1)
    return found


def _in_order(seen: list[tuple[Ints, Ints, Floats]], count: int) -> Views:
    numbers, pages, earned = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    order = np.argsort(numbers, kind="stable")
    return Views(numbers[order], pages[order], earned[order], count)


def by_page(advised: Ints) -> Advice:
    """An advice that looks at the present page only."""
    return lambda paths: advised[paths[:, -1]]
