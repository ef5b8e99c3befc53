"""Bring events in: read a source into the event log, load the log exactly once, let the gate admit or refuse it."""

from __future__ import annotations

from typing import Any

import pendulum
from airflow.sdk import Asset, Param, dag, task

from marquee.schedule import RAW_EVENTS_ASSET


@dag(
    schedule="@hourly",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": pendulum.duration(minutes=1)},
    tags=["marquee"],
    params={
        "source": Param("", type="string", description="Source to read; empty: the installation's own setting."),
        "path": Param("", type="string", description="Path of its files; empty: the installation's own setting."),
    },
    doc_md=__doc__,
)
def ingest_events() -> None:
    @task
    def forget_pending() -> int:
        """Finish the erasures that were asked for over the API."""
        from marquee.forget import finish_pending
        from marquee.schedule import task_outcome
        from marquee.settings import load_settings

        with task_outcome():
            return finish_pending(load_settings())

    @task(trigger_rule="all_done")
    def read_source(params: dict[str, Any] | None = None) -> str:
        """Read the source whole into the event log; an erasure that failed holds nothing up, for its line holds."""
        from ingestion.configured import configured_source
        from ingestion.event_log import append_batches
        from marquee.schedule import task_outcome
        from marquee.settings import load_settings

        given = params or {}
        with task_outcome():
            settings = load_settings(source=given.get("source") or None, source_path=given.get("path") or None)
            return append_batches(settings.log, configured_source(settings)).batch_id

    @task
    def load_log() -> int:
        """Load what the log holds and the warehouse does not, the service's stream included."""
        from ingestion.load import load_pending
        from marquee.schedule import task_outcome
        from marquee.settings import load_settings

        with task_outcome():
            return len(load_pending(load_settings()))

    @task(outlets=[Asset(RAW_EVENTS_ASSET)])
    def check_raw() -> int:
        """Admit each new batch, or quarantine it whole and fail."""
        from expectations.validate import check_raw as check
        from ingestion.load import admit_batch, quarantine_batch
        from marquee.schedule import task_outcome
        from marquee.settings import load_settings

        with task_outcome():
            settings = load_settings()
            verdicts = check(
                settings,
                admit=lambda batch: admit_batch(settings, batch),
                quarantine=lambda batch, reason: quarantine_batch(settings, batch, reason),
            )
            return len(verdicts)

    forget_pending() >> read_source() >> load_log() >> check_raw()


ingest_events()
