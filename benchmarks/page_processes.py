"""Value iteration against linear programming on random decision processes, and its time on a large graph of pages."""

from __future__ import annotations

import time
from typing import Any, Final

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse.linalg import spsolve

from benchmarks.measure import say
from training.pages.decision_process import DecisionProcess, solve

Doubles = NDArray[np.float64]
DISCOUNTS: Final = (0.0, 0.5, 0.9, 0.95, 0.99)
MOST_STATES, MOST_ACTIONS = 40, 6
LINKS, OFFERS = 10, 10
"""Of each page of the large graph."""
LARGE_DISCOUNT: Final = 0.99


def mdp(seed: int, processes: int, pages: int) -> dict[str, Any]:
    """Largest difference between the two solutions, of all states of all processes, and the seconds of the large one.

    Args:
        seed: of everything drawn.
        processes: random ones that are solved twice.
        pages: of the large graph.
    """
    rng = np.random.default_rng(seed)
    gaps, states, wrong = [], 0, 0
    for number in range(processes):
        process = random_process(rng, DISCOUNTS[number % len(DISCOUNTS)])
        found, expected = solve(process), by_linear_programming(process)
        gaps.append(float(np.abs(found.values - expected).max()))
        states += len(expected)
        wrong += int((np.abs(found.q[found.best] - expected) > 1e-7).sum())
    say(f"  {processes} processes: largest difference {max(gaps):.1e}")
    return {
        "mdp_gap": max(gaps),
        "mdp_processes": processes,
        "mdp_states": states,
        "mdp_states_with_a_worse_action": wrong,
    } | _large(rng, pages)


def random_process(rng: np.random.Generator, discount: float) -> DecisionProcess:
    """Of 2 to 40 states with 1 to 6 actions each; rewards of both signs, some rows that never end, some that must."""
    size = int(rng.integers(2, MOST_STATES + 1))
    offered = rng.integers(1, MOST_ACTIONS + 1, size)
    starts = np.concatenate([[0], np.cumsum(offered)]).astype(np.int64)
    count, states = int(starts[-1]), np.repeat(np.arange(size), offered)
    stays = rng.choice([0.0, 0.5, 0.9, 1.0], size, p=[0.1, 0.3, 0.4, 0.2])
    natural = rng.dirichlet(np.full(size, 0.3), size) * stays[:, None]
    kept = rng.random(count)
    moved = rng.dirichlet(np.full(size, 0.3), count) * (rng.random(count) * (1.0 - kept * stays[states]))[:, None]
    rewards = rng.normal(size=count) * rng.choice([0.0, 1.0, 10.0])
    return DecisionProcess(sparse.csr_matrix(natural), starts, rewards, kept, sparse.csr_matrix(moved), discount)


def by_linear_programming(process: DecisionProcess) -> Doubles:
    """[S] the optimal values: the least V with V(s) ≥ r(a) + γ P(a) V for every action a of every state s.

    The program says which actions bind; V is then the solution of their equations, free of the solver's tolerance.

    Sources: d'Epenoux, Management Science 1963; Puterman, "Markov Decision Processes", 1994, section 6.9.

    Raises:
        RuntimeError: the solver found no optimum, or its answer breaks a constraint.
    """
    size, states = len(process.starts) - 1, process.states
    own = sparse.csr_matrix((np.ones(len(states)), (np.arange(len(states)), states)), shape=(len(states), size))
    onward = own - process.discount * process.transitions()
    # Tolerances are absolute, so the rewards are brought to size 1.
    scale = max(float(np.abs(process.rewards).max()), 1e-12)
    rewards = process.rewards / scale
    done = linprog(np.ones(size), A_ub=-onward, b_ub=-rewards, bounds=(None, None), method="highs-ds")
    if done.status != 0:
        raise RuntimeError(f"linear programming: {done.message}")
    slack = onward @ done.x - rewards
    order = np.lexsort((slack, states))
    binding = order[process.starts[:-1]]
    values = np.asarray(spsolve(sparse.csc_matrix(onward[binding]), rewards[binding]))
    worst = float((onward @ values - rewards).min())
    if worst < -1e-11 * max(1.0, float(np.abs(values).max())):
        raise RuntimeError(f"linear programming: a constraint is broken by {-worst:.1e}")
    return values * scale


def _large(rng: np.random.Generator, pages: int) -> dict[str, Any]:
    process = large_process(rng, pages)
    since = time.perf_counter()
    found = solve(process)
    seconds = time.perf_counter() - since
    say(f"  {pages:,} pages, {len(process.rewards):,} actions: {found.sweeps} sweeps, {seconds:.1f} s")
    return {
        "mdp_100k_seconds": round(seconds, 2),
        "mdp_100k": {
            "pages": pages,
            "links": process.natural.nnz,
            "actions": len(process.rewards),
            "sweeps": found.sweeps,
            "error": found.error,
            "largest_value": float(found.values.max()),
        },
    }


def large_process(rng: np.random.Generator, pages: int) -> DecisionProcess:
    """Pages with ten links and ten recommendations each beside none; few have a value, and hubs are often linked to."""
    links = np.minimum((pages * rng.random((pages, LINKS)) ** 3).astype(np.int64), pages - 1)
    chances = rng.dirichlet(np.full(LINKS, 0.7), pages) * (1.0 - rng.beta(2.0, 6.0, pages))[:, None]
    rows = np.repeat(np.arange(pages), LINKS)
    natural = sparse.csr_matrix((chances.ravel(), (rows, links.ravel())), shape=(pages, pages))
    offered = rng.integers(0, pages, (pages, OFFERS))
    followed = np.zeros((pages, OFFERS + 1))
    followed[:, 1:] = rng.uniform(0.01, 0.3, (pages, OFFERS))
    count = pages * (OFFERS + 1)
    places = np.arange(count).reshape(pages, OFFERS + 1)[:, 1:].ravel()
    moved = sparse.csr_matrix((followed[:, 1:].ravel(), (places, offered.ravel())), shape=(count, pages))
    worth = np.where(rng.random(pages) < 0.02, rng.lognormal(3.0, 1.0, pages), 0.0)
    starts = np.arange(pages + 1) * (OFFERS + 1)
    rewards = np.repeat(worth, OFFERS + 1)
    return DecisionProcess(natural, starts, rewards, 1.0 - followed.ravel(), moved, LARGE_DISCOUNT)
