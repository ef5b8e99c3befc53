"""The split by time: no label is used before it was known, and no moment is torn apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.matrix import seconds
from marquee.errors import NothingToDo
from training.dataset import split_by_time

DAY = np.timedelta64(1, "D")
ZERO = np.datetime64("2026-01-01", "us")


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), min_size=1, max_size=80))
def test_each_part_was_known_before_the_next_began(rows: list[tuple[int, int]]) -> None:
    shown = ZERO + np.array([day for day, _ in rows]) * DAY
    known = shown + np.array([delay for _, delay in rows]) * DAY
    try:
        split = split_by_time(shown, known)
    except NothingToDo:
        return
    assert (known[split.train] <= split.validation_starts_at).all()
    assert (shown[split.validation] >= split.validation_starts_at).all()
    assert (known[split.validation] <= split.test_starts_at).all()
    assert (shown[split.test] >= split.test_starts_at).all()
    parts = np.concatenate([split.train, split.validation, split.test])
    # A row with no delay may be known at the very moment that the next part begins, and belong to both sides.
    assert split.purged == len(rows) - len(parts)


def test_a_row_whose_click_may_still_come_is_set_aside() -> None:
    shown = ZERO + np.arange(10) * DAY
    split = split_by_time(shown, shown + 2 * DAY)
    assert split.test.tolist() == [7, 8, 9]
    assert 6 not in [*split.train, *split.validation]
    assert split.purged > 0


def test_one_moment_cannot_be_split() -> None:
    with pytest.raises(NothingToDo, match="ingest more days"):
        split_by_time(np.full(5, ZERO), np.full(5, ZERO + DAY))


def test_seconds_of_nothing_are_not_a_number() -> None:
    values = seconds(np.array(["1970-01-02", "NaT"], dtype="datetime64[us]"))
    assert values[0] == 86400
    assert np.isnan(values[1])
