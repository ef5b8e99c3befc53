"""Where a visitor is still to be found: every file under ``home`` read as what it is. Part of the composition root.

The search knows nothing of how rows are erased, so it can prove that they were. It reads DuckDB, SQLite and Parquet
by value, and anything else as text. A distinctive id is looked for among the bytes of databases too, where deleted
rows can outlive their deletion; longer ids that hold this one are told apart by what the values have shown of them.
"""

# ruff: noqa: S608 – names are quoted and come from the databases themselves

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from marquee.erasure_requests import PENDING
from marquee.errors import MarqueeError, WarehouseBusy
from marquee.person import PERSON_COLUMNS, Person
from marquee.settings import Settings
from marquee.warehouse import lock_holder

BLOCK: Final = 1 << 20
COMPILED: Final = ("dbt", "target")
"""What dbt makes of the project's code: its unit tests' made-up visitors stand there, and no row of the warehouse."""
DUCKDB_AT: Final = 8
"""Where a DuckDB file has its ``DUCK``, behind a checksum."""
JOURNALS: Final = ("-wal", "-journal", ".wal")
"""Ends of the files in which SQLite and DuckDB note what they have not yet written, or may have to take back."""
STATE: Final = ("log", "warehouse.duckdb", "registry.sqlite", "features", "quarantine", "spark", "erasures.jsonl")
MOST_WORDS: Final = 5_000
"""With more longer ids than these, bytes prove nothing."""


@dataclass(frozen=True, slots=True)
class Trace:
    """One place that names the visitor: the store, the place in it, and how many rows or mentions."""

    store: str
    place: str
    count: int


def require_installation(settings: Settings) -> None:
    """Raise a ``MarqueeError`` when nothing of an installation is at ``home``: to find nothing there proves nothing."""
    if not any((settings.home / name).exists() for name in STATE):
        raise MarqueeError(
            f"there is no installation at {settings.home}; check --home or MARQUEE_HOME, "
            "or run `marquee ingest` first to begin one"
        )


def find_visitor(settings: Settings, person: Person) -> list[Trace]:
    """Every trace of a visitor in this installation; empty when nothing names them.

    Raises:
        WarehouseBusy: another process writes to the warehouse, so it cannot be read.
        MarqueeError: there is no installation, or a store that the settings name cannot be reached.
    """
    require_installation(settings)
    search = _Search(person)
    files = sorted(path for path in settings.home.rglob("*") if path.is_file() and not path.is_symlink())
    names = {path: path.relative_to(settings.home) for path in files}
    searched = [
        path
        for path, name in names.items()
        if name.parts[0] != PENDING and (name.parts[:2] != COMPILED or name.name == "run_results.json")
    ]
    found = [(path, place, count) for path in searched for place, count in _present(search.look_into(path))]
    # Only now are all longer ids known.
    found += [(path, "bytes", count) for path in search.binaries for count in [search.count_bytes(path)]]
    traces = [Trace(names[path].as_posix(), place, count) for path, place, count in sorted(found) if count]
    return [*traces, *_elsewhere(settings, person)]


def _present(places: Iterator[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    """The places of a file, as long as it is there: tools remove their temporary files meanwhile."""
    try:
        yield from places
    except FileNotFoundError:
        return


def _elsewhere(settings: Settings, person: Person) -> Iterator[Trace]:
    """Stores that are not files under ``home``, where the settings have an address."""
    from features.erasure import count_online
    from ingestion.target_erasure import count_in_target
    from ingestion.valkey_drain import count_in_valkey
    from serving.erasure import count_counters

    if count := count_online(settings, person):
        yield Trace("valkey", "keys", count)
    if count := count_counters(settings, person):
        yield Trace("valkey", "showings", count)
    if count := count_in_valkey(settings, person):
        yield Trace("valkey", "event log", count)
    for place, count in count_in_target(settings, person).items():
        yield Trace("postgres", place, count)


class _Search:
    """The search for one person: what it knows of longer ids, and which files hold more than their values show."""

    def __init__(self, person: Person) -> None:
        self._person = person
        self._words: set[bytes] = set()
        self.binaries: list[Path] = []

    def look_into(self, path: Path) -> Iterator[tuple[str, int]]:
        """Places in a file, each with how often it names the person; zeros among them."""
        with path.open("rb") as file:
            start = file.read(16)
        try:
            if path.name.endswith(JOURNALS):
                yield "text", self._count_text(path)
            elif start.startswith(b"SQLite format 3\0"):
                yield from self._in_sqlite(path)
            elif start.startswith(b"PAR1"):
                yield from self._in_parquet(path)
            elif start[DUCKDB_AT : DUCKDB_AT + 4] == b"DUCK":
                yield from self._in_duckdb(path)
            else:
                yield "text", self._count_text(path)
                return
        except _Unreadable:
            yield "text of an unreadable file", self._count_text(path)
        if self._person.is_distinctive:
            self.binaries.append(path)

    def count_bytes(self, path: Path) -> int:
        """How often the id stands among the bytes of a file, where it is no part of a longer one; 0 if it is gone."""
        if len(self._words) > MOST_WORDS:
            return 0
        own = self._person.encoded
        words = sorted(self._words, key=len, reverse=True)
        pattern = re.compile(b"|".join(map(re.escape, [*words, own])))
        longest = max(map(len, [*words, own]))
        try:
            return _count_alone(path, pattern, own, longest)
        except FileNotFoundError:
            return 0

    def _names(self, column: str, value: str | bytes) -> bool:
        raw = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        person = self._person
        if column in PERSON_COLUMNS and raw in [one.encode("utf-8", "surrogatepass") for one in person.ids(column)]:
            return True
        if person.encoded not in raw:
            return False
        if column == "entity_key":
            # Feast's key ends with the length and the text of the id.
            head, _, text = raw.rpartition(person.encoded)
            self._words |= person.longer_words(raw)
            return not text and head.endswith(len(person.encoded).to_bytes(4, "little"))
        if column in (*PERSON_COLUMNS, "entity"):
            self._words |= {raw} - {person.encoded}
            return raw == person.encoded
        self._words |= person.longer_words(raw)
        # In another column, 1 is a product too: only what can hardly be anything else counts there.
        return person.is_session(raw.decode("utf-8", "replace")) or (person.is_distinctive and person.count(raw) > 0)

    def _count_text(self, path: Path) -> int:
        count = 0
        for text in _lines(path):
            count += self._person.count(text)
            self._words |= self._person.longer_words(text)
        return count

    def _in_duckdb(self, path: Path) -> Iterator[tuple[str, int]]:
        import duckdb

        try:
            with duckdb.connect(str(path), read_only=True) as connection:
                for schema, table, column in connection.execute(_TEXTS).fetchall():
                    ids = self._person.ids(column) if column in PERSON_COLUMNS else []
                    text = f'"{column}"::varchar'
                    rows = connection.execute(
                        f'select {text}, count(*) from "{schema}"."{table}" where contains({text}, ?) '
                        f"or {text} in (select unnest(?::varchar[])) group by 1",
                        [self._person.visitor_id, ids],
                    ).fetchall()
                    count = sum(count for value, count in rows if self._names(column, value))
                    yield f"{schema}.{table}.{column}", count
        except duckdb.Error as error:
            if holder := lock_holder(error):
                raise WarehouseBusy(f"{path} is in use by {holder}; wait for it to end, then search again") from error
            raise _Unreadable from error

    def _in_sqlite(self, path: Path) -> Iterator[tuple[str, int]]:
        try:
            yield from self._in_open_sqlite(path)
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise MarqueeError(f"{path}: {error}; wait for whoever uses it, then search again") from error
            raise _Unreadable from error

    def _in_open_sqlite(self, path: Path) -> Iterator[tuple[str, int]]:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as connection:
            connection.text_factory = bytes
            tables = connection.execute("select name from sqlite_master where type = 'table'").fetchall()
            for (raw,) in tables:
                table = raw.decode()
                columns = [row[1].decode() for row in connection.execute(f'pragma table_info("{table}")')]
                counts = dict.fromkeys(columns, 0)
                for row in connection.execute(f'select * from "{table}"'):
                    for column, value in zip(columns, row, strict=True):
                        counts[column] += isinstance(value, bytes) and self._names(column, value)
                yield from ((f"{table}.{column}", count) for column, count in counts.items())

    def _in_parquet(self, path: Path) -> Iterator[tuple[str, int]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(path) as file:
                kinds = (pa.types.is_string, pa.types.is_large_string)
                texts = [f.name for f in file.schema_arrow if any(is_kind(f.type) for is_kind in kinds)]
                counts = dict.fromkeys(texts, 0)
                for batch in file.iter_batches(columns=texts):
                    for name, column in zip(batch.schema.names, batch.columns, strict=True):
                        counts[name] += sum(self._names(name, value) for value in self._close(name, column))
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise _Unreadable from error
        yield from counts.items()

    def _close(self, name: str, column: Any) -> Iterable[str]:
        """Values that may name the person."""
        import pyarrow as pa
        import pyarrow.compute as pc

        found = pc.match_substring(column, self._person.visitor_id)
        if name in PERSON_COLUMNS and self._person.customers:
            found = pc.or_(found, pc.is_in(column, pa.array(self._person.ids(name), column.type)))
        values: list[str] = column.filter(found).to_pylist()
        return values


_TEXTS: Final = """
select table_schema, table_name, column_name
from information_schema.columns join information_schema.tables using (table_schema, table_name)
where table_type = 'BASE TABLE' and (data_type like '%VARCHAR%' or data_type in ('BLOB', 'JSON')) order by all
"""


class _Unreadable(Exception):
    """A file is not what its first bytes say."""


def _lines(path: Path) -> Iterator[bytes]:
    """A text of any size in blocks that end at line ends, so that no mention is cut in two."""
    with path.open("rb") as file:
        rest = b""
        while block := file.read(BLOCK):
            text = rest + block
            cut = text.rfind(b"\n") + 1
            if not cut and len(text) < 16 * BLOCK:
                rest = text
                continue
            cut = cut or len(text)
            yield text[:cut]
            rest = text[cut:]
        yield rest


def _count_alone(path: Path, pattern: re.Pattern[bytes], own: bytes, longest: int) -> int:
    """How many matches are the id itself, in a file of any size; blocks overlap, so that no word is cut in two."""
    count = 0
    with path.open("rb") as file:
        rest, is_last = b"", False
        while not is_last:
            block = file.read(BLOCK)
            text, is_last = rest + block, not block
            end = cut = len(text) if is_last else max(0, len(text) - longest)
            for found in pattern.finditer(text):
                if found.start() >= end:
                    break
                count += found[0] == own
                cut = max(cut, found.end())
            rest = text[cut:]
    return count
