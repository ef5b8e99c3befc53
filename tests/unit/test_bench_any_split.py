"""What must hold of any split of any data: nothing later is learnt from, nothing is in both, prefixes are prefixes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from marquee.errors import MarqueeError
from training.harness.protocols import (
    NAMES,
    given_split,
    leave_one_out,
    sessions,
    temporal,
)
from training.harness.questions import Splitting
from training.harness.reading import Events
from training.harness.task import Task
from training.harness.validation import validation_task
from training.interactions import from_events

Row = tuple[str, str, float]


def events(rows: list[Row], timed: bool = True, by_session: bool = False) -> Events:
    users, items, times = zip(*rows, strict=True)
    return Events(from_events(np.array(users), np.array(items), np.array(times, dtype=np.float64)), timed, by_session)


def asked(task: Task) -> list[tuple[str, str, str]]:
    """Each question as asker, history and right items; an item that training does not know is a ``?``."""
    histories, names = task.queries.histories, np.append(task.train.item_ids, "?")
    found = []
    for row in range(len(task.queries)):
        history = names[histories.items[histories.starts[row] : histories.starts[row + 1]]]
        right = names[task.truth.items[task.truth.starts[row] : task.truth.starts[row + 1]]]
        found.append((str(histories.user_ids[row]), "".join(history), "".join(right)))
    return found


shops = st.lists(
    st.tuples(st.sampled_from("uvwxyz"), st.sampled_from("abcdefg"), st.integers(0, 40).map(float)),
    min_size=8,
    max_size=60,
)
choices = st.builds(
    Splitting,
    test_share=st.sampled_from([0.2, 0.5]),
    gap_minutes=st.sampled_from([0.0, 0.1]),
    least_item_events=st.integers(1, 3),
    hold_validation=st.booleans(),
    exclude_seen=st.booleans(),
    ask_new_users=st.booleans(),
    most_queries=st.sampled_from([0, 3]),
)


def made(protocol: str, rows: list[Row], splitting: Splitting) -> Task:
    """A task of that protocol; skipped where the data leave none."""
    data = events(rows)
    try:
        if protocol == "given-split":
            half = len(rows) // 2
            return given_split(events(rows[:half]), events(rows[half:]), None, splitting)
        return {"sessions": sessions, "leave-one-out": leave_one_out, "temporal": temporal}[protocol](data, splitting)
    except MarqueeError:
        assume(False)
        raise


def check(task: Task, rows: list[Row], splitting: Splitting) -> int:
    """Everything that must hold of a task made of the rows; returns how many answers were checked."""
    histories, train = task.queries.histories, task.train
    assert (np.bincount(train.items, minlength=train.item_count) > 0).all()
    assert train.item_ids.tolist() == sorted(train.item_ids.tolist())
    assert histories.item_ids.tolist() == train.item_ids.tolist()
    assert ((histories.items >= 0) & (histories.items < train.item_count)).all()
    assert len(task.queries) == len(task.truth) == histories.user_count
    assert not splitting.most_queries or len(task.queries) <= splitting.most_queries
    for row, (name, history, right) in enumerate(asked(task)):
        assert right
        user = name.partition("#")[0]
        own = sorted([one for one in rows if one[0] == user], key=lambda one: one[2])
        known = set(train.item_ids.tolist())
        if task.exclude_seen:
            assert not set(history) & set(right)
        if task.protocol != "sessions":
            assert len(set(right.replace("?", ""))) == len(right.replace("?", ""))
            place = int(task.queries.users[row])
            assert (place >= 0) == (name in train.user_ids.tolist())
            assert place < 0 or train.user_ids[place] == name
        if task.protocol != "given-split":
            # The history is the user's events up to some moment, one after another, but for unknown items.
            items = [one[1] for one in own if one[1] in known]
            starts = [at for at in range(len(items) + 1) if "".join(items[at:]).startswith(history)]
            assert starts if task.protocol == "sessions" else "".join(items).startswith(history)
    return len(task.truth.items)


@pytest.mark.parametrize("protocol", NAMES)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(shops, choices)
def test_what_holds_of_any_split(protocol: str, rows: list[Row], splitting: Splitting) -> None:
    task = made(protocol, rows, splitting)
    assert check(task, rows, splitting) > 0
    assert task.about["questions"] == len(task.queries)
    try:
        held = validation_task(task, 5)
    except MarqueeError:
        return
    assert check(held, rows, splitting) > 0
    assert held.protocol == task.protocol
    # What tuning sees is within what training has, and never the test's answers beyond it.
    assert len(held.train) <= len(task.train)
    assert set(held.train.item_ids.tolist()) <= set(task.train.item_ids.tolist())


@pytest.mark.parametrize("protocol", ["sessions", "leave-one-out", "temporal"])
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(shops, choices)
def test_no_training_event_is_later_than_its_questions(protocol: str, rows: list[Row], splitting: Splitting) -> None:
    """Each event has an item of its own here, so that it can be told where it went."""
    single = [(user, f"{place:02d}", at) for place, (user, _, at) in enumerate(rows)]
    # Items of one event would never be known, so each is taken twice more by somebody long ago.
    past = [(f"p{place:02d}", item, at) for place, (_, item, _) in enumerate(single) for at in (-100.0, -99.99)]
    task = made(protocol, [*past, *single], replace(splitting, least_item_events=1))
    moment = {item: at for _, item, at in single}
    names, checked = task.train.item_ids, 0
    users = np.char.partition(task.train.user_ids, "#")[:, 0][task.train.users]
    own = ~np.char.startswith(users, "p")
    learnt_from = list(zip(users[own].tolist(), names[task.train.items[own]].tolist(), strict=True))
    for row in range(len(task.queries)):
        asker = str(task.queries.histories.user_ids[row]).partition("#")[0]
        if asker.startswith("p"):
            continue
        answers = task.truth.items[task.truth.starts[row] : task.truth.starts[row + 1]]
        for answer in names[answers[answers >= 0]].tolist():
            checked += 1
            judged = [item for user, item in learnt_from if protocol != "leave-one-out" or user == asker]
            assert answer not in judged
            assert all(moment[item] <= moment[answer] for item in judged)
            history = task.queries.histories.take(np.array([row]))
            assert all(moment[item] <= moment[answer] for item in names[history.items].tolist())
    assume(checked)
