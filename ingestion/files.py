"""Tables written as files in Marquee's own layout, one Parquet file a table, to be ingested elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow.parquet as pq

from ingestion.batch import Batch, arrow_schema
from marquee import contract
from marquee.errors import MarqueeError


def write_tables(batches: Iterable[Batch], folder: Path, on_rows: Callable[[int], None]) -> dict[str, int]:
    """Write each table's records to ``<table>.parquet`` as they come; rows by table.

    Raises:
        MarqueeError: the folder already holds one of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    writers: dict[str, pq.ParquetWriter] = {}
    counts: dict[str, int] = {}
    try:
        for batch in batches:
            if batch.table not in writers:
                path = folder / f"{batch.table}.parquet"
                if path.exists():
                    raise MarqueeError(f"{path} exists already; choose an empty folder")
                writers[batch.table] = pq.ParquetWriter(path, arrow_schema(contract.RAW_TABLES[batch.table]))
            writers[batch.table].write_table(batch.records)
            counts[batch.table] = counts.get(batch.table, 0) + len(batch.records)
            on_rows(len(batch.records) if batch.table == contract.EVENTS.name else 0)
    finally:
        for writer in writers.values():
            writer.close()
    return counts
