"""The feature marts as Parquet files that Feast joins against: a folder a view, a file a day of ``feature_at``.

Only days that a build of the warehouse changed since the last export are written again.
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Final

import duckdb

from features.definitions import OFFLINE_VIEWS, ONLINE_VIEWS, STAMP
from features.export_record import exported, exports
from features.services import locked
from marquee import contract
from marquee.errors import NothingToDo
from marquee.settings import Settings
from marquee.warehouse import open_warehouse

EMPTY: Final = "no-day.parquet"


@dataclass(frozen=True, slots=True)
class Builds:
    """Builds of the warehouse not exported yet: their target, when the last ended, the first day they changed."""

    target: str
    finished_at: str
    from_day: date | None


@dataclass(frozen=True, slots=True)
class Window:
    """One export: its number, and the first day of ``feature_at`` that it writes; ``None`` is all of them."""

    seq: int
    from_day: date | None


def export_offline(settings: Settings) -> dict[str, int]:
    """Bring the offline files up to the marts; rows by view.

    Raises:
        NothingToDo: the feature marts have not been built.
    """
    with locked(settings, "export"), exports(settings) as record, open_warehouse(settings) as warehouse:
        built = _builds(settings, warehouse, _last(record))
        if built is not None:
            seq = exported(record).seq + 1
            for table in OFFLINE_VIEWS:
                # A build moves every segment to a new moment, which after a deletion may be an earlier one.
                first = None if table is contract.VISITOR_SEGMENTS else built.from_day
                try:
                    _export_view(settings, warehouse, record, table, Window(seq, first))
                except duckdb.CatalogException:
                    raise NothingToDo(f"there is no mart {table.name} yet: run transform_events") from None
            with record:
                values = (seq, built.target, built.finished_at, built.from_day and built.from_day.isoformat())
                record.execute("insert into exports values (?, ?, ?, ?)", values)
    return offline_rows(settings)


def offline_rows(settings: Settings) -> dict[str, int]:
    """Rows of the offline files by view; no file, no rows."""
    counts = {}
    with duckdb.connect() as connection:
        for table in OFFLINE_VIEWS:
            files = offline_files(settings, table)
            query = "select coalesce(sum(num_rows), 0) from parquet_file_metadata(?)"
            row = connection.execute(query, [files]).fetchone() if files else (0,)
            counts[table.name] = int(row[0])
    return counts


def offline_files(
    settings: Settings, table: contract.Table, first: date | None = None, last: date | None = None
) -> list[str]:
    """A view's files, of the days from ``first`` to ``last`` (both included) where those are given; in order."""
    files = sorted((offline_folder(settings) / table.name).glob("*.parquet"))
    low, high = (first or date.min).isoformat(), (last or date.max).isoformat()
    return [str(path) for path in files if low <= path.stem <= high]


def offline_folder(settings: Settings) -> Path:
    """The folder with one folder per view."""
    return settings.features / "offline"


def _last(record: sqlite3.Connection) -> Builds | None:
    row = record.execute("select target, built_at from exports order by seq desc limit 1").fetchone()
    return Builds(row[0], row[1], None) if row else None


def _builds(settings: Settings, warehouse: duckdb.DuckDBPyConnection, last: Builds | None) -> Builds | None:
    """What was built since; None: nothing. Without the warehouse's own record of builds, all is taken as new."""
    layout = hashlib.sha256(repr(OFFLINE_VIEWS).encode()).hexdigest()[:12]
    target = f"{settings.dbt_target} {layout}"
    try:
        rows = warehouse.execute(
            "select strftime(finished_at, '%Y-%m-%d %H:%M:%S.%f'), from_date, is_full from raw.builds "
            "where split_part(target, ':', 1) = ? and finished_at is not null order by finished_at",
            [settings.dbt_target],
        ).fetchall()
    except duckdb.CatalogException:
        return Builds(target, "", None)
    if not rows:
        return Builds(target, "", None)
    finished_at = str(rows[-1][0])
    if last is None or last.target != target or not last.finished_at:
        return Builds(target, finished_at, None)
    new = [row for row in rows if row[0] > last.finished_at]
    if not new:
        return None
    days = [None if is_full or from_date is None else from_date for _, from_date, is_full in new]
    return Builds(target, finished_at, None if None in days else min(day for day in days if day))


def _export_view(
    settings: Settings,
    warehouse: duckdb.DuckDBPyConnection,
    record: sqlite3.Connection,
    table: contract.Table,
    window: Window,
) -> None:
    """Write a view's days aside, note who lost a row, then put each file in its place in one step."""
    folder = offline_folder(settings) / table.name
    aside = folder / "aside"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    old = _outdated(settings, warehouse, table, window.from_day)
    left = {date.fromisoformat(Path(path).stem) for path in old}
    for day in _days(warehouse, table, window.from_day, left):
        _write_day(warehouse, table, day, aside / f"{day}.parquet")
    # A pattern must match something, also before the first row.
    _write_day(warehouse, table, date.min, aside / EMPTY)
    (aside / EMPTY).replace(folder / EMPTY)
    new = sorted(str(path) for path in aside.glob("*.parquet"))
    if table in ONLINE_VIEWS and old:
        _note_retracted(warehouse, record, table, window.seq, (old, new))
    for path in new:
        Path(path).replace(folder / Path(path).name)
    for path in {Path(path).name for path in old} - {Path(path).name for path in new}:
        (folder / path).unlink()
    aside.rmdir()


def _write_day(warehouse: duckdb.DuckDBPyConnection, table: contract.Table, day: date, target: Path) -> None:
    columns = ", ".join(_exported(column) for column in table.columns)
    query = f"""select {columns} from marts.{table.name} where {STAMP} >= ? and {STAMP} < ?
        order by {", ".join(table.key)}"""  # noqa: S608 - names are the contract's
    copy = f"copy ({query}) to '{_quoted(str(target))}' (format parquet)"
    warehouse.execute(copy, [day, day + timedelta(days=1)])


def _outdated(
    settings: Settings, warehouse: duckdb.DuckDBPyConnection, table: contract.Table, first: date | None
) -> list[str]:
    """Files of a view that are to be replaced: of the days that are written, and earlier ones that a row has left.

    A session that goes on is stamped anew, and its row is then of a later day.
    """
    files = offline_files(settings, table, first)
    if first is None or STAMP in table.key:
        return files
    earlier = offline_files(settings, table, last=first - timedelta(days=1))
    if not earlier:
        return files
    key = ", ".join(table.key)
    query = f"""select distinct filename from read_parquet(?, filename = true)
        where ({key}) in (select ({key}) from marts.{table.name} where {STAMP} >= ?)"""  # noqa: S608 - contract's names
    return sorted(row[0] for row in warehouse.execute(query, [earlier, first]).fetchall()) + files


def _days(
    warehouse: duckdb.DuckDBPyConnection, table: contract.Table, first: date | None, further: set[date]
) -> list[date]:
    query = f"select distinct {STAMP}::date as day from marts.{table.name} where {STAMP} >= ? or day in ? order by 1"  # noqa: S608
    return [row[0] for row in warehouse.execute(query, [first or date.min, list(further)]).fetchall()]


def _note_retracted(
    warehouse: duckdb.DuckDBPyConnection,
    record: sqlite3.Connection,
    table: contract.Table,
    seq: int,
    files: tuple[list[str], list[str]],
) -> None:
    """Entities with a row before this export that is not there after it; the online store may hold that row."""
    old, new = files
    key = ", ".join(table.key)
    lost = f"(select {key} from read_parquet(?))"  # noqa: S608 - names are the contract's
    lost += f" except (select {key} from read_parquet(?))" if new else ""  # noqa: S608
    rows = warehouse.execute(f"select distinct {table.key[0]} from ({lost})", [old, new] if new else [old])  # noqa: S608
    with record:
        while part := rows.fetchmany(10_000):
            values = [(seq, table.name, entity) for (entity,) in part]
            record.executemany("insert or ignore into retracted values (?, ?, ?)", values)


def _exported(column: contract.Column) -> str:
    # Feast reads timestamps with a zone; the warehouse keeps UTC without one.
    return f"timezone('UTC', {column.name}) as {column.name}" if column.type == "timestamp" else column.name


def _quoted(path: str) -> str:
    return path.replace("'", "''")
