"""RFM on the real invoices of a gift shop, against plain arithmetic over its files, and the segments' seeds."""

import csv
import gzip
import hashlib
import math
import os
from bisect import bisect_left
from collections import Counter, defaultdict
from datetime import date, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pytest

from ingestion.load import admit_batch, ingest
from ingestion.sources import open_source
from ingestion.transform import PROJECT, run_dbt
from marquee.settings import Settings

pytestmark = pytest.mark.tools
DATA = Path(os.environ.get("MARQUEE_DATA") or Path(__file__).parents[3] / "shared" / "data")
SEGMENTS = {
    "champions": 3,
    "loyal": 3,
    "potential_loyalist": 2,
    "new_customers": 2,
    "promising": 2,
    "need_attention": 1,
    "about_to_sleep": 1,
    "at_risk": 1,
    "cannot_lose": 1,
    "hibernating": 1,
    "lost": 1,
}
LAST_DAY = date(2011, 12, 9)


class Line(NamedTuple):
    invoice: str
    is_return: bool
    day: date
    amount: float


@pytest.fixture(scope="module")
def lines() -> dict[str, list[Line]]:
    """Each customer's invoice lines straight from the files; a line that comes twice is one."""
    folder = DATA / "online_retail_uci" / "by-day"
    if not folder.exists():
        pytest.skip(f"online_retail_uci/by-day is not under {DATA}; set MARQUEE_DATA to the folder that holds it")
    distinct: set[tuple[str, ...]] = set()
    for file in sorted(folder.glob("*.csv.gz")):
        with gzip.open(file, "rt", encoding="utf-8", newline="") as text:
            distinct |= {tuple(row.values()) for row in csv.DictReader(text) if row["CustomerID"]}
    customers = defaultdict(list)
    for invoice, _, _, quantity, at, price, customer, _ in distinct:
        units = int(quantity)
        is_return = units < 0 or invoice.startswith("C")
        line = Line(invoice, is_return, datetime.fromisoformat(at).date(), round(abs(units) * float(price), 4))
        customers[customer.removesuffix(".0")].append(line)
    return customers


@pytest.fixture(scope="module")
def gift_shop(lines: object, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The shop's warehouse with RFM scores and segments."""
    settings = Settings(home=tmp_path_factory.mktemp("gift_shop"))
    batch = ingest(open_source("online-retail", DATA / "online_retail_uci"), settings)
    admit_batch(settings, batch.batch_id)
    selected = ("--select", "+customer_segments", "segment_notification_types", "--exclude", "test_type:unit")
    result = run_dbt(settings, "build", "--indirect-selection", "cautious", *selected)
    assert result.data_tests > 20
    return settings


def query(settings: Settings, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def by_hand(lines: list[Line]) -> tuple[int, int, float]:
    """Recency in days, distinct orders and net amount of one customer."""
    orders = [line for line in lines if not line.is_return]
    last = max(line.day for line in orders or lines)
    net = math.fsum(-line.amount if line.is_return else line.amount for line in lines)
    return (LAST_DAY - last).days, len({line.invoice for line in orders}), net


def test_every_customer_is_in_exactly_one_segment(gift_shop: Settings, lines: dict[str, list[Line]]) -> None:
    found = query(gift_shop, "select customer_id, segment, weekly_cap from marts.customer_segments")
    assert len(found) == len({customer for customer, _, _ in found}) == 4_372
    assert {customer for customer, _, _ in found} == set(lines)
    assert {segment for _, segment, _ in found} == set(SEGMENTS)
    assert all(SEGMENTS[segment] == cap for _, segment, cap in found)


def test_ten_customers_reproduce_by_hand(gift_shop: Settings, lines: dict[str, list[Line]]) -> None:
    ten = sorted(lines, key=lambda customer: hashlib.sha256(customer.encode()).hexdigest())[:10]
    found = measures(gift_shop)
    for customer in ten:
        recency, frequency, monetary = by_hand(lines[customer])
        assert found[customer][:2] == (recency, frequency), customer
        assert found[customer][2] == pytest.approx(monetary, abs=1e-6), customer


@pytest.mark.parametrize(
    ("customer", "recency", "frequency", "monetary", "segment"),
    [
        # 74,215 jars at 1.04 ordered on 18 January 2011 and all of them returned sixteen minutes later.
        ("12346", 325, 1, 0.0, "lost"),
        ("12347", 2, 7, 4310.0, "champions"),
        ("12348", 75, 4, 1797.24, "at_risk"),
        ("12350", 310, 1, 334.4, "hibernating"),
        # Known by one return alone.
        ("12503", 337, 0, -1126.0, "lost"),
    ],
)
def test_known_customers(
    gift_shop: Settings, customer: str, recency: int, frequency: int, monetary: float, segment: str
) -> None:
    assert measures(gift_shop)[customer] == (recency, frequency, pytest.approx(monetary), segment)


def measures(settings: Settings) -> dict[str, tuple[Any, ...]]:
    rows = query(
        settings,
        "select customer_id, recency_days, frequency, monetary, segment "
        "from marts.rfm_scores join marts.customer_segments using (customer_id)",
    )
    return {row[0]: row[1:] for row in rows}


def test_scores_are_fifths_of_the_customers_below(gift_shop: Settings) -> None:
    rows = query(
        gift_shop,
        "select -recency_days, r_score, frequency, f_score, monetary, m_score, fm_score from marts.rfm_scores",
    )
    for value, score in ((0, 1), (2, 3), (4, 5)):
        ordered = sorted(row[value] for row in rows)
        for row in rows:
            worse = bisect_left(ordered, row[value])
            assert row[score] == min(5, 1 + 5 * worse // (len(rows) - 1))
    assert all(row[6] == (row[3] + row[5] + 1) // 2 for row in rows)


def test_recency_is_the_right_way_round(gift_shop: Settings) -> None:
    rows = query(
        gift_shop,
        "select r_score, min(recency_days), max(recency_days) from marts.rfm_scores group by 1 order by 1 desc",
    )
    assert [score for score, _, _ in rows] == [5, 4, 3, 2, 1]
    assert rows[0][1] == 0
    assert all(newer[2] < older[1] for newer, older in pairwise(rows))


def test_the_newest_and_most_frequent_are_champions(gift_shop: Settings) -> None:
    """All but one, whose seven orders came to 191 pounds: the grid knows money too."""
    best = query(
        gift_shop,
        "select customer_id, segment, m_score from marts.rfm_scores join marts.customer_segments using (customer_id) "
        "where rfm_scores.r_score = 5 and f_score = 5",
    )
    others = [row for row in best if row[1] != "champions"]
    assert len(best) == 439
    assert [(segment, m_score) for _, segment, m_score in others] == [("potential_loyalist", 1)]


def seed(name: str) -> list[dict[str, str]]:
    with (PROJECT / "seeds" / f"{name}.csv").open(encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


def test_grid_is_exclusive_and_exhaustive() -> None:
    cells = Counter((int(cell["r_score"]), int(cell["fm_score"])) for cell in seed("rfm_segment_cells"))
    assert cells == Counter({(r, fm): 1 for r in range(1, 6) for fm in range(1, 6)})
    assert {cell["segment"] for cell in seed("rfm_segment_cells")} == set(SEGMENTS)


def test_caps_and_notification_types() -> None:
    assert {row["segment"]: int(row["weekly_cap"]) for row in seed("segment_weekly_caps")} == SEGMENTS
    types = seed("segment_notification_types")
    assert len(types) == len({row["notification_type"] for row in types}) == 32
    assert {row["segment"] for row in types} == set(SEGMENTS)
