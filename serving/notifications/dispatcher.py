"""Hands what is due to its senders, and tells the event log what was sent.

Each is marked as sent right after its sender took it, and put into the event log after that, under an id that follows
from its key. So a dispatcher that is killed anywhere leaves nothing undone and nothing recorded twice; what it was
sending at that moment is sent again with the same key. Any number of dispatchers may run.
"""

from __future__ import annotations

import json
import logging
import os
import random
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from marquee.errors import MarqueeError
from marquee.notifications import Channel, PlannedNotification
from marquee.outbox import Entry, Outbox
from serving.notifications.senders import Refused, Sender, SendError

LOG: Final = logging.getLogger("marquee.notifications")
BATCH: Final = 20
"""Claimed at once."""
RECORDED: Final = 500
"""Recorded in the event log at once."""
FIRST_WAIT: Final = 15.0
LONGEST_WAIT: Final = 3_600.0
"""Seconds before a second try, doubled with each further one up to the longest; half of it by chance."""
CLAIMED_SECONDS: Final = 5.0
"""How long a dispatcher works through what it has claimed."""
GIVE_UP: Final = 5
"""After so many failures in a row a pass ends: whoever takes them is down."""
KEPT: Final = timedelta(days=90)
"""How long the outbox keeps what is over."""
EPOCH: Final = datetime(1970, 1, 1)


class EventLog(Protocol):
    """Where events become durable."""

    def append(self, events: list[dict[str, Any]]) -> None:
        """Returns once they are; see ``GroupCommit``."""
        ...


@dataclass(slots=True)
class Pass:
    """What became of what was due."""

    sent: int = 0
    failed: int = 0
    dead: int = 0
    expired: int = 0
    lost: int = 0
    """Sent, but another dispatcher had taken it meanwhile, or its visitor was forgotten."""
    recorded: int = 0

    def add(self, other: Pass) -> None:
        """Count another pass in."""
        for name in Pass.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def is_idle(self) -> bool:
        """Whether nothing happened."""
        return not (self.sent or self.failed or self.dead or self.lost or self.recorded)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long and how often a dispatcher tries.

    Attributes:
        tries: of each notification; then it is dead.
        send_seconds: the longest that a sender takes; nothing is begun that its claim would not outlast.
        lease_seconds: how long a claim holds.
    """

    tries: int = 8
    send_seconds: float = 40.0
    lease_seconds: float = 120.0

    @classmethod
    def of(cls, tries: int, timeout: float) -> Patience:
        """For senders that wait so many seconds at each step, of which the most talkative has eight."""
        return cls(tries, 8 * timeout, 8 * timeout + CLAIMED_SECONDS)

    def wait(self, failures: int, share: float) -> float:
        """Seconds before the next try, after so many failures; ``share`` in [0, 1) is chance's."""
        longest: float = min(FIRST_WAIT * 2.0 ** min(failures - 1, 30), LONGEST_WAIT)
        return longest * (0.5 + share / 2)


class Dispatcher:
    """Sends from one outbox.

    Args:
        outbox: what is planned.
        senders: by channel; a channel without one is nobody's, and its notifications die.
        log: the event log.
        clock: now, UTC without a zone.
        patience: with senders and claims.
        chance: a number in [0, 1), by which waiting times differ.
    """

    def __init__(
        self,
        outbox: Outbox,
        senders: Mapping[Channel, Sender],
        log: EventLog,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC).replace(tzinfo=None),
        patience: Patience | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._outbox, self._senders, self._log = outbox, senders, log
        self._clock, self._chance = clock, chance
        self._patience = patience or Patience()
        self._owner = f"{os.getpid()}-{uuid.uuid4().hex}"

    def run(self, stop: threading.Event, poll_seconds: float = 1.0, pause_seconds: float = 5.0) -> Pass:
        """Send what becomes due until told to stop; what a sender has in hand is finished, the rest given back."""
        total, pruned = Pass(), None
        while not stop.is_set():
            if pruned != (today := self._clock().date()):
                self._outbox.prune(self._clock() - KEPT)
                pruned = today
            done = self.once(stop)
            total.add(done)
            if done.is_idle or done.failed >= GIVE_UP:
                stop.wait(pause_seconds if done.failed else poll_seconds)
        return total

    def drain(self, stop: threading.Event | None = None) -> Pass:
        """Send all that is due by now, and end; also where its receivers are down."""
        total = Pass()
        while not (stop and stop.is_set()):
            done = self.once(stop)
            total.add(done)
            if done.is_idle or done.failed >= GIVE_UP:
                break
        return total

    def once(self, stop: threading.Event | None = None) -> Pass:
        """Send one batch of what is due, and record what was sent.

        Raises:
            OutboxError: the outbox cannot be used.
            MarqueeError: the event log takes nothing; what was sent is recorded by a later pass.
        """
        done = Pass(expired=self._outbox.expire(self._clock()))
        self._record(done)  # what a killed one has left
        now = self._clock()
        until, streak = now + timedelta(seconds=self._patience.lease_seconds), 0
        begun_until = until - timedelta(seconds=self._patience.send_seconds)
        try:
            for entry in self._outbox.claim(self._owner, now, until, BATCH):
                if self._clock() > begun_until or streak >= GIVE_UP or (stop and stop.is_set()):
                    break
                if entry.notification.expires_at <= self._clock():
                    continue  # given back, and expired by the next pass
                streak = 0 if self._send(entry, done) else streak + 1
        finally:
            self._outbox.release(self._owner)
        self._record(done)
        return done

    def _send(self, entry: Entry, done: Pass) -> bool:
        """One try; whether its receiver is well."""
        planned = entry.notification
        key = planned.notification_id
        sender = self._senders.get(planned.channel)
        try:
            if sender is None:
                raise Refused(f"no sender is set for the channel {planned.channel}")
            sender.send(planned, key)
        except Refused as error:
            self._bury(entry, str(error), done)
        except SendError as error:
            self._put_off(entry, error, done)
            return False
        except Exception as error:  # a sender's own fault must not stop the others'
            LOG.exception("a sender failed in a way that it should not: %s", type(error).__name__)
            self._put_off(entry, SendError(f"the sender failed: {type(error).__name__}"), done)
            return False
        else:
            if self._outbox.note_sent(key, self._owner, self._clock()):
                done.sent += 1
            else:
                done.lost += 1
        return True

    def _put_off(self, entry: Entry, error: SendError, done: Pass) -> None:
        failures = entry.tries + 1
        if failures >= self._patience.tries:
            self._bury(entry, f"{error}; tried {failures} times", done)
            return
        wait = max(self._patience.wait(failures, self._chance()), error.after or 0.0)
        next_at = self._clock() + timedelta(seconds=wait)
        self._outbox.put_off(entry.notification.notification_id, self._owner, next_at, str(error))
        done.failed += 1
        LOG.warning("notification %s: %s; tried again at %s", entry.notification.notification_id, error, next_at)

    def _bury(self, entry: Entry, reason: str, done: Pass) -> None:
        self._outbox.bury(entry.notification.notification_id, self._owner, reason)
        done.dead += 1
        LOG.error("notification %s is given up: %s", entry.notification.notification_id, reason)

    def _record(self, done: Pass) -> None:
        while entries := self._outbox.unrecorded(RECORDED):
            self._log.append([sent_event(entry) for entry in entries])
            self._outbox.note_recorded(entries)
            done.recorded += len(entries)


def sent_event(entry: Entry) -> dict[str, Any]:
    """That a notification was sent, as a row of the contract's events table; the same one however often it is made.

    Raises:
        MarqueeError: it was not.
    """
    planned = entry.notification
    if entry.sent_at is None:
        raise MarqueeError(f"notification {planned.notification_id} was not sent")
    return {
        "event_id": f"{planned.notification_id}-sent",
        "kind": "notification_sent",
        "occurred_at": entry.sent_at,
        "visitor_id": planned.visitor_id,
        "notification_id": planned.notification_id,
        "notification_type": planned.notification_type,
        "policy": planned.policy,
        "propensity": planned.propensity,
        "features": json.dumps(_told(planned)),
    } | ({"banner_id": planned.content_id} if planned.content_id else {})


def _told(planned: PlannedNotification) -> dict[str, Any]:
    """How it was planned, for the mart ``notifications``."""
    return {
        "segment": planned.segment,
        "channel": planned.channel,
        "hour_bucket": planned.hour_bucket,
        "planned_at": int((planned.planned_at - EPOCH).total_seconds()),
    }
