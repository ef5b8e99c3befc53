"""The Complete Journey 2.0: a grocer's campaigns, the households that got them, their coupons and their baskets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final

from ingestion.batch import Batch, event_id
from ingestion.mapping import FieldError, Record, Values, amount, batches, clock, day, derived, key, optional
from ingestion.paths import table_file
from ingestion.rows import read_csv
from marquee import contract

FILES: Final = {
    "campaign_descriptions": ("campaign_id", "campaign_type", "start_date", "end_date"),
    "campaigns": ("campaign_id", "household_id"),
    "products": ("product_id", "department", "product_category", "product_type"),
    "coupons": ("coupon_upc", "product_id", "campaign_id"),
    "coupon_redemptions": ("household_id", "coupon_upc", "campaign_id", "redemption_date"),
    "transactions": (
        "household_id",
        "store_id",
        "basket_id",
        "product_id",
        "quantity",
        "sales_value",
        "transaction_timestamp",
    ),
}
NOON: Final = timedelta(hours=12)
DAY: Final = timedelta(days=1)


@dataclass(slots=True)
class _Mailing:
    """What later files refer to: the campaigns, who got which, and the coupons seen."""

    campaigns: dict[str, Record] = field(default_factory=dict)
    placements: dict[str, str] = field(default_factory=dict)
    recipients: set[tuple[str, str]] = field(default_factory=set)
    creatives: dict[str, Record] = field(default_factory=dict)

    def campaign(self, values: Values) -> Record:
        campaign_id = key(values, "campaign_id")
        if campaign_id not in self.campaigns:
            raise FieldError(f"campaign_id {campaign_id!r} is not in campaign_descriptions")
        return self.campaigns[campaign_id]


class CompleteJourney:
    """A folder with the published tables as CSV; a campaign becomes one banner, a mailing an impression."""

    name = "completejourney"
    about = "The Complete Journey 2.0: folder of campaigns, coupons, redemptions, products and transactions as CSV"

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Iterator[Batch]:
        """Campaigns and recipients first, for the other files refer to them."""
        files = {name: self._file(name) for name in FILES}
        rows = {name: read_csv(files[name], columns) for name, columns in FILES.items()}
        mailing = _Mailing()
        yield from batches(contract.CAMPAIGNS, rows["campaign_descriptions"], partial(_campaign, mailing))
        yield from derived(contract.BANNERS, map(_banner, mailing.campaigns.values()))
        yield from derived(contract.BANNER_PLACEMENTS, _banner_placements(mailing))
        yield from batches(contract.EVENTS, rows["campaigns"], partial(_impression, mailing))
        yield from batches(contract.PRODUCTS, rows["products"], _product)
        yield from batches(contract.BANNER_PRODUCTS, rows["coupons"], partial(_banner_product, mailing))
        yield from derived(contract.CREATIVES, mailing.creatives.values())
        yield from batches(contract.EVENTS, rows["coupon_redemptions"], partial(_click, mailing))
        yield from batches(contract.EVENTS, rows["transactions"], _order)

    def _file(self, name: str) -> Path:
        # The published sample holds some of the full table's rows, so it only stands in for it.
        names = ("transactions", "transactions_sample") if name == "transactions" else (name,)
        return table_file(self.path, *names)


def _campaign(mailing: _Mailing, values: Values) -> Record:
    campaign_id, campaign_type = key(values, "campaign_id"), key(values, "campaign_type")
    record: Record = {
        "campaign_id": campaign_id,
        "title": f"Campaign {campaign_id} ({campaign_type})",
        "starts_at": day(values, "start_date"),
        "ends_at": day(values, "end_date") + DAY,
        "status": "active",
    }
    if record["ends_at"] <= record["starts_at"]:
        raise FieldError(f"end_date {values['end_date']!r} is before start_date {values['start_date']!r}")
    mailing.campaigns.setdefault(campaign_id, record)
    mailing.placements.setdefault(campaign_id, campaign_type.lower().replace(" ", "_"))
    return record


def _banner(campaign: Record) -> Record:
    return {
        "banner_id": _banner_id(campaign),
        "campaign_id": campaign["campaign_id"],
        "title": campaign["title"],
        "created_at": campaign["starts_at"],
    }


def _banner_placements(mailing: _Mailing) -> Iterator[Record]:
    for campaign_id, campaign in mailing.campaigns.items():
        yield {"banner_id": _banner_id(campaign), "placement_id": mailing.placements[campaign_id]}


def _banner_id(campaign: Record) -> str:
    return f"campaign-{campaign['campaign_id']}"


def _impression(mailing: _Mailing, values: Values) -> Record:
    campaign, household_id = mailing.campaign(values), key(values, "household_id")
    campaign_id = campaign["campaign_id"]
    mailing.recipients.add((campaign_id, household_id))
    return {
        "event_id": event_id("completejourney", "impression", campaign_id, household_id),
        "kind": "impression",
        "occurred_at": campaign["starts_at"],
        "visitor_id": household_id,
        "customer_id": household_id,
        "banner_id": _banner_id(campaign),
        "placement_id": mailing.placements[campaign_id],
        "position": 0,
        "impression_id": f"{campaign_id}-{household_id}",
        "policy": "mailing",
    }


def _click(mailing: _Mailing, values: Values) -> Record:
    campaign, household_id = mailing.campaign(values), key(values, "household_id")
    campaign_id, coupon_upc = campaign["campaign_id"], key(values, "coupon_upc")
    redeemed_at = day(values, "redemption_date") + NOON
    is_recipient = (campaign_id, household_id) in mailing.recipients
    is_in_time = campaign["starts_at"] <= redeemed_at < campaign["ends_at"]
    return {
        "event_id": event_id("completejourney", "click", campaign_id, household_id, coupon_upc, redeemed_at),
        "kind": "click",
        "occurred_at": redeemed_at,
        "visitor_id": household_id,
        "customer_id": household_id,
        "banner_id": _banner_id(campaign),
        "placement_id": mailing.placements[campaign_id],
        "impression_id": f"{campaign_id}-{household_id}" if is_recipient and is_in_time else None,
    }


def _product(values: Values) -> Record:
    category = optional(values, "product_category")
    is_known = category and category.lower() != "unknown"
    category_id = category if is_known else optional(values, "department") or category
    title = optional(values, "product_type") or category_id
    return {"product_id": key(values, "product_id"), "category_id": category_id, "title": title}


def _banner_product(mailing: _Mailing, values: Values) -> Record:
    campaign, coupon_upc = mailing.campaign(values), key(values, "coupon_upc")
    record = {
        "banner_id": _banner_id(campaign),
        "creative_id": f"{campaign['campaign_id']}-{coupon_upc}",
        "product_id": key(values, "product_id"),
    }
    if record["creative_id"] not in mailing.creatives:
        mailing.creatives[record["creative_id"]] = {
            "creative_id": record["creative_id"],
            "banner_id": record["banner_id"],
            "title": f"Coupon {coupon_upc}",
        }
    return record


def _order(values: Values) -> Record:
    identity = ("household_id", "basket_id", "product_id", "store_id", "transaction_timestamp", "quantity")
    household_id = key(values, "household_id")
    return {
        "event_id": event_id("completejourney", "order", *map(values.__getitem__, (*identity, "sales_value"))),
        "kind": "order",
        "occurred_at": clock(values, "transaction_timestamp"),
        "visitor_id": household_id,
        "customer_id": household_id,
        "product_id": key(values, "product_id"),
        "order_id": key(values, "basket_id"),
        "quantity": amount(values, "quantity"),
        "amount": amount(values, "sales_value"),
    }
