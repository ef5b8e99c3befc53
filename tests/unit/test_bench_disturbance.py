"""Worse data on purpose: exactly as much worse as asked for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.harness.disturbance import KINDS, delayed, dropped, flipped
from training.interactions import Interactions, from_events


def many(seed: int = 0, users: int = 200) -> Interactions:
    rng = np.random.default_rng(seed)
    count = users * 10
    return from_events(
        np.char.mod("u%03d", rng.integers(users, size=count)),
        np.char.mod("i%02d", rng.integers(50, size=count)),
        rng.random(count) * 1e6,
        weights=rng.random(count).astype(np.float32),
        contexts=rng.integers(3, size=count),
    )


def same(one: Interactions, other: Interactions) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("user_ids", "item_ids", "starts", "items", "times", "weights", "contexts")
    )


class TestDisturbance:
    @pytest.mark.parametrize("kind", KINDS)
    def test_share_nought_changes_nothing_and_a_seed_says_which(self, kind: str) -> None:
        disturb, events = KINDS[kind], many()
        assert same(disturb(events, 0.0, 1), events)
        assert same(disturb(events, 0.3, 1), disturb(events, 0.3, 1))
        assert not same(disturb(events, 0.3, 1), disturb(events, 0.3, 2))
        assert same(events, many())  # what came in is as it was
        for wrong in (-0.1, 1.1):
            with pytest.raises(ValueError, match="not between 0 and 1"):
                disturb(events, wrong, 0)
        nobody = events.where(np.zeros(len(events), dtype=bool))
        assert same(disturb(nobody, 0.5, 0), nobody)

    @pytest.mark.parametrize("disturb", [dropped, delayed])
    def test_the_share_of_events_is_gone(self, disturb: Callable[..., Interactions]) -> None:
        events = many()
        for share in (0.1, 0.5):
            assert len(disturb(events, share, 3)) / len(events) == pytest.approx(1 - share, abs=0.02)
        assert len(disturb(events, 1.0, 3)) == 0
        assert disturb(events, 1.0, 3).user_count == events.user_count

    def test_dropped_is_exact_and_grows(self) -> None:
        events = many()
        marked = Interactions(
            events.user_ids, events.item_ids, events.starts, events.items, np.arange(float(len(events))),
            events.weights, events.contexts
        )  # fmt: skip
        left = [set(dropped(marked, share, 7).times) for share in (0.1, 0.2, 0.4)]
        assert [len(one) for one in left] == [1800, 1600, 1200]
        assert left[0] > left[1] > left[2]

    def test_flipped_is_another_item_and_nothing_else(self) -> None:
        events = many()
        found = flipped(events, 0.25, 7)
        assert np.count_nonzero(found.items != events.items) == len(events) // 4
        assert found.items.min() >= 0
        assert found.items.max() < events.item_count
        rest = ("user_ids", "item_ids", "starts", "times", "weights", "contexts")
        assert all(np.array_equal(getattr(found, name), getattr(events, name)) for name in rest)
        # Each of the other items alike: 50,000 flips of item 0 of 50 give about 1,020 each.
        zeros = from_events(
            np.zeros(50_000), np.zeros(50_000), np.zeros(50_000), item_ids=np.array([f"{i:02d}" for i in range(50)])
        )
        zeros = Interactions(
            zeros.user_ids, zeros.item_ids, zeros.starts, zeros.items * 0, zeros.times, zeros.weights, zeros.contexts
        )
        counts = np.bincount(flipped(zeros, 1.0, 0).items, minlength=50)
        assert counts[0] == 0
        assert np.abs(counts[1:] - 50_000 / 49).max() < 5 * np.sqrt(50_000 / 49)
        alone = zeros.where(np.arange(50_000) < 3)
        single = Interactions(
            alone.user_ids, np.array(["x"]), alone.starts, alone.items, alone.times, alone.weights, alone.contexts
        )
        assert same(flipped(single, 1.0, 0), single)

    @settings(max_examples=40, deadline=None)
    @given(st.floats(0, 1), st.integers(0, 9))
    def test_late_are_the_newest_of_each(self, share: float, seed: int) -> None:
        events = many(users=30)
        found = delayed(events, share, seed)
        assert found.user_ids.tolist() == events.user_ids.tolist()
        for user in range(events.user_count):
            row = np.array([user])
            kept, every = found.take(row), events.take(row)
            assert kept.items.tolist() == every.items[: len(kept)].tolist()
            assert abs(len(every) - len(kept) - share * len(every)) < 1
