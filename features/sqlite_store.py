"""Feast's SQLite store with a way in for whole columns; readers are not held up by writers."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal

from feast import FeatureView
from feast.infra.online_stores.sqlite import SqliteOnlineStore, SqliteOnlineStoreConfig, adapt_datetime_epoch
from feast.repo_config import RepoConfig

from features.online_store import Rows


class ColumnSqliteOnlineStoreConfig(SqliteOnlineStoreConfig):  # type: ignore[misc]
    """Feast's configuration under this store's name."""

    type: Literal["features.sqlite_store.ColumnSqliteOnlineStore"] = "features.sqlite_store.ColumnSqliteOnlineStore"


MARKS: Final = "create table if not exists materialization_marks (view text primary key, mark text not null)"
CHECKPOINT_PAGES: Final = 8_000
TABLE: Final = """
create table if not exists {table} (
    entity_key blob, feature_name text, value blob, value_text text, vector_value blob,
    event_ts timestamp, created_ts timestamp, primary key (entity_key, feature_name)
) without rowid
"""
"""Feast's table. Ordered by its key, it needs no second copy of the key, and is half the size."""


class ColumnSqliteOnlineStore(SqliteOnlineStore):  # type: ignore[misc]
    """Feast's SQLite store: readers are not held up by writers, and columns are written whole."""

    def update(self, config: RepoConfig, tables_to_delete: Any, tables_to_keep: Any, *args: Any, **kwargs: Any) -> None:
        """As Feast's, but the tables it would make are there already, in this store's order."""
        for view in tables_to_keep:
            self._table(config, view)
        super().update(config, tables_to_delete, tables_to_keep, *args, **kwargs)

    def read_mark(self, config: RepoConfig, view: str) -> dict[str, Any] | None:
        """What was written last for a view; None when nothing is known of it."""
        connection = self._open(config)
        found = connection.execute("select mark from materialization_marks where view = ?", [view]).fetchone()
        return json.loads(found[0]) if found else None

    def write_columns(self, config: RepoConfig, view: FeatureView, rows: Rows, mark: dict[str, Any]) -> None:
        """Insert or replace the rows, then the mark."""
        connection, table = self._open(config), self._table(config, view)
        seconds = {stamp: adapt_datetime_epoch(stamp) for stamp in set(rows.stamps)}
        columns: list[Sequence[Any]] = [rows.keys, [seconds[stamp] for stamp in rows.stamps]]
        values = []
        # One statement an entity, its rows in the order of the table's key.
        for name in sorted(rows.fields):
            columns += rows.fields[name]
            place = len(columns)
            values.append(f"(?1, '{name}', ?{place - 1}, ?{place}, null, ?2, null)")
        # "or rollback" spares SQLite the journal it else keeps for each statement; the block rolls back anyway.
        insert = (
            f"insert or rollback into {table} values {', '.join(values)} "  # noqa: S608 - names are the contract's
            "on conflict (entity_key, feature_name) do update set value = excluded.value, "
            "value_text = excluded.value_text, event_ts = excluded.event_ts, created_ts = excluded.created_ts"
        )
        with self._transaction(connection, view.name, mark):
            connection.executemany(insert, zip(*columns, strict=True))

    def remove(self, config: RepoConfig, view: FeatureView, keys: Sequence[bytes], mark: dict[str, Any]) -> None:
        """Delete a view's rows of these entities, then write the mark."""
        connection, table = self._open(config), self._table(config, view)
        with self._transaction(connection, view.name, mark):
            connection.executemany(f"delete from {table} where entity_key = ?", [[key] for key in keys])  # noqa: S608

    def clear(self, config: RepoConfig, view: FeatureView) -> None:
        """Delete all of a view's rows and its mark."""
        connection = self._open(config)
        connection.execute(f"drop table if exists {self._name(config, view)}")
        with connection:
            connection.execute("delete from materialization_marks where view = ?", [view.name])
        self._table(config, view)

    def settle(self, config: RepoConfig) -> None:
        """Move what was written from the log to the file."""
        self._open(config).execute("pragma wal_checkpoint(passive)").fetchall()

    def _open(self, config: RepoConfig) -> sqlite3.Connection:
        connection: sqlite3.Connection = self._get_conn(config)
        for pragma in ("journal_mode = wal", "synchronous = normal", f"wal_autocheckpoint = {CHECKPOINT_PAGES}"):
            connection.execute(f"pragma {pragma}").fetchall()
        connection.execute(MARKS)
        return connection

    def _name(self, config: RepoConfig, view: Any) -> str:
        return f'"{config.project}_{view.name}"'

    def _table(self, config: RepoConfig, view: Any) -> str:
        connection, table = self._open(config), self._name(config, view)
        connection.execute(TABLE.format(table=table))
        # Feast's second index repeats the first; under its name stands one of nothing, so that Feast makes no other.
        index = f'"{config.project}_{view.name}_ek"'
        connection.execute(f"create index if not exists {index} on {table} (entity_key) where 0")
        return table

    @contextmanager
    def _transaction(self, connection: sqlite3.Connection, view: str, mark: dict[str, Any]) -> Iterator[None]:
        with connection:
            connection.execute("begin immediate")
            yield
            connection.execute("insert or replace into materialization_marks values (?, ?)", [view, json.dumps(mark)])
