"""What every target does alike: compare what it holds with the dock's admitted batches, and load what comes back."""

# ruff: noqa: S608 – schema, table and column names come from the contract; every value is bound

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date
from typing import Final, Protocol

import duckdb
import pyarrow as pa

from ingestion.warehouse import transaction
from marquee import contract

Rows = Mapping[str, int]
"""Rows by raw table, tables without rows left out."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """A table that the product reads from the dock: its schema, its contract and its date column, if it has one."""

    schema: str
    name: str
    table: contract.Table
    day: str | None = None


PULLED: Final = (
    Pulled("marts", "visitor_features_28d", contract.VISITOR_FEATURES_28D, "feature_at"),
    Pulled("marts", "visitor_features_365d", contract.VISITOR_FEATURES_365D, "feature_at"),
    Pulled("marts", "visitor_segments", contract.VISITOR_SEGMENTS),
    Pulled("marts", "visitor_responses", contract.VISITOR_RESPONSES),
    Pulled("marts", "banner_features_28d", contract.BANNER_FEATURES_28D, "feature_at"),
    Pulled("marts", "session_features", contract.SESSION_FEATURES, "feature_at"),
    Pulled("marts", "session_moments", contract.SESSION_MOMENTS, "impressed_at"),
    Pulled("marts", "banner_catalogue", contract.BANNER_CATALOGUE),
    Pulled("marts", "product_category_periods", contract.PRODUCT_CATEGORY_PERIODS),
    Pulled("marts", "training_rows", contract.TRAINING_ROWS, "impressed_at"),
    Pulled("marts", "notifications", contract.NOTIFICATIONS),
    Pulled("staging", "stg_categories", contract.CATEGORIES),
)


class Target(Protocol):
    """Where dbt builds: an open connection to Postgres, or to Spark's folders."""

    def identity(self) -> str:
        """An id made when the target was first used."""
        ...

    def held(self) -> dict[str, Rows]:
        """The rows that the target holds of each batch."""
        ...

    def replace(self, dock: duckdb.DuckDBPyConnection, batch_id: str, rows: Rows) -> None:
        """Take in a batch whole, in place of what there was of it; a crash leaves the old or the new, nothing else."""
        ...

    def drop(self, batch_id: str) -> None:
        """Take a batch out whole."""
        ...

    def finish(self, dock: duckdb.DuckDBPyConnection, changed: bool) -> None:
        """Make ``raw.batches`` equal to the dock's and the tables ready for dbt."""
        ...

    def fetch(self, query: str) -> AbstractContextManager[pa.RecordBatchReader]:
        """Rows of a query, to be read within the block."""
        ...


def follow(dock: duckdb.DuckDBPyConnection, target: Target) -> int:
    """Make the target hold the dock's admitted batches and nothing else; returns the rows that went out."""
    wanted, held, pushed = admitted(dock), target.held(), 0
    gone = [batch_id for batch_id in held if batch_id not in wanted]
    # Rows of a batch never change. They only come (a repaired gate) and go (erasure), so counts tell.
    new = [batch_id for batch_id, rows in wanted.items() if held.get(batch_id) != rows]
    for batch_id in gone:
        target.drop(batch_id)
    for batch_id in new:
        target.replace(dock, batch_id, wanted[batch_id])
        pushed += sum(wanted[batch_id].values())
    target.finish(dock, bool(gone or new))
    return pushed


def admitted(dock: duckdb.DuckDBPyConnection) -> dict[str, Rows]:
    """Admitted batches in order, with the rows that the dock's raw tables hold of each."""
    found = dock.execute("select batch_id from raw.batches where status = 'admitted' order by batch_number").fetchall()
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    for name in contract.RAW_TABLES:
        for batch_id, count in dock.execute(f"select batch_id, count(*) from raw.{name} group by 1").fetchall():
            counts[batch_id][name] = count
    return {batch_id: counts.get(batch_id, {}) for (batch_id,) in found}


def batch_rows(dock: duckdb.DuckDBPyConnection, name: str, batch_id: str) -> duckdb.DuckDBPyRelation:
    """A batch's rows of one raw table, contract columns and ``batch_id``, in time order where there is a time."""
    table = contract.RAW_TABLES[name]
    order = "order by occurred_at" if table is contract.EVENTS else ""
    columns = ", ".join((*table.names, "batch_id"))
    # On a connection of its own: a result that is read bit by bit blocks its connection.
    return dock.cursor().sql(f"select {columns} from raw.{name} where batch_id = ? {order}", params=[batch_id])


def admitted_batches(dock: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyRelation:
    """The dock's ``raw.batches``, as far as a target is told of it."""
    return dock.sql("select * from raw.batches where status = 'admitted' order by batch_number")


def bring_back(dock: duckdb.DuckDBPyConnection, target: Target, since: date | None) -> int:
    """Replace the dock's copy of ``PULLED`` from a day on, or whole, in one transaction; returns the rows that came."""
    with transaction(dock):
        return sum(_bring_table(dock, target, one, since) for one in PULLED)


def _bring_table(dock: duckdb.DuckDBPyConnection, target: Target, one: Pulled, since: date | None) -> int:
    name, key = f"{one.schema}.{one.name}", ", ".join(one.table.key)
    is_part = since is not None and one.day is not None and _is_like(dock, one)
    where = f" where {one.day} >= timestamp '{since} 00:00:00'" if is_part else ""
    values = ", ".join(f"cast({c.name} as {contract.SQL_TYPES[c.type]}) as {c.name}" for c in one.table.columns)
    with target.fetch(f"select {', '.join(one.table.names)} from {name}{where}") as rows:
        dock.register("pulled_rows", rows)
        dock.execute(f"create or replace temp table pulled as select {values} from pulled_rows")
        dock.unregister("pulled_rows")
    if is_part:
        dock.execute(f"delete from {name}{where}")
        # A session that went on stood under an earlier day.
        dock.execute(f"delete from {name} where ({key}) in (select ({key}) from pulled)")
    else:
        columns = [f"{c.name} {contract.SQL_TYPES[c.type]}{' not null' * c.required}" for c in one.table.columns]
        dock.execute(f"create schema if not exists {one.schema}")
        _drop(dock, one)
        dock.execute(f"create table {name} ({', '.join(columns)})")
    ((count,),) = dock.execute(f"insert into {name} select * from pulled").fetchall()
    dock.execute("drop table pulled")
    return int(count)


def _kind(dock: duckdb.DuckDBPyConnection, one: Pulled) -> str | None:
    found = dock.execute(
        "select table_type from information_schema.tables where table_schema = ? and table_name = ?",
        [one.schema, one.name],
    ).fetchall()
    return found[0][0] if found else None


def _is_like(dock: duckdb.DuckDBPyConnection, one: Pulled) -> bool:
    """Whether the dock has that table with these columns, so that a window of it can be replaced."""
    described = dock.execute(
        "select column_name, lower(data_type) from information_schema.columns "
        "where table_schema = ? and table_name = ? order by ordinal_position",
        [one.schema, one.name],
    ).fetchall()
    columns = [(c.name, contract.SQL_TYPES[c.type]) for c in one.table.columns]
    return _kind(dock, one) == "BASE TABLE" and described == columns


def _drop(dock: duckdb.DuckDBPyConnection, one: Pulled) -> None:
    if kind := _kind(dock, one):
        dock.execute(f"drop {'view' if kind == 'VIEW' else 'table'} {one.schema}.{one.name}")
