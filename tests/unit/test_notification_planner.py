"""The plan: rules kept, the same again, propensities that are true, and what has been learned acted upon."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marquee.contract import DEVICES
from marquee.notifications import CHANNELS, OUTCOMES
from training.notifications.bandit import BanditSettings
from training.notifications.caps import UNKNOWN, Caps, Fatigue
from training.notifications.decisions import Chooser, Decisions, Visitors, decide
from training.notifications.past import Past
from training.notifications.planner import plan
from training.notifications.quiet_hours import QuietHours
from training.notifications.rules import Rules
from training.notifications.send_time import BUCKET_HOURS, BUCKETS, HOURS

ZONES = ("America/Los_Angeles", "Asia/Kathmandu", "Australia/Lord_Howe", "Europe/Paris", "UTC")
TYPES = {"loyal": ("gift", "news"), "lost": ("offer",), "muted": ("survey",)}
NOW = datetime(2026, 3, 28, 6, 30)
"""The day before clocks go forward in Europe."""


def rules(**changes: Any) -> Rules:
    return Rules(TYPES, **({"caps": Caps({"loyal": 2, "lost": 1})} | changes))


def visitors(size: int, seed: int = 0) -> Visitors:
    rng = np.random.default_rng(seed)
    return Visitors(
        ids=[f"v{place}" for place in range(size)],
        segment=rng.integers(-1, 3, size),
        zones=ZONES,
        zone=rng.integers(0, len(ZONES), size),
        device=rng.integers(0, len(DEVICES), size),
        habits=rng.dirichlet(np.ones(HOURS), size),
    )


def sent(made: Decisions, seen: Visitors, outcome: int = UNKNOWN) -> Past:
    """What was decided, as something that lies behind."""
    zeros = np.zeros(len(made.visitor), dtype=np.int64)
    group, outcomes = seen.segment[made.visitor], np.full(len(zeros), outcome)
    device = seen.device[made.visitor]
    return Past(made.visitor, made.type, group, made.due, outcomes, zeros, made.bucket, zeros, device, made.propensity)


def shown(zone: str, at: datetime) -> datetime:
    return at.replace(tzinfo=UTC).astimezone(ZoneInfo(zone))


def test_every_rule_is_kept_for_each() -> None:
    seen, known = visitors(2_000), rules()
    planned = plan(NOW, seen, Past.empty(), Chooser(known.new_bandit()), known, {"v7": "b1"}, seed=3)
    place = {one: row for row, one in enumerate(seen.ids)}
    assert {one.segment for one in planned} == {"loyal", "lost"}
    assert len(planned) == np.isin(seen.segment, [known.segments.index("loyal"), known.segments.index("lost")]).sum()
    for one in planned:
        row = place[one.visitor_id]
        local = shown(ZONES[seen.zone[row]], one.due_at)
        assert one.notification_type in TYPES[one.segment]
        assert one.hour_bucket == local.hour // BUCKET_HOURS
        assert time(9) <= local.time() < time(21)
        assert NOW <= one.due_at < NOW + timedelta(hours=25)
        assert one.due_at + timedelta(minutes=15) <= one.expires_at <= one.due_at + timedelta(hours=6)
        last = shown(ZONES[seen.zone[row]], one.expires_at - timedelta(seconds=1))
        assert time(9) <= last.time() < time(21), "nothing that is sent late may be sent at night"
        assert one.channel in CHANNELS
        assert one.channel == ("push" if DEVICES[seen.device[row]] in ("mobile", "tablet") else "email")
        assert 0 < one.propensity <= 1
        assert one.content_id == ("b1" if one.visitor_id == "v7" else None)
        assert one.planned_at == NOW
    assert len({one.notification_id for one in planned}) == len(planned)
    assert planned == sorted(planned, key=lambda one: (one.due_at, one.visitor_id))


def test_the_same_again_and_another_seed_another() -> None:
    seen, known = visitors(400), rules()
    first, again, other = (
        plan(NOW, seen, Past.empty(), Chooser(known.new_bandit()), known, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again != other
    order = np.random.default_rng(1).permutation(400)
    turned = Visitors(
        [seen.ids[row] for row in order], seen.segment[order], ZONES, seen.zone[order], seen.device[order],
        seen.habits[order],
    )  # fmt: skip
    moved = plan(NOW, turned, Past.empty(), Chooser(known.new_bandit()), known, seed=1)
    assert [one.notification_id for one in moved] == [one.notification_id for one in first]


def test_nobody_and_nothing_to_send_are_no_plan() -> None:
    known = rules()
    for size, what in ((0, known), (50, rules(caps=Caps({})))):
        assert plan(NOW, visitors(size), Past.empty(), Chooser(what.new_bandit()), what) == []


def test_propensities_are_how_often_each_arm_is_drawn() -> None:
    """One visitor, a hundred thousand times."""
    known, size = rules(), 100_000
    one = visitors(1, 5)
    many = Visitors(
        ["v"] * size, np.full(size, known.segments.index("loyal")), ZONES, np.repeat(one.zone, size),
        np.repeat(one.device, size), np.repeat(one.habits, size, axis=0),
    )  # fmt: skip
    uniform = np.random.default_rng(2).random(size)
    made = decide(NOW, many, Past.empty(), Chooser(known.new_bandit()), known, uniform)
    drawn = Counter(zip(made.type.tolist(), made.bucket.tolist(), strict=True))
    told = dict(zip(zip(made.type.tolist(), made.bucket.tolist(), strict=True), made.propensity.tolist(), strict=True))
    assert sum(told.values()) == pytest.approx(1)
    assert {bucket for _, bucket in drawn} == {3, 4, 5, 6}
    for arm, count in drawn.items():
        assert count / size == pytest.approx(told[arm], abs=0.006)


def test_within_its_part_of_the_day_it_is_the_visitors_hour() -> None:
    seen, known = visitors(500), rules()
    made = decide(NOW, seen, Past.empty(), Chooser(known.new_bandit()), known, np.full(500, 0.5))
    checked = 0
    for visitor, bucket, due in zip(made.visitor.tolist(), made.bucket.tolist(), made.due.tolist(), strict=True):
        hour = shown(ZONES[seen.zone[visitor]], due).hour
        whole = range(bucket * BUCKET_HOURS, (bucket + 1) * BUCKET_HOURS)
        if ZONES[seen.zone[visitor]] == "UTC":
            assert hour == max(whole, key=lambda one: seen.habits[visitor, one])
            checked += 1
    assert checked > 20


def test_what_is_learned_is_acted_upon() -> None:
    """The bandit has seen that news does better in the afternoon; so it is what most of the loyal get."""
    known, seen = rules(), replace(visitors(3_000), habits=np.full((3_000, HOURS), 1 / HOURS))
    bandit, size = known.new_bandit(), 8_000
    rng, group = np.random.default_rng(6), known.segments.index("loyal")
    arms = np.flatnonzero(known.awake()[group])
    taken = arms[rng.integers(0, len(arms), size)]
    best = known.types.index("news") * BUCKETS + 5
    clicked = rng.random(size) < np.where(taken == best, 0.15, 0.05)
    bandit.update(np.full(size, group), taken, clicked.astype(float), np.full(size, 1 / len(arms)))
    made = decide(NOW, seen, Past.empty(), Chooser(bandit), known, rng.random(3_000))
    loyal = seen.segment[made.visitor] == group
    got = (made.type * BUCKETS + made.bucket)[loyal]
    assert (got == best).mean() > 0.8
    assert (got == best).mean() < 1, "the share of exploration goes to others"


def test_a_type_that_just_came_rests() -> None:
    known = rules(caps=Caps({"loyal": 5, "lost": 5}, overall=5))
    seen = replace(visitors(4_000), habits=np.full((4_000, HOURS), 1 / HOURS))
    uniform, chooser = np.random.default_rng(1).random(4_000), Chooser(known.new_bandit(), None, BanditSettings(0.5))
    first = decide(NOW, seen, Past.empty(), chooser, known, uniform)
    later = NOW + timedelta(days=2)
    second = decide(later, seen, sent(first, seen), chooser, known, np.random.default_rng(2).random(4_000))
    before = dict(zip(first.visitor.tolist(), first.type.tolist(), strict=True))
    loyal = seen.segment[second.visitor] == known.segments.index("loyal")
    same = [before[who] == now for who, now in zip(second.visitor.tolist(), second.type.tolist(), strict=True)]
    assert np.array(same)[loyal].mean() < 0.2


def test_who_does_not_react_is_left_alone() -> None:
    known = rules(caps=Caps({"loyal": 5, "lost": 5}, overall=5), fatigue=Fatigue(patience=2, pause_days=10))
    seen, uniform = visitors(300), np.full(300, 0.3)
    past = Past.empty()
    for day in (0, 2):
        made = decide(NOW + timedelta(days=day), seen, past, Chooser(known.new_bandit()), known, uniform)
        past = past.and_then(sent(made, seen, OUTCOMES.index("ignored")))
    assert len(past.visitor) == 2 * len(made.visitor) > 0
    quiet = decide(NOW + timedelta(days=8), seen, past, Chooser(known.new_bandit()), known, uniform)
    again = decide(NOW + timedelta(days=13), seen, past, Chooser(known.new_bandit()), known, uniform)
    assert (len(quiet.visitor), len(again.visitor)) == (0, len(made.visitor))
    opened = replace(past, outcome=np.full(len(past.outcome), OUTCOMES.index("opened")))
    assert len(decide(NOW + timedelta(days=8), seen, opened, Chooser(known.new_bandit()), known, uniform).visitor) > 0


@settings(max_examples=25, deadline=None)
@given(
    st.datetimes(datetime(2026, 3, 1), datetime(2026, 11, 5)),
    st.times(),
    st.times(),
    st.integers(0, 3),
    st.integers(0, 2**32),
)
def test_day_after_day_nothing_is_broken(start: datetime, begin: time, end: time, cap: int, seed: int) -> None:
    """Twelve days from any moment, any quiet hours: caps counted one by one, quiet hours by the standard library."""
    quiet = QuietHours(begin.replace(microsecond=0), end.replace(microsecond=0))
    known, seen = rules(quiet=quiet, caps=Caps({"loyal": cap, "lost": 1}, gap_hours=6)), visitors(60, seed)
    rng, past = np.random.default_rng(seed), Past.empty()
    for day in range(12):
        now = start + timedelta(days=day, minutes=int(rng.integers(0, 300)))
        made = decide(now, seen, past, Chooser(known.new_bandit()), known, rng.random(60))
        assert all(due >= now for due in made.due.tolist())
        past = past.and_then(sent(made, seen))
    by_visitor: dict[int, list[datetime]] = {}
    for row, due in zip(past.visitor.tolist(), past.at.tolist(), strict=True):
        by_visitor.setdefault(row, []).append(due)
        local = shown(ZONES[seen.zone[row]], due).time()
        over = quiet.start > quiet.end
        assert not (local >= quiet.start or local < quiet.end if over else quiet.start <= local < quiet.end)
    for row, dues in by_visitor.items():
        most = {"loyal": cap, "lost": 1}[known.segments[seen.segment[row]]]
        for due in dues:
            assert sum(timedelta(0) <= due - one < timedelta(days=7) for one in dues) <= most
