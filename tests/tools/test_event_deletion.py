"""Deleting single events that were already loaded and built: the marts become what they would be without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest

from ingestion.deleted_events import delete_events
from ingestion.load import admit_batch, ingest, load_pending, quarantine_batch
from ingestion.simulator import Simulator
from ingestion.transform import transform
from marquee import contract
from marquee.settings import Settings

pytestmark = pytest.mark.tools


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, str]:
    settings = Settings(home=tmp_path_factory.mktemp("deletion"), events=2_000)
    batch = ingest(Simulator(seed=7, events=2_000), settings)
    admit_batch(settings, batch.batch_id)
    transform(settings)
    return settings, batch.batch_id


def rows(settings: Settings, query: str, *bound: Any) -> list[Any]:
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        return connection.execute(query, list(bound)).fetchall()


def marts(settings: Settings) -> dict[str, list[Any]]:
    return {name: rows(settings, f"from marts.{name} order by all") for name in contract.MART_TABLES}


def test_the_next_build_is_the_one_that_would_have_been(built: tuple[Settings, str]) -> None:
    settings, batch_id = built
    before = marts(settings)
    found = rows(
        settings,
        "select event_id, occurred_at::date from raw.events where kind in ('order', 'click') "
        "and occurred_at::date >= (select max(occurred_at)::date - 3 from raw.events) order by occurred_at limit 5",
    )
    first_day = found[0][1]
    delete_events(settings.log, [event_id for event_id, _ in found], "tester", "a test")
    assert load_pending(settings) == []
    result = transform(settings)
    assert result.window is not None, "the days from the first that changed, not all of history"
    assert result.window[0] == first_day
    after = marts(settings)
    assert after["session_features"] != before["session_features"]
    transform(settings, full_refresh=True)
    assert after == marts(settings)
    assert transform(settings).models == 0
    # A batch that is taken back and admitted again does not bring them back.
    quarantine_batch(settings, batch_id, "looks odd")
    admit_batch(settings, batch_id, "it does not")
    (count,) = rows(
        settings, "select count(*) from raw.events where event_id in (select unnest(?))", [e for e, _ in found]
    )[0]
    assert count == 0


def test_a_warehouse_that_is_made_anew_leaves_them_out(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, events=1_000)
    ingest(Simulator(seed=7, events=1_000), settings)
    found = [row[0] for row in rows(settings, "select event_id from raw.events order by 1 limit 7")]
    delete_events(settings.log, found, "tester", "a test")
    settings.warehouse.unlink()
    load_pending(settings)
    left = [row[0] for row in rows(settings, "select event_id from raw.events")]
    assert len(left) > 900
    assert not set(found) & set(left)
    assert rows(settings, "select sum(read - loaded - quarantined - duplicate)::int from raw.batch_tables") == [(0,)]
