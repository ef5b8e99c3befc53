"""The warehouse's raw schema: its tables, and the SQL that takes one batch in.

Rows of a batch are named by their *ordinal*: the number of their segment, times 2^32, plus their place in it.
"""

# ruff: noqa: S608 – table and column names come from the contract; every value is bound

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import duckdb

from ingestion.event_log import REJECTED, read_manifest
from marquee import contract
from marquee.errors import MarqueeError
from marquee.settings import Settings
from marquee.warehouse import open_warehouse

_BOOKS: Final = """
create schema if not exists raw;
create table if not exists raw.batches (
    batch_id varchar primary key, batch_number bigint not null, source varchar not null,
    status varchar not null check (status in ('loaded', 'admitted', 'quarantined')),
    reason varchar, loaded_at timestamp not null);
create table if not exists raw.batch_tables (
    batch_id varchar not null, table_name varchar not null, is_derived boolean not null,
    read bigint not null, loaded bigint not null, quarantined bigint not null, duplicate bigint not null);
create table if not exists raw.rejected_rows (
    batch_id varchar not null, table_name varchar not null, file varchar not null, line bigint not null,
    reason varchar not null, text varchar not null);
create table if not exists raw.stream_offsets (file varchar primary key, byte_offset bigint not null);
create table if not exists raw.deleted_events (event_id varchar not null);
"""

SLICE: Final = 3
"""Segments inserted at once, some half a million rows: bounds the memory that sorting them takes."""

_STAGED: Final = """(select *, (($first + file_index) << 32) + file_row_number as ordinal
    from read_parquet($files)) staged"""

_REJECTED_ROWS: Final = """read_json($rejected, format = 'newline_delimited', columns = {'table': 'varchar',
    'derived': 'boolean', 'file': 'varchar', 'line': 'bigint', 'reason': 'varchar', 'text': 'varchar'})"""


@contextmanager
def connect(settings: Settings, read_only: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
    """``open_warehouse``, to write to it."""
    with open_warehouse(settings, read_only) as connection:
        yield connection


def create_tables(connection: duckdb.DuckDBPyConnection) -> None:
    """Create what is missing of the schema ``raw``, columns that came later too; changes nothing that is there."""
    connection.execute(_BOOKS)
    known = _known_columns(connection)
    for table in contract.RAW_TABLES.values():
        columns = [f"{c.name} {contract.SQL_TYPES[c.type]}{' not null' * c.required}" for c in table.columns]
        columns.append("batch_id varchar not null")
        connection.execute(f"create table if not exists raw.{table.name} ({', '.join(columns)})")
        for c in table.columns:
            if table.name in known and c.name not in known[table.name]:
                connection.execute(f"alter table raw.{table.name} add column {c.name} {contract.SQL_TYPES[c.type]}")


def _known_columns(connection: duckdb.DuckDBPyConnection) -> dict[str, set[str]]:
    """Columns of each table that the schema ``raw`` has."""
    query = "select table_name, column_name from duckdb_columns() where schema_name = 'raw' and not internal"
    known: dict[str, set[str]] = {}
    for table, column in connection.execute(query).fetchall():
        known.setdefault(table, set()).add(column)
    return known


@contextmanager
def transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Everything in the block, or nothing of it."""
    connection.begin()
    try:
        yield
    except BaseException:
        connection.rollback()
        raise
    connection.commit()


def insert_batch(connection: duckdb.DuckDBPyConnection, batch_id: str, folder: Path) -> None:
    """Enter a batch, numbered after all before it."""
    connection.execute(
        "insert into raw.batches select ?, coalesce(max(batch_number), 0) + 1, ?, 'loaded', null, ? from raw.batches",
        [batch_id, read_manifest(folder).source, datetime.now(UTC).replace(tzinfo=None)],
    )


def insert_rejected(connection: duckdb.DuckDBPyConnection, batch_id: str, folder: Path) -> None:
    """Keep the rows of a batch that could not become records, each with its reason."""
    connection.execute(
        f'insert into raw.rejected_rows select $batch_id, "table", file, line, reason, text from {_REJECTED_ROWS}',
        {"batch_id": batch_id, "rejected": str(folder / REJECTED)},
    )


def rejected_rows(settings: Settings, batch_id: str, limit: int = 20) -> list[dict[str, Any]]:
    """The first ``limit`` rejected rows of a batch: table, file, line, reason and text of each."""
    names = ("table", "file", "line", "reason", "text")
    with connect(settings) as connection:
        found = connection.execute(
            "select table_name, file, line, reason, text from raw.rejected_rows where batch_id = ? "
            "order by table_name, file, line limit ?",
            [batch_id, limit],
        ).fetchall()
    return [dict(zip(names, row, strict=True)) for row in found]


def insert_counts(connection: duckdb.DuckDBPyConnection, batch_id: str, folder: Path) -> None:
    """Write a batch's counts with every record a duplicate as yet; ``insert_missing`` turns them into loaded ones.

    Records and rejected rows are counted in the files, read comes from the manifest, so a damaged file shows.
    """
    manifest = read_manifest(folder)
    found = connection.execute(
        f'select "table", derived, count(*) from {_REJECTED_ROWS} group by all',
        {"rejected": str(folder / REJECTED)},
    ).fetchall()
    rejected = {(table, derived): count for table, derived, count in found}
    connection.execute("delete from raw.batch_tables where batch_id = ?", [batch_id])
    for t in manifest.tables:
        files = [str(folder / s.file) for s in manifest.segments if (s.table, s.derived) == (t.table, t.derived)]
        connection.execute(
            "insert into raw.batch_tables select ?, ?, ?, ?, 0, ?, count(*) from read_parquet(?)",
            [batch_id, t.table, t.derived, t.read, rejected.get((t.table, t.derived), 0), files],
        )


def insert_missing(connection: duckdb.DuckDBPyConnection, batch_id: str, folder: Path) -> int:
    """Insert the rows of a batch that the raw tables lack; returns how many. Doing it twice changes nothing.

    Raises:
        MarqueeError: read = loaded + quarantined + duplicate does not hold; the log is damaged.
    """
    manifest = read_manifest(folder)
    inserted = 0
    for name in dict.fromkeys(t.table for t in manifest.tables):
        table = contract.RAW_TABLES[name]
        segments = [s for s in manifest.segments if s.table == name]
        files = [str(folder / s.file) for s in segments]
        staged: dict[str, Any] = {"files": files, "first": 0}
        if table is contract.EVENTS:
            connection.execute(f"create or replace temp table missing as {_MISSING_EVENTS}", staged)
        else:
            query = f"create or replace temp table missing as {_missing_versions(table)}"
            connection.execute(query, staged | {"batch_id": batch_id})
        _insert_rows(connection, table, batch_id, files)
        by_segment = connection.execute("select ordinal >> 32, count(*) from missing group by 1").fetchall()
        for number, count in by_segment:
            inserted += count
            connection.execute(
                "update raw.batch_tables set loaded = loaded + $count, duplicate = duplicate - $count "
                "where batch_id = $batch_id and table_name = $name and is_derived = $derived",
                {"count": count, "batch_id": batch_id, "name": name, "derived": segments[number].derived},
            )
        _check_counts(connection, batch_id, name)
    return inserted


def _insert_rows(connection: duckdb.DuckDBPyConnection, table: contract.Table, batch_id: str, files: list[str]) -> None:
    """Insert the rows of ``missing``; events by time, so that DuckDB finds those of a day without reading the rest."""
    order = "order by occurred_at" if table is contract.EVENTS else ""
    # A source fills a third of the columns, and sorting empty ones takes time too.
    names = ", ".join(_filled_columns(connection, table, files))
    for first in range(0, len(files), SLICE):
        connection.execute(
            f"insert into raw.{table.name} ({names}, batch_id) select {names}, $batch_id from {_STAGED} "
            f"semi join missing using (ordinal) {order}",
            {"files": files[first : first + SLICE], "first": first, "batch_id": batch_id},
        )


def _filled_columns(connection: duckdb.DuckDBPyConnection, table: contract.Table, files: list[str]) -> list[str]:
    """The table's columns, without those that the files lack or say to hold nothing but nulls."""
    found = connection.execute(
        "select path_in_schema from parquet_metadata(?) group by 1 "
        "having not bool_and(coalesce(stats_null_count = num_values, false))",
        [files],
    ).fetchall()
    filled = {name for (name,) in found}
    return [name for name in table.names if name in filled]


def delete_batch(connection: duckdb.DuckDBPyConnection, batch_id: str, tables: list[str], reason: str) -> None:
    """Take a batch's rows out of the raw tables; its counts and the reason stay."""
    for table in tables:
        connection.execute(f"delete from raw.{table} where batch_id = ?", [batch_id])
    connection.execute(
        "update raw.batch_tables set quarantined = quarantined + loaded, loaded = 0 where batch_id = ?", [batch_id]
    )
    connection.execute(
        "update raw.batches set status = 'quarantined', reason = ? where batch_id = ?", [reason, batch_id]
    )


_MISSING_EVENTS: Final = f"""
select min(ordinal) as ordinal from {_STAGED}
where not exists (select 1 from raw.events where events.event_id = staged.event_id)
    and not exists (select 1 from raw.deleted_events as deleted where deleted.event_id = staged.event_id)
group by event_id
"""


def _missing_versions(table: contract.Table) -> str:
    """Ordinals of each key's last row, unless it equals the version that holds as of this batch."""
    keys = ", ".join(table.key)
    same = " and ".join(f"latest.{name} is not distinct from staged.{name}" for name in table.names)
    return f"""
with last_rows as (select max(ordinal) as ordinal from {_STAGED} group by {keys}),
latest as (
    select version.* from raw.{table.name} version join raw.batches using (batch_id)
    where batch_number <= (select batch_number from raw.batches where batch_id = $batch_id)
    qualify row_number() over (partition by {keys} order by batch_number desc) = 1
)
select ordinal from {_STAGED} semi join last_rows using (ordinal)
where not exists (select 1 from latest where {same})
"""


def _check_counts(connection: duckdb.DuckDBPyConnection, batch_id: str, table: str) -> None:
    where = "from raw.batch_tables where batch_id = ? and table_name = ?"
    read, loaded, quarantined, duplicate = connection.execute(
        f"select sum(read), sum(loaded), sum(quarantined), sum(duplicate) {where}", [batch_id, table]
    ).fetchone()
    (stored,) = connection.execute(f"select count(*) from raw.{table} where batch_id = ?", [batch_id]).fetchone()
    if read != loaded + quarantined + duplicate or loaded != stored:
        raise MarqueeError(
            f"batch {batch_id}, table {table}: read {read} but loaded {loaded} (in the table: {stored}), quarantined "
            f"{quarantined}, duplicate {duplicate}; the event log is damaged, restore the batch's folder"
        )
