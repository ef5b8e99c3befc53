"""Skew on a real installation: what the scorer logged is what the offline path replays, and a lie is noticed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from features.export import offline_files
from features.freshness import TTL
from features.product_categories import ProductCategories
from features.session import events_by_visitor
from features.session_store import SqliteSessions
from features.store import materialize
from ingestion.event_stream import EventStream
from ingestion.load import load_pending
from marquee import contract
from marquee.errors import NothingToDo
from marquee.settings import Settings
from serving.schemas import RecommendRequest
from serving.scoring import Scorer
from serving.visitor_sessions import VisitorSessions
from training.pipeline import require_latest_bundle
from training.promotion import promote
from training.served import served_features
from training.skew import OF_BANNER, OF_SESSION, OF_VISITOR, REASONS, check_skew

pytestmark = pytest.mark.tools
FEATURES = len(contract.RANKER_FEATURES)
WRITTEN = datetime(2026, 1, 13)
"""A midnight in the middle of the log."""


@pytest.fixture(scope="module")
def served(copied: Callable[[Path], Settings], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """An installation that has answered 40 visitors and one whom nobody knows, two banners each, and loaded them.

    Every other one of the 40 was looking at products at that time.
    """
    settings = copied(tmp_path_factory.mktemp("skew") / "home")
    promote(settings, require_latest_bundle(settings), "ada", "the smallest log")
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        query = "select visitor_id from marts.training_rows group by 1 order by count(*) desc, 1 limit 40"
        visitors = [row[0] for row in connection.execute(query).fetchall()]
    stream, store = EventStream(settings.log / "stream", "service-1"), SqliteSessions(settings)
    events = [event for visitor in visitors[::2] for event in browsing(settings, visitor)]
    stream.append(events)
    store.update(events_by_visitor(events, ProductCategories(settings).now()))
    scorer = Scorer(settings, VisitorSessions(settings, store))
    for visitor in (*visitors, "nobody"):
        ask(scorer, stream, visitor)
    stream.close()
    store.close()
    load_pending(settings)
    return settings


def browsing(settings: Settings, visitor: str) -> list[dict[str, Any]]:
    """A page, two products and a cart of the last quarter of an hour."""
    assert settings.as_of is not None
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        query = "select product_id from raw.products order by hash(product_id || ?) limit 2"
        first, second = (row[0] for row in connection.execute(query, [visitor]).fetchall())
    steps = ((14, "page_view", None), (13, "product_view", first), (4, "product_view", second), (2, "cart", second))
    return [
        {"event_id": f"{visitor}-{minutes}", "kind": kind, "visitor_id": visitor, "product_id": product}
        | {"occurred_at": settings.as_of - timedelta(minutes=minutes)}
        for minutes, kind, product in steps
    ]


def ask(scorer: Scorer, stream: EventStream, visitor: str) -> None:
    answer = scorer.answer(RecommendRequest(visitor_id=visitor, placement="home_hero", n=2))
    stream.append_soon(answer.lines).result()


def logged(settings: Settings) -> list[tuple[str, str, str]]:
    query = """select impression_id, visitor_id, features from raw.events
        where kind = 'impression'
            and features is not null and policy like '%@banner_bundle:%'
        order by occurred_at, impression_id"""
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        return connection.execute(query).fetchall()


def write_features(settings: Settings, impression_id: str, features: str) -> None:
    with duckdb.connect(str(settings.warehouse)) as connection:
        query = "update raw.events set features = ? where impression_id = ?"
        connection.execute(query, [features, impression_id])


def test_what_was_served_is_what_is_replayed(served: Settings) -> None:
    found = check_skew(served)
    assert found.differences == []
    assert found.left_out == {}
    assert (found.requests, found.impressions, found.values) == (41, 82, 82 * FEATURES)
    assert found.compared == dict.fromkeys(contract.RANKER_FEATURES, 82)
    matrix = np.array([served_features(text)[0] for _, _, text in logged(served)])
    # It would be no proof if nobody were known or all were alike.
    assert np.isnan(matrix).any()
    assert np.nanstd(matrix[:, contract.RANKER_FEATURES.index("affinity_match")]) > 0.01
    for name in OF_SESSION:
        values = matrix[:, contract.RANKER_FEATURES.index(name)]
        assert np.isnan(values).sum() == 42, name
        assert np.nanmax(values) > 0 or name == "session_order_count", name


def test_only_the_requests_asked_for_are_compared(served: Settings) -> None:
    assert check_skew(served, requests=3).requests == 3
    assert check_skew(served, bundle=require_latest_bundle(served)).requests == 41
    assert served.as_of is not None
    assert check_skew(served, since=served.as_of).requests == 41
    with pytest.raises(NothingToDo, match="serve some"):
        check_skew(served, since=served.as_of + timedelta(seconds=1))
    with pytest.raises(NothingToDo, match="serve some"):
        check_skew(served, bundle="banner_bundle:0000000000000000")


def test_a_changed_offline_feature_is_named_with_both_values(served: Settings) -> None:
    visitor = logged(served)[0][1]
    impressions = [row[0] for row in logged(served) if row[1] == visitor]
    files = [Path(file) for file in offline_files(served, contract.VISITOR_FEATURES_28D)]
    before = {file: file.read_bytes() for file in files}
    for file in files:
        rows = pq.read_table(file)
        more = pc.cast(pc.equal(rows["visitor_id"], visitor), pa.float64())
        place = rows.schema.get_field_index("cart_count_28d")
        pq.write_table(rows.set_column(place, "cart_count_28d", pc.add(rows["cart_count_28d"], more)), file)
    try:
        found = check_skew(served)
    finally:
        for file, content in before.items():
            file.write_bytes(content)
    difference, rate = found.differences
    assert (difference.feature, difference.count) == ("cart_count_28d", len(impressions))
    assert (rate.feature, rate.count) == ("cart_rate", len(impressions))
    assert difference.impression_id in impressions
    assert difference.served is not None
    assert difference.replayed == difference.served + 1


@pytest.mark.parametrize(
    ("name", "change"),
    [("mean_price", lambda value: value * 1.00001), ("affinity_match", lambda value: None), ("device", lambda v: 0.0)],
)
def test_a_changed_served_value_is_named(served: Settings, name: str, change: Callable[[float], float | None]) -> None:
    impression, _, text = logged(served)[0]
    values = json.loads(text)
    write_features(served, impression, json.dumps(values | {name: change(values[name])}))
    try:
        found = check_skew(served)
    finally:
        write_features(served, impression, text)
    (difference,) = found.differences
    assert (difference.feature, difference.count, difference.impression_id) == (name, 1, impression)
    assert difference.replayed == pytest.approx(values[name], abs=1e-6)


def test_rounding_of_a_float_is_no_difference(served: Settings) -> None:
    impression, _, text = logged(served)[0]
    values = json.loads(text)
    rounded = float(np.nextafter(np.float32(values["mean_price"]), np.float32(1e9)))
    assert rounded != values["mean_price"]
    write_features(served, impression, json.dumps(values | {"mean_price": rounded}))
    try:
        assert check_skew(served).differences == []
    finally:
        write_features(served, impression, text)


def test_what_cannot_be_replayed_is_counted_and_never_passes_for_equal(served: Settings) -> None:
    rows = logged(served)
    values = json.loads(rows[0][2])
    spoiled = {
        rows[0][0]: json.dumps({name: value for name, value in values.items() if name != "as_of"}),
        rows[1][0]: json.dumps(values | {"as_of": values["as_of"] | {"visitor": None}}),
        rows[2][0]: "[1, 2]",
    }
    for impression, text in spoiled.items():
        write_features(served, impression, text)
    try:
        found = check_skew(served)
    finally:
        for impression, _, text in rows[:3]:
            write_features(served, impression, text)
    assert found.impressions == 79
    assert sorted(found.left_out.values()) == [1, 1, 1]


@contextmanager
def arrived_late(
    settings: Settings,
    events: list[tuple[datetime, str, str | None]],
    built_hours: float | None = 1,
    kind: str = "click",
) -> Iterator[None]:
    """Events, each with its visitor and banner, of a batch first built so many hours from now; never, for none."""
    with duckdb.connect(str(settings.warehouse)) as connection:
        connection.execute(
            "insert into raw.batches (batch_id, batch_number, source, status, loaded_at) "
            "select 'late-1', max(batch_number) + 1, 'late', 'admitted', timestamp '2026-01-01' from raw.batches"
        )
        for number, values in enumerate(events):
            connection.execute(
                "insert into raw.events (event_id, kind, occurred_at, visitor_id, banner_id, batch_id) values "
                f"('late-{number}', '{kind}', ?, ?, ?, 'late-1')",
                values,
            )
        if built_hours is not None:
            connection.execute(
                "insert into raw.builds by name select 1000 as build_id, any_value(target) as target, "
                "false as is_full, '' as vars_hash, now()::timestamp as started_at, true as covers_pending, "
                "timezone('UTC', now()) + to_microseconds(?) as finished_at from raw.builds",
                [int(built_hours * 3.6e9)],
            )
            connection.execute(
                "insert into raw.built_batches (target, batch_id, loaded, build_id) "
                "select any_value(target), 'late-1', 1, 1000 from raw.builds"
            )
    try:
        yield
    finally:
        with duckdb.connect(str(settings.warehouse)) as connection:
            connection.execute("delete from raw.built_batches where batch_id = 'late-1'")
            connection.execute("delete from raw.builds where build_id = 1000")
            connection.execute("delete from raw.events where batch_id = 'late-1'")
            connection.execute("delete from raw.batches where batch_id = 'late-1'")


def test_events_that_arrive_late_take_their_visitor_out_of_the_comparison(served: Settings) -> None:
    _, visitor, _ = logged(served)[0]
    assert served.as_of is not None
    with arrived_late(served, [(served.as_of - timedelta(days=2), visitor, None)]):
        found = check_skew(served)
    mine = sum(row[1] == visitor for row in logged(served))
    assert list(found.left_out.values()) == [len(OF_VISITOR) * mine]
    assert found.values == 82 * FEATURES - len(OF_VISITOR) * mine
    assert found.compared["view_count_28d"] == 82 - mine
    assert found.compared["mean_price"] == 82


@pytest.mark.parametrize("built_hours", [None, -24])
def test_events_that_are_not_in_the_marts_yet_or_were_when_it_was_written_change_nothing(
    served: Settings, built_hours: float | None
) -> None:
    """Loaded long ago and admitted only now, a batch counts from the build that took it in."""
    assert served.as_of is not None
    events = [(served.as_of - timedelta(days=2), visitor, None) for _, visitor, _ in logged(served)]
    with arrived_late(served, events, built_hours):
        assert check_skew(served).left_out == {}


@pytest.mark.parametrize(
    ("who", "seconds", "is_different"),
    [
        # Half a second before the last event that was served: perhaps it came after the request.
        (0, 120.5, False),
        # A minute before: it had been there by then, and nobody knew.
        (0, 180.0, True),
        # After it, so that it was not there yet.
        (0, 119.0, None),
        # Of one who was served without a session: the store may have been behind, or down.
        (1, 300.0, False),
        # Of one whose session was over by then.
        (1, 1800.0, None),
    ],
)
def test_a_session_is_compared_as_far_as_it_is_known_what_was_served(
    served: Settings, who: int, seconds: float, is_different: bool | None
) -> None:
    assert served.as_of is not None
    rows = logged(served)
    is_browsing = {row[1]: json.loads(row[2])["session_view_count"] is not None for row in rows}
    visitor = next(visitor for visitor, browses in is_browsing.items() if browses == (who == 0))
    with arrived_late(served, [(served.as_of - timedelta(seconds=seconds), visitor, None)], kind="page_view"):
        found = check_skew(served)
    left_out = {} if is_different is not False else {REASONS[-2]: 2 * len(OF_SESSION)}
    assert found.left_out == left_out
    assert [one.feature for one in found.differences] == (["session_view_count"] if is_different else [])


def test_a_session_made_of_the_request_is_left_out(served: Settings) -> None:
    impression, _, text = next(row for row in logged(served) if json.loads(row[2])["session_view_count"] is not None)
    values = json.loads(text)
    values |= {"session_view_count": 99.0, "as_of": values["as_of"] | {"is_session_given": True}}
    write_features(served, impression, json.dumps(values))
    try:
        found = check_skew(served)
    finally:
        write_features(served, impression, text)
    assert (found.differences, found.left_out) == ([], {REASONS[-2]: len(OF_SESSION)})


def banners(settings: Settings) -> dict[str, str]:
    """The banner of each logged impression."""
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        query = "select impression_id, banner_id from raw.events where policy like '%@banner_bundle:%'"
        return dict(connection.execute(query).fetchall())


def test_events_of_the_day_that_is_not_over_change_nothing_that_was_served(served: Settings) -> None:
    """A materialisation at noon writes what was known at midnight; the morning's events are in no feature yet."""
    assert served.as_of is not None
    noon, rows, banner_of = served.as_of.isoformat(), logged(served), banners(served)
    morning = served.as_of - timedelta(hours=2)
    for impression, _, text in rows:
        values = json.loads(text)
        moments = {name: [noon, values["as_of"][name][1]] for name in ("visitor", "banner")}
        write_features(served, impression, json.dumps(values | {"as_of": values["as_of"] | moments}))
    try:
        with arrived_late(served, [(morning, visitor, banner_of[impression]) for impression, visitor, _ in rows]):
            found = check_skew(served)
        evening = morning - timedelta(hours=12)
        with arrived_late(served, [(evening, visitor, banner_of[impression]) for impression, visitor, _ in rows[:20]]):
            left_out = check_skew(served).left_out
    finally:
        for impression, _, text in rows:
            write_features(served, impression, text)
    assert (found.differences, found.left_out, found.values) == ([], {}, 82 * FEATURES)
    assert sum(left_out.values()) >= 20 * (len(OF_VISITOR) + len(OF_BANNER))


@pytest.mark.parametrize("of", ["visitor", "banner"])
def test_a_feature_that_nothing_was_compared_of_is_no_success(served: Settings, of: str) -> None:
    assert served.as_of is not None
    banner_of, at = banners(served), served.as_of - timedelta(days=2)
    events = [(at, visitor, None) for _, visitor, _ in logged(served)]
    if of == "banner":
        events = [(at, "somebody", banner_of[impression]) for impression, _, _ in logged(served)]
    names = OF_VISITOR if of == "visitor" else OF_BANNER
    named = [name for name in contract.RANKER_FEATURES if name in names]
    told = f"^no logged value of {', '.join(named)} can be replayed: {82 * len(names):,} values whose events changed"
    with arrived_late(served, events), pytest.raises(NothingToDo, match=told):
        check_skew(served)


def test_what_was_online_but_expired_is_replayed_so(
    copied: Callable[[Path], Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A while without a materialisation: two views are past their TTL online, though newer rows lie offline."""
    for view in ("visitor_features_28d", "banner_features_28d"):
        monkeypatch.setitem(TTL, view, datetime(2026, 2, 2) - WRITTEN)
    settings = copied(tmp_path / "home")
    promote(settings, require_latest_bundle(settings), "ada", "the smallest log")
    materialize(settings.model_copy(update={"as_of": WRITTEN + timedelta(hours=12)}))
    query = f"select visitor_id from marts.training_rows where impressed_at < '{WRITTEN}' group by 1 limit 10"
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        visitors = [row[0] for row in connection.execute(query).fetchall()]
    stream = EventStream(settings.log / "stream", "service-1")
    last = WRITTEN + TTL["visitor_features_28d"]
    for moment in (last, last + timedelta(hours=1)):
        scorer = Scorer(settings, clock=lambda moment=moment: moment)
        for visitor in visitors:
            ask(scorer, stream, visitor)
    stream.close()
    load_pending(settings)
    found = check_skew(settings)
    assert (found.differences, found.left_out) == ([], {})
    assert found.values == 40 * FEATURES
    matrix = np.array([served_features(text)[0] for _, _, text in logged(settings)])
    shown = matrix[:, contract.RANKER_FEATURES.index("banner_impression_count_28d")]
    assert (shown[:20] > 0).any()
    assert (shown[20:] == 0).all(), "the banners' counts had expired"
    seen = matrix[:, contract.RANKER_FEATURES.index("hours_since_seen")]
    assert not np.isnan(seen).any(), "what is known of a year had not"


def test_moments_are_not_claimed_while_features_are_written(served: Settings) -> None:
    from features.moments import OnlineMoments
    from features.services import locked

    moments = OnlineMoments(served)
    now = moments.now()
    assert now is not None
    assert served.as_of is not None
    assert datetime.fromisoformat(now[0]) <= served.as_of
    with locked(served, "materialize"):
        assert moments.now() is None
    assert moments.now() == now
