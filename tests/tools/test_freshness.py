"""Whether dbt's source freshness alarms when nothing that passed its gate has come for long."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from ingestion.load import create_tables
from ingestion.transform import PROJECT
from marquee.settings import Settings

pytestmark = pytest.mark.tools
HOURS = timedelta(hours=1)


@pytest.mark.parametrize(
    ("batches", "statuses"),
    [
        # How many hours ago a batch was loaded, what its gate said, and how many events it brought.
        ([(1, "admitted", 5)], ["pass", "pass"]),
        ([(27, "admitted", 5)], ["warn", "warn"]),
        ([(24 * 9, "admitted", 5)], ["error", "error"]),
        # A source of which every batch is refused is no fresh one.
        ([(1, "quarantined", 5)], ["error", "error"]),
        ([(24 * 9, "admitted", 5), (1, "quarantined", 5), (1, "loaded", 5)], ["error", "error"]),
        # Catalogues come, events do not.
        ([(27, "admitted", 5), (1, "admitted", 0)], ["pass", "warn"]),
    ],
)
def test_freshness_of_batches_and_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: list[tuple[int, str, int]], statuses: list[str]
) -> None:
    from dbt.adapters.duckdb.connections import DuckDBConnectionManager
    from dbt.cli.main import dbtRunner

    settings, now = Settings(home=tmp_path), datetime.now(UTC).replace(tzinfo=None)
    with duckdb.connect(str(settings.warehouse)) as connection:
        create_tables(connection)
        for number, (age, status, events) in enumerate(batches):
            name, loaded_at = f"b{number}", now - age * HOURS
            values = [name, number, status, loaded_at]
            connection.execute("insert into raw.batches values (?, ?, 's', ?, null, ?)", values)
            for table, loaded in (("events", events), ("products", 3)):
                counts = [name, table, loaded, loaded]
                connection.execute("insert into raw.batch_tables values (?, ?, false, ?, ?, 0, 0)", counts)
    monkeypatch.setenv("DBT_DUCKDB_PATH", str(settings.warehouse))
    folders = ("--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT), "--target-path", str(tmp_path / "target"))
    quiet = ("--log-level", "none", "--log-path", str(tmp_path / "logs"))
    try:
        answer = dbtRunner().invoke([*quiet, "source", "freshness", *folders])
    finally:
        DuckDBConnectionManager.close_all_connections()
    found = {result.node.name: str(result.status) for result in answer.result.results}
    assert found == dict(zip(("batches", "events"), statuses, strict=True))
