"""Feast with its stores: no row lost, no feature from the future or past its TTL, offline equal to online."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
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
from feast.errors import FeatureServiceNotFoundException
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore
from feast.repo_config import RepoConfig
from hypothesis import HealthCheck, example, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from features import materialization
from features.damage import damage_named
from features.definitions import (
    OFFLINE_VIEWS,
    ONLINE_VIEWS,
    RANKER_VIEWS,
    VISITOR_VIEWS,
    feature_names,
    feature_objects,
)
from features.export import export_offline, offline_files
from features.export_record import exports
from features.freshness import TTL
from features.moments import OnlineMoments
from features.services import register_service
from features.store import OnlineFeatures, materialize, materialized, open_store
from features.training_set import join_features
from ingestion.batch import ARROW_TYPES
from marquee import contract
from marquee.errors import MarqueeError, NothingToDo, TryAgain
from marquee.settings import ROOT, Settings

pytestmark = pytest.mark.tools

EPOCH = datetime(2024, 1, 1)
DAY, INSTANT = timedelta(days=1), timedelta(microseconds=1)
NEVER = EPOCH - 2000 * DAY
RECENT, YEAR = contract.VISITOR_FEATURES_28D, contract.VISITOR_FEATURES_365D
BANNERS = contract.BANNER_FEATURES_28D
VISITOR_NAMES = (*feature_names(RECENT), *feature_names(YEAR))
MONTH_TTL, YEAR_TTL = TTL[RECENT.name], TTL[YEAR.name]
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
    (folder / table.name).mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(zip(kinds, columns, strict=True))), folder / table.name / "2024-01-01.parquet")


OTHERS: tuple[contract.Table, ...] = (
    contract.SESSION_FEATURES,
    contract.VISITOR_SEGMENTS,
    contract.PRODUCT_CATEGORY_PERIODS,
)
"""Exported too; without rows here."""


def write_marts(settings: Settings, visitors: list[Stamp], banners: list[Stamp]) -> None:
    """The feature marts as dbt would leave them, made in plain SQL."""
    settings.home.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(str(settings.warehouse)) as connection:
        connection.execute("create schema if not exists marts")
        tables: dict[contract.Table, list[Stamp]] = {RECENT: visitors, YEAR: visitors, BANNERS: banners}
        for table, stamps in (tables | {other: [] for other in OTHERS}).items():
            columns = ", ".join(f"{c.name} {contract.SQL_TYPES[c.type]} not null" for c in table.columns)
            connection.execute(f"create or replace table marts.{table.name} ({columns})")
            marks = ", ".join("?" for _ in table.columns)
            for stamp in stamps:
                row = feature_row(table, stamp)
                connection.execute(f"insert into marts.{table.name} values ({marks})", [row[n] for n in table.names])


def as_of(table: contract.Table, stamps: list[Stamp], entity: str, at: datetime) -> int | None:
    """What may be known at ``at``: the newest stamp that is neither later nor past its TTL. The reference."""
    ttl = TTL[table.name]
    known = [day for name, day in stamps if name == entity and EPOCH + day * DAY <= at <= EPOCH + day * DAY + ttl]
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


BORDERS = [ttl + step for ttl in (MONTH_TTL, YEAR_TTL) for step in (-INSTANT, 0 * DAY, INSTANT)]
OFFSETS = st.sampled_from([-INSTANT, 0 * DAY, INSTANT, DAY / 2, *BORDERS, -900 * DAY])


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
        ("v1", "b0", EPOCH + 10 * DAY + YEAR_TTL),  # the last moment of both TTLs, or past it
        ("v1", "b0", EPOCH + 10 * DAY + YEAR_TTL + INSTANT),
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
    for table, entity in ((RECENT, "v0"), (YEAR, "v0"), (BANNERS, "b0")):
        write_offline(offline, table, [(entity, 0)])
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
        for table, stamps in ((RECENT, visitors), (YEAR, visitors), (BANNERS, banners)):
            write_offline(offline, table, stamps)
        frame = impressions_frame(impressions)
        joined = join_features(store, frame)
        # Each row once, in the order given, with what it came with untouched.
        pd.testing.assert_frame_equal(joined[list(frame.columns)], frame)
        assert set(joined.columns) == {*frame.columns, *VISITOR_NAMES, *feature_names(BANNERS)}
        for place, (visitor, banner, at) in enumerate(impressions):
            row = {name: plain(joined[name].iloc[place]) for name in joined.columns}
            for table, entity, stamps in (
                (RECENT, visitor, visitors),
                (YEAR, visitor, visitors),
                (BANNERS, banner, banners),
            ):
                day = as_of(table, stamps, entity, at)
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
    write_offline(offline, RECENT, visitors)
    write_offline(offline, YEAR, visitors)
    write_offline(offline, BANNERS, [("b0", 0)])
    frame = impressions_frame([(f"v{i * 7 % 41}", "b0", EPOCH + (i * 11 % 60) * DAY) for i in range(20_000)])
    joined = join_features(store, frame)
    pd.testing.assert_frame_equal(joined[list(frame.columns)], frame)
    found = joined["last_seen_at"].notna().tolist()
    assert found == [i * 7 % 41 <= min(39, i * 11 % 60) for i in range(20_000)]
    assert 0 < sum(found) < 20_000


@effort(max_examples=8, deadline=None)
@given(worlds())
@example(BY_HAND)
def test_the_native_join_is_feasts_own(
    applied: tuple[FeatureStore, Path], world: tuple[list[Stamp], list[Stamp], list[Impression]]
) -> None:
    """The same rows as Feast's own DuckDB store returns, entity rows without an id or a banner included."""
    store, offline = applied
    visitors, banners, impressions = world
    for table, stamps in ((RECENT, visitors), (YEAR, visitors), (BANNERS, banners)):
        write_offline(offline, table, stamps)
    frame = impressions_frame(impressions).rename(columns={"impressed_at": "event_timestamp"})
    frame["event_timestamp"] = frame["event_timestamp"].dt.tz_localize("UTC")
    frame.loc[len(frame) - 1, ["visitor_id"]] = None
    views = [store.get_feature_view(table.name) for table in RANKER_VIEWS]
    refs = [f"{table.name}:{name}" for table in RANKER_VIEWS for name in feature_names(table)]
    own = store.get_historical_features(frame.copy(), refs).to_df()
    theirs = DuckDBOfflineStore.get_historical_features(
        store.config, views, refs, frame.copy(), store.registry, "marquee"
    ).to_df()
    # Feast's comes in no order.
    theirs = theirs.set_index("impression_id").loc[frame["impression_id"]].reset_index()[list(own.columns)]
    assert len(own) == len(frame) == len(theirs)
    for name in own.columns:
        assert [plain(value) for value in own[name]] == [plain(value) for value in theirs[name]], name


LATER = st.sampled_from([0 * DAY, DAY, *BORDERS, 28 * DAY, 400 * DAY])


def test_online_is_offline_at_every_later_moment(new_home: Callable[[], Settings]) -> None:
    """The same entity at the same moment, expired features included, for every view."""
    seen: Counter[str] = Counter()

    @effort(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(stamps_of("v", 3), stamps_of("b", 2))
    @example([("v0", 10), ("v0", 12), ("v1", 400), ("v2", 35)], [("b0", 399), ("b0", 400), ("b1", 380)])
    def check(visitors: list[Stamp], banners: list[Stamp]) -> None:
        settings = new_home()
        write_marts(settings, visitors, banners)
        counts = materialize(settings)
        assert counts[YEAR.name] == counts[RECENT.name] == len(visitors)
        assert counts[BANNERS.name] == len(banners)
        store, online = open_store(settings), OnlineFeatures(settings)
        newest = EPOCH + max(day for _, day in visitors + banners) * DAY
        names = [("v0", "b0"), ("v1", "b1"), ("v2", "b9"), ("v9", "b0")]
        moments = [newest + later for later in (0 * DAY, *BORDERS)]
        frame = impressions_frame([(v, b, at) for at in moments for v, b in names])
        joined = join_features(store, frame).to_dict("records")
        for place, row in enumerate(joined):
            (visitor, banner), at = names[place % len(names)], moments[place // len(names)]
            found = {
                **dict.fromkeys(VISITOR_NAMES),
                **online.visitors([visitor], at).get(visitor, {}),
                **dict.fromkeys(feature_names(BANNERS)),
                **online.banners([banner], at).get(banner, {}),
            }
            assert found == {name: plain(row[name]) for name in found}
            for name in ("view_count_28d", "last_seen_at", BANNERS.names[2]):
                seen[f"{name} {'absent' if found[name] is None else 'present'}"] += 1
            seen["only the year"] += found["view_count_28d"] is None and found["last_seen_at"] is not None

    check()
    assert len(seen) == 7
    assert all(seen.values())


@pytest.mark.parametrize(("table", "entity"), [(RECENT, "v0"), (YEAR, "v0"), (BANNERS, "b0")])
def test_the_last_moment_of_a_view_online(new_home: Callable[[], Settings], table: contract.Table, entity: str) -> None:
    settings = new_home()
    write_marts(settings, [("v0", 10)], [("b0", 10)])
    materialize(settings)
    online = OnlineFeatures(settings)
    field, last = feature_names(table)[0], EPOCH + 10 * DAY + TTL[table.name]

    def found(at: datetime) -> Any:
        rows = online.banners([entity], at) if table is BANNERS else online.visitors([entity], at)
        return rows.get(entity, {}).get(field)

    assert found(last) is not None
    assert found(last + INSTANT) is None
    assert found(EPOCH + 10 * DAY) is not None
    assert found(EPOCH + 10 * DAY - INSTANT) is None, "a feature from after the moment"
    assert online.visitors([], last) == {}


def online_rows(path: Path, project: str = "marquee") -> list[tuple[Any, ...]]:
    """All that the online store holds of the views, but for the moment at which it was written."""
    with sqlite3.connect(path) as connection:
        columns = "entity_key, feature_name, value, value_text, vector_value, event_ts, created_ts"
        return sorted(
            (
                (table.name, *row)
                for table in ONLINE_VIEWS
                for row in connection.execute(f'select {columns} from "{project}_{table.name}"')
            ),
            key=repr,
        )


def stock_store(settings: Settings, online: dict[str, Any]) -> FeatureStore:
    """Feast as it comes, over the same offline files."""
    home = settings.home / "stock"
    home.mkdir(exist_ok=True)
    config = RepoConfig(
        project="marquee", provider="local", registry=str(home / "registry.db"), offline_store={"type": "duckdb"},
        online_store=online, entity_key_serialization_version=3, repo_path=str(home),
    )  # fmt: skip
    store = FeatureStore(config=config)
    store.apply(feature_objects(settings.features / "offline"))
    return store


def test_the_online_store_is_what_feast_would_write(new_home: Callable[[], Settings]) -> None:
    settings = new_home()
    visitors = [("v0", 10), ("v0", 12), ("v1", 11), ("v22", 12), ("v333333", 3)]
    write_marts(settings, visitors, [("b0", 11), ("b0", 12), ("b1", 12)])
    materialize(settings)
    path = settings.home / "stock" / "online.db"
    stock = stock_store(settings, {"type": "sqlite", "path": str(path)})
    stock.materialize(EPOCH.replace(tzinfo=UTC), (EPOCH + 12 * DAY).replace(tzinfo=UTC))
    own = online_rows(settings.features / "online.db")
    assert own == online_rows(path)
    assert len(own) == 4 * len(VISITOR_NAMES) + 2 * len(feature_names(BANNERS))
    # And Feast as it comes reads ours.
    path.unlink()
    reader = stock_store(settings, {"type": "sqlite", "path": str(settings.features / "online.db")})
    refs = [f"{table.name}:{name}" for table in VISITOR_VIEWS for name in feature_names(table)]
    answer = reader.get_online_features(refs, [{"visitor_id": "v0"}]).to_dict()
    wanted = expected(RECENT, "v0", 12) | expected(YEAR, "v0", 12)
    assert {name: answer[name][0] for name in VISITOR_NAMES} == {
        name: value.replace(tzinfo=UTC) if isinstance(value, datetime) else value for name, value in wanted.items()
    }


def test_materialising_again_changes_nothing_and_a_new_day_replaces(new_home: Callable[[], Settings]) -> None:
    settings = new_home()
    visitors, banners = [("v0", 10), ("v1", 11)], [("b0", 11)]
    write_marts(settings, visitors, banners)
    first = materialize(settings)
    before = online_rows(settings.features / "online.db")
    assert len(before) == 2 * len(VISITOR_NAMES) + len(feature_names(BANNERS))
    assert materialize(settings) == first
    assert online_rows(settings.features / "online.db") == before
    write_marts(settings, [*visitors, ("v0", 12)], [*banners, ("b0", 12)])
    materialize(settings)
    after = online_rows(settings.features / "online.db")
    assert len(after) == len(before)
    assert after != before
    found = OnlineFeatures(settings).visitors(["v0", "v1"], EPOCH + 12 * DAY)
    assert found == {
        name: expected(RECENT, name, day) | expected(YEAR, name, day) for name, day in (("v0", 12), ("v1", 11))
    }
    assert {materialized(settings)[table.name].until for table in RANKER_VIEWS} == {EPOCH + 12 * DAY}


def write_build(settings: Settings, from_day: int | None) -> None:
    """A finished build of the warehouse, as it keeps a record of them."""
    with duckdb.connect(str(settings.warehouse)) as connection:
        connection.execute("create schema if not exists raw")
        columns = "target varchar, from_date date, to_date date, is_full boolean, finished_at timestamp"
        connection.execute(f"create table if not exists raw.builds ({columns})")
        first = None if from_day is None else (EPOCH + from_day * DAY).date()
        values = ["duckdb", first, (EPOCH + 900 * DAY).date(), from_day is None]
        connection.execute("insert into raw.builds select ?, ?, ?, ?, now()::timestamp", values)


def test_a_day_costs_a_day(new_home: Callable[[], Settings]) -> None:
    """Only the files of rebuilt days are written, and only their visitors go online; who lost a row goes, too."""
    settings = new_home()
    banners = [("b0", day) for day in range(10, 13)]
    write_marts(settings, [("v0", 10), ("v1", 11), ("v2", 12), ("v3", 12), ("v3", 11)], banners)
    write_build(settings, None)
    rows: list[int] = []
    materialize(settings, rows.append)
    assert sum(rows) == 2 * 4 + 1
    folder = settings.features / "offline" / YEAR.name
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("2*.parquet")}
    # Nothing was built: nothing is written.
    rows.clear()
    materialize(settings, rows.append)
    assert rows == []
    # Day 12 is built again, without v2 and v3, and with v4.
    write_marts(settings, [("v0", 10), ("v1", 11), ("v4", 12), ("v3", 11)], [*banners, ("b0", 13)])
    write_build(settings, 12)
    rows.clear()
    materialize(settings, rows.append)
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob("2*.parquet")}
    assert [name for name in after if after[name] != before[name]] == ["2024-01-13.parquet"]
    assert sum(rows) == 2 + 1, "v4 in two views, and the banner"
    found = OnlineFeatures(settings).visitors([f"v{place}" for place in range(5)], EPOCH + 12 * DAY)
    days = {"v0": 10, "v1": 11, "v3": 11, "v4": 12}
    assert found == {name: expected(RECENT, name, day) | expected(YEAR, name, day) for name, day in days.items()}
    # The same rows as a store that is filled in one go.
    settings_anew = new_home()
    write_marts(settings_anew, [("v0", 10), ("v1", 11), ("v4", 12), ("v3", 11)], [*banners, ("b0", 13)])
    materialize(settings_anew)
    online = [online_rows(each.features / "online.db") for each in (settings, settings_anew)]
    assert online[0] == online[1]


@pytest.mark.parametrize("chunks", [1, 2, 3, 5])
def test_an_interrupted_run_is_taken_up_where_it_stood(
    new_home: Callable[[], Settings], monkeypatch: pytest.MonkeyPatch, chunks: int
) -> None:
    monkeypatch.setattr(materialization, "CHUNK", 2)
    visitors, banners = [(f"v{place}", place % 7) for place in range(7)], [("b0", 3)]
    whole, broken = new_home(), new_home()
    for settings in (whole, broken):
        write_marts(settings, visitors, banners)
        write_build(settings, None)
    total: list[int] = []
    materialize(whole, total.append)
    written: list[int] = []

    def stop(rows: int) -> None:
        written.append(rows)
        if len(written) == chunks:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        materialize(broken, stop)
    rest: list[int] = []
    materialize(broken, rest.append)
    assert sum(written) + sum(rest) == sum(total) == 15, "no chunk twice"
    assert online_rows(broken.features / "online.db") == online_rows(whole.features / "online.db")


def test_what_an_export_under_way_has_noted_is_kept_until_it_is_through(new_home: Callable[[], Settings]) -> None:
    """A materialisation that runs in between must not forget it: the export notes a lost row once."""
    settings = new_home()
    write_marts(settings, [("v0", 10), ("v1", 10)], [("b0", 10)])
    write_build(settings, None)
    materialize(settings)
    write_marts(settings, [("v0", 10)], [("b0", 10)])
    write_build(settings, 10)
    with duckdb.connect(str(settings.warehouse)) as connection:
        connection.execute(f"alter table marts.{BANNERS.name} rename to away")
    with pytest.raises(NothingToDo, match=BANNERS.name):
        export_offline(settings)  # its first two views are written
    materialization.materialize_views(settings, open_store(settings))
    with duckdb.connect(str(settings.warehouse)) as connection:
        connection.execute(f"alter table marts.away rename to {BANNERS.name}")
    materialize(settings)
    assert set(OnlineFeatures(settings).visitors(["v0", "v1"], EPOCH + 10 * DAY)) == {"v0"}
    with exports(settings) as record:
        assert record.execute("select count(*) from retracted").fetchone() == (0,)


def test_a_killed_materialisation_claims_no_moment(new_home: Callable[[], Settings]) -> None:
    settings = new_home()
    write_marts(settings, [("v0", 10)], [("b0", 10)])
    materialize(settings)
    moments = OnlineMoments(settings)
    first = moments.now()
    assert first is not None
    write_marts(settings, [("v0", 10), ("v0", 11)], [("b0", 10), ("b0", 11)])

    def stop(rows: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        materialize(settings, stop)
    assert (moments.now(), materialized(settings)) == (None, {})
    materialize(settings)
    now = moments.now()
    assert now is not None
    assert now[0] > first[0]
    materialize(settings)  # where nothing is written, the moment is as good as before
    assert set(materialized(settings)) == {table.name for table in ONLINE_VIEWS}


def write_sessions(settings: Settings, sessions: dict[str, tuple[float, float]]) -> None:
    """The sessions mart as of now: each session's last event, in days from ``EPOCH``, and its views."""
    with duckdb.connect(str(settings.warehouse)) as connection:
        connection.execute("delete from marts.session_features")
        for name, (day, count) in sessions.items():
            values = [name, f"v-{name}", EPOCH + day * DAY, count, 0, 0, 0, 0, "[]", "{}"]
            connection.execute(f"insert into marts.session_features values ({', '.join('?' * len(values))})", values)


def offline_sessions(settings: Settings) -> list[tuple[Any, ...]]:
    files = offline_files(settings, contract.SESSION_FEATURES)
    return duckdb.sql(f"select * from read_parquet({files!r}) order by all").fetchall()


def test_a_session_that_goes_on_after_midnight_is_exported_once(new_home: Callable[[], Settings]) -> None:
    grown, anew = new_home(), new_home()
    for settings in (grown, anew):
        write_marts(settings, [("v0", 10)], [])
    alone = {"ended": (9.5, 1.0), "alone": (9.98, 1.0), "named": (3.0, 1.0), "new": (10.5, 1.0)}
    write_sessions(grown, {"ended": (9.5, 1.0), "alone": (9.98, 1.0), "named": (3.0, 1.0), "with": (9.97, 2.0)})
    write_build(grown, None)
    export_offline(grown)
    later = alone | {"alone": (10.01, 3.0), "named": (10.2, 2.0), "with": (9.97, 2.0)}
    for settings, first in ((grown, 10), (anew, None)):
        write_sessions(settings, later)
        write_build(settings, first)
        export_offline(settings)
    assert len(offline_sessions(anew)) == len(later) == 5
    assert offline_sessions(grown) == offline_sessions(anew)
    names = [[Path(path).name for path in offline_files(each, contract.SESSION_FEATURES)] for each in (grown, anew)]
    assert names[0] == names[1], "and no empty day stays"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def overwrite(path: Path) -> None:
    """The first pages, with the end of the file, by which it is known, as it was."""
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + b"\xff" * 60 + whole[64:])


DAMAGES: dict[str, tuple[str, Callable[[Path], None], tuple[str, ...]]] = {
    "parquet cut off": (f"offline/{YEAR.name}/2024-01-11.parquet", truncate, ("exports.db",)),
    "parquet overwritten": (f"offline/{YEAR.name}/2024-01-11.parquet", overwrite, ("exports.db",)),
    "online store": ("online.db", lambda path: path.write_bytes(b"no database" * 1000) and None, ()),
    "record of exports": ("exports.db", lambda path: path.write_bytes(b"no database" * 1000) and None, ()),
}
"""What is damaged, how, and what else is to be deleted."""


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_file_is_named_and_the_way_out_leads_out(new_home: Callable[[], Settings], case: str) -> None:
    settings = new_home()
    write_marts(settings, [("v0", 10), ("v1", 9)], [("b0", 10)])
    write_build(settings, None)
    materialize(settings)
    online, note = settings.features / "online.db", settings.features / "materialized.json"
    before, noted = online_rows(online), note.read_text()
    assert len(before) > 20
    name, damage, others = DAMAGES[case]
    damage(settings.features / name)
    # What was retracted, or written by a build since, has the damaged file read.
    write_build(settings, 10)
    damaged = (settings.features / name).read_bytes()
    for _ in range(2):
        with pytest.raises(MarqueeError) as caught:
            materialize(settings)
        message = str(caught.value)
        assert message.startswith(f"{settings.features / name} is damaged (")
        assert "run `marquee materialize` again" in message
        assert len(message.splitlines()) == 1
        assert all(str(settings.features / other) in message for other in others)
    assert (settings.features / name).read_bytes() == damaged
    if name != "online.db":
        assert (online_rows(online), note.read_text()) == (before, noted), "nothing is half-done"
    for path in (settings.features / other for other in (name, *others)):
        for beside in path.parent.glob(f"{path.name}*"):
            beside.unlink()
    materialize(settings)
    assert online_rows(online) == before
    assert set(materialized(settings)) == {table.name for table in ONLINE_VIEWS}


def test_a_view_that_is_to_be_filled_anew_is_not_emptied_for_a_damaged_file(new_home: Callable[[], Settings]) -> None:
    """As of a moment before what is online, so that all of it goes; of two views the first is through by then."""
    settings = new_home()
    write_marts(settings, [("v0", 10), ("v1", 9)], [("b0", 10)])
    write_build(settings, None)
    materialize(settings)
    before = online_rows(settings.features / "online.db")
    overwrite(settings.features / "offline" / YEAR.name / "2024-01-10.parquet")
    with pytest.raises(MarqueeError, match=r"2024-01-10\.parquet is damaged"):
        materialize(settings.model_copy(update={"as_of": EPOCH + 9.5 * DAY}))
    left = online_rows(settings.features / "online.db")
    of_view = [[row for row in rows if row[0] == YEAR.name] for rows in (before, left)]
    assert of_view[0] == of_view[1] != []
    assert len([row for row in before if row not in left]) > 0, "the view before it is as of then"


def test_a_locked_online_store_is_worth_another_try(new_home: Callable[[], Settings]) -> None:
    settings = new_home()
    for code, kind, words in (
        (sqlite3.SQLITE_BUSY, TryAgain, "is in use (database is locked)"),
        (sqlite3.SQLITE_FULL, MarqueeError, "cannot be written (database is locked)"),
        (sqlite3.SQLITE_ERROR, sqlite3.OperationalError, "database is locked"),
    ):
        error = sqlite3.OperationalError("database is locked")
        error.sqlite_errorcode = code
        with pytest.raises(kind) as caught, damage_named(settings):
            raise error
        assert type(caught.value) is kind
        assert words in str(caught.value)


def test_features_whose_every_event_was_taken_back_go_offline(new_home: Callable[[], Settings]) -> None:
    settings = new_home()
    write_marts(settings, [], [])
    write_build(settings, None)
    with pytest.raises(NothingToDo, match="no visitor features yet"):
        materialize(settings)
    write_marts(settings, [("v0", 10)], [("b0", 10)])
    write_build(settings, None)
    materialize(settings)
    write_marts(settings, [], [])
    write_build(settings, None)
    materialize(settings)
    assert online_rows(settings.features / "online.db") == []
    with pytest.raises(NothingToDo, match="no visitor features yet"):
        materialize(settings)


@pytest.mark.parametrize("damage", [b"", b"\x0a\xff\xff", None])
def test_a_damaged_registry_heals(new_home: Callable[[], Settings], damage: bytes | None) -> None:
    settings = new_home()
    write_marts(settings, [("v0", 10)], [])
    materialize(settings)
    register_service(settings, "ranker_0123", {RECENT.name: ["view_count_28d"]})
    open_store(settings)
    registry = settings.features / "registry.db"
    whole = registry.read_bytes()
    registry.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    found = OnlineFeatures(settings, "ranker_0123").visitors(["v0"], EPOCH + 10 * DAY)
    assert found == {"v0": {"view_count_28d": expected(RECENT, "v0", 10)["view_count_28d"]}}


def test_each_service_reads_its_own_fields_and_none_goes_away(new_home: Callable[[], Settings]) -> None:
    settings = new_home()
    write_marts(settings, [("v0", 10)], [("b0", 10)])
    materialize(settings)
    first = OnlineFeatures(settings).through("ranker_old", {YEAR.name: ["last_seen_at"]})
    second = first.through("ranker_new", {RECENT.name: ["view_count_28d"], BANNERS.name: [BANNERS.names[2]]})
    at = EPOCH + 10 * DAY
    assert list(first.visitors(["v0"], at)["v0"]) == ["last_seen_at"]
    assert list(second.visitors(["v0"], at)["v0"]) == ["view_count_28d"]
    assert first.banners(["b0"], at) == {}
    assert list(second.banners(["b0"], at)["b0"]) == [BANNERS.names[2]]
    services = {service.name for service in open_store(settings).list_feature_services()}
    assert services == {"training_set", "ranker_old", "ranker_new"}
    with pytest.raises(FeatureServiceNotFoundException):
        OnlineFeatures(settings, "ranker_of_nobody")


def test_export_is_the_marts_in_utc_microseconds(new_home: Callable[[], Settings]) -> None:
    settings = new_home()
    visitors, banners = [("v1", 5), ("v0", 7), ("v0", 6), ("v0", 5)], [("b0", 5)]
    write_marts(settings, visitors, banners)
    counts = {RECENT.name: 4, YEAR.name: 4, BANNERS.name: 1, "session_features": 0, "visitor_segments": 0}
    assert export_offline(settings) == counts
    compared = 0
    for table, stamps in ((RECENT, visitors), (YEAR, visitors), (BANNERS, banners)):
        folder = settings.features / "offline" / table.name
        days = sorted({day for _, day in stamps})
        assert sorted(path.name for path in folder.iterdir()) == [
            *(f"{(EPOCH + day * DAY).date()}.parquet" for day in days),
            "no-day.parquet",
        ]
        for day in days:
            read = pq.read_table(folder / f"{(EPOCH + day * DAY).date()}.parquet")
            assert read.schema.names == list(table.names)
            for column in table.columns:
                kind = pa.timestamp("us", tz="UTC") if column.type == "timestamp" else ARROW_TYPES[column.type]
                assert read.schema.field(column.name).type == kind
                compared += 1
            aware = [
                {n: v.replace(tzinfo=UTC) if isinstance(v, datetime) else v for n, v in feature_row(table, one).items()}
                for one in sorted(stamps)
                if one[1] == day
            ]
            assert read.to_pylist() == aware
    assert compared == 3 * len(RECENT.columns) + 3 * len(YEAR.columns) + len(BANNERS.columns)


def test_empty_marts_leave_nothing_to_do_and_no_registry(new_home: Callable[[], Settings]) -> None:
    settings = new_home()
    write_marts(settings, [], [])
    assert [table.name for table in OFFLINE_VIEWS] == [*TTL]
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
    found = OnlineFeatures(settings).visitors(["v1"], EPOCH + 100 * DAY)["v1"]
    recent = expected(RECENT, "v1", 100 - days_late if days_late <= 28 else None)
    assert found == recent | expected(YEAR, "v1", 100 - days_late)


def test_an_unfinished_day_stays_offline(tmp_path: Path) -> None:
    noon = EPOCH + 10.5 * DAY
    settings = Settings(home=tmp_path, as_of=noon)
    write_marts(settings, visitors=[("v1", 10), ("v1", 11), ("v2", 11)], banners=[("b1", 10), ("b1", 11)])
    assert materialize(settings)[YEAR.name] == 3
    online = OnlineFeatures(settings)
    visitors = online.visitors(["v1", "v2"], noon)
    assert {visitor: row["category_affinity"] for visitor, row in visitors.items()} == {"v1": '{"c10": 1.0}'}
    assert online.banners(["b1"], noon) == {"b1": expected(BANNERS, "b1", 10)}
    # Once the day is over, its rows follow, although nothing was built.
    materialize(settings.model_copy(update={"as_of": noon + DAY}))
    assert set(online.visitors(["v1", "v2"], noon + DAY)) == {"v1", "v2"}


def test_feast_is_imported_without_its_checks_of_each_call(tmp_path: Path) -> None:
    """They take most of the start-up of every command that needs Feast, and time at every read."""
    code = "import features.store, feast; print(feast.FeatureView.__init__.__code__.co_names)"
    command = [sys.executable, "-c", code]
    names = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, cwd=ROOT).stdout
    assert "entities" in names
    assert "typeguard" not in names
