"""Linear programming on decision processes, by hand; and that the bench sees a solver that stops too early."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sparse
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import page_processes
from training.pages.decision_process import DecisionProcess, solve


def two_states(discount: float) -> DecisionProcess:
    """In state 0: take 1 and leave, or go to state 1 for nothing, which pays 3 and ends."""
    return DecisionProcess(
        natural=sparse.csr_matrix(np.zeros((2, 2))),
        starts=np.array([0, 2, 3]),
        rewards=np.array([1.0, 0.0, 3.0]),
        kept=np.zeros(3),
        moved=sparse.csr_matrix(np.array([[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]])),
        discount=discount,
    )


@pytest.mark.parametrize(("discount", "expected"), [(0.5, [1.5, 3.0]), (0.3, [1.0, 3.0])])
def test_linear_programming_by_hand(discount: float, expected: list[float]) -> None:
    assert page_processes.by_linear_programming(two_states(discount)) == pytest.approx(expected, abs=1e-12)


@given(st.integers(0, 10_000), st.sampled_from(page_processes.DISCOUNTS))
def test_both_ways_agree_on_random_processes(seed: int, discount: float) -> None:
    process = page_processes.random_process(np.random.default_rng(seed), discount)
    gap = np.abs(solve(process).values - page_processes.by_linear_programming(process)).max()
    assert gap < 1e-8


def test_the_bench_sees_a_solver_that_stops_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    assert page_processes.mdp(3, 20, 200)["mdp_gap"] < 1e-8
    monkeypatch.setattr(page_processes, "solve", lambda process: solve(process, 1e-3))
    assert page_processes.mdp(3, 20, 200)["mdp_gap"] > 1e-6


def test_a_large_process_is_a_process() -> None:
    process = page_processes.large_process(np.random.default_rng(5), 300)
    assert len(process.rewards) == 300 * (1 + page_processes.OFFERS)
    assert np.abs(solve(process).values - page_processes.by_linear_programming(process)).max() < 1e-7
