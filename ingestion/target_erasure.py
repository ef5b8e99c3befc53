"""Taking a person out of the targets beside DuckDB that dbt has built on: Postgres, and the files of Spark."""

# ruff: noqa: S608 – names are quoted and come from the catalogue; every value is bound

from __future__ import annotations

from collections import Counter
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
_TEXTS: Final = """
select table_schema, table_name, column_name
from information_schema.columns join information_schema.tables using (table_schema, table_name)
where table_type = 'BASE TABLE' and table_schema not in ('pg_catalog', 'information_schema')
    and data_type in ('text', 'character varying') and not column_name = any(%s)
order by 1, 2, 3
"""


def erase_from_target(settings: Settings, person: Person) -> dict[str, int]:
    """Delete a person's rows from every target that there is, used now or not; rows and texts by table.

    Postgres: every table that tells people apart is written anew, so that dead rows leave the disk, those too whose
    deletion a killed run got done; its write-ahead log and its backups are the database administrator's. Spark: the
    Parquet files below ``home/spark`` are rewritten.

    Raises:
        MarqueeError: Postgres cannot be reached or refuses.
    """
    counts = {"files": erase_from_files(settings.home / "spark", person)}
    if _has_postgres(settings):
        with _postgres(settings) as cursor:
            counts |= _erase_from_postgres(cursor, person)
    return {place: count for place, count in counts.items() if count}


def _erase_from_postgres(cursor: Any, person: Person) -> dict[str, int]:
    counts: Counter[str] = Counter()
    tables = _tables(cursor)
    for place, columns in tables:
        condition, values = _condition(columns, person)
        cursor.execute(f"delete from {place} where {condition}", values)
        counts[place.replace('"', "")] += int(cursor.rowcount)
    for place, column, before in _mentions(cursor, person):
        after = person.blank(before.encode()).decode()
        cursor.execute(f"update {place} set {column} = %s where {column} = %s", [after, before])
        counts[place.replace('"', "")] += int(cursor.rowcount)
    if _has(cursor, "raw", "batch_rows"):
        # The next push compares these counts with the dock's, and sends a batch again where they differ.
        cursor.execute(
            "update raw.batch_rows set row_count = (select count(*) from raw.events "
            "where events.batch_id = batch_rows.batch_id) where table_name = 'events'"
        )
    cursor.connection.commit()
    cursor.connection.autocommit = True
    for place in sorted({place for place, _ in (*tables, *(_texts(cursor) if person.is_distinctive else ()))}):
        cursor.execute(f"vacuum (full) {place}")
    return counts


def count_in_target(settings: Settings, person: Person) -> dict[str, int]:
    """A person's rows and mentions by table of Postgres, where it has an address; files are searched where they lie.

    Raises:
        MarqueeError: Postgres cannot be reached or refuses.
    """
    if not _has_postgres(settings):
        return {}
    found: Counter[str] = Counter()
    with _postgres(settings) as cursor:
        for place, columns in _tables(cursor):
            condition, values = _condition(columns, person)
            cursor.execute(f"select count(*) from {place} where {condition}", values)
            found[place.replace('"', "")] += int(cursor.fetchone()[0])
        for place, column, value in _mentions(cursor, person):
            cursor.execute(f"select count(*) from {place} where {column} = %s", [value])
            found[place.replace('"', "")] += int(cursor.fetchone()[0])
    return dict(+found)


def _has_postgres(settings: Settings) -> bool:
    # A target that is set but has no address is an error that ``connection_parts`` words.
    return settings.postgres_url is not None or settings.dbt_target == "postgres"


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
        raise MarqueeError(
            f"Postgres: {text}; have it answer, or take postgres_url out of the settings if nothing of this "
            "installation is there"
        ) from None


def _tables(cursor: Any) -> list[tuple[str, list[str]]]:
    cursor.execute(_COLUMNS, [[*PERSON_COLUMNS, SESSION_COLUMN]])
    return [(f'"{schema}"."{table}"', columns) for schema, table, columns in cursor.fetchall()]


def _condition(columns: list[str], person: Person) -> tuple[str, list[Any]]:
    own = [name for name in columns if name in PERSON_COLUMNS]
    conditions = [f'"{name}"::text = any(%s)' for name in own]
    values: list[Any] = [person.ids(name) for name in own]
    if SESSION_COLUMN in columns:
        # Named after the visitor: id, @, and the moment at which it began.
        conditions.append("(starts_with(session_id::text, %s) and substr(session_id::text, %s) ~ '^[0-9]{4}-')")
        values += [f"{person.visitor_id}@", len(person.visitor_id) + 2]
    return " or ".join(conditions), values


def _texts(cursor: Any) -> list[tuple[str, str]]:
    cursor.execute(_TEXTS, [[*PERSON_COLUMNS, SESSION_COLUMN]])
    return [(f'"{schema}"."{table}"', f'"{column}"') for schema, table, column in cursor.fetchall()]


def _mentions(cursor: Any, person: Person) -> list[tuple[str, str, str]]:
    """Texts that name the person: table, column and text."""
    found = []
    for place, column in _texts(cursor) if person.is_distinctive else []:
        cursor.execute(f"select distinct {column} from {place} where strpos({column}, %s) > 0", [person.visitor_id])
        texts = [value for (value,) in cursor.fetchall()]
        found += [(place, column, value) for value in texts if person.count(value.encode())]
    return found


def _has(cursor: Any, schema: str, table: str) -> bool:
    cursor.execute("select to_regclass(%s) is not null", [f"{schema}.{table}"])
    return bool(cursor.fetchone()[0])
