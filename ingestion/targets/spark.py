"""Spark as target: its files and its metastore under ``home/spark``, one Parquet file a batch and raw table."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from ingestion.event_stream import sync
from ingestion.targets.books import Rows, admitted_batches, batch_rows
from ingestion.targets.spark_session import require_pyspark, session
from marquee import contract
from marquee.errors import MarqueeError
from marquee.java import first_line
from marquee.settings import Settings

_TYPES: Final = contract.SQL_TYPES | {"string": "string"}
_BATCHES: Final = (
    "batch_id string, batch_number bigint, source string, status string, reason string, loaded_at timestamp"
)


class SparkTarget:
    """The folder ``home/spark``, and the session in this process once something needs it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._root = settings.home / "spark"
        self._raw = self._root / "raw"

    def identity(self) -> str:
        """The id that the folder was given when it first became a target."""
        file = self._root / "target_id"
        if not file.exists():
            self._root.mkdir(parents=True, exist_ok=True)
            written = file.with_suffix(".new")
            written.write_text(uuid.uuid4().hex, encoding="utf-8")
            written.replace(file)
        return file.read_text(encoding="utf-8")

    def held(self) -> dict[str, Rows]:
        """Rows of each batch by table, as the files' footers say; a batch without any file is one without rows."""
        books = self._raw / "batches" / "batches.parquet"
        known = pq.read_table(books)["batch_id"].to_pylist() if books.exists() else []
        held: dict[str, Rows] = {batch_id: {} for batch_id in known}
        for name in contract.RAW_TABLES:
            for file in (self._raw / name).glob("*.parquet"):
                batch_id = unquote(file.stem)
                held[batch_id] = {**held.get(batch_id, {}), name: pq.read_metadata(file).num_rows}
        return held

    def replace(self, dock: duckdb.DuckDBPyConnection, batch_id: str, rows: Rows) -> None:
        """Write each of a batch's files aside and rename it; dbt reads none of them before ``finish``."""
        for name in contract.RAW_TABLES:
            file = self._file(name, batch_id)
            if name in rows:
                self._write(batch_rows(dock, name, batch_id), file)
            else:
                file.unlink(missing_ok=True)

    def drop(self, batch_id: str) -> None:
        """Delete a batch's files."""
        for name in contract.RAW_TABLES:
            self._file(name, batch_id).unlink(missing_ok=True)

    def finish(self, dock: duckdb.DuckDBPyConnection, changed: bool) -> None:
        """Write ``raw.batches``, lay tables over the folders and clear away what a killed run left."""
        self._write(admitted_batches(dock), self._raw / "batches" / "batches.parquet")
        spark = session(self._settings)
        self._clear(spark)
        statements = [self._statement(name, columns) for name, columns in _columns().items()]
        laid, wanted = self._root / "raw_tables.sql", "\n".join(statements)
        if spark.catalog.tableExists("raw.batches") and laid.exists() and laid.read_text(encoding="utf-8") == wanted:
            for name in _columns():
                spark.sql(f"refresh table raw.{name}")
            return
        # A table of files is only a name for them; made anew it follows the contract, and a home that was moved.
        laid.unlink(missing_ok=True)
        spark.sql("create schema if not exists raw")
        for name, statement in zip(_columns(), statements, strict=True):
            spark.sql(f"drop table if exists raw.{name}")
            spark.sql(statement)
        laid.write_text(wanted, encoding="utf-8")

    def _statement(self, name: str, columns: str) -> str:
        folder = self._raw / name
        folder.mkdir(parents=True, exist_ok=True)
        location = str(folder).replace("\\", "\\\\").replace("'", "\\'")
        return f"create table raw.{name} ({columns}) using parquet location '{location}'"

    @contextmanager
    def fetch(self, query: str) -> Iterator[pa.RecordBatchReader]:
        """Rows of a query, through Parquet files that Spark writes and that go with the block."""
        folder = self._root / "pulled"
        try:
            session(self._settings).sql(query).write.mode("overwrite").parquet(str(folder))
        except Exception as error:
            raise MarqueeError(f"Spark: {first_line(error)}") from None
        try:
            yield ds.dataset(folder, format="parquet").scanner().to_reader()
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _file(self, table: str, batch_id: str) -> Path:
        return self._raw / table / f"{quote(batch_id, safe='@:+=')}.parquet"

    def _write(self, rows: duckdb.DuckDBPyRelation, file: Path) -> None:
        # Spark and this module skip names that start with an underscore.
        file.parent.mkdir(parents=True, exist_ok=True)
        written = file.parent / f"_{file.name}"
        rows.write_parquet(str(written), compression="zstd")
        sync(written)
        written.replace(file)
        sync(file.parent)

    def _clear(self, spark: Any) -> None:
        """Delete folders of tables that the metastore does not know: creating such a table would be refused."""
        for schema in (self._root / "warehouse").glob("*.db"):
            known = set()
            if spark.catalog.databaseExists(schema.stem):
                known = {table.name for table in spark.catalog.listTables(schema.stem)}
            for folder in schema.iterdir():
                if folder.name not in known:
                    shutil.rmtree(folder, ignore_errors=True)


def _columns() -> dict[str, str]:
    """Raw tables by name with their columns, ``batches`` last."""
    tables = contract.RAW_TABLES.values()
    listed = {t.name: ", ".join(f"{c.name} {_TYPES[c.type]}" for c in t.columns) for t in tables}
    return {name: f"{columns}, batch_id string" for name, columns in listed.items()} | {"batches": _BATCHES}


@contextmanager
def opened(settings: Settings) -> Iterator[SparkTarget]:
    """The target; Spark itself starts when it is first needed.

    Raises:
        MarqueeError: pyspark or Java is missing, or Spark does not start.
    """
    require_pyspark()
    yield SparkTarget(settings)
