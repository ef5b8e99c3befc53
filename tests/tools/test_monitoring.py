"""Monitoring on a real installation: honest traffic raises nothing, and each kind of damage its own alarm."""

from __future__ import annotations

import json
import logging
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
import typer
from pydantic import SecretStr
from typer.testing import CliRunner

from ingestion.event_stream import EventStream
from ingestion.load import admit_batch, load_pending
from ingestion.simulator import Simulator
from marquee.errors import BundleError, GateError, NothingToDo
from marquee.monitor import monitor as monitor_verb
from marquee.settings import Settings
from serving.schemas import RecommendRequest, RequestContext
from serving.scoring import Scorer
from serving.visitor_sessions import CurrentSession
from training import registry
from training.alerts import AlertError, post_alert
from training.dataset import TEST_SHARE, raw_session
from training.drift import Distribution
from training.monitoring import MonitorReport, monitor, require_calm, watch
from training.pipeline import require_latest_bundle
from training.promotion import promote
from training.readings import OF_BANNERS, Reading, outcome_readings
from training.reference import FEATURES
from training.registry import Promotion
from training.window import Window, read_window

pytestmark = pytest.mark.tools
REQUESTS = 1_500
CLOCK = ("campaign_age_hours", "campaign_left_hours", "day_of_week")
"""Features that a day and a half says nothing of."""
DAY = datetime(2026, 2, 2)
"""The day after the log, whose traffic is watched."""
NOW = DAY + timedelta(hours=36)
NAMES = (
    *(f"{kind} {name}" for name in (*FEATURES, "predictions") for kind in ("psi", "ks")),
    *("calibration", "click rate", "click rate before", "propensities", "exploration"),
    *("newest event", "newest training row", "online features"),
)


@pytest.fixture(scope="module")
def served(copied: Callable[[Path], Settings], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """An installation whose champion has answered a day's requests; visitors clicked by the simulator's own truth."""
    settings = copied(tmp_path_factory.mktemp("monitoring") / "home")
    settings = settings.model_copy(update={"attribution_days": 0.5, "monitor_hours": 36.0})
    tag = require_latest_bundle(settings)
    promote(settings, tag, "ada", "the smallest log")
    serve(settings)
    for batch in load_pending(settings):
        admit_batch(settings, batch.batch_id)
    return settings


def serve(settings: Settings) -> None:
    world = Simulator(seed=settings.seed, events=settings.events)
    asked, rng = world.requests(REQUESTS, 1), np.random.default_rng(1)
    order = np.argsort(asked.at)
    moments = {row: asked.at[row].astype("datetime64[us]").item() for row in order.tolist()}
    at = moments[int(order[0])]
    stream = EventStream(settings.log / "stream", "service-1")
    sessions: Any = DrawnSessions(settings)
    scorer = Scorer(settings, sessions, clock=lambda: at)
    clicks: list[dict[str, Any]] = []
    for row, at in moments.items():
        visitor, placement = str(asked.visitor_id[row]), str(asked.placement_id[row])
        context = RequestContext(device=str(asked.device[row]))
        answer = scorer.answer(RecommendRequest(visitor_id=visitor, placement=placement, n=2, context=context))
        stream.append_soon(answer.lines).result()
        slate = answer.response.slate
        chances = world.click_probabilities(
            asked, [row] * len(slate), [one.banner_id for one in slate], [one.position for one in slate]
        )
        clicks += [
            {
                "event_id": f"click-{one.impression_id}",
                "kind": "click",
                "occurred_at": at + timedelta(minutes=1),
                "visitor_id": visitor,
                "banner_id": one.banner_id,
                "placement_id": placement,
                "impression_id": one.impression_id,
            }
            for one, chance in zip(slate, chances, strict=True)
            if rng.random() < chance
        ]
    stream.append(clicks)
    stream.close()


class DrawnSessions:
    """The world has requests and no sessions: each gets one that the visitor had, or others later on such a page."""

    def __init__(self, settings: Settings) -> None:
        frame = pd.read_parquet(settings.features / "training_set.parquet")
        later = frame.iloc[int(len(frame) * (1 - TEST_SHARE)) :]
        first = later[later["position"] == 0]
        self.rows = dict(iter(first.groupby("placement_id")))
        self.own = dict(iter(frame[frame["position"] == 0].groupby("visitor_id")))
        self.rng = np.random.default_rng(2)

    def current(self, request: RecommendRequest, now: datetime) -> CurrentSession:
        """As ``VisitorSessions`` has it."""
        rows = self.own.get(request.visitor_id, self.rows[request.placement])
        row = rows.iloc[self.rng.integers(len(rows))]
        session = raw_session(row)
        if session is None:
            return CurrentSession(None)
        age = row["impressed_at"].to_pydatetime() - session["session_started_at"]
        return CurrentSession(session | {"session_started_at": now - age, "feature_at": now})


@contextmanager
def damaged(settings: Settings, *statements: str) -> Iterator[None]:
    """The warehouse after these statements, and as it was afterwards."""
    kept = settings.home / f"{uuid.uuid4().hex}.duckdb"
    shutil.copy2(settings.warehouse, kept)
    try:
        with duckdb.connect(str(settings.warehouse)) as connection:
            changed = [connection.execute(statement).fetchall() for statement in statements]
        assert all(rows != [(0,)] for rows in changed), "nothing was damaged"
        yield
    finally:
        kept.replace(settings.warehouse)


@pytest.fixture
def own(served: Settings, tmp_path: Path) -> Settings:
    """A copy that a test may change for good."""
    shutil.copytree(served.home, tmp_path / "home", ignore=shutil.ignore_patterns("dbt", "log"))
    return served.model_copy(update={"home": tmp_path / "home"})


OURS = "kind = 'impression' and policy like '%@banner_bundle:%'"
FLIPPED = (
    "create temp table clicked as select impression_id from raw.events where kind = 'click'",
    "delete from raw.events where kind = 'click' and event_id like 'click-%'",
    f"""insert into raw.events by name
        select 'click-' || impression_id as event_id, 'click' as kind, occurred_at + interval 1 minute as occurred_at,
            visitor_id, banner_id, placement_id, impression_id, batch_id
        from raw.events anti join clicked using (impression_id) where {OURS}""",
)


def shifted(feature: str, change: str) -> str:
    """SQL that puts another value into each logged feature; ``change`` sees the old one as ``x``."""
    new = change.replace("x", f"(features->>'{feature}')::double")
    return (
        "update raw.events set features = json_merge_patch(features::json, "
        f"json_object('{feature}', {new}))::varchar where {OURS} and features->>'{feature}' is not null"
    )


def alarms(report: MonitorReport) -> set[str]:
    assert tuple(reading.name for reading in report.readings) == NAMES
    json.dumps([reading.value for reading in report.readings], allow_nan=False)
    return {reading.name for reading in report.alarms}


def reading(report: MonitorReport, name: str) -> Reading:
    return next(one for one in report.readings if one.name == name)


def test_honest_traffic_raises_no_alarm_and_all_of_it_was_looked_at(served: Settings) -> None:
    report = monitor(served, NOW)
    assert alarms(report) == set(), report.alarms
    assert (report.impressions, report.judged, report.unread) == (REQUESTS * 2, REQUESTS * 2, 0)
    unsaid = [one.name for one in report.readings if one.verdict == "cannot say"]
    # There is no champion before it, and a day and a half is not a week.
    assert unsaid == [*(f"{kind} {name}" for name in CLOCK for kind in ("psi", "ks")), "click rate before"]
    require_calm(report)
    assert reading(report, "online features").value == 36


def test_a_bundle_holds_what_it_would_serve(served: Settings) -> None:
    bundle = registry.load_bundle(served, registry.require_champion(served))
    reference = bundle.report["reference"]
    assert set(reference["features"]) == set(FEATURES)
    kept = {name: Distribution.from_dict(values) for name, values in reference["features"].items()}
    kept["predictions"] = Distribution.from_dict(reference["predictions"])
    for name, one in kept.items():
        assert (one.count, sum(one.shares), len(one.quantiles)) == (reference["requests"], pytest.approx(1), 101), name
    assert sum(one["share"] for one in reference["placements"].values()) == pytest.approx(1)
    assert sum(one[2] for one in reference["calibration"]["bins"]) == reference["rows"] >= reference["requests"]
    # It chooses: what it would serve promises more than what the log happened to show.
    bins = reference["calibration"]["bins"]
    logged = sum(one[0] * one[2] for one in bins) / reference["rows"]
    assert np.mean(kept["predictions"].quantiles) > logged


@pytest.mark.parametrize("feature", [name for name in FEATURES if name not in (*OF_BANNERS, *CLOCK)])
def test_a_shifted_feature_is_named_and_no_other(served: Settings, feature: str) -> None:
    with damaged(served, shifted(feature, "x + 1000")):
        found = alarms(monitor(served, NOW))
    # What the ranker makes of it may follow.
    assert found - {"psi predictions", "ks predictions", "calibration"} == {f"psi {feature}", f"ks {feature}"}


def test_predictions_that_moved_are_named(served: Settings) -> None:
    with damaged(served, *(shifted(name, "x / 1000") for name in ("banner_click_rate", "affinity_match"))):
        assert {"psi predictions", "ks predictions"} <= alarms(monitor(served, NOW))


def test_part_of_a_day_has_other_hours_and_says_nothing_of_them(served: Settings) -> None:
    report = monitor(served, DAY + timedelta(hours=18), hours=18)
    unsaid = {one.name for one in report.readings if one.verdict == "cannot say"}
    assert {"psi hour_of_day", "ks hour_of_day"} <= unsaid
    assert not unsaid & {"psi device", "ks device", "propensities"}


@pytest.mark.parametrize("feature", OF_BANNERS)
def test_a_feature_of_few_banners_alarms_when_it_is_another_unit(served: Settings, feature: str) -> None:
    with damaged(served, shifted(feature, "x * 1000 + 1000")):
        found = alarms(monitor(served, NOW))
    assert f"ks {feature}" in found
    assert not any(name.endswith(one) for one in FEATURES if one != feature for name in found)


def test_features_lost_in_half_of_the_impressions_are_seen_though_the_values_left_are_as_before(
    served: Settings,
) -> None:
    lost = """update raw.events set features = regexp_replace(
        features, '"view_count_28d": ?[^,}]+', '"view_count_28d": null')"""
    with damaged(served, f"{lost} where {OURS} and hash(impression_id) % 2 = 0"):
        report = monitor(served, NOW)
    assert reading(report, "psi view_count_28d").verdict == "alarm"
    assert reading(report, "ks view_count_28d").verdict != "alarm"


def test_flipped_clicks_are_a_calibration_alarm_and_nothing_else(served: Settings) -> None:
    with damaged(served, *FLIPPED):
        report = monitor(served, NOW)
    assert alarms(report) == {"calibration"}
    assert (reading(report, "calibration").value or 0) > 3


def test_half_of_the_logs_click_rate_alarms_as_rate_and_as_calibration(served: Settings) -> None:
    kept = round(0.5 * (reading(monitor(served, NOW), "click rate").value or 0) ** -1 * 1000)
    cut = f"delete from raw.events where kind = 'click' and event_id like 'click-%' and hash(event_id) % 1000 >= {kept}"
    with damaged(served, cut):
        report = monitor(served, NOW)
    assert alarms(report) == {"calibration", "click rate"}
    assert reading(report, "click rate").value == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("value", ["null", "0", "-0.1", "1.5", "'nan'::double", "1e-6"])
def test_a_propensity_that_cannot_be_one_is_counted(served: Settings, value: str) -> None:
    some = f"(select impression_id from raw.events where {OURS} order by 1 limit 7)"
    with damaged(served, f"update raw.events set propensity = {value} where {OURS} and impression_id in {some}"):
        report = monitor(served, NOW)
    assert alarms(report) == {"propensities"}
    assert reading(report, "propensities").value == 7


def test_propensities_that_claim_too_much_exploration_are_noticed(served: Settings) -> None:
    with damaged(served, f"update raw.events set propensity = 0.5 where {OURS} and propensity > 0.9"):
        assert alarms(monitor(served, NOW)) == {"exploration"}


@pytest.mark.parametrize(("name", "days"), [("newest event", 1), ("online features", 1), ("newest training row", 2)])
def test_what_is_old_is_named(served: Settings, name: str, days: int) -> None:
    report = monitor(served, NOW + timedelta(days=days))
    assert name in alarms(report)
    assert alarms(report) <= {"newest event", "newest training row", "online features"}


def test_each_age_is_its_own(served: Settings) -> None:
    old = "update raw.events set occurred_at = occurred_at - interval 3 day"
    with damaged(served, "delete from marts.training_rows"):
        assert alarms(monitor(served, NOW)) == {"newest training row"}
    with damaged(served, old):
        assert alarms(monitor(served, NOW)) == {"newest event"}
    moments = served.features / "materialized.json"
    kept = moments.read_bytes()
    moments.unlink()
    try:
        assert alarms(monitor(served, NOW)) == {"online features"}
    finally:
        moments.write_bytes(kept)


def test_batches_that_no_gate_admitted_do_not_count(served: Settings) -> None:
    with damaged(
        served, "update raw.batches set status = 'loaded' where batch_id like '%stream%' or source = 'stream'"
    ):
        assert monitor(served, NOW).impressions == 0


def test_features_that_cannot_be_read_are_counted(served: Settings) -> None:
    some = f"(select impression_id from raw.events where {OURS} order by 1 limit 5)"
    with damaged(served, f"update raw.events set features = '[1]' where {OURS} and impression_id in {some}"):
        assert monitor(served, NOW).unread == 5


def test_too_little_traffic_says_nothing_rather_than_fine(served: Settings) -> None:
    report = monitor(served, NOW, hours=1)
    verdicts = {one.name: one.verdict for one in report.readings}
    assert set(list(verdicts.values())[:-3]) == {"cannot say"}


def window_of(settings: Settings) -> Window:
    return read_window(settings, registry.require_champion(settings), DAY, NOW)


def test_the_champion_before_is_the_measure_too(served: Settings) -> None:
    bundle = registry.load_bundle(served, registry.require_champion(served))
    before = window_of(served)
    lazy = np.random.default_rng(2).random(len(before)) < 0.5
    worse = replace(before, clicked=before.clicked & lazy)
    for now, verdict in ((before, "fine"), (worse, "alarm")):
        found = {one.name: one for one in outcome_readings(bundle.report["reference"], bundle, now, before, 7)}
        assert found["click rate before"].verdict == verdict


# --- what is told, and to whom ----------------------------------------------------------------------------------------


@contextmanager
def webhook(*statuses: int) -> Iterator[tuple[SecretStr, list[dict[str, Any]]]]:
    """A server on this machine that answers with these statuses in turn; its address and the bodies it got."""
    got: list[dict[str, Any]] = []
    left = list(statuses)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(left.pop(0))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield SecretStr(f"http://127.0.0.1:{server.server_port}/hooks/s3cret"), got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def quick(address: SecretStr, alert: dict[str, Any]) -> None:
    post_alert(address, alert, pause=0.01)


def test_an_alert_is_tried_again_and_never_logged_with_its_address(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "httpx"), webhook(500, 429, 200) as (address, got):
        quick(address, {"text": "x"})
    assert got == [{"text": "x"}] * 3
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize(("statuses", "reason"), [((500, 500, 500), "status 500"), ((404,), "status 404")])
def test_an_alert_that_nobody_takes_is_one_line(statuses: tuple[int, ...], reason: str) -> None:
    with webhook(*statuses) as (address, got), pytest.raises(AlertError) as told:
        quick(address, {})
    assert len(got) == len(statuses)
    assert reason in str(told.value)
    assert "s3cret" not in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("address", ["ftp://host/s3cret", "s3cret", "http://[s3cret"])
def test_what_is_no_address_is_not_tried(address: str) -> None:
    with pytest.raises(AlertError, match="is no http") as told:
        quick(SecretStr(address), {})
    assert "s3cret" not in str(told.value)


def test_the_webhook_gets_the_alarms_and_the_report_has_all(own: Settings) -> None:
    with webhook(200) as (address, got), damaged(own, *FLIPPED):
        report = watch(own.model_copy(update={"alert_webhook": address}), NOW, send=quick)
    (alert,) = got
    assert alert["bundle"] == registry.champion(own)
    assert [one["name"] for one in alert["alarms"]] == ["calibration"]
    assert "calibration" in alert["text"]
    assert (report.alert, report.rollback, report.is_alert_lost) == ("delivered", "", False)
    kept = json.loads((own.reports / "monitor.json").read_text())
    assert [one["name"] for one in kept["readings"]] == list(NAMES)
    page = (own.reports / "monitor.html").read_text()
    assert page.count("<img") == 3
    assert "calibration" in page
    with pytest.raises(GateError, match="1 alarms: calibration"):
        require_calm(report)


def test_calm_sends_nothing(own: Settings) -> None:
    with webhook() as (address, got):
        report = watch(own.model_copy(update={"alert_webhook": address}), NOW, send=quick)
    assert (got, report.alert) == ([], "")
    assert (own.reports / "monitor.html").exists()


def test_a_webhook_that_fails_hides_nothing(own: Settings) -> None:
    dead = SecretStr("http://127.0.0.1:1/s3cret")
    with damaged(own, *FLIPPED):
        report = watch(own.model_copy(update={"alert_webhook": dead}), NOW, send=quick)
    assert report.is_alert_lost
    for file in ("monitor.html", "monitor.json"):
        text = (own.reports / file).read_text()
        assert "alert not delivered: alert_webhook at 127.0.0.1" in text
        assert "s3cret" not in text
    with pytest.raises(GateError, match="alert not delivered"):
        require_calm(report)


# --- the rollback -----------------------------------------------------------------------------------------------------


def twin(settings: Settings, **changes: Any) -> str:
    """The champion's bundle with something of its report changed, stored as another; its tag."""
    folder = settings.home / "edited"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(registry.bundle_folder(settings, registry.require_champion(settings)), folder)
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    (folder / "report.json").write_text(json.dumps(report | changes), encoding="utf-8")
    return registry.store_bundle(settings, folder)


def put_in_force(settings: Settings, tag: str) -> None:
    registry.record(settings, Promotion(tag, "promoted", "2026-02-01T00:00:00", "ada", "", []))


def test_an_alarm_rolls_back_once_for_each_champion_and_never_twice_in_a_row(own: Settings) -> None:
    own = own.model_copy(update={"auto_rollback": True})
    tag = registry.require_champion(own)
    other, third = twin(own, note=1), twin(own, note=2)
    for name in (third, other, tag):
        put_in_force(own, name)
    with damaged(own, *FLIPPED):
        assert monitor(own, NOW).rollback == ""
        assert registry.champion(own) == tag, "to look changes nothing"
        assert watch(own, NOW).rollback == f"rolled back to {other}"
        line = registry.history(own)[-1]
        assert (line.tag, line.action, line.by, line.reason) == (other, "rolled back", "monitor", f"{tag}: calibration")
        with damaged(own, f"update raw.events set policy = 'epsilon-greedy@{other}' where {OURS}"):
            assert "rolled back for an alarm too" in watch(own, NOW).rollback
        put_in_force(own, tag)
        assert "it was once before" in watch(own, NOW).rollback
        assert registry.champion(own) == tag


def test_without_an_earlier_champion_the_report_says_so(own: Settings) -> None:
    tag = registry.champion(own)
    with damaged(own, *FLIPPED):
        assert "no earlier champion" in watch(own.model_copy(update={"auto_rollback": True}), NOW).rollback
    assert registry.champion(own) == tag


def test_off_or_without_a_cause_nothing_is_rolled_back(own: Settings) -> None:
    tag = registry.require_champion(own)
    put_in_force(own, twin(own, note=1))
    put_in_force(own, tag)
    with damaged(own, *FLIPPED):
        assert watch(own, NOW).rollback == ""
    with damaged(own, f"update raw.events set propensity = null where {OURS}"):
        report = watch(own.model_copy(update={"auto_rollback": True}), NOW)
    assert "propensities" in alarms(report)
    assert (report.rollback, registry.champion(own)) == ("", tag)


def test_bundles_of_older_versions_and_none_at_all_are_one_line(own: Settings, tmp_path: Path) -> None:
    put_in_force(own, twin(own, reference={}))
    with pytest.raises(BundleError, match="no reference statistics; train again"):
        monitor(own, NOW)
    with pytest.raises(NothingToDo, match="marquee promote"):
        monitor(Settings(home=tmp_path / "empty"), NOW)


def test_the_verb_reports_and_fails_on_an_alarm(own: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARQUEE_AS_OF", NOW.isoformat())
    monkeypatch.setenv("MARQUEE_ATTRIBUTION_DAYS", "0.5")
    app = typer.Typer()
    app.command("monitor")(monitor_verb)
    calm = CliRunner().invoke(app, ["--home", str(own.home), "--hours", "36", "--json"])
    assert calm.exit_code == 0, calm.output
    assert json.loads(calm.stdout)["impressions"] == REQUESTS * 2
    with damaged(own, *FLIPPED):
        loud = CliRunner().invoke(app, ["--home", str(own.home), "--hours", "36"])
    assert isinstance(loud.exception, GateError)
    assert loud.stdout.index("alarm      calibration") < loud.stdout.index("fine ")
