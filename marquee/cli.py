"""The command line: the composition root, the one place that brings all packages together, inside its functions."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from marquee import (
    bench,
    console,
    experiments,
    explain,
    keys,
    managed,
    monitor,
    notify,
    promotions,
    segments,
    sessions,
    similar,
    upkeep,
)
from marquee.errors import MarqueeError, NothingToDo, SettingsError
from marquee.options import Home, Json
from marquee.options import command_settings as _settings
from marquee.settings import Settings

app = typer.Typer(
    name="marquee",
    help="Learn from an e-shop's clickstream which banner to show to whom, now.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)

app.command("check-skew", epilog="Examples:  marquee check-skew   |   marquee check-skew --requests 500 --json")(
    upkeep.check_skew
)
app.command(
    "forget", epilog="Examples:  marquee forget --visitor v000123 --yes   |   marquee forget --visitor v000123 --check"
)(upkeep.forget)
app.command("models", epilog="Examples:  marquee models   |   marquee models ease --json")(bench.models)
app.command(
    "bench-models",
    epilog="Examples:  marquee bench-models --data events.csv --protocol temporal --models popular,ease"
    "   |   marquee bench-models --data train.txt --test pairs.txt --protocol sessions --k 20 --metric mrr@20"
    "   |   marquee bench-models --rerun 0123456789abcdef0123456789abcdef",
)(bench.bench_models)
app.command(
    "tune-models",
    epilog="Example:  marquee tune-models --data events.csv --protocol temporal --models ease --budget 600",
)(bench.tune_models)
app.command("flag-sessions", epilog="Examples:  marquee flag-sessions   |   marquee flag-sessions --worst 50 --json")(
    sessions.flag_sessions
)
app.command(
    "sample-sessions",
    epilog="Examples:  marquee sample-sessions --out made.parquet"
    "   |   marquee sample-sessions --data clicks.csv --model gru4rec --sessions 50000 --out made.parquet",
)(sessions.sample_sessions)
app.command(
    "similar-items",
    epilog="Examples:  marquee similar-items p0042 --visitor v000123"
    "   |   marquee similar-items p0042 --data events.csv --model bpr --k 20 --json",
)(similar.similar_items)

app.command(
    "experiment",
    epilog="Examples:  marquee experiment hero --control champion --planned 20000"
    "   |   marquee experiment hero --metric value_per_session --fixed-horizon --until 2026-03-01 --json",
)(experiments.experiment)
app.command("explain", epilog="Examples:  marquee explain 5f0c3d…   |   marquee explain 5f0c3d… --all --json")(
    explain.explain
)
app.command(
    "keys",
    epilog="Examples:  marquee keys create shop --scope recommend --scope ingest   |   marquee keys list"
    "   |   marquee keys rotate shop --grace 30   |   marquee keys revoke shop",
)(keys.keys)
app.command(
    "catalogue",
    epilog="Examples:  marquee catalogue list campaigns   |   marquee catalogue show banners spring-shoes"
    "   |   marquee catalogue apply spring.json   |   marquee catalogue export"
    "   |   marquee catalogue audit --limit 50",
)(managed.catalogue)
app.command("segments", epilog="Examples:  marquee segments   |   marquee segments --json")(segments.segments)
app.command(
    "notify",
    epilog="Examples:  marquee notify dispatch   |   marquee notify dispatch --once"
    "   |   marquee notify list --state dead   |   marquee notify retry-dead",
)(notify.notify)
app.command("monitor", epilog="Examples:  marquee monitor   |   marquee monitor --hours 48 --json")(monitor.monitor)

DAYS = ["%Y-%m-%d"]


def main() -> None:
    """Entry point: an error meant for a person is one line on stderr and exit code 1."""
    try:
        app()
    except MarqueeError as error:
        console.fail(str(error))
        sys.exit(1)
    except Exception as error:
        if not (reason := console.plain_reason(error)):
            raise
        console.fail(reason)
        sys.exit(1)


@app.command(epilog="Examples:  marquee simulate --events 100000   |   marquee simulate --seed 3 --out shop/")
def simulate(
    home: Home = None,
    events: Annotated[int | None, typer.Option(help="Size of the log, 1,000 to 10,000,000 events.")] = None,
    seed: Annotated[int | None, typer.Option(help="Another seed is another shop.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write Parquet files there instead of ingesting them.")] = None,
    as_json: Json = False,
) -> None:
    """Make up a shop with a known truth and ingest its events, or write them to files."""
    from ingestion.simulator import Simulator

    settings = _settings(home, events=events, seed=seed, source="simulator")
    if out is None:
        _ingest(settings, as_json)
        return
    from ingestion.files import write_tables

    simulator = Simulator(settings.seed, settings.events, difficulty=settings.difficulty)
    with console.progress("simulate", settings.events, settings.quiet) as advance:
        counts = write_tables(simulator.read(), out, advance)
    lines = [f"{table}: {count:,} rows" for table, count in counts.items()]
    lines.append(f"written to {out}; ingest them with: marquee ingest --source marquee --path {out}")
    console.show({"out": str(out), "rows": counts}, lines, as_json)


@app.command(epilog="Example:  marquee ingest --source completejourney --path data/completejourney")
def ingest(
    source: Annotated[str | None, typer.Option(help="Name of the source; `marquee sources` lists them.")] = None,
    path: Annotated[Path | None, typer.Option(help="Its file or folder.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Read a source into the event log and load it exactly once. Malformed rows are set aside with their line."""
    settings = _settings(home, source=source, source_path=path)
    if path and settings.source in ("simulator", "catalogue"):
        name = settings.source
        raise SettingsError(f"the {name} reads no files; say with --source what {path} holds (`marquee sources`)")
    _ingest(settings, as_json)


@app.command(epilog="Example:  marquee sources")
def sources(as_json: Json = False) -> None:
    """List the sources that can be ingested."""
    from ingestion.configured import CATALOGUE
    from ingestion.simulator import Simulator
    from ingestion.sources import SOURCES
    from ingestion.sources.catalogue import CatalogueSource

    known = {Simulator.name: Simulator.about, CATALOGUE: CatalogueSource.about}
    known |= {name: kind.about for name, kind in SOURCES.items()}
    console.show(known, [f"{name:<16} {about}" for name, about in known.items()], as_json)


def _ingest(settings: Settings, as_json: bool) -> None:
    from ingestion import load
    from ingestion.configured import configured_source

    source = configured_source(settings)
    with console.progress(f"ingest {source.name}", None, settings.quiet) as advance:
        batch = load.ingest(source, settings, advance)
    rejected = load.rejected_rows(settings, batch.batch_id)
    result = {
        "batch": batch.batch_id,
        "read": batch.read,
        "loaded": batch.loaded,
        "quarantined": batch.quarantined,
        "duplicate": batch.duplicate,
        "rejected": rejected,
    }
    lines = [
        f"{source.name}: read {batch.read:,} = loaded {batch.loaded:,} + quarantined {batch.quarantined:,}"
        f" + duplicate {batch.duplicate:,}   (batch {batch.batch_id})"
    ]
    lines += [f"quarantined {row['file']}:{row['line']}: {row['reason']}" for row in rejected]
    if batch.quarantined > len(rejected):
        lines.append(f"… and {batch.quarantined - len(rejected):,} more in the table raw.rejected_rows")
    console.show(result, lines, as_json)


app.command("check", epilog="Example:  marquee check && marquee transform && marquee check")(upkeep.check)
app.command(
    "admit",
    epilog='Example:  marquee admit online-retail-0123456789abcdef --reason "a sale day, the rate is real"',
)(upkeep.admit)
app.command(
    "quarantine",
    epilog='Example:  marquee quarantine online-retail-0123456789abcdef --reason "its clock was a year ahead"',
)(upkeep.quarantine)


@app.command(epilog="Examples:  marquee transform   |   marquee transform --from 2026-01-20 --to 2026-01-21")
def transform(
    first: Annotated[datetime | None, typer.Option("--from", formats=DAYS, help="First day to build again.")] = None,
    last: Annotated[datetime | None, typer.Option("--to", formats=DAYS, help="Last day to build again.")] = None,
    full_refresh: Annotated[bool, typer.Option("--full-refresh", help="Build everything anew.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Build the days that are new, or those asked for, with dbt: staging, intermediate, marts, contracts and tests."""
    settings = _settings(home, existing=True)
    from ingestion.transform import transform as build

    try:
        with console.progress("dbt build", None, settings.quiet):
            result = build(settings, first.date() if first else None, last.date() if last else None, full_refresh)
    except NothingToDo:
        # Asked only now: to look, the warehouse must be free, and a build that runs would not be named for what it is.
        _settings(home, after="check")
        raise
    days = [day.isoformat() for day in result.window] if result.window else []
    line = f"built {result.models} models of {f'{days[0]} to {days[1]}' if days else 'all days'}"
    line += f", passed {result.data_tests} data tests"
    counts = {"models": result.models, "data_tests": result.data_tests, "days": days}
    console.show(counts, [line if result.models else "nothing new to build"], as_json)


@app.command(epilog="Example:  marquee materialize")
def materialize(home: Home = None, as_json: Json = False) -> None:
    """Write the newest features to the online store."""
    settings = _settings(home, after="transform")
    from features.store import materialize as write

    with console.progress("materialize", None, settings.quiet):
        counts = write(settings)
    console.show(dict(counts), [f"{table}: {count:,} rows" for table, count in counts.items()], as_json)


@app.command(epilog="Example:  marquee train && marquee evaluate")
def train(home: Home = None, as_json: Json = False) -> None:
    """Train the two-tower and the ranker, evaluate them on a later window, store them as one bundle."""
    settings = _settings(home, after="materialize")
    from features.flags import told
    from training.flagging import exclusion_report
    from training.pipeline import train as run
    from training.two_tower import TwoTowerSettings

    with console.progress("train (epochs)", TwoTowerSettings().epochs, settings.quiet) as advance:
        tag = run(settings, lambda epoch, loss: advance(1))
    flagged = exclusion_report(settings)
    lines = [f"bundle {tag}", told(flagged), f"next: marquee evaluate; marquee promote {tag}"]
    console.show({"bundle": tag, "flagged": flagged}, lines, as_json)


@app.command(epilog="Examples:  marquee evaluate   |   marquee evaluate banner_bundle:0123456789abcdef --json")
def evaluate(
    tag: Annotated[str | None, typer.Argument(help="A bundle; the one trained last if not given.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show what a bundle was worth on a window later than all it was trained on, and draw its report."""
    settings = _settings(home, after=None if tag else "train", existing=True)
    from training import registry
    from training.pages.network_page import write_network
    from training.pipeline import require_latest_bundle
    from training.report import summary_lines, write_report

    tag = tag or require_latest_bundle(settings)
    bundle = registry.load_bundle(settings, tag)
    report, page = bundle.report, write_report(settings, tag, bundle.report)
    lines = [tag, *summary_lines(report), f"report: {page}"]
    if bundle.pages:
        lines.append(f"pages:  {write_network(settings, tag, bundle.pages)}")
    console.show({"bundle": tag, "report": str(page), **report}, lines, as_json)


app.command(
    "promote", epilog='Example:  marquee promote --by ada   |   marquee promote TAG --override "replaces a broken one"'
)(promotions.promote)
app.command("shadow", epilog="Examples:  marquee shadow TAG   |   marquee shadow   |   marquee shadow --end --by ada")(
    promotions.shadow
)
app.command(
    "canary",
    epilog='Examples:  marquee canary TAG --share 0.05   |   marquee canary --end --reason "clicks fell"',
)(promotions.canary)
app.command("rollback", epilog='Example:  marquee rollback --by ada --reason "clicks fell after noon"')(
    promotions.rollback
)
app.command("history", epilog="Example:  marquee history")(promotions.history)


@app.command(
    epilog="Examples:  marquee serve   |   marquee serve --workers 2   |   marquee serve --as-of 2026-02-02T12:00:00"
)
def serve(
    host: Annotated[str | None, typer.Option(help="Address to bind.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to bind.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that answer requests.")] = None,
    as_of: Annotated[datetime | None, typer.Option(help="Serve as if it were this moment (UTC).")] = None,
    home: Home = None,
) -> None:
    """Start the scoring service in the foreground; Ctrl-C stops it."""
    from marquee.process import serve as run

    chosen: dict[str, Any] = {"service_host": host, "service_port": port, "service_workers": workers, "as_of": as_of}
    sys.exit(run(_settings(home, after="promote", **chosen)))


@app.command(epilog="Example:  marquee recommend v000123 --placement home_hero --n 2 --as-of 2026-02-02T12:00:00")
def recommend(
    visitor: Annotated[str, typer.Argument(help="Visitor to choose for.")],
    placement: Annotated[str, typer.Option(help="Where the slate would stand.")],
    n: Annotated[int, typer.Option(min=1, max=50, help="Banners wanted.")] = 3,
    as_of: Annotated[datetime | None, typer.Option(help="Choose as if it were this moment (UTC).")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Preview the champion's slate for a visitor, with its reasons; nothing is logged and no service is needed."""
    settings = _settings(home, after="promote", as_of=as_of)
    from serving.counters import open_counters
    from serving.schemas import RecommendRequest
    from serving.scoring import Scorer

    try:
        request = RecommendRequest(visitor_id=visitor, placement=placement, n=n)
    except ValidationError as error:
        raise MarqueeError(f"{error.errors()[0]['loc'][0]}: {error.errors()[0]['msg']}") from None
    answer = Scorer(settings, counters=open_counters(settings), is_preview=True).recommend(request)
    lines = [f"{answer.bundle}, {answer.policy}" + (f", fallback: {answer.fallback}" if answer.fallback else "")]
    if not answer.slate:
        lines.append(f"no banner may stand at {placement} at that moment; --as-of chooses another")
    for banner in answer.slate:
        lines.append(f"{banner.position + 1}. {banner.banner_id} {banner.title}  p(click) {banner.score:.3f}")
        lines += [f"     {reason}" for reason in banner.reasons]
    console.show(answer.model_dump(), lines, as_json)


@app.command(epilog="Example:  marquee status --json")
def status(home: Home = None, as_json: Json = False) -> None:
    """Show what this installation holds: batches and their verdicts, tables, bundles, the champion."""
    from marquee.overview import overview, overview_lines

    found = overview(_settings(home))
    console.show(found, overview_lines(found), as_json)


@app.command(epilog="Examples:  marquee demo --serve   |   marquee demo --source completejourney --path DIR")
def demo(
    source: Annotated[str, typer.Option(help="simulator or completejourney.")] = "simulator",
    path: Annotated[Path | None, typer.Option(help="Folder of the completejourney files.")] = None,
    events: Annotated[int | None, typer.Option(help="Size of the simulated log.")] = None,
    serve_on: Annotated[bool, typer.Option("--serve", help="Keep the service running until Ctrl-C.")] = False,
    home: Home = None,
) -> None:
    """From clickstream to a served, explained slate through the real tools; the last line is one JSON object."""
    from marquee.demo import run

    run(home or Path(".marquee-demo"), source, path, events, serve_on)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": ["--help"]},
    epilog="Examples:  marquee airflow standalone   |   marquee airflow dags test transform_events",
)
def airflow(context: typer.Context, home: Home = None) -> None:
    """Run Airflow's own command line on this installation's DAGs, bound to localhost, telemetry off."""
    from marquee.process import airflow as run

    sys.exit(run(_settings(home), context.args))


if __name__ == "__main__":
    main()
