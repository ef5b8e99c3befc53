"""The event log's files as one view of a DuckDB in memory, whatever lies in batches, in streams and in Valkey now."""

# ruff: noqa: S608 – column names come from the contract, paths are quoted; every value is bound

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import duckdb

from ingestion.deleted_events import deleted_ids
from ingestion.event_log import staging_folder
from marquee import contract
from marquee.errors import MarqueeError
from marquee.settings import Settings

MEMORY: Final = "192MB"
"""What DuckDB may hold of a page."""
LONGEST_LINE: Final = 1 << 20
"""Of a stream, in bytes, where ``body_limit`` lets none in that is longer."""


class OpenLog(NamedTuple):
    """A connection with the view ``log``, and an empty folder that goes with it."""

    connection: duckdb.DuckDBPyConnection
    folder: Path


@contextmanager
def opened_log(settings: Settings, memory: str = MEMORY) -> Iterator[OpenLog]:
    """The log as it is now: every valid event that was not deleted, once for each of its copies.

    ``memory`` is what DuckDB may hold.

    Raises:
        MarqueeError: it cannot be read, now or within the block.
    """
    with staging_folder(settings.log) as folder:
        try:
            # First what waits elsewhere: what comes into the files meanwhile is there twice, and not missed.
            waiting = _waiting(settings, folder)
            with duckdb.connect(":memory:") as connection:
                connection.execute(
                    f"set timezone = 'UTC'; set enable_progress_bar = false; set memory_limit = '{memory}'; "
                    f"set temp_directory = '{_quoted(folder / 'spilled')}'; set threads = 1; "
                    "set preserve_insertion_order = false; set allocator_flush_threshold = '4MB'; "
                    "set allocator_bulk_deallocation_flush_threshold = '4MB'"
                )
                connection.execute(
                    "create temp table deleted as select unnest($ids::varchar[]) as event_id",
                    {"ids": sorted(deleted_ids(settings.log))},
                )
                connection.execute(f"create temp view log as {_view(settings, waiting)}")
                yield OpenLog(connection, folder)
        except duckdb.Error as error:
            raise MarqueeError(f"{settings.log} cannot be read: {str(error).splitlines()[0]}") from error


def _view(settings: Settings, waiting: list[Path]) -> str:
    nothing = ", ".join(f"null::{contract.SQL_TYPES[c.type]} as {c.name}" for c in contract.EVENTS.columns)
    parts = [f"(select {nothing} where false)"]
    if batches := sorted((settings.log / "batches").glob(f"*/{contract.EVENTS.name}-*.parquet")):
        parts.append(f"(from read_parquet({_listed(batches)}, union_by_name = true))")
    if streams := [*sorted((settings.log / "stream").glob("*.jsonl")), *waiting]:
        parts.append(f"({_streamed(streams, max(LONGEST_LINE, 2 * settings.body_limit))})")
    kinds = ", ".join(f"'{kind}'" for kind in contract.EVENT_KINDS)
    return f"from ({' union all by name '.join(parts)}) anti join deleted using (event_id) where kind in ({kinds})"


def _streamed(files: list[Path], longest: int) -> str:
    """What of the streams' lines is an event; the load says what is wrong with the others."""
    kinds = {c.name: contract.SQL_TYPES[c.type] for c in contract.EVENTS.columns} | {"occurred_at": "varchar"}
    typed = ", ".join(f"{name}: '{kind}'" for name, kind in kinds.items())
    return (
        # By way of a zone: a time may come with one.
        "select * replace (try_cast(occurred_at as timestamptz)::timestamp as occurred_at) "
        f"from read_json({_listed(files)}, format = 'newline_delimited', ignore_errors = true, "
        f"maximum_object_size = {longest}, columns = {{{typed}}}) "
        "where event_id is not null and visitor_id is not null and try_cast(occurred_at as timestamptz) is not null"
    )


def _waiting(settings: Settings, folder: Path) -> list[Path]:
    """A file of the lines that still stand in Valkey."""
    if settings.event_log != "valkey":
        return []
    from ingestion.valkey_drain import waiting_lines

    path = folder / "waiting.jsonl"
    with path.open("wb") as file:
        file.writelines(waiting_lines(settings))
    return [path]


def _listed(files: list[Path]) -> str:
    return "[" + ", ".join(f"'{_quoted(file)}'" for file in files) + "]"


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
