"""The outbox: notifications that were planned, until they are sent or given up. One SQLite file of one machine.

planned ──claim──▶ claimed ──▶ sent
   ▲                 │ │ └───▶ dead       refused, or failed once too often; ``retry_dead`` plans it anew
   │                 │ └─────▶ failed     waits for its next try, then is claimed again
   └────release──────┘
expired   its time was over before it was sent          cancelled   somebody thought better of it

A claim is a lease: it names its owner and ends by itself, so that what a killed dispatcher held is taken up by another.
"""

# ruff: noqa: S608 – column names come from this file; every value is bound

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, get_args

from marquee.errors import MarqueeError
from marquee.notifications import PlannedNotification
from marquee.settings import Settings
from marquee.sqlite_file import SqliteFile, transaction

State = Literal["planned", "claimed", "sent", "failed", "dead", "cancelled", "expired"]
STATES: Final[tuple[State, ...]] = get_args(State)
OVER: Final[tuple[State, ...]] = ("sent", "dead", "cancelled", "expired")
"""States in which nothing happens any more by itself."""
WAIT_SECONDS: Final = 10.0
"""How long to wait for other processes, whose transactions take milliseconds."""
UNSURE: Final = "its dispatcher ended while sending it; it may have gone out"
_PLANNED: Final = tuple(field.name for field in fields(PlannedNotification))
_TIMES: Final = frozenset({"due_at", "planned_at", "expires_at"})
_COLUMNS: Final = ", ".join((*_PLANNED, "state", "tries", "next_at", "sent_at", "reason"))
_SCHEMA: Final = f"""
create table if not exists outbox (
    notification_id text primary key, visitor_id text not null, segment text not null,
    notification_type text not null, channel text not null, content_id text, due_at text not null,
    hour_bucket integer not null, propensity real not null, policy text not null, planned_at text not null,
    expires_at text not null,
    state text not null check (state in ({", ".join(f"'{state}'" for state in STATES)})),
    tries integer not null default 0, next_at text not null, sent_at text, reason text,
    owner text, owned_until text, is_recorded integer not null default 0
) without rowid;
create index if not exists outbox_next on outbox (state, next_at);
create index if not exists outbox_visitor on outbox (visitor_id, due_at);
create index if not exists outbox_unrecorded on outbox (notification_id) where state = 'sent' and not is_recorded;
"""


class OutboxError(MarqueeError):
    """The outbox cannot be read or written."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A notification and how far it is.

    Attributes:
        tries: failed ones.
        next_at: when it is tried, or was last to be, UTC.
        sent_at: when its sender took it, UTC.
        reason: why it failed last, or was given up.
    """

    notification: PlannedNotification
    state: State
    tries: int
    next_at: datetime
    sent_at: datetime | None
    reason: str | None


class Outbox:
    """Safe for many threads and processes of one machine. Moments are UTC without a zone.

    Every method raises ``OutboxError`` where the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._file = SqliteFile(path, OutboxError, WAIT_SECONDS, _prepare)

    def enqueue(self, planned: Iterable[PlannedNotification]) -> int:
        """Keep what was planned, all of it or nothing; returns how many were not there before, which alone change."""
        names, marks = ", ".join(_PLANNED), ", ".join("?" * len(_PLANNED))
        query = f"insert or ignore into outbox ({names}, state, next_at) values ({marks}, 'planned', ?)"
        rows = [(*_row(one), _text(one.due_at)) for one in planned]
        with self._taken() as connection, transaction(connection):
            return connection.executemany(query, rows).rowcount if rows else 0

    def claim(self, owner: str, now: datetime, until: datetime, limit: int) -> list[Entry]:
        """Take at most so many that are due, oldest first, until a moment from which others may take them."""
        due = "state in ('planned', 'failed') and next_at <= :now or state = 'claimed' and owned_until <= :now"
        query = (
            "update outbox set state = 'claimed', owner = :owner, owned_until = :until where notification_id in "
            f"(select notification_id from outbox where ({due}) and expires_at > :now order by next_at limit :limit) "
            f"returning {_COLUMNS}"
        )
        bound = {"owner": owner, "now": _text(now), "until": _text(until), "limit": limit}
        with self._taken() as connection, transaction(connection):
            found = connection.execute(query, bound).fetchall()
        return sorted(map(_entry, found), key=lambda entry: (entry.next_at, entry.notification.notification_id))

    def expire(self, now: datetime) -> int:
        """Give up what waited too long; returns how many."""
        query = (
            "update outbox set state = 'expired', owner = null, reason = "
            f"case when state = 'claimed' then '{UNSURE}' else coalesce(reason, 'not sent in time') end "
            "where expires_at <= :now and "
            "(state in ('planned', 'failed') or state = 'claimed' and owned_until <= :now)"
        )
        return self._change(query, {"now": _text(now)})

    def note_sent(self, notification_id: str, owner: str, at: datetime) -> bool:
        """Its sender took it; False when it is the owner's no more."""
        return self._settle(notification_id, owner, "state = 'sent', sent_at = :at, reason = null", at=_text(at))

    def put_off(self, notification_id: str, owner: str, next_at: datetime, reason: str) -> bool:
        """It failed, and is tried again; False as above."""
        what = "state = 'failed', tries = tries + 1, next_at = :at, reason = :reason"
        return self._settle(notification_id, owner, what, at=_text(next_at), reason=reason)

    def bury(self, notification_id: str, owner: str, reason: str) -> bool:
        """It failed for good; False as above."""
        what = "state = 'dead', tries = tries + 1, reason = :reason"
        return self._settle(notification_id, owner, what, reason=reason)

    def release(self, owner: str) -> int:
        """Give back what an owner has claimed and did not send."""
        query = (
            "update outbox set state = iif(tries > 0, 'failed', 'planned'), owner = null "
            "where state = 'claimed' and owner = :owner"
        )
        return self._change(query, {"owner": owner})

    def unrecorded(self, limit: int) -> list[Entry]:
        """Those sent of which the event log was not told yet."""
        return self._found("state = 'sent' and not is_recorded order by notification_id limit :limit", limit=limit)

    def note_recorded(self, entries: Sequence[Entry]) -> None:
        """The event log has them."""
        ids = [(entry.notification.notification_id,) for entry in entries]
        with self._taken() as connection, transaction(connection):
            connection.executemany("update outbox set is_recorded = 1 where notification_id = ?", ids)

    def retry_dead(self, now: datetime, notification_ids: Sequence[str] = ()) -> int:
        """Plan the dead anew, all of them or those named, whose time is not over; returns how many."""
        which = f"and notification_id in ({', '.join('?' * len(notification_ids))})" if notification_ids else ""
        query = (
            "update outbox set state = 'planned', tries = 0, next_at = ?, reason = null "
            f"where state = 'dead' and expires_at > ? {which}"
        )
        with self._taken() as connection:
            return connection.execute(query, [_text(now), _text(now), *notification_ids]).rowcount

    def cancel(self, notification_ids: Sequence[str], reason: str) -> int:
        """Call back those that no dispatcher has; returns how many."""
        query = (
            "update outbox set state = 'cancelled', reason = ? "
            "where notification_id = ? and state in ('planned', 'failed', 'dead')"
        )
        with self._taken() as connection, transaction(connection):
            return sum(connection.execute(query, [reason, one]).rowcount for one in notification_ids)

    def of_visitor(self, visitor_id: str, limit: int, before: tuple[datetime, str] | None = None) -> list[Entry]:
        """One visitor's, latest due first; after a page, those that are due before its last (moment and id)."""
        at, last = before or (datetime.max, "")
        where = "visitor_id = :who and (due_at, notification_id) < (:at, :last)"
        order = "order by due_at desc, notification_id desc limit :limit"
        return self._found(f"{where} {order}", who=visitor_id, at=_text(at), last=last, limit=limit)

    def due_since(self, moment: datetime) -> list[Entry]:
        """All sent or still to be sent that are due at a moment or later: what caps of the next plan must count."""
        where = "due_at >= :at and state in ('planned', 'claimed', 'failed', 'sent') order by visitor_id, due_at"
        return self._found(where, at=_text(moment))

    def listed(self, state: State | None, limit: int) -> list[Entry]:
        """The first of a state, or of any, by when they are or were to be tried."""
        where = "(:state is null or state = :state) order by next_at, notification_id limit :limit"
        return self._found(where, state=state, limit=limit)

    def counts(self) -> dict[State, int]:
        """How many there are in each state."""
        with self._taken() as connection:
            found = dict(connection.execute("select state, count(*) from outbox group by 1").fetchall())
        return {state: found.get(state, 0) for state in STATES}

    def prune(self, before: datetime) -> int:
        """Forget what was over before a moment and stands in the event log, or never will."""
        over = ", ".join(f"'{state}'" for state in OVER)
        query = f"delete from outbox where state in ({over}) and due_at < :at and (state <> 'sent' or is_recorded)"
        return self._change(query, {"at": _text(before)})

    def forget(self, visitor_id: str) -> int:
        """Drop all that one visitor has, sent or not."""
        return self._change("delete from outbox where visitor_id = :who", {"who": visitor_id})

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        self._file.close()

    def _settle(self, notification_id: str, owner: str, what: str, **values: Any) -> bool:
        query = f"update outbox set {what}, owner = null where notification_id = :id and owner = :owner"
        bound = {"id": notification_id, "owner": owner} | values
        return self._change(f"{query} and state = 'claimed'", bound) == 1

    def _change(self, query: str, bound: dict[str, Any]) -> int:
        with self._taken() as connection:
            return connection.execute(query, bound).rowcount

    def _found(self, where: str, **bound: Any) -> list[Entry]:
        with self._taken() as connection:
            return [_entry(row) for row in connection.execute(f"select {_COLUMNS} from outbox where {where}", bound)]

    def _taken(self) -> AbstractContextManager[sqlite3.Connection]:
        return self._file.taken()


def open_outbox(settings: Settings) -> Outbox:
    """The installation's outbox; its file is made when it is first used."""
    return Outbox(outbox_file(settings))


def outbox_file(settings: Settings) -> Path:
    """Where it lies."""
    return settings.notifications / "outbox.sqlite"


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = full")  # what was acknowledged, and what was sent, survives a power cut
    connection.execute("pragma secure_delete = on")
    connection.executescript(_SCHEMA)


def _row(planned: PlannedNotification) -> tuple[Any, ...]:
    return tuple(_text(getattr(planned, name)) if name in _TIMES else getattr(planned, name) for name in _PLANNED)


def _entry(row: tuple[Any, ...]) -> Entry:
    values = dict(zip(_PLANNED, row, strict=False))
    times = {name: datetime.fromisoformat(values[name]) for name in _TIMES}
    state, tries, next_at, sent_at, reason = row[len(_PLANNED) :]
    sent = datetime.fromisoformat(sent_at) if sent_at else None
    return Entry(PlannedNotification(**(values | times)), state, tries, datetime.fromisoformat(next_at), sent, reason)


def _text(moment: datetime) -> str:
    """In a form that sorts by time."""
    return moment.isoformat(timespec="microseconds")
