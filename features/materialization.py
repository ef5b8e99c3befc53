"""Bringing the online store up to the offline files: only what changed since it was last done, in resumable chunks.

Beside the rows, the online store keeps a mark per view: what was finished (which export, up to which moment) and how
far a run under way has come. A run that is killed is taken up where it stood.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa
from feast import FeatureStore

from features.definitions import ONLINE_VIEWS, STAMP, entity_keys, feature_names
from features.encoding import cells, key_order
from features.encoding import entity_keys as serialised_keys
from features.export import offline_files
from features.export_record import changed_from, exported, exports, purge_retracted
from features.freshness import TTL
from features.online_store import ColumnStore, Rows
from features.services import locked
from marquee import contract
from marquee.settings import Settings, settings_now

CHUNK: Final = 20_000
"""Entities written in one transaction."""
MEMORY_LIMIT: Final = "1GB"
OnRows = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """Write each entity's newest row stamped from ``low`` to ``until``, as export ``seq`` has it.

    ``low`` is None for all that is alive. ``rows`` of them are written already, in the order of their keys.
    """

    seq: int
    low: str | None
    until: str
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Mark:
    """What the online store holds of a view: the lineage of exports, the last finished run, the one under way."""

    lineage: str
    done: Plan | None = None
    running: Plan | None = None

    @classmethod
    def read(cls, values: dict[str, Any] | None) -> Mark | None:
        """From JSON; None for no mark, or one of another version."""
        try:
            done, running = (values or {})["done"], (values or {})["running"]
            return cls((values or {})["lineage"], done and Plan(**done), running and Plan(**running))
        except (KeyError, TypeError):
            return None


@dataclass(frozen=True, slots=True)
class Materialized:
    """Up to which moment features of a view are online, and when that was written; both UTC without a zone."""

    until: datetime
    written_at: datetime


def materialized(settings: Settings) -> dict[str, Materialized]:
    """What is online, by view; empty before the first materialisation ended, and while one writes. One small file."""
    try:
        values = json.loads(_noted(settings).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {view: Materialized(*(datetime.fromisoformat(moment) for moment in two)) for view, two in values.items()}


def materialize_views(settings: Settings, store: FeatureStore, on_rows: OnRows | None = None) -> dict[str, int]:
    """Bring every online view up to now; rows written, by view.

    A row stamped later than now (``settings.as_of``, else the clock) stays offline: it belongs to a day that is not
    over, and training would not have seen it either.
    """
    counts, done = {}, {}
    now = settings_now(settings)
    with locked(settings, "materialize"), exports(settings) as record:
        for table in ONLINE_VIEWS:
            view = _View(settings, store, table, on_rows or (lambda rows: None))
            done[table.name], counts[table.name] = view.bring_up_to(now, record)
        _note(settings, {view: plan.until for view, plan in done.items()})
        _column_store(store).settle(store.config)
        purge_retracted(record, min(plan.seq for plan in done.values()))
    return counts


class _View:
    """One view's way from the offline files to the online store."""

    def __init__(self, settings: Settings, store: FeatureStore, table: contract.Table, on_rows: OnRows) -> None:
        self._settings = settings
        self._config = store.config
        self._online = _column_store(store)
        self._view = store.get_feature_view(table.name)
        self._table = table
        self._on_rows = on_rows
        self._key = entity_keys(table)[0]

    def bring_up_to(self, now: datetime, record: sqlite3.Connection) -> tuple[Plan, int]:
        """Write what is new up to ``now``, or to the newest row where that is earlier; what is done, rows written."""
        now = min(now, self._newest_stamp())
        mark = Mark.read(self._online.read_mark(self._config, self._table.name))
        written = 0
        if mark and mark.running and self._can_resume(mark, mark.running, record, now):
            done, written = self._run(mark, mark.running, record)
            mark = Mark(mark.lineage, done)
        is_anew = mark is None or not self._is_known(mark, record, now)
        if mark is None or is_anew:
            mark = Mark(exported(record).lineage)
        plan = self._plan(mark, record, now)
        if mark.done and (plan.seq, plan.until) == (mark.done.seq, mark.done.until):
            return mark.done, written
        plan, more = self._run(mark, plan, record, is_anew)
        return plan, written + more

    def _begin(self) -> None:
        """Before the first change: from it on what is online is of no one moment, also when this run is killed."""
        _noted(self._settings).unlink(missing_ok=True)

    def _can_resume(self, mark: Mark, running: Plan, record: sqlite3.Connection, now: datetime) -> bool:
        """Whether the run that was under way would be planned the same today, but for the clock."""
        if mark.lineage != exported(record).lineage:
            return False
        return running == replace(self._plan(mark, record, now), until=running.until, rows=running.rows)

    def _is_known(self, mark: Mark, record: sqlite3.Connection, now: datetime) -> bool:
        """Whether what is online came from these exports, all of it finished, and none of it from after now."""
        present = exported(record)
        if mark.done is None or mark.lineage != present.lineage:
            return False
        return mark.done.seq >= present.purged and _moment(mark.done.until) <= now

    def _plan(self, mark: Mark, record: sqlite3.Connection, now: datetime) -> Plan:
        seq = exported(record).seq
        if mark.done is None:
            return Plan(seq, None, now.isoformat())
        has_changed, first = changed_from(record, mark.done.seq)
        if has_changed and first is None:
            return Plan(seq, None, now.isoformat())
        since = _moment(mark.done.until)
        low = min(since, datetime.combine(first, datetime.min.time())) if first else since
        return Plan(seq, low.isoformat(), now.isoformat())

    def _run(self, mark: Mark, plan: Plan, record: sqlite3.Connection, is_anew: bool = False) -> tuple[Plan, int]:
        before = plan.rows
        after = mark.done.seq if mark.done else plan.seq
        batches = self._newest(plan)
        # Rows are put in order, so the first has all files read: a damaged one fails before anything is changed.
        first = next(batches, None)
        self._begin()
        if is_anew:
            self._online.clear(self._config, self._view)
        for batch in chain([] if first is None else [first], batches):
            plan = replace(plan, rows=plan.rows + len(batch))
            self._write(batch, replace(mark, running=plan))
            self._on_rows(len(batch))
        mark = replace(mark, running=plan)
        for part in self._retracted(record, after):
            alive = set()
            for batch in self._newest(replace(plan, low=None, rows=0), part):
                self._write(batch, mark)
                alive.update(batch.column(0).to_pylist())
            gone = pa.array([entity for entity in part if entity not in alive], pa.string())
            self._online.remove(self._config, self._view, serialised_keys(gone, self._key), asdict(mark))
        self._online.remove(self._config, self._view, [], asdict(Mark(mark.lineage, done=plan)))
        return plan, plan.rows - before

    def _newest_stamp(self) -> datetime:
        """The newest row's; what is alive is counted back from it, for a log may have ended long ago."""
        files = offline_files(self._settings, self._table)
        if not files:
            return datetime.max
        with duckdb.connect() as connection:
            connection.execute("set timezone = 'UTC'")
            query = f"select max({STAMP}::timestamp) from read_parquet(?)"  # noqa: S608 - name is the contract's
            newest: datetime = connection.execute(query, [files[-1:]]).fetchone()[0]
            return newest

    def _newest(self, plan: Plan, entities: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Each entity's newest row that is alive, in chunks ordered by key: key, stamp, then the features."""
        until = _moment(plan.until)
        low = max(until - TTL[self._table.name], _moment(plan.low) if plan.low else datetime.min)
        files = offline_files(self._settings, self._table, low.date(), until.date())
        if not files:
            return
        names = ", ".join((self._key, STAMP, *feature_names(self._table)))
        only = f"and {self._key} in (select unnest($entities))" if entities is not None else ""
        query = f"""
            select {names} from read_parquet($files)
            where {STAMP} >= $low and {STAMP} <= $until {only}
            qualify row_number() over (partition by {self._key} order by {STAMP} desc) = 1
            order by {key_order(self._key)} offset {plan.rows}
        """  # noqa: S608 - names are the contract's
        values = {"files": files, "low": low.replace(tzinfo=UTC), "until": until.replace(tzinfo=UTC)}
        with duckdb.connect() as connection:
            spill = str(self._settings.features / "spill")
            connection.execute("set timezone = 'UTC'")
            connection.execute("set memory_limit = ?", [MEMORY_LIMIT])
            connection.execute("set temp_directory = ?", [spill])
            if entities is not None:
                values["entities"] = entities
            yield from connection.sql(query, params=values).to_arrow_reader(CHUNK)

    def _write(self, batch: pa.RecordBatch, mark: Mark) -> None:
        stamps = batch.column(1).cast(pa.timestamp("us")).dictionary_encode()
        known = stamps.dictionary.to_pylist()
        rows = Rows(
            serialised_keys(batch.column(0), self._key),
            [known[place] for place in stamps.indices.to_pylist()],
            {name: cells(batch.column(name), self._table.column(name).type) for name in feature_names(self._table)},
        )
        self._online.write_columns(self._config, self._view, rows, asdict(mark))

    def _retracted(self, record: sqlite3.Connection, after: int) -> Iterator[list[str]]:
        query = "select distinct entity from retracted where view = ? and seq > ?"
        rows = record.execute(query, [self._table.name, after])
        while part := [row[0] for row in rows.fetchmany(CHUNK)]:
            yield part


def _column_store(store: FeatureStore) -> ColumnStore:
    online: ColumnStore = store._get_provider().online_store
    return online


def _noted(settings: Settings) -> Path:
    return settings.features / "materialized.json"


def _note(settings: Settings, until: dict[str, str]) -> None:
    written_at = datetime.now(UTC).replace(tzinfo=None).isoformat()
    path = _noted(settings)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    values = {view: [moment, written_at] for view, moment in until.items()}
    partial.write_text(json.dumps(values), encoding="utf-8")
    partial.replace(path)


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
