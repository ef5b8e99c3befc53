"""Each expectation of each suite can fail, and only for its own reason."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pandas as pd
import pytest

from expectations import suites
from marquee import contract

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
