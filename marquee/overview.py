"""What an installation holds, for `marquee status`. Part of the composition root, as ``cli`` is."""

from __future__ import annotations

from typing import Any

from marquee import console
from marquee.contract import MART_TABLES, RAW_TABLES
from marquee.settings import Settings


def overview(settings: Settings) -> dict[str, Any]:
    """Batches and their verdicts, rows by table, bundles and the champion; everything JSON-ready."""
    from training import registry

    found: dict[str, Any] = {"home": str(settings.home), "batches": [], "tables": {}, "bundles": []}
    if settings.warehouse.exists():
        found |= _warehouse(settings)
    found["bundles"] = registry.bundles(settings) if settings.bentos.exists() else []
    found["champion"] = registry.champion(settings)
    return found


def _warehouse(settings: Settings) -> dict[str, Any]:
    from ingestion.load import connect

    with connect(settings, read_only=True) as connection:
        batches = connection.execute(
            "select batch_id, source, status, coalesce(reason, ''), coalesce(sum(read), 0), coalesce(sum(loaded), 0), "
            "coalesce(sum(quarantined), 0), coalesce(sum(duplicate), 0) "
            "from raw.batches left join (from raw.batch_tables where not is_derived) using (batch_id) "
            "group by all, batch_number order by batch_number"
        ).fetchall()
        present = {
            f"{schema}.{name}"
            for schema, name in connection.execute(
                "select table_schema, table_name from information_schema.tables"
            ).fetchall()
        }
        wanted = [f"raw.{name}" for name in RAW_TABLES] + [f"marts.{name}" for name in MART_TABLES]
        tables = {
            name: connection.execute(f"select count(*) from {name}").fetchone()[0]  # noqa: S608 - contract's names
            for name in wanted
            if name in present
        }
    keys = ("batch_id", "source", "status", "reason", "read", "loaded", "quarantined", "duplicate")
    counted = [(*row[:4], *(int(count) for count in row[4:])) for row in batches]
    return {"batches": [dict(zip(keys, row, strict=True)) for row in counted], "tables": tables}


def overview_lines(found: dict[str, Any]) -> list[str]:
    """The same for a person."""
    lines = [f"home      {found['home']}", f"champion  {found['champion'] or 'none yet'}"]
    if not found["batches"]:
        return [*lines, "nothing ingested yet: try `marquee ingest --source simulator`"]
    columns = list(found["batches"][0])
    rows: list[list[object]] = [list(batch.values()) for batch in found["batches"]]
    tables: list[list[object]] = [[name, f"{count:,}"] for name, count in found["tables"].items()]
    return [*lines, "", console.table("batches", columns, rows), "", console.table("tables", ["table", "rows"], tables)]
