"""Parquet files without one person's rows."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marquee.person import PERSON_COLUMNS, SESSION_COLUMN, Person

if TYPE_CHECKING:
    import pyarrow as pa

RowMask = Callable[["pa.RecordBatch"], "pa.BooleanArray"]
"""Which rows of a batch must go."""


def rows_of(person: Person) -> RowMask:
    """Marks the rows that name the person as whose they are, and rows of sessions that were named after them."""

    def mask(rows: pa.RecordBatch) -> pa.BooleanArray:
        import pyarrow as pa
        import pyarrow.compute as pc

        found: Any = pa.array([False] * rows.num_rows, pa.bool_())
        for name in PERSON_COLUMNS:
            if name in rows.schema.names:
                theirs = pc.equal(rows.column(name).cast(pa.string()), person.visitor_id)
                found = pc.or_(found, pc.fill_null(theirs, False))
        if SESSION_COLUMN in rows.schema.names:
            sessions = rows.column(SESSION_COLUMN).cast(pa.string())
            close = pc.fill_null(pc.starts_with(sessions, f"{person.visitor_id}@"), False)
            if pc.any(close).as_py():
                found = pc.or_(
                    found, pa.array([person.is_session(one or "") for one in sessions.to_pylist()], pa.bool_())
                )
        return found

    return mask


def rewrite_parquet(path: Path, mask: RowMask) -> int:
    """Take the rows out that the mask marks; returns how many. The file is replaced in one step, or left as it is.

    Schema, order and compression stay; a checksum that Hadoop keeps beside the file goes.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        if not {*PERSON_COLUMNS, SESSION_COLUMN} & set(file.schema_arrow.names):
            return 0
        masks = [mask(rows) for rows in file.iter_batches(columns=_of_interest(file.schema_arrow))]
        gone = sum(int(pc.sum(one).as_py() or 0) for one in masks)
        if not gone:
            return 0
        marked = pa.chunked_array(masks, pa.bool_())
        written = path.with_name(f"_{path.name}.partial")
        start = 0
        with pq.ParquetWriter(written, file.schema_arrow, compression=_compression(file)) as writer:
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group)
                keep = pc.invert(marked.slice(start, rows.num_rows))
                writer.write_table(rows.filter(keep), row_group_size=max(1, rows.num_rows))
                start += rows.num_rows
    _replace(written, path)
    path.with_name(f".{path.name}.crc").unlink(missing_ok=True)
    return gone


def _of_interest(schema: pa.Schema) -> list[str]:
    return [name for name in (*PERSON_COLUMNS, SESSION_COLUMN, "occurred_at") if name in schema.names]


def _compression(file: Any) -> str:
    if not file.num_row_groups:
        return "zstd"
    return str(file.metadata.row_group(0).column(0).compression).lower().replace("uncompressed", "none")


def _replace(written: Path, path: Path) -> None:
    for step in (written, path):
        if step is path:
            written.replace(path)
        descriptor = os.open(path.parent if step is path else written, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
