"""Postgres as target: the admitted rows in its schema ``raw``, through COPY, one transaction a batch."""

# ruff: noqa: S608 – table and column names come from the contract; every value is bound

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import duckdb
import pyarrow as pa

from ingestion.targets.books import Rows, admitted_batches, batch_rows
from marquee import contract
from marquee.errors import MarqueeError, SettingsError, WarehouseBusy
from marquee.settings import Settings

# Bytewise text order, as the other targets have it, whatever the database's own: it passes on to what dbt builds.
_TEXT: Final = 'text collate "C"'
_TYPES: Final = {
    "string": _TEXT,
    "int": "bigint",
    "float": "double precision",
    "bool": "boolean",
    "timestamp": "timestamp",
    "date": "date",
}
_BOOKS: Final = f"""
create schema if not exists raw;
create table if not exists raw.target (target_id {_TEXT} not null);
create table if not exists raw.batches (
    batch_id {_TEXT} primary key, batch_number bigint not null, source {_TEXT} not null,
    status {_TEXT} not null, reason {_TEXT}, loaded_at timestamp not null);
create table if not exists raw.batch_rows (
    batch_id {_TEXT} not null, table_name {_TEXT} not null, row_count bigint not null,
    primary key (batch_id, table_name));
"""
_LOCK: Final = 0x6D617271
"""Advisory lock of a push; Postgres frees it when the connection ends, however it ends."""
_OPTIONS: Final = "-c timezone=UTC -c datestyle=ISO -c jit=off -c lock_timeout=30s"
_FETCHED_BYTES: Final = 16 * 2**20
_COPIED_ROWS: Final = 50_000


def connection_parts(settings: Settings) -> dict[str, str]:
    """The connection's parameters by libpq's names.

    Raises:
        SettingsError: ``postgres_url`` is missing or no URL; the message never repeats it.
    """
    import psycopg2.extensions

    if settings.postgres_url is None:
        raise SettingsError("setting dbt_target is postgres, so MARQUEE_POSTGRES_URL must say where: postgresql://…")
    url = settings.postgres_url.get_secret_value()
    try:
        if not re.match(r"postgres(ql)?://", url):
            raise ValueError
        return dict(psycopg2.extensions.parse_dsn(url))
    except (ValueError, psycopg2.ProgrammingError):
        raise SettingsError(
            "setting postgres_url: not of the form postgresql://user:password@host:port/database"
        ) from None


def dbt_variables(settings: Settings) -> dict[str, str]:
    """What the profile reads, and libpq's own options for dbt's connections."""
    parts = connection_parts(settings)
    user = parts.get("user", "postgres")
    return {
        "DBT_POSTGRES_HOST": parts.get("host", "localhost"),
        "DBT_POSTGRES_PORT": parts.get("port", "5432"),
        "DBT_POSTGRES_USER": user,
        "DBT_ENV_SECRET_POSTGRES_PASSWORD": parts.get("password", ""),
        "DBT_POSTGRES_DBNAME": parts.get("dbname", user),
        "DBT_POSTGRES_SSLMODE": parts.get("sslmode", "prefer"),
        "PGOPTIONS": f"{parts.get('options', '')} {_OPTIONS}".strip(),
    }


@contextmanager
def opened(settings: Settings) -> Iterator[PostgresTarget]:
    """A connection with its bookkeeping tables there.

    Raises:
        MarqueeError: the server cannot be reached or refuses, in one line without the password.
    """
    from adbc_driver_postgresql import dbapi

    parts = connection_parts(settings)
    parts["options"] = f"{parts.get('options', '')} {_OPTIONS}".strip()
    parts.setdefault("connect_timeout", "10")
    try:
        connection = dbapi.connect(_dsn(parts))
    except dbapi.Error as error:
        raise MarqueeError(f"Postgres cannot be reached: {_line(error, parts)}") from None
    try:
        yield PostgresTarget(connection, parts)
    except dbapi.Error as error:
        raise MarqueeError(f"Postgres: {_line(error, parts)}") from None
    finally:
        connection.close()


def _dsn(parts: dict[str, str]) -> str:
    import psycopg2.extensions

    return str(psycopg2.extensions.make_dsn(**parts))


def _line(error: Exception, parts: dict[str, str]) -> str:
    """The message's first lines as one, with the password out of it."""
    text = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    if parts.get("password"):
        text = text.replace(parts["password"], "***")
    return text[:500]


class PostgresTarget:
    """An open connection; statements that change anything end in a commit."""

    def __init__(self, connection: Any, parts: dict[str, str]) -> None:
        self._connection = connection
        self._parts = parts
        self._execute(f"select pg_advisory_lock({_LOCK})", busy=True)
        for statement in filter(str.strip, _BOOKS.split(";")):
            self._execute(statement)
        self._execute(f"insert into raw.target select '{uuid.uuid4().hex}' where not exists (select 1 from raw.target)")
        for table in contract.RAW_TABLES.values():
            columns = [f"{c.name} {_TYPES[c.type]}{' not null' * c.required}" for c in table.columns]
            columns.append(f"batch_id {_TEXT} not null")
            self._execute(f"create table if not exists raw.{table.name} ({', '.join(columns)})")
            for c in table.columns:  # those that came later, in a table that was there
                self._execute(f"alter table raw.{table.name} add column if not exists {c.name} {_TYPES[c.type]}")
            self._execute(f"create index if not exists {table.name}_batch on raw.{table.name} (batch_id)")
        self._execute("create index if not exists events_time on raw.events (occurred_at)")
        self._connection.commit()

    def identity(self) -> str:
        """The id that this database was given when it first became a target."""
        return str(self._rows("select target_id from raw.target")[0][0])

    def held(self) -> dict[str, Rows]:
        """Rows of each batch by table; batches that have none included."""
        known = self._rows("select batch_id from raw.batches")
        held: dict[str, Rows] = {batch_id: {} for (batch_id,) in known}
        for batch_id, table, count in self._rows("select batch_id, table_name, row_count from raw.batch_rows"):
            held[batch_id] = {**held.get(batch_id, {}), table: count}
        return held

    def replace(self, dock: duckdb.DuckDBPyConnection, batch_id: str, rows: Rows) -> None:
        """COPY a batch in place of what there was of it, in one transaction."""
        try:
            self._delete(batch_id)
            for name, count in rows.items():
                with self._connection.cursor() as cursor:
                    reader = batch_rows(dock, name, batch_id).to_arrow_reader(_COPIED_ROWS)
                    cursor.adbc_ingest(name, reader, mode="append", db_schema_name="raw")
                self._execute("insert into raw.batch_rows values ($1, $2, $3)", batch_id, name, count)
            ((*books,),) = dock.execute("select * from raw.batches where batch_id = ?", [batch_id]).fetchall()
            self._execute("insert into raw.batches values ($1, $2, $3, $4, $5, $6)", *books)
            self._connection.commit()
        except self._connection.Error as error:
            self._connection.rollback()
            reason = _line(error, self._parts)
            raise MarqueeError(f"batch {batch_id} could not be written to Postgres: {reason}") from None

    def drop(self, batch_id: str) -> None:
        """Take a batch out in one transaction."""
        self._delete(batch_id)
        self._connection.commit()

    def finish(self, dock: duckdb.DuckDBPyConnection, changed: bool) -> None:
        """Copy the dock's ``raw.batches`` whole; fresh statistics where rows came or went."""
        self._execute("delete from raw.batches")
        with self._connection.cursor() as cursor:
            cursor.adbc_ingest("batches", admitted_batches(dock).to_arrow_table(), mode="append", db_schema_name="raw")
        self._connection.commit()
        if changed:
            for name in contract.RAW_TABLES:
                self._execute(f"analyze raw.{name}")
            self._connection.commit()

    @contextmanager
    def fetch(self, query: str) -> Iterator[pa.RecordBatchReader]:
        """Rows of a query, streamed within the block."""
        with self._connection.cursor() as cursor:
            cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(_FETCHED_BYTES)})
            cursor.execute(query)
            yield cursor.fetch_record_batch()

    def _delete(self, batch_id: str) -> None:
        for name in (*contract.RAW_TABLES, "batch_rows", "batches"):
            self._execute(f"delete from raw.{name} where batch_id = $1", batch_id)

    def _execute(self, statement: str, *values: Any, busy: bool = False) -> None:
        with self._connection.cursor() as cursor:
            try:
                cursor.execute(statement, values or None)
            except self._connection.Error as error:
                if busy and "lock timeout" in str(error):
                    raise WarehouseBusy("another run writes to Postgres; wait for it to end, then try again") from None
                raise

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())
