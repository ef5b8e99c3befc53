"""Which days are due, decided on raw tables alone."""

import os
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from types import SimpleNamespace

import duckdb
import pytest

from ingestion.builds import Asked, Build, finish_build, has_batches, next_build, note_taken_back, start_build
from ingestion.transform import _only_build, _raise_on_failure, transform
from ingestion.warehouse import create_tables
from marquee import contract
from marquee.errors import MarqueeError, WarehouseBusy
from marquee.settings import Settings

Connection = duckdb.DuckDBPyConnection
TARGET, HASH, NOTHING = "duckdb", "v1", Asked()


@pytest.fixture
def warehouse() -> Iterator[Connection]:
    """A warehouse with marts and one built batch: events on 5 and 9 January, a campaign, two banners, a product."""
    with duckdb.connect() as connection:
        create_tables(connection)
        connection.execute("create schema marts")
        for name in contract.MART_TABLES:
            connection.execute(f"create table marts.{name} (x int)")
        add_batch(connection, "first", {"e1": date(2026, 1, 5), "e2": date(2026, 1, 9)})
        connection.execute("update raw.events set banner_id = 'b1', product_id = 'lamp' where event_id = 'e2'")
        connection.execute(
            "insert into raw.campaigns values ('k1', 'T', '2026-01-01', '2026-02-01', 'active', 'first')"
        )
        connection.execute("insert into raw.banners values ('b1', 'k1', 'T', null, null, 'first')")
        connection.execute("insert into raw.banners values ('b2', 'k1', 'T', null, null, 'first')")
        connection.execute("insert into raw.products values ('lamp', 'lights', 'Lamp', 5, true, 'first')")
        build(connection)
        yield connection


def add_batch(connection: Connection, batch: str, events: dict[str, date], status: str = "admitted") -> None:
    connection.execute(
        "insert into raw.batches select ?, coalesce(max(batch_number), 0) + 1, 's', ?, null, ? from raw.batches",
        [batch, status, datetime(2026, 1, 1)],
    )
    connection.execute("insert into raw.batch_tables values (?, 'events', false, 0, ?, 0, 0)", [batch, len(events)])
    for event_id, day in events.items():
        connection.execute(
            "insert into raw.events (event_id, kind, occurred_at, visitor_id, batch_id) values (?, 'other', ?, 'v', ?)",
            [event_id, datetime(day.year, day.month, day.day, 12), batch],
        )


def due(connection: Connection, asked: Asked = NOTHING, vars_hash: str = HASH) -> Build | None:
    return next_build(connection, TARGET, vars_hash, asked)


def build(connection: Connection, asked: Asked = NOTHING) -> Build:
    found = due(connection, asked)
    assert found is not None
    finish_build(connection, start_build(connection, TARGET, HASH, found), TARGET, found)
    return found


def window(first: int, last: int, covers_pending: bool = True, has_catalogue: bool = False) -> Build:
    return Build(date(2026, 1, first), date(2026, 1, last), False, covers_pending, has_catalogue)


FULL = Build(date(2026, 1, 5), date(2026, 1, 9), is_full=True)


def test_the_first_build_is_of_everything_and_the_next_of_nothing(warehouse: Connection) -> None:
    books = "select build_id, from_date, to_date, is_full, finished_at >= started_at from raw.builds"
    assert warehouse.execute(books).fetchall() == [(1, FULL.from_date, FULL.to_date, True, True)]
    assert due(warehouse) is None


def test_a_new_day_is_a_window_of_the_days_since(warehouse: Connection) -> None:
    add_batch(warehouse, "second", {"e3": date(2026, 1, 12)})
    # Features decay on the days between, too.
    assert build(warehouse) == window(10, 12)
    assert due(warehouse) is None


def test_a_late_event_reaches_from_its_day_to_the_newest(warehouse: Connection) -> None:
    add_batch(warehouse, "late", {"e3": date(2026, 1, 7)})
    assert build(warehouse) == window(7, 9)


def test_an_unchecked_batch_counts_for_nothing(warehouse: Connection) -> None:
    add_batch(warehouse, "unchecked", {"e3": date(2026, 1, 12)}, "loaded")
    assert due(warehouse) is None


def test_a_batch_that_gained_rows_is_built_again(warehouse: Connection) -> None:
    warehouse.execute("update raw.batch_tables set loaded = loaded + 1")
    assert due(warehouse) == window(5, 9, has_catalogue=True)


@pytest.mark.parametrize(
    "change",
    [
        "update raw.batches set status = 'quarantined' where batch_id = 'first'",
        "drop table marts.training_rows",
        "update raw.builds set vars_hash = 'older'",
        "update raw.builds set target = 'postgres:1'",
        "delete from raw.builds",
        "insert into raw.builds values (2, 'duckdb', '2026-01-05', '2026-01-09', true, 'v1', '2026-01-10', null, true)",
    ],
)
def test_everything_is_built_anew(warehouse: Connection, change: str) -> None:
    warehouse.execute(change)
    add_batch(warehouse, "second", {"e1": date(2026, 1, 5), "e2": date(2026, 1, 9)})
    assert due(warehouse) == FULL


def test_changed_variables_build_everything_anew(warehouse: Connection) -> None:
    assert due(warehouse, vars_hash="v2") == FULL


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("insert into raw.campaigns values ('k1', 'T', '2026-01-01', '2026-03-01', 'active', 'new')", window(9, 9)),
        ("insert into raw.banners values ('b1', 'k2', 'T', null, null, 'new')", window(9, 9)),
        ("insert into raw.products values ('lamp', 'sale', 'Lamp', 5, true, 'new')", window(9, 9)),
        ("insert into raw.banner_products values ('b1', 'c1', 'lamp', 'new')", window(9, 9)),
        ("insert into raw.product_properties values ('lamp', 'category_id', 'x', '2026-01-01', 'new')", window(9, 9)),
        # What concerns no event of the past: the newest day, for the tables that have no days.
        ("insert into raw.banners values ('b2', 'k2', 'T', null, null, 'new')", window(12, 12)),
        (
            "insert into raw.campaigns values ('k1', 'Other', '2026-01-01', '2026-02-01', 'paused', 'new')",
            window(12, 12),
        ),
        ("insert into raw.products values ('lamp', 'lights', 'Lamp', 6, false, 'new')", window(12, 12)),
        ("insert into raw.product_properties values ('lamp', 'category_id', 'x', '2026-01-10', 'new')", window(12, 12)),
        ("insert into raw.product_properties values ('lamp', 'colour', 'x', '2026-01-01', 'new')", window(12, 12)),
    ],
)
def test_a_catalogue_value_reaches_back_to_the_first_event_on_it(
    warehouse: Connection, rows: str, expected: Build
) -> None:
    add_batch(warehouse, "newest", {"e3": date(2026, 1, 12)})
    build(warehouse)
    add_batch(warehouse, "new", {})
    warehouse.execute(rows)
    assert due(warehouse) == Build(expected.from_date, date(2026, 1, 12), is_full=False, has_catalogue=True)


def test_an_unfinished_window_is_made_up_for(warehouse: Connection) -> None:
    add_batch(warehouse, "late", {"e3": date(2026, 1, 7)})
    found = due(warehouse)
    assert found is not None
    start_build(warehouse, TARGET, HASH, found)
    # Even when what it was for is gone by then.
    warehouse.execute("update raw.batches set status = 'quarantined' where batch_id = 'late'")
    assert build(warehouse) == window(7, 9)
    assert due(warehouse) is None


def test_days_asked_for_are_built_and_what_is_pending_stays_so(warehouse: Connection) -> None:
    add_batch(warehouse, "late", {"e3": date(2026, 1, 7)})
    assert build(warehouse, Asked(date(2026, 1, 8), date(2026, 1, 8))) == window(
        8, 8, covers_pending=False, has_catalogue=True
    )
    assert due(warehouse) == window(7, 9)
    assert build(warehouse, Asked(date(2026, 1, 6))) == window(6, 9, has_catalogue=True)
    assert due(warehouse) is None
    assert build(warehouse, Asked(to_date=date(2026, 1, 6))) == window(5, 6, has_catalogue=True)
    assert due(warehouse, Asked(full_refresh=True)) == FULL


def test_days_without_events_cannot_be_asked_for(warehouse: Connection) -> None:
    with pytest.raises(MarqueeError, match="there are events from 2026-01-05 to 2026-01-09"):
        due(warehouse, Asked(date(2026, 2, 1), date(2026, 2, 2)))


def test_a_batch_admitted_while_dbt_runs_is_due_afterwards(warehouse: Connection) -> None:
    add_batch(warehouse, "second", {"e3": date(2026, 1, 10)})
    running = due(warehouse)
    assert running is not None
    number = start_build(warehouse, TARGET, HASH, running)
    add_batch(warehouse, "late", {"e4": date(2026, 1, 6)})
    finish_build(warehouse, number, TARGET, running)
    again = due(warehouse)
    assert again is not None
    assert again.window == (date(2026, 1, 6), date(2026, 1, 10))


def test_a_batch_keeps_the_number_of_the_build_that_first_covered_it(warehouse: Connection) -> None:
    add_batch(warehouse, "second", {"e3": date(2026, 1, 10)})
    build(warehouse)
    found = warehouse.execute("select batch_id, build_id from raw.built_batches order by all").fetchall()
    assert found == [("first", 1), ("second", 2)]


def test_days_before_a_window_that_was_asked_for_are_due_still(warehouse: Connection) -> None:
    add_batch(warehouse, "second", {"e3": date(2026, 1, 12)})
    first = due(warehouse)
    assert first is not None
    assert first.window == (date(2026, 1, 10), date(2026, 1, 12))
    build(warehouse, Asked(date(2026, 1, 12), date(2026, 1, 12)))
    left = due(warehouse)
    assert left is not None
    assert left.window == (date(2026, 1, 10), date(2026, 1, 12))


# --- batches that are taken back


def take_back(connection: Connection, batch: str) -> bool:
    was_built = note_taken_back(connection, batch)
    connection.execute("update raw.batches set status = 'quarantined' where batch_id = ?", [batch])
    connection.execute("delete from raw.events where batch_id = ?", [batch])
    return was_built


def test_a_built_batch_that_is_taken_back_has_everything_built_anew(warehouse: Connection) -> None:
    add_batch(warehouse, "future", {"e3": date(2027, 1, 1)})
    build(warehouse)
    assert take_back(warehouse, "future")
    assert build(warehouse) == FULL
    assert due(warehouse) is None


def test_a_batch_that_no_build_has_seen_leaves_nothing_to_do(warehouse: Connection) -> None:
    add_batch(warehouse, "second", {"e3": date(2026, 1, 12)})
    assert not take_back(warehouse, "second")
    assert due(warehouse) is None


@pytest.mark.parametrize("is_finished", [True, False], ids=["asked for", "interrupted"])
def test_a_batch_of_which_a_part_was_built_counts_as_built(warehouse: Connection, is_finished: bool) -> None:
    """Days 10 to 12 are due of it; a build of day 12 alone ended, or one of all of them began."""
    add_batch(warehouse, "second", {"e3": date(2026, 1, 10), "e4": date(2026, 1, 12)})
    part = due(warehouse, Asked(date(2026, 1, 12)) if is_finished else NOTHING)
    assert part is not None
    number = start_build(warehouse, TARGET, HASH, part)
    if is_finished:
        finish_build(warehouse, number, TARGET, part)
    assert take_back(warehouse, "second")
    assert due(warehouse) == FULL
    # Brought back before that, it is due, and not taken for built.
    warehouse.execute("update raw.batches set status = 'admitted' where batch_id = 'second'")
    warehouse.execute(
        "insert into raw.events (event_id, kind, occurred_at, visitor_id, batch_id) "
        "values ('e3', 'other', '2026-01-10', 'v', 'second'), ('e4', 'other', '2026-01-12', 'v', 'second')"
    )
    again = build(warehouse)
    assert again.window == (date(2026, 1, 10), date(2026, 1, 12))
    assert due(warehouse) is None


def test_when_all_is_taken_back_an_empty_build_is_due_once(warehouse: Connection) -> None:
    take_back(warehouse, "first")
    assert has_batches(warehouse)
    assert build(warehouse) == Build(None, None, is_full=True)
    assert not has_batches(warehouse)


def test_days_that_are_gone_are_not_left_in_the_marts(warehouse: Connection) -> None:
    """As after a forgotten visitor who alone did something on the last day."""
    add_batch(warehouse, "last", {"e3": date(2026, 1, 12)})
    found = build(warehouse)
    start_build(warehouse, TARGET, HASH, Build(date(2026, 1, 12), date(2026, 1, 12), is_full=False))
    warehouse.execute("delete from raw.events where event_id = 'e3'")
    assert found.window == (date(2026, 1, 10), date(2026, 1, 12))
    assert build(warehouse) == FULL
    assert due(warehouse) is None


# --- one build at a time


def test_days_and_a_full_refresh_are_not_asked_for_together(tmp_path: Path) -> None:
    settings, day = Settings(home=tmp_path / "home"), date(2026, 1, 5)
    for asked in ({"from_date": day}, {"to_date": day}, {"from_date": day, "to_date": day}):
        with pytest.raises(MarqueeError, match="ask for it or for days, not for both"):
            transform(settings, full_refresh=True, **asked)
    assert not settings.home.exists()


def test_a_second_build_at_the_same_time_leaves_no_trace(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    with duckdb.connect(str(settings.warehouse)) as connection:
        create_tables(connection)
        add_batch(connection, "first", {"e1": date(2026, 1, 5)})
    with _only_build(settings):
        for _ in range(2):
            with pytest.raises(WarehouseBusy, match=rf"^another build is running in process {os.getpid()}; wait for"):
                transform(settings)
    with duckdb.connect(str(settings.warehouse)) as connection:
        begun = "select 1 from information_schema.tables where table_schema = 'raw' and table_name = 'builds'"
        assert connection.execute(begun).fetchall() == []
    with _only_build(settings):
        assert (tmp_path / "dbt" / "build.lock").read_text() == f"process {os.getpid()}"


def test_a_warehouse_that_is_taken_while_dbt_runs_is_told_of_in_our_words() -> None:
    held = 'IO Error: Could not set lock on file "/x/warehouse.duckdb": Conflicting lock is held in /bin/py (PID 12).'
    node = SimpleNamespace(resource_type="model", name="stg_events")
    failed = [SimpleNamespace(status="error", message=f"Runtime Error\n  {held}", node=node)]
    for answer, results in (
        (SimpleNamespace(success=False, exception=RuntimeError(f"Runtime Error\n  {held}")), []),
        (SimpleNamespace(success=False, exception=None), failed),
    ):
        with pytest.raises(WarehouseBusy, match=r"^the warehouse is in use by process 12 \(/bin/py\); wait for it"):
            _raise_on_failure("build", answer, results)
    failed[0].message = "Runtime Error in model\n  no such column"
    with pytest.raises(MarqueeError, match="model stg_events failed: no such column") as caught:
        _raise_on_failure("build", SimpleNamespace(success=False, exception=None), failed)
    assert not isinstance(caught.value, WarehouseBusy)
