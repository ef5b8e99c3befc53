"""The simulated world of notifications, and that what is measured in it can fail."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, time, timedelta

import numpy as np
import pytest

from benchmarks.journeys_notifications import (
    NIGHT,
    SPRING,
    cap_violations,
    clicks_beside_blasts,
    quiet_violations,
)
from benchmarks.notification_policies import Run, at_random, fixed_hour, run
from benchmarks.notification_world import Sent, new_world
from marquee.notifications import OUTCOMES
from training.notifications.caps import Caps
from training.notifications.quiet_hours import QuietHours


def test_a_world_is_the_same_again_and_another_by_seed() -> None:
    one, again, other = new_world(3, 300), new_world(3, 300), new_world(4, 300)
    assert one.attention.tolist() == again.attention.tolist() != other.attention.tolist()
    assert one.attention.sum(axis=1) == pytest.approx(np.ones(300))
    # Whoever did much has habits near their attention.
    busy = one.counts.sum(axis=1) > 100
    assert np.abs(one.visitors.habits - one.attention)[busy].sum(axis=1).mean() < 0.35


def test_clicks_depend_on_type_hour_and_what_came_before() -> None:
    world = new_world(3, 300)
    sent, who, at = Sent(300, len(world.appeal)), np.arange(300), np.full(300, np.datetime64("2026-03-01", "s"))
    types, best = np.zeros(300, dtype=int), world.attention.argmax(axis=1)
    fresh = world.click_chances(who, types, best, sent, at)
    assert (fresh > world.click_chances(who, types, world.attention.argmin(axis=1), sent, at)).all()
    sent.add(who, types, at)
    assert (world.click_chances(who, types, best, sent, at) < fresh).all()
    assert world.click_chances(who, types, best, sent, at + np.timedelta64(60, "D")) == pytest.approx(fresh, rel=0.01)


def test_all_outcomes_come_as_often_as_they_should() -> None:
    found = new_world(1, 10).answers(np.full(100_000, 0.05), np.random.default_rng(1))
    share = dict(zip(OUTCOMES, np.bincount(found, minlength=4) / 100_000, strict=True))
    assert share["clicked"] == pytest.approx(0.05, abs=0.003)
    assert share["opened"] == pytest.approx(0.15, abs=0.005)
    assert share["dismissed"] == pytest.approx(0.06 * 0.8, abs=0.003)


def test_a_blast_goes_out_at_its_hour_in_the_volume_asked_for() -> None:
    world = new_world(5, 400)
    volume = np.array([50, 50, 0, 400, 30])
    done = run(world, fixed_hour(10, volume), 5, seed=5)
    assert np.bincount(done.day, minlength=5)[:3].tolist() == [50, 50, 0]
    assert len(done.due) <= volume.sum()
    assert quiet_violations(replace(world, rules=replace(world.rules, quiet=QuietHours(time(11), time(10)))), done) == 0
    assert (
        quiet_violations(replace(world, rules=replace(world.rules, quiet=QuietHours(time(10), time(11)))), done) > 300
    )


def test_violations_are_counted() -> None:
    world = new_world(5, 20)
    zone = world.visitors.zones.index("Europe/Paris")
    world = replace(world, visitors=replace(world.visitors, zone=np.full(20, zone)))
    week = [datetime(2026, 3, 25, 9) + timedelta(days=day) for day in (0, 2, 4, 6)]
    due = np.array([*week, datetime(2026, 3, 28, 20), datetime(2026, 3, 29, 19)], dtype="datetime64[s]")
    visitor = np.array([0, 0, 0, 0, 1, 2])
    done = Run(visitor, np.zeros(6, dtype=int), due, np.zeros(6, dtype=bool), np.zeros(6))
    # Nine at night in Paris: at 20 UTC before the clocks go forward, and at 19 UTC after.
    assert quiet_violations(world, done) == 2
    caps = dict.fromkeys(world.rules.segments, 3)
    for overall, wrong in ((4, 1), (2, 2), (1, 3)):
        limited = replace(world, rules=replace(world.rules, caps=Caps(caps, overall)))
        assert cap_violations(limited, done) == wrong


def test_no_limit_is_broken_while_clocks_change() -> None:
    for hours in (QuietHours(), NIGHT):
        world = new_world(2, 1_200)
        world = replace(world, rules=replace(world.rules, quiet=hours))
        done = run(world, at_random, 31, seed=2, start=SPRING)
        assert len(done.due) > 5_000
        assert (cap_violations(world, done), quiet_violations(world, done)) == (0, 0)


@pytest.mark.slow
def test_the_planner_earns_more_than_a_blast_where_there_is_something_to_learn() -> None:
    found = clicks_beside_blasts(seed=11, worlds=2, visitors=2_000, days=42)
    clicks = found["notification_clicks"]
    assert found["clicks_vs_blast"] >= 1.3
    assert clicks["vs_best_hour"]["low"] > 1.1
    assert clicks["vs_random"]["low"] > 1.0
    assert clicks["flat_vs_best_hour"]["value"] < 1.15
    assert clicks["sends"] == clicks["blast_sends"]
