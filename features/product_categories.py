"""Each product's categories for readers outside the warehouse: one Parquet file, replaced whole."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from features.exported_file import ExportedFile, copy_out
from features.session import Categories, CategoryPeriod
from marquee import contract
from marquee.settings import Settings
from marquee.warehouse import open_warehouse


def categories_file(settings: Settings) -> Path:
    """Where the categories are, as in ``contract.PRODUCT_CATEGORY_PERIODS``."""
    return settings.features / "offline" / "product_categories.parquet"


def export_product_categories(settings: Settings) -> int:
    """Copy the categories out of their mart, in one step for readers; the number of periods.

    Raises:
        NothingToDo: the mart has not been built.
    """
    table = contract.PRODUCT_CATEGORY_PERIODS
    query = f"select {', '.join(table.names)} from marts.{table.name} order by {', '.join(table.key)}"  # noqa: S608
    with open_warehouse(settings) as warehouse:
        return copy_out(warehouse, query, categories_file(settings), table.name)


class ProductCategories(ExportedFile[Categories]):
    """The exported categories: of each product, with the periods in which it has them."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(categories_file(settings), _read, {})


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
