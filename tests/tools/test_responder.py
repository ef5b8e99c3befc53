"""Many requests at once in one process: durable answers, something valid in time, caps that hold, and explanations."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from features.session_store import open_session_store
from ingestion.catalogue_store import Change, open_catalogue_store
from ingestion.event_stream import EventStream, parse_event
from marquee.catalogue import Campaign, Cap
from marquee.errors import MarqueeError
from marquee.settings import Settings
from serving import lineup, responder
from serving.counters import SqliteCounters, open_counters
from serving.decision_log import DecisionLog
from serving.explanation import explain
from serving.responder import NotDurable, Responder
from serving.schemas import RecommendRequest, RecommendResponse, RecommendResponses
from serving.scoring import Answer, Scorer
from serving.visitor_sessions import VisitorSessions
from training.pipeline import require_latest_bundle
from training.promotion import promote

pytestmark = pytest.mark.tools
NOON = datetime(2026, 2, 2, 12)
PLACE = "home_hero"


class Process:
    """What a service process holds, without HTTP."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stream = EventStream(settings.log / "stream", "test")
        self.counters = open_counters(settings)
        sessions = VisitorSessions(settings, open_session_store(settings))
        self.scorer = Scorer(settings, sessions, self.counters)
        self.decisions = DecisionLog(settings, "test")
        self.responder = Responder(settings, self.scorer, self.stream, self.decisions)

    def ask(self, *requests: RecommendRequest) -> list[Any]:
        """All at once."""

        async def together() -> list[Any]:
            return await asyncio.gather(*(self.responder.answer(one) for one in requests))

        return asyncio.run(together())

    def ask_for_errors(self, *requests: RecommendRequest) -> list[Any]:
        """All at once, and what each ended with."""

        async def together() -> list[Any]:
            asked = (self.responder.answer(one) for one in requests)
            return await asyncio.gather(*asked, return_exceptions=True)

        return asyncio.run(together())

    def logged(self) -> list[dict[str, Any]]:
        return [parse_event(line) for line in self.stream.file.read_bytes().splitlines()]

    def close(self) -> None:
        self.responder.close()
        self.decisions.stop()
        self.stream.close()
        self.counters.close()


@pytest.fixture(scope="module")
def promoted(copied: Callable[[Path], Settings], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = copied(tmp_path_factory.mktemp("promoted"))
    promote(settings, require_latest_bundle(settings), "ada")
    return settings


@pytest.fixture
def open_process(promoted: Settings, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    opened: list[Process] = []
    shutil.copytree(promoted.home, tmp_path / "home")
    home = promoted.model_copy(update={"home": tmp_path / "home"})

    def start(**changes: Any) -> Process:
        opened.append(Process(home.model_copy(update={"slate_ms": 5_000.0} | changes)))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def request(visitor_id: str | None = "v000123", n: int = 3, place: str = PLACE, **context: Any) -> RecommendRequest:
    return RecommendRequest.model_validate({"visitor_id": visitor_id, "placement": place, "n": n, "context": context})


def manage(process: Process, **fields: Any) -> None:
    """Every campaign, with these fields."""
    campaigns = process.scorer.lineup.champion.board.live.campaigns
    changes = [Change("campaigns", name, one.model_copy(update=fields)) for name, one in campaigns.items()]
    open_catalogue_store(process.settings).change(changes, "ada", "r")
    time.sleep(lineup.FOLLOW_SECONDS)
    process.scorer.lineup.follow()


def test_every_answer_is_in_the_log_before_it_is_given(open_process: Callable[..., Process]) -> None:
    process = open_process()
    answers: list[RecommendResponse] = process.ask(*(request(f"v{number:06}") for number in range(40)))
    shown = {banner.impression_id: banner for answer in answers for banner in answer.slate}
    assert len(shown) == 120
    rows = {row["impression_id"]: row for row in process.logged()}
    assert set(rows) == set(shown)
    for impression_id, banner in shown.items():
        assert (rows[impression_id]["banner_id"], rows[impression_id]["position"]) == (
            banner.banner_id,
            banner.position,
        )


class WatchedStream(EventStream):
    """Counts what is appended, and writes nothing while it is held."""

    def __init__(self, *where: Any) -> None:
        self.appended, self.free = 0, threading.Event()
        self.free.set()
        super().__init__(*where)

    def append_soon(self, lines: list[bytes]) -> Future[None]:
        self.appended += 1
        return super().append_soon(lines)

    def _store(self, appends: Sequence[bytes]) -> None:
        assert self.free.wait(30)
        super()._store(appends)


def test_slates_that_wait_together_share_a_commit_and_its_fate(
    open_process: Callable[..., Process], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(responder, "BATCH_SECONDS", 10.0)
    process = open_process()
    stream = WatchedStream(tmp_path / "watched", "test")
    process.responder._lines = stream
    asked = [request(f"v{number:06}") for number in range(20)]
    assert len(process.ask(*asked)) == 20
    assert stream.appended <= 3, "the first came alone, and the rest while it was scored"
    before = stream.file.read_bytes()
    monkeypatch.setattr(responder, "COMMIT_SECONDS", 0.5)
    stream.free.clear()
    writing = stream.append_soon([b'{"event_id": "in hand"}\n'])
    while not writing.running():
        time.sleep(0.01)
    told = process.ask_for_errors(*asked)
    stream.free.set()
    stream.close()
    assert all(isinstance(one, NotDurable) for one in told)
    assert stream.file.read_bytes() == before + b'{"event_id": "in hand"}\n', "what was given up is not written later"


def test_several_placements_of_a_page_share_no_banner(open_process: Callable[..., Process]) -> None:
    process = open_process()
    body = {"visitor_id": "v000123", "placements": [{"placement": p, "n": 4} for p in (PLACE, "category_top", PLACE)]}
    (answer,) = process.ask(RecommendRequest.model_validate(body))
    assert isinstance(answer, RecommendResponses)
    assert [one.placement for one in answer.answers] == [PLACE, "category_top", PLACE]
    shown = [banner.banner_id for one in answer.answers for banner in one.slate]
    assert len(shown) == len(set(shown)) == 12
    impressions = [banner.impression_id for one in answer.answers for banner in one.slate]
    assert sorted(impressions) == sorted(row["impression_id"] for row in process.logged())


def test_who_comes_when_all_are_busy_gets_a_valid_slate_at_once(open_process: Callable[..., Process]) -> None:
    process = open_process(slates_waiting=2)
    answers = process.ask(*(request(f"v{number:06}") for number in range(30)))
    fallbacks = Counter(answer.fallback for answer in answers)
    assert fallbacks["overloaded"] >= 20
    assert fallbacks["overloaded"] < 30
    for answer in answers:
        assert len(answer.slate) == 3
        if answer.fallback == "overloaded":
            assert answer.policy == "popular"
            assert {banner.propensity for banner in answer.slate} == {1.0}
    assert len(process.logged()) == 90, "a quick answer is logged like any other"


def test_quick_slates_of_a_page_share_no_banner(open_process: Callable[..., Process]) -> None:
    process = open_process(slates_waiting=0)
    body = {"visitor_id": "v000123", "placements": [{"placement": PLACE, "n": 4} for _ in range(2)]}
    (answer,) = process.ask(RecommendRequest.model_validate(body))
    shown = [banner.banner_id for one in answer.answers for banner in one.slate]
    assert len(shown) == len(set(shown)) == 8


def test_counts_found_as_they_were_change_no_board(open_process: Callable[..., Process]) -> None:
    """A board is written down whole for explanations, so there is a new one only when something is new."""
    process = open_process()
    standing = process.scorer.lineup.champion
    board, read_at = standing.board, standing.board.counted_at
    process.scorer._clock = lambda: NOON + timedelta(minutes=2)
    standing._count_at = process.scorer.lineup._followed_at = -float("inf")
    process.scorer.lineup.follow()
    assert standing.board is board
    assert board.counted_at != read_at


def test_a_slate_comes_in_time_whatever_the_store_does(
    open_process: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = open_process(slate_ms=100.0)
    reads = process.scorer.lineup.champion.reads
    known = type(reads).read

    def slow(self: Any, visitor_id: str, now: datetime) -> Any:
        time.sleep(0.4)
        return known(self, visitor_id, now)

    monkeypatch.setattr(type(reads), "read", slow)
    since = time.monotonic()
    answers = process.ask(*(request(f"v{number:06}") for number in range(6)))
    assert time.monotonic() - since < 0.35
    assert {answer.fallback for answer in answers} == {"too_late"}
    assert all(len(answer.slate) == 3 for answer in answers)
    monkeypatch.setattr(type(reads), "read", known)
    time.sleep(1.0)
    (answer,) = process.ask(request())
    assert answer.fallback is None


class FullDisk:
    def append_soon(self, lines: list[bytes]) -> Future[None]:
        future: Future[None] = Future()
        future.set_exception(MarqueeError("log/stream: no space left on device"))
        return future


class SilentDisk:
    def __init__(self) -> None:
        self.waiting: list[Future[None]] = []

    def append_soon(self, lines: list[bytes]) -> Future[None]:
        self.waiting.append(Future())
        return self.waiting[-1]


@pytest.mark.parametrize(("disk", "told"), [(FullDisk(), "no space left"), (SilentDisk(), "took no impressions for")])
def test_nothing_is_shown_that_cannot_be_logged(
    open_process: Callable[..., Process], monkeypatch: pytest.MonkeyPatch, disk: Any, told: str
) -> None:
    monkeypatch.setattr(responder, "COMMIT_SECONDS", 0.2)
    process = open_process()
    process.responder = Responder(process.settings, process.scorer, disk)
    with pytest.raises(NotDurable, match=told):
        process.ask(request())
    if isinstance(disk, SilentDisk):
        assert [one.cancelled() for one in disk.waiting] == [True], "nobody may write it later"
    (answer,) = process.ask(request(place="nowhere"))
    assert answer.slate == [], "nothing to show needs no log"


def test_a_cap_holds_among_requests_at_once(open_process: Callable[..., Process]) -> None:
    process = open_process()
    manage(process, caps=(Cap(most=2),))
    answers = process.ask(*(request("v000123", 5) for _ in range(30)))
    shown = Counter(banner.campaign_id for answer in answers for banner in answer.slate)
    assert len(shown) > 3
    assert max(shown.values()) <= 2
    assert answers[-1].fallback == "nothing_eligible" or sum(shown.values()) < 60
    assert Counter(row["banner_id"] for row in process.logged()).total() == sum(shown.values())
    (other,) = process.ask(request("v000124", 5))
    assert len(other.slate) == 5, "another visitor's count is another's"


def test_a_budget_is_never_overdrawn(open_process: Callable[..., Process]) -> None:
    process = open_process()
    manage(process, budget=7)
    answers = [one for _ in range(6) for one in process.ask(*(request(f"v{k:06}", 5) for k in range(10)))]
    shown = Counter(banner.campaign_id for answer in answers for banner in answer.slate)
    assert set(shown.values()) == {7}
    assert answers[-1].fallback == "nothing_eligible"


def test_without_a_cookie_a_cap_counts_the_session_and_needs_one(open_process: Callable[..., Process]) -> None:
    process = open_process()
    manage(process, caps=(Cap(most=1),))
    campaigns = len(process.scorer.lineup.champion.board.live.campaigns)
    (nobody,) = process.ask(request(None))
    assert nobody.slate == []
    shown: list[str] = []
    for _ in range(campaigns + 2):
        (answer,) = process.ask(request(None, 1, session_id="s1"))
        shown += [banner.campaign_id for banner in answer.slate]
    assert sorted(shown) == sorted(set(shown))
    assert len(shown) >= 3


def test_without_counters_nothing_capped_is_shown_and_the_answer_says_so(open_process: Callable[..., Process]) -> None:
    process = open_process()
    manage(process, caps=(Cap(most=9),))
    process.counters.close()
    assert isinstance(process.counters, SqliteCounters)
    process.counters.file.write_bytes(b"no database" * 1_000)
    (answer,) = process.ask(request())
    assert (answer.slate, answer.fallback) == ([], "counters_unavailable")


def test_a_change_of_the_catalogue_is_live_within_a_second(open_process: Callable[..., Process]) -> None:
    process = open_process()
    process.scorer.lineup.start()
    (before,) = process.ask(request(n=1))
    live = process.scorer.lineup.champion.board.live
    campaign = live.campaigns[before.slate[0].campaign_id]
    store = open_catalogue_store(process.settings)
    store.change(
        [Change("campaigns", campaign.campaign_id, campaign.model_copy(update={"status": "paused"}))], "a", "r"
    )
    time.sleep(1.0)
    for _ in range(20):
        (answer,) = process.ask(request(n=3))
        assert campaign.campaign_id not in {banner.campaign_id for banner in answer.slate}
    process.scorer.lineup.stop()


def test_what_a_stranger_looks_at_decides(open_process: Callable[..., Process]) -> None:
    process = open_process()
    (nothing,) = process.ask(request(None, 3))
    categories = process.scorer.bundle.encoding.categories
    assert nothing.fallback == "cold_visitor"
    known = process.scorer.lineup.champion.board.live.products.known.categories
    product, category = next((p, c) for p, c in sorted(known.items()) if c in categories)
    process.ask(request(None, 3, product_ids=[product]))
    rows = process.logged()
    given = [json.loads(row["features"]) for row in rows[3:]]
    assert all(told["as_of"]["is_session_given"] for told in given)
    assert {told["session_view_count"] for told in given} == {1.0}
    shares = process.scorer.bundle.banner_shares[:, categories.index(category)]
    ids = process.scorer.bundle.catalogue.banner_ids
    for row, told in zip(rows[3:], given, strict=True):
        assert told["last_category_share"] == pytest.approx(float(shares[ids.index(row["banner_id"])]))


# --- explanations ---------------------------------------------------------------------------------------------------


def test_a_logged_answer_is_made_again_and_told(open_process: Callable[..., Process]) -> None:
    process = open_process()
    manage(process, caps=(Cap(most=2),))
    answers = [process.ask(request("v000123", 4))[0] for _ in range(3)]
    process.decisions.stop()
    for answer in answers:
        told = explain(process.settings, answer.request_id)
        assert told.is_same, told.difference
        assert (told.visitor_id, told.placement_id) == ("v000123", PLACE)
        slate = [one for one in told.banners if one.position is not None]
        assert [one.banner_id for one in slate] == [banner.banner_id for banner in answer.slate]
        assert [one.why for one in slate] == ["; ".join(banner.reasons) for banner in answer.slate]
        assert all(one.shares and one.evidence for one in slate)
        assert len(told.banners) == len(process.scorer.bundle.catalogue)
        assert all(one.why for one in told.banners)
    assert any(
        "as often as a cap allows" in one.why for one in explain(process.settings, answers[-1].request_id).banners
    )


def test_a_log_that_was_touched_is_told_apart(open_process: Callable[..., Process]) -> None:
    process = open_process()
    (answer,) = process.ask(request())
    process.decisions.stop()
    (file,) = process.settings.decisions.glob("*.jsonl")
    line = json.loads(file.read_text())
    line["slate"][1][2] *= 0.5
    file.write_text(json.dumps(line) + "\n")
    told = explain(process.settings, answer.request_id)
    assert not told.is_same
    assert f"{answer.slate[1].banner_id} at position 1: logged" in told.difference
    with pytest.raises(MarqueeError, match="nothing is kept of request 'unknown'"):
        explain(process.settings, "unknown")
    for state in (process.settings.decisions / "states").iterdir():
        state.unlink()
    with pytest.raises(MarqueeError, match="cannot be made again"):
        explain(process.settings, answer.request_id)


def test_decisions_of_an_answer_not_logged_are_not_kept(open_process: Callable[..., Process]) -> None:
    process = open_process(slates_waiting=0)
    (answer,) = process.ask(request())
    assert isinstance(answer, RecommendResponse)
    assert answer.fallback == "overloaded"
    process.decisions.stop()
    assert list(process.settings.decisions.glob("*.jsonl")) == []
    assert Answer.__dataclass_fields__["inputs"].default is None


def test_a_campaign_that_ends_is_never_shown_afterwards(open_process: Callable[..., Process]) -> None:
    """To the microsecond, whatever thread asks: the clock is the request's own."""
    process = open_process()
    clock = [NOON]
    process.scorer._clock = lambda: clock[0]
    live = process.scorer.lineup.champion.board.live
    ends = NOON + timedelta(minutes=1)
    own = [
        Change("campaigns", name, Campaign(campaign_id=name, starts_at=NOON - timedelta(days=9), ends_at=ends))
        for name in live.campaigns
    ]
    open_catalogue_store(process.settings).change(own, "ada", "r")
    time.sleep(lineup.FOLLOW_SECONDS)
    process.scorer.lineup.follow()
    for moment, count in ((ends - timedelta(microseconds=1), 3), (ends, 0), (ends + timedelta(days=1), 0)):
        clock[0] = moment
        assert {len(answer.slate) for answer in process.ask(*(request(f"v{k}") for k in range(8)))} == {count}
