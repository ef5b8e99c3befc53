"""A simulated shop whose slates somebody else chooses, day after day, and what they were truly worth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ingestion.traffic import DAY, KINDS, SECOND, Choose, Rows, draw_day, placements
from ingestion.world import EXAMINE, SLOTS, Floats, Ints, World, WorldSettings

POSITIONS: Final = EXAMINE.shape[1]
EARLY: Final = 0.02
"""Share of a run's requests within which a new banner shall have its place."""
PILOT: Final = 2_000
"""Sessions drawn to learn how many requests one makes."""


class Chooser(Protocol):
    """Whoever chooses slates: asked during a day, and told everything that happened when it is over."""

    def choose(self, day: int, asked: Rows, views: Rows) -> tuple[Ints, Floats]:
        """Banners and propensities, as ``ingestion.traffic.Choose`` describes."""
        ...

    def learn(self, day: int, rows: Rows) -> None:
        """All events of a day that is over."""
        ...


@dataclass(slots=True)
class Run:
    """What a chooser earned: expected clicks and requests by day, and impressions by day and banner, people only."""

    value: list[float] = field(default_factory=list)
    best_there: list[float] = field(default_factory=list)
    """The most that slates could have earned in the same states, which are the chooser's own doing."""
    requests: list[int] = field(default_factory=list)
    shown: list[Ints] = field(default_factory=list)
    shown_early: list[Ints] = field(default_factory=list)
    """The same among the first requests of each day, ``Shop.early`` of the run's."""


class Shop:
    """One run of a world from its first day: who was shown what so far is the run's own doing.

    Args:
        settings: of the world; its tastes change hands at ``change_on`` when that is given.
        requests: how many the run shall have, give or take a few in a hundred.
    """

    def __init__(self, settings: WorldSettings, requests: int, change_on: int | None = None) -> None:
        self.world = World(settings)
        self.prior: NDArray[np.uint16] = np.zeros((settings.visitors, settings.banners), np.uint16)
        self.change_on = change_on
        pilot = draw_day(self.world, settings.days // 2, self.prior, PILOT, settings.rng(5))
        each = len(np.unique(pilot["request"][pilot["request"] >= 0])) / PILOT
        self.sessions = round(requests / settings.days / each)
        self.early = round(EARLY * requests)

    def run(self, chooser: Chooser) -> Run:
        """Every day of the world, one after the other."""
        run = Run()
        for _ in self.days(chooser, run):
            pass
        return run

    def days(self, chooser: Chooser, run: Run) -> Iterator[int]:
        """The same, yielding each day once it is over and learned."""
        settings = self.world.settings
        for day in range(settings.days):
            if day == self.change_on:
                self._change_tastes()
            self._begin(run)
            rows = draw_day(
                self.world, day, self.prior, self.sessions, settings.rng(8, day), self._judged(day, chooser, run)
            )
            chooser.learn(day, rows)
            shown = rows[rows["kind"] == KINDS["impression"]]
            np.add.at(self.prior, (shown["visitor"], shown["banner"]), 1)
            people = shown[~self.world.is_bot[shown["visitor"]]]
            run.shown.append(np.bincount(people["banner"], minlength=settings.banners))
            # In time order, so a request's first impression says when it came.
            _, first = np.unique(people["request"], return_index=True)
            begun = np.sort(first)[: self.early + 1]
            until = begun[-1] if len(begun) > self.early else len(people)
            run.shown_early.append(np.bincount(people["banner"][:until], minlength=settings.banners))
            yield day

    def true_chances(self, day: int, asked: Rows) -> Floats:
        """[n, B] click probability at the first position; -1 where a banner may not stand."""
        place, hour = placements(asked), asked["at"] % DAY // (3600 * SECOND)
        visitor, banner = asked["visitor"], np.arange(self.world.settings.banners)
        chances = self.world.click_probability(
            visitor[:, None], banner, place[:, None], 0, hour[:, None], self.prior[visitor]
        )
        return np.where(self.world.eligible(place, day), chances, -1.0)

    def _judged(self, day: int, chooser: Chooser, run: Run) -> Choose:
        """The chooser, with what its slates are truly worth written down."""

        def choose(asked: Rows, views: Rows) -> tuple[Ints, Floats]:
            banners, propensities = chooser.choose(day, asked, views)
            people = ~self.world.is_bot[asked["visitor"]]
            chances, place = self.true_chances(day, asked)[people], placements(asked)[people]
            looked = EXAMINE[place] / EXAMINE[place][:, :1]
            taken = banners[people]
            earned = np.where(taken >= 0, np.take_along_axis(chances, np.maximum(taken, 0), axis=1), 0.0)
            best = -np.sort(-chances, axis=1)[:, :POSITIONS]
            run.value[-1] += float((earned * looked[:, : earned.shape[1]]).sum())
            run.best_there[-1] += float((best * looked).sum())
            run.requests[-1] += int(people.sum())
            return banners, propensities

        return choose

    def _change_tastes(self) -> None:
        """Everybody takes over somebody else's tastes; only what they do from now on can tell."""
        order = self.world.settings.rng(9).permutation(len(self.world.tastes))
        self.world.tastes = self.world.tastes[order]

    @staticmethod
    def _begin(run: Run) -> None:
        run.value.append(0.0)
        run.best_there.append(0.0)
        run.requests.append(0)


def top_slates(scores: Floats, place: Ints) -> Ints:
    """[n, positions] the highest scores of each row, -1 beyond the placement's slots."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :POSITIONS]
    return np.where(np.arange(POSITIONS) < SLOTS[place][:, None], order, -1)
