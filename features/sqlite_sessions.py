"""Sessions in one SQLite file under home, for all processes of one machine."""

from __future__ import annotations

import sqlite3
import time
from datetime import datetime
from typing import Any, Final

import msgspec

from features.session import current_session, encode
from features.session_states import RETENTION_HOURS, VISITORS_AT_ONCE, Events, SessionStoreError, Tally, state_of
from marquee.settings import Settings
from marquee.sqlite_file import SqliteFile, transaction

BUSY_SECONDS: Final = 5.0
PRUNE_SECONDS: Final = 600.0
PRUNED_AT_ONCE: Final = 10_000
"""Parts; others may write in between."""
CACHE_KB: Final = 4 << 10
"""Of each connection's pages: little enough to be full within a minute, as the file itself is in the system's cache."""
LOG_PAGES: Final = 8_000
"""Of 4 KB, after which the write-ahead log is copied into the file."""
SCHEMA: Final = """
create table if not exists visitor_parts (visitor_id text not null, part blob not null, touched_at integer not null);
create index if not exists visitor_parts_visitor on visitor_parts (visitor_id);
create index if not exists visitor_parts_touched on visitor_parts (touched_at);
create table if not exists stream_positions (stream text primary key, position integer not null, touched_at integer);
"""
# One statement for a whole pass: SQLite takes it apart without Python's lock, and a row at a time would wait for it.
APPEND: Final = """
insert into visitor_parts select key, '[1,null,' || value || ',[]]', ?2 from json_each(?1) where value <> '[]'
"""
PARTS: Final = """
select cast(group_concat(part, char(10)) as blob), max(touched_at)
from (select part, touched_at from visitor_parts where visitor_id = ? order by rowid)
"""
CAME_BACK: Final = """
select distinct visitor_id from visitor_parts as old where touched_at < ?1 and exists (
    select 1 from visitor_parts as newer where newer.visitor_id = old.visitor_id and newer.touched_at >= ?1
) limit ?2
"""
PRUNE: Final = """
delete from visitor_parts where rowid in (select rowid from visitor_parts where touched_at < ? limit ?)
"""


class SqliteSessions:
    """See ``SessionStore``. One connection reads and one writes, so that a request need not wait for the feed."""

    def __init__(self, settings: Settings) -> None:
        self.file: Final = settings.features / "sessions.sqlite"
        self._reader, self._writer = (
            SqliteFile(self.file, SessionStoreError, BUSY_SECONDS, _prepare) for _ in range(2)
        )
        self._tally = Tally()
        self._pruned_at = -PRUNE_SECONDS

    def update(self, events: Events) -> None:
        """See ``SessionStore``."""
        told = msgspec.json.encode(events)
        if b"\\u0000" in told:  # SQLite would cut an id short there; no visitor of the API has one
            told = msgspec.json.encode({name: some for name, some in events.items() if "\0" not in name})
        with self._writer.taken() as connection:
            connection.execute(APPEND, [told.decode(), _now()])
        self._fold(self._tally.due(events))
        self._prune()

    def read(self, visitor_id: str, now: datetime) -> dict[str, Any] | None:
        """See ``SessionStore``."""
        with self._reader.taken() as connection:
            parts, _ = connection.execute(PARTS, [visitor_id]).fetchone()
        return current_session(state_of(parts.split(b"\n")), visitor_id, now) if parts else None

    def visitors(self, prefix: str = "") -> list[str]:
        """See ``SessionStore``."""
        query = """
            select distinct visitor_id from visitor_parts where substr(visitor_id, 1, ?) = ? order by visitor_id
        """
        with self._reader.taken() as connection:
            return [visitor_id for (visitor_id,) in connection.execute(query, [len(prefix), prefix])]

    def position(self, stream: str) -> int | None:
        """See ``SessionStore``."""
        with self._writer.taken() as connection:
            row = connection.execute("select position from stream_positions where stream = ?", [stream]).fetchone()
        return row and int(row[0])

    def advance(self, stream: str, before: int | None, after: int) -> bool:
        """See ``SessionStore``."""
        with self._writer.taken() as connection:
            if before is None:
                query = "insert or ignore into stream_positions values (?, ?, ?)"
                return connection.execute(query, [stream, after, _now()]).rowcount > 0
            query = "update stream_positions set position = ?, touched_at = ? where stream = ? and position = ?"
            return connection.execute(query, [after, _now(), stream, before]).rowcount > 0

    def close(self) -> None:
        """See ``SessionStore``."""
        self._reader.close()
        self._writer.close()

    def _fold(self, visitor_ids: list[str]) -> None:
        """Make one part of all that each visitor has."""
        if not visitor_ids:
            return
        with self._writer.taken() as connection, transaction(connection):
            for visitor_id in visitor_ids:
                parts, touched_at = connection.execute(PARTS, [visitor_id]).fetchone()
                if parts:  # else forgotten a moment ago
                    part = encode(state_of(parts.split(b"\n"))).decode()
                    connection.execute("delete from visitor_parts where visitor_id = ?", [visitor_id])
                    connection.execute("insert into visitor_parts values (?, ?, ?)", [visitor_id, part, touched_at])

    def _prune(self) -> None:
        """Drop visitors not heard of for long; of those that were, old parts live on in their newest."""
        if time.monotonic() - self._pruned_at < PRUNE_SECONDS:
            return
        self._pruned_at = time.monotonic()
        limit = _now() - RETENTION_HOURS * 3600
        while came_back := self._visitors(CAME_BACK, limit, VISITORS_AT_ONCE):
            self._fold(came_back)
        is_more = True
        while is_more:
            with self._writer.taken() as connection:
                is_more = connection.execute(PRUNE, [limit, PRUNED_AT_ONCE]).rowcount == PRUNED_AT_ONCE
        with self._writer.taken() as connection:
            connection.execute("delete from stream_positions where touched_at < ?", [limit])

    def _visitors(self, query: str, *values: object) -> list[str]:
        with self._writer.taken() as connection:
            return [visitor_id for (visitor_id,) in connection.execute(query, values)]


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = normal")
    connection.execute("pragma secure_delete = on")
    # Visitors come in no order: what is written again and again should reach the file once in a while only.
    connection.execute(f"pragma cache_size = -{CACHE_KB}")
    connection.execute(f"pragma wal_autocheckpoint = {LOG_PAGES}")
    connection.executescript(SCHEMA)
    _take_over(connection)


def _take_over(connection: sqlite3.Connection) -> None:
    """What version 0.2 kept as one state a visitor is a part now."""
    old = "select 1 from sqlite_master where name = 'visitor_sessions'"
    if connection.execute(old).fetchone():
        with transaction(connection):
            if connection.execute(old).fetchone():  # and no other process was faster
                states = "select visitor_id, state, touched_at from visitor_sessions"
                connection.execute(f"insert into visitor_parts {states}")
                connection.execute("drop table visitor_sessions")


def _now() -> int:
    return int(time.time())
