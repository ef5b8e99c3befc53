"""Where a visitor is still to be found: every file under ``home`` read as what it is. Part of the composition root.

The search knows nothing of how rows are erased, so it can prove that they were. It reads DuckDB, SQLite and Parquet
by value, and anything else as text. A distinctive id is looked for among the bytes of databases too, where deleted
rows can outlive their deletion.
"""

# ruff: noqa: S608 – names are quoted and come from the databases themselves

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from marquee.errors import WarehouseBusy
from marquee.person import PERSON_COLUMNS, Person
from marquee.settings import Settings

BLOCK: Final = 1 << 20
COMPILED: Final = ("dbt", "target")
"""What dbt makes of the project's code: its unit tests' made-up visitors stand there, and no row of the warehouse."""
DUCKDB_AT: Final = 8
"""Where a DuckDB file has its ``DUCK``, behind a checksum."""


@dataclass(frozen=True, slots=True)
class Trace:
    """One place that names the visitor: the store, the place in it, and how many rows or mentions."""

    store: str
    place: str
    count: int


def find_visitor(settings: Settings, person: Person) -> list[Trace]:
    """Every trace of a visitor in this installation; empty when nothing names them.

    Raises:
        WarehouseBusy: another process writes to the warehouse, so it cannot be read.
    """
    files = sorted(path for path in settings.home.rglob("*") if path.is_file() and not path.is_symlink())
    is_alone = person.is_distinctive and not _is_part_of_another(settings, person)
    found: list[Trace] = []
    for path in files:
        name = path.relative_to(settings.home)
        if name.parts[:2] == COMPILED and name.name != "run_results.json":
            continue
        places = list(_look_into(path, person, is_alone))
        found += [Trace(name.as_posix(), place, count) for place, count in places if count]
    return [*found, *_elsewhere(settings, person)]


def _elsewhere(settings: Settings, person: Person) -> Iterator[Trace]:
    """Stores that are not files under ``home``, where the settings name one."""
    from features.erasure import count_online
    from ingestion.target_erasure import count_in_target

    if settings.online_store == "valkey" and (count := count_online(settings, person)):
        yield Trace("valkey", "keys", count)
    for place, count in count_in_target(settings, person).items():
        yield Trace(settings.dbt_target, place, count)


def _look_into(path: Path, person: Person, is_alone: bool) -> Iterator[tuple[str, int]]:
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except FileNotFoundError:  # a running tool's temporary file
        return
    if start.startswith(b"SQLite format 3\0"):
        yield from _in_sqlite(path, person)
    elif start.startswith(b"PAR1"):
        yield from _in_parquet(path, person)
    elif start[DUCKDB_AT : DUCKDB_AT + 4] == b"DUCK":
        yield from _in_duckdb(path, person)
    else:
        yield "text", sum(_count_in_blocks(path, person))
        return
    if is_alone:
        yield "bytes", sum(_bytes_in_blocks(path, person.encoded))


def _in_duckdb(path: Path, person: Person) -> Iterator[tuple[str, int]]:
    import duckdb

    try:
        connection = duckdb.connect(str(path), read_only=True)
    except duckdb.IOException as error:
        raise WarehouseBusy(f"{path} is in use by another process; wait for it to end, then search again") from error
    with connection:
        query = (
            "select table_schema, table_name, column_name from information_schema.columns join "
            "information_schema.tables using (table_schema, table_name) where table_type = 'BASE TABLE' "
            "and (data_type like '%VARCHAR%' or data_type in ('BLOB', 'JSON')) order by all"
        )
        for schema, table, column in connection.execute(query).fetchall():
            query = (
                f'select "{column}"::varchar, count(*) from "{schema}"."{table}" where contains("{column}"::varchar, ?)'
            )
            rows = connection.execute(f"{query} group by 1", [person.visitor_id]).fetchall()
            yield f"{schema}.{table}.{column}", sum(count for value, count in rows if _names(person, column, value))


def _in_sqlite(path: Path, person: Person) -> Iterator[tuple[str, int]]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as connection:
        connection.text_factory = bytes
        tables = connection.execute("select name from sqlite_master where type = 'table'").fetchall()
        for (raw,) in tables:
            table = raw.decode()
            columns = [row[1].decode() for row in connection.execute(f'pragma table_info("{table}")')]
            counts = dict.fromkeys(columns, 0)
            for row in connection.execute(f'select * from "{table}"'):
                for column, value in zip(columns, row, strict=True):
                    counts[column] += isinstance(value, bytes) and _names(person, column, value)
            yield from ((f"{table}.{column}", count) for column, count in counts.items())


def _names(person: Person, column: str, value: str | bytes) -> bool:
    raw = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    if column == "entity_key":
        # Feast's key ends with the length and the text of the id.
        return raw.endswith(len(person.encoded).to_bytes(4, "little") + person.encoded)
    if column in (*PERSON_COLUMNS, "entity"):
        return raw == person.encoded
    # In another column, 1 is a product too: only what can hardly be anything else counts there.
    return person.is_session(raw.decode("utf-8", "replace")) or (person.is_distinctive and person.count(raw) > 0)


def _in_parquet(path: Path, person: Person) -> Iterator[tuple[str, int]]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        texts = [f.name for f in file.schema_arrow if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
        counts = dict.fromkeys(texts, 0)
        for batch in file.iter_batches(columns=texts):
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                close = column.filter(pc.match_substring(column, person.visitor_id))
                counts[name] += sum(_names(person, name, value) for value in close.to_pylist())
    yield from counts.items()


def _count_in_blocks(path: Path, person: Person) -> Iterator[int]:
    """Mentions in a text of any size; blocks end at line ends, so that no mention is cut in two."""
    with path.open("rb") as file:
        rest = b""
        while block := file.read(BLOCK):
            text = rest + block
            cut = text.rfind(b"\n") + 1
            if not cut and len(text) < 16 * BLOCK:
                rest = text
                continue
            cut = cut or len(text)
            yield person.count(text[:cut])
            rest = text[cut:]
        yield person.count(rest)


def _bytes_in_blocks(path: Path, wanted: bytes) -> Iterator[int]:
    with path.open("rb") as file:
        rest = b""
        while block := file.read(BLOCK):
            text = rest + block
            yield text.count(wanted)
            rest = text[len(text) - len(wanted) + 1 :] if len(wanted) > 1 else b""


def _is_part_of_another(settings: Settings, person: Person) -> bool:
    """Whether a known visitor's id contains this one, so that its bytes prove nothing."""
    import duckdb

    if not settings.warehouse.exists():
        return False
    query = "select count(*) from raw.events where visitor_id <> $id and contains(visitor_id, $id)"
    try:
        with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
            return bool(connection.execute(query, {"id": person.visitor_id}).fetchone()[0])
    except duckdb.CatalogException:
        return False
    except duckdb.IOException as error:
        raise WarehouseBusy(f"{settings.warehouse} is in use by another process; search again later") from error
