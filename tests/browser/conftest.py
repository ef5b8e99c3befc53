"""A real browser, told what to do through its DevTools protocol."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

SWITCHES = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--disable-extensions", "--disable-sync", "--window-size=900,700"),
    *("--remote-debugging-port=0", "--remote-allow-origins=*"),
)


class Browser:
    """One tab."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self.faults: list[str] = []
        """What went wrong in pages and nobody caught."""
        for domain in ("Page", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            told = json.loads(self._connection.recv(timeout=30))
            if told.get("method") == "Runtime.exceptionThrown":
                self.faults.append(json.dumps(told["params"]["exceptionDetails"]))
            if told.get("id") == number:
                assert "error" not in told, told
                return told["result"]

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait(f"document.readyState == 'complete' && location.href == {json.dumps(url)}")

    def value(self, expression: str) -> Any:
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def wait(self, expression: str, seconds: float = 15.0) -> None:
        until = time.monotonic() + seconds
        while not self.value(f"!!({expression})"):
            assert time.monotonic() < until, f"never: {expression}: {self.value('document.body.outerHTML')[:2000]}"
            time.sleep(0.05)

    def click(self, expression: str) -> None:
        """Press and release the mouse in the middle of an element."""
        middle = f"(r => [r.x + r.width / 2, r.y + r.height / 2])({expression}.getBoundingClientRect())"
        x, y = self.value(middle)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium is installed")
    folder = tmp_path_factory.mktemp("chromium")
    command = [program, *SWITCHES, f"--user-data-dir={folder}", "about:blank"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = _port(folder / "DevToolsActivePort", child)
        tabs = httpx.get(f"http://127.0.0.1:{port}/json/list", timeout=30).json()
        address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
        with connect(address, max_size=None, proxy=None) as connection:
            yield Browser(connection)
    finally:
        child.terminate()
        child.wait(20)


def _port(file: Path, child: subprocess.Popen[bytes]) -> int:
    until = time.monotonic() + 60
    while not (file.exists() and file.read_text(encoding="utf-8").count("\n")):
        assert child.poll() is None, "Chromium ended at once"
        assert time.monotonic() < until, "Chromium does not start"
        time.sleep(0.1)
    return int(file.read_text(encoding="utf-8").splitlines()[0])
