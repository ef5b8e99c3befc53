"""Feast with its DuckDB and SQLite stores: no row lost, no feature from the future, offline equal to online."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore
from hypothesis import HealthCheck, example, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from features.definitions import feature_names, feature_objects
from features.freshness import TTL_DAYS
from features.store import FEATURE_TABLES, OnlineFeatures, export_offline, materialize, open_store
from features.training_set import join_features
from ingestion.batch import ARROW_TYPES
from marquee import contract
from marquee.errors import NothingToDo
from marquee.settings import Settings

pytestmark = pytest.mark.tools

EPOCH = datetime(2024, 1, 1)
DAY, INSTANT, TTL = timedelta(days=1), timedelta(microseconds=1), timedelta(days=TTL_DAYS)
NEVER = EPOCH - 2000 * DAY
VISITORS, BANNERS = contract.VISITOR_FEATURES, contract.BANNER_FEATURES
Stamp = tuple[str, int]
"""An entity and the number of the midnight at which its features are stamped, counted from ``EPOCH``."""
Impression = tuple[str, str, datetime]


def feature_row(table: contract.Table, stamp: Stamp) -> dict[str, Any]:
    """A row whose every value names its entity, its day and its column, so that no mix-up goes unseen."""
    entity, day = stamp
    at = EPOCH + day * DAY
    row: dict[str, Any] = {table.key[0]: entity, "feature_at": at}
    for place, name in enumerate(feature_names(table)):
        kind = table.column(name).type
        number = day + place / 100 + int(entity[1:]) * 10_000
        values = {"float": number, "string": f'{{"c{day}": 1.0}}', "timestamp": at - timedelta(hours=6)}
        row[name] = values[kind]
    return row


def write_offline(folder: Path, table: contract.Table, stamps: list[Stamp]) -> None:
    """The Parquet file that Feast joins against, in the layout of ``export_offline``."""
    kinds = {
        c.name: pa.timestamp("us", tz="UTC") if c.type == "timestamp" else ARROW_TYPES[c.type] for c in table.columns
    }
    rows = [feature_row(table, stamp) for stamp in stamps]
    columns = [pa.array([row[name] for row in rows], type=kind) for name, kind in kinds.items()]
    pq.write_table(pa.table(dict(zip(kinds, columns, strict=True))), folder / f"{table.name}.parquet")


def write_marts(settings: Settings, visitors: list[Stamp], banners: list[Stamp]) -> None:
    """The feature marts as dbt would leave them, made in plain SQL."""
    settings.home.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(str(settings.warehouse)) as connection:
        connection.execute("create schema if not exists marts")
        for table, stamps in ((VISITORS, visitors), (BANNERS, banners)):
            columns = ", ".join(f"{c.name} {contract.SQL_TYPES[c.type]} not null" for c in table.columns)
            connection.execute(f"create or replace table marts.{table.name} ({columns})")
            marks = ", ".join("?" for _ in table.columns)
            for stamp in stamps:
                row = feature_row(table, stamp)
                connection.execute(f"insert into marts.{table.name} values ({marks})", [row[n] for n in table.names])


def as_of(stamps: list[Stamp], entity: str, at: datetime) -> int | None:
    """What may be known at ``at``: the newest stamp that is neither later nor past its TTL. The reference."""
    known = [day for name, day in stamps if name == entity and EPOCH + day * DAY <= at <= EPOCH + day * DAY + TTL]
    return max(known, default=None)


def expected(table: contract.Table, entity: str, day: int | None) -> dict[str, Any]:
    if day is None:
        return dict.fromkeys(feature_names(table))
    row = feature_row(table, (entity, day))
    return {name: row[name] for name in feature_names(table)}


def impressions_frame(impressions: list[Impression]) -> pd.DataFrame:
    names = ("visitor_id", "banner_id", "impressed_at")
    frame = pd.DataFrame(impressions, columns=list(names))
    frame.insert(0, "impression_id", [f"i{place}" for place in range(len(impressions))])
    return frame.astype({"impressed_at": "datetime64[us]"})


def plain(value: Any) -> Any:
    if value is None or pd.isna(value):
        return None
    return value.to_pydatetime() if isinstance(value, pd.Timestamp) else value


def stamps_of(letter: str, entities: int) -> st.SearchStrategy[list[Stamp]]:
    one = st.tuples(st.integers(0, entities - 1).map(lambda place: f"{letter}{place}"), st.integers(0, 800))
    return st.lists(one, min_size=1, max_size=8, unique=True)


OFFSETS = st.sampled_from([-INSTANT, 0 * DAY, INSTANT, DAY / 2, TTL - INSTANT, TTL, TTL + INSTANT, -900 * DAY])


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Stamp], list[Stamp], list[Impression]]:
    """Features and impressions; the moments lie on and around the borders of what may be seen."""
    visitors, banners = draw(stamps_of("v", 3)), draw(stamps_of("b", 2))
    days = [day for _, day in visitors + banners]
    one = st.tuples(
        st.sampled_from(["v0", "v1", "v2", "v9"]),
        st.sampled_from(["b0", "b1", "b9"]),
        st.builds(lambda day, offset: EPOCH + day * DAY + offset, st.sampled_from(days), OFFSETS),
    )
    impressions = draw(st.lists(one, min_size=1, max_size=12))
    again = draw(st.lists(st.sampled_from(impressions), max_size=4))
    return visitors, banners, impressions + again


NOON = EPOCH + 10.5 * DAY
BY_HAND = (
    [("v0", 10), ("v0", 11), ("v1", 10)],
    [("b0", 3), ("b1", 400)],
    [
        ("v0", "b0", NOON),  # the later stamp lies in the future
        ("v0", "b0", NOON),  # same visitor, banner and moment
        ("v0", "b1", NOON),  # same visitor and moment; its banner is only known later
        ("v9", "b9", NOON),  # neither is known
        ("v1", "b0", NEVER),  # older than all features
        ("v1", "b0", EPOCH + 10 * DAY + TTL),  # the last moment of both TTLs, or past it
        ("v1", "b0", EPOCH + 10 * DAY + TTL + INSTANT),
        ("v0", "b0", EPOCH + 11 * DAY),  # the very moment of the stamp
        ("v0", "b0", EPOCH + 11 * DAY - INSTANT),
    ],
)


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureStore, Path]:
    """A store whose offline files each example rewrites."""
    settings = Settings(home=tmp_path_factory.mktemp("join"))
    store = open_store(settings)
    offline = settings.features / "offline"
    offline.mkdir()
    for table, entity in ((VISITORS, "v0"), (BANNERS, "b0")):
        write_offline(offline, table, [(entity, 0)])
    store.apply(feature_objects(offline))
    return store, offline


@pytest.fixture
def new_home(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Settings]:
    """A fresh installation on each call."""
    return lambda: Settings(home=tmp_path_factory.mktemp("home"))


def test_point_in_time_join_is_the_reference(applied: tuple[FeatureStore, Path]) -> None:
    store, offline = applied
    seen: Counter[str] = Counter()

    @effort(max_examples=15, deadline=None)
    @given(worlds())
    @example(BY_HAND)
    def check(world: tuple[list[Stamp], list[Stamp], list[Impression]]) -> None:
        visitors, banners, impressions = world
        write_offline(offline, VISITORS, visitors)
        write_offline(offline, BANNERS, banners)
        frame = impressions_frame(impressions)
        joined = join_features(store, frame)
        # Each row once, in the order given, with what it came with untouched.
        pd.testing.assert_frame_equal(joined[list(frame.columns)], frame)
        assert set(joined.columns) == {*frame.columns, *feature_names(VISITORS), *feature_names(BANNERS)}
        for place, (visitor, banner, at) in enumerate(impressions):
            row = {name: plain(joined[name].iloc[place]) for name in joined.columns}
            for table, entity, stamps in ((VISITORS, visitor, visitors), (BANNERS, banner, banners)):
                day = as_of(stamps, entity, at)
                assert {name: row[name] for name in feature_names(table)} == expected(table, entity, day)
                known = [EPOCH + day * DAY for name, day in stamps if name == entity]
                seen["known" if day is not None else "absent"] += 1
                seen["unknown entity"] += not known
                seen["future hidden"] += any(moment > at for moment in known)
                seen["expired"] += day is None and any(moment <= at for moment in known)
        seen["same moment"] += len(set(impressions)) < len(impressions)

    check()
    assert all(seen[case] for case in ("known", "absent", "unknown entity", "future hidden", "expired", "same moment"))


def test_many_rows_keep_their_order(applied: tuple[FeatureStore, Path]) -> None:
    """Enough rows for DuckDB to work on them in parallel, which returns them in another order."""
    store, offline = applied
    visitors = [(f"v{place}", day) for place in range(40) for day in range(place, 60)]
    write_offline(offline, VISITORS, visitors)
    write_offline(offline, BANNERS, [("b0", 0)])
    frame = impressions_frame([(f"v{i * 7 % 41}", "b0", EPOCH + (i * 11 % 60) * DAY) for i in range(20_000)])
    joined = join_features(store, frame)
    pd.testing.assert_frame_equal(joined[list(frame.columns)], frame)
    found = joined["last_seen_at"].notna().tolist()
    assert found == [i * 7 % 41 <= min(39, i * 11 % 60) for i in range(20_000)]
    assert 0 < sum(found) < 20_000


def test_online_is_offline_at_the_newest_stamp(new_home: Callable[[], Settings]) -> None:
    seen: Counter[str] = Counter()

    @effort(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(stamps_of("v", 3), stamps_of("b", 2))
    @example([("v0", 10), ("v0", 12), ("v1", 400), ("v2", 400 - TTL_DAYS)], [("b0", 399), ("b0", 400), ("b1", 380)])
    def check(visitors: list[Stamp], banners: list[Stamp]) -> None:
        settings = new_home()
        write_marts(settings, visitors, banners)
        assert materialize(settings) == {VISITORS.name: len(visitors), BANNERS.name: len(banners)}
        now = EPOCH + max(day for _, day in visitors + banners) * DAY
        names = [("v0", "b0"), ("v1", "b1"), ("v2", "b9"), ("v9", "b0")]
        joined = join_features(open_store(settings), impressions_frame([(v, b, now) for v, b in names]))
        online = OnlineFeatures(settings)
        found = online.visitors([visitor for visitor, _ in names], now)
        for place, (visitor, _) in enumerate(names):
            offline = {name: plain(joined[name].iloc[place]) for name in feature_names(VISITORS)}
            assert found.get(visitor, dict.fromkeys(feature_names(VISITORS))) == offline
            seen["visitor" if visitor in found else "no visitor"] += 1
        counts = online.banners(["b0", "b1", "b9"])
        last = EPOCH + max(day for _, day in banners) * DAY
        for banner in ("b0", "b1", "b9"):
            newest = as_of(banners, banner, last)
            assert counts.get(banner) == (None if newest is None else expected(BANNERS, banner, newest))
        seen["banner"] += len(counts)

    check()
    assert all(seen[case] for case in ("visitor", "no visitor", "banner"))


def test_unknown_and_expired_visitors_are_absent_online(new_home: Callable[[], Settings]) -> None:
    settings = new_home()
    write_marts(settings, [("v0", 10), ("v1", 20)], [])
    materialize(settings)
    online = OnlineFeatures(settings)
    last = EPOCH + 10 * DAY + TTL
    assert set(online.visitors(["v1", "v9", "v0"], last)) == {"v0", "v1"}
    assert set(online.visitors(["v0", "v1"], last + INSTANT)) == {"v1"}
    assert online.visitors([], last) == {}
    assert online.banners(["b0"]) == {}


def online_rows(settings: Settings) -> list[tuple[Any, ...]]:
    """All that the online store holds, but for the moment at which it was written."""
    with sqlite3.connect(settings.features / "online.db") as connection:
        tables = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
        columns = "entity_key, feature_name, value, event_ts"
        rows = [(name, *row) for name in tables for row in connection.execute(f'select {columns} from "{name}"')]
    return sorted(rows)


def test_materialising_again_changes_nothing_and_a_new_day_replaces(new_home: Callable[[], Settings]) -> None:
    settings = new_home()
    visitors, banners = [("v0", 10), ("v1", 11)], [("b0", 11)]
    write_marts(settings, visitors, banners)
    first = materialize(settings)
    before = online_rows(settings)
    assert len(before) == 2 * len(feature_names(VISITORS)) + len(feature_names(BANNERS))
    assert materialize(settings) == first
    assert online_rows(settings) == before
    write_marts(settings, [*visitors, ("v0", 12)], [*banners, ("b0", 12)])
    materialize(settings)
    after = online_rows(settings)
    assert len(after) == len(before)
    assert after != before
    found = OnlineFeatures(settings).visitors(["v0", "v1"], EPOCH + 12 * DAY)
    assert found == {"v0": expected(VISITORS, "v0", 12), "v1": expected(VISITORS, "v1", 11)}


def test_export_is_the_marts_in_utc_microseconds(new_home: Callable[[], Settings]) -> None:
    settings = new_home()
    visitors, banners = [("v1", 5), ("v0", 7), ("v0", 6)], [("b0", 5)]
    write_marts(settings, visitors, banners)
    assert export_offline(settings) == {"visitor_features": 3, "banner_features": 1}
    compared = 0
    for table, stamps in ((VISITORS, visitors), (BANNERS, banners)):
        file = settings.features / "offline" / f"{table.name}.parquet"
        read = pq.read_table(file)
        assert read.schema.names == list(table.names)
        for column in table.columns:
            kind = pa.timestamp("us", tz="UTC") if column.type == "timestamp" else ARROW_TYPES[column.type]
            assert read.schema.field(column.name).type == kind
            compared += 1
        aware = [
            {n: v.replace(tzinfo=UTC) if isinstance(v, datetime) else v for n, v in feature_row(table, stamp).items()}
            for stamp in sorted(stamps)
        ]
        assert read.to_pylist() == aware
    assert compared == len(VISITORS.columns) + len(BANNERS.columns) == 16
    assert sorted(path.name for path in (settings.features / "offline").iterdir()) == [
        "banner_features.parquet",
        "visitor_features.parquet",
    ]


def test_empty_marts_leave_nothing_to_do_and_no_registry(new_home: Callable[[], Settings]) -> None:
    settings = new_home()
    write_marts(settings, [], [])
    assert [table.name for table in FEATURE_TABLES] == ["visitor_features", "banner_features"]
    with pytest.raises(NothingToDo, match="run transform_events"):
        materialize(settings)
    assert not (settings.features / "registry.db").exists()


@pytest.mark.parametrize("days_late", [1, 30])
def test_rows_that_arrive_late_reach_the_online_store(new_home: Callable[[], Settings], days_late: int) -> None:
    settings = new_home()
    write_marts(settings, [("v0", 100)], [("b0", 100)])
    materialize(settings)
    write_marts(settings, [("v0", 100), ("v1", 100 - days_late)], [("b0", 100)])
    materialize(settings)
    found = OnlineFeatures(settings).visitors(["v1"], EPOCH + 100 * DAY)
    assert found == {"v1": expected(VISITORS, "v1", 100 - days_late)}


def test_an_unfinished_day_stays_offline(tmp_path: Path) -> None:
    noon = EPOCH + 10.5 * DAY
    settings = Settings(home=tmp_path, as_of=noon)
    write_marts(settings, visitors=[("v1", 10), ("v1", 11), ("v2", 11)], banners=[("b1", 10), ("b1", 11)])
    assert materialize(settings) == {"visitor_features": 3, "banner_features": 2}
    online = OnlineFeatures(settings)
    visitors = online.visitors(["v1", "v2"], noon)
    assert {visitor: row["category_affinity"] for visitor, row in visitors.items()} == {"v1": '{"c10": 1.0}'}
    expected = feature_row(BANNERS, ("b1", 10))
    assert online.banners(["b1"]) == {"b1": {name: expected[name] for name in feature_names(BANNERS)}}
