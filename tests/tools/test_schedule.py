"""`GET /v1/notifications/schedule`, feedback as events, and what becomes of both when a visitor is forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import httpx
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.testclient import TestClient

from ingestion.event_stream import EventStream
from ingestion.load import admit_batch, load_pending
from ingestion.transform import run_dbt
from marquee.forget import forget
from marquee.notifications import PlannedNotification
from marquee.outbox import Outbox, open_outbox
from marquee.person import Person
from marquee.settings import Settings
from marquee.traces import find_visitor
from serving.client import Client
from serving.http import notifications
from serving.http.access import needed_scope
from serving.http.events import read_report
from serving.http.middleware import problem_of
from serving.http.problems import MEDIA_TYPE, faults, invalid
from serving.notifications.dispatcher import Dispatcher
from serving.notifications.senders import open_senders
from serving.worker import Worker

pytestmark = pytest.mark.tools
NOON = datetime(2026, 2, 3, 12)
DAY = timedelta(days=1)
PERSON = "visitor-0000042"


def planned(number: int, visitor: str = "v1", due: datetime = NOON) -> PlannedNotification:
    return PlannedNotification(
        notification_id=f"n{number}",
        visitor_id=visitor,
        segment="loyal",
        notification_type="price_drop",
        channel="push",
        content_id=f"b{number}",
        due_at=due,
        hour_bucket=4,
        propensity=0.25,
        policy="rds-4",
        planned_at=due - timedelta(hours=10),
        expires_at=due + timedelta(hours=6),
    )


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(home=tmp_path / "home")
    settings.log.mkdir(parents=True)
    return settings


@pytest.fixture
def outbox(settings: Settings) -> Iterator[Outbox]:
    with closing(open_outbox(settings)) as outbox:
        yield outbox


@pytest.fixture
def api(settings: Settings, outbox: Outbox) -> Iterator[TestClient]:
    app = FastAPI(openapi_url=None)

    def told(request: Request, error: Exception) -> Response:
        problem = invalid(faults(error.errors())) if isinstance(error, RequestValidationError) else problem_of(error)
        return Response(problem.body("r"), problem.status, problem.headers, MEDIA_TYPE)

    for kind in (Exception, RequestValidationError):
        app.add_exception_handler(kind, told)
    app.include_router(notifications.router)
    worker = SimpleNamespace(settings=settings, outbox=outbox)
    worker.notifications = lambda *asked: Worker.notifications(worker, *asked)  # type: ignore[arg-type]
    app.state.worker = worker
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def ask(api: TestClient, **asked: Any) -> Any:
    return api.get("/v1/notifications/schedule", params=asked)


def test_nothing_was_planned_and_no_file_is_made(api: TestClient, settings: Settings) -> None:
    assert ask(api, visitor_id="v1").json() == {"visitor_id": "v1", "items": [], "next_cursor": None}
    assert not settings.notifications.exists()


def test_a_visitor_sees_their_own_planned_and_sent(api: TestClient, outbox: Outbox) -> None:
    outbox.enqueue([planned(1), planned(2, due=NOON + DAY), planned(3, "v2")])
    outbox.claim("a", NOON, NOON + DAY, 9)
    outbox.note_sent("n1", "a", NOON + timedelta(seconds=1))
    later, first = ask(api, visitor_id="v1").json()["items"]
    assert first == {
        "notification_id": "n1",
        "notification_type": "price_drop",
        "channel": "push",
        "segment": "loyal",
        "content_id": "b1",
        "due_at": "2026-02-03T12:00:00Z",
        "expires_at": "2026-02-03T18:00:00Z",
        "planned_at": "2026-02-03T02:00:00Z",
        "policy": "rds-4",
        "propensity": 0.25,
        "hour_bucket": 4,
        "state": "sent",
        "tries": 0,
        "next_at": None,
        "sent_at": "2026-02-03T12:00:01Z",
        "reason": None,
    }
    assert (later["notification_id"], later["state"], later["next_at"]) == ("n2", "planned", "2026-02-04T12:00:00Z")


def test_pages_lead_from_one_to_the_next(api: TestClient, outbox: Outbox) -> None:
    outbox.enqueue(planned(n, due=NOON + n // 2 * DAY) for n in range(7))
    seen, cursor = [], None
    while True:
        page = ask(api, visitor_id="v1", limit=2, **({"cursor": cursor} if cursor else {})).json()
        seen += [item["notification_id"] for item in page["items"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert seen == ["n6", "n5", "n4", "n3", "n2", "n1", "n0"]


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({}, "visitor_id"),
        ({"visitor_id": ""}, "visitor_id"),
        ({"visitor_id": "v", "limit": "0"}, "limit"),
        ({"visitor_id": "v", "limit": "501"}, "limit"),
        ({"visitor_id": "v", "cursor": "nonsense"}, "cursor"),
        ({"visitor_id": "v", "cursor": "MjAyNi0wMi0wMw=="}, "cursor"),
        ({"visitor_id": "v", "who": "x"}, "who"),
    ],
)
def test_what_does_not_fit_is_named(api: TestClient, asked: dict[str, str], field: str) -> None:
    answer = ask(api, **asked)
    assert (answer.status_code, answer.headers["content-type"]) == (400, MEDIA_TYPE)
    assert [error["field"] for error in answer.json()["errors"]] == [field]


def test_reading_needs_the_scope_read() -> None:
    assert needed_scope("GET", "/v1/notifications/schedule") == "read"


def test_the_client_asks_for_it(api: TestClient, outbox: Outbox) -> None:
    outbox.enqueue([planned(1), planned(2, due=NOON + DAY)])
    client = Client("http://testserver")

    def passed_on(request: httpx.Request) -> httpx.Response:
        answer = api.get(request.url.raw_path.decode())
        return httpx.Response(answer.status_code, content=answer.content, request=request)

    client._http = httpx.Client(base_url="http://testserver", transport=httpx.MockTransport(passed_on))
    page = client.schedule("v1", limit=1)
    assert [item.notification_id for item in page.items] == ["n2"]
    rest = client.schedule("v1", limit=1, cursor=page.next_cursor)
    assert ([item.due_at for item in rest.items], rest.next_cursor) == ([NOON.replace(tzinfo=UTC)], None)


def test_feedback_names_what_it_lacks() -> None:
    base = '"event_id": "e", "occurred_at": "2026-02-03T12:05:00Z", "visitor_id": "v1"'
    for kind in ("opened", "clicked", "dismissed", "ignored"):
        body = f'[{{{base}, "kind": "notification_{kind}", "notification_id": "n1"}}, {{{base}, "kind": "page_view"}}]'
        assert read_report(body.encode(), 9)[0] == 2
        body = f'[{{{base}, "kind": "notification_{kind}"}}, {{{base}, "kind": "page_view"}}]'
        count, _, (rejected,) = read_report(body.encode(), 9)
        assert count == 1
        assert f"notification_id is missing, which a notification_{kind} needs" in str(rejected["errors"])
    body = f'[{{{base}, "kind": "notification_sent", "notification_id": "n1"}}, {{{base}, "kind": "page_view"}}]'
    _, _, (rejected,) = read_report(body.encode(), 9)
    assert "notification_type is missing, which a notification_sent needs" in str(rejected["errors"])


def test_from_the_outbox_to_the_mart_and_out_of_all_stores(settings: Settings, outbox: Outbox) -> None:
    outbox.enqueue([planned(1, PERSON), planned(2, "v2"), planned(3, "v3", NOON - 4 * DAY)])
    stream = EventStream(settings.log / "stream", "notify-1")
    now = [NOON - 4 * DAY]
    ours = Dispatcher(outbox, open_senders(settings), stream, lambda: now[0])
    ours.drain()
    now[0] = NOON
    assert ours.drain().sent == 2
    feedback = {"visitor_id": PERSON, "notification_id": "n1", "device": "mobile"}
    stream.append(
        [
            feedback | {"event_id": "e1", "kind": "notification_opened", "occurred_at": NOON + timedelta(minutes=3)},
            feedback | {"event_id": "e2", "kind": "notification_clicked", "occurred_at": NOON + timedelta(minutes=4)},
        ]
    )
    stream.close()
    for batch in load_pending(settings):
        admit_batch(settings, batch.batch_id)
    run_dbt(settings, "seed")
    run_dbt(settings, "run", "--select", "stg_events", "int_notifications_answered", "notifications")
    query = (
        "select notification_id, visitor_id, channel, segment, hour_bucket, content_id, policy, propensity, "
        "planned_at, sent_at, outcome, outcome_at, device from marts.notifications order by 1"
    )
    with duckdb.connect(str(settings.warehouse), read_only=True) as warehouse:
        rows = {row[0]: row for row in warehouse.execute(query).fetchall()}
    told = ("push", "loyal", 4)
    assert rows["n1"] == (
        *("n1", PERSON, *told, "b1", "rds-4", 0.25, NOON - timedelta(hours=10), NOON),
        *("clicked", NOON + timedelta(minutes=4), "mobile"),
    )
    assert rows["n2"][10:] == (None, None, "unknown")
    assert rows["n3"][10:] == ("ignored", NOON - DAY, "unknown"), "72 hours after it was sent"
    person = Person(PERSON, ())
    stores = {trace.store for trace in find_visitor(settings, person)}
    assert {"notifications/outbox.sqlite", "notifications/push.jsonl", "warehouse.duckdb"} <= {
        store.removesuffix("-wal") for store in stores
    }
    outbox.close()
    erasure = forget(settings, PERSON, "asked for it")
    assert erasure is not None
    assert erasure.left == []
    assert erasure.counts["notifications"] == {"outbox": 1}
    assert {entry.notification.visitor_id for entry in outbox.listed(None, 9)} == {"v2", "v3"}
