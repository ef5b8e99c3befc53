"""What Great Expectations asks at the two borders: raw batches in, training rows out.

One function per table that is shown to a gate. A *sample* suite looks at rows, a *profile* suite at one row of exact
aggregates over all of them. Every suite asks first for a row, because most expectations hold of an empty table.
A critical expectation refuses; a warning, which only looks where the critical one of its column holds, reports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from marquee import contract

if TYPE_CHECKING:
    import great_expectations as gx
    from great_expectations.expectations.expectation import Expectation

FIRST_YEAR, LAST_YEAR = 1990, 2100
UNKNOWN_BANNER_SHARE: Final = (0.01, 0.2)
UNMATCHED_CLICK_SHARE: Final = (0.05, 0.5)
CLICK_RATE: Final = (0.5, 0.9)
GAP_DAYS: Final = (7, 365)
"""Warn above the first, refuse above the second."""


def events_suite() -> gx.ExpectationSuite:
    """Rows of ``raw.events``, in the contract's columns."""
    from great_expectations.expectations.row_conditions import Column

    kind = Column("kind")
    required = [column.name for column in contract.EVENTS.columns if column.required]
    impressions, banner_events = kind.is_in(["impression"]), kind.is_in(list(contract.BANNER_KINDS))
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
        _not_null("impression_id", impressions),
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
        _between("missing_visitor_count", 0, 0),
        *_ceilings("unmatched_click_share", UNMATCHED_CLICK_SHARE),
        *_ceilings("unknown_banner_share", UNKNOWN_BANNER_SHARE),
        *_ceilings("click_rate", CLICK_RATE),
        _propensity("propensity_min"),
        _propensity("propensity_max"),
        _between("first_year", FIRST_YEAR, LAST_YEAR),
        _between("last_year", FIRST_YEAR, LAST_YEAR),
        *_ceilings("largest_gap_days", GAP_DAYS),
        _between("valid_amount_share", 1, 1),
    )


def catalogue_profile_suite() -> gx.ExpectationSuite:
    """The one row of ``profile.profile_catalogue``: all of a batch, and its catalogue tables, in numbers."""
    return _suite(
        "catalogue_profile",
        _between("row_count", 1, None),
        _between("duplicate_key_count", 0, 0),
        _between("negative_price_count", 0, 0),
        _between("reversed_campaign_count", 0, 0),
    )


def training_rows_suite() -> gx.ExpectationSuite:
    """Rows of ``marts.training_rows``; that keys are unique and related, dbt's own tests prove."""
    import great_expectations.expectations as gxe

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
        _propensity("propensity_min"),
        _propensity("propensity_max"),
        _between("position_min", 0, None),
    )


def _suite(name: str, *expectations: Expectation) -> gx.ExpectationSuite:
    import great_expectations as gx

    first = gx.expectations.ExpectTableRowCountToBeBetween(min_value=1)
    return gx.ExpectationSuite(name=name, expectations=[first, *expectations])


def _columns(table: contract.Table) -> Expectation:
    import great_expectations.expectations as gxe

    return gxe.ExpectTableColumnsToMatchOrderedList(column_list=list(table.names))


def _not_null(column: str, where: Any = None) -> Expectation:
    import great_expectations.expectations as gxe

    return gxe.ExpectColumnValuesToNotBeNull(column=column, row_condition=where)


def _unique(column: str) -> Expectation:
    import great_expectations.expectations as gxe

    return gxe.ExpectColumnValuesToBeUnique(column=column)


def _in_set(column: str, values: tuple[str, ...]) -> Expectation:
    import great_expectations.expectations as gxe

    return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=list(values))


def _between(column: str, low: float, high: float | None) -> Expectation:
    import great_expectations.expectations as gxe

    return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high)


def _propensity(column: str) -> Expectation:
    import great_expectations.expectations as gxe

    return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=0, max_value=1, strict_min=True)


def _ceilings(column: str, limits: tuple[float, float]) -> tuple[Expectation, Expectation]:
    """Refuse above the second limit; warn above the first."""
    import great_expectations.expectations as gxe
    from great_expectations.expectations.row_conditions import Column

    warn_above, refuse_above = limits
    warning = gxe.ExpectColumnValuesToBeBetween(
        column=column,
        min_value=0,
        max_value=warn_above,
        row_condition=Column(column) <= refuse_above,
        severity="warning",
    )
    return _between(column, 0, refuse_above), warning
