"""Where visitors' sessions are kept between events: SQLite beside the other features, or Valkey.

Many processes write at once, and each update is read, changed and written as one step. What is here can be made again
from the event log, so nothing waits for the disk. ``position`` says how far each stream of events has been applied.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final, Protocol

from features.session import SessionEvent, VisitorState, absorb, current_session, decode, encode
from marquee.errors import MarqueeError, SettingsError
from marquee.settings import Settings

RETENTION_HOURS: Final = 48
"""How long a visitor without events is kept; beyond it a source's own session would start anew."""
VISITORS_AT_ONCE: Final = 200
PRUNE_SECONDS: Final = 600.0
LOG: Final = logging.getLogger("bentoml.marquee")
Events = Mapping[str, Sequence[SessionEvent]]


class SessionStoreError(MarqueeError):
    """The session store cannot be reached or refuses; nothing else depends on it."""


class SessionStore(Protocol):
    """Sessions by visitor. Each method raises ``SessionStoreError`` when the store is unwell."""

    def update(self, events: Events) -> None:
        """Absorb events by visitor; harmless when repeated."""

    def read(self, visitor_id: str, now: datetime) -> dict[str, Any] | None:
        """Features of the session under way (see ``session.current_session``); ``None`` when there is none."""

    def erase(self, visitor_id: str) -> bool:
        """Forget a visitor; whether there was anything to forget."""

    def visitors(self, prefix: str = "") -> list[str]:
        """Ids kept that begin so, in order."""

    def position(self, stream: str) -> int | None:
        """How far a stream has been applied, in bytes; ``None`` when that is not known."""

    def set_position(self, stream: str, position: int) -> None:
        """Remember it."""

    def close(self) -> None:
        """Release connections."""


def open_session_store(settings: Settings) -> SessionStore:
    """The store that ``online_store`` names.

    Raises:
        SettingsError: it is Valkey and ``valkey_url`` is missing or no address.
    """
    if settings.online_store == "sqlite":
        return SqliteSessions(settings)
    return ValkeySessions(settings)


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
    """Sessions in one SQLite file under home; each thread has its own connection."""

    def __init__(self, settings: Settings) -> None:
        self.file: Final = settings.features / "sessions.sqlite"
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._pruned_at = -PRUNE_SECONDS

    def update(self, events: Events) -> None:
        """See ``SessionStore``."""
        for visitor_ids in _parts(events):
            with self._connection() as connection, _transaction(connection):
                marks = ", ".join("?" * len(visitor_ids))
                query = f"select visitor_id, state from visitor_sessions where visitor_id in ({marks})"  # noqa: S608
                stored = dict(connection.execute(query, visitor_ids).fetchall())
                rows = [(v, encode(absorb(_state(stored.get(v)), events[v])).encode(), _now()) for v in visitor_ids]
                connection.executemany(UPSERT, rows)
        self._prune()

    def read(self, visitor_id: str, now: datetime) -> dict[str, Any] | None:
        """See ``SessionStore``."""
        query = "select state from visitor_sessions where visitor_id = ?"
        with self._connection() as connection:
            row = connection.execute(query, [visitor_id]).fetchone()
        return current_session(_state(row and row[0]), visitor_id, now)

    def erase(self, visitor_id: str) -> bool:
        """See ``SessionStore``. What was freed is overwritten, and the write-ahead log emptied once nobody reads it."""
        with self._connection() as connection:
            done = connection.execute("delete from visitor_sessions where visitor_id = ?", [visitor_id])
            connection.execute("pragma wal_checkpoint(truncate)")
            return done.rowcount > 0

    def visitors(self, prefix: str = "") -> list[str]:
        """See ``SessionStore``."""
        query = "select visitor_id from visitor_sessions where substr(visitor_id, 1, ?) = ? order by visitor_id"
        with self._connection() as connection:
            return [visitor_id for (visitor_id,) in connection.execute(query, [len(prefix), prefix])]

    def position(self, stream: str) -> int | None:
        """See ``SessionStore``."""
        with self._connection() as connection:
            row = connection.execute("select position from stream_positions where stream = ?", [stream]).fetchone()
        return row and int(row[0])

    def set_position(self, stream: str, position: int) -> None:
        """See ``SessionStore``."""
        with self._connection() as connection:
            connection.execute("insert or replace into stream_positions values (?, ?, ?)", [stream, position, _now()])

    def close(self) -> None:
        """See ``SessionStore``."""
        while self._opened:
            self._opened.pop().close()
        self._local = threading.local()

    def _prune(self) -> None:
        if time.monotonic() - self._pruned_at < PRUNE_SECONDS:
            return
        self._pruned_at = time.monotonic()
        with self._connection() as connection:
            for table in ("visitor_sessions", "stream_positions"):
                query = f"delete from {table} where touched_at < ?"  # noqa: S608 - our own names
                connection.execute(query, [_now() - RETENTION_HOURS * 3600])

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            connection = getattr(self._local, "connection", None)
            if connection is None:
                connection = self._local.connection = self._connect()
            yield connection
        except (sqlite3.Error, OSError) as error:
            raise SessionStoreError(f"{self.file}: {error}") from error

    def _connect(self) -> sqlite3.Connection:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        # Autocommit, so that transactions are ours alone; closing happens in another thread.
        connection = sqlite3.connect(self.file, timeout=5, isolation_level=None, check_same_thread=False)
        self._opened.append(connection)
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = normal")
        connection.execute("pragma secure_delete = on")
        connection.executescript(SCHEMA)
        return connection


COMPARE_AND_SET: Final = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1
"""


class ValkeySessions:
    """Sessions in Valkey or Redis, one key a visitor; a write counts only if nobody wrote in between."""

    PREFIX: Final = "marquee:session:"
    STREAMS: Final = "marquee:stream:"
    ATTEMPTS: Final = 50

    def __init__(self, settings: Settings) -> None:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        if settings.valkey_url is None:
            raise SettingsError("setting valkey_url is missing, which online_store = valkey needs")
        try:
            # The client's own patience is seconds; a page does not wait that long, and the feed tries again.
            self._client: Any = redis.Redis.from_url(
                settings.valkey_url.get_secret_value(),
                socket_timeout=2,
                socket_connect_timeout=1,
                retry=Retry(NoBackoff(), 1),
            )
        except ValueError:
            raise SettingsError("setting valkey_url: expected redis://host:port/number") from None
        self._errors = redis.RedisError
        self._script = self._client.register_script(COMPARE_AND_SET)

    def update(self, events: Events) -> None:
        """See ``SessionStore``."""
        with self._told():
            for visitor_ids in _parts(events):
                left = visitor_ids
                for _ in range(self.ATTEMPTS):
                    if not (left := self._try(left, events)):
                        break
                else:
                    raise SessionStoreError(f"valkey: {len(left)} visitors changed at every attempt")

    def read(self, visitor_id: str, now: datetime) -> dict[str, Any] | None:
        """See ``SessionStore``."""
        with self._told():
            stored = self._client.get(self.PREFIX + visitor_id)
        return current_session(_state(stored), visitor_id, now)

    def erase(self, visitor_id: str) -> bool:
        """See ``SessionStore``."""
        with self._told():
            return bool(self._client.delete(self.PREFIX + visitor_id))

    def visitors(self, prefix: str = "") -> list[str]:
        """See ``SessionStore``."""
        pattern = "".join(f"\\{sign}" if sign in "*?[]\\^" else sign for sign in self.PREFIX + prefix) + "*"
        with self._told():
            keys = set(self._client.scan_iter(match=pattern, count=1000))
        return sorted(key.decode().removeprefix(self.PREFIX) for key in keys)

    def position(self, stream: str) -> int | None:
        """See ``SessionStore``."""
        with self._told():
            found = self._client.get(self.STREAMS + stream)
        return int(found) if found is not None and found.isdigit() else None

    def set_position(self, stream: str, position: int) -> None:
        """See ``SessionStore``."""
        with self._told():
            self._client.set(self.STREAMS + stream, position, ex=RETENTION_HOURS * 3600)

    def close(self) -> None:
        """See ``SessionStore``."""
        self._client.close()

    def _try(self, visitor_ids: list[str], events: Events) -> list[str]:
        """Write these visitors' new states; those whose state somebody else changed meanwhile."""
        stored = self._client.mget([self.PREFIX + visitor_id for visitor_id in visitor_ids])
        with self._client.pipeline(transaction=False) as pipeline:
            for visitor_id, before in zip(visitor_ids, stored, strict=True):
                after = encode(absorb(_state(before), events[visitor_id]))
                values = [before or b"", after.encode(), RETENTION_HOURS * 3600]
                self._script(keys=[self.PREFIX + visitor_id], args=values, client=pipeline)
            done = pipeline.execute()
        return [visitor_id for visitor_id, is_done in zip(visitor_ids, done, strict=True) if not is_done]

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (self._errors, OSError) as error:
            raise SessionStoreError(f"valkey: {error}") from error


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("begin immediate")
    try:
        yield
    except BaseException:
        connection.rollback()
        raise
    connection.execute("commit")


def _state(stored: bytes | None) -> VisitorState:
    """What is stored, nothing when it is damaged: a session is soon over, and the log has its events."""
    if not stored:
        return VisitorState()
    try:
        return decode(stored)
    except ValueError as error:
        LOG.warning("a visitor's session was dropped: %s", error)
        return VisitorState()


def _parts(events: Events) -> Iterator[list[str]]:
    visitor_ids = [visitor_id for visitor_id in events if events[visitor_id]]
    for start in range(0, len(visitor_ids), VISITORS_AT_ONCE):
        yield visitor_ids[start : start + VISITORS_AT_ONCE]


def _now() -> int:
    return int(time.time())
