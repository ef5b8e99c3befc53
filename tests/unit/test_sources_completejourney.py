"""The Complete Journey: campaigns become banners, mailings impressions, redemptions clicks."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from ingestion.batch import Batch
from ingestion.sources import open_source
from marquee.errors import SourceError

FILES = {
    "campaign_descriptions.csv": "campaign_id,campaign_type,start_date,end_date\n"
    "26,Type B,2016-12-28,2017-02-19\n27,Type A,2017-02-08,2017-03-26\n",
    "campaigns.csv": "campaign_id,household_id\n26,105\n",
    "products.csv": "product_id,manufacturer_id,department,brand,product_category,product_type,package_size\n"
    "1,2,GROCERY,National,FRZN ICE,ICE - CRUSHED/CUBED,22 LB\n2,2,MISCELLANEOUS,National,,,\n"
    "3,2,MEAT,National,Unknown,,\n",
    "coupons.csv": "coupon_upc,product_id,campaign_id\n100,1,26\n100,2,26\n100,1,27\n",
    "coupon_redemptions.csv": "household_id,coupon_upc,campaign_id,redemption_date\n"
    "105,100,26,2017-02-19\n105,100,26,2017-02-20\n105,100,27,2017-02-20\n",
    "transactions_sample.csv": "household_id,store_id,basket_id,product_id,quantity,sales_value,retail_disc,"
    "coupon_disc,coupon_match_disc,week,transaction_timestamp\n"
    "2261,309,31625220889,1,1.0,3.86,0.43,0.0,0.0,5,2017-01-28 19:06:53\n"
    "2261,309,31625220889,2,0.0,0.0,0.43,0.0,0.0,5,2017-01-28 19:06:53\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def _read(path: Path) -> list[Batch]:
    return list(open_source("completejourney", path).read())


def _records(batches: list[Batch], table: str) -> list[dict[str, Any]]:
    rows = [row for batch in batches if batch.table == table for row in batch.records.to_pylist()]
    return [{key: value for key, value in row.items() if value is not None and key != "event_id"} for row in rows]


def test_campaigns_banners_and_their_products(folder: Path) -> None:
    batches = _read(folder)
    starts_at, ends_at = datetime(2016, 12, 28), datetime(2017, 2, 20)
    title = "Campaign 26 (Type B)"
    assert _records(batches, "campaigns")[0] == {
        "campaign_id": "26",
        "title": title,
        "starts_at": starts_at,
        "ends_at": ends_at,
        "status": "active",
    }
    assert _records(batches, "banners")[0] == {
        "banner_id": "campaign-26",
        "campaign_id": "26",
        "title": title,
        "created_at": starts_at,
    }
    assert _records(batches, "banner_placements") == [
        {"banner_id": "campaign-26", "placement_id": "type_b"},
        {"banner_id": "campaign-27", "placement_id": "type_a"},
    ]
    assert _records(batches, "banner_products") == [
        {"banner_id": "campaign-26", "creative_id": "26-100", "product_id": "1"},
        {"banner_id": "campaign-26", "creative_id": "26-100", "product_id": "2"},
        {"banner_id": "campaign-27", "creative_id": "27-100", "product_id": "1"},
    ]
    assert _records(batches, "creatives") == [
        {"creative_id": "26-100", "banner_id": "campaign-26", "title": "Coupon 100"},
        {"creative_id": "27-100", "banner_id": "campaign-27", "title": "Coupon 100"},
    ]
    assert _records(batches, "products") == [
        {"product_id": "1", "category_id": "FRZN ICE", "title": "ICE - CRUSHED/CUBED"},
        {"product_id": "2", "category_id": "MISCELLANEOUS", "title": "MISCELLANEOUS"},
        {"product_id": "3", "category_id": "MEAT", "title": "MEAT"},
    ]
    assert {batch.table for batch in batches if batch.derived} == {"banners", "banner_placements", "creatives"}
    assert sum(batch.records.num_rows for batch in batches if not batch.derived) == 14


def test_a_click_joins_its_impression_only_within_the_campaign(folder: Path) -> None:
    impression, late_click, other_click, click = _by_banner(_records(_read(folder), "events"))
    banner = {"visitor_id": "105", "customer_id": "105", "banner_id": "campaign-26", "placement_id": "type_b"}
    assert impression == banner | {
        "kind": "impression",
        "occurred_at": datetime(2016, 12, 28),
        "position": 0,
        "impression_id": "26-105",
        "policy": "mailing",
    }
    last_day = datetime(2017, 2, 19, 12)
    assert click == banner | {"kind": "click", "occurred_at": last_day, "impression_id": "26-105"}
    assert late_click == banner | {"kind": "click", "occurred_at": last_day.replace(day=20)}
    assert other_click == late_click | {"banner_id": "campaign-27", "placement_id": "type_a"}


def _by_banner(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Impression, late click, the other campaign's click, joined click."""
    clicks = [event for event in events if event["kind"] == "click"]
    (impression,) = [event for event in events if event["kind"] == "impression"]
    return [impression, clicks[1], clicks[2], clicks[0]]


def test_transactions_are_orders_and_may_have_no_quantity(folder: Path) -> None:
    first, second = [event for event in _records(_read(folder), "events") if event["kind"] == "order"]
    assert first == {
        "kind": "order",
        "occurred_at": datetime(2017, 1, 28, 19, 6, 53),
        "visitor_id": "2261",
        "customer_id": "2261",
        "product_id": "1",
        "order_id": "31625220889",
        "quantity": 1.0,
        "amount": 3.86,
    }
    assert (second["quantity"], second["amount"]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("file", "line", "reason"),
    [
        ("campaign_descriptions.csv", "28,Type A,2017-02-30,2017-03-26", "start_date '2017-02-30' is not a time"),
        ("campaign_descriptions.csv", "28,Type A,2017-03-26,2017-03-25", "end_date '2017-03-25' is before start_date"),
        ("campaign_descriptions.csv", "28,,2017-02-08,2017-03-26", "campaign_type is empty"),
        ("campaigns.csv", "99,105", "campaign_id '99' is not in campaign_descriptions"),
        ("coupons.csv", ",1,26", "coupon_upc is empty"),
        ("coupon_redemptions.csv", "105,100,26,19/02/2017", "redemption_date '19/02/2017' is not a time written YYYY"),
        ("products.csv", " ,2,MEAT,National,Unknown,,", "product_id is empty"),
        ("transactions_sample.csv", "1,2,3,4,one,6,0,0,0,5,2017-01-28 19:06:53", "quantity 'one' is not a number"),
        ("transactions_sample.csv", "1,2,3,4,5,-6,0,0,0,5,2017-01-28 19:06:53", "sales_value '-6' is negative"),
        ("transactions_sample.csv", "1,2,3,4,5,6,0,0,0,5,2017-01-28", "transaction_timestamp '2017-01-28' is not"),
    ],
)
def test_a_row_whose_fields_do_not_parse(folder: Path, file: str, line: str, reason: str) -> None:
    with (folder / file).open("a") as stream:
        stream.write(line + "\n")
    batches = _read(folder)
    (rejected,) = [row for batch in batches for row in batch.rejected]
    assert (rejected.file, rejected.line, rejected.text) == (file, len(FILES[file].splitlines()) + 1, line)
    assert reason in rejected.reason
    assert sum(batch.records.num_rows for batch in batches if not batch.derived) == 14


def test_the_full_transactions_win_over_their_sample(folder: Path) -> None:
    rows = FILES["transactions_sample.csv"].splitlines()
    (folder / "transactions.csv").write_text("\n".join(rows[:2]))
    assert [event["kind"] for event in _records(_read(folder), "events")].count("order") == 1


def test_missing_files_are_named_before_anything_is_read(folder: Path) -> None:
    (folder / "transactions_sample.csv").unlink()
    with pytest.raises(SourceError, match=r"lacks transactions or transactions_sample as \.csv or \.csv\.gz"):
        next(open_source("completejourney", folder).read())
    with pytest.raises(SourceError, match=r"campaigns\.csv is a file; expected the folder"):
        _read(folder / "campaigns.csv")
    with pytest.raises(SourceError, match=r"none does not exist; expected a folder with campaign_descriptions\.csv"):
        _read(folder / "none")
