"""Marquee's own files: the contract's tables as JSON lines or Parquet."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Final

from ingestion.batch import Batch
from ingestion.mapping import FieldError, Record, batches, naive_utc, shown
from ingestion.paths import JSON_SUFFIXES, data_files
from ingestion.rows import NoRows, Row, parquet_columns, read_all, read_json_lines, read_parquet
from marquee import contract
from marquee.errors import SourceError

PARQUET: Final = ".parquet"


class MarqueeFiles:
    """Files named after their tables, such as ``banners.jsonl`` or ``events-2026-01.parquet``, alone or in a folder."""

    name = "marquee"
    about = "Marquee's own tables: <table>.jsonl or <table>-<anything>.parquet, a file or a folder of them"

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Iterator[Batch]:
        """Files in name order; the table of each is known before the first is read."""
        tables = {file: _table(file) for file in data_files(self.path, (*JSON_SUFFIXES, PARQUET))}
        yield from read_all(tables, lambda file: _batches(file, tables[file]))


def _batches(file: Path, table: contract.Table) -> Iterator[Batch]:
    rows = read_parquet(file) if _is_parquet(file) else read_json_lines(file)
    yield from batches(table, rows, partial(typed_record, table))


def _is_parquet(file: Path) -> bool:
    return file.name.lower().endswith(PARQUET)


def _table(file: Path) -> contract.Table:
    """The table that a file is named after; events when its columns are theirs."""
    table = contract.RAW_TABLES.get(file.name.partition(".")[0].partition("-")[0])
    if table and not _is_parquet(file):
        return table
    try:
        columns = _columns(file)
    except NoRows:  # then it makes no difference
        return contract.EVENTS
    if table is None and set(contract.required_by_kind("other")) | {"kind"} <= set(columns):
        table = contract.EVENTS
    if table is None:
        tables = ", ".join(contract.RAW_TABLES)
        raise SourceError(f"{file} is named after no table and does not hold events; the tables are {tables}")
    if _is_parquet(file):
        _check_columns(file, table, columns)
    return table


def _columns(file: Path) -> list[str]:
    if _is_parquet(file):
        return parquet_columns(file)
    first = next((row for row in read_json_lines(file) if isinstance(row, Row)), None)
    return list(first.values) if first else []


def _check_columns(file: Path, table: contract.Table, columns: list[str]) -> None:
    """A Parquet file has one set of columns for all of its rows, so a wrong one concerns the whole file."""
    found = ", ".join(columns)[:200]
    for name in columns:
        if name not in table.names or columns.count(name) > 1:
            problem = "appears twice" if name in table.names else f"is not one of {table.name}"
            raise SourceError(f"{file}: column {name!r} {problem}; its columns are {', '.join(table.names)}")
    for column in table.columns:
        if column.required and column.name not in columns:
            raise SourceError(f"{file}: column {column.name!r} is missing; found: {found}")


def typed_record(table: contract.Table, values: dict[str, Any]) -> Record:
    """The values as a record of the table, without any guess.

    Raises:
        FieldError: an unknown field, or a value of another type.
    """
    for name in values:
        if name not in table.names:
            raise FieldError(f"unknown field {shown(name)}; {table.name} has {', '.join(table.names)}")
    record = {}
    for column in table.columns:
        value = values.get(column.name)
        record[column.name] = None if value is None else _typed(column, value)
    if table is contract.CAMPAIGNS and record["status"] not in (None, *contract.CAMPAIGN_STATUSES):
        raise FieldError(f"status {record['status']!r} is not one of {', '.join(contract.CAMPAIGN_STATUSES)}")
    if table is contract.EVENTS and record["device"] not in (None, *contract.DEVICES):
        raise FieldError(f"device {shown(record['device'])} is not one of {', '.join(contract.DEVICES)}")
    return record


def _typed(column: contract.Column, value: Any) -> Any:
    """The value in the column's Python type, without any guess: a number in quotes is not a number."""
    if column.type == "timestamp":
        return _moment(column.name, value)
    if column.type == "string" and isinstance(value, str):
        return _text(column.name, value)
    if column.type == "bool" and isinstance(value, bool):
        return value
    if isinstance(value, Decimal):  # of Parquet; 19.90 is the same float whether it is read from there or from JSON
        value = int(value) if column.type == "int" and value == int(value) else float(value)
    is_whole = isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    if column.type == "int" and is_whole:
        return value
    if column.type == "float" and (is_whole or (isinstance(value, float) and math.isfinite(value))):
        return float(value)
    raise FieldError(f"{column.name} {shown(value)} is not a {column.type}")


def _text(name: str, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise FieldError(f"{name} {shown(value)} holds half of a surrogate pair") from None
    if "\0" in value:
        raise FieldError(f"{name} {shown(value)} holds a NUL byte")
    return value


def _moment(name: str, value: Any) -> datetime:
    try:
        if isinstance(value, datetime):
            return naive_utc(value)
        if isinstance(value, str):
            return naive_utc(datetime.fromisoformat(value))
        raise ValueError
    except (ValueError, OverflowError):
        raise FieldError(f"{name} {shown(value)} is not an ISO 8601 time") from None
