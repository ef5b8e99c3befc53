"""A running service on a copy of the installation, for the files that ask one over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pytest

from marquee.settings import Settings


@dataclass(frozen=True, slots=True)
class Served:
    """A running service and the installation that it serves."""

    settings: Settings
    client: httpx.Client
    known: str
    """The visitor of most training rows."""
    placement: str

    def visitors(self) -> list[tuple[str, str]]:
        """Visitors of many training rows, each with a placement."""
        return frequent_visitors(self.settings)

    def logged(self) -> list[dict[str, Any]]:
        """Every event in the service's streams."""
        files = sorted((self.settings.log / "stream").glob("*.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]

    def loaded_times(self, event_ids: list[str]) -> dict[str, int]:
        """How often the warehouse holds each event, after loading what the log has; silence means never."""
        from ingestion.load import load_pending

        load_pending(self.settings)
        query = "select event_id, count(*) from raw.events where event_id in (select unnest(?)) group by 1"
        with duckdb.connect(str(self.settings.warehouse), read_only=True) as connection:
            return dict(connection.execute(query, [event_ids]).fetchall())


def frequent_visitors(settings: Settings) -> list[tuple[str, str]]:
    query = (
        "select visitor_id, max(placement_id) from marts.training_rows group by 1 order by count(*) desc, 1 limit 20"
    )
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        return connection.execute(query).fetchall()


@pytest.fixture(scope="session")
def frequent() -> Callable[[Settings], list[tuple[str, str]]]:
    """A function that lists visitors of many training rows, each with a placement."""
    return frequent_visitors


@pytest.fixture(scope="session")
def promoted(copied: Callable[[Path], Settings]) -> Callable[[Path], Settings]:
    """A function that copies the installation to a folder and promotes its bundle; settings with a free port."""

    def copy(home: Path) -> Settings:
        from marquee.process import free_port
        from training.pipeline import require_latest_bundle
        from training.promotion import promote

        settings = copied(home).model_copy(update={"service_port": free_port("127.0.0.1", 0)})
        promote(settings, require_latest_bundle(settings), "ada")
        return settings

    return copy


@pytest.fixture(scope="session")
def serving() -> Callable[[Settings], AbstractContextManager[Served]]:
    """A function that runs the service of an installation while its block lasts."""

    @contextmanager
    def run(settings: Settings) -> Iterator[Served]:
        from marquee.process import running_service

        known, placement = frequent_visitors(settings)[0]
        running = running_service(settings, settings.home / "service.log")
        with running as address, httpx.Client(base_url=address, timeout=10) as client:
            yield Served(settings, client, known, placement)

    return run


@pytest.fixture(scope="module")
def served(
    promoted: Callable[[Path], Settings],
    serving: Callable[[Settings], AbstractContextManager[Served]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    with serving(promoted(tmp_path_factory.mktemp("served"))) as running:
        yield running
