"""The simulated site of the journeys bench: values by hand, and walks that agree with them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.page_world import (
    PageWorld,
    best_advice,
    by_page,
    exact_value,
    make_world,
    probable_advice,
    walk,
)

NATURAL = np.array([[0.0, 0.5, 0.3], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
FOLLOW = np.array([[0.0, 0.6, 0.4], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
SITE = PageWorld(NATURAL, FOLLOW, np.array([0.0, 0.5, 0.5]), np.array([0.0, 4.0, 40.0]), np.array([1.0, 0.0, 0.0]))
"""All begin on page 0 and go on at most once, to page 1, worth 2, or to page 2, worth 20."""


def test_the_value_of_a_session_by_hand() -> None:
    alone = 0.5 * 2 + 0.3 * 20  # 7
    assert exact_value(SITE) == pytest.approx(alone)
    assert exact_value(SITE, np.array([1, -1, -1])) == pytest.approx(0.6 * 2 + 0.4 * alone)  # 4: worse than nothing
    assert exact_value(SITE, np.array([2, -1, -1])) == pytest.approx(0.4 * 20 + 0.6 * alone)  # 12.2


def test_the_best_page_is_not_the_most_probable_one() -> None:
    assert best_advice(SITE).tolist() == [2, -1, -1]
    assert probable_advice(SITE)[0] == 1


@pytest.mark.parametrize("advised", [None, [1, -1, -1], [2, -1, -1]])
def test_walks_earn_what_they_should(advised: list[int] | None) -> None:
    pages = None if advised is None else np.array(advised)
    values = walk(SITE, 40_000, 3, None if pages is None else by_page(pages)).values()
    error = values.std() / np.sqrt(len(values))
    assert abs(values.mean() - exact_value(SITE, pages)) < 4 * error


def test_a_walk_goes_where_the_truth_goes() -> None:
    views = walk(SITE, 40_000, 3)
    assert (np.diff(views.sessions) >= 0).all()
    seen = np.bincount(views.pages, minlength=3) / views.count
    assert seen == pytest.approx([1.0, 0.5, 0.3], abs=0.01)


def test_an_advice_is_told_the_path_so_far() -> None:
    told: list[list[int]] = []

    def advise(paths: np.ndarray) -> np.ndarray:
        told.extend(paths.tolist())
        return np.full(len(paths), -1)

    walk(SITE, 200, 3, advise)
    assert sorted(map(tuple, np.unique(told, axis=0))) == [(-1, -1, -1, 0), (-1, -1, 0, 1), (-1, -1, 0, 2)]


def test_sessions_have_the_same_luck_whatever_is_recommended() -> None:
    nobody = by_page(np.full(3, -1))
    assert walk(SITE, 500, 3).pages.tolist() == walk(SITE, 500, 3, nobody).pages.tolist()


@given(st.integers(0, 10_000), st.integers(24, 80), st.booleans())
def test_every_site_is_a_site(seed: int, pages: int, valued: bool) -> None:
    world = make_world(pages, seed, valued)
    assert (world.natural >= 0).all()
    assert (world.natural.sum(axis=1) < 1).all()
    assert ((world.follow > 0) <= (world.natural > 0)).all()
    assert world.follow.max() < 1
    assert world.entries.sum() == pytest.approx(1)
    assert exact_value(world, best_advice(world)) >= exact_value(world, probable_advice(world)) - 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_without_value_in_it_nothing_beats_the_most_probable_page(seed: int) -> None:
    flat = make_world(60, seed, valued=False)
    probable = exact_value(flat, probable_advice(flat))
    assert probable == pytest.approx(exact_value(flat, best_advice(flat)))
    assert probable > exact_value(flat)
    valued = make_world(60, seed)
    assert exact_value(valued, best_advice(valued)) > 1.15 * exact_value(valued, probable_advice(valued))
