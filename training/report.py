"""A bundle's evaluation as a page a person can read: figures, reliability plot, CTR by policy where it is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from features.flags import told
from marquee.settings import Settings
from training.page import interval, new_figure, page, png

Interval = dict[str, float]


def summary_lines(report: dict[str, Any]) -> list[str]:
    """The evaluation in a few lines."""
    ranker, retrieval, policy, rows = (report[name] for name in ("ranker", "retrieval", "policy", "rows"))
    lines = [
        f"later window from {report['test_starts_at'][:16]}: {ranker['rows']:,} impressions,"
        f" {ranker['clicks']:,} clicks (trained on {rows['train']:,}, calibrated on {rows['validation']:,},"
        f" set aside at borders {rows['purged']:,})",
        *([f"anomalies      {told(report['flagged'])}"] if "flagged" in report else []),
        f"AUC            {interval(ranker['auc'])}",
        f"  popular      {interval(ranker['auc_popular'])}",
        f"  logistic     {interval(ranker['auc_logistic'])}",
        f"calibration    mean probability {ranker['mean_probability']:.4f}, click rate {ranker['click_rate']:.4f},"
        f" expected error {ranker['calibration_error']:.4f}",
        f"retrieval      recall@{retrieval['k']} {retrieval['recall']:.3f} of {retrieval['clicks']:,} clicks,"
        f" popular {retrieval['recall_popular']:.3f}, among {retrieval['eligible']:.0f} eligible",
    ]
    if "recall_products" in retrieval:
        lines.append(
            f"  by products  recall@{retrieval['k']} {retrieval['recall_products']:.3f},"
            f" original formula {retrieval['recall_original']:.3f},"
            f" blended with the towers {retrieval['recall_blend']:.3f}"
        )
    return lines + _policy_lines(policy)


def _policy_lines(policy: dict[str, Any]) -> list[str]:
    """The off-policy estimates, none where the log cannot say; bundles of older versions know only the first."""
    effective = f"{policy['ess']:.0f} effective of {policy['rows']:,}"
    if not policy["value"]:
        mass = f", mean weight {policy['mean_weight']:.2f}" if "mean_weight" in policy else ""
        return [f"off-policy     cannot say: {effective} logged requests{mass}"]
    value, logged = interval(policy["value"]), interval(policy["logged"])
    shown = [f"{name} {interval(one)}" for name, one in policy.get("estimates", {}).items() if one]
    return [
        f"off-policy     first position {value} against logged {logged}, {effective}",
        *(f"  estimates    {', '.join(shown[first : first + 4])}" for first in range(0, len(shown), 4)),
    ]


def write_report(settings: Settings, tag: str, report: dict[str, Any], ctr: dict[str, Interval] | None = None) -> Path:
    """Draw the page ``reports/<tag>.html``; ``ctr`` adds the policies' true click rates, where a simulator knows."""
    images = [_reliability_plot(report["ranker"]["reliability"])]
    lines = summary_lines(report)
    if ctr:
        images.append(_ctr_plot(ctr))
        lines += [f"true CTR       {name:<8} {interval(value)}" for name, value in ctr.items()]
    settings.reports.mkdir(parents=True, exist_ok=True)
    path = settings.reports / f"{tag.replace(':', '-')}.html"
    path.write_text(page(tag, lines, images), encoding="utf-8")
    return path


def _reliability_plot(reliability: list[list[float]]) -> tuple[str, str]:
    figure = new_figure()
    axes = figure.subplots()
    predicted, clicked = [point[0] for point in reliability], [point[1] for point in reliability]
    top = max(*predicted, *clicked) * 1.05
    axes.plot([0, top], [0, top], color="#bbb", linewidth=1)
    axes.plot(predicted, clicked, marker="o", color="#1f5fa8")
    axes.set(xlabel="predicted click probability", ylabel="observed click rate", title="Reliability, later window")
    return "reliability plot", png(figure)


def _ctr_plot(ctr: dict[str, Interval]) -> tuple[str, str]:
    figure = new_figure()
    axes = figure.subplots()
    names = list(ctr)
    values = [ctr[name]["value"] for name in names]
    errors = [
        [ctr[name]["value"] - ctr[name]["low"] for name in names],
        [ctr[name]["high"] - ctr[name]["value"] for name in names],
    ]
    axes.bar(names, values, yerr=errors, capsize=4, color="#1f5fa8")
    axes.set(ylabel="clicks per shown banner", title="True click rate by policy, next day, in the simulator")
    return "click rate by policy", png(figure)
