"""The real service, as a process on a real installation: slates, what it logs, and how it follows its installation."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

from expectations.validate import check_raw
from features.matrix import SESSION_FIELDS
from features.store import open_store
from features.training_set import join_features
from ingestion.load import admit_batch, load_pending, quarantine_batch
from marquee import contract
from marquee.errors import MarqueeError
from marquee.process import free_port, running_service
from marquee.settings import Settings
from training import registry
from training.promotion import promote
from training.replayed import encoded

pytestmark = pytest.mark.tools
RECOMMEND, MODEL, MODELS = "/v1/banners/recommend", "/v1/model", "/v1/models"
GOOD = {"visitor_id": "v000001", "placement": "home_hero", "n": 2}

# --- slates ---------------------------------------------------------------------------------------------------------


def test_a_known_visitor_gets_a_personal_explained_slate(served: Any) -> None:
    body = {"visitor_id": served.known, "placement": served.placement, "n": 3}
    answer = served.client.post(RECOMMEND, json=body)
    assert answer.status_code == 200
    told = answer.json()
    assert told["fallback"] is None
    assert told["bundle"] == registry.champion(served.settings)
    assert told["policy"] == "epsilon-greedy"
    slate = told["slate"]
    assert [banner["position"] for banner in slate] == [0, 1, 2]
    assert len({banner["banner_id"] for banner in slate}) == 3
    for banner in slate:
        assert banner["impression_id"] == f"{told['request_id']}-{banner['position']}"
        assert 0 < banner["propensity"] <= 1
        assert 0 < banner["score"] < 1
        assert 1 <= len(banner["reasons"]) <= 3
        assert banner["title"]
        assert banner["campaign_id"]
    reasons = [reason for banner in slate for reason in banner["reasons"]]
    assert any("of this visitor's recent interest is in" in reason for reason in reasons)


def test_a_visitor_never_seen_gets_a_slate_that_says_so(served: Any) -> None:
    body = {"visitor_id": "someone-new", "placement": served.placement}
    told = served.client.post(RECOMMEND, json=body).json()
    assert told["fallback"] == "cold_visitor"
    assert len(told["slate"]) == 3
    assert not any("this visitor" in reason for banner in told["slate"] for reason in banner["reasons"])


def test_nothing_eligible_is_an_empty_slate(served: Any) -> None:
    answer = served.client.post(RECOMMEND, json={"visitor_id": served.known, "placement": "nowhere"})
    assert answer.status_code == 200
    assert answer.json()["slate"] == []
    assert answer.json()["fallback"] == "nothing_eligible"


# --- what is logged -------------------------------------------------------------------------------------------------


def test_logged_impressions_hold_what_training_will_join(served: Any) -> None:
    """Loaded and admitted, their features are those that the offline store knows at that moment: no skew."""
    settings = served.settings
    shown = {}
    for visitor_id, placement in [*served.visitors(), ("brand-new", served.placement)]:
        body = {"visitor_id": visitor_id, "placement": placement, "n": 2, "context": {"device": "mobile", "page": "/"}}
        told = served.client.post(RECOMMEND, json=body).json()
        shown |= {banner["impression_id"]: (banner, visitor_id, placement) for banner in told["slate"]}
    assert len(shown) > 30
    load_pending(settings)
    verdicts = check_raw(settings, partial(admit_batch, settings), partial(quarantine_batch, settings))
    assert [verdict.failures for verdict in verdicts if not verdict.passed] == []
    query = "select * from raw.events where kind = 'impression' and impression_id in (select unnest(?))"
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        rows = connection.execute(query, [list(shown)]).df()
        admitted = connection.execute("select batch_id from raw.batches where status = 'admitted'").fetchall()
    assert set(rows["batch_id"]) <= {batch_id for (batch_id,) in admitted}
    assert sorted(rows["impression_id"]) == sorted(shown)
    for row in rows.to_dict("records"):
        banner, visitor_id, placement = shown[row["impression_id"]]
        assert (row["visitor_id"], row["placement_id"]) == (visitor_id, placement)
        assert (row["banner_id"], row["position"]) == (banner["banner_id"], banner["position"])
        assert (row["propensity"], row["device"], row["page"]) == (banner["propensity"], "mobile", "/")
        assert row["policy"] == f"epsilon-greedy@{registry.champion(settings)}"
        assert row["occurred_at"].to_pydatetime() == settings.as_of
    names = list(contract.RANKER_FEATURES)
    told = [json.loads(text, parse_constant=str) for text in rows["features"]]
    assert all(list(features) == [*names, "as_of"] for features in told)
    logged_matrix = np.array([[np.nan if f[n] is None else f[n] for n in names] for f in told], dtype=np.float32)
    assert logged_matrix == pytest.approx(offline_matrix(settings, rows), rel=1e-6, nan_ok=True)
    is_new = (rows["visitor_id"] == "brand-new").to_numpy()
    assert np.isnan(logged_matrix[is_new, names.index("view_count_28d")]).all()
    assert np.nanstd(logged_matrix[:, names.index("affinity_cosine")]) > 0.01


def offline_matrix(settings: Settings, impressions: pd.DataFrame) -> Any:
    """The ranker's inputs as training computes them: joined point in time from the offline store, first position."""
    bundle = registry.load_bundle(settings, registry.champion(settings) or "")
    rows = impressions[["impression_id", "visitor_id", "banner_id", "placement_id", "device"]].copy()
    rows["impressed_at"], rows["position"] = impressions["occurred_at"].astype("datetime64[us]"), 0
    # Nothing but banners was in these visitors' sessions.
    joined = join_features(open_store(settings), rows).assign(**dict.fromkeys(SESSION_FIELDS))
    return encoded(bundle, joined, joined["banner_id"])


# --- running it -----------------------------------------------------------------------------------------------------


def another_bundle(settings: Settings) -> str:
    folder = settings.home / "another"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(registry.bundle_folder(settings, registry.champion(settings) or ""), folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["policy"]["exploration"] = 0.5
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return registry.store_bundle(settings, folder)


def seconds_until(served: Any, tag: str) -> float:
    since = time.monotonic()
    while served.client.post(MODEL).json()["bundle"] != tag:
        assert time.monotonic() < since + 5, f"the service does not follow to {tag}"
        time.sleep(0.05)
    return time.monotonic() - since


def test_a_running_service_follows_promotion_and_rollback(served: Any) -> None:
    first = registry.champion(served.settings) or ""
    assert served.client.post(MODEL).json()["bundle"] == first
    second = another_bundle(served.settings)
    promote(served.settings, second, "ada", override="to see the service follow")
    assert seconds_until(served, second) < 2
    assert served.client.post(MODEL).json()["exploration"] == 0.5
    assert served.client.post(RECOMMEND, json=GOOD).json()["bundle"] == second
    registry.roll_back(served.settings, "ada", "seen", datetime(2026, 2, 3))
    assert seconds_until(served, first) < 2
    assert served.client.post(RECOMMEND, json=GOOD).json()["bundle"] == first


def test_200_requests_over_8_threads_all_answer(served: Any) -> None:
    visitors = [visitor_id for visitor_id, _ in served.visitors()]

    def ask(number: int) -> tuple[int, str]:
        body = GOOD | {"visitor_id": visitors[number % len(visitors)]}
        answer = served.client.post(RECOMMEND, json=body)
        return answer.status_code, answer.json()["request_id"]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(200)))
    assert [status for status, _ in answers] == [200] * 200
    requests = {request_id for _, request_id in answers}
    assert len(requests) == 200
    written = [row["request_id"] for row in served.logged() if row["kind"] == "impression"]
    assert all(written.count(request_id) == 2 for request_id in requests)


def test_health_metrics_and_schema_are_there(served: Any) -> None:
    for path in ("/livez", "/readyz"):
        assert served.client.get(path).status_code == 200
    served.client.post(RECOMMEND, json=GOOD)
    assert (
        'marquee_http_seconds_count{route="/v1/banners/recommend",status="200"}' in served.client.get("/metrics").text
    )
    assert {RECOMMEND, MODEL, MODELS} <= set(served.client.get("/v1/openapi.json").json()["paths"])
    running = served.client.get(MODELS).json()
    assert running["banners"] == 82
    assert running["trained_until"] < "2026-02-02"
    assert served.client.post(MODEL).json() == running


def test_a_path_with_a_line_break_is_answered_as_any_other(served: Any) -> None:
    for path in ("/v1/nowhere%0A", "/%0A/v1/visitors", "/v1/campaigns/%0Ac"):
        answer = served.client.get(path)
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["request_id"]


def test_a_port_that_is_taken_is_named(served: Any, tmp_path: Path) -> None:
    """Also by a healthy service, whose answers must not be taken for the new one's."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        for port in (served.settings.service_port, other.getsockname()[1]):
            settings = served.settings.model_copy(update={"service_port": port})
            named = f"port {port} on 127.0.0.1 is taken; choose another with --port"
            with pytest.raises(MarqueeError, match=named), running_service(settings, tmp_path / "service.log"):
                pass


def test_without_a_champion_the_service_ends_with_one_line(copied: Callable[[Path], Settings], tmp_path: Path) -> None:
    settings = copied(tmp_path / "home").model_copy(update={"service_port": free_port("127.0.0.1", 0)})
    log = tmp_path / "service.log"
    line = "error: no bundle has been promoted yet: run `marquee train`, then `marquee promote`"
    with pytest.raises(MarqueeError) as told, running_service(settings, log):
        pass
    assert line in str(told.value)
    assert str(log) in str(told.value)
    assert log.read_text(encoding="utf-8").splitlines() == [line]
