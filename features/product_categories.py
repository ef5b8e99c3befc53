"""Each product's categories for readers outside the warehouse: one Parquet file, replaced whole."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from features.session import Categories, CategoryPeriod
from marquee import contract
from marquee.errors import NothingToDo
from marquee.settings import Settings
from marquee.warehouse import open_warehouse

CHECK_SECONDS: Final = 1.0


def categories_file(settings: Settings) -> Path:
    """Where the categories are, as in ``contract.PRODUCT_CATEGORY_PERIODS``."""
    return settings.features / "offline" / "product_categories.parquet"


def export_product_categories(settings: Settings) -> int:
    """Copy the categories out of their mart, in one step for readers; the number of periods.

    Raises:
        NothingToDo: the mart has not been built.
    """
    import duckdb  # readers, the service among them, need no warehouse

    table = contract.PRODUCT_CATEGORY_PERIODS
    target = categories_file(settings)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}.partial")
    query = f"select {', '.join(table.names)} from marts.{table.name} order by {', '.join(table.key)}"  # noqa: S608
    quoted = str(partial).replace("'", "''")
    with open_warehouse(settings) as warehouse:
        try:
            warehouse.execute(f"copy ({query}) to '{quoted}' (format parquet)")
        except duckdb.CatalogException:
            raise NothingToDo(f"there is no mart {table.name} yet: run transform_events") from None
    partial.replace(target)
    return int(pq.read_metadata(target).num_rows)


class ProductCategories:
    """The exported categories, read again when the file has been replaced; none while there is no file."""

    def __init__(self, settings: Settings) -> None:
        self._file = categories_file(settings)
        self._checked_at = -CHECK_SECONDS
        self._read_of: tuple[int, int] | None = None
        self._categories: Categories = {}

    def now(self) -> Categories:
        """The categories of each product, with the periods in which it has them.

        Raises:
            OSError, pyarrow.ArrowException: the file cannot be read; the last good one is kept for the next call.
        """
        if time.monotonic() - self._checked_at < CHECK_SECONDS:
            return self._categories
        self._checked_at = time.monotonic()
        try:
            found = self._file.stat()
        except FileNotFoundError:
            return self._categories
        version = (found.st_ino, found.st_mtime_ns)
        if version != self._read_of:
            self._read_of = version  # a file that cannot be read is told of once, not once a second
            self._categories = _read(self._file)
        return self._categories


def _read(file: Path) -> Categories:
    table = pq.read_table(file, columns=list(contract.PRODUCT_CATEGORY_PERIODS.names))
    moments = [table[name].cast(pa.timestamp("us")).cast(pa.int64()) for name in ("valid_from_at", "valid_until_at")]
    columns = [column.to_pylist() for column in (*moments, table["category_id"])]
    categories: dict[str, tuple[CategoryPeriod, ...]] = {}
    # Most products have one category for ever: they share one object for each category.
    alone: dict[CategoryPeriod, tuple[CategoryPeriod, ...]] = {}
    for product, *values in zip(table["product_id"].to_pylist(), *columns, strict=True):
        period = CategoryPeriod(*values)
        before = categories.get(product)
        categories[product] = (*before, period) if before else alone.setdefault(period, (period,))
    return categories
