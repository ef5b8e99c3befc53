"""The read and delete side of events and visitors over HTTP, on a log of its own."""

from __future__ import annotations

import csv
import io
import json
import stat
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.testclient import TestClient

from features.online_reads import OnlineVisitor
from features.session import SessionEvent
from features.session_store import open_session_store
from ingestion.event_query import Wanted, read_page
from ingestion.event_stream import EventStream
from ingestion.load import load_pending
from marquee import erasures
from marquee.erasure_requests import PENDING, erasure_state, pending
from marquee.forget import forget_pending
from marquee.person import Person
from marquee.settings import Settings
from marquee.traces import find_visitor
from serving.http import event_query, visitors
from serving.http.access import Principal
from serving.http.middleware import problem_of
from serving.http.problems import MEDIA_TYPE, faults, invalid
from serving.http.visitors import affinities

pytestmark = pytest.mark.tools
NOON = datetime(2026, 2, 2, 12)
PERSON = "visitor-0000042"


def view(number: int, visitor_id: str = "v1", **more: Any) -> dict[str, Any]:
    moment = NOON + timedelta(seconds=number)
    return {"event_id": f"e{number:03d}", "kind": "page_view", "occurred_at": moment, "visitor_id": visitor_id} | more


def told(request: Request, error: Exception) -> Response:
    problem = invalid(faults(error.errors())) if isinstance(error, RequestValidationError) else problem_of(error)
    return Response(problem.body("r"), problem.status, problem.headers, MEDIA_TYPE)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(home=tmp_path / "home", as_of=NOON + timedelta(hours=1))
    stream = EventStream(settings.log / "stream", "service-1")
    odd = {"page": 'a "b", c\né', "referrer": "", "amount": 1.5, "position": 3, "quantity": 0.1}
    stream.append([view(number, f"v{number % 3}", **(odd if number % 5 == 0 else {})) for number in range(30)])
    stream.append([view(100, PERSON, product_id="p1", kind="product_view"), view(101, PERSON), view(3, "v0")])
    stream.close()
    return settings


@pytest.fixture
def api(settings: Settings) -> Iterator[TestClient]:
    """Both routers as the application has them, behind an administrator's key."""
    app = FastAPI(openapi_url=None)
    for kind in (Exception, RequestValidationError):
        app.add_exception_handler(kind, told)
    app.include_router(event_query.router)
    app.include_router(visitors.router)
    app.state.worker = SimpleNamespace(settings=settings)

    @app.middleware("http")
    async def admit(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        request.state.principal = Principal("ops", frozenset({"admin"}))
        return await answer(request)

    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def ids(answer: Any) -> list[str]:
    return [item["event_id"] for item in answer.json()["items"]]


def delete(api: TestClient, **body: Any) -> Any:
    return api.request("DELETE", "/v1/events", json=body)


def test_pages_lead_from_one_to_the_next(api: TestClient) -> None:
    seen, cursor = [], None
    while True:
        answer = api.get("/v1/events", params={"limit": 7} | ({"cursor": cursor} if cursor else {}))
        assert answer.status_code == 200, answer.text
        seen += ids(answer)
        if (cursor := answer.json()["next_cursor"]) is None:
            break
    assert seen == [f"e{number:03d}" for number in [*range(30), 100, 101]]


def test_filters_reach_the_query(api: TestClient) -> None:
    asked = {"visitor_id": PERSON, "kind": "product_view", "from": "2026-02-02T14:00:00+02:00"}
    assert ids(api.get("/v1/events", params=asked)) == ["e100"]
    assert ids(api.get("/v1/events", params={"from": "2026-02-02T12:00:02Z", "to": "2026-02-02T12:00:04"})) == [
        "e002",
        "e003",
    ]


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"kind": "look"}, "kind"),
        ({"limit": "0"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"cursor": "nonsense"}, "cursor"),
        ({"cursor": "WzEsMl0"}, "cursor"),
        ({"from": "yesterday"}, "from"),
        ({"from": "2026-02-03", "to": "2026-02-02"}, "to"),
        ({"format": "xml"}, "format"),
        ({"format": "csv", "cursor": "x"}, "cursor"),
        ({"visitor_id": ""}, "visitor_id"),
        ({"visitor": "v1"}, "visitor"),
    ],
)
def test_what_does_not_fit_is_named(api: TestClient, asked: dict[str, str], field: str) -> None:
    answer = api.get("/v1/events", params=asked)
    assert answer.status_code == 400
    assert [error["field"] for error in answer.json()["errors"]] == [field]


def comparable(row: dict[str, Any]) -> dict[str, Any]:
    """A row of any form, without what is not known, its time as a time."""
    kept = {name: value for name, value in row.items() if value is not None}
    moment = kept["occurred_at"]
    moment = moment if isinstance(moment, datetime) else datetime.fromisoformat(moment)
    return kept | {"occurred_at": moment.timestamp()}


def test_every_form_says_the_same(api: TestClient) -> None:
    items = api.get("/v1/events", params={"limit": 1000}).json()["items"]
    expected = [comparable(item) for item in items]
    assert len(expected) == 32
    lines = api.get("/v1/events", params={"format": "ndjson"})
    assert [comparable(json.loads(line)) for line in lines.text.splitlines()] == expected
    parquet = api.get("/v1/events", headers={"accept": "application/vnd.apache.parquet"})
    assert [comparable(row) for row in pq.read_table(io.BytesIO(parquet.content)).to_pylist()] == expected
    table = api.get("/v1/events", headers={"accept": "text/csv;q=0.9"})
    numbers = {"amount": float, "quantity": float, "position": int}
    rows = [
        {
            name: numbers.get(name, str)(value)
            for name, value in row.items()
            if value or (name == "referrer" and row["page"])
        }
        for row in csv.DictReader(io.StringIO(table.text, newline=""))
    ]
    assert [comparable(row) for row in rows] == expected
    for answer, kind in ((lines, "ndjson"), (parquet, "parquet"), (table, "csv")):
        assert answer.headers["content-disposition"].endswith(f'.{kind}"')
    assert api.get("/v1/events", headers={"accept": "image/png"}).status_code == 406


def test_an_export_of_nothing_is_a_whole_file(api: TestClient) -> None:
    asked = {"visitor_id": "nobody"}
    assert api.get("/v1/events", params=asked | {"format": "csv"}).text.startswith('"event_id","kind"')
    parquet = api.get("/v1/events", params=asked | {"format": "parquet"}).content
    assert pq.read_table(io.BytesIO(parquet)).num_rows == 0
    assert api.get("/v1/events", params=asked | {"format": "ndjson"}).content == b""


def test_exports_have_a_limit_of_their_own_that_is_given_back(api: TestClient) -> None:
    for _ in range(5):
        assert api.get("/v1/events", params={"format": "csv"}).status_code == 200
    for _ in range(event_query.MOST_EXPORTS):
        assert event_query._EXPORTING.acquire(blocking=False)
    try:
        refused = api.get("/v1/events", params={"format": "csv"})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
    finally:
        event_query._EXPORTING.release(event_query.MOST_EXPORTS)


def test_deleted_events_are_gone_at_once_and_from_the_next_load_on(api: TestClient, settings: Settings) -> None:
    load_pending(settings)
    answer = delete(api, event_ids=["e003", "e004", "e004", "e200"], reason="sent by a test")
    assert answer.status_code == 202, answer.text
    assert answer.json()["event_ids"] == 3
    assert api.delete("/v1/events/e005").status_code == 202
    left = [f"e{number:03d}" for number in [0, 1, 2, *range(6, 30), 100, 101]]
    assert ids(api.get("/v1/events", params={"limit": 1000})) == left
    assert stored(settings) == sorted([*left, "e003", "e004", "e005"])
    later = EventStream(settings.log / "stream", "service-2")
    later.append([view(200), view(201), view(3)])
    later.close()
    load_pending(settings)
    assert stored(settings) == sorted([*left, "e201"])
    load_pending(settings)
    assert balanced(settings) == (36, 30, 6)


def stored(settings: Settings) -> list[str]:
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        return [row[0] for row in connection.execute("select event_id from raw.events order by 1").fetchall()]


def balanced(settings: Settings) -> tuple[int, int, int]:
    """Rows read, loaded and duplicate; as many are loaded as the table has."""
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        row = connection.execute(
            "select sum(read)::int, sum(loaded)::int, sum(duplicate)::int, sum(quarantined)::int from raw.batch_tables"
        ).fetchone()
        (count,) = connection.execute("select count(*) from raw.events").fetchone()  # type: ignore[misc]
    assert row is not None
    read, loaded, duplicate, quarantined = row
    assert read == loaded + duplicate + quarantined
    assert loaded == count
    return read, loaded, duplicate


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"event_ids": []}, "event_ids"),
        ({"event_ids": ["e"] * 1001}, "event_ids"),
        ({"event_ids": [""]}, "event_ids[0]"),
        ({"event_ids": ["e"], "why": "x"}, "why"),
        (None, "event_ids"),
    ],
)
def test_a_deletion_that_does_not_fit_deletes_nothing(
    api: TestClient, settings: Settings, body: Any, field: str
) -> None:
    answer = api.request("DELETE", "/v1/events", json=body)
    assert answer.status_code == 400
    assert field in [error["field"] for error in answer.json()["errors"]]
    assert not (settings.log / "deleted.jsonl").exists()


def test_an_erased_visitor_is_gone_at_once_and_wholly_with_the_next_run(api: TestClient, settings: Settings) -> None:
    load_pending(settings)
    store = open_session_store(settings)
    store.update({PERSON: [SessionEvent(int(NOON.timestamp() * 1e6), "e100", "product_view", "p1")]})
    store.close()
    answer = api.delete(f"/v1/visitors/{PERSON}")
    assert answer.status_code == 202, answer.text
    begun = answer.json()
    assert begun["state"] == "requested"
    assert ids(api.get("/v1/events", params={"visitor_id": PERSON})) == []
    assert "sessions.sqlite" not in {Path(trace.store).name for trace in find_visitor(settings, Person(PERSON))}
    assert find_visitor(settings, Person(PERSON)) != []
    assert PERSON not in json.dumps(erasures.lines(settings))
    again = api.request("DELETE", "/v1/events", params={"visitor_id": PERSON})
    assert again.json()["erasure_id"] == begun["erasure_id"]
    (waiting,) = pending(settings)
    assert (waiting.erasure, waiting.visitor_id) == (begun["erasure_id"], PERSON)
    file = settings.home / PENDING / f"{waiting.erasure}.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (done,) = forget_pending(settings)
    assert done.left == []
    assert not file.exists()
    state = api.get(f"/v1/erasures/{begun['erasure_id']}").json()
    assert (state["state"], state["counts"]["event log"]["log"]) == ("finished", 2)
    assert find_visitor(settings, Person(PERSON)) == []
    assert forget_pending(settings) == []
    assert api.get("/v1/erasures/none").status_code == 404


def test_an_erasure_of_an_unknown_visitor_ends_too(api: TestClient, settings: Settings) -> None:
    begun = api.delete("/v1/visitors/nobody-knows-this-one").json()
    forget_pending(settings)
    state = erasure_state(settings, begun["erasure_id"])
    assert state is not None
    assert state.state == "finished"
    assert list((settings.home / PENDING).glob("*.json")) == []


def test_a_request_killed_before_its_line_is_made_up_for(settings: Settings) -> None:
    folder = settings.home / PENDING
    folder.mkdir()
    (folder / "killed.json").write_text(json.dumps({"visitor_id": PERSON, "reason": "asked"}), encoding="utf-8")
    (done,) = forget_pending(settings)
    assert done.left == []
    assert list(folder.glob("*.json")) == []
    assert read_page(settings, Wanted({"visitor_id": PERSON}), 10).events == []


class Known:
    """Sessions and features of one visitor, as a worker tells of them."""

    def session(self, visitor_id: str) -> tuple[None, str]:
        return None, "no_session"

    def known(self, visitor_id: str) -> tuple[OnlineVisitor, str | None]:
        if visitor_id != PERSON:
            return OnlineVisitor(), "cold_visitor"
        return OnlineVisitor(
            {"view_count_28d": 4, "category_affinity": '{"shoes": 0.25, "boots": 0.75}'}, "loyal"
        ), None


def test_a_card_shows_what_is_known_and_the_last_events(api: TestClient, settings: Settings) -> None:
    api.app.state.worker = SimpleNamespace(settings=settings, sessions=Known(), scorer=Known())  # type: ignore[attr-defined]
    card = api.get(f"/v1/visitors/{PERSON}").json()
    assert (card["segment"], card["session_fallback"], card["fallback"]) == ("loyal", "no_session", None)
    assert list(card["affinities"].items()) == [("boots", 0.75), ("shoes", 0.25)]
    assert [event["event_id"] for event in card["recent"]] == ["e101", "e100"]
    stranger = api.get("/v1/visitors/v0", params={"recent": 3}).json()
    assert (stranger["features"], stranger["fallback"], stranger["affinities"]) == (None, "cold_visitor", {})
    assert [event["event_id"] for event in stranger["recent"]] == ["e027", "e024", "e021"]
    assert api.get("/v1/visitors/v0", params={"recent": 0}).json()["recent"] == []
    for wrong in ("-1", "101", "many"):
        answer = api.get("/v1/visitors/v0", params={"recent": wrong})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "recent")


def test_affinities_are_shares_the_largest_first() -> None:
    assert list(affinities({"category_affinity": '{"a": 0.2, "b": 0.5, "c": 0.3}'}).items()) == [
        ("b", 0.5),
        ("c", 0.3),
        ("a", 0.2),
    ]
    assert affinities(None) == affinities({"category_affinity": None}) == {}
