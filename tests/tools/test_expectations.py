"""Each expectation of each suite can fail, and only for its own reason."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pandas as pd
import pytest

from expectations import history, profile, suites
from expectations.gate_page import was_judged
from expectations.library import great_expectations
from marquee import contract

pytestmark = pytest.mark.tools
DEFECTS = (
    "missing_visitor_count",
    "missing_reference_count",
    "invalid_kind_count",
    "invalid_device_count",
    "negative_number_count",
    "invalid_propensity_count",
)
OPTIONAL = [column.name for column in contract.EVENTS.columns if not column.required]
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
    if kind in contract.NOTIFICATION_KINDS:
        row |= {"notification_id": "n1", "notification_type": "price_drop"}
    return row | other


def good_batch_profile() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "row_count": [10],
            "duplicate_event_count": [0],
            **{name: [0] for name in DEFECTS},
            "unmatched_click_share": [0.05],
            "unknown_banner_share": [0.01],
            "click_rate": [0.5],
            "first_year": [1990],
            "last_year": [2100],
            "largest_gap_days": [7],
            "future_hours": [1.0],
            "valid_amount_share": [1.0],
        }
    )


def good_catalogue_profile() -> pd.DataFrame:
    zeros = {name: [0] for name in ("duplicate_key_count", "negative_price_count", "reversed_campaign_count")}
    return pd.DataFrame({"row_count": [1], "rejected_row_share": [0.01], "repeated_event_share": [0.05]} | zeros)


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
            "invalid_propensity_count": [0],
            "position_min": [0],
        }
    )


def good_batch_drift() -> pd.DataFrame:
    """The furthest that passes without a warning."""
    row = {"main_day_volume": 0.5, "most_daily_volume": 2.0, "click_rate_ratio": 0.5}
    row |= {"events_per_visitor_ratio": 2.0, "unknown_device_shift": -0.1}
    row |= {f"{kind}_shift": 0.15 for kind in contract.VISIT_KINDS}
    row |= {f"missing_{name}_rise": 0.1 for name in OPTIONAL}
    return pd.DataFrame([row | {"lag_rise_hours": 24.0}])


def good_training_drift() -> pd.DataFrame:
    row = {"row_count_ratio": 0.9, "click_rate_ratio": 2.0, "missing_propensity_rise": 0.1, "unknown_device_shift": 0.1}
    return pd.DataFrame([row])


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
    put("notification_id", None, "notification_opened"),
    put("notification_type", None, "notification_sent"),
    put("position", -1, "impression"),
    put("quantity", -0.5, "order"),
    put("amount", -0.01, "order"),
    put("propensity", 0.0, "impression"),
]
BATCH_PROFILE = [
    empty,
    put("row_count", 0),
    put("duplicate_event_count", 1),
    *(put(name, 1) for name in DEFECTS),
    put("unmatched_click_share", 0.51),
    put("unmatched_click_share", 0.5),
    put("unknown_banner_share", 0.201),
    put("unknown_banner_share", 0.2),
    put("click_rate", 0.91),
    put("click_rate", 0.9),
    put("first_year", 1989),
    put("last_year", 2101),
    put("largest_gap_days", 366),
    put("largest_gap_days", 365),
    put("future_hours", 24.1),
    put("future_hours", 24.0),
    put("valid_amount_share", 0.999),
]
CATALOGUE_PROFILE = [
    empty,
    put("row_count", 0),
    put("rejected_row_share", 0.51),
    put("rejected_row_share", 0.5),
    put("repeated_event_share", 0.51),
    put("repeated_event_share", 0.5),
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
    put("invalid_propensity_count", 1),
    put("position_min", -1),
]
BATCH_DRIFT = [
    empty,
    put("main_day_volume", 0.099),
    put("main_day_volume", 0.1),
    put("most_daily_volume", 10.1),
    put("most_daily_volume", 10.0),
    put("click_rate_ratio", 0.19),
    put("click_rate_ratio", 5.0),
    put("events_per_visitor_ratio", 10.1),
    put("events_per_visitor_ratio", 0.1),
    put("unknown_device_shift", 0.51),
    put("unknown_device_shift", 0.5),
    *(put(f"{kind}_shift", shift) for kind in contract.VISIT_KINDS for shift in (-0.51, -0.5)),
    *(put(f"missing_{name}_rise", rise) for name in OPTIONAL for rise in (0.51, 0.5)),
    put("lag_rise_hours", 24.1),
]
TRAINING_DRIFT = [
    empty,
    put("row_count_ratio", 0.49),
    put("row_count_ratio", 0.5),
    put("click_rate_ratio", 5.1),
    put("click_rate_ratio", 0.2),
    put("missing_propensity_rise", 0.51),
    put("missing_propensity_rise", 0.5),
    put("unknown_device_shift", -0.51),
    put("unknown_device_shift", 0.5),
]
SUITES: dict[str, tuple[Callable[[], Any], Callable[[], pd.DataFrame], list[Mutation]]] = {
    "events": (suites.events_suite, good_events, EVENTS),
    "batch_profile": (suites.batch_profile_suite, good_batch_profile, BATCH_PROFILE),
    "catalogue_profile": (suites.catalogue_profile_suite, good_catalogue_profile, CATALOGUE_PROFILE),
    "training_rows": (suites.training_rows_suite, good_training_rows, TRAINING_ROWS),
    "batch_drift": (suites.batch_drift_suite, good_batch_drift, BATCH_DRIFT),
    "training_drift": (suites.training_drift_suite, good_training_drift, TRAINING_DRIFT),
    "training_profile": (suites.training_profile_suite, good_training_profile, TRAINING_PROFILE),
}
TWO_SIDED = {
    "main_day_volume": (0.1, 0.5, 2.0, 10.0),
    "click_rate_ratio": (0.2, 0.5, 2.0, 5.0),
    "events_per_visitor_ratio": (0.1, 0.5, 2.0, 10.0),
    "unknown_device_shift": (-0.5, -0.1, 0.1, 0.5),
    **{f"{kind}_shift": (-0.5, -0.15, 0.15, 0.5) for kind in contract.VISIT_KINDS},
    "row_count_ratio": (0.5, 0.9, 10.0, 100.0),
}
"""Measures with a limit on either side: refuse below, warn below, warn above, refuse above."""
PROFILES = [name for name in SUITES if name not in ("events", "training_rows")]


@pytest.fixture(scope="module")
def gx_context() -> Any:
    context = great_expectations().get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    return context


def _key(config: Any) -> str:
    kwargs = {key: value for key, value in config.kwargs.items() if key != "batch_id" and value is not None}
    return config.type + json.dumps(kwargs, sort_keys=True, default=str)


def _failed(context: Any, suite: Any, frame: pd.DataFrame) -> list[int]:
    """Places in the suite of the expectations that fail."""
    return sorted(place for place, result in _results(context, suite, frame).items() if not result.success)


def _results(context: Any, suite: Any, frame: pd.DataFrame) -> dict[int, Any]:
    """The result of each expectation, by its place in the suite."""
    places = {_key(expectation.configuration): place for place, expectation in enumerate(suite.expectations)}
    assert len(places) == len(suite.expectations)
    answer = context.data_sources.pandas_default.read_dataframe(frame).validate(suite, result_format="COMPLETE")
    assert len(answer.results) == len(suite.expectations)
    return {places[_key(result.expectation_config)]: result for result in answer.results}


def _failed_by_row(context: Any, suite: Any, frame: pd.DataFrame) -> list[list[int]]:
    """For each row of a frame, places of the expectations that it breaks."""
    results = _results(context, suite, frame)
    broken = {place: set(result.result.get("unexpected_index_list") or ()) for place, result in results.items()}
    return [sorted(place for place, rows in broken.items() if row in rows) for row in frame.index]


@pytest.mark.parametrize("name", SUITES)
def test_each_expectation_has_a_mutation_that_fails_it_alone(name: str, gx_context: Any) -> None:
    make_suite, make_frame, mutations = SUITES[name]
    suite = make_suite()
    assert len(mutations) == len(suite.expectations)
    assert _failed(gx_context, make_suite(), make_frame()) == []
    if name in PROFILES:  # one row each: all mutations at once, for each validation takes Great Expectations a while
        rows = pd.concat([mutate(make_frame()) for mutate in mutations[1:]], ignore_index=True)
        failed = [_failed(gx_context, make_suite(), make_frame().iloc[:0])]
        failed += _failed_by_row(gx_context, make_suite(), rows)
    else:
        failed = [_failed(gx_context, make_suite(), mutate(make_frame())) for mutate in mutations]
    # What breaks the limits of a refusal is beyond those of the warning that follows it.
    warned = [place + 1 for place in range(len(mutations) - 1) if _warns_of(suite.expectations, place)]
    assert failed == [[place] + [place + 1] * (place + 1 in warned) for place in range(len(mutations))]


def _warns_of(expectations: list[Any], place: int) -> bool:
    """Whether the next expectation warns of what this one refuses."""
    this, after = (expectation.configuration for expectation in expectations[place : place + 2])
    severities = (str(this.severity.value), str(after.severity.value))
    return this.kwargs.get("column") == after.kwargs.get("column") and severities == ("critical", "warning")


@pytest.mark.parametrize("name", PROFILES)
def test_a_value_that_is_missing_from_a_profile_is_not_judged(name: str, gx_context: Any) -> None:
    make_suite, make_frame, _ = SUITES[name]
    blank = make_frame().astype(float) * float("nan")
    answer = gx_context.data_sources.pandas_default.read_dataframe(blank).validate(make_suite())
    judged = [result for result in answer.results if was_judged(result.result)]
    assert [result.expectation_config.type for result in judged] == ["expect_table_row_count_to_be_between"]
    assert len(answer.results) == len(make_suite().expectations) >= 5


def test_first_expectation_is_a_row_count_and_warnings_are_counted() -> None:
    warnings = {}
    for name, (make_suite, _, _) in SUITES.items():
        expectations = make_suite().expectations
        assert expectations[0].configuration.type == "expect_table_row_count_to_be_between"
        warnings[name] = sum(str(e.configuration.severity.value) == "warning" for e in expectations)
    ceilings = {"events": 0, "batch_profile": 5, "catalogue_profile": 2, "training_rows": 0, "training_profile": 1}
    assert warnings == ceilings | {"batch_drift": 5 + 10 + 21 + 1, "training_drift": 4}


def test_every_measure_is_asked_about() -> None:
    asked = {e.configuration.kwargs.get("column") for e in suites.batch_drift_suite().expectations} - {None}
    assert asked == set(history.MEASURES) == set(good_batch_drift())
    asked = {e.configuration.kwargs.get("column") for e in suites.training_drift_suite().expectations} - {None}
    assert asked == set(history.TRAINING_MEASURES) == set(good_training_drift())
    assert tuple(DEFECTS) == tuple(profile.DEFECTS)


def test_every_suite_is_here() -> None:
    named = {
        name.removesuffix("_suite") for name in vars(suites) if name.endswith("_suite") and not name.startswith("_")
    }
    assert named == set(SUITES)


@pytest.mark.parametrize("name", ["batch_drift", "training_drift"])
def test_each_limit_of_a_two_sided_measure_can_be_broken(name: str, gx_context: Any) -> None:
    """Just within and just beyond each of the four: one mutation an expectation cannot tell both of its sides."""
    make_suite, make_frame, _ = SUITES[name]
    configs = [expectation.configuration for expectation in make_suite().expectations]
    sided = {c.kwargs["column"] for c in configs if {"min_value", "max_value"} <= {k for k, v in c.kwargs.items() if v}}
    assert sided == TWO_SIDED.keys() & set(make_frame())
    cases = [(column, value, broken) for column in sorted(sided) for value, broken in _beside(*TWO_SIDED[column])]
    rows = pd.concat([put(column, value)(make_frame()) for column, value, _ in cases], ignore_index=True)
    suite = make_suite()
    found = _failed_by_row(gx_context, suite, rows)
    severities = [[str(suite.expectations[place].configuration.severity.value) for place in row] for row in found]
    assert severities == [broken for _, _, broken in cases]
    columns = [{suite.expectations[place].configuration.kwargs["column"] for place in row} for row in found]
    assert columns == [{column} if broken else set() for column, _, broken in cases]


def _beside(refuse_below: float, warn_below: float, warn_above: float, refuse_above: float) -> list[Any]:
    """Values at the limits and a thousandth beyond, with what each breaks."""
    little, both = 0.001, ["critical", "warning"]
    return [
        (refuse_below - little, both),
        (refuse_below, ["warning"]),
        (warn_below - little, ["warning"]),
        (warn_below, []),
        (warn_above, []),
        (warn_above + little, ["warning"]),
        (refuse_above, ["warning"]),
        (refuse_above + little, both),
    ]
