"""What happens to every request before and after its handler, on an application without any model."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from marquee.errors import MarqueeError, TryAgain
from marquee.settings import Settings
from serving.http import measures
from serving.http.access import Access, needed_scope
from serving.http.middleware import Answer, Exchange, Front
from serving.http.problems import Problem
from serving.keys import KeyRing, KeyStore

JSON = {"content-type": "application/json"}
LOCAL = ("127.0.0.1", 50000)


async def echo(body: bytes, exchange: Exchange) -> Answer:
    return Answer(200, body)


async def slow(body: bytes, exchange: Exchange) -> Answer:
    await asyncio.sleep(5)
    return Answer(200, b"{}")


async def broken(body: bytes, exchange: Exchange) -> Answer:
    raise {b"ours": MarqueeError("/secret/path"), b"busy": TryAgain("x"), b"bug": KeyError("secret")}[body.strip(b'"')]


HANDLERS: dict[tuple[str, str], Any] = {
    ("POST", "/v1/echo"): echo,
    ("POST", "/v1/slow"): slow,
    ("POST", "/v1/broken"): broken,
}


def client(tmp_path: Path, host: str = "127.0.0.1", peer: tuple[str, int] = LOCAL, **chosen: Any) -> TestClient:
    settings = Settings(home=tmp_path, service_host=host, **chosen)
    front = Front(settings, Access(KeyRing(settings.keys), host), HANDLERS, PlainTextResponse("rest"))
    return TestClient(front, base_url="http://localhost:3000", client=peer, raise_server_exceptions=False)


def flush(api: TestClient) -> None:
    """The loop of one request ends before the log's moment has passed."""
    cast(Front, api.app).flush()


def problem(answer: Any, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = answer.json()
    assert set(told) - {"errors"} == {"type", "title", "status", "detail", "request_id"}
    assert (told["status"], told["request_id"]) == (status, answer.headers["x-request-id"])
    return told


def test_an_answer_has_an_id_and_the_headers_of_a_careful_server(tmp_path: Path) -> None:
    api = client(tmp_path)
    answer = api.post("/v1/echo", content=b"{}", headers=JSON)
    assert (answer.status_code, answer.content) == (200, b"{}")
    assert len(answer.headers["x-request-id"]) == 32
    rest = api.get("/v1/other")
    for one in (answer, rest, api.get("/v1/echo")):
        assert one.headers["x-content-type-options"] == "nosniff"
        assert one.headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in one.headers["content-security-policy"]
        assert "server" not in one.headers
    assert rest.text == "rest"


@pytest.mark.parametrize("given", ["a" * 128, "0f8a-1.2:3@4/5+6=_7"])
def test_a_sane_request_id_is_kept(tmp_path: Path, given: str) -> None:
    assert client(tmp_path).get("/", headers={"x-request-id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["a" * 129, "a b", "<script>", "é".encode("latin-1"), ""])
def test_another_one_is_replaced(tmp_path: Path, given: str | bytes) -> None:
    answered = client(tmp_path).get(
        "/", headers=[(b"x-request-id", given if isinstance(given, bytes) else given.encode())]
    )
    assert len(answered.headers["x-request-id"]) == 32


def test_a_body_that_is_too_large_is_refused_whether_it_says_so_or_not(tmp_path: Path) -> None:
    api = client(tmp_path, body_limit=2048)
    assert api.post("/v1/echo", content=b"1" * 2048, headers=JSON).status_code == 200
    problem(api.post("/v1/echo", content=b"1" * 2049, headers=JSON), 413)
    in_parts = api.post("/v1/echo", content=iter([b"1" * 1500] * 2), headers=JSON)
    assert "content-length" not in in_parts.request.headers
    assert "2048 bytes" in problem(in_parts, 413)["detail"]


def test_wrong_types_and_methods_are_refused(tmp_path: Path) -> None:
    api = client(tmp_path)
    problem(api.post("/v1/echo", content=b"{}"), 415)
    problem(api.post("/v1/echo", data={"a": "b"}), 415)
    problem(api.post("/v1/other", content=b"<a/>", headers={"content-type": "text/xml"}), 415)
    problem(api.post("/v1/echo", content=b"{}", headers=JSON | {"content-encoding": "gzip"}), 415)
    answer = api.get("/v1/echo")
    assert "takes POST" in problem(answer, 405)["detail"]
    assert answer.headers["allow"] == "POST"
    problem(api.post("/v1/other", content=b'{"a": 1, "a": 2}', headers=JSON), 400)


def test_what_takes_too_long_is_given_up(tmp_path: Path) -> None:
    since = time.monotonic()
    problem(client(tmp_path, deadline=0.1).post("/v1/slow", content=b"{}", headers=JSON), 504)
    assert time.monotonic() - since < 2


@pytest.mark.parametrize(("kind", "status", "waits"), [("ours", 503, True), ("busy", 503, True), ("bug", 500, False)])
def test_an_error_is_told_without_what_it_was(tmp_path: Path, kind: str, status: int, waits: bool) -> None:
    answer = client(tmp_path).post("/v1/broken", content=json.dumps(kind), headers=JSON)
    problem(answer, status)
    assert "secret" not in answer.text
    assert ("retry-after" in answer.headers) is waits


def test_a_process_that_has_enough_to_do_refuses_more(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, service_requests=2)
    front = Front(settings, Access(KeyRing(settings.keys), "127.0.0.1"), HANDLERS, PlainTextResponse("rest"))

    async def ask(path: str) -> int:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"{}", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"content-type", b"application/json"), (b"host", b"localhost")]
        scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "client": LOCAL}
        await front(scope, receive, send)
        return int(sent[0]["status"])

    async def ask_three() -> int:
        slow_ones = [asyncio.create_task(ask("/v1/slow")) for _ in range(2)]
        await asyncio.sleep(0)
        status = await ask("/v1/echo")
        for one in slow_ones:
            one.cancel()
        await asyncio.gather(*slow_ones, return_exceptions=True)
        assert await ask("/v1/echo") == 200, "those that left make room"
        return status

    assert asyncio.run(ask_three()) == 503


def test_pages_of_listed_origins_may_ask_and_no_others(tmp_path: Path) -> None:
    api = client(tmp_path, cors_origins="https://shop.example, https://b.example")
    asks = {"access-control-request-method": "POST"}
    allowed = api.options("/v1/echo", headers=asks | {"origin": "https://b.example"})
    assert allowed.status_code == 204
    assert allowed.headers["access-control-allow-origin"] == "https://b.example"
    assert "x-api-key" in allowed.headers["access-control-allow-headers"]
    for other in ("https://shop.example.evil", "null", "http://shop.example"):
        refused = api.options("/v1/echo", headers=asks | {"origin": other})
        assert "access-control-allow-origin" not in refused.headers
    answer = api.post("/v1/echo", content=b"{}", headers=JSON | {"origin": "https://shop.example"})
    assert answer.headers["access-control-allow-origin"] == "https://shop.example"
    assert answer.headers["vary"] == "origin"
    assert "vary" not in client(tmp_path).get("/").headers


def test_a_key_may_ask_so_often_and_no_more(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "keys.sqlite")
    keys = [store.create(name, frozenset({"admin"}), "ada") for name in ("a", "b")]
    api = client(tmp_path, rate_limit="6/hour", service_workers=2)
    ask: Callable[[str], Any] = lambda key: api.post("/v1/echo", content=b"{}", headers=JSON | {"x-api-key": key})  # noqa: E731
    assert [ask(keys[0]).status_code for _ in range(4)] == [200, 200, 200, 429]
    assert ask(keys[1]).status_code == 200
    refused = ask(keys[0])
    problem(refused, 429)
    assert 1 <= int(refused.headers["retry-after"]) <= 3600
    assert {api.get("/v1/clicks/x").status_code for _ in range(9)} == {200}, "shoppers, of whom nobody has a key"


def test_requests_are_counted_by_route_and_never_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(measures.FOLDER, raising=False)  # BentoML sets it when a test before this one loads it
    api = client(tmp_path)
    api.get("/v1/visitors/secret-visitor")
    api.post("/v1/echo", content=b"{}", headers=JSON)
    page = measures.page().decode()
    assert 'marquee_http_seconds_count{route="/v1/echo",status="200"}' in page
    assert "secret-visitor" not in page


def test_a_line_names_the_request_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = KeyStore(tmp_path / "keys.sqlite").create("shop", frozenset({"admin"}), "ada")
    headers = JSON | {"x-api-key": key, "x-request-id": "r-1"}
    api = client(tmp_path)
    api.post("/v1/echo?q=visitor", content=b'"visitor"', headers=headers)
    flush(api)
    (line,) = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    assert {name: told[name] for name in ("request_id", "method", "route", "status", "key")} == {
        "request_id": "r-1",
        "method": "POST",
        "route": "/v1/echo",
        "status": 200,
        "key": "shop",
    }
    assert key not in line
    assert "visitor" not in line
    silent = client(tmp_path, log_requests=False)
    silent.get("/")
    flush(silent)
    assert capsys.readouterr().out == ""


def test_a_web_socket_is_closed(tmp_path: Path) -> None:
    with pytest.raises(WebSocketDisconnect) as closed, client(tmp_path).websocket_connect("/v1/echo"):
        pass
    assert closed.value.code == 1003


def test_a_new_route_is_never_open_by_mistake() -> None:
    assert needed_scope("GET", "/v1/campaigns") == "read"
    assert needed_scope("DELETE", "/v1/campaigns/c1") == "manage"
    assert needed_scope("POST", "/v1/docs/x") == "manage"
    assert needed_scope("GET", "/metrics") == "read"
    assert needed_scope("POST", "/v1/clicks/x") == "manage"
    assert [needed_scope("GET", path) for path in ("/v1/docs", "/v1/clicks/x", "/v1/marquee.js")] == [None] * 3


def test_problems_have_a_title_of_their_kind() -> None:
    assert Problem(404, "x").title == "Not Found"
