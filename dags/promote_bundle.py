"""Let the gate judge the bundle trained last, and make it champion if every check passes."""

from __future__ import annotations

import pendulum
from airflow.sdk import Asset, dag, task

from marquee.schedule import BUNDLE_ASSET


@dag(
    schedule=[Asset(BUNDLE_ASSET)],
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": pendulum.duration(minutes=1)},
    tags=["marquee"],
    doc_md=__doc__,
)
def promote_bundle() -> None:
    @task
    def judge_and_promote() -> str:
        """Promote the bundle trained last; a running service follows within a second."""
        from marquee.schedule import task_outcome
        from marquee.settings import load_settings
        from training.pipeline import require_latest_bundle
        from training.promotion import promote

        with task_outcome():
            settings = load_settings()
            tag = require_latest_bundle(settings)
            promote(settings, tag, by="airflow")
            return tag

    judge_and_promote()


promote_bundle()
