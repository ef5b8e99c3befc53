"""Taking a person out of the feature store: offline files, training set, online rows and sessions."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from marquee.errors import MarqueeError, SettingsError
from marquee.parquet import rewrite_parquet, rows_of
from marquee.person import Person
from marquee.settings import Settings

PROJECT: Final = b"marquee"
"""Feast's project, behind each of its keys in Valkey."""
BUSY_SECONDS: Final = 30


def erase_offline(settings: Settings, person: Person) -> int:
    """Rewrite the offline files and the training set without a person's rows; returns the rows."""
    mask = rows_of(person)
    return sum(rewrite_parquet(file, mask) for file in sorted(settings.features.rglob("*.parquet")))


def erase_online(settings: Settings, person: Person) -> int:
    """Delete a person's features from the online store; returns the rows (SQLite) or keys (Valkey).

    Raises:
        MarqueeError: the store cannot be reached, or is never free.
    """
    if settings.online_store == "valkey":
        with _valkey(settings) as client:
            return int(client.delete(_entity_key(person) + PROJECT))
    return _erase_from_file(settings.features / "online.db", person)


def erase_exports(settings: Settings, person: Person) -> int:
    """Delete a person from the record of what an export took back; returns the rows.

    Raises:
        MarqueeError: the record is never free.
    """
    return _erase_from_file(settings.features / "exports.db", person)


def erase_sessions(settings: Settings, person: Person) -> int:
    """Forget what a person did last; 1 when there was something to forget.

    Raises:
        MarqueeError: the store cannot be reached.
    """
    if settings.online_store == "sqlite" and not (settings.features / "sessions.sqlite").exists():
        return 0
    from features.session_store import open_session_store

    store = open_session_store(settings)
    try:
        return int(store.erase(person.visitor_id))
    finally:
        store.close()


def count_online(settings: Settings, person: Person) -> int:
    """A person's keys in Valkey; SQLite's files are searched where they lie.

    Raises:
        MarqueeError: Valkey cannot be reached.
    """
    if settings.online_store != "valkey":
        return 0
    from features.session_store import ValkeySessions

    with _valkey(settings) as client:
        return int(client.exists(_entity_key(person) + PROJECT, ValkeySessions.PREFIX.encode() + person.encoded))


def _erase_from_file(path: Path, person: Person) -> int:
    """Delete a person's rows from a SQLite file and leave no copy of them in it."""
    if not path.exists():
        return 0
    names = {"entity_key": _entity_key(person), "entity": person.visitor_id}
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
            connection.execute("pragma secure_delete = on").fetchall()
            erased = 0
            for (table,) in connection.execute("select name from sqlite_master where type = 'table'").fetchall():
                columns = [row[1] for row in connection.execute(f'pragma table_info("{table}")')]
                for column in names.keys() & set(columns):
                    query = f'delete from "{table}" where {column} = ?'  # noqa: S608 - the database's own names
                    erased += connection.execute(query, [names[column]]).rowcount
            # Rows that were replaced earlier left copies behind that no deletion reaches.
            connection.execute("vacuum")
            connection.execute("pragma wal_checkpoint(truncate)").fetchall()
            return erased
    except sqlite3.Error as error:
        raise MarqueeError(f"{path}: {error}; run the same command again") from error


def _entity_key(person: Person) -> bytes:
    import pyarrow as pa

    from features.encoding import entity_keys

    return entity_keys(pa.array([person.visitor_id]), "visitor_id")[0]


def _valkey(settings: Settings) -> Any:
    import redis

    if settings.valkey_url is None:
        raise SettingsError("setting valkey_url is missing, which online_store = valkey needs")
    return _Client(redis.Redis.from_url(settings.valkey_url.get_secret_value(), socket_timeout=BUSY_SECONDS))


class _Client:
    """Valkey for the length of a block; its errors as ours, without the address's password."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __enter__(self) -> Any:
        return self._client

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        import redis

        self._client.close()
        if isinstance(error, redis.RedisError | OSError):
            raise MarqueeError(f"valkey: {error}") from None
