"""A SQLite file that many threads of many processes use: one connection for whichever thread comes."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class SqliteFile:
    """One connection, taken by one thread at a time; a pool's threads come and go.

    Args:
        path: the database; it and its folder are made when there is none.
        error: what SQLite's errors become; made of one line that names the file.
        seconds: how long to wait for other processes.
        prepare: called with each new connection, for pragmas and tables.
        is_read_only: never write, and make no file.
    """

    def __init__(
        self,
        path: Path,
        error: type[Exception],
        seconds: float,
        prepare: Callable[[sqlite3.Connection], Any] | None = None,
        is_read_only: bool = False,
    ) -> None:
        self._path, self._error, self._seconds = path, error, seconds
        self._prepare, self._is_read_only = prepare, is_read_only
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    @contextmanager
    def taken(self) -> Iterator[sqlite3.Connection]:
        """The connection, opened if it is not; SQLite's errors as ours."""
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._open()
                yield self._connection
            except (sqlite3.Error, OSError) as error:
                raise self._error(f"{self._path}: {error}") from error

    def close(self) -> None:
        """Close it; the next use opens another."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        if not self._is_read_only:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        mode = "ro" if self._is_read_only else "rwc"
        connection = sqlite3.connect(
            f"{self._path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=self._seconds,
            isolation_level=None,  # autocommit, so that transactions are ours alone
            check_same_thread=False,
        )
        try:
            if self._prepare:
                self._prepare(connection)
        except sqlite3.Error:
            connection.close()
            raise
        return connection


@contextmanager
def transaction(connection: sqlite3.Connection, begin: str = "begin immediate") -> Iterator[None]:
    """Commit what the block does, or nothing of it."""
    connection.execute(begin)
    try:
        yield
        connection.execute("commit")
    except BaseException:
        connection.rollback()
        raise
