"""Value iteration on pages: by hand in a world of three pages, and against linear programming in random ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.page_processes import by_linear_programming, random_process
from marquee.errors import MarqueeError
from training.pages.decision_process import DecisionProcess, evaluate, solve
from training.pages.graph import OTHER, PageGraph
from training.pages.page_policy import Following, Offering, natural_process, offers_of, page_process

HOME, SALE, CART = 0, 1, 2
EVERY = Offering(visits=1, steps=1)


def drawn(seed: int, discount: float) -> DecisionProcess:
    return random_process(np.random.default_rng(seed), discount)


def three_pages() -> PageGraph:
    """Home leads to sale 6 of 10 times and to cart once; sale to cart 2 of 10 times; only the cart earns, 10 a view."""
    steps = sparse.csr_matrix(np.array([[0, 6, 1], [0, 0, 2], [0, 0, 0]], dtype=np.int64))
    return PageGraph(
        pages=("home", "sale", "cart"),
        steps=steps,
        visits=np.array([10, 10, 5]),
        entries=np.array([10, 4, 2]),
        exits=np.array([3, 8, 5]),
        bounces=np.array([3, 3, 2]),
        seconds=np.array([10.0, 20.0, np.nan]),
        worth=np.array([2.0, 2.0, 10.0]),
        rewards=np.array([0.0, 0.0, 10.0]),
        leaving=np.array([0.3, 0.8, 1.0]),
    )


def test_values_and_gains_of_three_pages_are_those_worked_out_by_hand() -> None:
    graph, following = three_pages(), Following(share=0.5, lift=np.inf)
    offers = offers_of(graph, following, Offering(valuable=0, visits=1, steps=1), 0.5)
    process = page_process(graph, offers, 0.5)
    solved = solve(process)
    # cart: 10. sale: 0.5 · (0.5 · 0.2 · 10 + 0.5 · 10) = 3, against 0.5 · 0.2 · 10 = 1 by itself.
    # home, cart recommended: 0.5 · (0.5 · (0.6 · 3 + 0.1 · 10) + 0.5 · 10) = 3.2; nothing: 0.5 · 2.8 = 1.4.
    assert solved.values == pytest.approx([3.2, 3.0, 10.0], abs=1e-9)
    assert solved.gains(process) == pytest.approx([1.8, 2.0, 0.0], abs=1e-9)
    assert evaluate(natural_process(graph, 0.5), np.arange(3)) == pytest.approx([0.8, 1.0, 10.0], abs=1e-9)
    # home's actions: nothing, sale, cart. Sale recommended: 0.5 · (0.5 · 2.8 + 0.5 · 3) = 1.45.
    assert solved.q[:3] == pytest.approx([1.4, 1.45, 3.2], abs=1e-9)
    assert solved.best.tolist() == [2, 4, 5]


def test_visitors_who_follow_are_taken_from_everything_else_in_proportion() -> None:
    graph = three_pages()
    process = page_process(graph, offers_of(graph, Following(0.5, np.inf), EVERY, 0.5), 0.5)
    rows = process.transitions().toarray()
    assert rows[0].tolist() == pytest.approx([0.0, 0.6, 0.1])
    assert rows[1].tolist() == pytest.approx([0.0, 0.5 * 0.6 + 0.5, 0.05])
    assert rows[2].tolist() == pytest.approx([0.0, 0.3, 0.05 + 0.5])
    # Of those that home loses, 0.3 by themselves, half is won back.
    assert 1.0 - rows[2].sum() == pytest.approx(0.15)


def test_a_lift_makes_a_page_so_many_times_as_likely_and_a_share_bounds_it() -> None:
    following = Following(share=0.2, lift=3.0)
    chances = np.array([0.0, 0.02, 0.5])
    shares = following.followed(chances)
    assert shares == pytest.approx([0.0, 2 * 0.02 / 0.98, 0.2])
    raised = (1 - shares) * chances + shares
    assert raised[:2] == pytest.approx([0.0, 0.06])
    assert Following(0.2, 1.0).followed(chances).tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(MarqueeError, match="share is 2"):
        Following(share=2.0)


def test_no_page_is_recommended_on_itself_and_none_that_stands_for_others_or_was_hardly_seen() -> None:
    graph = replace(three_pages(), pages=("home", "sale", OTHER))
    offers = offers_of(graph, Following(0.5, np.inf), EVERY, 0.5).toarray()
    assert np.flatnonzero(offers.sum(axis=0)).tolist() == [HOME, SALE]
    assert not offers.diagonal().any()
    rare = offers_of(three_pages(), Following(0.5, np.inf), Offering(visits=6, steps=1), 0.5).toarray()
    assert np.flatnonzero(rare.sum(axis=0)).tolist() == [HOME, SALE]


def test_a_page_that_leads_to_itself_is_not_recommended_on_itself() -> None:
    steps = three_pages().steps.tolil()
    steps[SALE, SALE] = 9
    graph = replace(three_pages(), steps=steps.tocsr())
    offers = offers_of(graph, Following(0.5, 9.0), EVERY, 0.5).toarray()
    assert np.argwhere(offers).tolist() == [[HOME, SALE], [HOME, CART], [SALE, CART]]


def test_a_step_that_was_hardly_ever_taken_is_not_recommended() -> None:
    offers = offers_of(three_pages(), Following(0.5, 9.0), Offering(visits=1, steps=2), 0.5).toarray()
    assert np.argwhere(offers).tolist() == [[HOME, SALE], [SALE, CART]]


def test_the_most_valuable_pages_are_offered_where_nobody_goes_by_themselves() -> None:
    offers = offers_of(
        three_pages(), Following(0.5, np.inf), Offering(successors=0, valuable=1, visits=1, steps=1), 0.5
    )
    assert offers.toarray()[:, CART].tolist() == [0.5, 0.5, 0.0]
    assert offers.nnz == 2
    bounded = offers_of(three_pages(), Following(0.5, 3.0), Offering(successors=1, visits=1, steps=1), 0.5).toarray()
    assert np.argwhere(bounded).tolist() == [[HOME, SALE], [SALE, CART]]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), discount=st.sampled_from([0.0, 0.5, 0.9, 0.99]))
def test_value_iteration_equals_linear_programming(seed: int, discount: float) -> None:
    process = drawn(seed, discount)
    exact, solved = by_linear_programming(process), solve(process)
    gap = float(np.abs(solved.values - exact).max())
    assert gap <= 1e-8
    assert gap <= solved.error + 1e-11 * float(np.abs(exact).max())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), tolerance=st.sampled_from([1e-1, 1e-3, 1e-6]), evaluations=st.integers(0, 12))
def test_the_error_that_is_told_is_never_exceeded_whenever_the_iteration_stops(
    seed: int, tolerance: float, evaluations: int
) -> None:
    process = drawn(seed, 0.95)
    exact, solved = by_linear_programming(process), solve(process, tolerance, evaluations)
    assert solved.error <= tolerance * max(1.0, float(np.abs(solved.values).max()))
    assert float(np.abs(solved.values - exact).max()) <= solved.error + 1e-10


def test_plain_sweeps_shrink_the_distance_by_the_discount_at_least() -> None:
    """The contraction that the bound rests on."""
    process = drawn(5, 0.8)
    exact = by_linear_programming(process)
    distances = []
    for tolerance in (1e-1, 1e-2, 1e-3, 1e-4):
        solved = solve(process, tolerance, 0)
        distances.append((solved.sweeps, float(np.abs(solved.values - exact).max())))
    (first, far), (last, near) = distances[0], distances[-1]
    assert last > first
    assert near <= far * 0.8 ** (last - first) + 1e-12


def test_the_best_actions_are_worth_what_the_values_say() -> None:
    for seed in range(10):
        process = drawn(seed, 0.95)
        solved = solve(process)
        assert evaluate(process, solved.best) == pytest.approx(solved.values, abs=1e-7)
        worse = np.where(np.diff(process.starts) > 1, process.starts[:-1], solved.best)
        assert np.all(evaluate(process, worse) <= solved.values + 1e-7)


def test_of_equal_actions_the_first_is_best_which_is_to_do_nothing() -> None:
    graph = replace(three_pages(), rewards=np.zeros(3))
    process = page_process(graph, offers_of(graph, Following(0.5, np.inf), EVERY, 0.9), 0.9)
    assert solve(process).best.tolist() == process.starts[:-1].tolist()


def test_a_process_that_cannot_be_one_is_refused() -> None:
    good = drawn(1, 0.9)
    with pytest.raises(MarqueeError, match="discount is 1"):
        replace(good, discount=1.0)
    with pytest.raises(MarqueeError, match="needs an action"):
        replace(good, starts=np.array([0, 0, *good.starts[2:]]))
    with pytest.raises(MarqueeError, match="sum to 1 at most"):
        replace(good, kept=good.kept + 1.0, natural=sparse.identity(len(good.starts) - 1, format="csr"))
    with pytest.raises(MarqueeError, match="finite rewards"):
        replace(good, rewards=np.full(len(good.rewards), np.nan))


def test_a_tolerance_finer_than_the_numbers_is_refused_instead_of_iterating_for_ever() -> None:
    with pytest.raises(MarqueeError, match="tolerance is"):
        solve(drawn(3, 0.999), tolerance=1e-17)


def test_a_graph_of_many_pages_without_an_exit_still_converges_in_few_sweeps() -> None:
    """A hundred times as many plain sweeps would be needed at this discount."""
    rng = np.random.default_rng(2)
    size, links = 5_000, 8
    natural = sparse.csr_matrix(
        (np.full(size * links, 1 / links), (np.repeat(np.arange(size), links), rng.integers(size, size=size * links))),
        shape=(size, size),
    )
    natural.sum_duplicates()
    nothing = sparse.csr_matrix((size, size))
    process = DecisionProcess(natural, np.arange(size + 1), rng.random(size), np.ones(size), nothing, 0.99)
    solved = solve(process)
    residual = process.rewards + 0.99 * (natural @ solved.values) - solved.values
    assert float(np.abs(residual).max()) * 99 <= 1e-8
    assert solved.sweeps < 200
