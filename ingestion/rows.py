"""Rows of CSV, JSON-lines and Parquet files, plain or gzipped, one at a time.

A file that cannot be read as a whole raises ``SourceError``; a row that cannot be read becomes ``Rejected``. One
physical line is one row, whatever it holds, so a stray quote costs its own line and never the lines below it.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ingestion.batch import BATCH_ROWS, Rejected
from ingestion.paths import cannot_read
from marquee.errors import SourceError

EPOCH: Final = datetime(1970, 1, 1)
LINE_LIMIT: Final = 16 << 20
"""Bytes of the longest line that is read; bounds memory when a file has no line ends."""
TEXT_LIMIT: Final = 200

_BOM: Final = b"\xef\xbb\xbf"
_GZIP: Final = b"\x1f\x8b"


class Row(NamedTuple):
    """One row: its file and line (from 1), its text, and its values by column."""

    file: str
    line: int
    text: str
    values: dict[str, Any]

    def reject(self, reason: str) -> Rejected:
        """This row as one that could not become a record."""
        text = self.text or json.dumps(self.values, default=str, ensure_ascii=False)
        return Rejected(self.file, self.line, reason, text[:TEXT_LIMIT])


def read_csv(path: Path, columns: Sequence[str], delimiter: str = ",") -> Iterator[Row | Rejected]:
    """Each line below the header, as strings by column; blank lines are not rows.

    Raises:
        SourceError: empty or unreadable file, truncated gzip, header without ``columns`` or without rows.
    """
    lines, file = _lines(path), path.name
    header = _read_header(path, lines, columns, delimiter)
    width, is_bare = len(header), True
    for number, raw in lines:
        is_bare = False
        text = _read_line(file, number, raw)
        if isinstance(text, Rejected):
            yield text
            continue
        fields = text.split(delimiter) if '"' not in text else _split(text, delimiter)
        if isinstance(fields, str):
            yield Rejected(file, number, fields, text[:TEXT_LIMIT])
        elif len(fields) != width:
            reason = f"the line has {len(fields)} fields, the header {width}"
            yield Rejected(file, number, reason, text[:TEXT_LIMIT])
        else:
            yield Row(file, number, text, dict(zip(header, fields, strict=True)))
    if is_bare:
        raise SourceError(f"{path} has a header but no rows")


def read_json_lines(path: Path) -> Iterator[Row | Rejected]:
    """Each line that is a JSON object, by key.

    Raises:
        SourceError: empty or unreadable file, truncated gzip.
    """
    file = path.name
    for number, raw in _lines(path):
        text = _read_line(file, number, raw)
        if isinstance(text, Rejected):
            yield text
            continue
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            yield Rejected(file, number, f"not valid JSON: {error}", text[:TEXT_LIMIT])
            continue
        row = Row(file, number, text, values)
        yield row if isinstance(values, dict) else row.reject(f"not a JSON object but a {type(values).__name__}")


def read_parquet(path: Path) -> Iterator[Row]:
    """Each row of a Parquet file; times are naive UTC ``datetime``, or integers when no ``datetime`` can hold them.

    Raises:
        SourceError: not a Parquet file, damaged, or without rows.
    """
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                names = batch.schema.names
                for values in zip(*(_to_python(column) for column in batch.columns), strict=True):
                    number += 1
                    yield Row(path.name, number, "", dict(zip(names, values, strict=True)))
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise SourceError(f"{path} is not a sound Parquet file ({_first_line(error)}); nothing was loaded") from error
    if number == 0:
        raise SourceError(f"{path} has columns but no rows")


def parquet_columns(path: Path) -> list[str]:
    """Column names of a Parquet file; ``SourceError`` when it is none."""
    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise SourceError(f"{path} is not a sound Parquet file ({_first_line(error)}); nothing was loaded") from error


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, numbered from 1 over all lines, without their ends and the byte order mark."""
    is_empty = True
    try:
        with path.open("rb") as file:
            is_gzip = file.peek(2).startswith(_GZIP)
            stream: BinaryIO = BufferedReader(gzip.GzipFile(fileobj=file), 1 << 17) if is_gzip else file
            for number, raw in enumerate(_bounded_lines(stream), start=1):
                line = raw.removeprefix(_BOM).rstrip(b"\r\n") if number == 1 else raw.rstrip(b"\r\n")
                if line:
                    is_empty = False
                    yield number, line
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SourceError(f"{path} is a truncated or corrupt gzip file ({error}); nothing was loaded") from error
    except OSError as error:
        raise cannot_read(path, error) from error
    if is_empty:
        raise SourceError(f"{path} is empty")


def _bounded_lines(stream: BinaryIO) -> Iterator[bytes]:
    while line := stream.readline(LINE_LIMIT):
        rest = line
        while len(rest) == LINE_LIMIT and not rest.endswith(b"\n"):
            rest = stream.readline(LINE_LIMIT)
        yield line


def _read_header(path: Path, lines: Iterator[tuple[int, bytes]], columns: Sequence[str], delimiter: str) -> list[str]:
    number, raw = next(lines)
    text = _read_line(path.name, number, raw)
    if isinstance(text, Rejected):
        raise SourceError(f"{path}, line {number}: no header can be read, {text.reason}")
    fields = _split(text, delimiter)
    if isinstance(fields, str):
        raise SourceError(f"{path}, line {number}: no header can be read, {fields}")
    header = [field.strip() for field in fields]
    found = ", ".join(header)[:TEXT_LIMIT]
    for name in columns:
        if header.count(name) != 1:
            problem = "appears twice" if name in header else "is missing"
            raise SourceError(f"{path}: column {name!r} {problem}; found: {found}")
    return header


def _read_line(file: str, number: int, raw: bytes) -> str | Rejected:
    if len(raw) < LINE_LIMIT and b"\0" not in raw and b"\r" not in raw:
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            reason = f"not UTF-8: byte 0x{raw[error.start]:02x} at position {error.start + 1}"
    elif len(raw) >= LINE_LIMIT:
        reason = f"the line is longer than {LINE_LIMIT} bytes"
    else:
        reason = "the line holds a NUL byte" if b"\0" in raw else "the line holds a carriage return"
    return Rejected(file, number, reason, raw[:TEXT_LIMIT].decode("utf-8", "replace"))


def _split(text: str, delimiter: str) -> list[str] | str:
    """The fields of a line, or why it has none."""
    try:
        return next(csv.reader([text], delimiter=delimiter, strict=True))
    except csv.Error as error:
        reason = "a quoted field is not closed on its line" if "end of data" in str(error) else str(error)
        return f"fields cannot be told apart: {reason}"


def _to_python(column: pa.Array) -> list[Any]:
    if not pa.types.is_timestamp(column.type):
        return cast(list[Any], column.to_pylist())
    # By way of integers: they are UTC whatever the zone, and a time beyond year 9999 spoils only its own row.
    options = pc.CastOptions(pa.timestamp("us", column.type.tz), allow_time_truncate=True)
    return [_to_moment(value) for value in pc.cast(column, options=options).cast(pa.int64()).to_pylist()]


def _to_moment(micros: int | None) -> datetime | int | None:
    try:
        return None if micros is None else EPOCH + timedelta(microseconds=micros)
    except OverflowError:
        return micros


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:TEXT_LIMIT]
