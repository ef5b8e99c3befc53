"""From a Google Analytics 4 export to the page that is recommended: ingested, built, trained, promoted, asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingestion.load import admit_batch, ingest
from ingestion.sources import open_source
from ingestion.transform import transform
from marquee.process import free_port
from marquee.settings import Settings, quiet_environment
from serving.client import Client
from training import registry
from training.pipeline import require_latest_bundle
from training.promotion import promote

pytestmark = [pytest.mark.tools, pytest.mark.slow]
SHOP = "https://shop.example"
STEPS: dict[str, dict[str, float]] = {
    "/start": {"/outlet": 0.6, "/advice": 0.15},
    "/outlet": {"/start": 0.2},
    "/advice": {"/till": 0.7, "/start": 0.1},
    "/till": {},
}
"""Most people go on to the outlet, where nobody buys; of those who are advised most buy."""
FIRST_DAY = datetime(2026, 1, 5)
ASSEMBLE = (
    "import sys; from pathlib import Path; from marquee.settings import Settings; "
    "from training.pipeline import assemble_bundle; assemble_bundle(Settings(home=Path(sys.argv[1])))"
)


def line(name: str, visitor: int, at: datetime, page: str, **other: Any) -> dict[str, Any]:
    """An event as BigQuery exports it."""
    params = [
        {"key": "ga_session_id", "value": {"int_value": str(visitor)}},
        {"key": "page_location", "value": {"string_value": f"{SHOP}{page}?utm_source=x"}},
    ]
    stamp = int((at - datetime(1970, 1, 1)).total_seconds() * 1e6)
    device = {"category": "mobile"}
    named = {"event_name": name, "event_timestamp": str(stamp), "user_pseudo_id": f"ga.{visitor}"}
    return named | {"event_params": params, "device": device, "items": []} | other


def session(visitor: int, at: datetime, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """One visitor's way through the shop; who reaches the till buys for 80."""
    page: str | None = "/start"
    while page is not None:
        yield line("page_view", visitor, at, page)
        at += timedelta(seconds=float(rng.uniform(5, 60)))
        if page == "/till":
            items = [{"item_id": "ga-lamp", "price": 80.0, "quantity": 1}]
            yield line("purchase", visitor, at, page, items=items, ecommerce={"transaction_id": f"t{visitor}"})
        ways = STEPS[page]
        drawn = rng.choice(len(ways) + 1, p=[*ways.values(), 1.0 - sum(ways.values())])
        page = [*ways, None][drawn]


def export(folder: Path, sessions: int = 1_500) -> Path:
    """A file a day of a GA4 export."""
    rng = np.random.default_rng(5)
    days: dict[str, list[str]] = {}
    for visitor in range(sessions):
        at = FIRST_DAY + timedelta(days=int(rng.integers(10)), hours=8, seconds=int(rng.integers(36_000)))
        lines = [json.dumps(one) for one in session(visitor, at, rng)]
        days.setdefault(at.strftime("%Y%m%d"), []).extend(lines)
    folder.mkdir()
    for day, lines in days.items():
        (folder / f"events_{day}.json").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def shop(copied: Callable[[Path], Settings], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The installation with the export ingested, built, and a bundle that was assembled and promoted since."""
    home = tmp_path_factory.mktemp("ga4")
    settings = copied(home / "home").model_copy(update={"service_port": free_port("127.0.0.1", 0)})
    before = require_latest_bundle(settings)
    batch = ingest(open_source("ga4", export(home / "export")), settings)
    admit_batch(settings, batch.batch_id)
    transform(settings)
    command = [sys.executable, "-c", ASSEMBLE, str(settings.home)]
    done = subprocess.run(
        command, env=os.environ | quiet_environment(settings), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    tag = require_latest_bundle(settings)
    assert tag != before
    promote(settings, tag, "ada", override="assembled for its pages")
    return settings


def test_the_exports_pages_are_learnt_and_what_pays_is_recommended_by_the_service(
    shop: Settings, serving: Callable[[Settings], AbstractContextManager[Any]]
) -> None:
    tag = registry.require_champion(shop)
    bundle = registry.load_bundle(shop, tag)
    assert bundle.pages is not None
    start = bundle.pages.figures("/start")
    assert start is not None
    assert (start.visit_count, start.entry_count) == views(shop.home.parent / "export")
    with serving(shop) as served, Client(str(served.client.base_url), timeout=5) as client:
        told = client.next_pages(["/start"], n=2)
        assert (told.bundle, told.fallback, told.current) == (tag, None, "/start")
        assert [one.page for one in told.next] == ["/outlet", "/advice"]
        assert told.next[0].probability == pytest.approx(0.6 / 0.75, abs=0.05)
        assert told.recommended is not None
        assert (told.recommended.page, told.recommended.gain > 0) == ("/advice", True)
        # Seven of ten who are advised go to the till and buy for 80.
        assert told.recommended.value == pytest.approx(0.7 * 80, abs=10)
        assert client.next_pages(["/start", "/advice"]).next[0].page == "/till"
        found = served.client.get("/v1/pages/graph", params={"page": "/till"}).json()
        assert [(edge["from_page"], edge["to_page"]) for edge in found["edges"]] == [("/advice", "/till")]
        (row,) = served.client.get("/v1/pages/policy", params={"page": "/start"}).json()["items"]
        assert row["recommended"]["page"] == "/advice"
        clusters = served.client.get("/v1/pages/clusters").json()["items"]
        assert sum(one["page_count"] for one in clusters) == len(bundle.pages)


def views(folder: Path) -> tuple[int, int]:
    """Views of the start page in the export, and sessions: each begins there."""
    lines = [json.loads(one) for file in folder.glob("*.json") for one in file.read_text().splitlines()]
    starts = [one for one in lines if one["event_name"] == "page_view" and "/start?" in str(one["event_params"])]
    return len(starts), len({one["user_pseudo_id"] for one in starts})
