"""The dbt project built for real: on nothing, on a simulated shop, and when something is wrong."""

import json
import math
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

from ingestion.load import admit_batch, create_tables, ingest, load_pending
from ingestion.simulator import Simulator
from ingestion.transform import PROJECT, DbtResult, run_dbt, transform
from marquee import contract
from marquee.errors import MarqueeError, NothingToDo
from marquee.settings import Settings

pytestmark = pytest.mark.tools
WEIGHTS = {"product_view": 1.0, "page_view": 1.0, "favourite": 1.5, "cart": 1.5, "order": 3.0}
MODEL_COUNT = len(list((PROJECT / "models").rglob("*.sql")))
UNIT_TEST_COUNT = sum(
    len(yaml.safe_load(file.read_text(encoding="utf-8")).get("unit_tests", []))
    for file in (PROJECT / "models").rglob("*.yml")
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A simulated shop, loaded and admitted."""
    settings = Settings(home=tmp_path_factory.mktemp("shop"), events=3_000)
    batch = ingest(Simulator(seed=settings.seed, events=settings.events), settings)
    admit_batch(settings, batch.batch_id)
    return settings


@pytest.fixture(scope="module")
def files_before() -> list[Path]:
    return sorted(PROJECT.rglob("*"))


@pytest.fixture(scope="module")
def built(shop: Settings, files_before: list[Path]) -> DbtResult:
    return transform(shop)


def query(settings: Settings, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def test_build_runs_every_model_and_test(built: DbtResult, files_before: list[Path]) -> None:
    assert (built.models, built.unit_tests, built.warnings, built.window) == (MODEL_COUNT, 0, (), None)
    assert MODEL_COUNT > 40
    assert built.data_tests > 60
    assert sorted(PROJECT.rglob("*")) == files_before, "dbt wrote into the checkout"
    assert "DBT_DUCKDB_PATH" not in os.environ


def test_unit_tests_pass(shop: Settings, built: DbtResult) -> None:
    """They run here and not in production: what they check is the SQL, which no batch changes."""
    assert UNIT_TEST_COUNT > 30
    assert run_dbt(shop, "test", "--resource-type", "unit_test").unit_tests == UNIT_TEST_COUNT


def test_warehouse_is_free_for_other_processes_afterwards(shop: Settings, built: DbtResult) -> None:
    code = f"import duckdb; duckdb.connect({str(shop.warehouse)!r}).execute('create or replace table raw.free (x int)')"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_built_columns_are_the_contract(shop: Settings, built: DbtResult) -> None:
    described = defaultdict(list)
    for schema, table, column, kind in query(
        shop,
        "select table_schema, table_name, column_name, lower(data_type) from information_schema.columns "
        "order by table_schema, table_name, ordinal_position",
    ):
        described[schema, table].append((column, kind))
    tables = [("marts", t.name, t) for t in contract.MART_TABLES.values()]
    tables += [("staging", f"stg_{t.name}", t) for t in contract.RAW_TABLES.values()]
    assert len(tables) == 20
    for schema, name, table in tables:
        assert described[schema, name] == [(c.name, contract.SQL_TYPES[c.type]) for c in table.columns], name


def test_every_mart_has_rows(shop: Settings, built: DbtResult) -> None:
    names = sorted(path.stem for path in (PROJECT / "models" / "marts").glob("*.sql"))
    assert len(names) > 20
    # So small a shop has no two products often enough together.
    names.remove("item_cooccurrences")
    names.remove("notifications")  # nor does it send any
    for name in names:
        assert query(shop, f"select count(*) from marts.{name}")[0][0] > 0, name


def test_visitor_features_equal_a_recount_of_raw_events(shop: Settings, built: DbtResult) -> None:
    """Every value again in plain Python, each row from the events up to its day and no others."""
    expected = {}
    for visitor, events in events_by_visitor(shop).items():
        for day in sorted({event["day"] for event in events}):
            expected[visitor, day] = recount([e for e in events if e["day"] <= day], day)
    found = features(shop, contract.VISITOR_FEATURES_28D)
    year = features(shop, contract.VISITOR_FEATURES_365D)
    # The log is of 28 days: nothing leaves a window.
    assert set(found) == set(year) == set(expected)
    assert len(found) > 100
    for key, values in expected.items():
        found[key] |= year[key]
        affinity, found_affinity = values.pop("category_affinity"), json.loads(found[key].pop("category_affinity"))
        assert found[key].pop("last_seen_at") == values.pop("last_seen_at"), key
        assert found[key] == pytest.approx(values), key
        assert found_affinity == pytest.approx(affinity, abs=1e-6), key
        assert list(found_affinity) == sorted(found_affinity, key=lambda c: (-found_affinity[c], c)), key


def features(settings: Settings, table: contract.Table) -> dict[tuple[str, date], dict[str, Any]]:
    found = {}
    for row in query(settings, f"select {', '.join(table.names)} from marts.{table.name}"):
        values = dict(zip(table.names, row, strict=True))
        day = values.pop("feature_at").date() - timedelta(days=1)
        found[values.pop("visitor_id"), day] = values
    return found


def events_by_visitor(settings: Settings) -> dict[str, list[dict[str, Any]]]:
    rows = query(
        settings,
        "select e.visitor_id, e.kind, e.occurred_at, coalesce(e.amount, 0), p.category_id, e.impression_id "
        "from raw.events e left join raw.products p using (product_id) order by e.occurred_at",
    )
    label_known = dict(query(settings, "select impression_id, label_known_at from marts.impressions"))
    clicked: set[str] = set()
    result = defaultdict(list)
    for visitor, kind, at, amount, category, impression in rows:
        counts = kind == "click" and impression in label_known and at < label_known[impression]
        first_click = counts and impression not in clicked
        clicked |= {impression} if counts else set()
        result[visitor].append(
            {"kind": kind, "at": at, "day": at.date(), "amount": amount, "category": category, "click": first_click}
        )
    return result


def recount(events: list[dict[str, Any]], day: date) -> dict[str, Any]:
    month = [e for e in events if (day - e["day"]).days < 28]
    year = [e for e in events if (day - e["day"]).days < 365]
    ratings: dict[str, float] = defaultdict(float)
    for e in events:
        if e["category"] and e["kind"] in WEIGHTS:
            ratings[e["category"]] += WEIGHTS[e["kind"]] * 2 ** (-(day - e["day"]).days / 14)
    total = math.fsum(ratings.values())
    largest = sorted(ratings, key=lambda c: (-ratings[c], c))[:30]
    return {
        "last_seen_at": max(e["at"] for e in events),
        "view_count_28d": sum(e["kind"] in ("page_view", "product_view") for e in month),
        "cart_count_28d": sum(e["kind"] == "cart" for e in month),
        "order_count_28d": sum(e["kind"] == "order" for e in month),
        "order_count_365d": sum(e["kind"] == "order" for e in year),
        "order_amount_365d": math.fsum(e["amount"] for e in year if e["kind"] == "order"),
        "active_day_count_28d": len({e["day"] for e in month}),
        "visitor_impression_count_365d": sum(e["kind"] == "impression" for e in year),
        "visitor_click_count_365d": sum(e["click"] for e in year),
        "category_affinity": {c: ratings[c] / total for c in largest if ratings[c] / total >= 5e-7},
    }


def test_banner_features_are_dense_up_to_the_last_day(shop: Settings, built: DbtResult) -> None:
    last_day = query(shop, "select max(occurred_at)::date from raw.events")[0][0]
    rows = query(
        shop,
        "select banner_id, min(feature_at)::date, max(feature_at)::date, count(*) "
        "from marts.banner_features_28d group by banner_id",
    )
    first_days = dict(
        query(shop, "select banner_id, min(occurred_at)::date from raw.events where kind = 'impression' group by 1")
    )
    assert {row[0] for row in rows} == set(first_days)
    for banner, first, last, count in rows:
        assert first == first_days[banner] + timedelta(days=1)
        assert last == last_day + timedelta(days=1)
        assert count == (last - first).days + 1


def test_training_rows_are_the_impressions(shop: Settings, built: DbtResult) -> None:
    ((rows, sessions, clicked),) = query(
        shop, "select count(*), count(session_id), count(*) filter (is_clicked) from marts.training_rows"
    )
    ((shown, all_clicked),) = query(shop, "select count(*), count(*) filter (is_clicked) from marts.impressions")
    ((impressions,),) = query(shop, "select count(*) from raw.events where kind = 'impression'")
    ((flagged,),) = query(
        shop,
        "select count(*) from marts.impressions i where exists (select 1 from intermediate.int_visitor_day_flags f "
        "where f.visitor_id = i.visitor_id and f.activity_date = i.impressed_at::date)",
    )
    assert rows == sessions == impressions - flagged > 500
    assert shown == impressions
    assert 0 < clicked < rows
    ((placed, clicks),) = query(shop, "select sum(impression_count), sum(click_count) from marts.placement_days")
    ((clean, clean_clicks),) = query(
        shop, "select count(*), count(*) filter (is_clicked) from intermediate.int_impressions_clean"
    )
    assert (placed, clicks, placed) == (clean, clean_clicks, shown - flagged)
    assert clicks <= all_clicked


def test_placements_and_mix_are_json(shop: Settings, built: DbtResult) -> None:
    for placements, mix, count in query(
        shop, "select placements, category_mix, product_count from marts.banner_catalogue"
    ):
        assert json.loads(placements) == sorted(json.loads(placements))
        assert sum(json.loads(mix).values()) == pytest.approx(1, abs=1e-4)
        assert count > 0


def test_attribution_window_comes_from_the_settings(shop: Settings, built: DbtResult) -> None:
    half_a_day = shop.model_copy(update={"attribution_days": 0.5})
    try:
        run_dbt(half_a_day, "run", "--select", "int_impressions_labelled")
        ((widest,),) = query(shop, "select max(label_known_at - impressed_at) from marts.impressions")
    finally:
        run_dbt(shop, "run", "--select", "int_impressions_labelled")
    assert widest == timedelta(hours=12)
    assert query(shop, "select max(label_known_at - impressed_at) from marts.impressions") == [(timedelta(days=1),)]


def test_selection_of_nothing_is_an_error(shop: Settings, built: DbtResult) -> None:
    with pytest.raises(MarqueeError, match="ran nothing: no node matches --select no_such_model"):
        run_dbt(shop, "build", "--select", "no_such_model")


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[tuple[Settings, duckdb.DuckDBPyConnection]]:
    """An empty warehouse, open for writing; close it before dbt needs it."""
    settings = Settings(home=tmp_path)
    with duckdb.connect(str(settings.warehouse)) as connection:
        create_tables(connection)
        yield settings, connection


def test_nothing_to_do_before_a_batch_is_admitted(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "new")
    with pytest.raises(NothingToDo, match="admitted"):
        transform(settings)
    load_pending(settings)
    with pytest.raises(NothingToDo, match="admitted"):
        transform(settings)
    with duckdb.connect(str(settings.warehouse)) as connection:
        connection.execute("insert into raw.batches values ('b', 1, 's', 'loaded', null, timestamp '2026-01-01')")
    with pytest.raises(NothingToDo, match="admitted"):
        transform(settings)


def test_empty_raw_tables_make_empty_marts(bare: tuple[Settings, duckdb.DuckDBPyConnection]) -> None:
    settings, connection = bare
    connection.close()
    result = run_dbt(settings, "build", "--exclude-resource-type", "unit_test")
    assert result.models == MODEL_COUNT
    for table in contract.MART_TABLES:
        assert query(settings, f"select count(*) from marts.{table}") == [(0,)]


def test_failure_names_the_test_and_a_lost_banner_is_only_a_warning(
    bare: tuple[Settings, duckdb.DuckDBPyConnection],
) -> None:
    settings, connection = bare
    connection.execute("insert into raw.batches values ('b', 1, 's', 'admitted', null, timestamp '2026-01-01')")
    connection.execute("insert into raw.banners values ('b1', 'gone', 'Lost', null, null, 'b')")
    connection.close()
    selected = ("build", "--exclude", "test_type:unit", "--indirect-selection", "cautious", "--select")
    result = run_dbt(settings, *selected, "stg_banners", "stg_campaigns")
    assert [warning.split(":")[0] for warning in result.warnings] == [
        "relationships_stg_banners_campaign_id__campaign_id__ref_stg_campaigns_"
    ]
    with duckdb.connect(str(settings.warehouse)) as connection:
        connection.execute(
            "insert into raw.campaigns values ('k1', 'T', ?, ?, 'asleep', 'b')", [datetime(2026, 1, 1)] * 2
        )
    with pytest.raises(MarqueeError, match=r"test accepted_values_stg_campaigns_status\S* failed: Got 1 result"):
        run_dbt(settings, *selected, "stg_campaigns")


def test_a_model_that_cannot_be_built_is_named(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    with pytest.raises(MarqueeError, match=r"model stg_\w+ failed \(and \d+ more\): .*Table .*does not exist"):
        run_dbt(settings, "run", "--select", "staging")
