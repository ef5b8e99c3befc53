"""What the warehouse knows of products, for readers outside it: one Parquet file, replaced whole.

Categories as of the newest event, prices, whether they can be had, and which banners promote them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq

from features.exported_file import ExportedFile, copy_out
from marquee.settings import Settings
from marquee.warehouse import open_warehouse

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
    with open_warehouse(settings) as warehouse:
        found = warehouse.execute("select table_name from duckdb_tables() where schema_name = 'raw'").fetchall()
        if not {(name,) for name in RAW} <= {*found}:
            return 0
        return copy_out(warehouse, QUERY, products_file(settings), "product_category_periods")


class ShopProducts(ExportedFile[Products]):
    """The exported products."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(products_file(settings), _read, Products())


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
