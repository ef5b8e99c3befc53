"""CSV read in columns: a block of plain lines at once instead of row by row, with the same records, much faster.

A source may offer a *column mapping* beside its row mapping. The row mapping is the truth: a block that holds
anything unusual, or a single row that would be rejected, raises ``Doubt`` and is read row by row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from ingestion.batch import ID_BYTES, Batch, arrow_schema
from ingestion.mapping import YEARS, Record, batches
from ingestion.rows import EPOCH, LINE_LIMIT, CsvBlock
from marquee import contract

Columns = Mapping[str, pa.Array]
Item = TypeVar("Item")

_UNUSUAL: Final = (b'"', *(bytes([code]) for code in (0, 9, 11, 12, 13, 28, 29, 30, 31)))
"""What the rows' reader treats apart: the quote, the NUL, and what ``str.strip`` takes for space."""
_MILLIS: Final = tuple((datetime(year, 1, 1) - EPOCH).total_seconds() * 1000 for year in (YEARS.start, YEARS.stop))


class Doubt(Exception):
    """These lines must be judged one by one."""


def csv_batches(
    table: contract.Table,
    blocks: Iterable[CsvBlock],
    names: Sequence[str],
    make: Callable[[dict[str, Any]], Record],
    make_columns: Callable[[Columns], dict[str, pa.Array]],
) -> Iterator[Batch]:
    """Each block's records: of its columns ``names`` together by ``make_columns``, else row by row by ``make``.

    ``make_columns`` gives what ``make`` would give for each row, or raises ``Doubt``.
    """
    for block, columns in _ahead((block, _plain_columns(block, names)) for block in blocks):
        try:
            if columns is None:
                raise Doubt
            made = [Batch(table.name, _records(table, make_columns(columns)))]
        except Doubt:
            yield from batches(table, block.rows(), make)
        else:
            yield from made


def _ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The items, each made in a thread while the one before is used: unpacking and parsing leave Python free."""
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = reader.submit(next, items, None)
            yield item


def _plain_columns(block: CsvBlock, names: Sequence[str]) -> dict[str, pa.Array] | None:
    try:
        return read_columns(block, names)
    except Doubt:
        return None


def read_columns(block: CsvBlock, names: Sequence[str]) -> dict[str, pa.Array]:
    """A block's fields as strings without space around them; ``Doubt`` when a line has a peculiarity of any kind."""
    if not _is_plain(block.data, block.delimiter.encode()):
        raise Doubt
    places = {name: str(block.header.index(name)) for name in names}
    header = [str(place) for place in range(len(block.header))]
    try:
        found = csv.read_csv(
            pa.BufferReader(block.data),
            csv.ReadOptions(use_threads=False, block_size=len(block.data), column_names=header),
            csv.ParseOptions(delimiter=block.delimiter, quote_char=False),
            csv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()),
                include_columns=list(places.values()),
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid:  # such as a line with another number of fields
        raise Doubt from None
    if not len(found):
        raise Doubt
    return {name: found[place].combine_chunks() for name, place in places.items()}


def key(columns: Columns, name: str) -> pa.Array:
    """Identifiers; none is empty, none too long."""
    lengths = pc.min_max(pc.binary_length(columns[name])).as_py()
    if not 0 < lengths["min"] <= lengths["max"] <= contract.LONGEST_ID:
        raise Doubt
    return columns[name]


def optional(columns: Columns, name: str) -> pa.Array:
    """Texts; empty ones are null."""
    return pc.if_else(pc.equal(columns[name], ""), pa.scalar(None, pa.string()), columns[name])


def choice(columns: Columns, name: str, names: Mapping[str, str], default: str) -> pa.Array:
    """The name of each code, ``default`` for those without."""
    found = pc.take(pa.array(names.values()), pc.index_in(columns[name], pa.array(names.keys())))
    return pc.fill_null(found, default)


def milliseconds(columns: Columns, name: str) -> pa.Array:
    """Milliseconds since 1970, between 1990 and 2100, as naive UTC."""
    try:
        millis = pc.cast(columns[name], pa.int64())
    except pa.ArrowInvalid:
        raise Doubt from None
    # Arrow also takes what the row mapping does not, such as hexadecimal digits.
    is_same = pc.all(pc.equal(pc.cast(millis, pa.string()), columns[name])).as_py()
    bounds = pc.min_max(millis).as_py()
    if not is_same or bounds["min"] < _MILLIS[0] or bounds["max"] >= _MILLIS[1]:
        raise Doubt
    return pc.multiply(millis, 1000).cast(pa.timestamp("us"))


def constant(columns: Columns, value: str) -> pa.Array:
    """The same value in each row."""
    return pa.repeat(value, len(next(iter(columns.values()))))


def event_ids(source: str, *parts: pa.Array) -> pa.Array:
    """``batch.event_id`` of each row."""
    texts = pc.binary_join_element_wise(*parts, "\x1f").cast(pa.binary()).to_pylist()
    digests = b"".join([hashlib.blake2b(text, digest_size=ID_BYTES).digest() for text in texts])
    prefix = f"{source}-".encode()
    width = len(prefix) + 2 * ID_BYTES
    ids = np.empty((len(texts), width), np.uint8)
    ids[:, : len(prefix)] = np.frombuffer(prefix, np.uint8)
    ids[:, len(prefix) :] = np.frombuffer(digests.hex().encode(), np.uint8).reshape(len(texts), -1)
    offsets = np.arange(0, width * len(texts) + 1, width, dtype=np.int32)
    return pa.StringArray.from_buffers(len(texts), pa.py_buffer(offsets), pa.py_buffer(ids))


def _is_plain(data: bytes, delimiter: bytes) -> bool:
    """Whether no line needs a second look: ASCII, no quote, no control character, no space around a field."""
    if len(data) > LINE_LIMIT or not data.isascii() or any(byte in data for byte in _UNUSUAL):
        return False
    if b" " not in data:
        return True
    padded = (b" " + delimiter, delimiter + b" ", b" \n", b"\n ")
    return not (data.startswith(b" ") or data.endswith(b" ") or any(pair in data for pair in padded))


def _records(table: contract.Table, made: Mapping[str, pa.Array]) -> pa.Table:
    schema = arrow_schema(table)
    rows = len(next(iter(made.values())))
    columns = [made[field.name] if field.name in made else pa.nulls(rows, field.type) for field in schema]
    if any(column.null_count for column, field in zip(columns, schema, strict=True) if not field.nullable):
        raise Doubt
    return pa.Table.from_arrays(columns, schema=schema)
