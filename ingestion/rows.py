"""Rows of CSV, JSON-lines and Parquet files, plain or gzipped, one at a time.

A file that cannot be read as a whole raises ``SourceError``; a row that cannot be read becomes ``Rejected``. One
physical line is one row, whatever it holds, so a stray quote costs its own line and never the lines below it.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from io import BufferedReader
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar, cast

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

_BLOCK: Final = 4 << 20
_BOM: Final = b"\xef\xbb\xbf"
_GZIP: Final = b"\x1f\x8b"
Item = TypeVar("Item")


class NoRows(SourceError):
    """A file is sound but has no rows; in a folder of many that is no error."""


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


class CsvBlock(NamedTuple):
    """Whole lines of a CSV file, some megabytes of them: the number of the first, and what the fields are called."""

    file: str
    line: int
    data: bytes
    header: tuple[str, ...]
    delimiter: str

    def rows(self) -> Iterator[Row | Rejected]:
        """Each line as strings by column; blank lines are not rows."""
        file, width = self.file, len(self.header)
        for number, raw in _lines(self.line, self.data):
            text = _read_line(file, number, raw)
            if isinstance(text, Rejected):
                yield text
                continue
            fields = text.split(self.delimiter) if '"' not in text else _split(text, self.delimiter)
            if isinstance(fields, str):
                yield Rejected(file, number, fields, text[:TEXT_LIMIT])
            elif len(fields) != width:
                reason = f"the line has {len(fields)} fields, the header {width}"
                yield Rejected(file, number, reason, text[:TEXT_LIMIT])
            else:
                yield Row(file, number, text, dict(zip(self.header, fields, strict=True)))


def read_all(files: Iterable[Path], read: Callable[[Path], Iterator[Item]]) -> Iterator[Item]:
    """What ``read`` gives of each file in turn; files without rows are passed over.

    Raises:
        SourceError: one of the files cannot be read, or none of them has a row (``NoRows``).
    """
    empty: NoRows | None = None
    is_bare = True
    for file in files:
        try:
            for item in read(file):
                is_bare = False
                yield item
        except NoRows as error:
            empty = empty or error
    if is_bare and empty:
        raise empty


def read_csv(path: Path, columns: Sequence[str], delimiter: str = ",") -> Iterator[Row | Rejected]:
    """Each line below the header, as strings by column; blank lines are not rows.

    Raises:
        SourceError: empty or unreadable file, truncated gzip, header without ``columns`` or without rows.
    """
    for block in read_csv_blocks(path, columns, delimiter):
        yield from block.rows()


def read_csv_blocks(path: Path, columns: Sequence[str], delimiter: str = ",") -> Iterator[CsvBlock]:
    """The lines below the header, a block at a time; raises what ``read_csv`` does."""
    with _opened(path) as stream:
        number, header = _read_header(path, stream, columns, delimiter)
        number, is_bare = number + 1, True
        for data in _blocks(stream):
            is_bare = is_bare and not data.strip(b"\r\n")
            yield CsvBlock(path.name, number, data, header, delimiter)
            number += data.count(b"\n")
    if is_bare:
        raise NoRows(f"{path} has a header but no rows")


def read_json_lines(path: Path) -> Iterator[Row | Rejected]:
    """Each line that is a JSON object, by key.

    Raises:
        SourceError: empty or unreadable file, truncated gzip.
    """
    first, is_bare = 1, True
    with _opened(path) as stream:
        for data in _blocks(stream):
            for number, raw in _lines(first, data.removeprefix(_BOM) if first == 1 else data):
                is_bare = False
                yield _json_row(path.name, number, raw)
            first += data.count(b"\n")
    if is_bare:
        # Not a byte of gzip is no empty export but a copy that failed.
        is_sound = path.stat().st_size > 0 or not path.name.lower().endswith(".gz")
        raise (NoRows if is_sound else SourceError)(f"{path} is empty")


def _json_row(file: str, number: int, raw: bytes) -> Row | Rejected:
    text = _read_line(file, number, raw)
    if isinstance(text, Rejected):
        return text
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Rejected(file, number, f"not valid JSON: {error}", text[:TEXT_LIMIT])
    row = Row(file, number, text, values)
    return row if isinstance(values, dict) else row.reject(f"not a JSON object but a {type(values).__name__}")


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
        raise NoRows(f"{path} has columns but no rows")


def parquet_columns(path: Path) -> list[str]:
    """Column names of a Parquet file; ``SourceError`` when it is none."""
    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise SourceError(f"{path} is not a sound Parquet file ({_first_line(error)}); nothing was loaded") from error


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """The file's bytes, unpacked; what goes wrong while they are read becomes ``SourceError``."""
    try:
        with path.open("rb") as file:
            is_gzip = file.peek(2).startswith(_GZIP)
            yield BufferedReader(gzip.GzipFile(fileobj=file), 1 << 17) if is_gzip else file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SourceError(f"{path} is a truncated or corrupt gzip file ({error}); nothing was loaded") from error
    except OSError as error:
        raise cannot_read(path, error) from error


def _blocks(stream: BufferedReader) -> Iterator[bytes]:
    """Whole lines, ``_BLOCK`` bytes and the rest of a line at a time; of a line beyond the limit only its beginning."""
    while data := stream.read(_BLOCK):
        rest = b"" if data.endswith(b"\n") else stream.readline(LINE_LIMIT)
        is_cut = len(rest) == LINE_LIMIT and not rest.endswith(b"\n")
        yield data + rest + b"\n" * is_cut
        while len(rest) == LINE_LIMIT and not rest.endswith(b"\n"):
            rest = stream.readline(LINE_LIMIT)


def _lines(first: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    """A block's lines that are not blank, each with its number and without its end."""
    for number, raw in enumerate(data.split(b"\n"), start=first):
        if line := raw.rstrip(b"\r"):
            yield number, line


def _read_header(
    path: Path, stream: BufferedReader, columns: Sequence[str], delimiter: str
) -> tuple[int, tuple[str, ...]]:
    """The first line that is not blank: its number, and its fields."""
    number, raw = 1, stream.readline(LINE_LIMIT).removeprefix(_BOM)
    while raw and not raw.strip(b"\r\n"):
        number, raw = number + 1, stream.readline(LINE_LIMIT)
    if not raw:
        raise SourceError(f"{path} is empty")
    text = _read_line(path.name, number, raw.rstrip(b"\r\n"))
    if isinstance(text, Rejected):
        raise SourceError(f"{path}, line {number}: no header can be read, {text.reason}")
    fields = _split(text, delimiter)
    if isinstance(fields, str):
        raise SourceError(f"{path}, line {number}: no header can be read, {fields}")
    header = tuple(field.strip() for field in fields)
    found = ", ".join(header)[:TEXT_LIMIT]
    for name in columns:
        if header.count(name) != 1:
            problem = "appears twice" if name in header else "is missing"
            raise SourceError(f"{path}: column {name!r} {problem}; found: {found}")
    return number, header


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
