"""The point-in-time join through Feast beside an ASOF join of the same shape written by hand, alternating."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa

from marquee import contract

ROWS: Final = 1_000_000
TIMES: Final = 5
VIEWS: Final = {contract.VISITOR_FEATURES_28D: 28, contract.VISITOR_FEATURES_365D: 365}
"""Views joined, and the days after which a row of each is too old."""


def compare(home: Path) -> dict[str, Any]:
    """Features of a million page views as of each, from an installation that is materialised.

    Both read the same Parquet files and give an Arrow table; nulls and values are compared, not only counted.
    """
    from features.store import open_store
    from marquee.settings import Settings

    store = open_store(Settings(home=home))
    entities = _entities(home)
    names = {view: [name for name in view.names if name not in view.key] for view in VIEWS}
    references = [f"{view.name}:{name}" for view, features in names.items() for name in features]
    query = _asof(home / "features" / "offline", names)

    def through_feast() -> pa.Table:
        return store.get_historical_features(entities, features=references).to_arrow()

    def by_hand() -> pa.Table:
        with duckdb.connect() as connection:
            connection.execute("set timezone = 'UTC'")
            connection.register("entities", entities)
            return connection.sql(query).to_arrow_table()

    ours, theirs = through_feast(), by_hand()  # the first of each also reads the files into the page cache
    seconds: dict[str, list[float]] = {"feast": [], "asof": []}
    for _ in range(TIMES):
        seconds["feast"].append(_timed(through_feast))
        seconds["asof"].append(_timed(by_hand))
    ratios = [feast / asof for feast, asof in zip(seconds["feast"], seconds["asof"], strict=True)]
    kept = [name for features in names.values() for name in features]
    return {
        "pit_rows": entities.num_rows,
        "pit_rows_lost": entities.num_rows - ours.num_rows,
        "pit_rows_with_features": ours.num_rows - ours.column("last_seen_at").null_count,
        "pit_cells_different": _different(ours, theirs, kept),
        "pit_vs_asof": round(statistics.median(ratios), 2),
        "pit_vs_asof_range": [round(min(ratios), 2), round(max(ratios), 2)],
        "pit_seconds": round(statistics.median(seconds["feast"]), 2),
    }


def _entities(home: Path) -> pa.Table:
    query = """
        select event_id, visitor_id, timezone('UTC', occurred_at) as event_timestamp
        from raw.events order by hash(event_id) limit ?
    """
    with duckdb.connect(str(home / "warehouse.duckdb"), read_only=True) as connection:
        return connection.execute(query, [ROWS]).to_arrow_table()


def _asof(offline: Path, names: dict[contract.Table, list[str]]) -> str:
    selected, joins = ["entities.*"], []
    for view, days in VIEWS.items():
        alive = f"event_timestamp <= {view.name}.feature_at + interval {days} days"
        selected += [f"case when {alive} then {view.name}.{name} end as {name}" for name in names[view]]
        joins.append(
            f"asof left join read_parquet('{offline / view.name}/*.parquet') as {view.name} "
            f"on entities.visitor_id = {view.name}.visitor_id and event_timestamp >= {view.name}.feature_at"
        )
    return f"select {', '.join(selected)} from entities {' '.join(joins)}"  # noqa: S608


def _different(ours: pa.Table, theirs: pa.Table, names: list[str]) -> int:
    """Cells that are not the same in both, rows matched by event."""
    unlike = " + ".join(f"count(*) filter (ours.{name} is distinct from theirs.{name})" for name in names)
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        connection.register("ours", ours)
        connection.register("theirs", theirs)
        row = connection.execute(f"select {unlike} from ours full join theirs using (event_id)").fetchone()  # noqa: S608
    assert row
    return int(row[0])


def _timed(run: Callable[[], pa.Table]) -> float:
    since = time.perf_counter()
    run()
    return time.perf_counter() - since
