"""Train both models on point-in-time features, evaluate them on a later window, and store them as one bundle."""

from __future__ import annotations

import pendulum
from airflow.sdk import Asset, dag, task

from marquee.schedule import BUNDLE_ASSET, TRAINING_ROWS_ASSET


@dag(
    schedule=[Asset(TRAINING_ROWS_ASSET)],
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": pendulum.duration(minutes=1)},
    tags=["marquee"],
    doc_md=__doc__,
)
def train_models() -> None:
    @task
    def flag_sessions() -> dict[str, object]:
        """Judge sessions by their likelihood; those that look like a bot's leave the training rows."""
        from dataclasses import asdict

        from marquee.schedule import task_outcome
        from marquee.settings import load_settings
        from training.flagging import flag_sessions as judge

        with task_outcome():
            return asdict(judge(load_settings()))

    @task
    def join_features() -> str:
        """Join each training row with what was known strictly before its impression."""
        from features.training_set import build_training_set
        from marquee.schedule import task_outcome
        from marquee.settings import load_settings

        with task_outcome():
            return str(build_training_set(load_settings()))

    @task
    def train_retrieval() -> str:
        """Fit the two towers."""
        from marquee.schedule import task_outcome
        from marquee.settings import load_settings
        from training.pipeline import train_retrieval as fit

        with task_outcome():
            return str(fit(load_settings()))

    @task
    def train_ranker() -> str:
        """Fit and calibrate the ranker."""
        from marquee.schedule import task_outcome
        from marquee.settings import load_settings
        from training.pipeline import train_ranker as fit

        with task_outcome():
            return str(fit(load_settings()))

    @task(outlets=[Asset(BUNDLE_ASSET)])
    def assemble_bundle() -> str:
        """Evaluate both on the later window and store them as one bundle."""
        from marquee.schedule import task_outcome
        from marquee.settings import load_settings
        from training.pipeline import assemble_bundle as assemble

        with task_outcome():
            return assemble(load_settings())

    flag_sessions() >> join_features() >> [train_retrieval(), train_ranker()] >> assemble_bundle()


train_models()
