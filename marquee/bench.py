"""Verbs of the model bench: list, judge and tune retrieval models. Part of the composition root, as ``cli`` is."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from marquee import bench_options as of
from marquee import console
from marquee.errors import MarqueeError
from marquee.options import Home, Json, command_settings

if TYPE_CHECKING:
    from marquee.settings import Settings

Option = typer.Option


def models(
    name: Annotated[str | None, typer.Argument(help="Only this model, with what each setting means.")] = None,
    as_json: Json = False,
) -> None:
    """List the retrieval models that can be compared, with their settings and defaults."""
    from training.harness.model_list import listing, listings

    found = [listing(name)] if name else listings()
    plain = {one.name: {"about": one.about, "settings": [asdict(each) for each in one.settings]} for one in found}
    console.show(plain, _one_model(found[0]) if name else _all_models(found), as_json)


def bench_models(
    context: typer.Context,
    data: of.Data = None,
    test: of.Test = None,
    histories: of.Histories = None,
    items: of.Items = None,
    users: of.Users = None,
    protocol: of.Protocol = None,
    models: of.Models = "all",
    changes: of.Changes = None,
    settings_file: of.File = None,
    k: Annotated[str, Option("--k", help="Lengths of the lists that are judged, parted by commas.")] = "10,20",
    metric: of.Metric = None,
    seed: of.Seed = None,
    epochs: of.Epochs = None,
    patience: Annotated[
        int, Option(min=0, help="Stop a fit after so many epochs without gain on validation data; 0 never.")
    ] = 0,
    columns: of.Columns = "",
    format: of.Format = "auto",
    min_user_events: of.MinUser = 1,
    min_item_events: of.MinItem = 1,
    min_weight: of.MinWeight = 0.0,
    first_only: of.FirstOnly = False,
    since: of.Since = "",
    until: of.Until = "",
    test_days: of.TestDays = 0.0,
    test_share: of.TestShare = 0.1,
    session_gap: of.Gap = None,
    repeats: of.Repeats = False,
    most_queries: of.MostQueries = 0,
    robustness: Annotated[str, Option(help="Shares of the events to disturb, for example 0.1,0.3.")] = "",
    refit: Annotated[bool, Option("--refit", help="Robustness: learn from disturbed data too.")] = False,
    scaling: Annotated[bool, Option("--scaling", help="Measure speed over parts of the catalogue too.")] = False,
    tune: Annotated[float, Option(min=0, help="First tune on validation data, for so many seconds in all.")] = 0.0,
    keep_models: Annotated[bool, Option("--keep-models", help="Keep fitted models with their runs.")] = False,
    rerun: Annotated[str | None, Option(help="Repeat the row of this run and compare its figures.")] = None,
    out: Annotated[Path | None, Option(help="Folder for the report; in the installation unless given.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Judge retrieval models on one data set on equal terms, over all items, and write a report."""
    settings = command_settings(home, seed=seed)
    if rerun:
        _rerun(settings, rerun, data, as_json)
        return
    from training.harness.comparison import compare
    from training.harness.report import require_free

    given = context.params | {"seed": settings.seed}
    origin, jobs = of.read_origin(given), of.read_jobs(given)
    folder = out or settings.reports / f"bench-{_stamp()}"
    require_free(folder)
    with _display(settings, "rows that were done are tracked, and no report was written") as tell:
        board, about = compare(settings, origin, jobs, tell, keep_models, tune)
    _show_board(board, about, folder, as_json)


def tune_models(
    context: typer.Context,
    budget: Annotated[float, Option(min=1, help="Seconds in all; the models share them.")],
    data: of.Data = None,
    test: of.Test = None,
    histories: of.Histories = None,
    items: of.Items = None,
    users: of.Users = None,
    protocol: of.Protocol = None,
    models: of.Models = "all",
    changes: of.Changes = None,
    settings_file: of.File = None,
    metric: of.Metric = None,
    seed: of.Seed = None,
    epochs: of.Epochs = None,
    columns: of.Columns = "",
    format: of.Format = "auto",
    min_user_events: of.MinUser = 1,
    min_item_events: of.MinItem = 1,
    min_weight: of.MinWeight = 0.0,
    first_only: of.FirstOnly = False,
    since: of.Since = "",
    until: of.Until = "",
    test_days: of.TestDays = 0.0,
    test_share: of.TestShare = 0.1,
    session_gap: of.Gap = None,
    repeats: of.Repeats = False,
    most_queries: of.MostQueries = 0,
    out: Annotated[Path | None, Option(help="TOML file for the best settings, else in the installation.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Search the models' settings on validation data within a time budget, and write the best as a file."""
    settings = command_settings(home, seed=seed)
    from training.harness.comparison import search
    from training.harness.tuning import as_toml

    given = context.params | {"seed": settings.seed, "k": "10"}
    origin, jobs = of.read_origin(given), of.read_jobs(given)
    file = out or settings.reports / f"tuned-{_stamp()}.toml"
    if file.is_dir():
        raise MarqueeError(f"{file} is a folder; give --out a file")
    with _display(settings, "what was tried is kept, and the same command goes on from it") as tell:
        found = search(settings, origin, jobs, budget, tell)
    _write_whole(file, as_toml(found, jobs[0].metric, f"{origin.files.data.name}, {origin.protocol}"))
    _show_tuned(found, jobs[0].metric, file, as_json)


@contextmanager
def _stopped(told: str) -> Iterator[None]:
    """Whatever Ctrl-C becomes inside, and compiled code may make any error of it, is one line outside."""
    pressed = []

    def press(number: int, frame: object) -> None:
        pressed.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, press)
    try:
        yield
    except BaseException:
        if pressed:
            raise MarqueeError(f"interrupted; {told}") from None
        raise
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _display(settings: Settings, interrupted: str) -> Iterator[Any]:
    """Bars on stderr for the models and for what the present one does; Ctrl-C ends with one line, ``interrupted``."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    screen = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    hidden = settings.quiet or not screen.is_terminal
    with _stopped(interrupted), Progress(*columns, console=screen, disable=hidden, transient=True) as bars:
        models, step = bars.add_task("models", total=None), bars.add_task("read", total=None)

        def tell(told: dict[str, Any]) -> None:
            if told["stage"] == "row":
                bars.update(models, completed=told["done"], total=told["of"], description=f"{told['model']} done")
                return
            bars.update(step, description=_step(told), completed=told.get("done", 0), total=told.get("of") or None)

        yield tell


def _step(told: dict[str, Any]) -> str:
    """What a model is doing, in a few words."""
    text = " ".join(str(told[name]) for name in ("model", "stage") if name in told)
    text += f" trial {told['trial']}" if "trial" in told else ""
    text += f" epoch {told['done']}/{told['of']}, loss {told['loss']:.4f}" if "loss" in told else ""
    return text


def _all_models(found: list[Any]) -> list[str]:
    lines = []
    for one in found:
        lines.append(f"{one.name:<18} {one.about}")
        lines.append(f"{'':<18}   {', '.join(f'{each.name} {each.default}' for each in one.settings)}")
    return lines


def _one_model(found: Any) -> list[str]:
    rows: list[list[object]] = [[one.name, one.kind, one.default, one.about] for one in found.settings]
    return [f"{found.name}: {found.about}", console.table("", ["setting", "type", "default", "what it means"], rows)]


def _show_board(board: Any, about: dict[str, Any], folder: Path, as_json: bool) -> None:
    """Write the report, print the table, and end with an error if a model failed."""
    from training.harness.leaderboard import conclusion, short_list, table_rows
    from training.harness.report import board_rows, write_report

    write_report(board, about, folder)
    lines = []
    if board.finished:
        lines += [console.table("", *table_rows(board, short_list(board))), ""]
    lines += [conclusion(board), *(f"FAILED {row.model}: {row.error}" for row in board.failed)]
    lines += [f"{row.model:<18} run {row.run_id}" for row in board.rows] + [f"report: {folder / 'report.html'}"]
    told = {"report": str(folder), "metric": board.metric, "rows": board_rows(board)}
    console.show(told, lines, as_json)
    if board.failed:
        names = ", ".join(row.model for row in board.failed)
        raise MarqueeError(f"{len(board.failed)} of {len(board.rows)} models failed: {names}; why: {folder / 'errors'}")


def _rerun(settings: Settings, run_id: str, data: Path | None, as_json: bool) -> None:
    """Make a row again, compare it, and end with an error if its figures are others."""
    from training.harness.comparison import repeat

    with _display(settings, "nothing was compared") as tell:
        row, told = repeat(settings, run_id, data, tell)
    rows: list[list[object]] = [
        [name, f"{one['then']:.6f}", "–" if one["now"] is None else f"{one['now']:.6f}"]
        for name, one in told["figures"].items()
    ]
    code = "the code is the same" if told["same_code"] else "the code has changed since"
    verdict = "every figure is equal" if told["equal"] else "figures DIFFER"
    lines = [console.table("", ["metric", "then", "now"], rows), f"{row.model}: {verdict}; {code}; run {row.run_id}"]
    console.show({"model": row.model, "run_id": row.run_id, "rerun_of": run_id, **told}, lines, as_json)
    if not told["equal"]:
        raise MarqueeError(f"{row.model} does not repeat run {run_id}; {code}")


def _show_tuned(found: list[Any], metric: str, file: Path, as_json: bool) -> None:
    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.4f}"

    rows: list[list[object]] = []
    for one in found:
        settings = ", ".join(f"{name} {value}" for name, value in one.settings.items()) or "as they are"
        rows.append([one.model, number(one.value), number(one.default), one.trials, settings, one.run_id, one.note])
    columns = ["model", f"best {metric}", "defaults", "tried", "settings", "run", "note"]
    lines = [console.table("", columns, rows), f"settings: {file}; use them: marquee bench-models --settings {file} …"]
    console.show({"settings": str(file), "metric": metric, "models": [asdict(one) for one in found]}, lines, as_json)


def _stamp() -> str:
    return datetime.now(UTC).strftime("%Y%m%d-%H%M%S")


def _write_whole(file: Path, text: str) -> None:
    """Write a file at once or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)
