"""A day of real clicks, and shops with carts, orders and categories, both ways: the online session is the mart's."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from features.matrix import SESSION_FIELDS
from features.product_categories import ProductCategories, export_product_categories
from features.session import (
    COUNTS,
    VisitorState,
    absorb,
    current_session,
    events_by_visitor,
    latest_session,
    microseconds,
)
from features.session_store import SqliteSessions
from ingestion.batch import Batch, Source, records
from ingestion.load import admit_batch, ingest
from ingestion.simulator import Simulator
from ingestion.sources import open_source
from ingestion.transform import run_dbt
from marquee import contract
from marquee.settings import Settings
from training.inputs import live_session

pytestmark = pytest.mark.tools
DATA = Path(os.environ.get("MARQUEE_DATA") or Path(__file__).parents[3] / "shared" / "data")
CHUNK = 5_000
DELAY_SECONDS = 600
Rows = list[dict[str, Any]]
Answers = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class FirstDay:
    """The first 24 hourly files of news clicks; every other visitor without the source's sessions, articles in 40
    categories, so that gaps and interest are tried on real times too.
    """

    folder: Path
    name: str = "globo"

    def read(self) -> Iterator[Batch]:
        articles: set[str] = set()
        for file in sorted(self.folder.glob("clicks_hour_*"))[:24]:
            for batch in open_source("globo", file).read():
                events = batch.records
                odd = pc.equal(pc.bit_wise_and(pc.cast(events["visitor_id"], pa.int64()), 1), 1)
                named = pc.if_else(odd, events["session_id"], pa.scalar(None, pa.string()))
                place = events.schema.get_field_index("session_id")
                articles.update(events["product_id"].to_pylist())
                yield replace(batch, records=events.set_column(place, events.schema.field(place), named))
        products = [{"product_id": article, "category_id": f"c{int(article) % 40}"} for article in sorted(articles)]
        yield Batch("products", records(contract.PRODUCTS, products), [])


@dataclass(frozen=True, slots=True)
class Dated:
    """A shop in RetailRocket's layout whose products change category by the hour, some after the catalogue's own.

    Beside its events, some whose optional ids are empty.
    """

    folder: Path
    name: str = "retailrocket"

    def read(self) -> Iterator[Batch]:
        rng = random.Random(11)
        day = int(datetime(2026, 2, 2, tzinfo=UTC).timestamp())
        items = range(30)
        files: dict[str, list[tuple[Any, ...]]] = {
            "category_tree.csv": [("categoryid", "parentid"), *((number, "") for number in range(8))],
            "item_properties.csv": [("timestamp", "itemid", "property", "value")],
            "events.csv": [("timestamp", "visitorid", "event", "itemid", "transactionid")],
        }
        for item in items[:20]:
            for second in rng.sample(range(0, 86_400, 600), rng.randint(1, 6)):
                files["item_properties.csv"].append(((day + second) * 1000, item, "categoryid", rng.randrange(8)))
        for number in range(3_000):
            kind = rng.choice(["view", "view", "addtocart", "transaction"])
            # At the very moments of the changes, too.
            step = rng.choice([1, 600])
            second = rng.randrange(0, 86_400, step)
            order = number if kind == "transaction" else ""
            files["events.csv"].append(((day + second) * 1000, rng.randrange(150), kind, rng.choice(items), order))
        for name, rows in files.items():
            self.folder.mkdir(exist_ok=True)
            (self.folder / name).write_text("".join(",".join(map(str, row)) + "\n" for row in rows), encoding="utf-8")
        yield from open_source("retailrocket", self.folder).read()
        catalogue = [{"product_id": str(item), "category_id": f"c{item % 3}"} for item in items[10:]]
        yield Batch("products", records(contract.PRODUCTS, catalogue), [])
        at = datetime(2026, 2, 2, 12)
        none = {"session_id": "", "product_id": "", "customer_id": "", "order_id": ""}
        odd = [
            {
                "event_id": f"odd-{i}",
                "kind": "page_view",
                "occurred_at": at + timedelta(minutes=i),
                "visitor_id": f"o{i % 9}",
            }
            | (none if i % 2 else {"product_id": str(i % 30), "session_id": ""})
            for i in range(300)
        ]
        shown = [
            {
                "event_id": f"shown-{i}",
                "kind": "impression",
                # At the very moments of other events and of each other, too.
                "occurred_at": datetime(2026, 2, 2) + timedelta(seconds=rng.randrange(0, 86_400, rng.choice([1, 600]))),
                "visitor_id": rng.choice([str(i % 150), f"s{i % 5}"]),
                "session_id": rng.choice(["", "named"]),
                **dict.fromkeys(("banner_id", "placement_id", "impression_id"), f"i{i}"),
            }
            for i in range(1_500)
        ]
        named = [
            {
                "event_id": f"named-{i}",
                "kind": rng.choice(["page_view", "product_view", "cart", "order", "click", "other"]),
                "occurred_at": datetime(2026, 2, 2) + timedelta(seconds=rng.randrange(0, 86_400, 60)),
                "visitor_id": f"s{i % 5}",
                "session_id": rng.choice(["", "named", "other"]),
                "product_id": str(rng.choice(items)),
                "banner_id": "b",
            }
            for i in range(600)
        ]
        yield Batch("events", records(contract.EVENTS, [*odd, *shown, *named]), [])


def folder(name: str) -> Path:
    if not (DATA / name).exists():
        pytest.skip(f"{name} is not under {DATA}; set MARQUEE_DATA to the folder that holds it")
    return DATA / name


def source(name: str, home: Path) -> Source:
    if name == "simulator":
        return Simulator(events=20_000)
    if name == "dated":
        return Dated(home / "shop")
    return FirstDay(folder("globo_clicks") / "clicks") if name == "globo" else open_source(name, folder("tmall_2014"))


@pytest.fixture(scope="module", params=["globo", "tmall", "simulator", "dated"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Settings]:
    """An installation on which dbt has built the mart from these events."""
    settings = Settings(home=tmp_path_factory.mktemp(request.param))
    admit_batch(settings, ingest(source(request.param, settings.home), settings).batch_id)
    run_dbt(settings, "run", "--select", "+session_features", "+session_moments", "+product_category_periods")
    export_product_categories(settings)
    return request.param, settings


def fetch(settings: Settings, query: str) -> Rows:
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        rows: Rows = connection.sql(query).to_arrow_table().to_pylist()
    return rows


def events_in_order(settings: Settings) -> Rows:
    columns = "event_id, kind, occurred_at, visitor_id, product_id, session_id"
    return fetch(settings, f"select {columns} from raw.events order by occurred_at, event_id")


def last_sessions(settings: Settings) -> Answers:
    """The mart's row of each visitor's latest event."""
    query = """
        with latest as (
            select visitor_id, session_id
            from intermediate.int_events_sessionised
            qualify row_number() over (partition by visitor_id order by occurred_at desc, event_id desc) = 1
        )
        select features.* from marts.session_features as features join latest using (visitor_id, session_id)
    """
    rows = fetch(settings, query)
    for row in rows:
        row["last_products"] = json.loads(row["last_products"])
        row["category_interest"] = json.loads(row["category_interest"])
    assert len({row["visitor_id"] for row in rows}) == len(rows)
    return {row["visitor_id"]: row for row in rows}


def replayed(settings: Settings, events: Rows) -> Answers:
    """Sessions after these events, a chunk at a time as a service would apply them, kept in SQLite."""
    store = SqliteSessions(settings)
    categories = ProductCategories(settings).now()
    for start in range(0, len(events), CHUNK):
        store.update(events_by_visitor(events[start : start + CHUNK], categories))
    # As of each visitor's own latest event: then every session is under way.
    latest = {row["visitor_id"]: row["occurred_at"] for row in sorted(events, key=lambda row: row["occurred_at"])}
    assert store.visitors() == sorted(latest)
    return {visitor_id: store.read(visitor_id, at) or {} for visitor_id, at in latest.items()}


def differences(batch: Answers, online: Answers) -> list[str]:
    """Every way in which the two differ; sums beyond 1e-9, all else at all."""
    assert batch.keys() == online.keys()
    exact = ("session_id", "feature_at", "last_products", *COUNTS)
    found = []
    for visitor_id, row in batch.items():
        answer = online[visitor_id]
        found += [f"{visitor_id} {n}: {row[n]!r} {answer[n]!r}" for n in exact if row[n] != answer[n]]
        interest, online_interest = row["category_interest"], answer["category_interest"]
        for category in interest.keys() | online_interest.keys():
            if abs(interest.get(category, 0.0) - online_interest.get(category, 0.0)) > 1e-9:
                found.append(f"{visitor_id} {category}: {interest.get(category)} {online_interest.get(category)}")
    return found


FEWEST = {"globo": (10_000, 10_000), "tmall": (800, 0), "simulator": (250, 400), "dated": (150, 300)}
"""Sessions, and sums of interest, that must have been compared."""


def test_online_sessions_are_those_of_the_mart(built: tuple[str, Settings], record_property: Any) -> None:
    name, settings = built
    batch, events = last_sessions(settings), events_in_order(settings)
    online = replayed(settings, events)
    assert differences(batch, online) == []
    sums = sum(len(row["category_interest"]) for row in batch.values())
    record_property("compared", {"events": len(events), "sessions": len(batch), "sums": sums})
    assert (len(batch), sums) >= FEWEST[name]
    assert sum(row["session_view_count"] for row in batch.values()) > len(batch) / 2
    if name == "simulator":
        assert all(sum(row[count] for row in batch.values()) > 10 for count in COUNTS)
    if name == "dated":
        query = (
            "select product_id from marts.product_category_periods group by 1 having count(distinct category_id) > 1"
        )
        assert len(fetch(settings, query)) > 10
        assert {f"o{number}" for number in range(9)} < batch.keys()
    if name == "globo":
        assert {"@" in row["session_id"] for row in batch.values()} == {True, False}


def test_the_session_before_an_impression_is_what_was_told_online(built: tuple[str, Settings]) -> None:
    name, settings = built
    moments = fetch(settings, f"select {', '.join(contract.SESSION_MOMENTS.names)} from marts.session_moments")
    (clean,) = fetch(settings, "select count(*) as n from intermediate.int_impressions_clean")
    assert len(moments) == clean["n"]
    categories = ProductCategories(settings).now()
    events = events_by_visitor(events_in_order(settings), categories)
    found, compared = [], 0
    for row in moments:
        at, visitor_id = row["impressed_at"], row["visitor_id"]
        before = [event for event in events[visitor_id] if event.at < microseconds(at)]
        online = live_session(current_session(absorb(VisitorState(), before), visitor_id, at))
        interest = online and online["category_interest"]
        own, online_shares = (
            of_interest(one) for one in (json.loads(row["category_interest"] or "{}"), interest or {})
        )
        same = [row[field] == (online and online[field]) for field in SESSION_FIELDS if field != "category_interest"]
        close = own.keys() == online_shares.keys() and all(abs(own[c] - online_shares[c]) < 1e-8 for c in own)
        compared += online is not None
        if not (all(same) and close):
            found.append((row, online))
    assert found == []
    if name in ("simulator", "dated"):
        assert compared > {"simulator": 5_000, "dated": 500}[name]
        assert compared < len(moments) or name == "simulator"


def of_interest(interest: dict[str, float]) -> dict[str, float]:
    total = sum(interest.values())
    return {category: value / total for category, value in interest.items()}


def test_delayed_and_repeated_events_change_nothing(built: tuple[str, Settings]) -> None:
    """Each event arrives up to ten minutes late, so out of order; one in ten arrives twice."""
    _, settings = built
    events = events_in_order(settings)
    rng = random.Random(7)
    seconds = [event["occurred_at"].timestamp() + rng.uniform(0, DELAY_SECONDS) for event in events]
    arriving = [event for _, _, event in sorted(zip(seconds, range(len(events)), events, strict=True))]
    arriving = [event for event in arriving for _ in range(2 if rng.random() < 0.1 else 1)]
    assert arriving[: len(events)] != events
    states: dict[str, VisitorState] = {}
    categories = ProductCategories(settings).now()
    for start in range(0, len(arriving), CHUNK):
        for visitor_id, some in events_by_visitor(arriving[start : start + CHUNK], categories).items():
            states[visitor_id] = absorb(states.get(visitor_id, VisitorState()), some)
    online = {visitor_id: latest_session(state, visitor_id) or {} for visitor_id, state in states.items()}
    assert differences(last_sessions(settings), online) == []


def test_the_comparison_would_notice(built: tuple[str, Settings]) -> None:
    """One event left out, one too many, or interest off by more than 1e-9: each is a difference."""
    _, settings = built
    batch = last_sessions(settings)
    visitor_id, row = next((key, row) for key, row in batch.items() if row["session_view_count"] > 1)
    for change in (
        {"session_view_count": row["session_view_count"] - 1},
        {"last_products": [*row["last_products"], "another"]},
        {"category_interest": row["category_interest"] | {"any": 2e-9}},
    ):
        assert len(differences(batch, batch | {visitor_id: row | change})) == 1
