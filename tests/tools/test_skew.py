"""Skew on a real installation: what the scorer logged is what the offline path replays, and a lie is noticed."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from features.export import offline_files
from ingestion.event_stream import EventStream
from ingestion.load import load_pending
from marquee import contract
from marquee.errors import NothingToDo
from marquee.settings import Settings
from serving.schemas import RecommendRequest
from serving.scoring import Scorer
from training.pipeline import require_latest_bundle
from training.promotion import promote
from training.skew import check_skew, served_features

pytestmark = pytest.mark.tools
FEATURES = len(contract.RANKER_FEATURES)


@pytest.fixture(scope="module")
def served(copied: Callable[[Path], Settings], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """An installation that has answered 40 visitors and one whom nobody knows, two banners each, and loaded them."""
    settings = copied(tmp_path_factory.mktemp("skew") / "home")
    promote(settings, require_latest_bundle(settings), "ada", "the smallest log")
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        query = "select visitor_id from marts.training_rows group by 1 order by count(*) desc, 1 limit 40"
        visitors = [row[0] for row in connection.execute(query).fetchall()]
    stream = EventStream(settings.log / "stream", "service-1")
    scorer = Scorer(settings, stream)
    for visitor in (*visitors, "nobody"):
        scorer.recommend(RecommendRequest(visitor_id=visitor, placement="home_hero", n=2))
    stream.close()
    load_pending(settings)
    return settings


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
    matrix = np.array([served_features(text)[0] for _, _, text in logged(served)])
    # It would be no proof if nobody were known or all were alike.
    assert np.isnan(matrix).any()
    assert np.nanstd(matrix[:, contract.RANKER_FEATURES.index("affinity_match")]) > 0.01


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
    (difference,) = found.differences
    assert (difference.feature, difference.count) == ("cart_count_28d", len(impressions))
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


def test_events_that_arrive_late_take_their_visitor_out_of_the_comparison(served: Settings) -> None:
    _, visitor, _ = logged(served)[0]
    assert served.as_of is not None
    with duckdb.connect(str(served.warehouse)) as connection:
        connection.execute(
            "insert into raw.batches select 'late-1', max(batch_number) + 1, 'late', 'loaded', null, "
            "timezone('UTC', now()) + interval 1 hour from raw.batches"
        )
        connection.execute(
            "insert into raw.events (event_id, kind, occurred_at, visitor_id, batch_id) values "
            "('late-1', 'page_view', ?, ?, 'late-1')",
            [served.as_of - timedelta(days=2), visitor],
        )
    try:
        found = check_skew(served)
    finally:
        with duckdb.connect(str(served.warehouse)) as connection:
            connection.execute("delete from raw.events where batch_id = 'late-1'")
            connection.execute("delete from raw.batches where batch_id = 'late-1'")
    mine = sum(row[1] == visitor for row in logged(served))
    assert list(found.left_out.values()) == [8 * mine]
    assert found.values == 82 * FEATURES - 8 * mine


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
