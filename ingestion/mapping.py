"""From rows to batches: parse a row's fields, make a record of it, check it, and count it once.

A mapping is a plain function from a row's values to a record; it says what is wrong by raising ``FieldError``.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final

from ingestion.batch import BATCH_ROWS, Batch, Rejected, check_event, records
from ingestion.rows import EPOCH, Row
from marquee import contract

Record = dict[str, Any]
Values = Mapping[str, Any]

_QUOTED: Final = reprlib.Repr()
_QUOTED.maxstring = _QUOTED.maxother = 80
YEARS: Final = range(1990, 2101)
"""Those that a time may lie in."""
_LARGEST: Final = 1e15
_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_WHOLE: Final = re.compile(r"-?\d{1,18}", re.ASCII)
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_CLOCK: Final = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d", re.ASCII)


class FieldError(ValueError):
    """Why a row cannot become a record: one sentence that names the field and its value."""


def batches(
    table: contract.Table, rows: Iterable[Row | Rejected], make: Callable[[dict[str, Any]], Record]
) -> Iterator[Batch]:
    """Each row as one record of ``table`` or one rejected row, in batches of ``BATCH_ROWS`` rows."""
    good: list[Record] = []
    bad: list[Rejected] = []
    for row in rows:
        made = row if isinstance(row, Rejected) else _make(table, row, make)
        if isinstance(made, Rejected):
            bad.append(made)
        else:
            good.append(made)
        if len(good) + len(bad) == BATCH_ROWS:
            yield Batch(table.name, records(table, good), bad)
            good, bad = [], []
    if good or bad:
        yield Batch(table.name, records(table, good), bad)


def derived(table: contract.Table, made: Iterable[Record]) -> Iterator[Batch]:
    """Records that come from rows which another batch accounts for."""
    rest = iter(made)
    while chunk := list(islice(rest, BATCH_ROWS)):
        yield Batch(table.name, records(table, chunk), derived=True)


def check_record(table: contract.Table, record: Record) -> str | None:
    """Why this record breaks its table's contract, in one sentence that names the field; ``None`` when it holds."""
    if table is contract.EVENTS:
        return check_event(record)
    for column in table.columns:
        value = record.get(column.name)
        if column.required and value in (None, ""):
            return f"{column.name} is missing, which a row of {table.name} needs"
        if column.type == "timestamp" and value is not None and value.year not in YEARS:
            return f"{column.name} {value} is not between 1990 and 2100"
    return None


def _make(table: contract.Table, row: Row, make: Callable[[dict[str, Any]], Record]) -> Record | Rejected:
    try:
        record = make(row.values)
    except FieldError as error:
        return row.reject(str(error))
    reason = check_record(table, record)
    return row.reject(reason) if reason else record


def shown(value: object) -> str:
    """A value as a message quotes it: short, whatever its size and depth."""
    return _QUOTED.repr(value)


def key(values: Values, name: str) -> str:
    """An identifier; never empty."""
    if not (value := values[name].strip()):
        raise FieldError(f"{name} is empty")
    return str(value)


def optional(values: Values, name: str) -> str | None:
    """A text; ``None`` when empty."""
    return values[name].strip() or None


def number(values: Values, name: str) -> float:
    """A decimal number that a shop's ledger could hold."""
    text = values[name].strip()
    if len(text) <= 40 and _NUMBER.fullmatch(text) and abs(value := float(text)) < _LARGEST:
        return value
    raise FieldError(f"{name} {shown(values[name])} is not a number")


def amount(values: Values, name: str) -> float:
    """A number that is not negative."""
    if (value := number(values, name)) < 0:
        raise FieldError(f"{name} {shown(values[name])} is negative")
    return value


def whole(values: Values, name: str) -> int:
    """A whole number of at most 18 digits."""
    text = values[name].strip()
    if not _WHOLE.fullmatch(text):
        raise FieldError(f"{name} {shown(values[name])} is not a whole number")
    return int(text)


def milliseconds(values: Values, name: str) -> datetime:
    """Milliseconds since 1970 as naive UTC."""
    return after_epoch(name, whole(values, name) * 1000)


def after_epoch(name: str, micros: int) -> datetime:
    """Microseconds since 1970 as naive UTC, between 1990 and 2100."""
    try:
        moment = EPOCH + timedelta(microseconds=micros)
        if moment.year in YEARS:
            return moment
        raise OverflowError
    except OverflowError:
        raise FieldError(f"{name} {shown(micros)} is not a time between 1990 and 2100") from None


def clock(values: Values, name: str) -> datetime:
    """``YYYY-MM-DD HH:MM:SS`` between 1990 and 2100, taken as UTC."""
    return _iso(values, name, _CLOCK, "YYYY-MM-DD HH:MM:SS")


def day(values: Values, name: str) -> datetime:
    """``YYYY-MM-DD`` between 1990 and 2100, as the midnight that begins it."""
    return _iso(values, name, _DAY, "YYYY-MM-DD")


def _iso(values: Values, name: str, pattern: re.Pattern[str], layout: str) -> datetime:
    text = values[name].strip()
    try:
        if pattern.fullmatch(text) and (moment := datetime.fromisoformat(text)).year in YEARS:
            return moment
        raise ValueError
    except ValueError:
        raise FieldError(f"{name} {shown(values[name])} is not a time written {layout}, 1990 to 2100") from None


def naive_utc(moment: datetime) -> datetime:
    """A time in the warehouse's form; one without a zone is taken as UTC."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
