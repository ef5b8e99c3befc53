"""Every way to ask wrongly, on the whole application and a real worker: a 4xx that names the field."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import schemathesis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from ingestion.event_stream import EventStream
from marquee import contract
from marquee.settings import Settings
from serving import schemas
from serving.http.access import EVENTS, RECOMMEND, needed_scope
from serving.http.app import Application, application
from serving.http.journal import JsonLines
from serving.worker import Worker

pytestmark = pytest.mark.tools
JSON = {"content-type": "application/json"}
AT = "2026-02-02T11:59:00Z"
GOOD = {"visitor_id": "v000001", "placement": "home_hero", "n": 2}


def view(event_id: str, **other: Any) -> dict[str, Any]:
    return {"event_id": event_id, "kind": "page_view", "occurred_at": AT, "visitor_id": "v000001"} | other


@pytest.fixture(scope="module")
def worker(promoted: Callable[[Path], Settings], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    worker = Worker(promoted(tmp_path_factory.mktemp("errors")).model_copy(update={"log_requests": False}))
    worker.start()
    yield worker
    worker.stop()


@pytest.fixture(scope="module")
def api(worker: Worker) -> Iterator[TestClient]:
    app = application()
    app.serve(worker)
    with TestClient(app, base_url="http://localhost", client=("127.0.0.1", 1), raise_server_exceptions=False) as client:
        yield client


def stream(worker: Worker) -> EventStream:
    return cast(EventStream, worker.stream)


def refuse(api: TestClient, worker: Worker, path: str, body: object, named: str) -> dict[str, Any]:
    content = body if isinstance(body, str | bytes) else json.dumps(body)
    before = stream(worker).file.read_bytes()
    answer = api.post(path, content=content, headers=JSON)
    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = answer.json()
    assert told["errors"]
    assert named in json.dumps([[fault["field"], fault["message"]] for fault in told["errors"]])
    assert "Traceback" not in answer.text
    assert 'File "' not in answer.text
    assert "pydantic" not in answer.text
    assert stream(worker).file.read_bytes() == before, "nothing of a refused request is stored"
    return told


BAD_REQUESTS = {
    "n below": (GOOD | {"n": 0}, "n"),
    "n above": (GOOD | {"n": 51}, "n"),
    "n as words": (GOOD | {"n": "many"}, "n"),
    "n without end": ('{"visitor_id": "v", "placement": "p", "n": ' + "9" * 5000 + "}", "n"),
    "n as no number": ('{"visitor_id": "v", "placement": "p", "n": NaN}', "n"),
    "visitor as number": (GOOD | {"visitor_id": 7}, "visitor_id"),
    "no placement": ({"visitor_id": "v"}, "placement"),
    "unknown field": (GOOD | {"colour": "red"}, "colour"),
    "unknown device": (GOOD | {"context": {"device": "fridge"}}, "context.device"),
    "a list": ([GOOD], "object"),
    "nothing": ("", "Invalid JSON"),
    "broken": ('{"visitor_id": "v", ', "Invalid JSON"),
    "no text": (b"\xff\xfe\x00", "Invalid JSON"),
    "half a character": ('{"visitor_id": "\\ud800", "placement": "p"}', "Invalid JSON"),
    "null character": ('{"visitor_id": "v\\u0000", "placement": "p"}', "null character"),
    "a name twice": ('{"visitor_id": "v", "placement": "p", "n": 1, "n": 2}', "repeated"),
    "deep": ("[" * 100_000, "Invalid JSON"),
    "deep within": ('{"visitor_id": ' + '{"a":' * 10_000 + "1" + "}" * 10_001, "Invalid JSON"),
}
BAD_EVENTS = {
    "id without end": (view("x" * 201), "event_id"),
    "product without end": (view("x", kind="product_view", product_id="p" * 201), "product_id"),
    "session without end": (view("x", session_id="s" * 201), "session_id"),
    "empty product": (view("x", kind="cart", product_id=""), "product_id"),
    "unknown kind": (view("x", kind="dance"), "kind"),
    "click on nothing": (view("x", kind="click"), "banner_id"),
    "impression without its id": (view("x", kind="impression", banner_id="b", placement_id="p"), "impression_id"),
    "no visitor": ({"event_id": "x", "kind": "page_view", "occurred_at": AT}, "visitor_id"),
    "no time": ({"event_id": "x", "kind": "page_view", "visitor_id": "v"}, "occurred_at"),
    "no such time": (view("x", occurred_at="yesterday"), "occurred_at"),
    "long ago": (view("x", occurred_at="1970-01-01T00:00:00Z"), "occurred_at"),
    "long ago in UTC": (view("x", occurred_at="1990-01-01T00:00:00+14:00"), "occurred_at"),
    "before all time in UTC": (view("x", occurred_at="0001-01-01T00:00:00+14:00"), "occurred_at"),
    "unknown field": (view("x", colour="red"), "colour"),
    "endless": ('{"event_id": "x", "kind": "cart", "quantity": Infinity}', "quantity"),
    "endless in digits": (json.dumps(view("x", kind="other"))[:-1] + ', "amount": 1e999}', "amount"),
    "no number": (json.dumps(view("x"))[:-1] + ', "amount": NaN}', "amount"),
    "too far down": (view("x", position=2**63), "position"),
    "propensity of nothing": (view("x", propensity=0), "propensity"),
    "all of a list": ([view("x", kind="dance"), view("y", occurred_at="soon")], "events[1].occurred_at"),
    "too many": ([view("x")] * 1001, "at most 1,000"),
    "a list of lists": ([[view("x")]], "events[0]"),
    "a word": ("hello", "Invalid JSON"),
    "null": ("null", "object"),
    "broken": ("[", "Invalid JSON"),
    "not JSON within": ("[NaN]", "Invalid JSON"),
    "null character": (json.dumps(view("x", page="\x00")), "null character"),
    "a name twice": (json.dumps(view("x"))[:-1] + ', "kind": "other"}', "repeated"),
    "a name twice in a list": ("[" + json.dumps(view("x"))[:-1] + ', "kind": "other"}]', "repeated"),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_a_bad_request_is_told_which_field(api: TestClient, worker: Worker, case: str) -> None:
    refuse(api, worker, RECOMMEND[1], *BAD_REQUESTS[case])


@pytest.mark.parametrize("case", BAD_EVENTS)
def test_a_bad_event_is_told_which_field_and_nothing_is_stored(api: TestClient, worker: Worker, case: str) -> None:
    refuse(api, worker, EVENTS[1], *BAD_EVENTS[case])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", "/nothing", 404),
        ("PUT", "/v1/events", 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/v1/docs/../../etc/passwd", 404),
        ("GET", "/v1/docs/passwd", 404),
        ("GET", "/v1/visitors/" + "v" * 201, 400),
        ("POST", "/v1/visitors/features", 400),
        ("GET", "/v1/campaigns/no-such", 404),
        ("GET", "/v1/campaigns?limit=0", 400),
    ],
)
def test_wrong_places_are_problems_too(api: TestClient, method: str, path: str, status: int) -> None:
    answer = api.request(method, path)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/v1/visitors/features", "/v1/campaigns/c1", "/v1/campaigns/bulk"])
@pytest.mark.parametrize(
    "body", [b"{", b"\xff", b'{"a": NaN}', b"[" * 50_000, b'{"a": 1, "a": 2}', b'{"a": "\\u0000"}', b"null", b"7"]
)
def test_other_routes_read_as_strictly(api: TestClient, path: str, body: bytes) -> None:
    answer = api.request("PUT" if path.endswith("c1") else "POST", path, content=body, headers=JSON)
    assert answer.status_code == 400, answer.text
    assert answer.json()["errors"]


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=40).map(str.encode))
def test_whatever_is_sent_is_never_an_error_of_ours(api: TestClient, body: bytes) -> None:
    for _, path in (RECOMMEND, EVENTS):
        answer = api.post(path, content=body, headers=JSON)
        assert answer.status_code in (200, 202, 400), answer.text


def test_valid_events_beside_invalid_ones_are_kept(api: TestClient, worker: Worker) -> None:
    answer = api.post(EVENTS[1], json=[view("good-1"), view("bad", kind="dance"), view("good-2")])
    assert answer.status_code == 202
    told = answer.json()
    assert told["accepted"] == 2
    assert [(one["index"], one["event_id"], one["errors"][0]["field"]) for one in told["rejected"]] == [
        (1, "bad", "kind")
    ]
    written = [json.loads(line)["event_id"] for line in stream(worker).file.read_text(encoding="utf-8").splitlines()]
    assert [one for one in written if one in ("good-1", "bad", "good-2")] == ["good-1", "good-2"]


def test_nothing_is_claimed_while_the_disk_takes_nothing(promoted: Callable[[Path], Settings], tmp_path: Path) -> None:
    worker = Worker(promoted(tmp_path / "home"))
    app = application()
    app.serve(worker)
    with TestClient(app, base_url="http://localhost", client=("127.0.0.1", 1)) as api:
        assert worker.is_ready
        stream(worker).close()
        for path, body in ((EVENTS[1], view("e")), (RECOMMEND[1], GOOD)):
            answer = api.post(path, json=body)
            assert answer.status_code == 503, answer.text
            assert int(answer.headers["retry-after"]) >= 1
            assert str(worker.settings.home) not in answer.text


def test_a_fault_of_ours_is_logged_whole_and_told_as_nothing(
    api: TestClient, worker: Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker, "scorer", None)
    monkeypatch.setattr(logging.getLogger("bentoml"), "propagate", True)
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/model")):
        caplog.clear()
        answer = api.request(method, path, headers={"x-request-id": f"r-{method}"})
        assert answer.status_code == 500
        assert answer.headers["content-type"] == "application/problem+json"
        assert "NoneType" not in answer.text
        (record,) = [one for one in caplog.records if one.getMessage() == "request failed"]
        line = json.loads(JsonLines().format(record))
        assert (line["request_id"], line["route"]) == (f"r-{method}", path)
        assert "AttributeError: 'NoneType' object has no attribute 'running'" in line["traceback"]


# --- the document ---------------------------------------------------------------------------------------------------


def test_the_document_describes_every_route_with_an_example(api: TestClient) -> None:
    document = api.get("/v1/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    known = {RECOMMEND[1], EVENTS[1], "/v1/models", "/v1/visitors/{visitor_id}", "/v1/campaigns", "/v1/audit"}
    assert known <= set(document["paths"])
    tags = {tag["name"] for tag in document["tags"]}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            assert set(operation["tags"]) <= tags, where
            assert operation["summary"], where
            assert ("security" in operation) is (needed_scope(method.upper(), path) is not None), where
            assert {"400", "401", "403", "429", "503"} <= set(operation["responses"]), where
            assert "422" not in operation["responses"], where
            if "requestBody" in operation:
                assert "example" in json.dumps(operation["requestBody"]), where
    events = document["components"]["schemas"]["Event"]["properties"]
    assert set(events) == set(contract.EVENTS.names)
    assert set(document["components"]["schemas"]["Accepted"]["properties"]) == set(schemas.Accepted.model_fields)


def test_the_page_needs_no_other_server(api: TestClient) -> None:
    page = api.get("/", follow_redirects=True)
    assert "text/html" in page.headers["content-type"]
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert "://" not in page.text
    assert "<script>" not in page.text
    for name in ("swagger-ui-bundle.js", "swagger-ui.css", "start.js"):
        assert name in page.text
        assert api.get(f"/v1/docs/{name}").status_code == 200
    assert api.get("/docs.json", follow_redirects=True).json()["info"]["title"] == "Marquee"


def test_the_document_is_kept_by_what_it_describes(api: TestClient) -> None:
    """Requests made up from the document, valid and not, never meet an error of ours or an answer it does not name."""
    app = cast(Application, api.app)
    schema = schemathesis.openapi.from_dict(api.get("/v1/openapi.json").json())
    checked = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.method.upper() == "DELETE":
            continue

        ask_as_described(api, operation)
        checked += 1
    assert checked >= 8
    assert app.state.worker.stream.error is None


def ask_as_described(api: TestClient, operation: Any) -> None:
    @hypothesis_settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy())
    def ask(case: Any) -> None:
        request = case.as_transport_kwargs(base_url="http://localhost")
        request.pop("cookies", None)
        answer = api.request(**request)
        assert answer.status_code < 500, f"{answer.request.url} {answer.request.content!r}"
        described = operation.definition.raw["responses"]
        assert str(answer.status_code) in described, (operation.label, answer.status_code, answer.text)

    ask()
