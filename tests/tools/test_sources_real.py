"""The real public data sets, read whole (of the news clicks a few hours), against their known counts."""

import os
from collections import Counter
from pathlib import Path

import pytest

from ingestion.batch import Batch
from ingestion.sources import open_source

pytestmark = pytest.mark.tools
DATA = Path(os.environ.get("MARQUEE_DATA") or Path(__file__).parents[3] / "shared" / "data")


def _path(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not under {DATA}; set MARQUEE_DATA to the folder that holds it")
    return path


class Counts:
    """What a source yields, counted batch by batch so that no set is held whole."""

    def __init__(self, name: str, path: Path) -> None:
        self.records: Counter[str] = Counter()
        self.derived: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.rejected: list[str] = []
        self.event_ids: set[str] = set()
        for batch in open_source(name, path).read():
            self._add(batch)

    def _add(self, batch: Batch) -> None:
        (self.derived if batch.derived else self.records)[batch.table] += batch.records.num_rows
        self.rejected += [f"{row.file}:{row.line} {row.reason}" for row in batch.rejected]
        if batch.table == "events":
            self.kinds.update(batch.records["kind"].to_pylist())
            self.event_ids.update(batch.records["event_id"].to_pylist())


def test_complete_journey() -> None:
    counts = Counts("completejourney", _path("completejourney"))
    assert counts.records == {"campaigns": 27, "events": 108_691, "products": 92_331, "banner_products": 116_204}
    assert counts.derived == {"banners": 27, "banner_placements": 27, "creatives": 1_197}
    assert counts.kinds == {"impression": 6_589, "click": 2_102, "order": 100_000}
    assert counts.rejected == []
    assert len(counts.event_ids) == 108_691


def test_complete_journey_clicks_join_their_impressions() -> None:
    impressions: set[str] = set()
    clicked: list[str] = []
    households: set[str] = set()
    for batch in open_source("completejourney", _path("completejourney")).read():
        if batch.table != "events":
            continue
        for kind, impression_id, visitor_id in zip(
            *(batch.records[name].to_pylist() for name in ("kind", "impression_id", "visitor_id")), strict=True
        ):
            if kind == "impression":
                impressions.add(impression_id)
            elif kind == "click":
                clicked.append(impression_id)
                households.add(visitor_id)
        if len(clicked) == 2_102:
            break
    assert len(impressions) == 6_589
    assert set(clicked) <= impressions
    assert (len(clicked), len(set(clicked)), len(households)) == (2_102, 792, 410)


def test_tmall() -> None:
    counts = Counts("tmall", _path("tmall_2014"))
    assert counts.kinds == {"product_view": 174_539, "order": 6_984, "favourite": 1_204, "cart": 153}
    assert counts.rejected == []
    assert len(counts.event_ids) == 182_880


def test_online_retail() -> None:
    counts = Counts("online-retail", _path("online_retail_uci"))
    assert counts.records["events"] + len(counts.rejected) == 541_909
    assert counts.kinds == {"order": 531_283, "return": 10_624}
    assert counts.derived == {"products": 4_070}
    assert counts.rejected == [
        "2011-08-12.csv.gz:631 UnitPrice '-11062.06' is negative",
        "2011-08-12.csv.gz:632 UnitPrice '-11062.06' is negative",
    ]
    assert len(counts.event_ids) == 541_907 - 5_268


def test_globo_hours(tmp_path: Path) -> None:
    clicks = _path("globo_clicks") / "clicks"
    for hour in ("000", "001", "002", "100"):  # the last as published: a header and no rows
        (tmp_path / f"clicks_hour_{hour}.csv.gz").symlink_to(clicks / f"clicks_hour_{hour}.csv.gz")
    counts = Counts("globo", tmp_path)
    assert counts.kinds == {"page_view": 1_883 + 1_415 + 910}
    assert counts.rejected == []
    assert len(counts.event_ids) == 4_208
