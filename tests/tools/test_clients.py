"""The Python client and click URLs against a running service, and what the client does without one."""

from __future__ import annotations

import asyncio
import base64
import re
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from marquee.settings import ROOT, Settings
from serving.client import (
    ApiError,
    AsyncClient,
    Banner,
    Campaign,
    Client,
    ClientError,
    Event,
    Product,
    RequestContext,
    Unreachable,
)
from serving.client_calls import FAILURES, Circuit

pytestmark = pytest.mark.tools
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "clients.md").read_text(encoding="utf-8"), re.DOTALL)
NOW = datetime(2026, 2, 2, 12, tzinfo=UTC)
LANDING = "https://shop.example/spring?size=42&colour=r%C3%A9d"


@pytest.fixture(scope="module")
def served(
    promoted: Callable[[Path], Settings],
    serving: Callable[[Settings], AbstractContextManager[Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Any]:
    settings = promoted(tmp_path_factory.mktemp("served")).model_copy(update={"public_url": "https://b.example/x/"})
    with serving(settings) as running:
        yield running


@pytest.fixture(scope="module")
def client(served: Any) -> Iterator[Client]:
    with Client(str(served.client.base_url), timeout=5) as one:
        one.put(Campaign(campaign_id="c-new", starts_at=NOW - timedelta(1), ends_at=NOW + timedelta(1), priority=9))
        one.put_all([Banner(banner_id=f"b-{i}", campaign_id="c-new", landing_url=LANDING) for i in (1, 2)])
        until = time.monotonic() + 5
        while not one.recommend("home_hero", "v-wait", 1).slate[0].banner_id.startswith("b-"):
            assert time.monotonic() < until, "the new campaign is never shown"
            time.sleep(0.1)
        yield one


def click_path(url: str) -> str:
    assert url.startswith("https://b.example/x/v1/clicks/")
    return url.removeprefix("https://b.example/x")


def logged(served: Any, event_id: str) -> list[dict[str, Any]]:
    return [row for row in served.logged() if row["event_id"] == event_id]


def metric(served: Any, outcome: str) -> float:
    found = re.search(rf'marquee_clicks_total{{outcome="{outcome}"}} (\S+)', served.client.get("/metrics").text)
    return float(found[1]) if found else 0.0


# --- click URLs -----------------------------------------------------------------------------------------------------


def test_a_click_url_reports_the_click_once_and_leads_to_its_page_alone(served: Any, client: Client) -> None:
    context = RequestContext(session_id="s-7")
    banner = client.recommend("home_hero", served.known, 1, context).slate[0]
    assert banner.landing_url == LANDING
    path = click_path(banner.click_url or "")
    before = metric(served, "repeated")
    for _ in range(3):
        answer = served.client.get(path, headers={"host": "b.example", "x-forwarded-for": "8.8.8.8"})
        assert (answer.status_code, answer.headers["location"]) == (302, LANDING)
        assert answer.headers["cache-control"] == "no-store"
    (row,) = logged(served, f"{banner.impression_id}-click")
    (shown,) = logged(served, banner.impression_id)
    assert row["kind"] == "click"
    same = ("visitor_id", "session_id", "banner_id", "placement_id", "request_id", "impression_id", "position")
    assert {name: row[name] for name in same} == {name: shown[name] for name in same}
    assert row["session_id"] == "s-7"
    assert served.loaded_times([row["event_id"]]) == {row["event_id"]: 1}
    assert metric(served, "repeated") == before + 2
    assert path.rpartition("/")[2] not in (served.settings.home / "service.log").read_text(encoding="utf-8")


def test_a_link_that_was_changed_or_made_elsewhere_leads_nowhere(served: Any, client: Client) -> None:
    path = click_path(client.recommend("home_hero", "v-8", 1).slate[0].click_url or "")
    token = path.rpartition("/")[2]
    payload, when, signature = token.split(".")
    evil = base64.urlsafe_b64encode(base64.urlsafe_b64decode(payload + "==").replace(b"shop.", b"evil.")).decode()
    wrong = [f"{evil.rstrip('=')}.{when}.{signature}", token[:-2], token[1:], "x", f"{payload}.{signature}", "x" * 5000]
    before = metric(served, "refused")
    for one in wrong:
        answer = served.client.get(f"/v1/clicks/{one}")
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json"), one
        assert "location" not in answer.headers
    assert metric(served, "refused") == before + len(wrong)
    assert served.client.get(f"{path}?url=https://evil.example").headers["location"] == LANDING
    for method in ("HEAD", "POST"):
        assert served.client.request(method, path).status_code in (401, 405, 415), method


def test_the_secret_is_the_owners_alone(served: Any, client: Client) -> None:
    key = served.settings.click_key
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert re.fullmatch(r"[0-9a-f]{64}", key.read_text(encoding="ascii"))
    assert list(served.settings.home.glob("click.key.*")) == []


def test_clicks_and_the_script_are_open_where_all_else_needs_a_key(served: Any, client: Client) -> None:
    stranger = {"x-forwarded-for": "8.8.8.8"}
    script = served.client.get("/v1/marquee.js", headers=stranger)
    assert script.status_code == 200
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    assert script.headers["cache-control"] == "public, max-age=3600"
    again = served.client.get("/v1/marquee.js", headers=stranger | {"if-none-match": script.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert served.client.get("/v1/models", headers=stranger).status_code == 401


# --- the client -----------------------------------------------------------------------------------------------------


def test_the_documents_examples_work(served: Any, client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(EXAMPLES) == 4
    patient = f'"{served.client.base_url}", timeout=5)'
    for example in EXAMPLES:
        text = re.sub(r'"http://localhost:3000"(, key=None, timeout=0.3)?\)', patient, example)
        assert "3000" not in text
        exec(compile(text, "clients.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert all("https://b.example/x/v1/clicks/" in line for line in lines[:2])
    assert lines[2].startswith("1 ")
    assert lines[3] == "1"
    assert lines[4].startswith("400 Invalid request ")
    assert lines[4].endswith("['campaign_id']")


def test_a_slate_its_click_and_that_it_was_seen(served: Any, client: Client) -> None:
    slate = client.recommend("home_hero", served.known, 2)
    assert (len(slate.slate), slate.placement, slate.fallback) == (2, "home_hero", None)
    banner = slate.slate[1]
    assert client.click(banner, served.known).accepted == 1
    assert client.click(banner, served.known, kind="seen").accepted == 1
    for kind in ("click", "seen"):
        (row,) = logged(served, f"{banner.impression_id}-{kind}")
        assert (row["kind"], row["visitor_id"], row["banner_id"]) == (kind, served.known, banner.banner_id)
    without = client.recommend("home_hero", n=1)
    client.click(without.slate[0])
    (row,) = logged(served, f"{without.slate[0].impression_id}-click")
    assert row["visitor_id"] == without.request_id == logged(served, without.slate[0].impression_id)[0]["visitor_id"]


def test_products_like_one(served: Any, client: Client) -> None:
    client.put(Product(product_id="odd/one ?&é", title="Odd"))
    time.sleep(1.5)  # until every worker follows
    assert client.similar("odd/one ?&é").fallback in ("new_product", "no_product_model")
    with pytest.raises(ApiError) as told:
        client.similar("no such product")
    assert told.value.status == 404
    known = served.client.get("/v1/products?limit=1").json()["items"][0]
    found = client.similar(known["product_id"], served.known, n=3)
    assert len(found.products) == (0 if found.fallback == "no_product_model" else 3)


def test_events_are_judged_one_by_one(client: Client) -> None:
    good = Event(event_id="py-1", kind="page_view", occurred_at=NOW, visitor_id="v")
    bad = good.model_copy(update={"event_id": "py-2", "kind": "cart"})
    told = client.report([good, bad])
    assert told.accepted == 1
    assert [(one.index, one.event_id, one.errors[0].field) for one in told.rejected] == [(1, "py-2", "product_id")]


def test_a_problem_has_its_fields(client: Client) -> None:
    banner = Banner(banner_id="lost/one", campaign_id="no-such-campaign")
    with pytest.raises(ApiError, match="no-such-campaign") as told:
        client.put(banner)
    error = told.value
    assert (error.status, error.title, error.errors[0].field) == (400, "Invalid request", "campaign_id")
    assert re.fullmatch("[0-9a-f]{32}", error.request_id)
    with pytest.raises(ApiError):
        Client(str(client._http.base_url), key="mq_wrong", timeout=5).recommend("home_hero")
    with pytest.raises(ClientError, match="one kind"):
        client.put_all([banner, Product(product_id="p")])
    client.put(banner.model_copy(update={"campaign_id": "c-new"}))
    assert client.put_all([Product(product_id="p-1", price=3.0)]).upserted == 1


def test_the_async_client_does_the_same(served: Any, client: Client) -> None:
    async def ask() -> None:
        async with AsyncClient(str(served.client.base_url), timeout=5) as one:
            first, second = await one.recommend_all({"home_hero": 1, "category_top": 2}, served.known)
            assert (first.placement, second.placement) == ("home_hero", "category_top")
            assert (await one.click(first.slate[0], served.known)).accepted == 1
            await one.put(Product(product_id="p-2"))
            with pytest.raises(ApiError):
                await one.put(Banner(banner_id="b", campaign_id="no-such-campaign"))

    asyncio.run(ask())


# --- without a service ----------------------------------------------------------------------------------------------


def test_a_page_never_waits_long_for_a_service_that_is_gone() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        took = []
        with Client(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.1) as one:
            for _ in range(FAILURES + 20):
                since = time.monotonic()
                slate = one.recommend("home_hero", "v")
                took.append(time.monotonic() - since)
                assert (slate.slate, slate.fallback, slate.placement) == ([], "unreachable", "home_hero")
            with pytest.raises(Unreachable, match="not asked for a few seconds"):
                one.report(Event(event_id="e", kind="page_view", occurred_at=NOW, visitor_id="v"))
    assert min(took[:FAILURES]) >= 0.09
    assert sum(took[FAILURES:]) < 0.1, "the circuit is open"
    assert Client("http://127.0.0.1:9").similar("p").fallback == "unreachable"
    assert [s.fallback for s in Client("http://127.0.0.1:9").recommend_all({"a": 1, "b": 2})] == ["unreachable"] * 2


@pytest.mark.parametrize("status", [200, 404, 429, 503])
def test_what_is_sent_again_and_what_is_not(status: int) -> None:
    """A real server that answers each status once, and then as a service would."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    asked: list[str] = []

    class Once(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            asked.append(self.path)
            self.send_response(status if len(asked) == 1 else 202)
            body = b'{"accepted": 1}' if len(asked) > 1 else b"<html>"
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Once)
    Thread(target=server.serve_forever, daemon=True).start()
    event = Event(event_id="e", kind="page_view", occurred_at=NOW, visitor_id="v")
    with Client(f"http://127.0.0.1:{server.server_port}", timeout=5) as one:
        if status in (200, 503):  # no answer of a service, or one that may pass
            assert one.report(event).accepted == 1
            assert len(asked) == 2
        else:
            with pytest.raises(ApiError) as told:
                one.report(event)
            assert (told.value.status, told.value.detail, len(asked)) == (status, "<html>", 1)
        del asked[:]
        if status == 404:
            with pytest.raises(ApiError):
                one.recommend("home_hero")
        else:
            assert one.recommend("home_hero").fallback == "unreachable"
        assert len(asked) == 1, "a slate is logged as shown, so it is never asked for twice"
    server.shutdown()
    server.server_close()


def test_after_the_pause_one_call_alone_tries() -> None:
    now = 0.0
    circuit = Circuit(lambda: now)
    for _ in range(FAILURES):
        circuit.admit()
        circuit.note(is_answered=False)
    with pytest.raises(Unreachable):
        circuit.admit()
    now = 5.1
    circuit.admit()
    with pytest.raises(Unreachable):
        circuit.admit()
    circuit.note(is_answered=True)
    circuit.admit()


def test_with_nothing_listening_the_message_names_the_address() -> None:
    with pytest.raises(Unreachable, match=r"http://127\.0\.0\.1:9.*refused"):
        Client("http://127.0.0.1:9").put(Product(product_id="p"))
    with pytest.raises(httpx.UnsupportedProtocol):
        httpx.get("localhost:3000")
