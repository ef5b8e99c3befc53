"""What a table of the contract is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

ColumnType = Literal["string", "int", "float", "bool", "timestamp", "date"]

SQL_TYPES: Final[dict[str, str]] = {
    "string": "varchar",
    "int": "bigint",
    "float": "double",
    "bool": "boolean",
    "timestamp": "timestamp",
    "date": "date",
}
"""Contract type → DuckDB type. Timestamps are UTC, without a zone, in microseconds."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name, type, whether it must be present, and what it means (with its unit)."""

    name: str
    type: ColumnType
    required: bool = False
    about: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """One table: name, grain ("One row per …"), key columns and ordered columns."""

    name: str
    grain: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in order."""
        return tuple(column.name for column in self.columns)

    def column(self, name: str) -> Column:
        """The column called ``name``; ``KeyError`` when the table has none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"table {self.name} has no column {name}")
