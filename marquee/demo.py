"""The demo: clickstream to a served, explained slate, through the DAGs that a data engineer would schedule.

Part of the composition root, as ``cli`` is: it brings all packages together, inside its functions.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from marquee import console
from marquee.errors import MarqueeError
from marquee.process import environment, free_port, migrate, running_service
from marquee.settings import Settings, load_settings, quiet_environment, settings_now

TASKS: Final = {
    "ingest_events": ("forget_pending", "read_source", "load_log", "check_raw"),
    "transform_events": ("build_marts", "check_training_rows", "materialize_features"),
    "train_models": ("flag_sessions", "join_features", "train_retrieval", "train_ranker", "assemble_bundle"),
    "promote_bundle": ("judge_and_promote",),
}
STEPS: Final = 1 + sum(map(len, TASKS.values())) + 3
REQUESTS: Final = 3_000
FAILURE: Final = re.compile(r"AirflowFailException: (.*)")
TASK_LINE: Final = re.compile(r"\[DAG TEST\] (starting|end task) task_id=(\w+)")


class Steps:
    """Numbered progress on stdout, a line as each step ends, so that a log reads as well as a terminal."""

    def __init__(self) -> None:
        self._number = 0
        self._since = time.monotonic()

    def begin(self, title: str) -> None:
        """Announce a step on a terminal; its line is rewritten when it ends."""
        self._since = time.monotonic()
        if sys.stdout.isatty():
            self._write(f"\r{self._bar()} {title} …")

    def end(self, title: str, note: str = "") -> None:
        """Close a step with the seconds it took."""
        self._number += 1
        taken = time.monotonic() - self._since
        self._write(f"{chr(13) if sys.stdout.isatty() else ''}{self._bar()} {title:<38} {taken:5.1f} s  {note}\n")

    def _bar(self) -> str:
        done = round(20 * self._number / STEPS)
        return f"[{'█' * done}{'·' * (20 - done)}] {self._number:>2}/{STEPS}"

    @staticmethod
    def _write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def run(home: Path, source: str, path: Path | None, events: int | None, serve_on: bool) -> None:
    """Run the whole demo and print its report; the last line on stdout is one JSON object."""
    started = time.monotonic()
    settings = _demo_settings(home, source, path, events)
    steps = Steps()
    sys.stdout.write(f"Marquee demo on {source}; everything is kept in {settings.home}\n")
    steps.begin("prepare Airflow")
    migrate(settings)
    steps.end("prepare Airflow")
    _run_dags(settings, steps)
    end_at = _end_of_log(settings)
    served = settings.model_copy(update={"as_of": end_at + timedelta(hours=12)})
    steps.begin("start the service")
    with running_service(served, served.home / "service.log") as address:
        steps.end("start the service", address)
        steps.begin("ask it for slates")
        slates = _ask(settings, address)
        steps.end("ask it for slates", f"{len(slates)} visitors")
        steps.begin("evaluate")
        summary, lines = _evaluate(served)
        steps.end("evaluate")
        sys.stdout.write("\n".join(["", *_slate_lines(slates), "", *lines, "", *_where(served, address), ""]))
        seconds = round(time.monotonic() - started, 1)
        result = {"demo": source, "seconds": seconds, **summary, "service": address, "slate": slates[0]["slate"]}
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()
        if serve_on:
            _wait_for_interrupt(address)


def _demo_settings(home: Path, source: str, path: Path | None, events: int | None) -> Settings:
    if source not in ("simulator", "completejourney"):
        raise MarqueeError(f"the demo knows the sources simulator and completejourney, not {source!r}")
    if source == "completejourney" and path is None:
        raise MarqueeError("give the folder of the completejourney files: make demo SOURCE=completejourney DATA=…")
    # A coupon may be redeemed as long as its campaign runs; the longest real one runs five months.
    own = {"attribution_days": 180.0} if source == "completejourney" else {}
    settings = load_settings(
        home / source, source=source, source_path=path.absolute() if path else None, events=events, **own
    )
    settings = settings.model_copy(update={"service_port": free_port(settings.service_host, settings.service_port)})
    chosen = {"MARQUEE_SOURCE": source, "MARQUEE_EVENTS": str(settings.events), "MARQUEE_SEED": str(settings.seed)}
    chosen["MARQUEE_DIFFICULTY"] = settings.difficulty
    chosen["MARQUEE_ATTRIBUTION_DAYS"] = str(settings.attribution_days)
    if settings.source_path:
        chosen["MARQUEE_SOURCE_PATH"] = str(settings.source_path)
    os.environ.update(quiet_environment(settings) | chosen)
    settings.home.mkdir(parents=True, exist_ok=True)
    return settings


def _run_dags(settings: Settings, steps: Steps) -> None:
    log = settings.home / "airflow.log"
    command = [sys.executable, "-m", "marquee.dag_runs", "{}", *TASKS]
    order = iter([(dag, task) for dag, tasks in TASKS.items() for task in tasks])
    with log.open("w", encoding="utf-8") as kept:
        child = subprocess.Popen(
            command, env=environment(settings), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert child.stdout is not None
        problem = ""
        names = {task: dag for dag, tasks in TASKS.items() for task in tasks}
        steps.begin(f"{next(order)[0]} (Airflow starts)")
        for line in child.stdout:
            kept.write(line)
            if found := TASK_LINE.search(line):
                title = f"{names[found[2]]}.{found[2]}"
                if found[1] == "starting":
                    steps.begin(title)
                else:
                    steps.end(title)
            if found := FAILURE.search(line):
                problem = found[1]
    if child.wait():
        raise MarqueeError(f"{problem or 'a task failed'} (log: {log})")


def _end_of_log(settings: Settings) -> datetime:
    import duckdb

    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        row = connection.execute("select date_trunc('day', max(impressed_at)) from marts.training_rows").fetchone()
    end: datetime = row[0] + timedelta(days=1)
    return end


def _ask(settings: Settings, address: str) -> list[dict[str, Any]]:
    import duckdb
    import httpx

    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        known = connection.execute(
            "select visitor_id, max_by(placement_id, impressed_at) from marts.training_rows where is_clicked "
            "group by 1 order by count(*) desc, 1 limit 2"
        ).fetchall()
    asked = [*known, ("someone-new", known[0][1])]
    answers = []
    with httpx.Client(base_url=address, timeout=10) as client:
        for visitor_id, placement in asked:
            body = {"visitor_id": visitor_id, "placement": placement, "n": 3}
            answer = client.post("/v1/banners/recommend", json=body)
            answer.raise_for_status()
            answers.append({"visitor_id": visitor_id, "placement": placement, **answer.json()})
    return answers


def _evaluate(settings: Settings) -> tuple[dict[str, Any], list[str]]:
    from training import registry
    from training.pages.network_page import write_network
    from training.report import summary_lines, write_report

    tag = registry.champion(settings)
    if tag is None:
        raise MarqueeError("no bundle was promoted")
    bundle = registry.load_bundle(settings, tag)
    if bundle.pages:
        write_network(settings, tag, bundle.pages)
    lines = [f"{tag}, on impressions later than all it was trained on", *summary_lines(bundle.report)]
    if settings.source != "simulator":
        write_report(settings, tag, bundle.report)
        ranker = bundle.report["ranker"]
        auc = {"trained": ranker["auc"]["value"], "trained_low": ranker["auc"]["low"]}
        auc |= {"trained_high": ranker["auc"]["high"]}
        auc |= {"popular": ranker["auc_popular"]["value"], "logistic": ranker["auc_logistic"]["value"]}
        auc |= {"forest": ranker["auc_forest"]["value"]}
        return {"auc": {name: round(value, 4) for name, value in auc.items()}}, lines
    values = _true_values(settings, bundle)
    write_report(settings, tag, bundle.report, values)
    rows: list[list[object]] = [
        [name, f"{v['value']:.2%}", f"{v['low']:.2%} – {v['high']:.2%}"] for name, v in values.items()
    ]
    title = f"True click rate per shown banner on {REQUESTS:,} requests of the next day, 95 % intervals"
    lines += ["", console.table(title, ["policy", "CTR", "interval"], rows)]
    ctr: dict[str, float] = {}
    for name in ("trained", "popular", "random", "best"):
        ctr |= {name: values[name]["value"], f"{name}_low": values[name]["low"], f"{name}_high": values[name]["high"]}
    return {"ctr": {name: round(value, 5) for name, value in ctr.items()}}, lines


def _true_values(settings: Settings, bundle: Any) -> dict[str, dict[str, float]]:
    from features.store import OnlineFeatures
    from ingestion.simulator import Simulator
    from serving.replay import policy_values
    from serving.scoring import Scorer

    world = Simulator(settings.seed, settings.events, difficulty=settings.difficulty)
    requests = world.requests(REQUESTS, settings.seed)
    ids = sorted(set(requests.visitor_id.tolist()))
    visitors = OnlineFeatures(settings).visitors(ids, settings_now(settings))
    counts = Scorer(settings).banner_counts
    values = policy_values(bundle, world, requests, visitors, counts, settings.seed)
    return {name: asdict(value) for name, value in values.items()}


def _slate_lines(slates: list[dict[str, Any]]) -> list[str]:
    lines = []
    for answer in slates:
        lines.append(f"{answer['visitor_id']} at {answer['placement']}: {answer['fallback'] or 'personal'}")
        for banner in answer["slate"]:
            lines.append(
                f"  {banner['position'] + 1}. {banner['title']} ({banner['banner_id']}), p(click) {banner['score']:.3f}"
            )
            lines += [f"       {reason}" for reason in banner["reasons"]]
    return lines


def _where(settings: Settings, address: str) -> list[str]:
    shown = os.path.relpath(settings.home)
    return [
        f"service      {address}  (API page: {address}/, its schema: {address}/docs.json)",
        f"Airflow UI   .venv/bin/marquee airflow --home {shown} standalone   → http://127.0.0.1:8080",
        f"reports      {os.path.relpath(settings.reports)}/  (gates.html, and the bundle's evaluation with its plots)",
        "the service stops when this ends; keep it with: make demo SERVE=1",
    ]


def _wait_for_interrupt(address: str) -> None:
    sys.stderr.write(f"serving on {address}; Ctrl-C stops it\n")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        sys.stderr.write("stopping\n")
