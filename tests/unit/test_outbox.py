"""The outbox and its dispatcher: states, leases, retries by a clock that the test turns, and whose payload is whose."""

from __future__ import annotations

import random
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion.batch import check_event
from ingestion.event_stream import parse_event
from ingestion.group_commit import event_line
from marquee.errors import MarqueeError
from marquee.notifications import CHANNELS, Channel, PlannedNotification, notification_id
from marquee.outbox import STATES, Outbox, OutboxError, State
from serving.notifications.dispatcher import GIVE_UP, Dispatcher, Patience, sent_event
from serving.notifications.senders import Refused, SendError

NOON = datetime(2026, 2, 3, 12)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def planned(number: int = 0, due: datetime = NOON, channel: Channel = "push", **other: Any) -> PlannedNotification:
    visitor = f"v{number}"
    return replace(
        PlannedNotification(
            notification_id=notification_id(visitor, "price_drop", due),
            visitor_id=visitor,
            segment="loyal",
            notification_type="price_drop",
            channel=channel,
            content_id=f"b{number}",
            due_at=due,
            hour_bucket=4,
            propensity=0.25,
            policy="rds-4",
            planned_at=NOON - DAY,
            expires_at=due + 6 * HOUR,
        ),
        **other,
    )


class Clock:
    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


class Recorder:
    """A sender, and the event log: both remember; the sender fails as it is told to."""

    def __init__(self, fails: Callable[[PlannedNotification], Exception | None] = lambda _: None) -> None:
        self.fails = fails
        self.taken: list[tuple[str, PlannedNotification]] = []
        self.events: list[dict[str, Any]] = []

    def send(self, notification: PlannedNotification, key: str) -> None:
        if error := self.fails(notification):
            raise error
        self.taken.append((key, notification))

    def append(self, events: list[dict[str, Any]]) -> None:
        self.events += events


def dispatcher(outbox: Outbox, recorder: Recorder, clock: Clock, **patience: Any) -> Dispatcher:
    senders = dict.fromkeys(CHANNELS, recorder)
    return Dispatcher(outbox, senders, recorder, clock, Patience(**patience), chance=lambda: 0.0)


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "n" / "outbox.sqlite")


def states(outbox: Outbox) -> dict[str, State]:
    return {entry.notification.visitor_id: entry.state for entry in outbox.listed(None, 1_000)}


# --- the outbox -------------------------------------------------------------------------------------------------------


def test_what_is_planned_twice_is_kept_once_as_it_came_first(outbox: Outbox) -> None:
    assert outbox.enqueue([planned(1), planned(2)]) == 2
    assert outbox.enqueue([planned(2, content_id="another"), planned(3)]) == 1
    assert [entry.notification for entry in outbox.listed(None, 9)] == sorted(
        [planned(1), planned(2), planned(3)], key=lambda one: one.notification_id
    )
    assert outbox.enqueue([]) == 0
    assert outbox.counts() == dict.fromkeys(STATES, 0) | {"planned": 3}


def test_it_is_durable_and_shared(tmp_path: Path, outbox: Outbox) -> None:
    outbox.enqueue([planned(1)])
    other = Outbox(tmp_path / "n" / "outbox.sqlite")
    assert [entry.notification for entry in other.claim("a", NOON, NOON + MINUTE, 9)] == [planned(1)]
    assert outbox.claim("b", NOON, NOON + MINUTE, 9) == []
    with sqlite3.connect(tmp_path / "n" / "outbox.sqlite") as file:
        assert file.execute("pragma journal_mode").fetchone() == ("wal",)


def test_a_claim_takes_what_is_due_oldest_first_and_as_many_as_asked(outbox: Outbox) -> None:
    outbox.enqueue(planned(n, NOON + (n - 5) * MINUTE) for n in range(8))
    assert [entry.notification.visitor_id for entry in outbox.claim("a", NOON, NOON + MINUTE, 4)] == [
        *("v0", "v1", "v2", "v3")
    ]
    assert [entry.notification.visitor_id for entry in outbox.claim("b", NOON, NOON + MINUTE, 4)] == ["v4", "v5"]


def test_a_lease_ends_by_itself_and_then_its_owner_may_settle_nothing(outbox: Outbox) -> None:
    outbox.enqueue([planned(1)])
    key = planned(1).notification_id
    outbox.claim("a", NOON, NOON + MINUTE, 1)
    assert outbox.claim("b", NOON + MINUTE - timedelta(microseconds=1), NOON + HOUR, 1) == []
    assert len(outbox.claim("b", NOON + MINUTE, NOON + HOUR, 1)) == 1
    assert not outbox.note_sent(key, "a", NOON)
    assert not outbox.put_off(key, "a", NOON, "x")
    assert not outbox.bury(key, "a", "x")
    assert outbox.release("a") == 0
    assert outbox.note_sent(key, "b", NOON)
    assert not outbox.note_sent(key, "b", NOON)
    assert states(outbox) == {"v1": "sent"}


def test_what_is_given_back_is_as_it_was(outbox: Outbox) -> None:
    outbox.enqueue([planned(1), planned(2)])
    outbox.claim("a", NOON, NOON + MINUTE, 9)
    outbox.put_off(planned(2).notification_id, "a", NOON, "down")
    outbox.claim("a", NOON, NOON + MINUTE, 9)
    assert outbox.release("a") == 2
    assert states(outbox) == {"v1": "planned", "v2": "failed"}


def test_what_is_too_late_expires_and_is_never_claimed(outbox: Outbox) -> None:
    outbox.enqueue([planned(1), planned(2, expires_at=NOON + HOUR), planned(3, expires_at=NOON)])
    outbox.claim("a", NOON - timedelta(microseconds=1), NOON + MINUTE, 9)
    assert outbox.expire(NOON) == 1, "v3's dispatcher holds nothing yet: it is due at noon only"
    outbox.claim("a", NOON, NOON + 2 * HOUR, 9)
    assert outbox.expire(NOON + HOUR) == 0, "a lease that holds is let be"
    assert outbox.expire(NOON + 2 * HOUR) == 1
    found = {entry.notification.visitor_id: (entry.state, entry.reason) for entry in outbox.listed(None, 9)}
    assert found["v2"] == ("expired", "its dispatcher ended while sending it; it may have gone out")
    assert found["v3"] == ("expired", "not sent in time")
    assert [e.notification.visitor_id for e in outbox.claim("b", NOON + 2 * HOUR, NOON + 3 * HOUR, 9)] == ["v1"]


def test_the_dead_are_planned_anew_by_hand_and_others_are_called_back(outbox: Outbox) -> None:
    outbox.enqueue([planned(n) for n in range(4)] + [planned(4, expires_at=NOON + MINUTE)])
    for entry in outbox.claim("a", NOON, NOON + MINUTE, 9)[:]:
        if entry.notification.visitor_id != "v0":
            outbox.bury(entry.notification.notification_id, "a", "no such address")
    assert outbox.retry_dead(NOON + MINUTE, [planned(1).notification_id]) == 1
    assert outbox.retry_dead(NOON + MINUTE) == 2, "v4's time is over"
    assert outbox.cancel([planned(n).notification_id for n in range(5)], "a recall") == 4, "v0 is in hand"
    assert states(outbox) == {
        "v0": "claimed",
        "v1": "cancelled",
        "v2": "cancelled",
        "v3": "cancelled",
        "v4": "cancelled",
    }


def test_pages_of_a_visitor_go_back_in_time_and_name_each_once(outbox: Outbox) -> None:
    mine = [planned(1, NOON + n // 2 * DAY, notification_id=f"n{n}") for n in range(7)]
    outbox.enqueue([*mine, planned(2)])
    seen, before = [], None
    while found := outbox.of_visitor("v1", 2, before):
        seen += [entry.notification.notification_id for entry in found]
        before = (found[-1].notification.due_at, found[-1].notification.notification_id)
    assert seen == ["n6", "n5", "n4", "n3", "n2", "n1", "n0"]


def test_a_planner_sees_what_counts_against_caps(outbox: Outbox) -> None:
    outbox.enqueue([planned(n, NOON + n * HOUR) for n in range(5)])
    outbox.claim("a", NOON + 2 * HOUR, NOON + 3 * HOUR, 9)
    outbox.note_sent(planned(1, NOON + HOUR).notification_id, "a", NOON)
    outbox.bury(planned(2, NOON + 2 * HOUR).notification_id, "a", "x")
    assert [entry.notification.visitor_id for entry in outbox.due_since(NOON + HOUR)] == ["v1", "v3", "v4"]


def test_what_is_over_goes_after_a_while_but_not_before_it_was_recorded(outbox: Outbox) -> None:
    outbox.enqueue([planned(n) for n in range(3)])
    for entry in outbox.claim("a", NOON, NOON + MINUTE, 2):
        outbox.note_sent(entry.notification.notification_id, "a", NOON)
    outbox.note_recorded(outbox.unrecorded(1))
    assert outbox.prune(NOON) == 0
    assert outbox.prune(NOON + DAY) == 1
    assert Counter(states(outbox).values()) == {"sent": 1, "planned": 1}


def test_a_forgotten_visitor_is_gone_from_file_and_bytes(outbox: Outbox, tmp_path: Path) -> None:
    outbox.enqueue([planned(1, visitor_id="quite-distinctive-visitor"), planned(2)])
    assert outbox.forget("quite-distinctive-visitor") == 1
    assert list(states(outbox)) == ["v2"]
    outbox.close()
    with sqlite3.connect(tmp_path / "n" / "outbox.sqlite") as file:
        file.execute("pragma wal_checkpoint(truncate)")
    assert b"quite-distinctive" not in (tmp_path / "n" / "outbox.sqlite").read_bytes()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "outbox.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(OutboxError, match=r"outbox\.sqlite: file is not a database"):
        Outbox(tmp_path / "outbox.sqlite").counts()


# --- the dispatcher ---------------------------------------------------------------------------------------------------


def test_what_is_due_is_sent_once_and_recorded_as_a_valid_event(outbox: Outbox) -> None:
    clock, recorder = Clock(), Recorder()
    outbox.enqueue([planned(1), planned(2, NOON + MINUTE, content_id=None)])
    ours = dispatcher(outbox, recorder, clock)
    assert asdict(ours.once()) == {"sent": 1, "failed": 0, "dead": 0, "expired": 0, "lost": 0, "recorded": 1}
    assert ours.once().is_idle
    clock.now += MINUTE
    ours.drain()
    assert [(key, one.visitor_id) for key, one in recorder.taken] == [
        (planned(1).notification_id, "v1"),
        (planned(2, NOON + MINUTE).notification_id, "v2"),
    ]
    first, second = recorder.events
    assert first | {"features": ""} == {
        "event_id": f"{planned(1).notification_id}-sent",
        "kind": "notification_sent",
        "occurred_at": NOON,
        "visitor_id": "v1",
        "notification_id": planned(1).notification_id,
        "notification_type": "price_drop",
        "policy": "rds-4",
        "propensity": 0.25,
        "banner_id": "b1",
        "features": "",
    }
    # 2026-02-02T12:00:00Z.
    assert first["features"] == '{"segment": "loyal", "channel": "push", "hour_bucket": 4, "planned_at": 1770033600}'
    assert "banner_id" not in second
    for event in recorder.events:
        assert check_event(parse_event(event_line(event))) is None
    with pytest.raises(MarqueeError, match="was not sent"):
        sent_event(replace(outbox.listed("sent", 1)[0], sent_at=None))


def test_it_is_tried_again_later_each_time_and_given_up_after_the_last(outbox: Outbox) -> None:
    clock, recorder = Clock(), Recorder(lambda _: SendError("the web hook answered 503"))
    outbox.enqueue([planned(1, expires_at=NOON + 30 * DAY)])
    ours = dispatcher(outbox, recorder, clock, tries=4)
    waited = []
    for _ in range(3):
        assert ours.once().failed == 1
        assert ours.once().is_idle, "not before its time"
        (entry,) = outbox.listed("failed", 1)
        waited.append((entry.next_at - clock.now).total_seconds())
        clock.now = entry.next_at - timedelta(microseconds=1)
        assert ours.once().is_idle
        clock.now = entry.next_at
    assert waited == [7.5, 15.0, 30.0], "half of 15 s, doubled; the other half is chance's"
    assert ours.once().dead == 1
    (entry,) = outbox.listed("dead", 1)
    assert (entry.tries, entry.reason) == (4, "the web hook answered 503; tried 4 times")
    assert not recorder.taken
    recorder.fails = lambda _: None
    outbox.retry_dead(clock.now)
    assert ours.once().sent == 1


def test_waiting_differs_by_chance_and_has_a_longest() -> None:
    patience = Patience()
    assert [patience.wait(n, 0.0) for n in (1, 2, 3, 50)] == [7.5, 15, 30, 1_800]
    assert patience.wait(1, 0.999) == pytest.approx(14.9925)
    assert patience.wait(9, 1.0) == 3_600


def test_a_receiver_may_ask_for_a_longer_wait(outbox: Outbox) -> None:
    clock = Clock()
    outbox.enqueue([planned(1)])
    dispatcher(outbox, Recorder(lambda _: SendError("busy", after=100.0)), clock).once()
    assert outbox.listed("failed", 1)[0].next_at == NOON + timedelta(seconds=100)


def test_what_is_refused_is_dead_at_once_and_the_others_go_on(outbox: Outbox) -> None:
    recorder = Recorder(lambda one: Refused("no such address") if one.visitor_id == "v1" else None)
    outbox.enqueue([planned(n) for n in range(3)])
    done = dispatcher(outbox, recorder, Clock()).drain()
    assert (done.sent, done.dead, done.failed) == (2, 1, 0)
    assert outbox.listed("dead", 1)[0].reason == "no such address"


def test_a_senders_own_fault_stops_nobody_else(outbox: Outbox) -> None:
    recorder = Recorder(lambda one: KeyError("x") if one.visitor_id == "v1" else None)
    outbox.enqueue([planned(n) for n in range(3)])
    assert dispatcher(outbox, recorder, Clock()).once().sent == 2
    assert outbox.listed("failed", 1)[0].reason == "the sender failed: KeyError"


def test_a_channel_without_a_sender_is_said(outbox: Outbox) -> None:
    outbox.enqueue([planned(1, channel="email")])
    recorder = Recorder()
    Dispatcher(outbox, {"push": recorder}, recorder, Clock()).once()
    assert outbox.listed("dead", 1)[0].reason == "no sender is set for the channel email"


def test_a_pass_ends_when_a_receiver_is_down_and_keeps_the_rest_fresh(outbox: Outbox) -> None:
    outbox.enqueue([planned(n) for n in range(12)])
    done = dispatcher(outbox, Recorder(lambda _: SendError("down")), Clock()).once()
    assert done.failed == GIVE_UP
    assert Counter(states(outbox).values()) == {"failed": GIVE_UP, "planned": 12 - GIVE_UP}


def test_nothing_is_begun_that_the_claim_would_not_outlast(outbox: Outbox) -> None:
    clock = Clock()

    def slow(_: PlannedNotification) -> None:
        clock.now += timedelta(seconds=30)

    outbox.enqueue([planned(n) for n in range(9)])
    done = dispatcher(outbox, Recorder(slow), clock, send_seconds=40, lease_seconds=120).once()
    assert done.sent == 3, "begun at 0, 30 and 60 s; at 90 s only 30 s of the claim are left"
    assert Counter(states(outbox).values()) == {"sent": 3, "planned": 6}


def test_what_expires_meanwhile_is_not_sent(outbox: Outbox) -> None:
    clock = Clock()

    def slow(_: PlannedNotification) -> None:
        clock.now += MINUTE

    recorder = Recorder(slow)
    outbox.enqueue(
        [planned(n, NOON + timedelta(microseconds=n - 5), expires_at=NOON + n * MINUTE) for n in range(1, 4)]
    )
    ours = dispatcher(outbox, recorder, clock, lease_seconds=3_600)
    ours.once()
    ours.once()
    assert states(outbox) == {"v1": "sent", "v2": "sent", "v3": "sent"}
    outbox.enqueue([planned(5, expires_at=clock.now + MINUTE), planned(6, expires_at=clock.now + MINUTE)])
    ours.once()
    done = ours.once()
    assert done.expired == 1
    assert Counter(states(outbox).values()) == {"sent": 4, "expired": 1}


def test_a_full_event_log_loses_nothing(outbox: Outbox) -> None:
    class Full(Recorder):
        is_full = True

        def append(self, events: list[dict[str, Any]]) -> None:
            if self.is_full:
                raise MarqueeError("the disk is full")
            super().append(events)

    recorder = Full()
    outbox.enqueue([planned(1)])
    with pytest.raises(MarqueeError, match="the disk is full"):
        dispatcher(outbox, recorder, Clock()).once()
    assert (len(recorder.taken), recorder.events, states(outbox)) == (1, [], {"v1": "sent"})
    recorder.is_full = False
    other = dispatcher(outbox, recorder, Clock(NOON + HOUR))
    assert (other.once().recorded, other.once().recorded) == (1, 0)
    assert [event["occurred_at"] for event in recorder.events] == [NOON], "when it was sent, not when it was recorded"


def test_who_is_told_to_stop_finishes_one_and_gives_the_rest_back(outbox: Outbox) -> None:
    stop, recorder = threading.Event(), Recorder()

    def stopping(_: PlannedNotification) -> None:
        if len(recorder.taken) == 1:
            stop.set()

    recorder.fails = stopping
    outbox.enqueue([planned(n) for n in range(9)])
    total = dispatcher(outbox, recorder, Clock()).run(stop, poll_seconds=0.01)
    assert (total.sent, total.recorded) == (2, 2)
    assert Counter(states(outbox).values()) == {"sent": 2, "planned": 7}


def test_a_visitor_forgotten_while_in_hand_is_not_recorded(outbox: Outbox) -> None:
    def forgetting(one: PlannedNotification) -> None:
        outbox.forget(one.visitor_id)

    recorder = Recorder(forgetting)
    outbox.enqueue([planned(1)])
    assert dispatcher(outbox, recorder, Clock()).once().lost == 1
    assert recorder.events == []


class Crash(BaseException):
    """The process ends here."""


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12))
def test_whatever_fails_and_dies_each_payload_stays_with_its_key(seed: int, count: int) -> None:
    """Dispatchers in turn, some of which die before or after a sender has taken something, or between two writes."""
    import tempfile

    rng, clock = random.Random(seed), Clock()
    with tempfile.TemporaryDirectory() as folder:
        outbox = Outbox(Path(folder) / "outbox.sqlite")
        sent: list[tuple[str, PlannedNotification]] = []
        events: dict[str, dict[str, Any]] = {}

        class Faulty:
            def send(self, notification: PlannedNotification, key: str) -> None:
                chance = rng.random()
                if chance < 0.1:
                    raise Crash
                if chance < 0.3:
                    raise SendError("down")
                sent.append((key, notification))
                if chance < 0.4:
                    raise Crash
                if chance < 0.45:
                    raise SendError("its answer was lost")

            def append(self, rows: list[dict[str, Any]]) -> None:
                for row in rows:
                    assert events.setdefault(row["event_id"], row) == row, "told again, it is the same"
                if rng.random() < 0.2:
                    raise Crash

        channels = [rng.choice(CHANNELS) for _ in range(count)]
        wanted = [planned(n, channel=c, expires_at=NOON + 90 * DAY) for n, c in enumerate(channels)]
        outbox.enqueue(wanted)
        faulty = Faulty()
        for _ in range(500):
            ours = Dispatcher(outbox, dict.fromkeys(CHANNELS, faulty), faulty, clock, Patience(50), rng.random)
            if rng.random() < 0.5:
                # A kill runs no finally: what it held stays claimed.
                ours._outbox = _NeverGivesBack(outbox)  # type: ignore[assignment]
            with suppress(Crash):
                ours.once()
            clock.now += timedelta(seconds=rng.choice([1, 60, 3_600]))
            if outbox.counts()["sent"] == count and not outbox.unrecorded(1):
                break
        by_key = {one.notification_id: one for one in wanted}
        assert all(by_key[key] == one for key, one in sent)
        assert {key for key, _ in sent} == set(by_key), "at least once"
        assert {event["notification_id"] for event in events.values()} == set(by_key)
        assert len(events) == count
        outbox.close()


class _NeverGivesBack:
    def __init__(self, outbox: Outbox) -> None:
        self._real = outbox

    def __getattr__(self, name: str) -> Any:
        return (lambda owner: 0) if name == "release" else getattr(self._real, name)


def test_two_at_once_take_different_ones(outbox: Outbox, tmp_path: Path) -> None:
    outbox.enqueue([planned(n) for n in range(200)])
    recorder, errors = Recorder(), []

    def work() -> None:
        own = Outbox(tmp_path / "n" / "outbox.sqlite")
        try:
            dispatcher(own, recorder, Clock()).drain()
        except Exception as error:
            errors.append(error)
        own.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert Counter(key for key, _ in recorder.taken) == {planned(n).notification_id: 1 for n in range(200)}
    assert len({event["event_id"] for event in recorder.events}) == 200
