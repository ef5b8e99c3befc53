"""Sessions in one SQLite file under home, for all processes of one machine."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from features.session import absorb, current_session, encode
from features.session_states import RETENTION_HOURS, Events, SessionStoreError, parts, stored_state
from marquee.settings import Settings

PRUNE_SECONDS: Final = 600.0
SCHEMA: Final = """
create table if not exists visitor_sessions (visitor_id text primary key, state blob not null, touched_at integer);
create index if not exists visitor_sessions_touched on visitor_sessions (touched_at);
create table if not exists stream_positions (stream text primary key, position integer not null, touched_at integer);
"""
UPSERT: Final = """
insert into visitor_sessions values (?, ?, ?)
on conflict do update set state = excluded.state, touched_at = excluded.touched_at
"""


class SqliteSessions:
    """See ``SessionStore``. One connection reads and one writes, so that a request need not wait for the feed."""

    def __init__(self, settings: Settings) -> None:
        self.file: Final = settings.features / "sessions.sqlite"
        self._reader, self._writer = _Connection(self.file), _Connection(self.file)
        self._pruned_at = -PRUNE_SECONDS

    def update(self, events: Events) -> None:
        """See ``SessionStore``."""
        for visitor_ids in parts(events):
            with self._writer.taken() as connection, _transaction(connection):
                marks = ", ".join("?" * len(visitor_ids))
                query = f"select visitor_id, state from visitor_sessions where visitor_id in ({marks})"  # noqa: S608
                stored = dict(connection.execute(query, visitor_ids).fetchall())
                states = {v: absorb(stored_state(stored.get(v)), events[v]) for v in visitor_ids}
                connection.executemany(UPSERT, [(v, encode(state).encode(), _now()) for v, state in states.items()])
        self._prune()

    def read(self, visitor_id: str, now: datetime) -> dict[str, Any] | None:
        """See ``SessionStore``."""
        query = "select state from visitor_sessions where visitor_id = ?"
        with self._reader.taken() as connection:
            row = connection.execute(query, [visitor_id]).fetchone()
        return current_session(stored_state(row and row[0]), visitor_id, now)

    def visitors(self, prefix: str = "") -> list[str]:
        """See ``SessionStore``."""
        query = "select visitor_id from visitor_sessions where substr(visitor_id, 1, ?) = ? order by visitor_id"
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

    def _prune(self) -> None:
        if time.monotonic() - self._pruned_at < PRUNE_SECONDS:
            return
        self._pruned_at = time.monotonic()
        with self._writer.taken() as connection:
            for table in ("visitor_sessions", "stream_positions"):
                query = f"delete from {table} where touched_at < ?"  # noqa: S608 - our own names
                connection.execute(query, [_now() - RETENTION_HOURS * 3600])


class _Connection:
    """One connection for whichever threads come, one at a time; a pool's threads come and go."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    @contextmanager
    def taken(self) -> Iterator[sqlite3.Connection]:
        """The connection, opened if it is not; SQLite's errors as ours."""
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._open()
                yield self._connection
            except (sqlite3.Error, OSError) as error:
                raise SessionStoreError(f"{self._file}: {error}") from error

    def close(self) -> None:
        """Close it; the next use opens another."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        # Autocommit, so that transactions are ours alone.
        connection = sqlite3.connect(self._file, timeout=5, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = normal")
            connection.execute("pragma secure_delete = on")
            connection.executescript(SCHEMA)
        except sqlite3.Error:
            connection.close()
            raise
        return connection


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("begin immediate")
    try:
        yield
    except BaseException:
        connection.rollback()
        raise
    connection.execute("commit")


def _now() -> int:
    return int(time.time())
