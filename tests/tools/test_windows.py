"""Days built one after another, some of them late, against everything built at once: row for row the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path

import duckdb
import pytest

from ingestion.load import TakenBack, create_tables, ingest, quarantine_batch
from ingestion.simulator import Simulator
from ingestion.sources import open_source
from ingestion.transform import DbtResult, run_dbt, transform
from marquee import contract
from marquee.errors import NothingToDo
from marquee.settings import Settings

pytestmark = [pytest.mark.tools, pytest.mark.slow]
DATA = Path(os.environ.get("MARQUEE_DATA") or Path(__file__).parents[3] / "shared" / "data")
DAY = timedelta(days=1)
MARTS = list(contract.MART_TABLES)
LATE = "hash(event_id) % 20 = 0 and occurred_at::date = date '{day}'"


@contextmanager
def opened(settings: Settings) -> Iterator[duckdb.DuckDBPyConnection]:
    settings.home.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(str(settings.warehouse)) as connection:
        create_tables(connection)
        yield connection


def admit(settings: Settings, source: Settings, batch: str, events: str, catalogue: bool) -> None:
    """Let the rows of ``source`` that the condition names in as one admitted batch."""
    with opened(settings) as connection:
        connection.execute(f"attach '{source.warehouse}' as source (read_only)")
        connection.execute(
            "insert into raw.batches select ?, coalesce(max(batch_number), 0) + 1, 's', 'admitted', null, "
            "now()::timestamp from raw.batches",
            [batch],
        )
        for name, table in contract.RAW_TABLES.items():
            condition = events if name == "events" else str(catalogue).lower()
            columns = ", ".join(table.names)
            (count,) = connection.execute(
                f"insert into raw.{name} select {columns}, ? from source.raw.{name} where {condition}", [batch]
            ).fetchone()
            connection.execute(
                "insert into raw.batch_tables values (?, ?, false, ?, ?, 0, 0)", [batch, name, count, count]
            )


def tables(settings: Settings) -> list[str]:
    with opened(settings) as connection:
        return tables_of(connection)


def differences(found: Settings, expected: Settings) -> dict[str, tuple[int, int]]:
    """Rows only there and rows only here, by table, for the tables that differ."""
    result = {}
    assert tables(found) == tables(expected)
    with opened(found) as connection:
        connection.execute(f"attach '{expected.warehouse}' as other (read_only)")
        for name in tables_of(connection):
            ours, theirs = f"from {name}", f"from other.{name}"
            missing, surplus = (
                connection.execute(f"select count(*) from (select * {a} except all select * {b})").fetchone()[0]
                for a, b in ((theirs, ours), (ours, theirs))
            )
            if missing or surplus:
                result[name] = (missing, surplus)
    return result


def tables_of(connection: duckdb.DuckDBPyConnection) -> list[str]:
    found = connection.execute(
        "select table_schema || '.' || table_name from information_schema.tables "
        "where table_catalog = current_database() and table_schema in ('intermediate', 'marts') order by 1"
    ).fetchall()
    return [name for (name,) in found]


def build_whole(settings: Settings, source: Settings) -> None:
    admit(settings, source, "everything", "true", catalogue=True)
    transform(settings)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A simulated shop of 48 days: some visitors come only early, and some have no session of the source's own."""
    settings = Settings(home=tmp_path_factory.mktemp("shop"), events=6_000)
    ingest(Simulator(seed=settings.seed, events=settings.events), settings)
    with opened(settings) as connection:
        connection.execute(
            "update raw.events set occurred_at = occurred_at - interval 20 day where hash(visitor_id) % 3 = 0"
        )
        connection.execute("update raw.events set session_id = null where hash(visitor_id) % 2 = 0")
        # Evening sessions that midnight cuts in two.
        connection.execute(
            "update raw.events set occurred_at = occurred_at::date + interval 1 day - interval 1 minute "
            "+ (occurred_at - date_trunc('hour', occurred_at)) / 20 "
            "where hash(visitor_id) % 5 = 0 and hour(occurred_at) > 18"
        )
        connection.execute(
            "update raw.events set occurred_at = occurred_at + interval 20 hour "
            "where kind = 'click' and hash(event_id) % 4 = 0 and occurred_at < '2026-01-31'"
        )
        # An impression that is reported again two days later, and products that move.
        connection.execute(
            "insert into raw.events by name select event_id || '-again' as event_id, "
            "occurred_at + interval 2 day as occurred_at, * exclude (event_id, occurred_at) "
            "from raw.events where kind = 'impression' and hash(event_id) % 50 = 0 and occurred_at < '2026-01-28'"
        )
        connection.execute(
            "insert into raw.product_properties "
            "select product_id, 'category_id', 'moved', timestamp '2026-01-20', batch_id "
            "from raw.products where hash(product_id) % 7 = 0"
        )
        connection.execute("create temp table newest as select max(occurred_at)::date as newest from raw.events")
        # Bots' days, one of which is not one's before the last of its events have come, late.
        connection.execute(
            "insert into raw.events by name select event_id || '-bot-' || n as event_id, 'page_view' as kind, "
            "occurred_at::date + interval 1 second * n as occurred_at, visitor_id, '/' as page, batch_id "
            "from (select * from raw.events where kind = 'impression' and occurred_at::date in "
            "(select newest - back from newest, unnest([0, 1, 2, 3, 12]) as days (back)) "
            "qualify row_number() over (partition by occurred_at::date order by occurred_at desc) <= 2), "
            "range(1001) as numbers (n)"
        )
        # One who looks at a product from just before midnight to just after it.
        connection.execute(
            "insert into raw.events by name select 'walk-' || back || '-' || n as event_id, 'product_view' as kind, "
            "newest - back::int + interval 15 second * (n::int - 1) as occurred_at, 'walker' as visitor_id, "
            "'p1' as product_id, (select min(batch_id) from raw.events) as batch_id "
            "from newest, range(14) as days (back), range(3) as numbers (n)"
        )
    return settings


@pytest.fixture(scope="module")
def days(shop: Settings) -> tuple[date, date]:
    with opened(shop) as connection:
        first, last = connection.execute(
            "select min(occurred_at)::date, max(occurred_at)::date from raw.events"
        ).fetchone()
    assert (last - first).days > 40
    return first, last


@pytest.fixture(scope="module")
def at_once(shop: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = Settings(home=tmp_path_factory.mktemp("at-once"))
    build_whole(settings, shop)
    return settings


@pytest.fixture(scope="module")
def by_day(
    shop: Settings, days: tuple[date, date], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Settings, list[DbtResult]]:
    """The same shop in five batches: the bulk, a day, a day with late events of ten days ago, and the last two days."""
    settings, last = Settings(home=tmp_path_factory.mktemp("by-day")), days[1]
    late = LATE.format(day=last - 12 * DAY)
    steps = [
        f"occurred_at < date '{last - 3 * DAY}' and not ({late})",
        f"occurred_at::date = date '{last - 3 * DAY}'",
        f"occurred_at::date = date '{last - 2 * DAY}' or ({late})",
        f"occurred_at >= date '{last - DAY}'",
    ]
    results = []
    for number, events in enumerate(steps):
        admit(settings, shop, f"step-{number}", events, catalogue=number == 0)
        results.append(transform(settings))
    return settings, results


def test_each_build_is_of_the_days_that_are_new(
    by_day: tuple[Settings, list[DbtResult]], days: tuple[date, date]
) -> None:
    last = days[1]
    assert [result.window for result in by_day[1]] == [
        None,
        (last - 3 * DAY, last - 3 * DAY),
        (last - 12 * DAY, last - 2 * DAY),
        (last - DAY, last),
    ]
    # New events alone leave views and the tests of the catalogue out.
    assert all(result.models > 25 and result.data_tests > 40 for result in by_day[1])
    assert by_day[1][1].models < by_day[1][0].models


def test_days_one_after_another_equal_everything_at_once(
    by_day: tuple[Settings, list[DbtResult]], at_once: Settings
) -> None:
    assert len(tables(at_once)) > 35
    assert differences(by_day[0], at_once) == {}


def test_the_comparison_sees_a_single_changed_row(at_once: Settings, tmp_path: Path) -> None:
    changed = Settings(home=tmp_path)
    changed.warehouse.write_bytes(at_once.warehouse.read_bytes())
    with opened(changed) as connection:
        connection.execute(
            "update marts.visitors set event_count = event_count + 1 "
            "where visitor_id = (select min(visitor_id) from marts.visitors)"
        )
    assert differences(changed, at_once) == {"marts.visitors": (1, 1)}


def test_the_shop_has_what_windows_can_get_wrong(at_once: Settings) -> None:
    counts = {
        "sessions over midnight": "from marts.sessions where started_at::date < ended_at::date",
        "clicks a day after": "from marts.impressions where clicked_at::date > impressed_at::date",
        "days without events": "from marts.visitor_features_28d where not exists (select 1 "
        "from intermediate.int_visitor_days d where d.visitor_id = visitor_features_28d.visitor_id "
        "and d.activity_date + interval 1 day = feature_at)",
        "attributed orders": "from intermediate.int_orders_attributed",
        "moved products": "from intermediate.int_events_sessionised where category_id = 'moved'",
        "repeated reports": "from raw.events where event_id like '%-again'",
        "impressions of bots": "from intermediate.int_impressions_labelled where (visitor_id, impressed_date) in "
        "(select (visitor_id, activity_date) from intermediate.int_visitor_day_flags)",
        "dwells over midnight": "from (select event_date, lead(event_date) over session as next_date, "
        "lead(occurred_at) over session - occurred_at as gap from intermediate.int_events_sessionised "
        "window session as (partition by visitor_id, session_id order by occurred_at, event_id)) "
        "where event_date < next_date and gap < interval 1 hour",
    }
    with opened(at_once) as connection:
        found = {about: connection.execute(f"select count(*) {sql}").fetchone()[0] for about, sql in counts.items()}
    assert min(found.values()) > 5, found


def test_a_middle_day_built_again_changes_nothing(
    by_day: tuple[Settings, list[DbtResult]], at_once: Settings, days: tuple[date, date]
) -> None:
    settings, middle = by_day[0], days[1] - 9 * DAY
    assert transform(settings, from_date=middle, to_date=middle + DAY).window == (middle, middle + DAY)
    assert differences(settings, at_once) == {}
    assert transform(settings) == DbtResult(0, 0, 0, ())


def test_a_changed_catalogue_value_is_built_back_to_the_first_event_on_it(
    by_day: tuple[Settings, list[DbtResult]], shop: Settings, tmp_path: Path
) -> None:
    settings, change = Settings(home=tmp_path / "grown"), Settings(home=tmp_path / "change")
    settings.home.mkdir()
    settings.warehouse.write_bytes(by_day[0].warehouse.read_bytes())
    with opened(change), opened(settings) as connection:
        banner, first = connection.execute(
            "select banner_id, min(occurred_at)::date from raw.events where kind = 'impression' "
            "group by 1 order by 2 desc, 1 limit 1"
        ).fetchone()
        campaign = connection.execute("select min(campaign_id) from raw.campaigns").fetchone()[0]
    with opened(change) as connection:
        connection.execute("insert into raw.banners values (?, ?, 'Moved', null, null, 'x')", [banner, campaign])
    admit(settings, change, "catalogue", "true", catalogue=True)
    assert transform(settings).window == (first, by_day[1][-1].window[1])
    whole = Settings(home=tmp_path / "whole")
    whole.home.mkdir()
    whole.warehouse.write_bytes(settings.warehouse.read_bytes())
    assert transform(whole, full_refresh=True).window is None
    assert differences(settings, whole) == {}


def test_an_interrupted_build_is_made_up_for(by_day: tuple[Settings, list[DbtResult]], at_once: Settings) -> None:
    """Half of a window's models built and the rest not, as a kill leaves it."""
    settings, last = by_day[0], by_day[1][-1].window[1]
    with opened(settings) as connection:
        connection.execute("delete from raw.built_batches where batch_id = 'step-3'")
        connection.execute("delete from intermediate.int_events_sessionised where event_date >= ?", [last - DAY])
    run_dbt(settings, "run", "--select", "int_events_sessionised", window=(last - DAY, last))
    with opened(settings) as connection:
        # Not those that began before: rows are replaced in one transaction.
        connection.execute("delete from marts.sessions where started_at >= ?", [last - DAY])
    assert transform(settings).window == (last - DAY, last)
    assert differences(settings, at_once) == {}


def test_a_batch_that_is_taken_back_leaves_nothing_in_the_marts(
    by_day: tuple[Settings, list[DbtResult]], at_once: Settings, shop: Settings, tmp_path: Path
) -> None:
    """One that was let in though it is of days to come; then all the others."""
    settings, last = Settings(home=tmp_path / "home"), by_day[1][-1].window[1]
    settings.home.mkdir()
    settings.warehouse.write_bytes(by_day[0].warehouse.read_bytes())
    future = Settings(home=tmp_path / "future")
    with opened(future) as connection:
        connection.execute(f"attach '{shop.warehouse}' as shop (read_only)")
        connection.execute(
            "insert into raw.events by name select event_id || '-future' as event_id, impression_id || '-future' as "
            "impression_id, occurred_at + interval 10 day as occurred_at, * exclude (event_id, impression_id, "
            "occurred_at) from shop.raw.events where occurred_at::date = ?",
            [last],
        )
    admit(settings, future, "future", "true", catalogue=False)
    assert transform(settings).window == (last + DAY, last + 10 * DAY)
    assert len(differences(settings, at_once)) > 20
    assert quarantine_batch(settings, "future", "ada: the clock was ahead") == TakenBack((), was_built=True)
    assert transform(settings).window is None
    assert differences(settings, at_once) == {}
    for number in range(4):
        taken = quarantine_batch(settings, f"step-{number}", "ada: all of it")
        assert taken is not None
        assert taken.was_built
    assert transform(settings).models > 25
    with opened(settings) as connection:
        counts = {name: connection.execute(f"select count(*) from marts.{name}").fetchone() for name in MARTS}
    assert counts == dict.fromkeys(MARTS, (0,))
    with pytest.raises(NothingToDo, match="no admitted batch"):
        transform(settings)


def test_real_invoices_by_day_equal_everything_at_once(tmp_path: Path) -> None:
    path = DATA / "online_retail_uci"
    if not path.exists():
        pytest.skip(f"online_retail_uci is not under {DATA}; set MARQUEE_DATA to the folder that holds it")
    source = Settings(home=tmp_path / "source")
    ingest(open_source("online-retail", path), source)
    with opened(source) as connection:
        connection.execute("delete from raw.events where occurred_at >= '2011-01-20'")
        assert connection.execute("select count(*) from raw.events").fetchone()[0] > 40_000
    settings, whole = Settings(home=tmp_path / "by-day"), Settings(home=tmp_path / "at-once")
    late = LATE.format(day="2010-12-10")
    for batch, events in {
        "first": f"occurred_at < '2011-01-18' and not ({late})",
        "second": "occurred_at::date = date '2011-01-18'",
        "third": f"occurred_at >= '2011-01-19' or ({late})",
    }.items():
        admit(settings, source, batch, events, catalogue=batch == "first")
        transform(settings)
    build_whole(whole, source)
    assert differences(settings, whole) == {}
