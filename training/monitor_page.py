"""The monitoring report as a page and as JSON: ``reports/monitor.html`` and ``reports/monitor.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from marquee.settings import Settings
from training.page import Plot, new_figure, page, png

COLOURS = {"fine": "#1f5fa8", "warning": "#d08a00", "alarm": "#b3261e", "cannot say": "#bbbbbb"}


def report_lines(report: dict[str, Any]) -> list[str]:
    """The report in a few lines and one for each reading, alarms first."""
    count = {name: sum(one["verdict"] == name for one in report["readings"]) for name in COLOURS}
    rank = {"alarm": 0, "warning": 1, "cannot say": 2, "fine": 3}
    ordered = sorted(report["readings"], key=lambda one: rank[one["verdict"]])
    unread = (
        [f"unread         {report['unread']:,} impressions whose features are malformed"] if report["unread"] else []
    )
    return [
        f"champion       {report['bundle']}",
        f"window         {report['hours']:g} hours to {report['at']}: {report['impressions']:,} impressions;"
        f" {report['judged']:,} whose clicks are final",
        *unread,
        "verdicts       " + ", ".join(f"{number} {name}" for name, number in count.items()),
        *([f"rollback       {report['rollback']}"] if report["rollback"] else []),
        *([f"alert          {report['alert']}"] if report["alert"] else []),
        "",
        *(f"{one['verdict']:<11}{one['name']:<32}{_numbers(one):<22}{one['about']}" for one in ordered),
    ]


def _numbers(reading: dict[str, Any]) -> str:
    value = "no value" if reading["value"] is None else f"{reading['value']:.4g}"
    return value if reading["threshold"] is None else f"{value} (limit {reading['threshold']:g})"


def write_pages(settings: Settings, report: dict[str, Any], reference: dict[str, Any]) -> Path:
    """Write both files, each whole or not at all; returns the page's path."""
    settings.reports.mkdir(parents=True, exist_ok=True)
    plots = [_plot(report, "psi", "population stability index"), _plot(report, "ks", "Kolmogorov–Smirnov distance")]
    plots.append(_reliability(reference["calibration"]["bins"]))
    path = settings.reports / "monitor.html"
    _replace(path, page("Monitoring", report_lines(report), plots))
    _replace(settings.reports / "monitor.json", json.dumps(report, indent=1, allow_nan=False))
    return path


def _replace(path: Path, text: str) -> None:
    part = path.with_suffix(f"{path.suffix}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _plot(report: dict[str, Any], kind: str, title: str) -> Plot:
    readings = [one for one in reversed(report["readings"]) if one["name"].startswith(f"{kind} ")]
    figure = new_figure(height=4.6)
    axes = figure.subplots()
    names = [one["name"].partition(" ")[2] for one in readings]
    axes.barh(names, [one["value"] or 0.0 for one in readings], color=[COLOURS[one["verdict"]] for one in readings])
    axes.set(title=f"{title}, against held-out requests")
    return title, png(figure)


def _reliability(bins: list[list[float]]) -> Plot:
    figure = new_figure()
    axes = figure.subplots()
    predicted, clicked = [one[0] for one in bins], [one[1] for one in bins]
    top = max([*predicted, *clicked, 1e-6]) * 1.05
    axes.plot([0, top], [0, top], color="#bbb", linewidth=1)
    axes.plot(predicted, clicked, marker="o", color="#1f5fa8")
    axes.set(xlabel="predicted click probability", ylabel="observed click rate", title="Reliability when held out")
    return "reliability plot", png(figure)
