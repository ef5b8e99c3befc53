"""Counters in one SQLite file under home, for all processes of one machine."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any, Final

from marquee.settings import Settings
from marquee.sqlite_file import SqliteFile, transaction
from serving.showings import DAYS_KEPT, LOG, CountersError, Item, Limit, Reservation, Shows, Spent

PRUNE_SECONDS: Final = 600.0
WAIT_SECONDS: Final = 1.0
"""How long a request waits for others' batches, which take less than a thousandth of that."""
TOTAL: Final = ""
"""In place of a day: the impressions of all days."""
SCHEMA: Final = """
create table if not exists showings (visitor_id text primary key, shown text not null, kept_until integer not null);
create index if not exists showings_kept_until on showings (kept_until);
create table if not exists spent (campaign_id text, day text, shown integer not null, primary key (campaign_id, day))
without rowid;
"""
PUT_SHOWINGS: Final = "insert or replace into showings values (?, ?, ?)"
REPLACE_SHOWINGS: Final = "update showings set shown = ?, kept_until = ? where visitor_id = ? and shown = ?"
PUT_SPENT: Final = "insert or replace into spent values (?, ?, ?)"
Showing = list[Any]
"""Banner, campaign, moment (µs), session, and until when (µs) it matters."""


class SqliteCounters:
    """See ``Counters``. One connection reads and one writes, so that a request need not wait for another's writing."""

    def __init__(self, settings: Settings) -> None:
        self.file: Final = settings.home / "counters.sqlite"
        self._reader, self._writer = (SqliteFile(self.file, CountersError, WAIT_SECONDS, _prepare) for _ in range(2))
        self._pruned_at = -PRUNE_SECONDS

    def shows(self, key: str) -> Shows:
        """See ``Counters``."""
        with self._reader.taken() as connection:
            stored = _stored(connection, key)
        showings = _parsed(stored)
        banner_ids, campaign_ids, at, sessions, _ = zip(*showings, strict=True) if showings else ((),) * 5
        return Shows(banner_ids, campaign_ids, at, sessions, stored)

    def spent(self) -> Spent:
        """See ``Counters``."""
        with self._reader.taken() as connection:
            rows = connection.execute("select campaign_id, day, shown from spent").fetchall()
        total = {campaign_id: shown for campaign_id, day, shown in rows if day == TOTAL}
        return Spent(total, {(campaign_id, day): shown for campaign_id, day, shown in rows if day != TOTAL})

    def reserve(self, batch: Sequence[Reservation]) -> list[frozenset[int]]:
        """See ``Counters``."""
        if not any(item.is_limited for reservation in batch for item in reservation.items):
            return [frozenset()] * len(batch)
        if len(batch) == 1 and (alone := self._reserve_alone(batch[0])) is not None:
            return [alone]
        with self._writer.taken() as connection, transaction(connection):
            ledger = _Ledger(connection)
            refused = [ledger.reserve(reservation) for reservation in batch]
            ledger.write()
        self._prune(max(reservation.at for reservation in batch))
        return refused

    def _reserve_alone(self, reservation: Reservation) -> frozenset[int] | None:
        """The same in one statement where only this visitor's caps count and nothing came since they were read.

        None where something did, and nothing was counted: then a transaction must look again.
        """
        key, seen = reservation.key, reservation.seen
        if key is None or seen is None or any(item.is_spending for item in reservation.items):
            return None
        with self._writer.taken() as connection:
            ledger = _Ledger(connection, {key: _parsed(seen.stored)})
            refused = ledger.reserve(reservation)
            for _, text, until in ledger.rows():
                if seen.stored is None:
                    done = connection.execute("insert or ignore into showings values (?, ?, ?)", (key, text, until))
                else:
                    done = connection.execute(REPLACE_SHOWINGS, (text, until, key, seen.stored))
                if done.rowcount != 1:
                    return None
        self._prune(reservation.at)
        return refused

    def forget(self, visitor_id: str) -> int:
        """See ``Counters``."""
        with self._writer.taken() as connection:
            return connection.execute("delete from showings where visitor_id = ?", [visitor_id]).rowcount

    def close(self) -> None:
        """See ``Counters``."""
        self._reader.close()
        self._writer.close()

    def _prune(self, at: int) -> None:
        """Drop what no cap reads any more, by the requests' clock, which may stand still."""
        if time.monotonic() - self._pruned_at < PRUNE_SECONDS:
            return
        self._pruned_at = time.monotonic()
        with self._writer.taken() as connection:
            connection.execute("delete from showings where kept_until <= ?", [at])
            (newest,) = connection.execute("select max(day) from spent").fetchone()
            if newest:
                oldest = (date.fromisoformat(newest) - timedelta(days=DAYS_KEPT)).isoformat()
                connection.execute("delete from spent where day < ? and day <> ?", [oldest, TOTAL])


class _Ledger:
    """What a batch has read and changes, within its transaction."""

    def __init__(self, connection: sqlite3.Connection, showings: dict[str, list[Showing]] | None = None) -> None:
        self._connection = connection
        self._showings = showings or {}
        self._spent: dict[tuple[str, str], int] = {}
        self._changed: list[tuple[Reservation, Item]] = []

    def reserve(self, reservation: Reservation) -> frozenset[int]:
        """Count what may be shown of a request; the positions refused."""
        taken: list[Item] = []
        refused = set()
        for position, item in enumerate(reservation.items):
            if self._is_refused(reservation, item):
                refused.add(position)
            else:
                self._add(reservation, item)
                taken.append(item)
        if refused and not reservation.in_part:
            for item in reversed(taken):
                self._take_back(reservation, item)
        else:
            self._changed += [(reservation, item) for item in taken]
        return frozenset(refused)

    def write(self) -> None:
        """Store all that changed."""
        self._connection.executemany(PUT_SHOWINGS, self.rows())
        places = {place for _, item in self._changed for place in _places(item)}
        self._connection.executemany(PUT_SPENT, [(*place, self._spent[place]) for place in places])

    def rows(self) -> list[tuple[str, str, int]]:
        """The showings that changed: whose, as text, and until when they matter."""
        moments = {one.key: one.at for one, item in self._changed if one.key is not None and item.limits}
        rows = []
        for key, at in moments.items():
            kept = [showing for showing in self._showings[key] if showing[4] > at]
            rows.append((key, json.dumps(kept, separators=(",", ":")), max(showing[4] for showing in kept)))
        return rows

    def _is_refused(self, reservation: Reservation, item: Item) -> bool:
        if item.budget is not None and self._shown((item.campaign_id, TOTAL)) >= item.budget:
            return True
        if item.allowance is not None and self._shown((item.campaign_id, item.day)) >= item.allowance:
            return True
        return self._is_capped(reservation, item.banner_limits, 0, item.banner_id) or self._is_capped(
            reservation, item.campaign_limits, 1, item.campaign_id
        )

    def _is_capped(self, reservation: Reservation, limits: Sequence[Limit], column: int, name: str) -> bool:
        if not limits:
            return False
        key, session = reservation.key, reservation.session
        if key is None or (not session and any(limit.in_session for limit in limits)):
            return True
        shown = [(showing[2], showing[3]) for showing in self._seen(key) if showing[column] == name]
        return any(limit.forbids(shown, reservation.at, session) for limit in limits)

    def _add(self, reservation: Reservation, item: Item) -> None:
        for place in _places(item):
            self._spent[place] = self._shown(place) + 1
        if item.limits and reservation.key is not None:
            until = reservation.at + item.kept
            showing = [item.banner_id, item.campaign_id, reservation.at, reservation.session, until]
            self._seen(reservation.key).append(showing)

    def _take_back(self, reservation: Reservation, item: Item) -> None:
        """Undo the last ``_add``."""
        for place in _places(item):
            self._spent[place] -= 1
        if item.limits and reservation.key is not None:
            self._showings[reservation.key].pop()

    def _shown(self, place: tuple[str, str]) -> int:
        if place not in self._spent:
            query = "select shown from spent where campaign_id = ? and day = ?"
            row = self._connection.execute(query, place).fetchone()
            self._spent[place] = row[0] if row else 0
        return self._spent[place]

    def _seen(self, key: str) -> list[Showing]:
        if key not in self._showings:
            self._showings[key] = _showings(self._connection, key)
        return self._showings[key]


def _places(item: Item) -> list[tuple[str, str]]:
    """Where an item's impressions are counted."""
    return [(item.campaign_id, TOTAL), (item.campaign_id, item.day)] if item.is_spending else []


def _showings(connection: sqlite3.Connection, key: str) -> list[Showing]:
    return _parsed(_stored(connection, key))


def _stored(connection: sqlite3.Connection, key: str) -> str | None:
    row = connection.execute("select shown from showings where visitor_id = ?", (key,)).fetchone()
    return row[0] if row else None


def _parsed(text: str | None) -> list[Showing]:
    try:
        found: list[Showing] = json.loads(text) if text else []
    except ValueError as error:
        LOG.warning("what a visitor was shown was dropped: %s", error)
        return []
    return found


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = normal")
    connection.execute("pragma secure_delete = on")
    connection.executescript(SCHEMA)
