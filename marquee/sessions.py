"""Verbs about sessions: flag odd ones, and sample ones that nobody had. Part of the composition root, as ``cli`` is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from marquee import bench_options as of
from marquee import console
from marquee.errors import MarqueeError, SettingsError
from marquee.options import Home, Json, command_settings
from marquee.settings import Settings

Option = typer.Option
Interactions: TypeAlias = Any
"""``training.interactions.Interactions``, which is not loaded before a verb runs."""


def flag_sessions(
    worst: Annotated[int, Option(min=0, help="Show so many of the flagged sessions, the oddest first.")] = 10,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Judge sessions by their likelihood and pace; the flagged ones leave the training rows of the next training."""
    settings = command_settings(home, after="transform")
    from features.flags import told
    from training import flagging

    with console.progress("flag sessions", None, settings.quiet):
        flags = asdict(flagging.flag_sessions(settings))
    odd = flagging.worst_sessions(settings, worst)
    lines = [told(flags)]
    if odd:
        rows: list[list[object]] = [
            [one["visitor_id"], one["session_id"], one["events"], f"{one['score']:.2f}", one["reason"]] for one in odd
        ]
        columns = ["visitor", "session", "events", "score", "why"]
        lines += [console.table("", columns, rows), "the score is in units of the limit: above 1 is flagged"]
    console.show({**flags, "worst": odd}, lines, as_json)


def sample_sessions(
    context: typer.Context,
    out: Annotated[Path, Option(help="Parquet file for the sessions; a report lies beside it as JSON and HTML.")],
    data: Annotated[
        Path | None, Option(help="Events or sessions to learn from; the installation's sessions if not given.")
    ] = None,
    model: Annotated[str, Option(help="A model that gives probabilities: markov, gru4rec or sasrec.")] = "markov",
    sessions: Annotated[int, Option(min=1, help="How many.")] = 10_000,
    temperature: Annotated[float, Option(help="1 as the model says; less is more usual, more is odder.")] = 1.0,
    top_p: Annotated[float, Option(help="Only the likeliest items that have this chance together.")] = 1.0,
    longest: Annotated[int, Option(min=0, help="Most events of a session; 0 for as long as real ones are.")] = 0,
    least_copy: Annotated[
        int, Option(min=0, help="Drop a session of so many events or more that is a real one; 0 drops none.")
    ] = 3,
    judge: Annotated[str, Option(help="The recommender that learns from real and from synthetic sessions.")] = "vsknn",
    test_share: Annotated[float, Option(help="Share of the newest real sessions that are kept for judging.")] = 0.1,
    changes: of.Changes = None,
    columns: of.Columns = "",
    format: of.Format = "auto",
    min_item_events: of.MinItem = 1,
    session_gap: of.Gap = None,
    seed: of.Seed = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Sample sessions from a model of real ones, and say how useful, how alike and how far from copies they are."""
    if out.suffix != ".parquet":
        raise SettingsError(f"--out {out}: give the name of a file that ends in .parquet")
    settings = command_settings(home, after=None if data else "transform", seed=seed)
    from training.realism import Judging
    from training.synthetic import SamplingSettings

    given = context.params | {"seed": settings.seed}
    sampling = SamplingSettings(sessions, temperature, top_p, longest, least_copy=least_copy, seed=settings.seed)
    judging = Judging(judge, least_copy=max(least_copy, 1), seed=settings.seed)
    with console.progress("sample sessions", None, settings.quiet):
        report, told = _sample(given, settings, sampling, judging)
    console.show(report, told, as_json)


def _sample(given: dict[str, Any], settings: Settings, sampling: Any, judging: Any) -> tuple[dict[str, Any], list[str]]:
    """Fit, sample, judge and write; what came of it, for programs and for people."""
    from training.flagging import unflagged_visits
    from training.realism import judge_synthetic, split_sessions
    from training.realism_page import lines, realism_page
    from training.synthetic import synthesise

    out, model, data = given["out"], given["model"], given["data"]
    fit = _fit(model, given["changes"] or [], settings.seed, judging.judge)
    timed, real = _read(given) if data else (True, unflagged_visits(settings))
    train, held_out = split_sessions(real, given["test_share"], timed)
    made = synthesise(fit(train), train, sampling)
    about = {"source": data.name if data else "this installation's sessions", "model": model}
    about |= {"sampling": asdict(sampling), "real_sessions": train.user_count}
    report = about | judge_synthetic(made, train, held_out, judging)
    title = f"{report['sessions']:,} sessions sampled from {model}, learnt from {about['source']}"
    _write_table(out, made.sessions, timed)
    _write(out.with_suffix(".json"), json.dumps(report, indent=1))
    _write(out.with_suffix(".html"), realism_page(title, report, made.sessions, train, held_out))
    files = {"out": str(out), "report": str(out.with_suffix(".html"))}
    return {**files, **report}, [title, *lines(report), f"sessions: {out}", f"report: {files['report']}"]


def _fit(model: str, changes: list[str], seed: int, judge: str) -> Callable[[Interactions], Any]:
    """A function that fits the model; what is wrong with the options is said before anything is read."""
    from training.harness.model_list import chosen_models, parse_settings, with_common
    from training.likelihood import sequence_model

    names = chosen_models(f"{model},{judge}")[:1]
    chosen = parse_settings(changes)
    if other := next((name for name in chosen if name != model), None):
        raise SettingsError(f"--set names {other}, which is not --model {model}")
    settings = with_common(names, chosen, seed=seed)[model]
    fresh = sequence_model(model, **settings)
    return fresh.fit


def _read(given: dict[str, Any]) -> tuple[bool, Interactions]:
    """Whether the times of the file's sessions are moments, and the sessions."""
    from training.harness.filtering import split_at_gaps
    from training.harness.reading import read_events

    usual = dict.fromkeys(("test", "histories", "items", "users")) | {
        "protocol": "sessions",
        "test_days": 0.0,
        "repeats": True,
    }
    usual |= {"min_user_events": 1, "min_weight": 0.0, "first_only": False, "since": "", "until": "", "most_queries": 0}
    origin = of.read_origin(usual | given)
    events = read_events(origin.files.data, origin.reading, "sessions")
    minutes = origin.splitting.gap_minutes
    if minutes is None:
        minutes = 30.0 if events.timed and not events.by_session else 0.0
    found = events.interactions
    return events.timed, split_at_gaps(found, minutes * 60.0) if minutes else found


def _write_table(out: Path, sessions: Interactions, timed: bool) -> None:
    """A row an event: session_id, item_id and timestamp; a number instead of a moment where real ones have none."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    moment = pa.array((sessions.times * 1e6).astype(np.int64), pa.timestamp("us"))
    place = np.arange(len(sessions)) - np.repeat(sessions.starts[:-1], sessions.lengths)
    table = pa.table(
        {
            "session_id": pa.array(sessions.user_ids).take(pa.array(sessions.users)),
            "item_id": pa.array(sessions.item_ids).take(pa.array(sessions.items)),
            "timestamp": moment if timed else pa.array(place),
        }
    )
    _whole(out, lambda part: pq.write_table(table, part))


def _write(path: Path, text: str) -> None:
    _whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def _whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file at once or not at all."""
    if path.is_dir():
        raise MarqueeError(f"{path} is a folder; give --out another file")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    write(part)
    part.replace(path)
