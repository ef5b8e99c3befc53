"""The two gates: what passes is admitted, what is refused is quarantined whole, and each says why."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from math import isnan
from pathlib import Path
from typing import Any

import duckdb
import pytest

from expectations import history
from expectations.profile import count_days, profile_catalogue, profile_events, sample_events
from expectations.validate import Verdict, _latest_now, accept_training_rows, check_raw, check_training_rows
from ingestion.batch import Batch, Rejected, records
from ingestion.load import admit_batch, ingest, load_pending, quarantine_batch
from marquee import contract
from marquee.erasures import ERASED
from marquee.errors import GateError, MarqueeError, NothingToDo
from marquee.settings import Settings, settings_now

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
    if kind in contract.NOTIFICATION_KINDS:
        row |= {"notification_id": "n1", "notification_type": "price_drop"}
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
    # Without clicks and orders some of it had nothing to be judged by, and drift had no history.
    unjudged = ("drift: no history yet, 0 of the 3 trailing days that its source must have",)
    assert verdict == Verdict(loaded.batch_id, True, 12, verdict.expectations, (), (), unjudged)
    assert 9 < verdict.expectations < 9 + 20 + 17
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
    assert [(v.passed, v.rows, v.expectations) for v in gate(settings)] == [(True, 2, 7)]
    rejected = Batch("events", records(contract.EVENTS, []), [Rejected("f.csv", 2, "no visitor", "x")])
    ingest(Shop("nothing", rejected), settings)
    with pytest.raises(GateError, match="row_count: observed 0 "):
        gate(settings)


def test_batch_of_known_events_alone_is_not_empty(settings: Settings) -> None:
    rows = shown(3, "a")
    ingest(Shop("first", *CATALOGUE, events(*rows)), settings)
    ingest(Shop("again", events(*rows[:2])), settings)
    assert [(v.passed, v.rows) for v in gate(settings)] == [(True, 5), (True, 2)]


def bad(count: int, reason: str = "propensity 7.0 is above 1") -> list[Rejected]:
    return [Rejected("f.csv", number + 2, reason, "" if reason == ERASED else "x") for number in range(count)]


def with_rejected(rows: list[dict[str, Any]], rejected: list[Rejected]) -> Batch:
    return Batch("events", records(contract.EVENTS, rows), rejected)


@pytest.mark.parametrize(
    ("good", "rejected", "passed", "warns"),
    [(990, 10, True, False), (980, 20, True, True), (500, 500, True, True), (10, 990, False, False)],
)
def test_rows_that_became_no_records_are_held_against_a_batch(
    settings: Settings, good: int, rejected: int, passed: bool, warns: bool
) -> None:
    ingest(Shop("shop", *CATALOGUE), settings)
    gate(settings)
    ingest(Shop("shop", with_rejected(shown(good, "a"), bad(rejected))), settings)
    if passed:
        (verdict,) = gate(settings)
        assert [text.partition(":")[0] for text in verdict.warnings] == ["column rejected_row_share"] * warns
        return
    with pytest.raises(GateError, match=r"column rejected_row_share: observed 0\.99 "):
        gate(settings)


def test_rows_of_forgotten_visitors_are_not_held_against_a_batch(settings: Settings) -> None:
    ingest(Shop("shop", *CATALOGUE, with_rejected(shown(2, "a"), bad(98, ERASED) + bad(1))), settings)
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        (batch_id,) = connection.execute("select batch_id from raw.batches").fetchone()
        profile = profile_catalogue(connection, batch_id).iloc[0]
    # Two events, two rows of the catalogue and one bad row; the 98 are nobody's.
    assert profile["rejected_row_share"] == pytest.approx(1 / 5)
    (verdict,) = gate(settings)
    assert (verdict.passed, verdict.rows) == (True, 102)


def test_a_batch_of_forgotten_visitors_alone_passes_quietly(settings: Settings) -> None:
    ingest(Shop("forgotten", with_rejected([], bad(3, ERASED))), settings)
    (verdict,) = gate(settings)
    assert (verdict.passed, verdict.rows, verdict.warnings) == (True, 3, ())


def test_events_that_repeat_one_of_their_own_batch_are_held_against_it(settings: Settings) -> None:
    rows = shown(100, "a")
    ingest(Shop("first", *CATALOGUE, events(*rows)), settings)
    ingest(Shop("again", events(*rows, *shown(1, "b"))), settings)  # delivered once more: nothing repeats in itself
    assert [verdict.warnings for verdict in gate(settings)] == [(), ()]
    ingest(Shop("few", events(*shown(10, "c"), *shown(1, "c"))), settings)
    (verdict,) = gate(settings)
    assert [text.partition(":")[0] for text in verdict.warnings] == ["column repeated_event_share"]
    ingest(Shop("one", events(*[event("o", "page_view", minute) for minute in range(1000)])), settings)
    with pytest.raises(GateError, match=r"column repeated_event_share: observed 0\.999 "):
        gate(settings)


def test_neither_a_result_cut_short_nor_a_page_that_cannot_be_written_stops_the_gate(settings: Settings) -> None:
    ingest(Shop("first", *CATALOGUE, events(*shown(10, "a"))), settings)
    gate(settings)
    results = sorted((settings.reports / "validations").rglob("*.json"))
    for place, file in enumerate(results):
        file.write_bytes(file.read_bytes()[: 40 * place])  # killed while it was written
    ingest(Shop("second", events(*shown(10, "b"))), settings)
    (verdict,) = gate(settings)
    assert verdict.passed
    assert statuses(settings)["second"] == ("admitted", None)
    page = (settings.reports / "gates.html").read_text(encoding="utf-8")
    assert page.count("cannot be read: a run was killed") == len(results) >= 3
    assert verdict.subject in (settings.reports / "data_docs" / "index.html").read_text(encoding="utf-8")
    (settings.reports / "gates.html").unlink()
    (settings.reports / "gates.html").mkdir()
    ingest(Shop("third", events(*shown(10, "c"))), settings)
    assert [verdict.passed for verdict in gate(settings)] == [True]
    assert statuses(settings)["third"] == ("admitted", None)


def test_a_gate_that_is_killed_before_its_decision_has_shown_none(settings: Settings) -> None:
    ingest(Shop("good", *CATALOGUE), settings)

    def killed(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_raw(settings, killed, lambda *_: None)
    assert not (settings.reports / "gates.html").exists()


def test_gate_stops_when_its_decision_is_not_kept(settings: Settings) -> None:
    ingest(Shop("good", *CATALOGUE), settings)
    with pytest.raises(MarqueeError, match="still waits"):
        check_raw(settings, lambda _: None, lambda *_: None)


def test_events_of_the_future_are_refused_beyond_a_days_grace(settings: Settings) -> None:
    """One of them is enough; what a local clock puts ahead of UTC passes with a warning."""
    now = datetime.now(UTC).replace(tzinfo=None)
    ids = {}
    for name, hours in (("local", 14), ("future", 26)):
        moments = (now - timedelta(hours=hours), now + timedelta(hours=hours))
        rows = [event(f"{name}{n}", "page_view", occurred_at=at) for n, at in enumerate(moments)]
        ids[name] = ingest(Shop(name, events(*rows)), settings).batch_id
    reason = "future_hours (hours from now to the newest event) is 26, which breaks max_value 24"
    with pytest.raises(GateError) as caught:
        gate(settings)
    assert str(caught.value) == f"the gate refused 1 of 2:\n{ids['future']}: {reason}"
    assert statuses(settings) == {"local": ("admitted", None), "future": ("quarantined", reason)}
    page = (settings.reports / "gates.html").read_text(encoding="utf-8")
    # What breaks the limit of a refusal breaks that of the warning too.
    assert page.count('<td class="warning">warning<td>future_hours ') == 2
    assert page.count('<td class="refused">refused<td>future_hours ') == 1


def test_now_is_the_clock_or_as_of_where_that_is_later() -> None:
    before, later = datetime.now(UTC).replace(tzinfo=None), datetime.now(UTC) + timedelta(days=3)
    for as_of in (None, NOON):
        assert before <= _latest_now(Settings(as_of=as_of)) <= before + timedelta(minutes=1)
    assert _latest_now(Settings(as_of=later)) == later.replace(tzinfo=None)


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
        days = count_days(connection, loaded.batch_id)
        profile = profile_events(connection, loaded.batch_id, days, NOON + timedelta(days=8)).iloc[0].to_dict()
        catalogue = profile_catalogue(connection, loaded.batch_id).iloc[0].to_dict()
    assert days["event_count"].tolist() == [7, 2]
    assert days["newest_at"].tolist() == [NOON + timedelta(minutes=12), NOON + timedelta(days=9)]
    assert days["clicked_count"].tolist() == [2, 0]
    assert profile == {
        "row_count": 9,
        "duplicate_event_count": 0,
        "missing_visitor_count": 0,
        "missing_reference_count": 0,
        "invalid_kind_count": 0,
        "invalid_device_count": 0,
        "negative_number_count": 0,
        "invalid_propensity_count": 0,
        "unmatched_click_share": 1 / 3,
        "unknown_banner_share": 1 / 4,
        "click_rate": 2 / 4,
        "first_year": 2026,
        "last_year": 2026,
        "largest_gap_days": 9,
        "future_hours": 24.0,
        "valid_amount_share": 1.0,
    }
    assert catalogue == {
        "row_count": 11,
        "rejected_row_share": 0.0,
        "repeated_event_share": 0.0,
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
        connection.execute(
            "insert into raw.events by name select 'b' || range as event_id, 'impression' as kind, 'phone' as device, "
            "timestamp '2026-01-01' as occurred_at, 'v' as visitor_id, -1 as position, 'x' as batch_id, "
            "[0, 1.5, 'nan'::double, 1, null][range + 1] as propensity from range(5)"
        )
        catalogue = profile_catalogue(connection, "x").iloc[0].to_dict()
        profile = profile_events(connection, "x", count_days(connection, "x"), NOON).iloc[0].to_dict()
    shares = [catalogue.pop(name) for name in ("rejected_row_share", "repeated_event_share")]
    assert all(isnan(share) for share in shares)
    assert catalogue == {
        "row_count": 10,
        "duplicate_key_count": 1,
        "negative_price_count": 1,
        "reversed_campaign_count": 1,
    }
    assert (profile["duplicate_event_count"], profile["missing_visitor_count"]) == (1, 2)
    assert (profile["missing_reference_count"], profile["invalid_device_count"]) == (5, 5)
    # Of five propensities 0, 1.5 and NaN are none; a missing one may be.
    assert (profile["negative_number_count"], profile["invalid_propensity_count"]) == (5, 3)
    with pytest.raises(GateError) as caught:
        gate(settings)
    columns = ("duplicate_key_count", "negative_price_count", "duplicate_event_count", "invalid_propensity_count")
    for column in (*columns, "event_id"):
        assert f"column {column}: observed" in str(caught.value)


def test_sample_is_small_and_the_same_each_time(settings: Settings) -> None:
    loaded = ingest(Shop("good", *CATALOGUE, events(*shown(50, "a"))), settings)
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        first = sample_events(connection, loaded.batch_id, 50, rows=7)
        again = sample_events(connection, loaded.batch_id, 50, rows=7)
    assert len(first) == 7
    assert list(first.columns) == list(contract.EVENTS.names)
    assert first["event_id"].tolist() == again["event_id"].tolist() != sorted(first["event_id"])


# --- drift from the trailing days -------------------------------------------------------------------------------------


def day(number: int, count: int, clicked: int = 0, prefix: str = "", **other: Any) -> list[dict[str, Any]]:
    """A day of impressions spread over it, the first ``clicked`` of them clicked; day 0 is 2026-01-01."""
    start = datetime(2026, 1, 1) + timedelta(days=number)
    rows = []
    for i in range(count):
        at, name = start + timedelta(seconds=86_399 * i // max(count - 1, 1)), f"{prefix}d{number}-{i}"
        rows.append(event(name, "impression", impression_id=name, occurred_at=at, visitor_id=f"v{i % 50}", **other))
        if i < clicked:
            rows.append(event(f"{name}c", "click", impression_id=name, occurred_at=at, visitor_id=f"v{i % 50}"))
    return rows


def week(settings: Settings, count: int = 300, clicked: int = 60) -> None:
    """Admit seven equal days of a source."""
    rows = [row for number in range(7) for row in day(number, count, clicked)]
    ingest(Shop("shop", *CATALOGUE, events(*rows)), settings)
    (verdict,) = gate(settings)
    assert verdict.passed
    assert "no history yet" in verdict.unjudged[0]


def test_a_day_like_the_others_is_judged_and_passes(settings: Settings) -> None:
    week(settings)
    ingest(Shop("shop", events(*day(7, 310, 58))), settings)
    (verdict,) = gate(settings)
    assert (verdict.passed, verdict.warnings, verdict.unjudged) == (True, (), ())


@pytest.mark.parametrize("has_visits", [True, False])
def test_a_burst_of_notifications_is_no_drift(settings: Settings, has_visits: bool) -> None:
    week(settings)
    at = datetime(2026, 1, 8, 23)
    burst = [
        event(f"n{i}", "notification_sent", visitor_id=f"w{i}", occurred_at=at, device=None, notification_id=f"n{i}")
        for i in range(5_000)
    ]
    ingest(Shop("shop", events(*burst, *(day(7, 300, 60) if has_visits else []))), settings)
    (verdict,) = gate(settings)
    assert (verdict.passed, verdict.warnings) == (True, ())


@pytest.mark.parametrize(
    ("rows", "refused", "warned"),
    [
        (day(7, 20, 4), ["main_day_volume"], []),
        (day(7, 120, 24), [], ["main_day_volume"]),
        (day(7, 3_100, 620), ["main_day_volume", "most_daily_volume", "events_per_visitor_ratio"], []),
        (day(7, 300, 6), ["click_rate_ratio"], []),
        (day(7, 300, 60, propensity=None), ["missing_propensity_rise"], []),
        (day(7, 300, 60, device="unknown"), ["unknown_device_shift"], []),
        (
            [event(f"w{i}", "page_view", i, occurred_at=NOON + timedelta(days=7, seconds=i * 86)) for i in range(360)],
            ["page_view_shift", "impression_shift"],
            ["click_shift"],
        ),
    ],
    ids=["far too few", "few", "far too many", "clicks gone", "propensity gone", "device gone", "another kind"],
)
def test_a_day_unlike_the_others_is_refused_or_warned_of(
    settings: Settings, rows: list[dict[str, Any]], refused: list[str], warned: list[str]
) -> None:
    week(settings)
    if rows[0]["kind"] == "page_view":
        for place, row in enumerate(rows):
            row["visitor_id"] = f"v{place % 50}"
    loaded = ingest(Shop("shop", events(*rows)), settings)
    if not refused:
        (verdict,) = gate(settings)
        assert [warning.split(" ")[0] for warning in verdict.warnings] == warned
        return
    with pytest.raises(GateError) as caught:
        gate(settings)
    assert all(f"{name} (" in str(caught.value) for name in refused), caught.value
    (status, reason) = statuses_by_id(settings)[loaded.batch_id]
    assert status == "quarantined"
    assert [part.split(" ")[0] for part in str(reason).split("; ")] == refused
    page = (settings.reports / "gates.html").read_text(encoding="utf-8")
    for name in warned:
        assert f'<tr><td class="warning">warning<td>{name} ' in page
    for name in refused:
        assert f'<tr><td class="refused">refused<td>{name} ' in page


def statuses_by_id(settings: Settings) -> dict[str, tuple[str, str | None]]:
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        rows = connection.execute("select batch_id, status, reason from raw.batches").fetchall()
    return {batch_id: (status, reason) for batch_id, status, reason in rows}


def test_drift_by_hand(settings: Settings) -> None:
    """Six days of 440 and 640 events by turns and one late row; the eighth day is half over at its newest event."""
    week_of = [row for number in range(6) for row in day(number, 400 + 200 * (number % 2), 40)]
    ingest(Shop("shop", *CATALOGUE, events(*week_of)), settings)
    gate(settings)
    rows = [row | {"occurred_at": row["occurred_at"] - timedelta(hours=12)} for row in day(8, 300, 40)]
    rows = [row for row in rows if row["occurred_at"] >= datetime(2026, 1, 9)]  # 150 impressions, no click
    loaded = ingest(Shop("shop", events(*rows, *day(2, 1, 0, prefix="late"))), settings)
    with duckdb.connect(str(settings.warehouse)) as connection:
        days = count_days(connection, loaded.batch_id)
        history.keep_batch(connection, loaded.batch_id, days)
        trailing = history.trailing_days(connection, loaded.batch_id, days)
        (loaded_at,) = connection.execute(
            "select loaded_at from raw.batches where batch_id = ?", [loaded.batch_id]
        ).fetchone()
        drift = history.batch_drift(days, trailing, loaded_at).iloc[0]
    assert days["event_count"].tolist() == [1, 150]
    # The late one joins 440 others, and the mean of the days besides is 2800 / 5; the mean of all six is 540.
    passed = (rows[-1]["occurred_at"] - datetime(2026, 1, 9)) / timedelta(days=1)
    assert drift["main_day_volume"] == pytest.approx(150 / (540 * passed))
    assert drift["most_daily_volume"] == pytest.approx(441 / 560)
    assert abs(passed - 0.5) < 0.01
    # 151 events are too few for shares, and 151 impressions would bring 12 clicks: too few for a rate.
    assert drift.drop(["main_day_volume", "most_daily_volume", "lag_rise_hours"]).isna().all()
    assert drift["lag_rise_hours"] == 0


def test_history_is_that_of_the_same_source_and_of_admitted_batches_in_the_window(settings: Settings) -> None:
    week(settings)
    no_history = "drift: no history yet, 0 of the 3 trailing days that its source must have"
    ingest(Shop("other", events(*day(7, 20, prefix="other"))), settings)
    assert [verdict.unjudged for verdict in gate(settings)] == [(no_history,)]
    ingest(Shop("shop", events(*day(60, 20))), settings)  # the 28 days before it are empty
    assert [verdict.unjudged for verdict in gate(settings)] == [(no_history,)]
    ingest(Shop("shop", events(*day(7, 20, prefix="again"))), settings)
    with pytest.raises(GateError):
        gate(settings)
    ingest(Shop("shop", events(*day(7, 305, 60, prefix="once more"))), settings)  # not beside the refused one
    (verdict,) = gate(settings)
    # It is older than the batch before it, which was of a later day; nothing else differs.
    assert [warning.partition(" ")[0] for warning in verdict.warnings] == ["lag_rise_hours"]


def test_stragglers_after_the_main_day_are_no_drop_in_volume(settings: Settings) -> None:
    week(settings)
    rows = day(7, 300, 60) + [row for number in range(8, 20) for row in day(number, 2, prefix="tail")]
    ingest(Shop("shop", events(*rows)), settings)
    assert [(verdict.passed, verdict.warnings) for verdict in gate(settings)] == [(True, ())]
    # Nor do they make the next whole day look like a flood.
    ingest(Shop("shop", events(*day(8, 300, 60))), settings)
    (verdict,) = gate(settings)
    assert (verdict.failures, [text.split(" ")[0] for text in verdict.warnings]) == ((), ["lag_rise_hours"])


def test_a_backfill_is_warned_of_as_old_and_never_refused_for_it(settings: Settings) -> None:
    week(settings)
    ingest(Shop("shop", events(*day(10, 300, 60))), settings)
    assert gate(settings)[0].warnings == ()
    ingest(Shop("shop", events(*day(8, 300, 60))), settings)
    (verdict,) = gate(settings)
    assert verdict.passed
    assert [warning.split(" ")[0] for warning in verdict.warnings] == ["lag_rise_hours"]


def test_late_rows_join_the_day_they_belong_to(settings: Settings) -> None:
    week(settings)
    ingest(Shop("shop", events(*day(3, 5, prefix="late"))), settings)
    (verdict,) = gate(settings)
    assert not any("volume" in text for text in verdict.failures + verdict.warnings)


def test_a_refused_batch_can_be_repaired_or_overruled(settings: Settings) -> None:
    week(settings)
    broken = [row | {"propensity": None} for row in day(7, 300, 60)]
    first = ingest(Shop("shop", events(*broken)), settings)
    with pytest.raises(GateError, match="missing_propensity_rise"):
        gate(settings)
    repaired = ingest(Shop("shop", events(*day(7, 300, 60))), settings)
    assert (repaired.loaded, repaired.duplicate) == (360, 0)
    assert [verdict.warnings for verdict in gate(settings)] == [()]
    admit_batch(settings, first.batch_id, "admitted by ada: it is the same day")
    found = statuses_by_id(settings)
    assert found[repaired.batch_id] == ("admitted", None)
    status, reason = found[first.batch_id]
    assert status == "admitted"
    assert str(reason).startswith("missing_propensity_rise (")
    assert str(reason).endswith("breaks max_value 0.5; then admitted by ada: it is the same day")
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        (rows,) = connection.execute("select count(*) from raw.events").fetchone()
    assert rows == 8 * 360


def served(settings: Settings) -> tuple[Any, ...]:
    """What a visitor of the installation would meet: features, champion, and what the champion thinks of banners."""
    from features.store import OnlineFeatures
    from serving.schemas import RecommendRequest
    from serving.scoring import Scorer
    from training import registry

    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        query = "select distinct visitor_id from marts.visitor_features_28d order by 1 limit 20"
        visitors = [visitor for (visitor,) in connection.execute(query).fetchall()]
        (placement,) = connection.execute("select min(placement_id) from raw.banner_placements").fetchone()
    features = OnlineFeatures(settings).visitors(visitors, settings_now(settings))
    answer = Scorer(settings).recommend(RecommendRequest(visitor_id=visitors[0], placement=placement, n=3))
    assert features
    return features, registry.champion(settings), answer.bundle, answer.fallback, bool(answer.slate)


def test_after_a_refusal_yesterdays_features_and_champion_keep_serving(
    copied: Callable[[Path], Settings], tmp_path: Path
) -> None:
    from features.store import materialize
    from ingestion.transform import transform
    from training.pipeline import require_latest_bundle
    from training.promotion import promote

    settings = copied(tmp_path / "home")
    promote(settings, require_latest_bundle(settings), "ada", "the gate on bundles is not what is tested")
    before = served(settings)
    ingest(Shop("broken", events(*shown(40, "x", unknown=40))), settings)
    with pytest.raises(GateError, match="unknown_banner_share"):
        gate(settings)
    assert served(settings) == before
    transform(settings)  # the DAG would not get here; a person might
    materialize(settings)
    assert served(settings) == before


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
    first = check_training_rows(settings)
    assert (first.passed, first.rows, first.failures, first.warnings) == (True, 10, (), ())
    assert first.unjudged == ("drift: no history yet, no training rows were accepted before",)
    _training_rows(settings, 7, 10)
    verdict = check_training_rows(settings)
    assert verdict.passed
    assert verdict.unjudged == ()
    assert len(verdict.warnings) == 1
    _training_rows(settings, 0, 10)
    with pytest.raises(GateError, match="clicked_count: observed 0 "):
        check_training_rows(settings)
    _training_rows(settings, 0, 0)
    with pytest.raises(GateError, match="row_count: observed 0 "):
        check_training_rows(settings)


def test_training_rows_are_compared_with_those_accepted_last(settings: Settings) -> None:
    _training_rows(settings, 100, 1000)
    assert check_training_rows(settings).passed
    _training_rows(settings, 52, 1000)
    assert check_training_rows(settings).warnings == ()  # a rate 0.52 of the one before
    _training_rows(settings, 52, 499)
    for _ in range(2):  # what was refused is no measure for the next
        with pytest.raises(GateError, match=r"row_count_ratio \(training rows over those accepted last\) is 0\.499"):
            check_training_rows(settings)
    accept_training_rows(settings, "the shop closed its second site")
    assert check_training_rows(settings).warnings == ()
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        kept = connection.execute("select row_count, reason from raw.training_profiles order by rowid").fetchall()
    reason = "the shop closed its second site"
    assert kept == [(1000, None), (1000, None), (499, reason), (499, None)]
