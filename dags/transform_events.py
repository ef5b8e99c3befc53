"""Build the warehouse from admitted events, check the training rows, and bring the online features up to date."""

from __future__ import annotations

import pendulum
from airflow.sdk import Asset, dag, task

from marquee.contract import RAW_EVENTS_ASSET, TRAINING_ROWS_ASSET


@dag(
    schedule=[Asset(RAW_EVENTS_ASSET)],
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": pendulum.duration(minutes=1)},
    tags=["marquee"],
    doc_md=__doc__,
)
def transform_events() -> None:
    @task
    def build_marts() -> None:
        """Run dbt: staging, intermediate, marts, with their contracts and tests."""
        from ingestion.transform import transform
        from marquee.schedule import task_outcome
        from marquee.settings import load_settings

        with task_outcome():
            transform(load_settings())

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
