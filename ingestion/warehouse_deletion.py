"""Taking single deleted events out of the raw tables, so that every batch's books still balance."""

from __future__ import annotations

from pathlib import Path

import duckdb

from ingestion.deleted_events import deleted_ids
from ingestion.warehouse import transaction
from ingestion.warehouse_erasure import have_rebuilt, loaded_rows
from marquee import contract


def take_out_deleted(connection: duckdb.DuckDBPyConnection, log: Path) -> int:
    """Bring ``raw.deleted_events`` up to the log's deletions and remove those events; returns the rows removed.

    In the books they count as duplicates, as do their copies that come later: nothing of them is loaded. The next build
    makes the days anew from the first on which one of them happened.
    """
    known = {event_id for (event_id,) in connection.execute("select event_id from raw.deleted_events").fetchall()}
    new = sorted(deleted_ids(log) - known)
    if not new:
        return 0
    with transaction(connection):
        connection.execute("create or replace temp table deleted as select unnest(?::varchar[]) as event_id", [new])
        connection.execute("insert into raw.deleted_events from deleted")
        rows = "from raw.events where event_id in (from deleted)"
        (first_day,) = connection.execute(f"select min(occurred_at)::date {rows}").fetchone()
        counts = connection.execute(f"select batch_id, count(*) {rows} group by 1").fetchall()
        loaded = loaded_rows(connection)
        connection.execute(f"delete {rows}")
        for batch_id, count in counts:
            _correct_books(connection, batch_id, count)
        have_rebuilt(connection, first_day, loaded)
    return sum(count for _, count in counts)


def _correct_books(connection: duckdb.DuckDBPyConnection, batch_id: str, count: int) -> None:
    """Turn so many of a batch's loaded events into duplicates; derived ones only when there are no others."""
    entries = connection.execute(
        "select is_derived, loaded from raw.batch_tables where batch_id = ? and table_name = ? order by is_derived",
        [batch_id, contract.EVENTS.name],
    ).fetchall()
    for is_derived, loaded in entries:
        part = min(count, loaded)
        connection.execute(
            "update raw.batch_tables set loaded = loaded - ?, duplicate = duplicate + ? "
            "where batch_id = ? and table_name = ? and is_derived = ?",
            [part, part, batch_id, contract.EVENTS.name, is_derived],
        )
        count -= part
