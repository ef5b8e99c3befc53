"""Build the warehouse from admitted events, check the training rows, and bring the online features up to date."""

from __future__ import annotations

from typing import Any

import pendulum
from airflow.sdk import Asset, Param, dag, task

from marquee.schedule import RAW_EVENTS_ASSET, TRAINING_ROWS_ASSET

DAY = {"type": "string", "pattern": r"^(\d{4}-\d{2}-\d{2})?$"}


@dag(
    schedule=[Asset(RAW_EVENTS_ASSET)],
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": pendulum.duration(minutes=1)},
    tags=["marquee"],
    params={
        "from_date": Param("", **DAY, description="First event day to build, YYYY-MM-DD; empty: whatever is new."),
        "to_date": Param("", **DAY, description="Last event day to build; empty: the newest there is."),
        "full_refresh": Param(False, type="boolean", description="Build every day anew."),
    },
    doc_md=__doc__,
)
def transform_events() -> None:
    @task
    def build_marts(params: dict[str, Any] | None = None) -> None:
        """Run dbt: staging, intermediate, marts, with their contracts and tests."""
        from ingestion.transform import transform
        from marquee.schedule import given_days, task_outcome
        from marquee.settings import load_settings

        given = params or {}
        with task_outcome():
            from_date, to_date = given_days(given.get("from_date"), given.get("to_date"))
            transform(load_settings(), from_date, to_date, full_refresh=bool(given.get("full_refresh")))

    @task
    def check_training_rows() -> None:
        """Stop here when the training rows are not fit to learn from; yesterday's features keep serving."""
        from expectations.validate import check_training_rows as check
        from marquee.schedule import task_outcome
        from marquee.settings import load_settings

        with task_outcome():
            check(load_settings())

    # Announced here and not above: training must not start before the features are there.
    @task(outlets=[Asset(TRAINING_ROWS_ASSET)])
    def materialize_features() -> dict[str, int]:
        """Apply the feature definitions and write the newest features to the online store."""
        from features.store import materialize
        from marquee.schedule import task_outcome
        from marquee.settings import load_settings

        with task_outcome():
            return materialize(load_settings())

    build_marts() >> check_training_rows() >> materialize_features()


transform_events()
