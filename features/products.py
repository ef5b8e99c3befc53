"""What the warehouse knows of products, for readers outside it: one Parquet file, replaced whole.

Categories as of the newest event, prices, whether they can be had, and which banners promote them.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq

from marquee.errors import NothingToDo
from marquee.settings import Settings
from marquee.warehouse import open_warehouse

CHECK_SECONDS: Final = 1.0
RAW: Final = ("batches", "events", "products", "product_properties", "banner_products")
# Raw tables are in the DuckDB file whatever dbt builds on; of the marts only some are.
QUERY: Final = """
with admitted as (select batch_id, batch_number from raw.batches where status = 'admitted'),

newest as (
    select coalesce(max(occurred_at), timestamp '1900-01-01') as happened_at
    from raw.events
    semi join admitted using (batch_id)
),

products as (
    select product_id, title, price, is_available
    from raw.products
    inner join admitted using (batch_id)
    qualify row_number() over (partition by product_id order by batch_number desc) = 1
),

categories as (
    select product_id, category_id
    from marts.product_category_periods
    inner join newest on happened_at >= valid_from_at and happened_at < valid_until_at
),

availabilities as (
    select product_id, lower(value) in ('1', 'true') as is_available
    from raw.product_properties
    inner join admitted using (batch_id)
    inner join newest on valid_from_at <= happened_at
    where property = 'is_available'
    qualify row_number() over (partition by product_id order by valid_from_at desc, batch_number desc) = 1
),

banners as (
    select product_id, to_json(list(distinct banner_id order by banner_id))::varchar as banner_ids
    from raw.banner_products
    semi join admitted using (batch_id)
    group by product_id
)

select
    product_id,
    products.title,
    categories.category_id,
    products.price,
    coalesce(products.is_available, availabilities.is_available, true) as is_available,
    coalesce(banners.banner_ids, '[]') as banner_ids
from products
full join categories using (product_id)
full join availabilities using (product_id)
full join banners using (product_id)
order by product_id
"""


@dataclass(frozen=True, slots=True)
class Products:
    """Each product by its id, and each banner's products by the banner's.

    Attributes:
        ids: all of them.
        titles, categories, prices: where known.
        unavailable: those that cannot be had.
        of_banner: products that each banner promotes, in order; of any number.
    """

    ids: frozenset[str] = frozenset()
    titles: Mapping[str, str] = field(default_factory=dict)
    categories: Mapping[str, str] = field(default_factory=dict)
    prices: Mapping[str, float] = field(default_factory=dict)
    unavailable: frozenset[str] = frozenset()
    of_banner: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def products_file(settings: Settings) -> Path:
    """Where the products are."""
    return settings.features / "offline" / "products.parquet"


def export_products(settings: Settings) -> int:
    """Copy the products out of the warehouse, in one step for readers; their number, 0 where nothing was ingested.

    Raises:
        NothingToDo: the marts have not been built.
    """
    import duckdb  # readers, the service among them, need no warehouse

    target = products_file(settings)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}.partial")
    quoted = str(partial).replace("'", "''")
    with open_warehouse(settings) as warehouse:
        found = warehouse.execute("select table_name from duckdb_tables() where schema_name = 'raw'").fetchall()
        if not {(name,) for name in RAW} <= {*found}:
            return 0
        try:
            warehouse.execute(f"copy ({QUERY}) to '{quoted}' (format parquet)")
        except duckdb.CatalogException:
            raise NothingToDo("there is no mart product_category_periods yet: run transform_events") from None
    partial.replace(target)
    return int(pq.read_metadata(target).num_rows)


class ShopProducts:
    """The exported products, read again when the file has been replaced; none while there is no file."""

    def __init__(self, settings: Settings) -> None:
        self._file = products_file(settings)
        self._checked_at = -CHECK_SECONDS
        self._read_of: tuple[int, int] | None = None
        self._products = Products()

    def now(self) -> Products:
        """The products; the same object as before unless the file has been replaced.

        Raises:
            OSError, pyarrow.ArrowException: the file cannot be read; the last good one is kept for the next call.
        """
        if time.monotonic() - self._checked_at < CHECK_SECONDS:
            return self._products
        self._checked_at = time.monotonic()
        try:
            found = self._file.stat()
        except FileNotFoundError:
            return self._products
        version = (found.st_ino, found.st_mtime_ns)
        if version != self._read_of:
            self._read_of = version  # a file that cannot be read is told of once, not once a second
            self._products = _read(self._file)
        return self._products


def _read(file: Path) -> Products:
    columns = pq.read_table(file).to_pydict()
    ids = columns["product_id"]
    known = {
        name: {product: value for product, value in zip(ids, columns[name], strict=True) if value is not None}
        for name in ("title", "category_id", "price")
    }
    of_banner: dict[str, list[str]] = {}
    for product, banners in zip(ids, columns["banner_ids"], strict=True):
        for banner in json.loads(banners):
            of_banner.setdefault(banner, []).append(product)
    return Products(
        ids=frozenset(ids),
        titles=known["title"],
        categories=known["category_id"],
        prices=known["price"],
        unavailable=frozenset(p for p, can in zip(ids, columns["is_available"], strict=True) if not can),
        of_banner={banner: tuple(products) for banner, products in of_banner.items()},
    )
