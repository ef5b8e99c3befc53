"""The two gates: what passes is admitted, what is refused is quarantined whole, and each says why."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pytest

from expectations.profile import profile_catalogue, profile_events, sample_events
from expectations.validate import Verdict, check_raw, check_training_rows
from ingestion.batch import Batch, Rejected, records
from ingestion.load import admit_batch, ingest, load_pending, quarantine_batch
from marquee import contract
from marquee.errors import GateError, MarqueeError, NothingToDo
from marquee.settings import Settings

pytestmark = pytest.mark.tools
NOON = datetime(2026, 1, 1, 12)


def event(event_id: str, kind: str, minute: int = 0, **other: Any) -> dict[str, Any]:
    row = dict.fromkeys(contract.EVENTS.names) | {
        "event_id": event_id,
        "kind": kind,
        "occurred_at": NOON + timedelta(minutes=minute),
        "visitor_id": "v1",
        "device": "mobile",
    }
    if kind in contract.PRODUCT_KINDS:
        row |= {"product_id": "p1", "quantity": 1.0, "amount": 0.0}
    if kind in contract.BANNER_KINDS:
        row |= {"banner_id": "b1", "impression_id": "i1", "placement_id": "home", "position": 0, "propensity": 1.0}
    return row | other


# --- the gate on raw batches ----------------------------------------------------------------------------------------


class Shop:
    """A source of given batches."""

    def __init__(self, name: str, *batches: Batch) -> None:
        self.name = name
        self._batches = batches

    def read(self) -> Iterator[Batch]:
        yield from self._batches


CATALOGUE = (
    Batch(
        "campaigns",
        records(
            contract.CAMPAIGNS,
            [
                {
                    "campaign_id": "k1",
                    "starts_at": NOON,
                    "ends_at": NOON + timedelta(days=30),
                    "status": "active",
                }
            ],
        ),
    ),
    Batch("banners", records(contract.BANNERS, [{"banner_id": "b1", "campaign_id": "k1"}])),
)


def events(*rows: dict[str, Any]) -> Batch:
    return Batch("events", records(contract.EVENTS, list(rows)))


def shown(count: int, prefix: str, unknown: int = 0) -> list[dict[str, Any]]:
    """Impressions, the first ``unknown`` of them of a banner that no catalogue has."""
    return [
        event(f"{prefix}{i}", "impression", i, impression_id=f"{prefix}{i}", banner_id="b9" if i < unknown else "b1")
        for i in range(count)
    ]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def gate(settings: Settings) -> list[Verdict]:
    return check_raw(settings, partial(admit_batch, settings), partial(quarantine_batch, settings))


def statuses(settings: Settings) -> dict[str, tuple[str, str | None]]:
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        rows = connection.execute("select source, status, reason from raw.batches").fetchall()
    return {source: (status, reason) for source, status, reason in rows}


def test_good_batch_is_admitted_and_shown_in_the_docs(settings: Settings) -> None:
    assert gate(settings) == []
    loaded = ingest(Shop("good", *CATALOGUE, events(*shown(10, "a"))), settings)
    (verdict,) = gate(settings)
    assert verdict == Verdict(loaded.batch_id, True, 12, 5 + 17 + 17, (), ())
    assert statuses(settings) == {"good": ("admitted", None)}
    index = (settings.reports / "data_docs" / "index.html").read_text(encoding="utf-8")
    assert loaded.batch_id in index
    assert gate(settings) == []


def test_refused_batch_is_quarantined_whole_and_the_others_are_decided(settings: Settings) -> None:
    ingest(Shop("good", *CATALOGUE, events(*shown(10, "a"))), settings)
    ingest(Shop("bad", events(*shown(10, "b", unknown=3))), settings)
    ingest(Shop("later", events(*shown(10, "c"))), settings)
    with pytest.raises(GateError, match="refused 1 of 3") as caught:
        gate(settings)
    for part in ("unknown_banner_share", "observed 0.3", "max_value 0.2", "expect_column_values_to_be_between"):
        assert part in str(caught.value)
    found = statuses(settings)
    assert {source: status for source, (status, _) in found.items()} == {
        "good": "admitted",
        "bad": "quarantined",
        "later": "admitted",
    }
    assert "unknown_banner_share" in str(found["bad"][1])


def test_warning_is_reported_and_does_not_block(settings: Settings) -> None:
    ingest(Shop("good", *CATALOGUE, events(*shown(10, "a", unknown=1))), settings)
    (verdict,) = gate(settings)
    assert verdict.passed
    assert verdict.failures == ()
    assert len(verdict.warnings) == 1
    assert "unknown_banner_share: observed 0.1 " in verdict.warnings[0]
    assert statuses(settings)["good"] == ("admitted", None)


def test_catalogue_alone_passes_and_nothing_at_all_does_not(settings: Settings) -> None:
    ingest(Shop("catalogue", *CATALOGUE), settings)
    assert [(v.passed, v.rows, v.expectations) for v in gate(settings)] == [(True, 2, 5)]
    rejected = Batch("events", records(contract.EVENTS, []), [Rejected("f.csv", 2, "no visitor", "x")])
    ingest(Shop("nothing", rejected), settings)
    with pytest.raises(GateError, match="row_count: observed 0 "):
        gate(settings)


def test_batch_of_known_events_alone_is_not_empty(settings: Settings) -> None:
    rows = shown(3, "a")
    ingest(Shop("first", *CATALOGUE, events(*rows)), settings)
    ingest(Shop("again", events(*rows[:2])), settings)
    assert [(v.passed, v.rows) for v in gate(settings)] == [(True, 5), (True, 2)]


def test_gate_stops_when_its_decision_is_not_kept(settings: Settings) -> None:
    ingest(Shop("good", *CATALOGUE), settings)
    with pytest.raises(MarqueeError, match="still waits"):
        check_raw(settings, lambda _: None, lambda *_: None)


def test_event_profile_by_hand(settings: Settings) -> None:
    """Four impressions, one of an unknown banner, two clicked; of three clicks one names no known impression."""
    rows = [
        *shown(4, "a", unknown=1),
        event("c0", "click", 10, impression_id="a0"),
        event("c1", "click", 11, impression_id="a1"),
        event("c2", "click", 12, impression_id="elsewhere"),
        event("o0", "order", 24 * 60 * 9, amount=5.0),
        event("o1", "order", 24 * 60 * 9, amount=None),
    ]
    rows[1]["propensity"] = 0.25
    loaded = ingest(Shop("good", *CATALOGUE, events(*rows)), settings)
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        profile = profile_events(connection, loaded.batch_id).iloc[0].to_dict()
        catalogue = profile_catalogue(connection, loaded.batch_id).iloc[0].to_dict()
    assert profile.pop("occurred_at_min") == NOON
    assert profile.pop("occurred_at_max") == NOON + timedelta(days=9)
    assert profile == {
        "row_count": 9,
        "duplicate_event_count": 0,
        "missing_visitor_count": 0,
        "unmatched_click_share": 1 / 3,
        "unknown_banner_share": 1 / 4,
        "click_rate": 2 / 4,
        "propensity_min": 0.25,
        "propensity_max": 1.0,
        "first_year": 2026,
        "last_year": 2026,
        "largest_gap_days": 9,
        "valid_amount_share": 1.0,
    }
    assert catalogue == {
        "row_count": 11,
        "duplicate_key_count": 0,
        "negative_price_count": 0,
        "reversed_campaign_count": 0,
    }


def test_profile_sees_what_a_loader_let_through(settings: Settings) -> None:
    load_pending(settings)
    with duckdb.connect(str(settings.warehouse)) as connection:
        connection.execute("insert into raw.batches values ('x', 1, 's', 'loaded', null, timestamp '2026-01-02')")
        connection.execute(
            "insert into raw.products values ('p', null, null, -1, null, 'x'), ('p', null, null, 1, null, 'x')"
        )
        connection.execute("insert into raw.campaigns values ('k', null, '2026-01-02', '2026-01-02', 'active', 'x')")
        connection.execute(
            "insert into raw.events by name select 'e' as event_id, 'page_view' as kind, "
            "timestamp '2026-01-01' as occurred_at, '' as visitor_id, 'x' as batch_id from range(2)"
        )
        catalogue = profile_catalogue(connection, "x").iloc[0].to_dict()
        profile = profile_events(connection, "x").iloc[0].to_dict()
    assert catalogue == {
        "row_count": 5,
        "duplicate_key_count": 1,
        "negative_price_count": 1,
        "reversed_campaign_count": 1,
    }
    assert (profile["duplicate_event_count"], profile["missing_visitor_count"]) == (1, 2)
    with pytest.raises(GateError) as caught:
        gate(settings)
    for column in ("duplicate_key_count", "negative_price_count", "duplicate_event_count", "event_id"):
        assert f"column {column}: observed" in str(caught.value)


def test_sample_is_small_and_the_same_each_time(settings: Settings) -> None:
    loaded = ingest(Shop("good", *CATALOGUE, events(*shown(50, "a"))), settings)
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        first = sample_events(connection, loaded.batch_id, rows=7)
        again = sample_events(connection, loaded.batch_id, rows=7)
    assert len(first) == 7
    assert list(first.columns) == list(contract.EVENTS.names)
    assert first["event_id"].tolist() == again["event_id"].tolist() != sorted(first["event_id"])


# --- the gate on training rows --------------------------------------------------------------------------------------


def _training_rows(settings: Settings, clicked: int, total: int) -> None:
    columns = ", ".join(f"{c.name} {contract.SQL_TYPES[c.type]}" for c in contract.TRAINING_ROWS.columns)
    rows = [
        (
            f"i{i}",
            "v1",
            "b1",
            "k1",
            "s1",
            NOON,
            NOON + timedelta(days=1),
            "home",
            0,
            "mobile",
            "uniform",
            0.5,
            i < clicked,
        )
        for i in range(total)
    ]
    settings.home.mkdir(exist_ok=True)
    with duckdb.connect(str(settings.warehouse)) as connection:
        connection.execute(
            f"create schema if not exists marts; create or replace table marts.training_rows ({columns})"
        )
        if rows:
            connection.executemany(f"insert into marts.training_rows values ({', '.join('?' * len(rows[0]))})", rows)


def test_training_rows_pass_fail_and_may_not_be_there_yet(settings: Settings) -> None:
    with pytest.raises(NothingToDo, match="transform_events"):
        check_training_rows(settings)
    load_pending(settings)
    with pytest.raises(NothingToDo, match="transform_events"):
        check_training_rows(settings)
    _training_rows(settings, 1, 10)
    assert check_training_rows(settings) == Verdict("training_rows", True, 10, 10 + 6, (), ())
    _training_rows(settings, 7, 10)
    verdict = check_training_rows(settings)
    assert verdict.passed
    assert len(verdict.warnings) == 1
    _training_rows(settings, 0, 10)
    with pytest.raises(GateError, match="clicked_count: observed 0 "):
        check_training_rows(settings)
    _training_rows(settings, 0, 0)
    with pytest.raises(GateError, match="row_count: observed 0 "):
        check_training_rows(settings)
