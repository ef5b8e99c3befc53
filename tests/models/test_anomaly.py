"""Likelihood and pace of sessions, in worlds where both are known, and what flagged sessions cost the training rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from math import log, sqrt
from pathlib import Path
from typing import Any, Self

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from numpy.typing import NDArray
from typer.testing import CliRunner

from features.erasure import erase_offline
from features.flags import exclusion, flagged_sessions, flagged_sessions_file, told
from ingestion.simulator import Simulator
from marquee.cli import app
from marquee.errors import MarqueeError
from marquee.person import Person
from marquee.settings import Settings
from training import anomaly
from training.anomaly import REASONS, AnomalySettings, Judgement, judge_others, judge_sessions, pace
from training.flagging import LEAST_SESSIONS, exclusion_report, flag_sessions, unflagged_visits, worst_sessions
from training.interactions import Floats, Interactions, Ints, Queries, from_events
from training.likelihood import CAP, EVEN, ask_next, sequence_model, surprise
from training.metrics import auc
from training.recommender import PLAIN, Fitting
from training.visits import OTHER, read_visits

pytestmark = pytest.mark.models
ITEMS = 60
NAMES = np.char.mod("i%03d", np.arange(ITEMS))
MOST_FALSE = 0.005
"""Share of clean sessions that may be flagged."""


def transitions(seed: int, items: int = ITEMS) -> NDArray[np.float64]:
    """[I, I] chances of the next item: each item has some that follow it often."""
    return np.random.default_rng(seed).dirichlet(np.full(items, 0.15), items)


def walk(chances: NDArray[np.float64], lengths: Ints, rng: np.random.Generator) -> list[Ints]:
    """A session each of the first-order Markov chain with these chances."""
    cumulative = np.cumsum(chances, axis=1)
    found = []
    for length in lengths:
        items = [int(rng.integers(len(chances)))]
        while len(items) < length:
            items.append(int(min(np.searchsorted(cumulative[items[-1]], rng.random()), len(chances) - 1)))
        found.append(np.array(items))
    return found


def sessions_of(paths: list[Ints], pauses: list[NDArray[np.float64]], names: NDArray[Any] = NAMES) -> Interactions:
    users = np.repeat(np.char.mod("s%06d", np.arange(len(paths))), [len(path) for path in paths])
    times = np.concatenate([1e9 + 1e4 * place + np.cumsum(pause) for place, pause in enumerate(pauses)])
    return from_events(users, names[np.concatenate(paths)], times, item_ids=names)


def people(count: int, seed: int, longest: int = 14) -> tuple[list[Ints], list[NDArray[np.float64]]]:
    """Sessions as people have them: a path of the chain, and pauses around half a minute."""
    rng = np.random.default_rng(seed)
    lengths = np.minimum(rng.geometric(0.2, count) + 1, longest)
    return walk(transitions(1), lengths, rng), [rng.lognormal(3.4, 0.8, length) for length in lengths]


def bots(kind: str, count: int, rng: np.random.Generator, pause: float = 3.4) -> Any:
    """Sessions of one kind of bot, as slow as people unless told otherwise."""
    paths = []
    for _ in range(count):
        length = int(rng.integers(20, 40))
        if kind == "crawler":
            paths.append((int(rng.integers(ITEMS)) + np.arange(length)) % ITEMS)
        elif kind == "clicker":
            paths.append(rng.integers(0, ITEMS, length))
        else:
            paths.append(np.full(length, int(rng.integers(ITEMS))))
    return paths, [rng.lognormal(pause, 0.8, len(path)) for path in paths]


def judged(humans: Any, others: Any, **settings: Any) -> tuple[Judgement, NDArray[np.bool_]]:
    """All sessions judged together, each human's own and all the others' one bot's; and which are the bot's."""
    together = sessions_of(humans[0] + others[0], humans[1] + others[1])
    is_bot = np.arange(together.user_count) >= len(humans[0])
    visitors = np.where(is_bot, "bot", together.user_ids)
    return judge_sessions(together, visitors, AnomalySettings(**settings)), is_bot


class Fixed:
    """A model that always says the same."""

    def __init__(self, chances: list[float]) -> None:
        self.item_ids = NAMES[: len(chances)]
        self.chances = np.array(chances)
        self.asked = 0

    def fit(self, train: Interactions, fitting: Fitting = PLAIN) -> Self:
        return self

    def log_probabilities(self, queries: Queries) -> Floats:
        self.asked += len(queries)
        with np.errstate(divide="ignore"):
            return np.tile(np.log(self.chances), (len(queries), 1)).astype(np.float32)


def test_surprise_is_what_it_is_by_hand() -> None:
    """Chances 1/2, 1/4, 1/4, 0 evened by 1 % are .4975, .25, .25, .0025; two events are judged, of items 1 and 3.

    −log p is .6981, 1.3863, 1.3863, 5.9915: mean 1.0555, variance .1792, so it is capped at 1.0555 + .4233 = 1.4787.
    """
    p = [0.99 * chance + 0.01 / 4 for chance in (0.5, 0.25, 0.25, 0.0)]
    bits = [-log(one) for one in p]
    assert (EVEN, CAP) == (0.01, 1.0)
    assert bits == pytest.approx([0.6981, 1.3863, 1.3863, 5.9915], abs=1e-4)
    session = sessions_of([np.array([0, 1, 3])], [np.ones(3)], NAMES[:4])
    found = surprise(Fixed([0.5, 0.25, 0.25, 0.0]), session, 1)
    mean = sum(x * y for x, y in zip(p, bits, strict=True))
    cap = mean + sqrt(sum(x * y * y for x, y in zip(p, bits, strict=True)) - mean**2)
    assert (mean, cap) == pytest.approx((1.0555, 1.4787), abs=1e-4)
    capped = [*bits[:3], cap]
    mean = sum(x * y for x, y in zip(p, capped, strict=True))
    variance = sum(x * y * y for x, y in zip(p, capped, strict=True)) - mean**2
    assert found.events.tolist() == [2]
    assert found.likelihood[0] == pytest.approx(-bits[1] - bits[3], rel=1e-6)
    assert found.found[0] == pytest.approx(bits[1] + cap, rel=1e-6)
    assert found.expected[0] == pytest.approx(2 * mean, rel=1e-6)
    assert found.variance[0] == pytest.approx(2 * variance, rel=1e-5)


def test_each_history_is_asked_once_and_answers_go_to_their_events() -> None:
    paths = [np.array([0, 1, 0, 1, 0, 1]), np.array([2]), np.array([1, 0])]
    session = sessions_of(paths, [np.ones(len(path)) for path in paths], NAMES[:4])
    model = Fixed([0.25] * 4)
    found = surprise(model, session, 1)
    assert model.asked == 2  # after 0, after 1
    assert found.events.tolist() == [5, 0, 1]
    assert found.likelihood == pytest.approx([5 * log(0.25), 0.0, log(0.25)], rel=1e-6)
    longer = Fixed([0.25] * 4)
    surprise(longer, session, 3)
    # 0; 0 1; 0 1 0; 1 0 1; then 0 1 0 again; and 1 alone.
    assert longer.asked == 5


def test_asking_hands_over_the_histories() -> None:
    asked = ask_next(np.array([[-1, 3], [1, 2], [-1, -1]]), NAMES, 7.0)
    assert asked.histories.lengths.tolist() == [1, 2, 0]
    assert asked.histories.items.tolist() == [3, 1, 2]
    assert asked.users.tolist() == [-1, -1, -1]
    assert asked.times.tolist() == [7.0, 7.0, 7.0]


def test_a_model_without_probabilities_is_refused() -> None:
    with pytest.raises(MarqueeError, match="popular gives scores and no probabilities; take a sequence model"):
        sequence_model("popular")


def test_likelihood_converges_to_the_true_one_and_standardised_surprise_is_normal() -> None:
    """A first-order chain: the model's mean −log p comes down to the chain's entropy rate as sessions grow more."""
    chances = transitions(3)
    rng = np.random.default_rng(0)
    paths = walk(chances, rng.integers(5, 30, 6_000), rng)
    world = sessions_of(paths, [np.ones(len(path)) for path in paths])
    test = world.take(np.arange(3_000, 6_000))
    truth = np.mean([-log(chances[a, b]) for path in paths[3_000:] for a, b in pairwise(path)])
    means = []
    for count in (30, 300, 3_000):
        model = sequence_model("markov", order=1).fit(world.take(np.arange(count)))
        found = surprise(model, test, 1)
        means.append(-found.likelihood.sum() / found.events.sum())
    assert means[0] > means[1] > means[2] > truth
    assert means[2] == pytest.approx(truth, abs=0.05)
    assert means[0] > truth + 0.3  # so the convergence is one
    standardised = (found.found - found.expected) / np.sqrt(found.variance)
    assert abs(standardised.mean()) < 0.3
    assert standardised.std() == pytest.approx(1.0, abs=0.15)
    # Whatever the length: a mean of −log p alone would scatter more the shorter the session is.
    short, long = found.events < 8, found.events > 22
    assert standardised[short].std() == pytest.approx(standardised[long].std(), abs=0.2)


def test_pace_is_the_middle_pause_and_one_moment_is_none() -> None:
    """Pauses 2, 8, 0: the middle of 2 and 8 in logarithms is 4. One pause of 5. Nothing where all is one moment."""
    times = np.array([0.0, 2, 10, 10, 0, 5, 3, 3, 9])
    users = np.array(["a"] * 4 + ["b"] * 2 + ["c"] * 2 + ["d"])
    world = from_events(users, NAMES[:9], times)
    found = pace(world)
    assert found[:2] == pytest.approx([log(4), log(5)])
    assert np.isnan(found[2:]).all()
    assert pace(world.take(np.zeros(0, np.int64))).tolist() == []


@pytest.mark.parametrize(
    ("kind", "reason"), [("crawler", "unlikely path"), ("clicker", "unlikely path"), ("hammerer", "unlikely path")]
)
def test_slow_bots_are_told_by_their_path(kind: str, reason: str) -> None:
    rng = np.random.default_rng(5)
    found, is_bot = judged(people(4_000, 2), bots(kind, 80, rng))
    told_apart = auc(is_bot[found.judged], found.score[found.judged])
    assert told_apart > 0.95, told_apart
    assert found.flagged[is_bot].mean() > 0.9
    assert found.flagged[~is_bot].mean() <= MOST_FALSE
    assert np.mean([REASONS[place] == reason for place in found.reason[is_bot & found.flagged]]) > 0.9


def test_a_hammerer_among_people_who_reload_is_too_repetitive() -> None:
    """Where people often take the same item again, a session of one item is likely, and still nobody's."""
    rng = np.random.default_rng(6)
    chances = 0.5 * np.eye(ITEMS) + 0.5 * transitions(1)
    paths = walk(chances, np.minimum(rng.geometric(0.2, 4_000) + 1, 14), rng)
    humans = paths, [rng.lognormal(3.4, 0.8, len(path)) for path in paths]
    one_item = [np.full(200, place) for place in range(40)]
    found, is_bot = judged(humans, (one_item, [rng.lognormal(3.4, 0.8, 200) for _ in one_item]))
    assert auc(is_bot, found.score) > 0.95
    assert {REASONS[place] for place in found.reason[is_bot]} == {"repetitive path"}
    assert found.flagged[~is_bot].mean() <= MOST_FALSE


def test_a_bot_that_walks_as_people_do_is_told_by_its_pace() -> None:
    humans = people(4_000, 2)
    paths, _ = people(80, 9)
    hasty = [path for path in paths if len(path) > 3]
    found, is_bot = judged(humans, (hasty, [np.full(len(path), 0.1) for path in hasty]))
    assert auc(is_bot, found.score) > 0.95
    assert {REASONS[place] for place in found.reason[is_bot]} == {"too fast"}
    same, _ = judged(humans, (hasty, [np.full(len(path), 30.0) for path in hasty]))
    assert same.flagged[is_bot].mean() <= 0.05


def test_nobody_learns_from_whom_they_judge() -> None:
    """A bot whose visits all go one way is flagged, however well known that way is; were they many visitors', not."""
    rng = np.random.default_rng(8)
    order = rng.permutation(ITEMS)
    paths, pauses = people(3_000, 3)
    crawls = [order[:20].copy() for _ in range(80)]
    together = sessions_of(paths + crawls, pauses + [rng.lognormal(3.4, 0.8, 20) for _ in crawls])
    is_bot = np.arange(together.user_count) >= len(paths)
    visitors = np.where(is_bot, "crawler", together.user_ids)
    found = judge_sessions(together, visitors, AnomalySettings())
    assert found.flagged[is_bot].mean() > 0.9
    known = judge_sessions(together, together.user_ids, AnomalySettings())
    assert known.flagged[is_bot].mean() < 0.1


@pytest.mark.parametrize("seed", range(3))
def test_of_people_alone_hardly_anybody_is_flagged(seed: int) -> None:
    found, _ = judged(people(3_000, 100 + seed), ([], []))
    assert found.judged.sum() > 1_500
    assert found.flagged[found.judged].mean() <= MOST_FALSE


def test_sessions_of_others_are_judged_by_what_is_usual() -> None:
    """A model fitted on people judges newcomers: people pass, a crawler does not."""
    paths, pauses = people(4_000, 2)
    world = sessions_of(paths, pauses)
    settings = AnomalySettings()
    usual = judge_sessions(world, world.user_ids, settings).usual
    assert usual is not None
    model = sequence_model("markov", order=1).fit(world)
    passed = judge_others(sessions_of(*people(1_000, 77)), model, usual, settings)
    assert passed.flagged.mean() <= MOST_FALSE
    crawlers = judge_others(sessions_of(*bots("crawler", 50, np.random.default_rng(1))), model, usual, settings)
    assert crawlers.score.mean() > 1.0


def test_at_most_a_share_is_flagged_and_the_worst_are() -> None:
    humans, clickers = people(600, 2), bots("clicker", 100, np.random.default_rng(5))
    everything, is_bot = judged(humans, clickers, most_flagged=0.5)
    few, _ = judged(humans, clickers, most_flagged=0.05)
    assert everything.flagged.sum() > few.flagged.sum() == int(0.05 * few.judged.sum())
    assert few.score[few.flagged].min() >= few.score[everything.flagged & ~few.flagged].max()
    assert is_bot[few.flagged].all()


@pytest.mark.parametrize(
    "wrong", [{"folds": 1}, {"rounds": 0}, {"history": 0}, {"least_events": 1}, {"most_flagged": 0.6}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(
        MarqueeError, match=r"2 folds, 1 round, a history of 1 event and sessions of 2 events|at most half"
    ):
        AnomalySettings(**wrong)  # type: ignore[arg-type]


@effort(max_examples=15, deadline=None)
@given(order=st.permutations(range(12)), least=st.integers(2, 6))
def test_the_order_of_sessions_does_not_matter(order: list[int], least: int) -> None:
    paths, pauses = people(12, 4)
    world = sessions_of(paths, pauses)
    settings = AnomalySettings(least_events=least)
    one = judge_sessions(world, world.user_ids, settings)
    moved = world.take(np.array(order))
    other = judge_sessions(moved, moved.user_ids, settings)
    np.testing.assert_allclose(other.scores, one.scores[order], rtol=1e-9, atol=1e-9)
    assert (one.scores >= 0).all()
    assert (one.judged == (world.lengths >= least)).all()
    assert not one.scores[~one.judged].any()


# --- the simulator's shop, whose bots are known ----------------------------------------------------------------------


def warehouse(home: Path, events: int = 40_000, seed: int = 7, clean: bool = False) -> tuple[Settings, set[str]]:
    """A warehouse with the simulator's events as dbt would leave them for this purpose, and who is a bot.

    The cleaning rules of dbt are not applied, so that all bots are there; ``clean`` leaves all bots out.
    """
    simulator = Simulator(seed=seed, events=events)
    world = simulator.world
    robots = {world.visitor_ids[number] for number in np.flatnonzero(world.is_bot)}
    settings = Settings(home=home, events=events, seed=seed)
    home.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(str(settings.warehouse)) as connection:
        connection.execute("create schema intermediate; create schema marts")
        tables = [batch.records for batch in simulator.read() if batch.table == "events"]
        for number, rows in enumerate(tables):
            connection.register("rows", rows)
            into = "insert into" if number else "create table"
            name = "intermediate.int_events_sessionised" + ("" if number else " as")
            connection.execute(f"{into} {name} select *, occurred_at::date as event_date from rows")
        if clean:
            names = list(robots)
            connection.execute(
                "delete from intermediate.int_events_sessionised where visitor_id in (select unnest(?))", [names]
            )
        connection.execute(
            "create table intermediate.int_visitor_day_flags (visitor_id varchar, activity_date date, reason varchar)"
        )
    return settings, robots


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, set[str]]:
    return warehouse(tmp_path_factory.mktemp("shop") / "home")


def test_the_simulators_bots_are_found(shop: tuple[Settings, set[str]]) -> None:
    settings, robots = shop
    visits = read_visits(settings)
    is_bot = np.isin(visits.visitors, list(robots))
    found = judge_sessions(visits.sessions, visits.visitors, AnomalySettings())
    rows = found.judged
    assert is_bot[rows].sum() > 30
    by_path = found.scores[:, REASONS.index("unlikely path")]
    assert auc(is_bot[rows], by_path[rows]) > 0.95
    assert auc(is_bot[rows], found.score[rows]) > 0.99
    assert found.flagged[is_bot].mean() > 0.95  # recall
    assert is_bot[found.flagged].mean() > 0.9  # precision
    assert found.flagged[rows & ~is_bot].mean() <= MOST_FALSE
    shuffled = np.random.default_rng(0).permutation(is_bot[rows])
    assert 0.3 < auc(shuffled, found.score[rows]) < 0.7


@pytest.mark.parametrize("seed", [1, 2])
def test_a_shop_without_bots_loses_hardly_a_session(seed: int, tmp_path: Path) -> None:
    settings, _ = warehouse(tmp_path, 20_000, seed, clean=True)
    flags = flag_sessions(settings)
    assert flags.judged > 500
    assert flags.flagged <= MOST_FALSE * flags.judged


def test_a_look_at_a_product_is_one_and_flagged_days_are_left_out(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    rows = [
        ("e1", "page_view", "2026-01-01 10:00:00", "v1", "s1", None, "/p/1"),
        ("e2", "product_view", "2026-01-01 10:00:01", "v1", "s1", "1", "/p/1"),  # the same look
        ("e3", "product_view", "2026-01-01 10:00:09", "v1", "s1", "1", "/p/1"),  # another one
        ("e4", "product_view", "2026-01-01 10:01:00", "v1", "s1", "2", None),
        ("e5", "cart", "2026-01-01 10:02:00", "v1", "s1", "2", None),
        ("e6", "page_view", "2026-01-01 10:00:00", "v2", "s1", None, "/"),  # another visitor's s1
        ("e7", "page_view", "2026-01-01 10:00:00", "v3", "s2", None, "/"),  # a bot that day
        ("e8", "page_view", "2026-01-02 10:00:00", "v3", "s3", None, "/"),
        ("e9", "page_view", "2026-01-02 10:00:00", "v4", "s4", None, None),
    ]
    with duckdb.connect(str(settings.warehouse)) as connection:
        connection.execute("create schema intermediate")
        connection.execute(
            "create table intermediate.int_events_sessionised (event_id varchar, kind varchar, occurred_at timestamp, "
            "visitor_id varchar, session_id varchar, product_id varchar, page varchar, "
            "event_date date generated always as (occurred_at::date))"
        )
        connection.executemany("insert into intermediate.int_events_sessionised values (?, ?, ?, ?, ?, ?, ?)", rows)
        connection.execute("create table intermediate.int_visitor_day_flags (visitor_id varchar, activity_date date)")
        connection.execute("insert into intermediate.int_visitor_day_flags values ('v3', '2026-01-01')")
    visits = read_visits(settings)
    paths = np.split(visits.sessions.item_ids[visits.sessions.items], visits.sessions.starts[1:-1])
    assert [path.tolist() for path in paths] == [["/p/1", "/p/1", "product/2"], ["/"], ["/"]]
    assert list(zip(visits.visitors.tolist(), visits.session_ids.tolist(), strict=True)) == [
        ("v1", "s1"),
        ("v2", "s1"),
        ("v3", "s3"),
    ]
    assert np.diff(visits.sessions.times[:3]).tolist() == [9.0, 51.0]
    few = read_visits(settings, most_pages=2).sessions
    # "/" and one other are told apart; of "/p/1" and "product/2" the rarer one is among the others.
    assert sorted(few.item_ids.tolist()) in ([OTHER, "/"], [OTHER, "/p/1"])
    assert len(few) == len(visits.sessions)
    assert "fewer than" in flag_sessions(settings).note
    with duckdb.connect(str(settings.warehouse)) as connection:
        connection.execute("delete from intermediate.int_events_sessionised where kind <> 'cart'")
    only = read_visits(settings).sessions
    assert only.item_ids[only.items].tolist() == ["product/2"]


def test_flags_are_written_counted_and_the_same_each_time(shop: tuple[Settings, set[str]]) -> None:
    settings, robots = shop
    flags = flag_sessions(settings)
    path = flagged_sessions_file(settings)
    first = path.read_bytes()
    assert flag_sessions(settings) == flags
    assert path.read_bytes() == first
    assert [one.name for one in settings.features.iterdir()] == [path.name]
    rows = pq.read_table(path).to_pylist()
    assert len(rows) == flags.flagged == sum((flags.by_reason or {}).values()) > 30
    assert np.mean([row["visitor_id"] in robots for row in rows]) > 0.9
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    assert worst_sessions(settings, 3) == rows[:3]
    assert {(row["visitor_id"], row["session_id"]) for row in rows} == {
        (row["visitor_id"], row["session_id"]) for row in flagged_sessions(settings).to_pylist()
    }
    report = exclusion_report(settings)
    assert (report["judged"], report["flagged"]) == (flags.judged, flags.flagged)
    assert told(report).startswith(f"{flags.flagged:,} of {flags.judged:,} sessions flagged (")
    everybody = read_visits(settings).sessions.user_count
    assert unflagged_visits(settings).user_count == everybody - flags.flagged


def test_turned_off_nothing_is_flagged(shop: tuple[Settings, set[str]], tmp_path: Path) -> None:
    (tmp_path / "warehouse.duckdb").symlink_to(shop[0].warehouse)
    settings = Settings(home=tmp_path)
    assert flag_sessions(settings).flagged > 0
    off = settings.model_copy(update={"flag_sessions": False})
    assert len(flagged_sessions(off)) == 0, "what an earlier judging left must not count"
    assert flag_sessions(off).note == "turned off by the setting flag_sessions"
    assert len(flagged_sessions(settings)) == 0
    assert told(exclusion_report(off)) == "no session flagged: turned off by the setting flag_sessions"


def test_without_a_model_or_sessions_nothing_is_flagged_and_training_goes_on(
    shop: tuple[Settings, set[str]], tmp_path: Path
) -> None:
    gone = flag_sessions(shop[0].model_copy(update={"home": tmp_path}))
    assert (gone.flagged, gone.judged) == (0, 0)
    assert "there is no warehouse" in gone.note
    with duckdb.connect(str(tmp_path / "warehouse.duckdb")):
        pass
    assert flag_sessions(Settings(home=tmp_path)).note == "the warehouse has no sessions: run transform_events"
    elsewhere = Settings(home=tmp_path, dbt_target="postgres")
    assert "are in postgres" in flag_sessions(elsewhere).note
    assert flag_sessions(shop[0], replace(AnomalySettings(), model="gone")).note == "there is no model gone"
    assert LEAST_SESSIONS >= 100


def test_a_forgotten_visitor_is_no_longer_among_the_flagged(shop: tuple[Settings, set[str]], tmp_path: Path) -> None:
    (tmp_path / "warehouse.duckdb").symlink_to(shop[0].warehouse)
    settings = Settings(home=tmp_path)
    flags = flag_sessions(settings)
    visitor = worst_sessions(settings, 1)[0]["visitor_id"]
    erased = erase_offline(settings, Person(visitor))
    left = pq.read_table(flagged_sessions_file(settings))
    assert 0 < erased == flags.flagged - len(left)
    assert visitor not in left.column("visitor_id").to_pylist()
    assert exclusion_report(settings)["flagged"] == flags.flagged  # the note stays


# --- what it costs the training rows ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(copied: Callable[[Path], Settings], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return copied(tmp_path_factory.mktemp("trained") / "home")


@pytest.mark.tools
def test_flagged_sessions_leave_the_training_set_with_counts(trained: Settings) -> None:
    """Nothing else leaves: what is left out and what is kept are all there was."""
    from features.training_set import build_training_set
    from training.pipeline import require_latest_bundle
    from training.registry import load_bundle
    from training.report import summary_lines

    flags = flag_sessions(trained)
    assert flags.flagged > 0
    kept = pq.read_table(build_training_set(trained)).to_pylist()
    odd = {(row["visitor_id"], row["session_id"]) for row in flagged_sessions(trained).to_pylist()}
    with duckdb.connect(str(trained.warehouse), read_only=True) as connection:
        query = "select impression_id, visitor_id, session_id from marts.training_rows"
        before = {row[0]: (row[1], row[2]) for row in connection.execute(query).fetchall()}
    assert {row["impression_id"] for row in kept} == {row for row, key in before.items() if key not in odd}
    counts = exclusion(trained)
    assert counts["rows_before"] == len(before) == counts["rows_kept"] + counts["rows_excluded"]
    assert counts["rows_kept"] == len(kept)
    assert 0 < counts["sessions_excluded"] <= flags.flagged
    assert counts["rows_excluded"] >= counts["sessions_excluded"]
    off = trained.model_copy(update={"flag_sessions": False})
    assert len(pq.read_table(build_training_set(off))) == len(before)
    report = load_bundle(trained, require_latest_bundle(trained)).report
    assert report["flagged"]["rows_excluded"] == counts["rows_excluded"]
    line = f"{counts['rows_excluded']:,} of {len(before):,} training rows left out"
    assert any(line in one for one in summary_lines(report))
    older = {name: value for name, value in report.items() if name != "flagged"}
    assert not any("sessions flagged" in one for one in summary_lines(older))


@pytest.mark.tools
def test_the_verb_tells_how_many_and_which(trained: Settings) -> None:
    answer = CliRunner().invoke(app, ["flag-sessions", "--home", str(trained.home), "--json", "--worst", "2"])
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)
    assert found["flagged"] > 0
    assert len(found["worst"]) == 2
    assert found["worst"][0]["reason"] in REASONS
    text = CliRunner().invoke(app, ["flag-sessions", "--home", str(trained.home)]).stdout
    assert f"{found['flagged']:,} of {found['judged']:,} sessions flagged" in text
    assert found["worst"][0]["visitor_id"] in text


def test_reasons_are_the_columns_of_scores() -> None:
    found, _ = judged(people(300, 1), ([], []))
    assert found.scores.shape[1] == len(REASONS) == len(anomaly.REASONS) == 3
