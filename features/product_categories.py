"""Each product's category for readers outside the warehouse: one Parquet file, replaced whole."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq

from marquee.settings import Settings
from marquee.warehouse import open_warehouse

CHECK_SECONDS: Final = 1.0


def categories_file(settings: Settings) -> Path:
    """Where the categories are: ``product_id`` and ``category_id``, only products that have one."""
    return settings.features / "offline" / "product_categories.parquet"


def export_product_categories(settings: Settings) -> int:
    """Copy the categories out of the products mart, in one step for readers; the number of products with one.

    Without that mart nothing is written.
    """
    import duckdb  # readers, the service among them, need no warehouse

    target = categories_file(settings)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}.partial")
    query = "select product_id, category_id from marts.products where category_id is not null order by product_id"
    quoted = str(partial).replace("'", "''")
    with open_warehouse(settings) as warehouse:
        try:
            warehouse.execute(f"copy ({query}) to '{quoted}' (format parquet)")
        except duckdb.CatalogException:
            return 0
    partial.replace(target)
    return int(pq.read_metadata(target).num_rows)


class ProductCategories:
    """The exported categories, read again when the file has been replaced; none while there is no file."""

    def __init__(self, settings: Settings) -> None:
        self._file = categories_file(settings)
        self._checked_at = -CHECK_SECONDS
        self._read_of: tuple[int, int] | None = None
        self._categories: Mapping[str, str] = {}

    def now(self) -> Mapping[str, str]:
        """Category by product.

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


def _read(file: Path) -> dict[str, str]:
    table = pq.read_table(file, columns=["product_id", "category_id"])
    names: dict[str, str] = {}  # one object for each category, however many products it has
    pairs = zip(table["product_id"].to_pylist(), table["category_id"].to_pylist(), strict=True)
    return {product: names.setdefault(category, category) for product, category in pairs}
