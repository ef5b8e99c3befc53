"""What is copied out of the warehouse for readers outside it: one Parquet file, replaced whole."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import pyarrow.parquet as pq

from marquee.errors import NothingToDo

CHECK_SECONDS: Final = 1.0
Content = TypeVar("Content")


def copy_out(warehouse: Any, query: str, target: Path, mart: str) -> int:
    """Copy what a query finds into a file, in one step for readers; the number of rows.

    Args:
        warehouse: an open connection.
        mart: what the query reads, for the message.

    Raises:
        NothingToDo: the mart has not been built.
    """
    import duckdb  # readers, the service among them, need no warehouse

    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}.partial")
    quoted = str(partial).replace("'", "''")
    try:
        warehouse.execute(f"copy ({query}) to '{quoted}' (format parquet)")
    except duckdb.CatalogException:
        raise NothingToDo(f"there is no mart {mart} yet: run transform_events") from None
    partial.replace(target)
    return int(pq.read_metadata(target).num_rows)


class ExportedFile(Generic[Content]):
    """What the file holds, read again when it has been replaced; ``empty`` while there is no file."""

    def __init__(self, file: Path, read: Callable[[Path], Content], empty: Content) -> None:
        self._file, self._read, self._content = file, read, empty
        self._checked_at = -CHECK_SECONDS
        self._read_of: tuple[int, int] | None = None

    def now(self) -> Content:
        """The content; the same object as before unless the file has been replaced.

        Raises:
            OSError, pyarrow.ArrowException: the file cannot be read; the last good one is kept for the next call.
        """
        if time.monotonic() - self._checked_at < CHECK_SECONDS:
            return self._content
        self._checked_at = time.monotonic()
        try:
            found = self._file.stat()
        except FileNotFoundError:
            return self._content
        version = (found.st_ino, found.st_mtime_ns)
        if version != self._read_of:
            self._read_of = version  # a file that cannot be read is told of once, not once a second
            self._content = self._read(self._file)
        return self._content
