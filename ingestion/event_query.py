"""Events as the log has them: whatever was acknowledged a moment ago, without waiting for a load or the warehouse.

An event comes once however often it was sent, as the earliest of its copies. Forgotten visitors and deleted events do
not come. How the files are read: ``event_files``.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from ingestion.batch import arrow_schema
from ingestion.event_files import opened_log
from ingestion.forgotten import Forgotten
from ingestion.rows import EPOCH
from marquee import contract
from marquee.erasures import tombstones
from marquee.settings import Settings

CHUNK_ROWS: Final = 10_000
"""Events read at once: they bound memory."""
FILTERS: Final = (
    *("kind", "visitor_id", "banner_id", "placement_id", "product_id"),
    *("session_id", "request_id", "arm", "policy"),
)
"""Columns that a query may ask for by value."""
SCHEMA: Final = pa.schema([pa.field(one.name, one.type) for one in arrow_schema(contract.EVENTS)])
"""Of the chunks that are read."""
_MICROSECOND: Final = datetime.resolution


class Place(NamedTuple):
    """A place in the order of events, just behind the one so named."""

    occurred_at: datetime
    event_id: str

    @property
    def cursor(self) -> str:
        """The place as opaque text; ``place_of`` reads it."""
        micros = (self.occurred_at - EPOCH) // _MICROSECOND
        return base64.urlsafe_b64encode(json.dumps([micros, self.event_id]).encode()).decode().rstrip("=")


def place_of(cursor: str) -> Place:
    """The place that a cursor names.

    Raises:
        ValueError: it is none that ``Place.cursor`` gave.
    """
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        micros, event_id = json.loads(raw)
        place = Place(EPOCH + micros * _MICROSECOND, event_id)
        if type(micros) is int and isinstance(event_id, str) and place.cursor == cursor:
            event_id.encode()
            return place
    except (ValueError, TypeError, OverflowError, binascii.Error, RecursionError):
        pass
    raise ValueError("is no cursor that this service gave")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events: by the value of columns of ``FILTERS``, and from ``since`` to before ``until`` (UTC)."""

    equals: Mapping[str, str] = field(default_factory=dict)
    since: datetime | None = None
    until: datetime | None = None

    def condition(self, after: Place | None = None) -> tuple[str, dict[str, Any]]:
        """The SQL condition, those behind a place only, and the values that it binds."""
        parts: list[str] = []
        bound: dict[str, Any] = {}
        for name in FILTERS:
            if name in self.equals:
                parts.append(f"{name} = ${name}")
                bound[name] = self.equals[name]
        for name, sign, moment in (("since", ">=", self.since), ("until", "<", self.until)):
            if moment is not None:
                parts.append(f"occurred_at {sign} ${name}")
                bound[name] = moment
        if after is not None:
            parts.append("occurred_at >= $at and (occurred_at > $at or event_id > $id)")
            bound |= {"at": after.occurred_at, "id": after.event_id}
        return " and ".join(parts) or "true", bound


@dataclass(frozen=True, slots=True)
class Page:
    """Events in order of time, without what is not known of them, and the place of the last if more follow."""

    events: list[dict[str, Any]]
    rest: Place | None


def read_page(settings: Settings, wanted: Wanted, limit: int, after: Place | None = None) -> Page:
    """At most ``limit`` events by time and id, behind ``after``.

    Raises:
        MarqueeError: the log cannot be read.
    """
    rows: list[dict[str, Any]] = []
    with opened_log(settings) as log:
        for chunk in _chunks(settings, log.connection, wanted, limit + 1, after):
            rows += rows_of(chunk)
            if len(rows) > limit:
                break
    last = rows[limit - 1] if len(rows) > limit else None
    return Page(rows[:limit], Place(last["occurred_at"], last["event_id"]) if last else None)


def newest_events(settings: Settings, visitor_id: str, limit: int) -> list[dict[str, Any]]:
    """A visitor's last events, newest first, as ``Page`` has them.

    Raises:
        MarqueeError: the log cannot be read.
    """
    last: deque[dict[str, Any]] = deque(maxlen=limit)
    with opened_log(settings) as log:
        for chunk in _chunks(settings, log.connection, Wanted({"visitor_id": visitor_id}), CHUNK_ROWS, None):
            last.extend(rows_of(chunk))
    return list(last)[::-1]


def rows_of(chunk: pa.RecordBatch) -> list[dict[str, Any]]:
    """Events as dictionaries, without what is not known."""
    return [{name: value for name, value in row.items() if value is not None} for row in chunk.to_pylist()]


def one_each(chunk: pa.RecordBatch) -> pa.RecordBatch:
    """Rows in order, without those that equal the one before in time and id."""
    if not chunk.num_rows:
        return chunk
    ids, moments = chunk.column("event_id"), chunk.column("occurred_at")
    repeats = pc.and_(pc.equal(ids[1:], ids[:-1]), pc.equal(moments[1:], moments[:-1]))
    return chunk.filter(pa.concat_arrays([pa.array([True]), pc.invert(repeats)]))


def without_forgotten(settings: Settings, chunk: pa.RecordBatch) -> pa.RecordBatch:
    """Rows of visitors who were not forgotten since."""
    forgotten = tombstones(settings)
    return chunk.filter(pc.invert(Forgotten(forgotten).rows(chunk))) if forgotten else chunk


def one_batch(table: pa.Table) -> pa.RecordBatch:
    """A table of any columns' order as one batch of ``SCHEMA``."""
    batches = table.select(SCHEMA.names).cast(SCHEMA).combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], SCHEMA)


def _chunks(
    settings: Settings, connection: duckdb.DuckDBPyConnection, wanted: Wanted, size: int, after: Place | None
) -> Iterator[pa.RecordBatch]:
    """Events behind a place, of at most ``size`` rows at once; each look goes through the whole log."""
    is_last = False
    while not is_last:
        condition, bound = wanted.condition(after)
        query = f"from log where {condition} order by occurred_at, event_id limit {int(size)}"
        chunk = one_batch(connection.sql(query, params=bound).to_arrow_table())
        is_last = chunk.num_rows < size
        if chunk.num_rows:
            after = Place(chunk.column("occurred_at")[-1].as_py(), chunk.column("event_id")[-1].as_py())
            yield without_forgotten(settings, _earliest(connection, one_each(chunk)))


def _earliest(connection: duckdb.DuckDBPyConnection, chunk: pa.RecordBatch) -> pa.RecordBatch:
    """Rows of which no copy is of an earlier time."""
    connection.register("chunk", pa.Table.from_batches([chunk]))
    found = connection.execute(
        "select log.event_id, min(log.occurred_at) as first_at from log join chunk using (event_id) "
        "group by 1 having min(log.occurred_at) < max(log.occurred_at)"
    ).fetchall()
    connection.unregister("chunk")
    first = dict(found)
    if not first:
        return chunk
    pairs = zip(chunk.column("event_id").to_pylist(), chunk.column("occurred_at").to_pylist(), strict=True)
    return chunk.filter(pa.array([first.get(event_id, moment) == moment for event_id, moment in pairs]))
