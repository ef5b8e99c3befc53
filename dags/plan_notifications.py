"""Decide what to send to whom and when, and put it into the outbox; `marquee notify dispatch` sends what is due."""

from __future__ import annotations

import pendulum
from airflow.sdk import Asset, dag, task

from marquee.schedule import TRAINING_ROWS_ASSET


@dag(
    schedule=[Asset(TRAINING_ROWS_ASSET)],
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": pendulum.duration(minutes=1)},
    tags=["marquee"],
    doc_md=__doc__,
)
def plan_notifications() -> None:
    @task
    def plan_and_enqueue() -> int:
        """Plan the day ahead; what was planned before stays as it is, so a second run adds only what is new."""
        from contextlib import closing

        from marquee.outbox import open_outbox
        from marquee.schedule import task_outcome
        from marquee.settings import load_settings, settings_now
        from training.notifications.planning_data import plan_notifications as plan

        with task_outcome():
            settings = load_settings()
            planned = plan(settings, settings_now(settings))
            with closing(open_outbox(settings)) as outbox:
                return outbox.enqueue(planned)

    plan_and_enqueue()


plan_notifications()
