"""SQLite files without one person: rows, mentions, and the copies of them that SQLite leaves behind."""

# ruff: noqa: S608 – names are quoted and come from the database itself; every value is bound

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from marquee.errors import MarqueeError
from marquee.person import Person

BUSY_SECONDS: Final = 30
_IN_USE: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def erase_from_sqlite(path: Path, person: Person, keys: Mapping[str, object], compact: bool = True) -> int:
    """Delete the rows of a person, star them out of other rows, and leave no copy in the file or beside it.

    Args:
        path: the database; nothing happens where there is none.
        person: who is forgotten.
        keys: column → value of the rows that are theirs, in whatever table has such a column.
        compact: write the file anew; not needed where every writer overwrites what it deletes.

    Returns:
        Rows deleted or changed.

    Raises:
        MarqueeError: the file is never free, is read all the time, or is no sound database.
    """
    if not path.exists():
        return 0
    with _opened(path) as connection:
        erased = 0
        for table, columns in _tables(connection):
            for column in keys.keys() & set(columns):
                query = f'delete from "{table}" where "{column}" = ?'
                erased += connection.execute(query, [keys[column]]).rowcount
            if person.is_distinctive:
                erased += sum(_blank(connection, table, column, person) for column in columns)
        if compact:
            # Rows that were replaced earlier left copies behind that no deletion reaches.
            connection.execute("vacuum")
        _empty_log(connection, path)
        return erased


def delete_from_sqlite(path: Path, keys: Mapping[str, object], seconds: float) -> int:
    """Delete the rows so keyed, in whatever table has such a column, and nothing else; returns how many.

    Raises:
        MarqueeError: the file is not free within so many seconds, or is no sound database.
    """
    if not path.exists():
        return 0
    with _opened(path, seconds) as connection:
        return sum(
            connection.execute(f'delete from "{table}" where "{column}" = ?', [keys[column]]).rowcount
            for table, columns in _tables(connection)
            for column in keys.keys() & set(columns)
        )


@contextmanager
def _opened(path: Path, seconds: float = BUSY_SECONDS) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(path, timeout=seconds, isolation_level=None)) as connection:
            connection.execute("pragma secure_delete = on").fetchall()
            yield connection
    except sqlite3.Error as error:
        is_busy = getattr(error, "sqlite_errorcode", 0) & 0xFF in _IN_USE
        advice = "run the same command again" if is_busy else "restore it, or delete it if it can be made again"
        raise MarqueeError(f"{path}: {error}; {advice}") from error


def _tables(connection: sqlite3.Connection) -> list[tuple[str, list[str]]]:
    names = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'").fetchall()]
    return [(name, [row[1] for row in connection.execute(f'pragma table_info("{name}")')]) for name in names]


def _blank(connection: sqlite3.Connection, table: str, column: str, person: Person) -> int:
    """Star the person out of a column's values, read and written as bytes so that nothing else of them changes."""
    value = f'cast("{column}" as blob)'
    query = (
        f'select distinct {value}, typeof("{column}") from "{table}" '
        f"where typeof(\"{column}\") in ('text', 'blob') and instr({value}, ?) > 0"
    )
    changed = 0
    for before, kind in connection.execute(query, [person.encoded]).fetchall():
        if (after := person.blank(before)) != before:
            update = f'update "{table}" set "{column}" = cast(? as {kind}) where {value} = ? and typeof("{column}") = ?'
            changed += connection.execute(update, [after, before, kind]).rowcount
    return changed


def _empty_log(connection: sqlite3.Connection, path: Path) -> None:
    """Empty the write-ahead log; whoever reads an older state of the database keeps it from that."""
    is_busy, *_ = connection.execute("pragma wal_checkpoint(truncate)").fetchone()
    if is_busy:
        raise MarqueeError(
            f"{path} is being read, so what was erased still stands in its write-ahead log; run the same command again"
        )
