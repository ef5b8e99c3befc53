"""Lineage: what was made of what, as OpenLineage events, in ``home/lineage`` unless OPENLINEAGE_* says otherwise.

Airflow writes its own file there (``lineage_environment`` tells it to). Lineage is a record and no step of the work:
an event that cannot be made or sent is a warning, never an error.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from marquee.settings import ROOT, Settings, has_own_lineage_backend

if TYPE_CHECKING:
    from openlineage.client import OpenLineageClient
    from openlineage.client.event_v2 import RunEvent

NAMESPACE: Final = "marquee"
PRODUCER: Final = "urn:marquee"
"""Named in every event as OpenLineage asks for; nothing is fetched from it."""
Dataset = tuple[str, str]
"""Namespace and name, by OpenLineage's naming."""

logger = logging.getLogger(__name__)


def table(settings: Settings, schema: str, name: str) -> Dataset:
    """A table of the warehouse file."""
    return f"duckdb://{settings.warehouse}", f"{settings.warehouse.stem}.{schema}.{name}"


def emit_run(
    settings: Settings, job: str, inputs: Iterable[Dataset], outputs: Iterable[Dataset], started_at: datetime
) -> None:
    """Say that a job which began at ``started_at`` (UTC, with a zone) has just made the outputs of the inputs."""
    if not settings.lineage:
        return
    with _warned():
        _send(settings, "marquee", _events(job, list(inputs), list(outputs), started_at))


def emit_dbt_lineage(settings: Settings) -> None:
    """Say what the dbt run that ended last read and made, from its artifacts under ``home/dbt/target``."""
    if not settings.lineage:
        return
    with _warned():
        _send(settings, "dbt", _dbt_events(settings))


@contextmanager
def _warned() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        logger.warning("no lineage was written: %s: %s", type(error).__name__, error)


def _events(job: str, inputs: list[Dataset], outputs: list[Dataset], started_at: datetime) -> list[RunEvent]:
    from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
    from openlineage.client.uuid import generate_new_uuid

    run, named = Run(runId=str(generate_new_uuid())), Job(namespace=NAMESPACE, name=job)
    read = [InputDataset(namespace, name) for namespace, name in inputs]
    made = [OutputDataset(namespace, name) for namespace, name in outputs]
    moments = ((RunState.START, started_at), (RunState.COMPLETE, datetime.now(UTC)))
    return [
        RunEvent(
            eventTime=at.isoformat(), producer=PRODUCER, run=run, job=named, eventType=state, inputs=read, outputs=made
        )
        for state, at in moments
    ]


def _dbt_events(settings: Settings) -> Sequence[RunEvent]:
    from openlineage.common.provider.dbt.local import DbtLocalArtifactProcessor

    class Processor(DbtLocalArtifactProcessor):  # type: ignore[misc]
        """Names the warehouse itself: a Spark session has no address, and the profile's variables are dbt's."""

        def extract_namespace(self, profile: dict[str, Any]) -> str:
            return dbt_namespace(settings)

        def get_column_lineage(self, namespace: str, sql: str) -> None:
            """None: parsing each model's SQL takes longer than all the rest."""

    processor = Processor(
        producer=PRODUCER,
        job_namespace=NAMESPACE,
        project_dir=str(ROOT / "dbt_project"),
        target=settings.dbt_target,
        target_path=str(settings.home / "dbt" / "target"),
        logger=logging.getLogger("openlineage.dbt"),
    )
    # Its other events are of data tests, whose results are dbt's to tell.
    events = [event for event in processor.parse().events() if event.job.facets["jobType"].jobType != "TEST"]
    for event in events:
        event.job.facets.pop("sql", None)  # three quarters of the file; dbt keeps it under home/dbt/target
    return events


def dbt_namespace(settings: Settings) -> str:
    """Where dbt builds, by OpenLineage's naming; without user and password."""
    if settings.dbt_target == "postgres" and settings.postgres_url:
        parts = urlsplit(settings.postgres_url.get_secret_value())
        return f"postgres://{parts.hostname or 'localhost'}:{parts.port or 5432}"
    if settings.dbt_target == "spark":
        return f"spark://{settings.home / 'spark'}"
    return f"duckdb://{settings.warehouse}"


def _send(settings: Settings, name: str, events: Sequence[RunEvent]) -> None:
    client = _client(settings.lineage_folder / f"{name}.jsonl")
    for event in events:
        client.emit(event)
    client.close()


def _client(file: Path) -> OpenLineageClient:
    from openlineage.client import OpenLineageClient
    from openlineage.client.transport.file import FileConfig, FileTransport

    if has_own_lineage_backend(os.environ):
        return OpenLineageClient()
    file.parent.mkdir(parents=True, exist_ok=True)
    return OpenLineageClient(transport=FileTransport(FileConfig(log_file_path=str(file), append=True)))
