"""What of the feature store is damaged, and how a person mends it: everything in it can be made again."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import duckdb

from features.definitions import OFFLINE_VIEWS
from features.export import offline_files
from marquee.errors import MarqueeError, TryAgain
from marquee.settings import Settings

ONLINE, EXPORTS = "online.db", "exports.db"
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_BUSY: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_REFUSED: Final = (
    *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY),
    *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM),
)


@contextmanager
def damage_named(settings: Settings) -> Iterator[None]:
    """Turn what DuckDB and SQLite say of the feature store's files into one line that names the file and the way out.

    Raises:
        MarqueeError: a file is damaged, or the system does not let it be written.
        TryAgain: another process has kept SQLite's file locked.
    """
    try:
        yield
    except duckdb.Error as error:
        if file := _damaged_parquet(settings):
            raise MarqueeError(
                f"{file} is damaged ({_line(error)}); delete it and {settings.features / EXPORTS}, then run "
                "`marquee materialize` again: it writes all of them anew from the warehouse"
            ) from error
        raise
    except sqlite3.Error as error:
        if advised := _sqlite_advice(settings, error):
            raise advised from error
        raise


def _sqlite_advice(settings: Settings, error: sqlite3.Error) -> MarqueeError | None:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _DAMAGED:
        file = next((path for path in _databases(settings) if _is_damaged(path)), settings.features / ONLINE)
        return MarqueeError(
            f"{file} is damaged ({error}); stop the service, delete {file.name} and what lies beside it as "
            f"{file.name}-*, then run `marquee materialize` again: it fills the online store anew"
        )
    if code in _BUSY:
        return TryAgain(f"a database in {settings.features} is in use ({error}); run the same command again")
    if code in _REFUSED:
        return MarqueeError(f"{settings.features} cannot be written ({error}); mend that, then run the command again")
    return None


def _damaged_parquet(settings: Settings) -> str | None:
    """The first offline file of which a column cannot be read. Looked for only once something has failed."""
    with duckdb.connect() as connection:
        for table in OFFLINE_VIEWS:
            for file in offline_files(settings, table):
                try:
                    connection.execute("select sum(hash(columns(*))) from read_parquet(?)", [file])
                except duckdb.Error:
                    return file
    return None


def _databases(settings: Settings) -> tuple[Path, ...]:
    return settings.features / EXPORTS, settings.features / ONLINE


def _is_damaged(path: Path) -> bool:
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return bool(connection.execute("pragma quick_check(1)").fetchone() != ("ok",))
    except sqlite3.Error as error:
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED


def _line(error: Exception) -> str:
    return str(error).splitlines()[0][:200].strip(" :")
