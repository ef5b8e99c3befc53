"""A bundle's evaluation as a page a person can read: figures, reliability plot, CTR by policy where it is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from features.flags import told
from marquee.settings import Settings
from training.page import Plot, interval, new_figure, page, png

Interval = dict[str, float]
MOST_LINES = 6
"""Placements that the reliability plot draws beside the whole."""


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
        *([f"  forest       {interval(ranker['auc_forest'])}"] if "auc_forest" in ranker else []),
        *_verdict(ranker),
        f"calibration    mean probability {ranker['mean_probability']:.4f}, click rate {ranker['click_rate']:.4f},"
        f" expected error {ranker['calibration_error']:.4f}{_kind(ranker)}",
        *_placement_lines(ranker.get("ece_by_placement", {})),
        f"retrieval      recall@{retrieval['k']} {retrieval['recall']:.3f} of {retrieval['clicks']:,} clicks,"
        f" popular {retrieval['recall_popular']:.3f}, among {retrieval['eligible']:.0f} eligible",
    ]
    if "recall_products" in retrieval:
        lines.append(
            f"  by products  recall@{retrieval['k']} {retrieval['recall_products']:.3f},"
            f" original formula {retrieval['recall_original']:.3f},"
            f" blended with the towers {retrieval['recall_blend']:.3f}"
        )
    lines += _product_lines(report.get("products")) + _page_lines(report.get("pages"))
    return lines + _policy_lines(policy)


def _verdict(ranker: dict[str, Any]) -> list[str]:
    """Which baselines the ranker surely beats, by the paired intervals, and which not; older bundles do not say."""
    gains = {"popular": "auc_gain", "logistic": "auc_gain_logistic", "forest": "auc_gain_forest"}
    if any(name not in ranker for name in gains.values()):
        return []
    told = []
    for baseline, name in gains.items():
        gain = ranker[name]
        said = "surely above" if gain["low"] > 0 else "surely below" if gain["high"] < 0 else "not surely above"
        told.append(f"{said} {baseline} ({gain['value']:+.4f})")
    return [f"  the ranker is {', '.join(told)}"]


def _kind(ranker: dict[str, Any]) -> str:
    """Which calibration was chosen; bundles of older versions do not say."""
    return f" ({ranker['calibration']})" if "calibration" in ranker else ""


def _placement_lines(placements: dict[str, dict[str, Any]]) -> list[str]:
    width = max(map(len, placements), default=0)
    return [
        f"  {name:<{width}}  mean probability {one['mean_probability']:.4f},"
        f" click rate {one['clicks'] / one['rows']:.4f}, expected error {one['ece']:.4f},"
        f" {one['clicks']:,} of {one['rows']:,}"
        for name, one in placements.items()
    ]


def _product_lines(products: dict[str, Any] | None) -> list[str]:
    """What the product model's lists are worth; bundles of older versions have none."""
    if products is None:
        return []
    if "skipped" in products:
        return [f"products       no model: {products['skipped']}"]
    told = f"products       {products['products']:,} learnt from {products['events']:,} events"
    if not products["questions"]:
        return [f"{told}; no later session to ask about"]
    ndcg = products["ndcg"]
    others = ", ".join(f"{name} {ndcg[name]:.3f}" for name in ("similarity", "taste", "popular"))
    return [f"{told}; NDCG@20 {ndcg['blend']:.3f} in {products['questions']:,} later sessions, {others}"]


def _page_lines(pages: dict[str, Any] | None) -> list[str]:
    """What the page model predicts and what its policy is worth; bundles of older versions have none."""
    if pages is None:
        return []
    if "skipped" in pages:
        return [f"pages          no model: {pages['skipped']}"]
    predicted, policy = pages["next_page"], pages["policy"]
    told = [f"pages          {pages['pages']:,} in {pages['clusters']['count']:,} clusters, learnt from"]
    told[0] += f" {pages['model']['visits']:,} visits"
    if predicted["steps"]:
        order = predicted[f"order_{pages['model']['order']}"]["mrr@20"]
        first = predicted["first_order"]["mrr@20"]["value"]
        told.append(
            f"  next page    MRR@20 {interval(order)} in {predicted['steps']:,} later steps, first order {first:.4f}"
        )
    if policy["sessions"]:
        value = policy["value"]
        gain = f"gains {interval(value['gain'])} on" if value["gain"] else "cannot say what it gains on"
        told.append(f"  page policy  {gain} {interval(value['actual'])} of {policy['sessions']:,} later sessions")
    return told


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
    images = [_reliability_plot(report["ranker"])]
    lines = summary_lines(report)
    if ctr:
        images.append(_ctr_plot(ctr))
        lines += [f"true CTR       {name:<8} {interval(value)}" for name, value in ctr.items()]
    settings.reports.mkdir(parents=True, exist_ok=True)
    path = settings.reports / f"{tag.replace(':', '-')}.html"
    path.write_text(page(tag, lines, images), encoding="utf-8")
    return path


def _reliability_plot(ranker: dict[str, Any]) -> Plot:
    """All placements in one thick line, each in a thin one; no more than a legend can hold, the most clicked first."""
    figure = new_figure()
    axes = figure.subplots()
    placements = sorted(ranker.get("ece_by_placement", {}).items(), key=lambda one: -one[1]["clicks"])[:MOST_LINES]
    curves = {"all": ranker["reliability"]} | {name: one["reliability"] for name, one in placements}
    top = max(value for curve in curves.values() for point in curve for value in point[:2]) * 1.05
    axes.plot([0, top], [0, top], color="#bbb", linewidth=1)
    for name, curve in curves.items():
        style: dict[str, Any] = (
            {"marker": "o", "color": "#222", "linewidth": 2} if name == "all" else {"linewidth": 1, "marker": "."}
        )
        axes.plot([point[0] for point in curve], [point[1] for point in curve], label=name, **style)
    if len(curves) > 1:
        axes.legend(frameon=False)
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
