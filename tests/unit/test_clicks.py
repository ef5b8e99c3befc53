"""Signed click links, and what becomes of a click while the log is unwell."""

from __future__ import annotations

import asyncio
import json
import stat
import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from ingestion.event_stream import EventStream
from marquee.errors import MarqueeError, SettingsError
from marquee.settings import Settings, load_settings
from serving import clicks
from serving.clicks import Click, ClickLinks, ClickLog, open_links
from serving.http.clicks import CLICKS, router

LINKS = ClickLinks("s" * 64)
NOON = datetime(2026, 2, 2, 12)
ONE = Click("4f1c", 0, "b017", "v000123", "home_hero", None, "https://shop.example/boots")
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)
made = st.builds(
    Click,
    texts,
    st.integers(0, 49),
    texts,
    texts,
    texts,
    st.none() | texts,
    texts.map("https://shop.example/{}".format),
)


def token(url: str | None) -> str:
    assert url is not None
    return url.rpartition("/")[2]


@given(made)
def test_a_link_says_what_it_was_made_of(click: Click) -> None:
    url = LINKS.url(click)
    assert url is not None
    assert url.startswith(clicks.PATH)
    assert url.isascii()
    assert LINKS.read(token(url)) == click


@given(made, st.data())
def test_a_link_with_one_character_changed_is_none(click: Click, data: st.DataObject) -> None:
    text = token(LINKS.url(click))
    # The last character of each part carries bits that no byte needs.
    place = data.draw(st.sampled_from([i for i in range(len(text) - 1) if text[i] != "." and text[i + 1] != "."]))
    other = data.draw(st.sampled_from("ABCxyz019-_.").filter(lambda letter: letter != text[place]))
    assert LINKS.read(text[:place] + other + text[place + 1 :]) is None
    assert ClickLinks("t" * 64).read(text) is None
    assert LINKS.read(data.draw(st.text())) is None


@pytest.mark.parametrize("url", ["javascript:alert(1)", "//evil.example", "/relative", "ftp://shop.example", ""])
def test_a_link_leads_to_pages_only(url: str) -> None:
    assert LINKS.url(ONE._replace(landing_url=url)) is None
    signed: Any = LINKS._serializer.dumps(ONE._replace(landing_url=url))
    assert LINKS.read(signed) is None


def test_a_link_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    text, now = token(LINKS.url(ONE)), time.time()
    monkeypatch.setattr(time, "time", lambda: now + 29.9 * 86_400)
    assert LINKS.read(text) == ONE
    monkeypatch.setattr(time, "time", lambda: now + 30.1 * 86_400)
    assert LINKS.read(text) is None


def test_an_installation_has_one_secret_however_many_make_it_at_once(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "new")
    with ThreadPoolExecutor(8) as pool:
        links = list(pool.map(lambda _: open_links(settings), range(8)))
    assert {one.read(token(links[0].url(ONE))) for one in links if one and links[0]} == {ONE}
    assert [path.name for path in settings.home.iterdir()] == ["click.key"]
    assert stat.S_IMODE(settings.click_key.stat().st_mode) == 0o600
    settings.click_key.write_text("", encoding="ascii")
    with pytest.raises(MarqueeError, match=r"click\.key holds no secret"):
        open_links(settings)


def test_many_machines_have_links_only_with_a_secret_of_all(tmp_path: Path) -> None:
    url = SecretStr("redis://127.0.0.1:1/0")
    valkey = {"online_store": "valkey", "valkey_url": url, "event_log": "valkey"}
    assert open_links(Settings(home=tmp_path, **valkey)) is None
    both = [open_links(Settings(home=tmp_path / n, **valkey, click_secret=SecretStr("x" * 32))) for n in "ab"]
    assert both[0] is not None
    assert both[1] is not None
    assert both[1].read(token(both[0].url(ONE))) == ONE
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"), [("click_secret", "short"), ("public_url", "banners.shop.example"), ("public_url", "http://a?b")]
)
def test_settings_that_would_not_work_are_refused(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        load_settings(**{name: value})


class Lines:
    """A log that takes lines, refuses them, fails on them or never answers."""

    def __init__(self, how: str) -> None:
        self.how, self.taken = how, 0

    def append_soon(self, lines: list[bytes]) -> Future[None]:
        if self.how == "refuses":
            raise MarqueeError("the log is full")
        self.taken += len(lines)
        done: Future[None] = Future()
        if self.how == "takes":
            done.set_result(None)
        if self.how == "fails":
            done.set_exception(MarqueeError("no space is left"))
        return done


@pytest.mark.parametrize(
    ("how", "outcomes"),
    [
        ("takes", ["recorded", "repeated"]),
        ("refuses", ["not_stored", "not_stored"]),
        ("fails", ["not_stored", "not_stored"]),
        ("hangs", ["late", "late"]),
    ],
)
def test_what_becomes_of_a_click(how: str, outcomes: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clicks, "WAIT_SECONDS", 0.02)
    log = ClickLog(Lines(how), lambda: NOON)

    async def twice() -> list[str]:
        return [await log.record(ONE), await log.record(ONE)]

    assert asyncio.run(twice()) == outcomes


def test_a_process_remembers_so_many_clicks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clicks, "RECENT", 3)
    lines = Lines("takes")
    log = ClickLog(lines, lambda: NOON)

    async def all_of(positions: list[int]) -> list[str]:
        return [await log.record(ONE._replace(position=position)) for position in positions]

    assert asyncio.run(all_of([0, 1, 2, 3, 3, 1, 0])) == [*["recorded"] * 4, "repeated", "repeated", "recorded"]
    assert lines.taken == 5


def test_a_log_that_takes_nothing_stops_no_shopper(tmp_path: Path) -> None:
    """The route itself, over a real stream that is closed."""
    stream = EventStream(tmp_path, "service-1")
    woken: list[int] = []
    sessions = SimpleNamespace(wake=lambda: woken.append(1))
    app = FastAPI()
    app.include_router(router)
    app.state.worker = SimpleNamespace(links=LINKS, clicks=ClickLog(stream, lambda: NOON), sessions=sessions)

    async def follow(click: Click) -> tuple[int, str]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://marquee") as client:
            answer = await client.get(LINKS.url(click) or "")
        return answer.status_code, answer.headers["location"]

    before = CLICKS.labels("not_stored")._value.get()
    assert asyncio.run(follow(ONE)) == (302, ONE.landing_url)
    stream.close()
    assert asyncio.run(follow(ONE._replace(position=1))) == (302, ONE.landing_url)
    assert CLICKS.labels("not_stored")._value.get() == before + 1
    (row,) = map(json.loads, stream.file.read_text(encoding="utf-8").splitlines())
    assert (row["event_id"], row["kind"], row["occurred_at"]) == ("4f1c-0-click", "click", "2026-02-02T12:00:00")
    assert woken == [1]
