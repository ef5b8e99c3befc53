"""The bench's report for people: one page without anything outside itself, and the same figures for programs."""

from __future__ import annotations

import csv
import html
import io
import json
import math
import tempfile
from pathlib import Path
from typing import Any

from marquee.errors import MarqueeError
from training.harness.bench import Row
from training.harness.leaderboard import BASELINE, Board, conclusion, shown, shown_difference
from training.harness.plots import plots
from training.harness.tracking import flat

FILES = ("report.html", "results.csv", "results.json")
STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap}
th:first-child,td:first-child,.text th,.text td{text-align:left}.text td{white-space:normal;vertical-align:top}
.wide{overflow-x:auto}img{max-width:100%}.small{color:#555;font-size:14px}.bad{color:#a00}code{font-size:13px}"""
READING = f"""Every model was judged over <em>all</em> items, never over a sample of them. Square brackets are 95 %
intervals from resampling users. “To best” and “to {BASELINE}” are differences on the same questions, so they can be
sure where the intervals of the two models overlap: a difference whose interval holds 0 may be chance. Peak memory is
that of the model's own process; own memory is what came on top once the data and the model's file were loaded.
Latency is of one question at a time, after a warm-up; questions a second are asked in batches."""


def require_free(folder: Path) -> None:
    """Refuse a folder that holds something other than an earlier report, before any work is done.

    Raises:
        MarqueeError: it does, or it is a file.
    """
    if folder.is_dir():
        foreign = sorted(path.name for path in folder.iterdir() if path.name not in (*FILES, "errors"))
        if foreign:
            raise MarqueeError(f"{folder} holds {foreign[0]}, which is no report of ours; give --out another folder")
    elif folder.exists():
        raise MarqueeError(f"{folder} is a file; give --out a folder")


def write_report(board: Board, about: dict[str, Any], folder: Path) -> None:
    """Write report.html, results.csv, results.json and what failed models said, all at once or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as name:
        new = Path(name) / "new"
        new.mkdir()
        (new / "results.json").write_text(as_json(board, about), encoding="utf-8")
        (new / "results.csv").write_text(as_csv(board), encoding="utf-8")
        (new / "report.html").write_text(as_page(board, about), encoding="utf-8")
        for row in board.failed:
            (new / "errors").mkdir(exist_ok=True)
            file = new / "errors" / f"{row.model.replace(':', '-')}.txt"
            file.write_text(f"{row.error}\n\n{row.details}", encoding="utf-8")
        if folder.exists():
            folder.rename(Path(name) / "old")
        new.rename(folder)


def as_json(board: Board, about: dict[str, Any]) -> str:
    """Everything, with intervals and curves."""
    return json.dumps({"about": about, "metric": board.metric, "rows": board_rows(board)}, indent=1)


def plain(value: Any) -> Any:
    """The value without NaN, which JSON does not have: null instead."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def board_rows(board: Board) -> list[dict[str, Any]]:
    """Each row as plain values."""
    found = []
    for row in board.rows:
        told: dict[str, Any] = {"error": row.error} if row.error else {**row.result, **_compared(board, row)}
        found.append(plain({"model": row.model, "run_id": row.run_id, **told}))
    return found


def _compared(board: Board, row: Row) -> dict[str, Any]:
    return {"to_best": board.to_best.get(row.model), f"to_{BASELINE}": board.to_baseline.get(row.model)}


def as_csv(board: Board) -> str:
    """A line a model and a column a figure; curves and slices are in the JSON."""
    lines = []
    for row in board.rows:
        line: dict[str, Any] = {"model": row.model, "error": row.error, **row.figures}
        metrics = row.result.get("metrics", {})
        line |= {f"{name}.{end}": one[end] for name, one in metrics.items() for end in ("low", "high")}
        line |= flat({name: one for name, one in _compared(board, row).items() if one})
        lines.append({**line, "settings": json.dumps(row.result.get("settings", {})), "run_id": row.run_id})
    columns = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def as_page(board: Board, about: dict[str, Any]) -> str:
    """The page."""
    title = f"Models on {', '.join(Path(one['path']).name for one in about['files'].values())}"
    parts = [f"<h1>{html.escape(title)}</h1>", f"<p>{html.escape(conclusion(board))}"]
    parts.append(f'<p class="small">{_asked(about)}')
    if board.finished:
        parts += ["<h2>All models</h2>", _table(board), f'<p class="small">{READING}']
        parts += ["<h2>Every metric</h2>", _every_metric(board)]
    if board.failed:
        failed = [[row.model, _text(row.error)] for row in board.failed]
        parts += ["<h2>Failed</h2>", _html_table(["model", "why; more in the folder errors"], failed, "text")]
    for name, told, png in plots(board.finished, board.metric) if board.finished else []:
        parts.append(f"<h2>{html.escape(name)}</h2><p>{html.escape(told)}")
        parts.append(f'<p><img alt="{html.escape(name)}" src="data:image/png;base64,{png}">')
    made = [[row.model, _settings(row.result.get("settings", {})), f"<code>{row.run_id}</code>"] for row in board.rows]
    parts += ["<h2>How each row was made</h2>", _html_table(["model", "settings", "run"], made, "text")]
    parts.append("<p>Repeat a row: <code>marquee bench-models --rerun RUN</code>")
    parts += ["<h2>Data and protocol</h2>", _facts(about)]
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en">{head}' + "\n".join(parts) + "</html>\n"


def _asked(about: dict[str, Any]) -> str:
    """What models learned from and what they were asked, in a sentence."""
    split = about["split"]
    learnt = f"{split['events']:,} events of {split['users']:,} users with {split['items']:,} items"
    asked = f"{split['questions']:,} questions, protocol {html.escape(about['protocol'])}"
    seen = "items of the history left out" if about["exclude_seen"] else "items of the history allowed"
    return f"Learnt from {learnt}; {asked}, each answered over all items, {seen}."


def _table(board: Board) -> str:
    """The deciding metric, the differences and the costs, with intervals."""
    columns = ["model", board.metric, "to best", f"to {BASELINE}", "fit s", "s/epoch", "peak MB", "own MB"]
    lines = []
    for row in board.finished:
        metrics, cost, speed = (row.result[part] for part in ("metrics", "cost", "speed"))
        lines.append(
            [
                f'<span title="{html.escape(row.result["about"])}">{html.escape(row.model)}</span>',
                shown(metrics[board.metric]),
                shown_difference(board.to_best.get(row.model)),
                shown_difference(board.to_baseline.get(row.model)),
                f"{cost['fit_s']:.1f}",
                f"{cost['epoch_s']:.2f}" if cost["epochs"] else "–",
                f"{cost['peak_mb']:,.0f}",
                f"{cost['own_mb']:,.0f}",
                *([f"{speed['p50_ms']:.2f}", f"{speed['p99_ms']:.2f}"] if speed else ["–", "–"]),
                f"{speed['per_second']:,.0f}" if speed else "–",
            ]
        )
    return _html_table([*columns, "p50 ms", "p99 ms", "questions/s"], lines)


def _every_metric(board: Board) -> str:
    """All metrics; those of single questions show their interval when pointed at."""
    names = [*board.finished[0].result["metrics"], *board.finished[0].result["lists"]]
    lines = []
    for row in board.finished:
        cells = [html.escape(row.model)]
        for name in names:
            one = row.result["metrics"].get(name)
            value = one["value"] if one else row.result["lists"][name]
            title = f' title="{shown(one)}"' if one else ""
            cells.append(f"<span{title}>{value:.4f}</span>")
        lines.append(cells)
    return _html_table(["model", *names], lines)


def _html_table(columns: list[str], lines: list[list[str]], style: str = "") -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in line) + "</tr>" for line in lines)
    return f'<div class="wide"><table class="{style}"><tr>{head}</tr>{body}</table></div>'


def _text(value: str) -> str:
    return f'<span class="bad">{html.escape(value)}</span>'


def _settings(settings: dict[str, Any]) -> str:
    return html.escape(", ".join(f"{name} {value}" for name, value in settings.items())) or "–"


def _facts(about: dict[str, Any]) -> str:
    lines = [[html.escape(name), html.escape(str(value))] for name, value in flat(about).items()]
    return _html_table(["what", "value"], lines, "text")
