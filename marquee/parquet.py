"""Parquet files without one person: their rows go, and where other rows name them there are stars instead."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from marquee.errors import MarqueeError
from marquee.person import PERSON_COLUMNS, SESSION_COLUMN, Person

if TYPE_CHECKING:
    import pyarrow as pa

RowMask = Callable[["pa.RecordBatch"], "pa.BooleanArray"]
"""Which rows of a batch must go."""


class Rewritten(NamedTuple):
    """What a file lost: rows that went, and texts of other rows that named the person."""

    rows: int
    texts: int


def rows_of(person: Person) -> RowMask:
    """Marks the rows that name the person as whose they are, and rows of sessions that were named after them."""

    def mask(rows: pa.RecordBatch) -> pa.BooleanArray:
        import pyarrow as pa
        import pyarrow.compute as pc

        found: Any = pa.array([False] * rows.num_rows, pa.bool_())
        for name in PERSON_COLUMNS:
            if name in rows.schema.names:
                theirs = pc.is_in(rows.column(name).cast(pa.string()), pa.array(person.ids(name), pa.string()))
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


def rewrite_parquet(path: Path, mask: RowMask, named: Person | None = None) -> Rewritten:
    """Take the rows out that the mask marks; a file of which nothing must go stays as it is, else it is replaced in
    one step.

    Schema, order and compression stay; a checksum that Hadoop keeps beside the file goes. A person who is ``named`` and
    whose id can hardly mean anything else is starred out of the texts of the rows that stay.

    Raises:
        MarqueeError: the file cannot be read.
    """
    import pyarrow.compute as pc

    with _opened(path) as file:
        schema = file.schema_arrow
        texts = [(name, named) for name in text_columns(schema)] if named and named.is_distinctive else []
        columns = [name for name in (*PERSON_COLUMNS, SESSION_COLUMN, "occurred_at") if name in schema.names]
        if not (texts or {*PERSON_COLUMNS, SESSION_COLUMN} & set(columns)):
            return Rewritten(0, 0)
        masks, changed = [], 0
        for rows in file.iter_batches(columns=list(dict.fromkeys([*columns, *(name for name, _ in texts)]))):
            masks.append(mask(rows))
            kept = rows.filter(pc.invert(masks[-1]))
            changed += sum(_count(_mentions(kept.column(name), person)) for name, person in texts)
        done = Rewritten(sum(_count(one) for one in masks), changed)
        if not any(done):
            return done
        written = path.with_name(f"_{path.name}.partial")
        _write_rest(file, written, masks, texts)
    _replace(written, path)
    path.with_name(f".{path.name}.crc").unlink(missing_ok=True)
    return done


def text_columns(schema: pa.Schema) -> list[str]:
    """Columns of text that may mention anybody."""
    import pyarrow as pa

    found = [field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]
    return [name for name in found if name not in PERSON_COLUMNS]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        line = str(error).partition("\n")[0][:200]
        raise MarqueeError(
            f"{path} is not a sound Parquet file, so nobody can tell whom it names ({line}); restore it, or "
            "delete it if it can be made again, then run the same command again"
        ) from error


def _count(mask: pa.BooleanArray) -> int:
    import pyarrow.compute as pc

    return int(pc.sum(mask).as_py() or 0)


def _mentions(column: Any, person: Person) -> Any:
    """Which values of a column name the person."""
    import pyarrow as pa
    import pyarrow.compute as pc

    close = pc.fill_null(pc.match_substring(column, person.visitor_id), False)
    if not pc.any(close).as_py():
        return close
    values = zip(close.to_pylist(), column.to_pylist(), strict=True)
    return pa.array([is_close and person.count(value.encode()) > 0 for is_close, value in values], pa.bool_())


def _write_rest(file: Any, written: Path, masks: list[pa.BooleanArray], texts: list[tuple[str, Person]]) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    marked = pa.chunked_array(masks, pa.bool_())
    start = 0
    with pq.ParquetWriter(written, file.schema_arrow, compression=_compression(file)) as writer:
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group)
            kept = rows.filter(pc.invert(marked.slice(start, rows.num_rows)))
            for name, person in texts:
                kept = _without_mentions(kept, name, person)
            writer.write_table(kept, row_group_size=max(1, rows.num_rows))
            start += rows.num_rows


def _without_mentions(rows: pa.Table, name: str, person: Person) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    column = rows.column(name).combine_chunks()
    mentions = _mentions(column, person)
    if not pc.any(mentions).as_py():
        return rows
    values = zip(mentions.to_pylist(), column.to_pylist(), strict=True)
    blanked = [person.blank(value.encode()).decode() if is_named else value for is_named, value in values]
    place = rows.schema.get_field_index(name)
    return rows.set_column(place, rows.schema.field(place), pa.array(blanked, column.type))


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
