"""Events as files of any size: CSV, JSON lines and Parquet, written as they are read."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

if TYPE_CHECKING:  # each process would load it, and few export
    import pyarrow as pa

Format = Literal["json", "ndjson", "csv", "parquet"]
Chunks = Iterator["pa.RecordBatch"]


class Export(NamedTuple):
    """A form of export: its media type, and how chunks become bytes."""

    media_type: str
    write: Callable[[Chunks], Iterator[bytes]]


def as_json(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Events as JSON tells them: times as text, in UTC with a Z."""
    return [row | {"occurred_at": f"{row['occurred_at'].isoformat()}Z"} for row in rows]


def json_lines(chunks: Chunks) -> Iterator[bytes]:
    """One JSON object a line, without what is not known."""
    from ingestion.event_query import rows_of

    for chunk in chunks:
        for first in range(0, chunk.num_rows, 1_000):
            rows = as_json(rows_of(chunk.slice(first, 1_000)))
            yield "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()


def csv_lines(chunks: Chunks) -> Iterator[bytes]:
    """A line of column names, then a line for each event; what is not known is empty, an empty text is ``""``."""
    import pyarrow.compute as pc
    from pyarrow import csv

    for number, chunk in enumerate(chunks):
        place = chunk.schema.get_field_index("occurred_at")
        # Seconds have six decimals: what is behind the point is always there.
        moments = pc.strftime(chunk.column(place), format="%Y-%m-%dT%H:%M:%SZ")
        sink = io.BytesIO()
        csv.write_csv(
            chunk.set_column(place, "occurred_at", moments), sink, csv.WriteOptions(include_header=not number)
        )
        yield sink.getvalue()


def parquet_groups(chunks: Chunks) -> Iterator[bytes]:
    """A Parquet file, a row group for each chunk; times are in UTC."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = _Sink()
    writer: pq.ParquetWriter | None = None
    for chunk in chunks:
        place = chunk.schema.get_field_index("occurred_at")
        zoned = chunk.set_column(place, "occurred_at", chunk.column(place).cast(pa.timestamp("us", "UTC")))
        writer = writer or pq.ParquetWriter(pa.PythonFile(sink, "w"), zoned.schema, compression="zstd")
        writer.write_batch(zoned)
        yield sink.take()
    if writer:
        writer.close()
    yield sink.take()


EXPORTS: Final[dict[str, Export]] = {
    "ndjson": Export("application/x-ndjson", json_lines),
    "csv": Export("text/csv; charset=utf-8", csv_lines),
    "parquet": Export("application/vnd.apache.parquet", parquet_groups),
}
"""By the name that a query's ``format`` gives."""


def format_of(asked: Format | None, accept: str) -> Format | None:
    """The form of an answer: what ``format`` says, else the first of ``Accept`` that there is; None when none is."""
    if asked:
        return asked
    kinds = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    known: dict[str, Format] = {"application/json": "json", "application/*": "json", "*/*": "json", "": "json"}
    known |= {"application/x-ndjson": "ndjson", "application/vnd.apache.parquet": "parquet", "text/csv": "csv"}
    return next((known[kind] for kind in kinds if kind in known), None)


class _Sink(io.RawIOBase):
    """Keeps what is written until it is taken."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(self._parts[-1])

    def take(self) -> bytes:
        taken, self._parts = b"".join(self._parts), []
        return taken
