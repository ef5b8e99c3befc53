"""The gates: each expectation can fail, and what passes or is refused goes where it should."""

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from expectations import suites
from expectations.profile import profile_catalogue, profile_events, sample_events
from expectations.validate import Verdict, check_raw, check_training_rows
from ingestion.batch import Batch, Rejected, records
from ingestion.load import admit_batch, ingest, load_pending, quarantine_batch
from marquee import contract
from marquee.errors import GateError, MarqueeError, NothingToDo
from marquee.settings import Settings

pytestmark = pytest.mark.tools
NOON = datetime(2026, 1, 1, 12)
Mutation = Callable[[pd.DataFrame], pd.DataFrame]


# --- frames that pass every expectation of their suite ------------------------------------------------------------


def good_events() -> pd.DataFrame:
    rows = [event(f"e{i}", kind, i) for i, kind in enumerate(contract.EVENT_KINDS)]
    return pd.DataFrame(rows, columns=contract.EVENTS.names)


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


def good_batch_profile() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "row_count": [10],
            "duplicate_event_count": [0],
            "missing_visitor_count": [0],
            "unmatched_click_share": [0.05],
            "unknown_banner_share": [0.01],
            "click_rate": [0.5],
            "propensity_min": [0.001],
            "propensity_max": [1.0],
            "first_year": [1990],
            "last_year": [2100],
            "largest_gap_days": [7],
            "valid_amount_share": [1.0],
        }
    )


def good_catalogue_profile() -> pd.DataFrame:
    zeros = {name: [0] for name in ("duplicate_key_count", "negative_price_count", "reversed_campaign_count")}
    return pd.DataFrame({"row_count": [1]} | zeros)


def good_training_rows() -> pd.DataFrame:
    row = dict.fromkeys(contract.TRAINING_ROWS.names, "x") | {
        "impressed_at": NOON,
        "label_known_at": NOON + timedelta(microseconds=1),
        "position": 0,
        "device": "unknown",
        "propensity": 1.0,
        "is_clicked": True,
    }
    return pd.DataFrame([row, row | {"propensity": None, "is_clicked": False}], columns=contract.TRAINING_ROWS.names)


def good_training_profile() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "row_count": [2],
            "clicked_count": [1],
            "unclicked_count": [1],
            "duplicate_impression_count": [0],
            "click_rate": [0.5],
            "propensity_min": [0.001],
            "propensity_max": [1.0],
            "position_min": [0],
        }
    )


# --- one mutation an expectation, in the suite's order --------------------------------------------------------------


def _set(column: str, value: Any, kind: str | None = None, *, frame: pd.DataFrame) -> pd.DataFrame:
    """Put the value into the first row (of that kind)."""
    changed = frame.copy()
    row = 0 if kind is None else int(changed.index[changed["kind"] == kind][0])
    if isinstance(value, float) and changed[column].dtype.kind == "i":
        changed[column] = changed[column].astype(float)
    changed.loc[row, column] = value
    return changed


def put(column: str, value: Any, kind: str | None = None) -> Mutation:
    def mutate(frame: pd.DataFrame) -> pd.DataFrame:
        return _set(column, value, kind, frame=frame)

    return mutate


def empty(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.iloc[:0]


def widen(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(surprise=1)


EVENTS = [
    empty,
    widen,
    put("event_id", None),
    put("kind", None),
    put("occurred_at", pd.NaT),
    put("visitor_id", None),
    put("event_id", "e1"),
    put("kind", "teleport"),
    put("device", "phone"),
    put("product_id", None, "cart"),
    put("banner_id", None, "click"),
    put("placement_id", None, "impression"),
    put("impression_id", None, "impression"),
    put("position", -1, "impression"),
    put("quantity", -0.5, "order"),
    put("amount", -0.01, "order"),
    put("propensity", 0.0, "impression"),
]
BATCH_PROFILE = [
    empty,
    put("row_count", 0),
    put("duplicate_event_count", 1),
    put("missing_visitor_count", 1),
    put("unmatched_click_share", 0.51),
    put("unmatched_click_share", 0.5),
    put("unknown_banner_share", 0.201),
    put("unknown_banner_share", 0.2),
    put("click_rate", 0.91),
    put("click_rate", 0.9),
    put("propensity_min", 0.0),
    put("propensity_max", 1.001),
    put("first_year", 1989),
    put("last_year", 2101),
    put("largest_gap_days", 366),
    put("largest_gap_days", 365),
    put("valid_amount_share", 0.999),
]
CATALOGUE_PROFILE = [
    empty,
    put("row_count", 0),
    put("duplicate_key_count", 1),
    put("negative_price_count", 1),
    put("reversed_campaign_count", 1),
]
TRAINING_ROWS = [
    empty,
    widen,
    put("device", "phone"),
    put("position", -1),
    put("propensity", 1.5),
    put("label_known_at", NOON),
]
TRAINING_PROFILE = [
    empty,
    put("row_count", 0),
    put("clicked_count", 0),
    put("unclicked_count", 0),
    put("duplicate_impression_count", 1),
    put("click_rate", 0.91),
    put("click_rate", 0.9),
    put("propensity_min", 0.0),
    put("propensity_max", 1.001),
    put("position_min", -1),
]
SUITES: dict[str, tuple[Callable[[], Any], Callable[[], pd.DataFrame], list[Mutation]]] = {
    "events": (suites.events_suite, good_events, EVENTS),
    "batch_profile": (suites.batch_profile_suite, good_batch_profile, BATCH_PROFILE),
    "catalogue_profile": (suites.catalogue_profile_suite, good_catalogue_profile, CATALOGUE_PROFILE),
    "training_rows": (suites.training_rows_suite, good_training_rows, TRAINING_ROWS),
    "training_profile": (suites.training_profile_suite, good_training_profile, TRAINING_PROFILE),
}


@pytest.fixture(scope="module")
def gx_context() -> Any:
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    return context


def _key(config: Any) -> str:
    kwargs = {key: value for key, value in config.kwargs.items() if key != "batch_id" and value is not None}
    return config.type + json.dumps(kwargs, sort_keys=True, default=str)


def _failed(context: Any, suite: Any, frame: pd.DataFrame) -> list[int]:
    """Places in the suite of the expectations that fail."""
    places = {_key(expectation.configuration): place for place, expectation in enumerate(suite.expectations)}
    assert len(places) == len(suite.expectations)
    answer = context.data_sources.pandas_default.read_dataframe(frame).validate(suite)
    assert len(answer.results) == len(suite.expectations)
    return sorted(places[_key(result.expectation_config)] for result in answer.results if not result.success)


@pytest.mark.parametrize("name", SUITES)
def test_each_expectation_has_a_mutation_that_fails_it_alone(name: str, gx_context: Any) -> None:
    make_suite, make_frame, mutations = SUITES[name]
    assert len(mutations) == len(make_suite().expectations)
    assert _failed(gx_context, make_suite(), make_frame()) == []
    failed = [_failed(gx_context, make_suite(), mutate(make_frame())) for mutate in mutations]
    assert failed == [[place] for place in range(len(mutations))]


def test_first_expectation_is_a_row_count_and_warnings_are_the_ceilings() -> None:
    warnings = 0
    for make_suite, _, _ in SUITES.values():
        expectations = make_suite().expectations
        assert expectations[0].configuration.type == "expect_table_row_count_to_be_between"
        warnings += sum(str(e.configuration.severity.value) == "warning" for e in expectations)
    assert warnings == 5


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
