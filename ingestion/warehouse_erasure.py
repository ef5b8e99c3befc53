"""Taking a person out of the warehouse: rows, books, and the blocks of the file that deleted rows leave behind."""

# ruff: noqa: S608 – names are quoted and come from the catalogue; every value is bound

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

import duckdb

from ingestion.event_log import REJECTED, rejected_lines
from ingestion.event_stream import sync
from ingestion.forgotten import OnePerson
from ingestion.warehouse import connect, create_tables, transaction
from marquee.erasures import ERASED
from marquee.person import PERSON_COLUMNS, SESSION_COLUMN, Person
from marquee.settings import Settings

TEXTS: Final = ("text", "reason")
"""Columns of ``raw.rejected_rows`` that quote a row."""
_Erased = Counter[tuple[str, str, bool]]


def erase_from_warehouse(settings: Settings, person: Person) -> dict[str, int]:
    """Delete a person's rows from every table, correct each batch's books, and leave no copy in the file.

    To be called once the log is clean: the books are made to agree with it. Views follow their tables, and the next
    build makes the days anew on which the person did something.

    Returns:
        Rows by table.

    Raises:
        WarehouseBusy: another process holds the file.
    """
    if not settings.warehouse.exists():
        return {}
    with connect(settings) as connection:
        create_tables(connection)
        with transaction(connection):
            first_day, loaded = _first_day(connection, person), loaded_rows(connection)
            counts = _delete_rows(connection, person)
            counts["raw.rejected_rows"] = _blank_rejected(connection, person)
            counts["texts"] = _blank_texts(connection, person)
            _balance_books(connection, settings.log)
            have_rebuilt(connection, first_day, loaded)
        # Even when no row was left: an earlier attempt may have died between its deletion and its copy.
        _copy_to_fresh_file(connection, settings.warehouse)
    return {table: count for table, count in counts.items() if count}


def newest_event(settings: Settings, person: Person) -> datetime | None:
    """When the last event that the warehouse holds of a person happened, UTC; None when it holds none."""
    if not settings.warehouse.exists():
        return None
    with connect(settings, read_only=True) as connection:
        try:
            query = f"select max(occurred_at) from raw.events where {_is_theirs(PERSON_COLUMNS)}"
            row = connection.execute(query, _ids(PERSON_COLUMNS, person)).fetchone()
        except duckdb.CatalogException:
            return None
    newest: datetime | None = row[0]
    return newest


def warehouse_rows(connection: duckdb.DuckDBPyConnection) -> list[tuple[str, list[str]]]:
    """Tables that say whose rows they hold, quoted, each with the columns that say so."""
    found = connection.execute(
        "select table_schema, table_name, list(column_name order by column_name) from information_schema.columns "
        "join information_schema.tables using (table_schema, table_name) where table_type = 'BASE TABLE' "
        "and column_name in (select unnest(?)) group by all order by all",
        [[*PERSON_COLUMNS, SESSION_COLUMN]],
    ).fetchall()
    return [(f'"{schema}"."{table}"', columns) for schema, table, columns in found]


def _delete_rows(connection: duckdb.DuckDBPyConnection, person: Person) -> dict[str, int]:
    tables = warehouse_rows(connection)
    connection.execute("create or replace temp table their_sessions (session_id varchar)")
    for place, columns in tables:
        if SESSION_COLUMN in columns and (own := [name for name in columns if name in PERSON_COLUMNS]):
            # A session that somebody else has, too, is not the person's alone.
            connection.execute(
                f"insert into their_sessions select session_id from {place} where session_id is not null "
                f"group by 1 having bool_and({_is_theirs(own)})",
                _ids(own, person),
            )
    counts = {}
    for place, columns in tables:
        if own := [name for name in columns if name in PERSON_COLUMNS]:
            done = connection.execute(f"delete from {place} where {_is_theirs(own)}", _ids(own, person))
        else:
            done = connection.execute(f"delete from {place} where session_id in (from their_sessions)")
        counts[place.replace('"', "")] = int(done.fetchone()[0])
    connection.execute("drop table their_sessions")
    return counts


def _is_theirs(columns: Sequence[str]) -> str:
    return " or ".join(f"coalesce(cast({name} as varchar) in (select unnest(?)), false)" for name in columns)


def _ids(columns: Sequence[str], person: Person) -> list[list[str]]:
    return [person.ids(name) for name in columns]


def _first_day(connection: duckdb.DuckDBPyConnection, person: Person) -> date | None:
    query = f"select min(occurred_at)::date from raw.events where {_is_theirs(PERSON_COLUMNS)}"
    row = connection.execute(query, _ids(PERSON_COLUMNS, person)).fetchone()
    first: date | None = row[0]
    return first


def loaded_rows(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Rows that the raw tables hold, by batch."""
    return dict(connection.execute("select batch_id, sum(loaded)::bigint from raw.batch_tables group by 1").fetchall())


def have_rebuilt(connection: duckdb.DuckDBPyConnection, first: date | None, loaded: dict[str, int]) -> None:
    """Leave what an interrupted build from that day on leaves, which the next build makes up for.

    A batch that has lost rows is no new one for that: it would be built from its own first day.
    """
    query = "select count(*) from duckdb_tables() where schema_name = 'raw' and table_name = 'builds'"
    if first is None or not connection.execute(query).fetchone()[0]:
        return
    connection.execute(
        "insert into raw.builds by name select (select max(build_id) + 1 from raw.builds) as build_id, target, "
        "? as from_date, false as is_full, vars_hash, ? as started_at from raw.builds "
        "where finished_at is not null order by builds.build_id desc limit 1",
        [first, datetime.now(UTC).replace(tzinfo=None)],
    )
    for batch_id, count in loaded_rows(connection).items():
        if lost := loaded[batch_id] - count:
            connection.execute("update raw.built_batches set loaded = loaded - ? where batch_id = ?", [lost, batch_id])


def _blank_rejected(connection: duckdb.DuckDBPyConnection, person: Person) -> int:
    whose = OnePerson(person)
    rows = connection.execute(
        f"select rowid, {', '.join(TEXTS)} from raw.rejected_rows where reason <> ?", [ERASED]
    ).fetchall()
    found = [row[0] for row in rows if any(whose.in_text(text) for text in row[1:])]
    connection.execute(
        "update raw.rejected_rows set text = '', reason = ? where rowid in (select unnest(?::bigint[]))",
        [ERASED, found],
    )
    return len(found)


def _blank_texts(connection: duckdb.DuckDBPyConnection, person: Person) -> int:
    """Star the person out of what others' rows say: a page that they saw, a reason that somebody gave."""
    columns = connection.execute(
        "select table_schema, table_name, column_name from information_schema.columns join information_schema.tables "
        "using (table_schema, table_name) where table_type = 'BASE TABLE' and data_type in ('VARCHAR', 'JSON') "
        "and column_name not in (select unnest(?)) order by all",
        [PERSON_COLUMNS],
    ).fetchall()
    changed = 0
    for schema, table, column in columns:
        # An id that may mean anything else, too, is only looked for where a sentence says whose it is.
        if person.is_distinctive or column == "reason":
            changed += _blank_column(connection, f'"{schema}"."{table}"', f'"{column}"', person)
    return changed


def _blank_column(connection: duckdb.DuckDBPyConnection, place: str, column: str, person: Person) -> int:
    query = f"select distinct {column}::varchar from {place} where contains({column}::varchar, ?)"
    changed = 0
    for (before,) in connection.execute(query, [person.visitor_id]).fetchall():
        if (after := person.blank(before.encode()).decode()) != before:
            done = connection.execute(f"update {place} set {column} = ? where {column}::varchar = ?", [after, before])
            changed += int(done.fetchone()[0])
    return changed


def _balance_books(connection: duckdb.DuckDBPyConnection, log: Path) -> None:
    """Count as quarantined what the log has lost to erasures and the books do not know of."""
    known = connection.execute("select batch_id, status from raw.batches order by batch_number").fetchall()
    for batch_id, status in known:
        wanted = _erased_in_log(log, batch_id)
        # Lines that could not be read were counted as quarantined from the start.
        told = dict(
            connection.execute(
                "select table_name, count(*) from raw.rejected_rows where batch_id = ? and reason = ? group by 1",
                [batch_id, ERASED],
            ).fetchall()
        )
        for (table, file, is_derived), count in wanted.items():
            there = min(told.get(table, 0), count)
            told[table] = told.get(table, 0) - there
            if missing := count - there:
                _enter(connection, (batch_id, table, is_derived, file), missing, status == "quarantined")


def _enter(
    connection: duckdb.DuckDBPyConnection, place: tuple[str, str, bool, str], count: int, is_quarantined: bool
) -> None:
    batch_id, table, is_derived, file = place
    connection.execute(
        "insert into raw.rejected_rows select ?, ?, ?, 0, ?, '' from range(?)", [batch_id, table, file, ERASED, count]
    )
    if is_quarantined:  # all of its rows count as quarantined already
        return
    (stored,) = connection.execute(f"select count(*) from raw.{table} where batch_id = ?", [batch_id]).fetchone()
    rest, loaded, duplicate = connection.execute(
        "select (select coalesce(sum(loaded), 0) from raw.batch_tables where batch_id = $batch_id "
        "and table_name = $table and is_derived <> $derived), loaded, duplicate from raw.batch_tables "
        "where batch_id = $batch_id and table_name = $table and is_derived = $derived",
        {"batch_id": batch_id, "table": table, "derived": is_derived},
    ).fetchone()
    gone = max(0, min(count, int(rest) + int(loaded) - stored, int(loaded)))
    spared = min(count - gone, int(duplicate))
    connection.execute(
        "update raw.batch_tables set loaded = loaded - ?, duplicate = duplicate - ?, quarantined = quarantined + ? "
        "where batch_id = ? and table_name = ? and is_derived = ?",
        [gone, spared, gone + spared, batch_id, table, is_derived],
    )


def _erased_in_log(log: Path, batch_id: str) -> _Erased:
    """Erased rows of a batch by table, file and whether the table was derived."""
    found: _Erased = Counter()
    folder = log / "batches" / batch_id
    if (folder / REJECTED).is_file():
        for row in map(json.loads, rejected_lines(folder)):
            found[row["table"], row["file"], row["derived"]] += row["reason"] == ERASED
    elif batch_id.startswith("stream-"):
        writer, start, stop = batch_id.removeprefix("stream-").rsplit("-", 2)
        file = log / "stream" / f"{writer}.jsonl"
        if file.is_file():
            with file.open("rb") as stream:
                stream.seek(int(start))
                lines = stream.read(int(stop) - int(start)).split(b"\n")[:-1]
            found["events", file.name, False] = sum(not line.strip() for line in lines)
    return +found


def _fresh(warehouse: Path) -> Path:
    return warehouse.with_name(f"{warehouse.stem}.fresh.duckdb")


def _copy_to_fresh_file(connection: duckdb.DuckDBPyConnection, warehouse: Path) -> None:
    """Replace the file by a copy of what it holds. Deleted rows stay legible in the blocks that they leave free.

    The connection that holds the lock stays open until the copy stands in the file's place.
    """
    fresh = _fresh(warehouse)
    for left in (fresh, fresh.with_name(f"{fresh.name}.wal")):  # by a copy that was killed
        left.unlink(missing_ok=True)
    (name,) = connection.execute("select current_database()").fetchone()
    connection.execute("checkpoint")
    connection.execute(f"attach '{_quoted(fresh)}' as fresh")
    try:
        connection.execute(f'copy from database "{name}" to fresh')
        connection.execute("checkpoint fresh")
    finally:
        connection.execute("detach fresh")
    sync(fresh)
    fresh.replace(warehouse)
    sync(warehouse.parent)


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
