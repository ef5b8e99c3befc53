"""The catalogue in force: what managed records do to the bundle's rows, against rules written a second time here."""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from features.products import Products
from ingestion.catalogue_changes import Stored, absorbed
from ingestion.catalogue_store import Managed
from marquee.catalogue import Banner, Campaign, Placement, Product, Record
from serving.live_catalogue import category_mix, merge
from training.catalogue import Catalogue
from training.eligibility import eligible_banners

ROW: dict[str, Any] = {
    "banner_id": "b1",
    "campaign_id": "w1",
    "title": "Banner 1",
    "starts_at": datetime(2026, 1, 1),
    "ends_at": datetime(2026, 2, 1),
    "status": "active",
    "placements": '["hero"]',
    "product_count": 3,
    "mean_price": 7.5,
    "category_mix": '{"c1":1.000000}',
}
PRODUCTS = Products(
    ids=frozenset({"p1", "p2", "p3", "p4"}),
    titles={"p1": "One"},
    categories={"p1": "c1", "p2": "c1", "p3": "c2"},
    prices={"p1": 10.0, "p2": 20.0},
    unavailable=frozenset({"p2", "p4"}),
    of_banner={"b1": ("p1", "p2", "p3")},
)


def base(*rows: dict[str, Any]) -> Catalogue:
    return Catalogue.from_rows([ROW | row for row in rows or ({},)])


def managed(*records: Record, deleted: tuple[tuple[str, str], ...] = (), version: int = 1) -> Managed:
    kinds = {Campaign: "campaigns", Banner: "banners", Placement: "placements", Product: "products"}
    rows = [
        Stored(kinds[type(r)], getattr(r, f"{kinds[type(r)][:-1]}_id"), version, r, is_deleted=False) for r in records
    ]
    rows += [Stored(kind, key, version, None, is_deleted=True) for kind, key in deleted]
    return absorbed(Managed(), version, rows)


def campaign(key: str, **fields: Any) -> Campaign:
    told = {"campaign_id": key, "starts_at": "2026-03-01T00:00:00", "ends_at": "2026-04-01T00:00:00"} | fields
    return Campaign.model_validate(told)


def test_with_nothing_managed_the_bundles_banners_are_in_force() -> None:
    given = base({}, {"banner_id": "b0", "status": "paused", "campaign_id": "w0", "placements": "[]"})
    live = merge(given, Managed(), PRODUCTS)
    assert live.catalogue.to_rows() == given.to_rows()
    assert (live.version, live.unavailable) == (0, {"p2", "p4"})
    assert live.banners["b1"].product_ids == ("p1", "p2", "p3")
    assert live.campaigns["w0"].status == "paused"
    assert live.campaigns["w1"].starts_utc == datetime(2026, 1, 1)
    assert live.campaigns["w1"].model_dump(mode="json")["starts_at"] == "2026-01-01T00:00:00Z"
    assert live.placements.keys() == {"hero"}
    assert live.products["p1"] == Product(product_id="p1", title="One", category_id="c1", price=10.0)
    assert len(live.products) == 4


def test_a_managed_campaign_moves_and_pauses_the_warehouses_banners() -> None:
    moved = campaign("w1", starts_at="2026-03-01T00:00:00", time_zone="Europe/Prague")
    live = merge(base(), managed(moved), PRODUCTS)
    assert live.catalogue.starts_at[0] == np.datetime64("2026-02-28T23:00:00", "us")
    assert live.catalogue.is_active.tolist() == [True]
    live = merge(base(), managed(campaign("w1", status="paused")), PRODUCTS)
    assert live.catalogue.is_active.tolist() == [False]
    live = merge(base(), managed(Banner(banner_id="b1", campaign_id="w1", status="paused")), PRODUCTS)
    assert live.catalogue.is_active.tolist() == [False]


def test_a_new_banner_is_shown_in_its_campaign() -> None:
    new = Banner(banner_id="b0", campaign_id="c9", product_ids=("p1", "p2", "p2", "p3", "p9"))
    live = merge(base(), managed(campaign("c9"), new), PRODUCTS)
    assert live.catalogue.banner_ids == ["b0", "b1"]
    assert live.catalogue.titles == ["b0", "Banner 1"]
    assert (live.catalogue.product_counts[0], live.catalogue.mean_prices[0]) == (4, 15.0)
    assert live.catalogue.category_mixes[0] == '{"c1":0.666667,"c2":0.333333}'
    march = np.datetime64("2026-03-02", "us")
    assert eligible_banners(live.catalogue, "hero", march).tolist() == [True, False]
    assert eligible_banners(live.catalogue, "side", march).tolist() == [True, False]


def test_a_managed_price_and_category_count_for_managed_lists() -> None:
    new = Banner(banner_id="b0", campaign_id="w1", product_ids=("p1", "p4"))
    own = (Product(product_id="p4", category_id="c9", price=30.0), Product(product_id="p1", price=20.0))
    live = merge(base(), managed(new, *own), PRODUCTS)
    assert live.catalogue.mean_prices[0] == 25.0
    assert live.catalogue.category_mixes[0] == '{"c1":0.500000,"c9":0.500000}'
    assert live.products["p1"].title == "One", "what a managed product leaves out stays the warehouse's"
    assert live.unavailable == {"p2"}


def test_without_known_categories_the_landing_category_stands_for_them() -> None:
    new = Banner(banner_id="b0", campaign_id="w1", product_ids=("p4",), landing_category_id='c"7')
    live = merge(base(), managed(new, Banner(banner_id="b2", campaign_id="w1")), PRODUCTS)
    assert live.catalogue.category_mixes == ['{"c\\"7":1.000000}', ROW["category_mix"], "{}"]
    assert live.catalogue.mean_prices.tolist() == [0.0, 7.5, 0.0]


def test_a_managed_banner_without_products_keeps_the_warehouses() -> None:
    live = merge(base(), managed(Banner(banner_id="b1", campaign_id="w1", title="New")), PRODUCTS)
    assert live.banners["b1"].product_ids == ("p1", "p2", "p3")
    assert live.catalogue.to_rows() == base({"title": "New", "placements": "[]"}).to_rows()
    live = merge(base(), managed(Banner(banner_id="b1", campaign_id="w1", product_ids=("p3",))), PRODUCTS)
    assert live.catalogue.category_mixes == ['{"c2":1.000000}']


def test_what_is_deleted_is_not_in_force() -> None:
    given = base({}, {"banner_id": "b2"}, {"banner_id": "b3", "campaign_id": "w3"})
    gone = (("banners", "b2"), ("campaigns", "w3"), ("placements", "hero"), ("products", "p1"))
    live = merge(given, managed(deleted=gone), PRODUCTS)
    assert live.catalogue.banner_ids == ["b1"]
    assert live.banners.keys() == {"b1", "b3"}, "a banner whose campaign is gone is still told of"
    assert live.campaigns.keys() == {"w1"}
    assert live.placements == {}
    assert "p1" not in live.products
    assert live.unavailable == {"p1", "p2", "p4"}
    assert live.base["banners"].keys() == {"b1", "b2", "b3"}


def test_availability_follows_the_newest_word() -> None:
    own = (Product(product_id="p2"), Product(product_id="p3", is_available=False), Product(product_id="p8"))
    live = merge(base(), managed(*own), PRODUCTS)
    assert live.unavailable == {"p3", "p4"}
    assert live.products["p2"].is_available
    assert live.products.keys() == {"p1", "p2", "p3", "p4", "p8"}


@given(st.dictionaries(st.text("abcdefgh", min_size=1, max_size=3), st.integers(1, 400), max_size=40))
@settings(deadline=None)
def test_a_mix_holds_the_largest_shares(counts: dict[str, int]) -> None:
    mix = json.loads(category_mix(counts))
    total = sum(counts.values())
    assert len(mix) == min(len(counts), 30)
    assert all(abs(share - counts[key] / total) <= 5e-7 + 1e-12 for key, share in mix.items())
    left_out = [count for key, count in counts.items() if key not in mix]
    assert max(left_out, default=0) <= min((counts[key] for key in mix), default=0)
    assert list(mix) == sorted(mix, key=lambda key: (-mix[key], key))


def test_two_thousand_banners_are_merged_in_time() -> None:
    ids = [f"p{n}" for n in range(5_000)]
    lists = {f"b{n}": tuple(ids[n : n + 30]) for n in range(1_000)}
    stock = Products(frozenset(ids), {}, dict.fromkeys(ids, "c1"), dict.fromkeys(ids, 9.0), frozenset(ids[:9]), lists)
    given = base(*({"banner_id": f"b{n}", "campaign_id": f"w{n % 50}"} for n in range(1_000)))
    own = [
        Banner(banner_id=f"m{n}", campaign_id=f"w{n % 50}", product_ids=tuple(ids[n : n + 30])) for n in range(1_000)
    ]
    laid = managed(*own, *(Product(product_id=p, is_available=False) for p in ids[:500]))
    merge(given, laid, stock)
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        live = merge(given, laid, stock)
        taken.append(time.perf_counter() - started)
    assert len(live.catalogue) == 2_000
    assert min(taken) < 0.3, taken
