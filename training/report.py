"""A bundle's evaluation as a page a person can read: figures, reliability plot, CTR by policy where it is known."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any

from features.flags import told
from marquee.settings import Settings

Interval = dict[str, float]
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color:#222}}
pre{{background:#f6f6f6;padding:1rem;overflow-x:auto}}img{{max-width:100%}}</style>
<h1>{title}</h1><pre>{text}</pre>{images}</html>
"""


def summary_lines(report: dict[str, Any]) -> list[str]:
    """The evaluation in a few lines."""
    ranker, retrieval, policy, rows = (report[name] for name in ("ranker", "retrieval", "policy", "rows"))
    lines = [
        f"later window from {report['test_starts_at'][:16]}: {ranker['rows']:,} impressions,"
        f" {ranker['clicks']:,} clicks (trained on {rows['train']:,}, calibrated on {rows['validation']:,},"
        f" set aside at borders {rows['purged']:,})",
        *([f"anomalies      {told(report['flagged'])}"] if "flagged" in report else []),
        f"AUC            {_interval(ranker['auc'])}",
        f"  popular      {_interval(ranker['auc_popular'])}",
        f"  logistic     {_interval(ranker['auc_logistic'])}",
        f"calibration    mean probability {ranker['mean_probability']:.4f}, click rate {ranker['click_rate']:.4f},"
        f" expected error {ranker['calibration_error']:.4f}",
        f"retrieval      recall@{retrieval['k']} {retrieval['recall']:.3f} of {retrieval['clicks']:,} clicks,"
        f" popular {retrieval['recall_popular']:.3f}, among {retrieval['eligible']:.0f} eligible",
    ]
    if policy["value"]:
        lines.append(
            f"off-policy     first position {_interval(policy['value'])} against logged {_interval(policy['logged'])},"
            f" {policy['ess']:.0f} effective of {policy['rows']:,}"
        )
    else:
        lines.append(f"off-policy     cannot say: {policy['ess']:.0f} effective of {policy['rows']:,} logged requests")
    return lines


def write_report(settings: Settings, tag: str, report: dict[str, Any], ctr: dict[str, Interval] | None = None) -> Path:
    """Draw the page ``reports/<tag>.html``; ``ctr`` adds the policies' true click rates, where a simulator knows."""
    images = [_reliability_plot(report["ranker"]["reliability"])]
    lines = summary_lines(report)
    if ctr:
        images.append(_ctr_plot(ctr))
        lines += [f"true CTR       {name:<8} {_interval(value)}" for name, value in ctr.items()]
    pictures = "".join(f'<p><img alt="{alt}" src="data:image/png;base64,{data}">' for alt, data in images)
    settings.reports.mkdir(parents=True, exist_ok=True)
    page = settings.reports / f"{tag.replace(':', '-')}.html"
    text = html.escape("\n".join(lines))
    page.write_text(PAGE.format(title=html.escape(tag), text=text, images=pictures), encoding="utf-8")
    return page


def _interval(estimate: Interval) -> str:
    return f"{estimate['value']:.4f} [{estimate['low']:.4f}, {estimate['high']:.4f}]"


def _reliability_plot(reliability: list[list[float]]) -> tuple[str, str]:
    figure, axes = _figure()
    predicted, clicked = [point[0] for point in reliability], [point[1] for point in reliability]
    top = max(*predicted, *clicked) * 1.05
    axes.plot([0, top], [0, top], color="#bbb", linewidth=1)
    axes.plot(predicted, clicked, marker="o", color="#1f5fa8")
    axes.set(xlabel="predicted click probability", ylabel="observed click rate", title="Reliability, later window")
    return "reliability plot", _png(figure)


def _ctr_plot(ctr: dict[str, Interval]) -> tuple[str, str]:
    figure, axes = _figure()
    names = list(ctr)
    values = [ctr[name]["value"] for name in names]
    errors = [
        [ctr[name]["value"] - ctr[name]["low"] for name in names],
        [ctr[name]["high"] - ctr[name]["value"] for name in names],
    ]
    axes.bar(names, values, yerr=errors, capsize=4, color="#1f5fa8")
    axes.set(ylabel="clicks per shown banner", title="True click rate by policy, next day, in the simulator")
    return "click rate by policy", _png(figure)


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()
