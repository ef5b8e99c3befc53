"""What Great Expectations asks at the two borders: raw batches in, training rows out.

One function per table that is shown to a gate. A *sample* suite looks at rows, a *profile* suite at one row of exact
aggregates over all of them, a *drift* suite at one row of changes from what was admitted before. Every suite asks first
for a row, because most expectations hold of an empty table. A critical expectation refuses, a warning reports.
Limits of drift are wide: a sale must pass, a broken export not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from expectations.history import MEASURES, TRAINING_MEASURES
from expectations.library import great_expectations
from expectations.profile import DEFECTS, OPTIONAL
from marquee import contract

if TYPE_CHECKING:
    import great_expectations as gx
    from great_expectations.expectations.expectation import Expectation

Limits = tuple[float | None, float | None, float | None, float | None]
"""Refuse below, warn below, warn above, refuse above."""
FIRST_YEAR, LAST_YEAR = 1990, 2100
UNKNOWN_BANNER_SHARE: Final = (0.01, 0.2)
UNMATCHED_CLICK_SHARE: Final = (0.05, 0.5)
CLICK_RATE: Final = (0.5, 0.9)
GAP_DAYS: Final = (7, 365)
FUTURE_HOURS: Final = (1, 24)
REJECTED_ROW_SHARE: Final = (0.01, 0.5)
REPEATED_EVENT_SHARE: Final = (0.05, 0.5)
KIND_SHIFT: Final = (0.15, 0.5)
MISSING_RISE: Final = (0.1, 0.5)
UNKNOWN_DEVICE_SHIFT: Final = (0.1, 0.5)
"""Warn above the first, refuse above the second; shifts count in both directions. No zone's local time, taken for UTC,
is a day ahead: such a shop is warned of."""
VOLUME: Final = (0.1, 0.5, 2, 10)
CLICK_RATE_RATIO: Final = (0.2, 0.5, 2, 5)
EVENTS_PER_VISITOR_RATIO: Final = (0.1, 0.5, 2, 10)
TRAINING_ROWS_RATIO: Final = (0.5, 0.9, 10, 100)
"""Refuse below the first or above the last; warn below the second or above the third."""
LAG_RISE_HOURS: Final = 24
"""Warn above it. It never refuses: a backfill is old by intent."""


def events_suite() -> gx.ExpectationSuite:
    """Rows of ``raw.events``, in the contract's columns."""
    great_expectations()
    from great_expectations.expectations.row_conditions import Column

    kind = Column("kind")
    required = [column.name for column in contract.EVENTS.columns if column.required]
    impressions, banner_events = kind.is_in(["impression"]), kind.is_in(list(contract.BANNER_KINDS))
    shown = kind.is_in(["impression", "seen"])
    return _suite(
        "events",
        _columns(contract.EVENTS),
        *(_not_null(name) for name in required),
        _unique("event_id"),
        _in_set("kind", contract.EVENT_KINDS),
        _in_set("device", contract.DEVICES),
        _not_null("product_id", kind.is_in(list(contract.PRODUCT_KINDS))),
        _not_null("banner_id", banner_events),
        _not_null("placement_id", impressions),
        _not_null("impression_id", shown),
        _not_null("notification_id", kind.is_in(list(contract.NOTIFICATION_KINDS))),
        _not_null("notification_type", kind.is_in(["notification_sent"])),
        _between("position", 0, None),
        _between("quantity", 0, None),
        _between("amount", 0, None),
        _propensity("propensity"),
    )


def batch_profile_suite() -> gx.ExpectationSuite:
    """The one row of ``profile.profile_events``: a whole batch's events in numbers."""
    return _suite(
        "batch_profile",
        _between("row_count", 1, None),
        _between("duplicate_event_count", 0, 0),
        *(_between(name, 0, 0) for name in DEFECTS),
        *_ceilings("unmatched_click_share", UNMATCHED_CLICK_SHARE),
        *_ceilings("unknown_banner_share", UNKNOWN_BANNER_SHARE),
        *_ceilings("click_rate", CLICK_RATE),
        _between("first_year", FIRST_YEAR, LAST_YEAR),
        _between("last_year", FIRST_YEAR, LAST_YEAR),
        *_ceilings("largest_gap_days", GAP_DAYS),
        *_bands("future_hours", _rise(FUTURE_HOURS), {"future_hours": "hours from now to the newest event"}),
        _between("valid_amount_share", 1, 1),
    )


def catalogue_profile_suite() -> gx.ExpectationSuite:
    """The one row of ``profile.profile_catalogue``: all of a batch, and its catalogue tables, in numbers."""
    return _suite(
        "catalogue_profile",
        _between("row_count", 1, None),
        *_ceilings("rejected_row_share", REJECTED_ROW_SHARE),
        *_ceilings("repeated_event_share", REPEATED_EVENT_SHARE),
        _between("duplicate_key_count", 0, 0),
        _between("negative_price_count", 0, 0),
        _between("reversed_campaign_count", 0, 0),
    )


def training_rows_suite() -> gx.ExpectationSuite:
    """Rows of ``marts.training_rows``; that keys are unique and related, dbt's own tests prove."""
    gxe = great_expectations().expectations

    return _suite(
        "training_rows",
        _columns(contract.TRAINING_ROWS),
        _in_set("device", contract.DEVICES),
        _between("position", 0, None),
        _propensity("propensity"),
        gxe.ExpectColumnPairValuesAToBeGreaterThanB(column_A="label_known_at", column_B="impressed_at"),
    )


def training_profile_suite() -> gx.ExpectationSuite:
    """The one row of ``profile.profile_training_rows``: all training rows in numbers."""
    return _suite(
        "training_profile",
        _between("row_count", 1, None),
        _between("clicked_count", 1, None),
        _between("unclicked_count", 1, None),
        _between("duplicate_impression_count", 0, 0),
        *_ceilings("click_rate", CLICK_RATE),
        _between("invalid_propensity_count", 0, 0),
        _between("position_min", 0, None),
    )


def batch_drift_suite() -> gx.ExpectationSuite:
    """The one row of ``history.batch_drift``: how far a batch is from the trailing days of its source."""
    missing = (_bands(f"missing_{name}_rise", _rise(MISSING_RISE), MEASURES) for name in OPTIONAL)
    kinds = (_bands(f"{kind}_shift", _both_ways(KIND_SHIFT), MEASURES) for kind in contract.VISIT_KINDS)
    pairs = (
        _bands("main_day_volume", VOLUME, MEASURES),
        _bands("most_daily_volume", (None, None, *VOLUME[2:]), MEASURES),
        _bands("click_rate_ratio", CLICK_RATE_RATIO, MEASURES),
        _bands("events_per_visitor_ratio", EVENTS_PER_VISITOR_RATIO, MEASURES),
        _bands("unknown_device_shift", _both_ways(UNKNOWN_DEVICE_SHIFT), MEASURES),
        *kinds,
        *missing,
    )
    lag = _band("lag_rise_hours", None, LAG_RISE_HOURS, MEASURES, severity="warning")
    return _suite("batch_drift", *(expectation for pair in pairs for expectation in pair), lag)


def training_drift_suite() -> gx.ExpectationSuite:
    """The one row of ``history.training_drift``: how far training rows are from those accepted last."""
    pairs = (
        _bands("row_count_ratio", TRAINING_ROWS_RATIO, TRAINING_MEASURES),
        _bands("click_rate_ratio", CLICK_RATE_RATIO, TRAINING_MEASURES),
        _bands("missing_propensity_rise", _rise(MISSING_RISE), TRAINING_MEASURES),
        _bands("unknown_device_shift", _both_ways(UNKNOWN_DEVICE_SHIFT), TRAINING_MEASURES),
    )
    return _suite("training_drift", *(expectation for pair in pairs for expectation in pair))


def _suite(name: str, *expectations: Expectation) -> gx.ExpectationSuite:
    gx = great_expectations()

    first = gx.expectations.ExpectTableRowCountToBeBetween(min_value=1)
    return gx.ExpectationSuite(name=name, expectations=[first, *expectations])


def _columns(table: contract.Table) -> Expectation:
    gxe = great_expectations().expectations

    return gxe.ExpectTableColumnsToMatchOrderedList(column_list=list(table.names))


def _not_null(column: str, where: Any = None) -> Expectation:
    gxe = great_expectations().expectations

    return gxe.ExpectColumnValuesToNotBeNull(column=column, row_condition=where)


def _unique(column: str) -> Expectation:
    gxe = great_expectations().expectations

    return gxe.ExpectColumnValuesToBeUnique(column=column)


def _in_set(column: str, values: tuple[str, ...]) -> Expectation:
    gxe = great_expectations().expectations

    return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=list(values))


def _between(column: str, low: float, high: float | None) -> Expectation:
    gxe = great_expectations().expectations

    return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high)


def _propensity(column: str) -> Expectation:
    gxe = great_expectations().expectations

    return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=0, max_value=1, strict_min=True)


def _ceilings(column: str, limits: tuple[float, float]) -> tuple[Expectation, Expectation]:
    """Refuse above the second limit; warn above the first."""
    gxe = great_expectations().expectations

    warn_above, refuse_above = limits
    warning = gxe.ExpectColumnValuesToBeBetween(column=column, min_value=0, max_value=warn_above, severity="warning")
    return _between(column, 0, refuse_above), warning


def _rise(limits: tuple[float, float]) -> Limits:
    return (None, None, *limits)


def _both_ways(limits: tuple[float, float]) -> Limits:
    warn, refuse = limits
    return (-refuse, -warn, warn, refuse)


def _bands(column: str, limits: Limits, measures: Mapping[str, str]) -> tuple[Expectation, Expectation]:
    """Refuse outside the outer limits; warn outside the inner ones."""
    refuse_below, warn_below, warn_above, refuse_above = limits
    warning = _band(column, warn_below, warn_above, measures, severity="warning")
    return _band(column, refuse_below, refuse_above, measures), warning


def _band(column: str, low: float | None, high: float | None, measures: Mapping[str, str], **more: Any) -> Expectation:
    gxe = great_expectations().expectations

    about = {"about": measures[column]}
    return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high, meta=about, **more)
