"""Caps over any seven days, gaps and pauses: by hand, and against counting one by one."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.notifications.caps import LONG_AGO, UNKNOWN, Caps, Fatigue, side_by_side, streaks
from training.notifications.local_time import DAY, HOUR

START = datetime(2026, 3, 20)
WEEK = 7 * DAY


def hours(*values: float) -> np.ndarray:
    return np.array([int(value * HOUR) for value in values], dtype=np.int64)


def allowed(caps: Caps, sent: list[float], at: float, weekly: int) -> bool:
    found = caps.allow(hours(*sent)[None, :], hours(at)[None, :].astype("datetime64[s]"), np.array([weekly]))
    return bool(found[0, 0])


def test_by_hand() -> None:
    caps = Caps(gap_hours=0)
    assert allowed(caps, [0, 24], 167.99, 3)
    assert not allowed(caps, [0, 24, 48], 167.99, 3)
    assert allowed(caps, [0, 24, 48], 168, 3)
    assert not allowed(caps, [24, 48, 72], 0, 3)
    assert not allowed(caps, [0, 72], 24, 2)
    assert allowed(caps, [0, 72], 200, 2)
    assert not allowed(caps, [], 0, 0)
    assert not allowed(Caps(gap_hours=20), [0], 19.99, 5)
    assert not allowed(Caps(gap_hours=20), [20], 0.01, 5)
    assert allowed(Caps(gap_hours=20), [0], 20, 5)


def test_the_lower_of_both_caps_holds_and_no_cap_is_none() -> None:
    assert Caps({"loyal": 3, "lost": 1}, overall=2).of(["loyal", "lost", "", "other"]).tolist() == [2, 1, 0, 0]


@given(st.lists(st.floats(0, 600), max_size=12), st.integers(0, 5), st.integers(1, 5), st.floats(0, 30))
def test_never_more_than_the_cap_in_any_week(asked: list[float], weekly: int, overall: int, gap: float) -> None:
    """Asked in any order, in seconds that may coincide; counted over the windows that end with each."""
    caps, sent = Caps({"s": weekly}, overall, gap), hours()
    cap = caps.of(["s"])
    for one in hours(*asked):
        row = np.sort(np.append(sent, LONG_AGO))[None, :]
        if caps.allow(row, np.array([[one]]).astype("datetime64[s]"), cap)[0, 0]:
            sent = np.sort(np.append(sent, one))
    for last in sent:
        assert ((sent <= last) & (sent > last - WEEK)).sum() <= min(weekly, overall)
    assert len(sent) < 2 or np.diff(sent).min() >= int(gap * HOUR)
    assert len(sent) > 0 or not asked or weekly == 0


def test_side_by_side_puts_the_newest_last() -> None:
    at = hours(5, 1, 3, 9).astype("datetime64[s]")
    found = side_by_side(np.array([0, 0, 2, 0]), at, 3, np.datetime64(0, "s") + np.timedelta64(2 * HOUR, "s"))
    assert found.tolist() == [[5 * HOUR, 9 * HOUR], [LONG_AGO, LONG_AGO], [LONG_AGO, 3 * HOUR]]


def test_streaks_by_hand() -> None:
    at = hours(1, 2, 3, 4, 1, 2, 3, 9).astype("datetime64[s]")
    who = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    unwelcome = np.array([1, 0, 1, 1, 1, 1, UNKNOWN, 1])
    streak, last = streaks(who, at, unwelcome, 3)
    assert streak.tolist() == [2, 3, 0]
    assert last[:2].tolist() == [datetime(1970, 1, 1, 4), datetime(1970, 1, 1, 9)]


def test_pauses_double_up_to_the_longest() -> None:
    fatigue = Fatigue(patience=3, pause_days=7, longest_days=30)
    until = fatigue.until(np.array([0, 2, 3, 4, 5, 99]), np.full(6, np.datetime64(START, "s")))
    assert (until[:2] < np.datetime64("1970-01-01")).all()
    assert [one - START for one in until[2:].tolist()] == [timedelta(days=days) for days in (7, 14, 28, 30)]
    assert (Fatigue(patience=0).until(np.array([50]), np.datetime64(START, "s")) < np.datetime64("1970-01-01")).all()


def test_a_million_decisions_break_no_cap() -> None:
    """50,000 visitors asked for twenty times each within three weeks, at random moments."""
    rng = np.random.default_rng(5)
    size, caps = 50_000, Caps({"a": 1, "b": 2, "c": 5}, overall=4, gap_hours=6)
    weekly = caps.of(np.array(["a", "b", "c"])[rng.integers(0, 3, size)])
    who, at = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    for asked in np.sort(rng.integers(0, 3 * WEEK, (20, size)), axis=0):
        sent = side_by_side(who, at.astype("datetime64[s]"), size, np.datetime64(0, "s"))
        rows = np.flatnonzero(caps.allow(sent, asked[:, None].astype("datetime64[s]"), weekly)[:, 0])
        who, at = np.r_[who, rows], np.r_[at, asked[rows]]
    order = np.lexsort((at, who))
    who, at = who[order], at[order]
    assert len(who) > 150_000
    for cap in (1, 2, 4):
        same = (who[cap:] == who[:-cap]) & (weekly[who[cap:]] == cap)
        assert (at[cap:] - at[:-cap])[same].min() >= WEEK
    assert (np.diff(at)[np.diff(who) == 0]).min() >= 6 * HOUR
