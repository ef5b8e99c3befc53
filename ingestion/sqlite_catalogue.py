"""The managed catalogue in one SQLite file under home, for all processes of one machine."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from ingestion.catalogue_changes import (
    CatalogueStoreError,
    Change,
    Managed,
    Records,
    Stored,
    Write,
    absorbed,
    decide,
    restored,
)
from marquee.settings import Settings
from marquee.sqlite_file import SqliteFile, transaction

BUSY_SECONDS: Final = 10.0
SCHEMA: Final = """
create table if not exists catalogue (one integer primary key check (one = 1), version integer not null);
insert or ignore into catalogue values (1, 0);
create table if not exists records (
    kind text not null, id text not null, version integer not null, body text, is_deleted integer not null,
    primary key (kind, id));
create index if not exists records_version on records (version);
create table if not exists audit (
    seq integer primary key autoincrement, version integer not null, changed_at text not null,
    changed_by text not null, request_id text not null, kind text not null, id text not null,
    record_before text, record_after text);
"""
UPSERT: Final = """
insert into records values (?, ?, ?, ?, ?)
on conflict do update set version = excluded.version, body = excluded.body, is_deleted = excluded.is_deleted
"""
NOTE: Final = "insert into audit values (null, ?, ?, ?, ?, ?, ?, ?, ?)"


class SqliteCatalogue:
    """See ``CatalogueStore``. One connection reads and one writes, so that no reader waits for the disk."""

    def __init__(self, settings: Settings) -> None:
        self.file: Final = settings.home / "catalogue.sqlite"
        self._reader, self._writer = (
            SqliteFile(self.file, CatalogueStoreError, BUSY_SECONDS, _prepare) for _ in range(2)
        )
        self._lock = threading.Lock()
        self._managed = Managed()

    def version(self) -> int:
        """See ``CatalogueStore``."""
        with self._reader.taken() as connection:
            return _version(connection)

    def read(self) -> Managed:
        """See ``CatalogueStore``."""
        with self._reader.taken() as connection, transaction(connection, "begin"):
            return self._read(connection)

    def change(
        self,
        changes: Sequence[Change],
        by: str,
        request_id: str,
        known: Records | None = None,
        cascade: bool = False,
    ) -> int:
        """See ``CatalogueStore``."""
        if not changes:
            return self.version()
        with self._writer.taken() as connection, transaction(connection):
            managed = self._read(connection)
            writes, version = decide(managed, changes, known or {}, cascade), managed.version + 1
            connection.executemany(UPSERT, [_row(write.stored(version)) for write in writes])
            told = (version, datetime.now(UTC).isoformat(), by, request_id)
            connection.executemany(NOTE, [(*told, *_audited(write)) for write in writes])
            connection.execute("update catalogue set version = ?", [version])
        return version

    def audit(self, limit: int = 100, before: int | None = None) -> list[dict[str, Any]]:
        """See ``CatalogueStore``."""
        query = "select * from audit where seq < ? order by seq desc limit ?"
        with self._reader.taken() as connection:
            rows = connection.execute(query, [2**62 if before is None else before, limit]).fetchall()
        names = ("seq", "version", "at", "by", "request_id", "kind", "id")
        return [
            dict(zip(names, row[:7], strict=True)) | {"before": _json(row[7]), "after": _json(row[8])} for row in rows
        ]

    def close(self) -> None:
        """See ``CatalogueStore``."""
        self._reader.close()
        self._writer.close()

    def _read(self, connection: sqlite3.Connection) -> Managed:
        """As of the transaction under way; what was read before is not read again."""
        with self._lock:
            version = _version(connection)
            last = self._managed if self._managed.version <= version else Managed()  # an older file was put back
            if last.version < version:
                query = "select kind, id, version, body, is_deleted from records where version > ?"
                rows = connection.execute(query, [last.version]).fetchall()
                last = absorbed(last, version, (restored(*row) for row in rows))
            self._managed = last
            return last


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = full")
    connection.executescript(f"begin immediate; {SCHEMA} commit;")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("select version from catalogue").fetchone()[0])


def _row(stored: Stored) -> tuple[Any, ...]:
    body = stored.record and stored.record.model_dump_json()
    return stored.kind, stored.id, stored.version, body, stored.is_deleted


def _audited(write: Write) -> tuple[Any, ...]:
    texts = (record and record.model_dump_json() for record in (write.before, write.after))
    return write.kind, write.id, *texts


def _json(text: str | None) -> Any:
    return None if text is None else json.loads(text)
