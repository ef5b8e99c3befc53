"""Taking a person out of the target that dbt builds on, where that is Postgres or Spark."""

# ruff: noqa: S608 – names are quoted and come from the catalogue; every value is bound

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, Final

from ingestion.erasure import erase_from_files
from marquee.errors import MarqueeError
from marquee.person import PERSON_COLUMNS, SESSION_COLUMN, Person
from marquee.settings import Settings

_COLUMNS: Final = """
select table_schema, table_name, array_agg(column_name::text order by column_name::text)
from information_schema.columns join information_schema.tables using (table_schema, table_name)
where table_type = 'BASE TABLE' and table_schema not in ('pg_catalog', 'information_schema')
    and column_name = any(%s)
group by 1, 2 order by 1, 2
"""


def erase_from_target(settings: Settings, person: Person) -> dict[str, int]:
    """Delete a person's rows from every table of the target; rows by table.

    Postgres: tables that lost a row are written anew, so that dead rows leave the disk; its write-ahead log and its
    backups are the database administrator's. Spark: the Parquet files below ``home/spark`` are rewritten.

    Raises:
        MarqueeError: Postgres cannot be reached or refuses.
    """
    if settings.dbt_target == "spark":
        rows = erase_from_files([settings.home / "spark"], person)
        return {"files": rows} if rows else {}
    if settings.dbt_target != "postgres":
        return {}
    with _postgres(settings) as cursor:
        counts = {}
        for place, columns in _tables(cursor):
            condition, values = _condition(columns, person)
            cursor.execute(f"delete from {place} where {condition}", values)
            if cursor.rowcount:
                counts[place.replace('"', "")] = int(cursor.rowcount)
        if _has(cursor, "raw", "batch_rows"):
            # The next push compares these counts with the dock's, and sends a batch again where they differ.
            cursor.execute(
                "update raw.batch_rows set row_count = (select count(*) from raw.events "
                "where events.batch_id = batch_rows.batch_id) where table_name = 'events'"
            )
        cursor.connection.commit()
        cursor.connection.autocommit = True
        for place in counts:
            cursor.execute(f"vacuum (full) {place}")
    return counts


def count_in_target(settings: Settings, person: Person) -> dict[str, int]:
    """A person's rows by table of Postgres; the files of the other targets are searched where they lie.

    Raises:
        MarqueeError: Postgres cannot be reached or refuses.
    """
    if settings.dbt_target != "postgres":
        return {}
    found = {}
    with _postgres(settings) as cursor:
        for place, columns in _tables(cursor):
            condition, values = _condition(columns, person)
            cursor.execute(f"select count(*) from {place} where {condition}", values)
            if count := int(cursor.fetchone()[0]):
                found[place.replace('"', "")] = count
    return found


@contextmanager
def _postgres(settings: Settings) -> Iterator[Any]:
    import psycopg2

    from ingestion.targets.postgres import connection_parts

    parts = connection_parts(settings)
    parts.setdefault("connect_timeout", "10")
    try:
        with closing(psycopg2.connect(**parts)) as connection, connection.cursor() as cursor:
            yield cursor
    except psycopg2.Error as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        text = lines[0].replace(parts["password"], "***") if parts.get("password") else lines[0]
        raise MarqueeError(f"Postgres: {text}") from None


def _tables(cursor: Any) -> list[tuple[str, list[str]]]:
    cursor.execute(_COLUMNS, [[*PERSON_COLUMNS, SESSION_COLUMN]])
    return [(f'"{schema}"."{table}"', columns) for schema, table, columns in cursor.fetchall()]


def _condition(columns: list[str], person: Person) -> tuple[str, list[str]]:
    own = [name for name in columns if name in PERSON_COLUMNS]
    conditions = [f'"{name}"::text = %s' for name in own]
    values = [person.visitor_id] * len(own)
    if SESSION_COLUMN in columns:
        # Named after the visitor: id, @, and the moment at which it began.
        conditions.append("(starts_with(session_id::text, %s) and substr(session_id::text, %s) ~ '^[0-9]{4}-')")
        values += [f"{person.visitor_id}@", len(person.visitor_id) + 2]  # type: ignore[list-item]
    return " or ".join(conditions), values


def _has(cursor: Any, schema: str, table: str) -> bool:
    cursor.execute("select to_regclass(%s) is not null", [f"{schema}.{table}"])
    return bool(cursor.fetchone()[0])
