"""Any number of events in order, in memory that does not grow with them.

To sort them all would take memory without bound, so they are first dealt out to files of some minutes each; then each
file is sorted on its own.
"""

# ruff: noqa: S608 – the condition is made of column names alone; every value is bound

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingestion.event_files import opened_log
from ingestion.event_query import SCHEMA, Wanted, one_batch, one_each, without_forgotten
from marquee.settings import Settings

MEMORY: Final = "80MB"
"""What DuckDB may hold of an export."""
CHUNK_ROWS: Final = 5_000
"""Events of a span."""
DEALT_ROWS: Final = 2_048
"""Events dealt out at once."""
PART_ROWS: Final = 200_000
"""Events whose ids are compared at once."""
_MINUTE: Final = 60_000_000
"""In microseconds."""


def read_chunks(settings: Settings, wanted: Wanted) -> Iterator[pa.RecordBatch]:
    """All such events by time and id, once each; at least one chunk, which may be empty.

    A chunk has about ``CHUNK_ROWS`` rows, more where one minute has more. An erasure that begins meanwhile
    holds for what has not been read yet.

    Raises:
        MarqueeError: the log cannot be read.
    """
    with opened_log(settings, MEMORY) as (connection, folder):
        bounds = _bounds(connection, wanted)
        _note_copies(connection, wanted)
        _deal_out(connection, wanted, folder, bounds)
        connection.close()  # with the memory that it holds
        is_bare = True
        for number in range(len(bounds)):
            if (file := _file(folder, number)).exists():
                chunk = without_forgotten(settings, _sorted(file))
                file.unlink()
                if chunk.num_rows:
                    is_bare = False
                    yield chunk
        if is_bare:
            yield one_batch(SCHEMA.empty_table())


def _bounds(connection: duckdb.DuckDBPyConnection, wanted: Wanted) -> np.ndarray:
    """First minutes of spans that hold ``CHUNK_ROWS`` events at most, unless one minute has more: [n_spans]."""
    condition, bound = wanted.condition()
    found = connection.execute(
        f"select epoch_us(occurred_at) // {_MINUTE} as minute, count(*)::bigint as events from log where {condition} "
        "group by 1 order by 1",
        bound,
    ).fetchnumpy()
    minutes, counts = np.asarray(found["minute"], np.int64), np.asarray(found["events"], np.int64)
    starts, total = [], CHUNK_ROWS
    for minute, count in zip(minutes, counts, strict=True):
        if total + count > CHUNK_ROWS:
            starts.append(minute)
            total = 0
        total += count
    return np.array(starts, np.int64)


def _note_copies(connection: duckdb.DuckDBPyConnection, wanted: Wanted) -> None:
    """Find the events of which copies differ in their time, some of the ids at a time."""
    condition, bound = wanted.condition()
    (count,) = connection.execute("select count(*) from log").fetchone()
    connection.execute("create temp table copies (event_id varchar, first_at timestamp)")
    parts = 1 + count // PART_ROWS
    for part in range(parts):
        ours = f"hash(event_id) % {parts} = {part}"
        chosen = "" if not bound else f"and event_id in (select event_id from log where {ours} and {condition})"
        connection.execute(
            f"insert into copies select event_id, min(occurred_at) from log where {ours} {chosen} "
            "group by 1 having min(occurred_at) < max(occurred_at)",
            bound,
        )


def _deal_out(connection: duckdb.DuckDBPyConnection, wanted: Wanted, folder: Path, bounds: np.ndarray) -> None:
    """Append each event to its span's file, copies that came later left out."""
    condition, bound = wanted.condition()
    copies = "copies.event_id = log.event_id and log.occurred_at > copies.first_at"
    rows = connection.sql(f"from log anti join copies on {copies} where {condition}", params=bound)
    for batch in rows.to_arrow_reader(DEALT_ROWS):
        minutes = np.asarray(batch.column("occurred_at").cast(pa.timestamp("us")).cast(pa.int64())) // _MINUTE
        spans = np.searchsorted(bounds, minutes, side="right") - 1
        ordered = one_batch(pa.Table.from_batches([batch])).take(pa.array(np.argsort(spans, kind="stable")))
        numbers, starts = np.unique(np.sort(spans), return_index=True)
        for number, start, stop in zip(numbers, starts, [*starts[1:], batch.num_rows], strict=True):
            # What came in since the spans were told apart lies in one of them, or before the first.
            with _file(folder, max(int(number), 0)).open("ab") as file, pa.ipc.new_stream(file, SCHEMA) as writer:
                writer.write_batch(ordered.slice(start, stop - start))


def _sorted(file: Path) -> pa.RecordBatch:
    """A span's events by time and id, once each."""
    parts = []
    with pa.OSFile(str(file)) as source:
        while source.tell() < source.size():
            parts.append(pa.ipc.open_stream(source).read_all())
    table = pa.concat_tables(parts)
    order = pc.sort_indices(table, [("occurred_at", "ascending"), ("event_id", "ascending")])
    return one_each(one_batch(table.take(order)))


def _file(folder: Path, number: int) -> Path:
    return folder / f"span-{number:06d}.arrows"
