"""API keys on a running service: who is let in, what each key may do, and how soon a change is seen."""

from __future__ import annotations

import json
import sqlite3
import stat
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from marquee.cli import app
from marquee.errors import MarqueeError
from serving.http.access import Access, Principal, is_loopback, needed_scope
from serving.http.problems import Problem
from serving.keys import SCOPES, KeyRing, KeyStore

pytestmark = pytest.mark.tools
EVENT = {"event_id": "e", "kind": "page_view", "occurred_at": "2026-02-02T11:59:00Z", "visitor_id": "v"}
CALLS: dict[str, Callable[[httpx.Client, dict[str, str]], httpx.Response]] = {
    "recommend": lambda client, key: client.post(
        "/v1/banners/recommend", json={"visitor_id": "v", "placement": "home_hero"}, headers=key
    ),
    "ingest": lambda client, key: client.post("/v1/events", json=EVENT, headers=key),
    "read": lambda client, key: client.get("/v1/models", headers=key),
    "metrics": lambda client, key: client.get("/metrics", headers=key),
    "manage": lambda client, key: client.delete("/v1/campaigns/no-such-campaign", headers=key),
}


def keys(home: Path, *words: str) -> Any:
    done = CliRunner().invoke(app, ["keys", *words, "--home", str(home), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def status_within(seconds: float, ask: Callable[[], httpx.Response], wanted: int) -> float:
    since = time.monotonic()
    while (answer := ask()).status_code != wanted:
        assert time.monotonic() < since + seconds, (answer.status_code, answer.text)
        time.sleep(0.05)
    return time.monotonic() - since


def test_a_service_is_open_to_its_own_machine_until_the_first_key(served: Any) -> None:
    """One story, as the service changes with it."""
    client, home = served.client, served.settings.home
    nobody: dict[str, str] = {}
    for name, call in CALLS.items():
        assert call(client, nobody).status_code == (404 if name == "manage" else 202 if name == "ingest" else 200), name
    for header in ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"):
        assert CALLS["read"](client, {header: "127.0.0.1"}).status_code == 401, header
    assert CALLS["read"](client, {"Host": "rebound.example:3000"}).status_code == 401
    for origin, status in (("https://other.example", 401), ("null", 401), ("http://localhost:3000", 200)):
        assert CALLS["read"](client, {"Origin": origin}).status_code == status, origin

    shop = keys(home, "create", "shop", "--scope", "recommend", "--scope", "ingest")["key"]
    assert status_within(1.0, lambda: CALLS["read"](client, nobody), 401) < 1
    refused = CALLS["recommend"](client, nobody)
    assert refused.headers["www-authenticate"].startswith("Bearer")
    assert refused.json()["title"] == "Unauthorized"
    bearer, header = {"Authorization": f"Bearer {shop}"}, {"X-API-Key": shop}
    for own in (bearer, header):
        assert [CALLS[name](client, own).status_code for name in CALLS] == [200, 202, 403, 403, 403]
    assert "has no scope manage" in CALLS["manage"](client, bearer).json()["detail"]
    for wrong in (shop[:-1], shop[:-1] + ("A" if shop[-1] != "A" else "B"), "mq_0123", "", "é"):
        assert CALLS["ingest"](client, {"X-API-Key": wrong.encode("latin-1")}).status_code == 401  # type: ignore[dict-item]
    assert CALLS["ingest"](client, {"Authorization": "Basic c2hvcA=="}).status_code == 401

    marketer = keys(home, "create", "marketer", "--scope", "manage")["key"]
    own = {"X-API-Key": marketer}
    status_within(1.0, lambda: CALLS["read"](client, own), 200)
    assert [CALLS[name](client, own).status_code for name in CALLS] == [403, 403, 200, 200, 404]

    again = keys(home, "rotate", "shop", "--grace", "0.025")["key"]
    status_within(1.0, lambda: CALLS["ingest"](client, {"X-API-Key": again}), 202)
    assert CALLS["ingest"](client, header).status_code == 202, "both are valid for the grace"
    status_within(3.0, lambda: CALLS["ingest"](client, header), 401)

    keys(home, "revoke", "shop")
    status_within(1.0, lambda: CALLS["ingest"](client, {"X-API-Key": again}), 401)
    for text in ("/livez", "/readyz", "/v1/docs", "/v1/openapi.json"):
        assert client.get(text).status_code == 200
    log = (home / "service.log").read_text(encoding="utf-8")
    assert '"key": "marketer"' in log
    assert not any(secret in log for secret in (shop, again, marketer))


def test_what_is_kept_of_a_key_proves_it_and_is_not_it(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "keys.sqlite")
    key = store.create("shop", frozenset({"read"}), "ada", seconds=3600)
    again = store.rotate("shop", 60, "bob")
    assert store.revoke("shop", "cy") == 2
    content = (tmp_path / "keys.sqlite").read_bytes()
    assert not any(text.rpartition("_")[2].encode() in content for text in (key, again))
    assert stat.S_IMODE((tmp_path / "keys.sqlite").stat().st_mode) == 0o600
    audit = [(who, action, name) for _, who, action, name, _, _ in store.audit()]
    assert audit == [
        ("ada", "create", "shop"),
        ("bob", "rotate", "shop"),
        ("cy", "revoke", "shop"),
        ("cy", "revoke", "shop"),
    ]
    first, second = store.all()
    assert first.expires_at is not None
    assert first.expires_at < time.time() + 61
    assert second.expires_at is not None
    assert 3500 < second.expires_at - time.time() < 3600, "a rotated key lives no longer than it would have"


def test_keys_that_make_no_sense_are_refused_in_words(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "keys.sqlite")
    for name, scopes, told in (
        ("", {"read"}, "may only hold"),
        ("a b", {"read"}, "may only hold"),
        ("a", {"everything"}, "is not one of recommend, ingest"),
        ("a", set(), "is not one of"),
    ):
        with pytest.raises(MarqueeError, match=told):
            store.create(name, frozenset(scopes), "ada")
    for act in (lambda: store.revoke("a", "ada"), lambda: store.rotate("a", 0, "ada")):
        with pytest.raises(MarqueeError, match="no active key a"):
            act()
    store.create("a", frozenset({"read"}), "ada")
    with pytest.raises(MarqueeError, match="there is a key a already"):
        store.create("a", frozenset({"read"}), "ada")


def test_a_key_ends_when_it_says_so(tmp_path: Path) -> None:
    path = tmp_path / "keys.sqlite"
    key = KeyStore(path).create("a", frozenset({"read"}), "ada", seconds=0.3)
    ring = KeyRing(path)
    assert ring.find(key)
    time.sleep(0.35)
    assert ring.find(key) is None
    assert not ring.is_empty, "an expired key does not open what it closed"


def test_a_store_that_breaks_lets_nobody_in_and_nobody_out(tmp_path: Path) -> None:
    path = tmp_path / "keys.sqlite"
    key = KeyStore(path).create("a", frozenset({"read"}), "ada")
    ring = KeyRing(path)
    path.write_bytes(b"no database" * 1000)
    ring.refresh()
    assert ring.find(key)
    assert not KeyRing(path).is_empty
    assert KeyRing(path).find(key) is None


def test_use_is_written_down(tmp_path: Path) -> None:
    path = tmp_path / "keys.sqlite"
    key = KeyStore(path).create("a", frozenset({"read"}), "ada")
    ring = KeyRing(path)
    ring.start()
    assert ring.find(key)
    ring.stop()
    with closing(sqlite3.connect(path)) as connection:
        ((used_at,),) = connection.execute("select used_at from keys").fetchall()
    assert abs(used_at - datetime.now(UTC).timestamp()) < 5


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "shop.example"])
def test_a_service_that_others_reach_is_closed_without_a_key(tmp_path: Path, host: str) -> None:
    ring = KeyRing(tmp_path / "keys.sqlite")
    local = {"method": "GET", "path": "/v1/models", "client": ("127.0.0.1", 1)}
    headers = {b"host": b"127.0.0.1:3000"}
    assert Access(ring, "127.0.0.1").admit(local, headers).name == "developer"
    with pytest.raises(Problem, match="send an API key"):
        Access(ring, host).admit(local, headers)
    for peer in (("10.0.0.9", 1), None):
        with pytest.raises(Problem, match="send an API key"):
            Access(ring, "127.0.0.1").admit(local | {"client": peer}, headers)
    with pytest.raises(Problem, match="send an API key"):  # as proxies speak that name nobody
        Access(ring, "127.0.0.1").admit(local | {"http_version": "1.0"}, headers)


def test_a_file_of_keys_that_goes_away_opens_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys.sqlite"
    key = KeyStore(path).create("shop", frozenset({"read"}), "ada")
    ring = KeyRing(path)
    path.unlink()
    ring.refresh()
    assert not ring.is_empty
    assert ring.find(key)


def test_scopes_hold_what_they_say() -> None:
    held = {scope: {one for one in SCOPES if Principal("k", frozenset({scope})).may(one)} for scope in SCOPES}
    own = {scope: {scope} for scope in ("recommend", "ingest", "read")}
    assert held == own | {"manage": {"manage", "read"}, "admin": set(SCOPES)}
    assert needed_scope("POST", "/v1/anything-new") == "manage"
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8", "0.0.0.0")] == [True] * 4 + [
        False
    ]
