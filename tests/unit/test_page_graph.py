"""Paths of sessions and what they add up to, clusters of pages, and simulated paths."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from training.pages.clusters import communities, modularity
from training.pages.credibility import shrunk
from training.pages.graph import OTHER, PageGraph, PagePaths
from training.pages.path import Recommending, _ladder, _next, simulate, totals
from training.pages.reading import paths_of

SECOND = 1_000_000


def paths(*sessions: list[tuple[str, float, float]]) -> PagePaths:
    """Sessions of (page, second, amount), each of a visitor of its own, an hour and more after the one before."""
    rows = [(page, 10_000.0 * n + at, amount, n) for n, session in enumerate(sessions) for page, at, amount in session]
    names = tuple(dict.fromkeys(row[0] for row in rows))
    codes = np.array([names.index(row[0]) for row in rows])
    at = np.array([row[1] for row in rows]) * SECOND
    number = np.array([row[3] for row in rows])
    return paths_of(names, codes, number, number, at, at, np.array([row[2] for row in rows]))


SHOP = (
    [("home", 0.0, 0.0), ("list", 10.0, 0.0), ("cart", 40.0, 30.0), ("home", 50.0, 0.0)],
    [("home", 0.0, 0.0)],
    [("list", 0.0, 0.0), ("cart", 4_000.0, 0.0)],
)


def test_counts_and_means_are_those_counted_by_hand() -> None:
    graph = PageGraph.of(paths(*SHOP))
    assert graph.pages == ("home", "list", "cart")
    assert graph.steps.toarray().tolist() == [[0, 1, 0], [0, 0, 2], [1, 0, 0]]
    assert graph.visits.tolist() == [3, 2, 2]
    assert graph.entries.tolist() == [2, 1, 0]
    assert graph.exits.tolist() == [2, 0, 1]
    assert graph.bounces.tolist() == [1, 0, 0]
    assert graph.bounce_rates.tolist() == pytest.approx([0.5, 0.0, np.nan], nan_ok=True)
    # Home was left for the list after 10 s, the list for the cart after 30 s and after more than an hour.
    assert graph.seconds.tolist() == [10.0, 30.0, 10.0]
    # What was earned from the view to the end: at home 30, 0 and 0, of the list 30 and 0, of the cart 30 and 0.
    assert graph.worth.tolist() == [10.0, 15.0, 15.0]
    assert graph.entry_shares.tolist() == pytest.approx([2 / 3, 1 / 3, 0.0])


def test_a_row_of_the_natural_chain_and_leaving_sum_to_one() -> None:
    graph = PageGraph.of(paths(*SHOP))
    rows = np.asarray(graph.natural.sum(axis=1)).ravel()
    assert rows + graph.leaving == pytest.approx(np.ones(3))


def test_views_more_than_a_day_apart_are_of_two_paths() -> None:
    far = paths([("a", 0.0, 0.0), ("b", 86_399.0, 0.0), ("c", 86_399.0 + 86_400.0, 0.0)])
    assert far.starts.tolist() == [0, 2, 3]
    assert PageGraph.of(far).entries.tolist() == [1, 0, 1]


def test_a_session_counts_before_a_moment_when_it_had_ended_and_after_it_when_it_began_there() -> None:
    shop = paths(*SHOP)
    assert shop.before(10_000.5).session_count == 2
    assert shop.before(10_000.0).session_count == 1
    assert shop.since(10_000.0).session_count == 2
    assert shop.since(10_000.5).starts.tolist() == [0, 2]
    assert shop.before(40.5).session_count == 0
    assert shop.before(-1.0).session_amounts.tolist() == []
    late = paths_of(("a",), np.array([0]), np.array([1]), np.array([1]), np.zeros(1), np.array([5e6]), np.ones(1))
    assert (late.before(4.0).session_count, late.before(6.0).session_count) == (0, 1)


def test_rare_pages_become_one_state_and_new_ones_count_as_rare() -> None:
    rare = paths([("a", 0.0, 0.0), ("x", 1.0, 0.0), ("a", 2.0, 0.0), ("b", 3.0, 0.0), ("b", 4.0, 0.0)])
    few = rare.frequent(most=10, least=2)
    assert few.pages == ("a", "b", OTHER)
    assert few.codes.tolist() == [0, 2, 0, 1, 1]
    assert rare.frequent(most=1, least=1).pages == ("a", OTHER)
    assert rare.frequent(most=10, least=1).pages == ("a", "b", "x")
    later = paths([("b", 0.0, 0.0), ("new", 1.0, 0.0)])
    assert later.onto(few.pages).codes.tolist() == [1, 2]
    assert later.onto(("a", "b")).codes.tolist() == [1, -1]


def test_a_mean_is_drawn_to_that_of_all_by_as_much_as_it_is_uncertain() -> None:
    # Groups of 4 with means 0 and 4: within each the values are the mean ± 1, so the variance within is 8 / 6 = 4/3.
    # Between: (4 · 4 + 4 · 4 − 1 · 4/3) / (8 − 32 / 8) = 23/3. k = (4/3) / (23/3) = 4/23.
    sums, squares, counts = np.array([0.0, 16.0]), np.array([4.0, 68.0]), np.array([4, 4])
    found = shrunk(sums, squares, counts)
    assert found == pytest.approx([(4 / 23 * 2) / (4 + 4 / 23), (16 + 4 / 23 * 2) / (4 + 4 / 23)])
    assert shrunk(np.array([3.0, 3.0]), np.array([5.0, 5.0]), np.array([3, 3])) == pytest.approx([1.0, 1.0])
    assert shrunk(np.zeros(2), np.zeros(2), np.zeros(2, np.int64)).tolist() == [0.0, 0.0]


def test_without_differences_between_pages_chance_makes_none() -> None:
    rng = np.random.default_rng(1)
    counts = rng.integers(1, 30, size=400)
    sums = rng.binomial(counts, 0.1).astype(np.float64)
    raw, found = sums / counts, shrunk(sums, sums, counts)
    assert np.std(found) < 0.1 * np.std(raw)


def two_cliques(size: int = 12) -> PageGraph:
    """Two groups of pages, everybody goes everywhere within them and seldom across; and one page nobody leaves."""
    steps = np.zeros((2 * size + 1, 2 * size + 1), np.int64)
    steps[:size, :size] = 5
    steps[size : 2 * size, size : 2 * size] = 5
    steps[0, size] = 1
    np.fill_diagonal(steps, 1_000)  # reloading a page says nothing of its neighbours
    shuffled = np.random.default_rng(3).permutation(2 * size)
    steps[: 2 * size, : 2 * size] = steps[np.ix_(shuffled, shuffled)]
    visits = np.where(shuffled < size, 10, 20).tolist()
    ones = np.ones(2 * size + 1)
    counts = np.array([*visits, 1])
    names = tuple(map(str, range(2 * size + 1)))
    return PageGraph(names, sparse.csr_matrix(steps), counts, counts, counts, counts, ones, ones, ones, ones)


def test_two_cliques_are_two_clusters_the_most_visited_first() -> None:
    graph = two_cliques()
    labels = communities(graph, seed=7)
    assert sorted(np.bincount(labels).tolist()) == [1, 12, 12]
    assert [set(graph.visits[labels == number].tolist()) for number in (0, 1, 2)] == [{20}, {10}, {1}]
    assert np.array_equal(labels, communities(graph, seed=7))
    # All but one step stays inside, and each cluster has half of them.
    assert modularity(graph, labels) == pytest.approx(0.5, abs=0.01)
    assert modularity(graph, np.zeros(25, np.int64)) == pytest.approx(0.0, abs=1e-12)
    assert modularity(graph, np.random.default_rng(1).integers(2, size=25)) < 0.2


def test_a_graph_without_any_step_has_a_cluster_for_each_page() -> None:
    lonely = PageGraph.of(paths([("a", 0.0, 0.0)], [("b", 0.0, 0.0)]))
    assert sorted(communities(lonely, seed=1).tolist()) == [0, 1]
    assert np.isnan(modularity(lonely, np.array([0, 1])))


def test_a_graph_of_clusters_adds_up_its_pages() -> None:
    graph = PageGraph.of(paths(*SHOP))
    grouped = graph.grouped(np.array([0, 1, 1]))
    assert grouped.steps.toarray().tolist() == [[0, 1], [1, 2]]
    assert (grouped.visits.tolist(), grouped.entries.tolist()) == ([3, 4], [2, 1])
    assert grouped.worth.tolist() == [10.0, 15.0]
    assert grouped.seconds.tolist() == [10.0, 20.0]
    assert np.asarray(grouped.natural.sum(axis=1)).ravel() + grouped.leaving == pytest.approx(np.ones(2))


CHAIN = sparse.csr_matrix(np.array([[0.0, 0.5, 0.2], [0.1, 0.0, 0.6], [0.0, 0.0, 0.0]]))


def test_simulated_paths_are_the_same_for_the_same_seed_and_begin_where_they_should() -> None:
    starts = np.array([0, 1, 2] * 100)
    found = simulate(CHAIN, starts, seed=5)
    assert np.array_equal(found, simulate(CHAIN, starts, seed=5))
    assert not np.array_equal(found, simulate(CHAIN, starts, seed=6))
    assert np.array_equal(found[:, 0], starts)
    assert np.all(found[starts == 2, 1:] == -1)
    gone = found[:, :-1] < 0
    assert np.all(found[:, 1:][gone] == -1)


def test_steps_of_simulated_paths_come_as_often_as_the_chain_says() -> None:
    size = 40_000
    second = simulate(CHAIN, np.zeros(size, np.int64), seed=1, longest=2)[:, 1]
    shares = [float(np.mean(second == page)) for page in (1, 2, -1)]
    assert shares == pytest.approx([0.5, 0.2, 0.3], abs=4 * 0.5 / size**0.5)
    advice = Recommending(np.array([2, -1, -1]), np.array([0.4, 0.0, 0.0]))
    second = simulate(CHAIN, np.zeros(size, np.int64), seed=1, recommending=advice, longest=2)[:, 1]
    shares = [float(np.mean(second == page)) for page in (1, 2, -1)]
    assert shares == pytest.approx([0.3, 0.52, 0.18], abs=4 * 0.5 / size**0.5)


def test_a_draw_of_nought_takes_no_step_that_has_no_probability() -> None:
    chain = sparse.csr_matrix((np.array([0.0, 0.5, 1.0]), np.array([0, 1, 0]), np.array([0, 2, 3])), shape=(2, 2))
    ladder = _ladder(chain)
    here, draws = np.array([0, 0, 0, 1, 1]), np.array([0.0, 0.49, 0.5, 0.0, 0.999])
    assert _next(chain, ladder, here, draws).tolist() == [1, 1, -1, 0, 0]


def test_earnings_of_a_path_are_those_of_its_pages() -> None:
    walked = np.array([[0, 2, -1], [1, 1, 1], [-1, -1, -1]])
    assert totals(walked, np.array([1.0, 10.0, 100.0])).tolist() == [101.0, 30.0, 0.0]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.integers(1, 12), density=st.floats(0.05, 1.0))
def test_nobody_takes_a_step_that_the_chain_does_not_have(seed: int, size: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    natural = sparse.random(size, size, density, "csr", random_state=rng)
    sums = np.asarray(natural.sum(axis=1)).ravel()
    natural = sparse.csr_matrix(sparse.diags(rng.random(size) / np.maximum(sums, 1e-9)) @ natural)
    found = simulate(natural, rng.integers(size, size=200), seed, longest=30)
    before, after = found[:, :-1], found[:, 1:]
    went = after >= 0
    assert np.all(natural.toarray()[before[went], after[went]] > 0.0)
