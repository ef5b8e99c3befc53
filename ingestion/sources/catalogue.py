"""The managed catalogue as a source, so that what marketers made comes into the warehouse and into training.

The warehouse has columns for a part of it. What a managed record leaves to the warehouse, such as a product's price, is
filled in from there, for a row replaces the one before it whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, cast

from ingestion.batch import Batch
from ingestion.catalogue_changes import Managed
from ingestion.catalogue_store import open_catalogue_store
from ingestion.mapping import batches
from ingestion.rows import Row
from ingestion.sources.marquee_files import typed_record
from marquee import contract
from marquee.catalogue import Banner, Campaign, Product, Record
from marquee.errors import NothingToDo
from marquee.settings import Settings
from marquee.warehouse import open_warehouse

Values = dict[str, Any]
Current = Callable[[contract.Table], Mapping[str, Values]]
"""The warehouse's rows of a table by its first key."""


class CatalogueSource:
    """Managed campaigns, banners, their placements and products, products, and categories that are new.

    A deleted campaign arrives as paused. A banner has no status in the warehouse: a paused or deleted one arrives as it
    was last, and only the service keeps it back. A placement or product taken off a banner stays known there.
    """

    about: Final = "what marketers manage through the service's API; reads no files"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        store = open_catalogue_store(settings)
        try:
            self._managed = store.read()
        finally:
            store.close()
        # Of the version, for a batch is known by its content: a catalogue changed back must be a batch of its own.
        self.name = f"catalogue.{self._managed.version}"

    def read(self) -> Iterator[Batch]:
        """Rows table by table, by id.

        Raises:
            NothingToDo: nothing is managed.
        """
        if not self._managed.version:
            raise NothingToDo("no campaign, banner or product is managed yet; the service's API takes them")
        for table, rows in _tables(self._managed, self._current).items():
            found = (Row(table.name, n, "", values) for n, values in enumerate(rows, 1))
            yield from batches(table, found, lambda values, table=table: typed_record(table, values))  # type: ignore[misc]

    def _current(self, table: contract.Table) -> Mapping[str, Values]:
        if not self._settings.warehouse.exists():
            return {}
        query = f"""
            select {", ".join(table.names)} from raw.{table.name}
            inner join (select batch_id, batch_number from raw.batches where status = 'admitted') using (batch_id)
            qualify row_number() over (partition by {table.key[0]} order by batch_number desc) = 1
        """  # noqa: S608 - names come from the contract
        with open_warehouse(self._settings) as warehouse:
            (is_there,) = warehouse.execute(
                "select count(*) from duckdb_tables() where schema_name = 'raw' and table_name = ?", [table.name]
            ).fetchone()
            rows = warehouse.execute(query).fetchall() if is_there else []
        return {row[0]: dict(zip(table.names, row, strict=True)) for row in rows}


def _tables(managed: Managed, current: Current) -> dict[contract.Table, list[Values]]:
    """Rows by table."""
    banners = [cast(Banner, banner) for banner in _all(managed, "banners")]
    banner_rows = [banner.model_dump(include={*contract.BANNERS.names}) for banner in banners]
    product_rows = [product.model_dump() for product in _all(managed, "products") if isinstance(product, Product)]
    named = [row["category_id"] for row in product_rows] + [banner.landing_category_id for banner in banners]
    new = {category for category in named if category is not None} - current(contract.CATEGORIES).keys()
    places = [{"banner_id": b.banner_id, "placement_id": place} for b in banners for place in b.placements]
    promoted = [
        # A managed list belongs to the banner and to no drawing of it.
        {"banner_id": b.banner_id, "creative_id": b.banner_id, "product_id": product}
        for b in banners
        for product in dict.fromkeys(b.product_ids)
    ]
    return {
        contract.CATEGORIES: [{"category_id": category} for category in sorted(new)],
        contract.PRODUCTS: _filled(contract.PRODUCTS, product_rows, current),
        contract.CAMPAIGNS: _filled(contract.CAMPAIGNS, _campaign_rows(managed), current),
        contract.BANNERS: _filled(contract.BANNERS, banner_rows, current),
        contract.BANNER_PLACEMENTS: places,
        contract.BANNER_PRODUCTS: promoted,
    }


def _campaign_rows(managed: Managed) -> list[Values]:
    gone = managed.deleted["campaigns"]
    return [
        {
            "campaign_id": campaign.campaign_id,
            "title": campaign.title,
            "starts_at": campaign.starts_utc,
            "ends_at": campaign.ends_utc,
            "status": "paused" if campaign.campaign_id in gone else campaign.status,
        }
        for campaign in _all(managed, "campaigns")
        if isinstance(campaign, Campaign)
    ]


def _all(managed: Managed, kind: str) -> list[Record]:
    """Records of a kind by id; of deleted ones what they were last, and a product that cannot be had."""
    found = dict(managed.records[kind])
    for key, record in managed.deleted[kind].items():
        if isinstance(record, Product):
            found[key] = record.model_copy(update={"is_available": False})
        elif record is not None:
            found[key] = record
    return [found[key] for key in sorted(found)]


def _filled(table: contract.Table, rows: list[Values], current: Current) -> list[Values]:
    """The rows with what the warehouse has where they say nothing."""
    if not rows:
        return rows
    known, key = current(table), table.key[0]
    return [
        {name: known.get(row[key], {}).get(name) if value in (None, "") else value for name, value in row.items()}
        for row in rows
    ]
