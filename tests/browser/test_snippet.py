"""The page's script in a real browser, on a page of another origin than the service's."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from marquee.process import free_port, running_service
from marquee.settings import ROOT, Settings
from serving.client import Banner, Campaign, Client

pytestmark = pytest.mark.tools
EXAMPLE = re.findall(r"```html\n(.*?)```", (ROOT / "docs" / "clients.md").read_text(encoding="utf-8"), re.DOTALL)[0]
SCRIPT = (ROOT / "serving" / "static" / "marquee.js").read_text(encoding="utf-8")
PAYLOAD = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
NOW = datetime(2026, 2, 2, 12, tzinfo=UTC)
HEAD = '<!DOCTYPE html><meta charset="utf-8"><style>a {display: block; height: 90px; border: 1px solid}</style>'
PICTURE = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="300" height="80"><rect width="300" height="80" fill="teal"/></svg>'
)


class Pages:
    """A small web server: pages by path, and what was posted to it."""

    def __init__(self) -> None:
        self.by_path: dict[str, str] = {}
        self.posts: list[tuple[str, Any]] = []
        self.answers: dict[str, list[tuple[int, Any]]] = {}
        own = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                text = own.by_path.get(self.path)
                kind = "image/svg+xml" if self.path.endswith(".svg") else "text/html"
                self._tell(200 if text else 404, kind, text or "")

            def do_POST(self) -> None:
                own.posts.append((self.path, json.loads(self.rfile.read(int(self.headers["content-length"])))))
                answers = own.answers[self.path]
                status, body = answers.pop(0) if len(answers) > 1 else answers[0]
                self._tell(status, "application/json", json.dumps(body))

            def _tell(self, status: int, kind: str, text: str) -> None:
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *words: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def add(self, path: str, body: str) -> str:
        self.by_path[path] = body if path.endswith(".svg") else HEAD + body
        return self.address + path


class Shop:
    """A running service with a page's key, and three banners to show."""

    def __init__(self, settings: Settings, address: str, key: str) -> None:
        self.settings, self.address, self.key = settings, address, key

    def logged(self, kind: str) -> list[dict[str, Any]]:
        files = sorted((self.settings.log / "stream").glob("*.jsonl"))
        rows = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
        return [row for row in rows if row["kind"] == kind]

    def of(self, kind: str, answer: dict[str, Any]) -> list[str]:
        """Banners of an answer of which an event of this kind was logged, each as often as it was."""
        rows = self.logged(kind)
        return sorted(row["banner_id"] for row in rows if row["impression_id"].startswith(answer["request_id"]))

    def wait_for(self, kind: str, answer: dict[str, Any], wanted: list[str]) -> None:
        until = time.monotonic() + 15
        while self.of(kind, answer) != wanted:
            assert time.monotonic() < until, (self.of(kind, answer), wanted)
            time.sleep(0.1)


@pytest.fixture(scope="module")
def pages() -> Iterator[Pages]:
    pages = Pages()
    pages.add("/landed", "<title>landed</title>shoes")
    pages.add("/banner.svg", PICTURE)
    yield pages
    pages.server.shutdown()
    pages.server.server_close()


@pytest.fixture(scope="module")
def shop(copied: Callable[[Path], Settings], pages: Pages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    from serving.keys import KeyStore
    from training.pipeline import require_latest_bundle
    from training.promotion import promote

    port = free_port("127.0.0.1", 0)
    address = f"http://127.0.0.1:{port}"
    chosen = {"service_port": port, "cors_origins": pages.address, "public_url": address, "deadline": 20.0}
    settings = copied(tmp_path_factory.mktemp("shop")).model_copy(update=chosen)
    promote(settings, require_latest_bundle(settings), "ada")
    store = KeyStore(settings.keys)
    key = store.create("web", frozenset({"recommend", "ingest"}), "ada")
    manage = store.create("marketer", frozenset({"manage"}), "ada")
    with running_service(settings, settings.home / "service.log"):
        with Client(address, manage, timeout=10) as client:
            client.put(
                Campaign(
                    campaign_id="own",
                    starts_at=NOW - timedelta(1),
                    ends_at=NOW + timedelta(1),
                    is_exclusive=True,
                    priority=9,
                )
            )
            landing = f"{pages.address}/landed"
            client.put_all(
                [
                    Banner(banner_id="evil", campaign_id="own", title=PAYLOAD),
                    Banner(banner_id="link", campaign_id="own", title="Shoes", landing_url=landing),
                    Banner(
                        banner_id="image",
                        campaign_id="own",
                        title="Hats",
                        landing_url=landing,
                        image_url=f"{pages.address}/banner.svg",
                    ),
                ]
            )
        time.sleep(1.5)
        yield Shop(settings, address, key)


def show(shop: Shop, pages: Pages, path: str, options: str = "", below: str = "") -> str:
    """The address of a page with the document's own example on it; the answer is in ``window.answer``."""
    text = EXAMPLE.replace("http://localhost:3000", shop.address).replace("mq_…", shop.key).replace("n: 2", "n: 3")
    text = text.replace(f'"{shop.key}"', f'"{shop.key}"{options}')
    text = text.replace("marquee({", "window.answer = marquee({").replace('id="hero">', 'id="hero">sale')
    return pages.add(path, text + below)


BANNERS = "document.querySelectorAll('#hero > a').length"
ANSWER = "answer.then(a => JSON.parse(JSON.stringify(a)))"


def test_banners_are_shown_as_text_links_and_images(browser: Any, shop: Shop, pages: Pages, tmp_path: Path) -> None:
    browser.open(show(shop, pages, "/shown"))
    browser.wait(f"{BANNERS} == 3")
    answer = browser.value(ANSWER)
    by_id = {banner["banner_id"]: banner for banner in answer["slate"]}
    assert set(by_id) == {"evil", "link", "image"}
    links = dict(browser.value("[...document.querySelectorAll('#hero > a')].map(a => [a.textContent, a.href])"))
    assert links == {PAYLOAD: "", "Shoes": by_id["link"]["click_url"], "": by_id["image"]["click_url"]}
    browser.wait("document.querySelector('#hero img').naturalWidth == 300")
    assert browser.value("document.querySelector('#hero img').alt") == "Hats"
    assert browser.value("[...document.querySelectorAll('img, #hero script')].length") == 1
    assert browser.value("window.hacked") is None
    browser.picture(tmp_path / "shown.png")
    assert browser.faults == []


def test_only_what_was_on_the_screen_for_a_second_is_seen(browser: Any, shop: Shop, pages: Pages) -> None:
    pages_below = f"""<div style="height: 3000px"></div><div id="below"></div><script>
        window.second = marquee({{url: "{shop.address}", key: "{shop.key}"}})
            .show(document.getElementById("below"), {{placement: "category_top", n: 1}});</script>"""
    browser.open(show(shop, pages, "/seen", below=pages_below))
    browser.wait(f"{BANNERS} == 3 && document.querySelector('#below > a')")
    above = browser.value(ANSWER)
    below = browser.value(ANSWER.replace("answer", "second"))
    shop.wait_for("seen", above, ["evil", "image", "link"])
    browser.value("scrollTo(0, 9999), setTimeout(() => scrollTo(0, 0), 500)")
    time.sleep(3)
    assert shop.of("seen", below) == [], "not a whole second"
    browser.value("scrollTo(0, 9999)")
    shop.wait_for("seen", below, [below["slate"][0]["banner_id"]])
    browser.value("scrollTo(0, 0)")
    time.sleep(2.5)
    assert shop.of("seen", above) == ["evil", "image", "link"], "once"
    visitor = browser.value("localStorage.marquee")
    assert re.fullmatch("[0-9a-f]{32}", visitor)
    rows = [row for row in shop.logged("seen") if row["impression_id"].startswith(above["request_id"])]
    assert {row["visitor_id"] for row in rows} == {visitor}
    assert browser.faults == []


def test_a_click_is_reported_once_and_leads_on(browser: Any, shop: Shop, pages: Pages) -> None:
    url = show(shop, pages, "/clicked")
    browser.open(url)
    browser.wait(f"{BANNERS} == 3")
    answer = browser.value(ANSWER)
    find = "[...document.querySelectorAll('#hero > a')].find(a => a.textContent == '{}')"
    browser.click("document.querySelector('#hero > a:not([href])')")
    browser.click("document.querySelector('#hero > a:not([href])')")
    shop.wait_for("click", answer, ["evil", "evil"])
    rows = [row for row in shop.logged("click") if row["banner_id"] == "evil"]
    assert len({row["event_id"] for row in rows}) == 1, "the log counts an id once"
    browser.click(find.format("Shoes"))
    browser.wait(f"location.href == '{pages.address}/landed'")
    assert shop.of("click", answer) == ["evil", "evil", "link"]
    assert browser.faults == []


@pytest.mark.parametrize("how", ["store", "signal"])
def test_nothing_is_kept_of_a_visitor_who_refused(browser: Any, shop: Shop, pages: Pages, how: str) -> None:
    browser.open(pages.address + "/landed")
    browser.value("localStorage.clear()")
    source = "Object.defineProperty(navigator, 'globalPrivacyControl', {value: true})" if how == "signal" else ""
    script = browser.call("Page.addScriptToEvaluateOnNewDocument", source=source)
    browser.open(show(shop, pages, f"/refused-{how}", ", store: false" if how == "store" else ""))
    browser.wait(f"{BANNERS} == 3")
    browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script["identifier"])
    answer = browser.value(ANSWER)
    assert browser.value("localStorage.length") == 0
    assert browser.value("document.cookie") == ""
    shop.wait_for("seen", answer, ["evil", "image", "link"])
    for kind in ("impression", "seen"):
        rows = [row for row in shop.logged(kind) if row["impression_id"].startswith(answer["request_id"])]
        assert {row["visitor_id"] for row in rows} == {answer["request_id"]}


def test_a_service_that_is_away_leaves_the_page_as_it_was(browser: Any, shop: Shop, pages: Pages) -> None:
    nowhere = f"http://127.0.0.1:{free_port('127.0.0.1', 0)}"
    calls = ["{}", f'{{url: "{nowhere}"}}', f'{{url: "{shop.address}", key: "mq_wrong"}}', ""]
    asks = ['el, {placement: "home_hero"}', 'null, {placement: "home_hero"}', "el", ""]
    tries = ", ".join(f"marquee({call}).show({ask})" for call in calls for ask in asks)
    body = f"""<div id="hero"><b>our own sale</b></div><script>{SCRIPT}</script><script>
        let el = document.getElementById("hero");
        window.done = Promise.all([{tries}]).then(all => all.filter(one => one).length);</script>"""
    browser.open(pages.add("/away", body))
    assert browser.value("done") == 0
    assert browser.value("el.innerHTML") == "<b>our own sale</b>"
    assert browser.faults == []


def test_a_hostile_answer_runs_nothing_and_reports_are_sent_once_more(browser: Any, pages: Pages) -> None:
    banner = {"banner_id": "b", "impression_id": "r-0", "title": PAYLOAD, "landing_url": "javascript:window.hacked=1"}
    pages.answers["/fake/v1/banners/recommend"] = [(200, {"request_id": "r", "slate": [banner]})]
    pages.answers["/fake/v1/events"] = [(503, {}), (202, {"accepted": 1})]
    body = f"""<div id="hero"></div><script>{SCRIPT}</script><script>
        marquee({{url: "/fake", visitor: "v-1"}}).show(document.getElementById("hero"), {{placement: "p"}});</script>"""
    browser.open(pages.add("/hostile", body))
    browser.wait(f"{BANNERS} == 1")
    browser.click("document.querySelector('#hero > a')")
    time.sleep(4.5)
    reports = [report for path, report in pages.posts if path.endswith("/events")]
    assert [[event["event_id"] for event in report] for report in reports[:1]] == [["r-0-click"]]
    assert sorted(event["event_id"] for report in reports for event in report) == ["r-0-click", "r-0-click", "r-0-seen"]
    assert {event["visitor_id"] for report in reports for event in report} == {"v-1"}
    assert browser.value("window.hacked") is None
    assert browser.value("document.querySelector('#hero > a').textContent") == PAYLOAD
    assert not browser.value("document.querySelector('#hero > a').hasAttribute('href')")
    assert browser.faults == []
