"""From the event log into the warehouse's raw tables, each row exactly once.

Each batch is one DuckDB transaction: its rows, its counts, its rejected rows and the place where a stream was
left stand together or not at all, so a killed load is simply run again.
"""

# ruff: noqa: S608 – table and column names come from the contract; every value is bound

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from ingestion.batch import Source
from ingestion.builds import note_taken_back
from ingestion.erasure import blank_forgotten, set_aside_forgotten
from ingestion.event_log import MANIFEST, append_batches, read_manifest, staging_folder, write_batch
from ingestion.event_stream import StreamPart, pending_part, read_part, sync
from ingestion.valkey_drain import drain
from ingestion.warehouse import (
    connect,
    create_tables,
    delete_batch,
    insert_batch,
    insert_counts,
    insert_missing,
    insert_rejected,
    rejected_rows,
    transaction,
)
from ingestion.warehouse_deletion import take_out_deleted
from marquee import contract, lineage
from marquee.erasures import tombstones
from marquee.errors import GateError, MarqueeError
from marquee.settings import Settings

__all__ = [
    "LoadedBatch",
    "TableCounts",
    "TakenBack",
    "admit_batch",
    "connect",
    "create_tables",
    "ingest",
    "load_pending",
    "quarantine_batch",
    "rejected_rows",
]


@dataclass(frozen=True, slots=True)
class TableCounts:
    """Rows of one table in one batch: read = loaded + quarantined + duplicate."""

    table: str
    is_derived: bool
    read: int
    loaded: int
    quarantined: int
    duplicate: int


@dataclass(frozen=True, slots=True)
class LoadedBatch:
    """A batch in the warehouse. The totals leave derived tables out, so each row of a file counts once."""

    batch_id: str
    source: str
    tables: tuple[TableCounts, ...]

    @property
    def read(self) -> int:
        """Rows that the batch read."""
        return sum(t.read for t in self.tables if not t.is_derived)

    @property
    def loaded(self) -> int:
        """Rows that went into the raw tables."""
        return sum(t.loaded for t in self.tables if not t.is_derived)

    @property
    def quarantined(self) -> int:
        """Rows set aside with a reason."""
        return sum(t.quarantined for t in self.tables if not t.is_derived)

    @property
    def duplicate(self) -> int:
        """Rows that the raw tables held already, or that another row of the batch stood for."""
        return sum(t.duplicate for t in self.tables if not t.is_derived)


@dataclass(frozen=True, slots=True)
class TakenBack:
    """What a batch left behind that was quarantined.

    Attributes:
        gained: batches whose rows had counted as duplicates of its, and are loaded in their stead; the gate is to
            see them again.
        was_built: whether rows of it may stand in the marts, so that the next build is of all days.
    """

    gained: tuple[str, ...]
    was_built: bool


def ingest(source: Source, settings: Settings, on_batch: Callable[[int], None] | None = None) -> LoadedBatch:
    """Bring a source into the log and the warehouse; a second time, all of its records are duplicates.

    ``on_batch`` hears the rows of each batch read.

    Raises:
        SourceError: the source cannot be read; nothing of it was kept.
        GateError: the same content was quarantined before.
    """
    batch_id = append_batches(settings.log, source, on_batch).batch_id
    for batch in load_pending(settings):
        if batch.batch_id == batch_id:
            return batch
    with connect(settings) as connection:
        status, reason = _status(connection, batch_id)
        if status == "quarantined":
            raise GateError(
                f"batch {batch_id} was quarantined: {reason}. Its rows are in {settings.quarantine / batch_id}; "
                "correct the source and ingest it again, or admit this batch as it is"
            )
        known = _read_batch(connection, batch_id)
    again = (TableCounts(t.table, t.is_derived, t.read, 0, t.quarantined, t.loaded + t.duplicate) for t in known.tables)
    return LoadedBatch(batch_id, known.source, tuple(again))


def load_pending(settings: Settings, on_batch: Callable[[int], None] | None = None) -> list[LoadedBatch]:
    """Load every batch of the log that the warehouse lacks, oldest first, then the new lines of each stream.

    With ``event_log = valkey`` what waits there comes into a stream first. Rows of visitors who were forgotten since
    they happened are set aside, in the log too. Events that were deleted are not loaded, and taken out if they were.
    ``on_batch`` hears the rows of each batch loaded.
    """
    loaded: list[LoadedBatch] = []
    started_at = datetime.now(UTC)

    def note(batch: LoadedBatch) -> None:
        loaded.append(batch)
        if on_batch:
            on_batch(batch.read)

    with connect(settings) as connection:
        create_tables(connection)
        if settings.event_log == "valkey":
            drain(settings)
        take_out_deleted(connection, settings.log)
        forgotten = tombstones(settings)
        for folder in _pending_folders(connection, settings.log):
            set_aside_forgotten(folder, forgotten)
            note(_load(connection, folder.name, folder))
        for part in _pending_parts(connection, settings.log):
            blank_forgotten(part, forgotten)
            with _opened(settings.log, part.batch_id) as folder:
                note(_load(connection, part.batch_id, folder, part))
    for batch in loaded:
        tables = [lineage.table(settings, "raw", counts.table) for counts in batch.tables if counts.loaded]
        lineage.emit_run(settings, f"load.{batch.source}", [(lineage.NAMESPACE, batch.source)], tables, started_at)
    return loaded


def admit_batch(settings: Settings, batch_id: str, reason: str | None = None) -> None:
    """Mark a batch as good. A quarantined one comes back from the log: a person may overrule the gate, with a reason.

    The reason stands behind those that were given before.

    Raises:
        MarqueeError: there is no such batch, a person is ahead of the gate, or it is admitted already.
    """
    _require_warehouse(settings, batch_id)
    with connect(settings) as connection, transaction(connection):
        status, before = _status(connection, batch_id)
        if reason is not None and status != "quarantined":
            is_new = "has been refused by no gate yet; run `marquee check` first"
            raise MarqueeError(f"batch {batch_id} {is_new if status == 'loaded' else 'is admitted already'}")
        connection.execute(
            "update raw.batches set status = 'admitted', reason = ? where batch_id = ?",
            [_joined(before, reason), batch_id],
        )
        if status == "quarantined":
            with _opened(settings.log, batch_id) as folder:
                insert_counts(connection, batch_id, folder)
                insert_missing(connection, batch_id, folder)
    # Its rows are where they belong; a copy that stayed would tell of a refusal that no longer holds.
    shutil.rmtree(settings.quarantine / batch_id, ignore_errors=True)


def quarantine_batch(settings: Settings, batch_id: str, reason: str) -> TakenBack | None:
    """Move a batch's rows from the raw tables to ``settings.quarantine``, whole and with the reason.

    Other batches' rows that counted as duplicates of these are loaded in their stead; an admitted batch that
    gains rows so is 'loaded' again, for no gate has seen them. The reason stands behind those that were given before.

    Returns:
        What it left behind; None when it is quarantined already, and nothing was changed.

    Raises:
        MarqueeError: there is no such batch.
    """
    _require_warehouse(settings, batch_id)
    with connect(settings) as connection:
        status, before = _status(connection, batch_id)
        if status == "quarantined":
            return None
        reasons = _joined(before, reason) or ""
        tables = sorted({t.table for t in _read_batch(connection, batch_id).tables})
        _write_quarantine(connection, settings.quarantine / batch_id, batch_id, tables, reasons)
        with transaction(connection):
            was_built = note_taken_back(connection, batch_id)
            delete_batch(connection, batch_id, tables, reasons)
            gained = []
            for other in _batches_with_duplicates(connection, tables):
                with _opened(settings.log, other) as folder:
                    if insert_missing(connection, other, folder):
                        note_taken_back(connection, other)
                        connection.execute("update raw.batches set status = 'loaded' where batch_id = ?", [other])
                        gained.append(other)
    return TakenBack(tuple(gained), was_built)


def _joined(before: str | None, reason: str | None) -> str | None:
    """Reasons in the order in which they were given."""
    return "; then ".join(text for text in (before, reason) if text) or None


def _load(
    connection: duckdb.DuckDBPyConnection, batch_id: str, folder: Path, part: StreamPart | None = None
) -> LoadedBatch:
    try:
        with transaction(connection):
            insert_batch(connection, batch_id, folder)
            insert_rejected(connection, batch_id, folder)
            insert_counts(connection, batch_id, folder)
            insert_missing(connection, batch_id, folder)
            _note_repeats(connection, batch_id, folder)
            if part:
                values = [part.file.name, part.stop]
                connection.execute("insert or replace into raw.stream_offsets values (?, ?)", values)
            return _read_batch(connection, batch_id)
    except duckdb.Error as error:
        raise MarqueeError(f"batch {batch_id} could not be loaded, nothing of it was kept: {error}") from error


def _note_repeats(connection: duckdb.DuckDBPyConnection, batch_id: str, folder: Path) -> None:
    """Note for the gate how many events repeat an id of their own batch. Costs nothing where none was a duplicate."""
    name = contract.EVENTS.name
    (duplicate,) = connection.execute(
        "select coalesce(sum(duplicate), 0) from raw.batch_tables where batch_id = ? and table_name = ?",
        [batch_id, name],
    ).fetchone()
    if not duplicate:
        return
    files = [str(folder / segment.file) for segment in read_manifest(folder).segments if segment.table == name]
    connection.execute(
        "create table if not exists raw.batch_repeats (batch_id varchar primary key, event_count bigint not null)"
    )
    connection.execute(
        "insert into raw.batch_repeats select ?, count(*) - count(distinct event_id) from read_parquet(?)",
        [batch_id, files],
    )


def _pending_folders(connection: duckdb.DuckDBPyConnection, log: Path) -> list[Path]:
    known = {batch_id for (batch_id,) in connection.execute("select batch_id from raw.batches").fetchall()}
    folders = [folder for folder in (log / "batches").glob("*") if folder.name not in known]
    return sorted(folders, key=lambda folder: ((folder / MANIFEST).stat().st_mtime_ns, folder.name))


def _pending_parts(connection: duckdb.DuckDBPyConnection, log: Path) -> list[StreamPart]:
    offsets = dict(connection.execute("select file, byte_offset from raw.stream_offsets").fetchall())
    files = sorted((log / "stream").glob("*.jsonl"))
    parts = (pending_part(file, offsets.get(file.name, 0)) for file in files)
    return [part for part in parts if part]


@contextmanager
def _opened(log: Path, batch_id: str) -> Iterator[Path]:
    """The folder with a batch's segments; those of a stream are written for the moment."""
    if (log / "batches" / batch_id).is_dir():
        yield log / "batches" / batch_id
        return
    if not batch_id.startswith("stream-"):
        raise MarqueeError(f"batch {batch_id} is not in the event log; restore its folder in {log / 'batches'}")
    writer, start, stop = batch_id.removeprefix("stream-").rsplit("-", 2)
    part = StreamPart(log / "stream" / f"{writer}.jsonl", int(start), int(stop))
    with staging_folder(log) as folder:
        write_batch(folder, "stream", read_part(part))
        yield folder


def _require_warehouse(settings: Settings, batch_id: str) -> None:
    if not settings.warehouse.exists():
        raise MarqueeError(
            f"batch {batch_id} is not in the warehouse, for there is none at {settings.warehouse}; check --home"
        )


def _status(connection: duckdb.DuckDBPyConnection, batch_id: str) -> tuple[str, str | None]:
    create_tables(connection)
    found = connection.execute("select status, reason from raw.batches where batch_id = ?", [batch_id]).fetchone()
    if found is None:
        raise MarqueeError(f"batch {batch_id} is not in the warehouse; `marquee status` lists the batches that are")
    return found[0], found[1]


def _read_batch(connection: duckdb.DuckDBPyConnection, batch_id: str) -> LoadedBatch:
    (source,) = connection.execute("select source from raw.batches where batch_id = ?", [batch_id]).fetchone()
    rows = connection.execute(
        "select table_name, is_derived, read, loaded, quarantined, duplicate from raw.batch_tables "
        "where batch_id = ? order by table_name, is_derived",
        [batch_id],
    ).fetchall()
    return LoadedBatch(batch_id, source, tuple(TableCounts(*row) for row in rows))


def _batches_with_duplicates(connection: duckdb.DuckDBPyConnection, tables: list[str]) -> list[str]:
    found = connection.execute(
        "select batch_id from raw.batches where status <> 'quarantined' and batch_id in "
        "(select batch_id from raw.batch_tables where duplicate > 0 and table_name in (select unnest(?))) "
        "order by batch_number",
        [tables],
    ).fetchall()
    return [batch_id for (batch_id,) in found]


def _write_quarantine(
    connection: duckdb.DuckDBPyConnection, folder: Path, batch_id: str, tables: list[str], reason: str
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for table in tables:
        file = folder / f"{table}.parquet"
        columns = ", ".join(contract.RAW_TABLES[table].names)
        connection.execute(
            f"copy (select {columns} from raw.{table} where batch_id = $batch_id) to $file "
            "(format parquet, compression zstd)",
            {"batch_id": batch_id, "file": str(file)},
        )
        sync(file)
    (folder / "reason.txt").write_text(reason + "\n", encoding="utf-8")
    for path in (folder / "reason.txt", folder, folder.parent, folder.parent.parent):
        sync(path)
