"""What an installation holds, and so which verb comes next. Part of the composition root, as ``cli`` is."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from marquee import console
from marquee.contract import MART_TABLES, RAW_TABLES, TRAINING_ROWS
from marquee.errors import NothingToDo
from marquee.settings import Settings
from marquee.warehouse import open_warehouse

STEPS: Final = ("ingest", "check", "transform", "materialize", "train", "promote")
"""The verbs in the order in which a new installation runs them."""


def require(settings: Settings, step: str) -> None:
    """Ask that a step of ``STEPS`` has left something to work on.

    Raises:
        NothingToDo: it has not; the message names the earliest step to run.
    """
    if not _has_run(settings, step):
        first = next(name for name in STEPS if not _has_run(settings, name))
        raise NothingToDo(f"{_LACKING[first]}; run `marquee {first}` first")


_LACKING: Final = {
    "ingest": "nothing has been ingested yet",
    "check": "no batch is admitted: the gate has seen none, or refused all of them (`marquee status` shows which)",
    "transform": "the warehouse's marts have not been built yet",
    "materialize": "the feature store is empty",
    "train": "no bundle has been trained yet",
    "promote": "no bundle has been promoted yet",
}


def _has_run(settings: Settings, step: str) -> bool:
    match step:
        case "ingest":
            return bool(_warehouse(settings)["batches"])
        case "check":
            # What the marts hold has been admitted once, also when all of it was taken back since.
            is_admitted = any(batch["status"] == "admitted" for batch in _warehouse(settings)["batches"])
            return is_admitted or _has_run(settings, "transform")
        case "transform":
            return f"marts.{TRAINING_ROWS.name}" in _warehouse(settings)["tables"]
        case "materialize":
            return any((settings.features / name).exists() for name in ("online.db", "materialized.json"))
        case "train":
            return (settings.home / "training" / "latest.json").exists()
        case _:
            from training import registry

            return registry.champion(settings) is not None


def overview(settings: Settings) -> dict[str, Any]:
    """Batches and their verdicts, rows by table, bundles and the champion; everything JSON-ready."""
    from training import registry

    bundles = registry.bundles(settings) if settings.bentos.exists() else []
    state = {"bundles": bundles, **asdict(registry.roles(settings))}
    return {"home": str(settings.home)} | _warehouse(settings) | state


def _warehouse(settings: Settings) -> dict[str, Any]:
    if not settings.warehouse.exists():
        return {"batches": [], "tables": {}}
    with open_warehouse(settings) as connection:
        names = connection.execute("select table_schema || '.' || table_name from information_schema.tables").fetchall()
        present = {name for (name,) in names}
        # A load that was killed at its very start leaves a warehouse without any table.
        batches = connection.execute(_BATCHES).fetchall() if "raw.batches" in present else []
        wanted = [f"raw.{name}" for name in RAW_TABLES] + [f"marts.{name}" for name in MART_TABLES]
        tables = {
            name: connection.execute(f"select count(*) from {name}").fetchone()[0]  # noqa: S608 - contract's names
            for name in wanted
            if name in present
        }
    keys = ("batch_id", "source", "status", "reason", "read", "loaded", "quarantined", "duplicate")
    counted = [(*row[:4], *(int(count) for count in row[4:])) for row in batches]
    return {"batches": [dict(zip(keys, row, strict=True)) for row in counted], "tables": tables}


_BATCHES: Final = """
select batch_id, source, status, coalesce(reason, ''), coalesce(sum(read), 0), coalesce(sum(loaded), 0),
    coalesce(sum(quarantined), 0), coalesce(sum(duplicate), 0)
from raw.batches left join (from raw.batch_tables where not is_derived) using (batch_id)
group by batch_id, source, status, reason, batch_number order by batch_number
"""


def overview_lines(found: dict[str, Any]) -> list[str]:
    """The same for a person."""
    lines = [f"home      {found['home']}", f"champion  {found['champion'] or 'none yet'}"]
    if found["canary"]:
        lines.append(f"canary    {found['canary']}, {found['share']:.1%} of the visitors")
    if found["shadow"]:
        lines.append(f"shadow    {found['shadow']}")
    if not found["batches"]:
        where = "" if Path(found["home"]).exists() else " (there is no such folder; --home or MARQUEE_HOME names it)"
        return [*lines, f"nothing ingested yet{where}: try `marquee ingest --source simulator`"]
    columns = list(found["batches"][0])
    rows: list[list[object]] = [list(batch.values()) for batch in found["batches"]]
    tables: list[list[object]] = [[name, f"{count:,}"] for name, count in found["tables"].items()]
    return [*lines, "", console.table("batches", columns, rows), "", console.table("tables", ["table", "rows"], tables)]
