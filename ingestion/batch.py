"""A batch: records of one contract table, the rows that could not become records, and where they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol

import pyarrow as pa

from marquee import contract

ARROW_TYPES: Final[dict[str, pa.DataType]] = {
    "string": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "timestamp": pa.timestamp("us"),
    "date": pa.date32(),
}
ID_BYTES: Final = 12
"""Of the hash in an event id; 12 keep the chance of two equal ids among a billion below one in 10^11."""
BATCH_ROWS: Final = 50_000
"""Records a source gathers before it yields a batch; bounds memory, whatever the size of the file."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that could not become a record: file, line (from 1), reason, and the first 200 characters of the row."""

    file: str
    line: int
    reason: str
    text: str


@dataclass(slots=True)
class Batch:
    """Records of one contract table.

    ``derived`` marks records made from rows that another batch already accounts for (a banner made from its
    campaign's row), so that read = loaded + quarantined + duplicate counts each row of a file once.
    """

    table: str
    records: pa.Table
    rejected: list[Rejected] = field(default_factory=list)
    derived: bool = False


class Source(Protocol):
    """Anything that can be read as batches which satisfy the contract."""

    name: str

    def read(self) -> Iterator[Batch]:
        """Yield batches in file order; raise ``SourceError`` when the source cannot be read as a whole."""
        ...


def arrow_schema(table: contract.Table) -> pa.Schema:
    """The Arrow schema of a contract table; required columns are not nullable."""
    return pa.schema([pa.field(c.name, ARROW_TYPES[c.type], nullable=not c.required) for c in table.columns])


def records(table: contract.Table, rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as an Arrow table in the contract's column order; absent keys become null."""
    schema = arrow_schema(table)
    columns = [pa.array([row.get(name) for row in rows], type=schema.field(name).type) for name in schema.names]
    return pa.Table.from_arrays(columns, schema=schema)


def event_id(source: str, *parts: object) -> str:
    """A stable id for an event that came without one: the same row gives the same id in every run."""
    text = "\x1f".join("" if part is None else str(part) for part in parts)
    return f"{source}-{hashlib.blake2b(text.encode(), digest_size=ID_BYTES).hexdigest()}"


def check_event(row: dict[str, Any]) -> str | None:
    """Why this event breaks the contract, in one sentence that names the field; ``None`` when it holds."""
    kind = row.get("kind")
    if kind not in contract.EVENT_KINDS:
        return f"kind {kind!r} is not one of {', '.join(contract.EVENT_KINDS)}"
    for name in _REQUIRED_BY_KIND[kind]:
        if row.get(name) in (None, ""):
            return f"{name} is missing, which a {kind} needs"
    for name in contract.BOUNDED:
        if len(str(row.get(name) or "")) > contract.LONGEST_ID:
            return f"{name} is longer than {contract.LONGEST_ID} characters"
    moment = row["occurred_at"]
    if not isinstance(moment, datetime) or moment.tzinfo is not None or not 1990 <= moment.year <= 2100:
        return f"occurred_at {moment!r} is not a UTC time between 1990 and 2100"
    propensity = row.get("propensity")
    if propensity is not None and not 0 < propensity <= 1:
        return f"propensity {propensity} is not in (0, 1]"
    for name in ("quantity", "amount", "position"):
        value = row.get(name)
        if value is not None and not value >= 0:
            return f"{name} {value} is negative"
    return None


_REQUIRED_BY_KIND: Final = {kind: contract.required_by_kind(kind) for kind in contract.EVENT_KINDS}
