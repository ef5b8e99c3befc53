"""Hours of visitors: shrinkage by hand, its strength recovered, and better than either extreme."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from training.notifications.send_time import HOURS, STRONGEST, SendTime, fit_send_time, hour_counts


def test_shares_by_hand() -> None:
    """Ten events at hour 8 beside a segment that is even, which counts for five: (10 + 5/24) / 15."""
    even = np.full(HOURS, 1 / HOURS)
    model = SendTime(even, ("new",), even[None, :], 5.0, 10.0)
    counts = np.zeros((2, HOURS))
    counts[0, 8] = 10
    found = model.shares(counts, ["new", "elsewhere"])
    assert found[0, 8] == pytest.approx((10 + 5 / 24) / 15)
    assert found[0, 9] == pytest.approx(5 / 24 / 15)
    assert found[1] == pytest.approx(even)


@given(hnp.arrays(np.int64, (6, HOURS), elements=st.integers(0, 30)))
def test_shares_are_distributions(counts: np.ndarray) -> None:
    names = ["a", "a", "b", "b", "b", "c"]
    model = fit_send_time(counts, names)
    found = model.shares(counts, names)
    assert found.sum(axis=1) == pytest.approx(np.ones(6))
    assert (found > 0).all()
    assert model.by_segment.sum(axis=1) == pytest.approx(np.ones(3))


def sampled(strength: float, visitors: int, events: int) -> tuple[np.ndarray, np.ndarray]:
    """Habits of visitors around one of the segment, and counts of what they did."""
    rng = np.random.default_rng(9)
    base = rng.dirichlet(np.full(HOURS, 2.0))
    habits = rng.dirichlet(strength * base, visitors)
    return habits, np.array([rng.multinomial(events, one / one.sum()) for one in habits])


@pytest.mark.parametrize("strength", [2.0, 10.0, 50.0])
def test_the_strength_of_a_dirichlet_is_recovered(strength: float) -> None:
    _, counts = sampled(strength, 3_000, 30)
    assert fit_send_time(counts, ["one"] * len(counts)).strength == pytest.approx(strength, rel=0.15)


def test_shrunk_shares_are_nearer_the_truth_than_either_end() -> None:
    habits, counts = sampled(10.0, 2_000, 12)
    names = ["one"] * len(counts)
    model = fit_send_time(counts, names)
    wrong = {
        "shrunk": np.abs(model.shares(counts, names) - habits).sum(axis=1).mean(),
        "own": np.abs(counts / 12 - habits).sum(axis=1).mean(),
        "all": np.abs(model.overall - habits).sum(axis=1).mean(),
    }
    assert min(wrong, key=lambda name: wrong[name]) == "shrunk"
    assert wrong["shrunk"] < 0.9 * min(wrong["own"], wrong["all"])


def test_a_segment_of_its_own_is_believed_and_a_small_one_is_not() -> None:
    counts = np.zeros((202, HOURS), dtype=np.int64)
    counts[:100, 8], counts[100:200, 20], counts[200, 3] = 30, 30, 1
    model = fit_send_time(counts, ["morning"] * 100 + ["evening"] * 100 + ["few", "none"])
    by_name = dict(zip(model.segments, model.by_segment, strict=True))
    assert by_name["morning"][8] > 0.9
    assert by_name["evening"][20] > 0.9
    assert by_name["none"] == pytest.approx(model.overall)


def test_without_events_everybody_is_even() -> None:
    model = fit_send_time(np.zeros((3, HOURS)), ["a", "b", "b"])
    assert model.strength == STRONGEST
    assert model.shares(np.zeros((1, HOURS)), ["a"])[0] == pytest.approx(np.full(HOURS, 1 / HOURS))


def test_hours_are_counted_by_visitor() -> None:
    found = hour_counts(np.array([0, 2, 2, 2]), np.array([23, 0, 0, 5]), 3)
    assert (found[0, 23], found[1].sum(), found[2, 0], found[2, 5]) == (1, 0, 2, 1)
