"""The catalogue in force: the bundle's banners with what marketers manage laid over them. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from features.products import Products
from ingestion.catalogue_store import Managed, Records
from marquee.catalogue import KINDS, MOST_PRODUCTS, Banner, Campaign, Placement, Product, Record
from training.catalogue import Catalogue

LARGEST: Final = 30
"""Categories in a mix; dbt's ``category_limit``."""


@dataclass(frozen=True, slots=True)
class Live:
    """Everything in force at one version of the managed catalogue.

    Attributes:
        version: of the managed catalogue.
        catalogue: banners whose campaign there is, ordered by id; active where banner and campaign are.
        campaigns, banners, placements, products: records by id; a banner that names no products has the warehouse's.
        unavailable: products that cannot be had now.
        base: what the warehouse says, by kind and id; what the store has to know of it.
        managed: what lies over it.
    """

    version: int
    catalogue: Catalogue
    campaigns: dict[str, Campaign]
    banners: dict[str, Banner]
    placements: dict[str, Placement]
    products: Mapping[str, Product]
    unavailable: frozenset[str]
    base: Records
    managed: Managed


class KnownProducts(Mapping[str, Product]):
    """Products as the warehouse and the managed ones say together, made when they are asked for."""

    def __init__(self, known: Products, managed: Mapping[str, Product], deleted: Iterable[str] = ()) -> None:
        self.known, self._managed, self._deleted = known, managed, frozenset(deleted)
        self._ids = (known.ids | managed.keys()) - self._deleted if managed or self._deleted else known.ids

    def __getitem__(self, product_id: str) -> Product:
        """What both know; what the managed one leaves out is the warehouse's."""
        if product_id not in self._ids:
            raise KeyError(product_id)
        own = self._managed.get(product_id)
        category, price = self.facts(product_id)
        return Product.model_construct(
            product_id=product_id,
            title=own.title if own and own.title is not None else self.known.titles.get(product_id),
            category_id=category,
            price=price,
            is_available=own.is_available if own else product_id not in self.known.unavailable,
        )

    def facts(self, product_id: str) -> tuple[str | None, float | None]:
        """Category and price, None where not known; a whole record takes five times as long."""
        if product_id not in self._ids:
            return None, None
        category, price = self.known.categories.get(product_id), self.known.prices.get(product_id)
        if own := self._managed.get(product_id):
            category = category if own.category_id is None else own.category_id
            price = price if own.price is None else own.price
        return category, price

    def __contains__(self, product_id: object) -> bool:
        return product_id in self._ids

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)


def merge(base: Catalogue, managed: Managed, products: Products) -> Live:
    """The catalogue in force. The warehouse's rows, replaced or extended by managed records, without deleted ones.

    Counts, mean prices and mixes are the bundle's own, but for banners whose products are managed: those are made as
    the warehouse makes them.
    """
    known = base_records(base, products)
    now = effective(known, managed)
    campaigns = cast(dict[str, Campaign], now["campaigns"])
    banners = cast(dict[str, Banner], now["banners"])
    stock = cast(KnownProducts, now["products"])
    own = cast(Mapping[str, Product], managed.records["products"])
    taken = {product for product, record in own.items() if not record.is_available} | managed.deleted["products"].keys()
    return Live(
        version=managed.version,
        catalogue=_catalogue(base, campaigns, banners, managed, stock),
        campaigns=campaigns,
        banners=banners,
        placements=cast(dict[str, Placement], now["placements"]),
        products=stock,
        unavailable=(products.unavailable - own.keys()) | taken,
        base=known,
        managed=managed,
    )


def base_records(base: Catalogue, products: Products) -> Records:
    """The warehouse's banners, their campaigns, the placements that they name, and the products, as records.

    They are not validated: what has gone through the warehouse is taken as it is. Of a banner's products the first
    ``MOST_PRODUCTS`` are listed.
    """
    campaigns: dict[str, Record] = {}
    banners: dict[str, Record] = {}
    starts, ends, active = _moments(base.starts_at), _moments(base.ends_at), base.is_active.tolist()
    for row, (key, campaign) in enumerate(zip(base.banner_ids, base.campaign_ids, strict=True)):
        banners[key] = Banner.model_construct(
            banner_id=key,
            campaign_id=campaign,
            title=base.titles[row],
            placements=tuple(sorted(base.placements[row])),
            product_ids=products.of_banner.get(key, ())[:MOST_PRODUCTS],
        )
        if campaign not in campaigns:
            status = "active" if active[row] else "paused"
            campaigns[campaign] = Campaign.model_construct(
                campaign_id=campaign, status=status, starts_at=starts[row], ends_at=ends[row]
            )
    names = sorted(frozenset().union(*base.placements))
    placements: dict[str, Record] = {name: Placement(placement_id=name) for name in names}
    stock = cast(Mapping[str, Record], KnownProducts(products, {}))
    return {"campaigns": campaigns, "banners": banners, "placements": placements, "products": stock}


def effective(base: Records, managed: Managed) -> dict[str, Mapping[str, Record]]:
    """Records in force by kind and id. A managed banner without products keeps those that the warehouse knows."""
    now: dict[str, Mapping[str, Record]] = {}
    for kind in KINDS:
        if kind == "products":
            own = cast(Mapping[str, Product], managed.records[kind])
            known = cast(KnownProducts, base[kind]).known
            now[kind] = cast(Mapping[str, Record], KnownProducts(known, own, managed.deleted[kind]))
            continue
        merged = {**base[kind], **managed.records[kind]}
        now[kind] = {key: record for key, record in merged.items() if key not in managed.deleted[kind]}
    banners = cast(dict[str, Record], now["banners"])
    for key, record in managed.records["banners"].items():
        warehouse = base["banners"].get(key)
        if isinstance(record, Banner) and isinstance(warehouse, Banner) and not record.product_ids:
            banners[key] = record.model_copy(update={"product_ids": warehouse.product_ids})
    return now


def _catalogue(
    base: Catalogue,
    campaigns: Mapping[str, Campaign],
    banners: Mapping[str, Banner],
    managed: Managed,
    stock: KnownProducts,
) -> Catalogue:
    """The banners whose campaign there is, as arrays."""
    row_of = {key: row for row, key in enumerate(base.banner_ids)}
    own = cast(Mapping[str, Banner], managed.records["banners"])
    moments = {key: (c.starts_utc, c.ends_utc, c.status == "active") for key, c in campaigns.items()}
    shown = [banners[key] for key in sorted(banners) if banners[key].campaign_id in campaigns]
    figures = []
    for banner in shown:
        row = row_of.get(banner.banner_id)
        # The warehouse's figures hold for as long as its list of products does.
        if row is not None and not (banner.banner_id in own and own[banner.banner_id].product_ids):
            figures.append((base.product_counts[row], base.mean_prices[row], base.category_mixes[row]))
        else:
            figures.append(figures_of(banner, stock))
    return Catalogue(
        banner_ids=[banner.banner_id for banner in shown],
        campaign_ids=[banner.campaign_id for banner in shown],
        titles=[banner.title or banner.banner_id for banner in shown],
        starts_at=np.array([moments[banner.campaign_id][0] for banner in shown], dtype="datetime64[us]"),
        ends_at=np.array([moments[banner.campaign_id][1] for banner in shown], dtype="datetime64[us]"),
        is_active=np.array([moments[b.campaign_id][2] and b.status == "active" for b in shown], dtype=bool),
        placements=[frozenset(banner.placements) for banner in shown],
        product_counts=np.array([count for count, _, _ in figures], dtype=np.float64),
        mean_prices=np.array([price for _, price, _ in figures], dtype=np.float64),
        category_mixes=[mix for _, _, mix in figures],
    )


def figures_of(banner: Banner, stock: KnownProducts) -> tuple[int, float, str]:
    """Number of products, mean price and category mix, as ``int_banner_mixes`` in the warehouse makes them."""
    ids = set(banner.product_ids)
    found = [stock.facts(key) for key in ids]
    prices = sorted(price for _, price in found if price is not None)
    categories = Counter(category for category, _ in found if category is not None)
    if not categories and banner.landing_category_id is not None:
        categories[banner.landing_category_id] = 1
    return len(ids), sum(prices) / len(prices) if prices else 0.0, category_mix(categories)


def category_mix(categories: Mapping[str, int]) -> str:
    """Shares by category, largest first, at most 30, as the mart's JSON text with 6 digits each."""
    total = sum(categories.values())
    # Rounded in two steps, as the mart does: a share on the border between two texts goes the same way in both.
    shares = [((round(count / total * 1e12) + 500_000) // 1_000_000, key) for key, count in categories.items()]
    largest = sorted(shares, key=lambda share: (-share[0], share[1]))[:LARGEST]
    members = (f"{json.dumps(key, ensure_ascii=False)}:{share / 1e6:.6f}" for share, key in largest)
    return "{" + ",".join(members) + "}"


def _moments(values: NDArray[np.datetime64]) -> list[datetime]:
    return [value.replace(tzinfo=UTC) for value in cast(list[datetime], values.astype("datetime64[us]").tolist())]
