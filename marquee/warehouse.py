"""Opening the warehouse, the DuckDB file under ``settings.home``: one process that writes, or many that read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from marquee.errors import MarqueeError, NothingToDo, WarehouseBusy
from marquee.settings import Settings

if TYPE_CHECKING:
    import duckdb

MEMORY_LIMIT: Final = "4GB"
"""What DuckDB may hold in memory; beyond it, it spills beside the warehouse file, under ``settings.home``."""
_HELD: Final = re.compile(r"lock is held in (\S+) \(PID (\d+)\)")


@contextmanager
def open_warehouse(settings: Settings, read_only: bool = True) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with its clock on UTC, closed with the block.

    Raises:
        WarehouseBusy: another process holds the file.
        MarqueeError: it is no warehouse.
        NothingToDo: there is nothing to read yet.
    """
    import duckdb

    if read_only and not settings.warehouse.exists():
        raise NothingToDo(f"there is no warehouse at {settings.warehouse} yet; ingest a source first")
    settings.home.mkdir(parents=True, exist_ok=True)
    try:
        connection = duckdb.connect(str(settings.warehouse), read_only=read_only)
    except (duckdb.IOException, duckdb.ConnectionException) as error:
        if holder := lock_holder(error):
            raise WarehouseBusy(f"{settings.warehouse} {_busy(holder)}") from error
        raise MarqueeError(f"{settings.warehouse} cannot be opened: {error}") from error
    try:
        connection.execute(f"set timezone = 'UTC'; set memory_limit = '{MEMORY_LIMIT}'")
        yield connection
    finally:
        connection.close()


def lock_holder(error: BaseException) -> str | None:
    """Which process holds the warehouse, when this error of DuckDB's says so: ``process 12 (python)``."""
    held = _HELD.search(str(error))
    return f"process {held[2]} ({held[1]})" if held else None


def _busy(holder: str) -> str:
    return (
        f"is in use by {holder}, perhaps a load, a dbt run or an open DuckDB shell; "
        "wait for it to end or close it, then try again"
    )
