"""Watch the champion's recent traffic: an alarm fails the run, goes to the webhook, and may roll the champion back."""

from __future__ import annotations

import pendulum
from airflow.sdk import dag, task

from marquee.schedule import task_outcome


@dag(
    schedule="@hourly",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": pendulum.duration(minutes=1)},
    tags=["marquee"],
    doc_md=__doc__,
)
def monitor_bundle() -> None:
    @task
    def watch_champion() -> str:
        """Write reports/monitor.html; fail, for good, on an alarm."""
        from marquee.settings import load_settings, settings_now
        from training.monitoring import require_calm, watch

        with task_outcome():
            settings = load_settings()
            report = watch(settings, settings_now(settings))
            require_calm(report)
            return report.bundle

    watch_champion()


monitor_bundle()
