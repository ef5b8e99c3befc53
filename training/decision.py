"""What to do with an arm: ship it, hold it, or roll it back; written as ``decision.json`` and as a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from training.experiment_log import CHANCE
from training.experiments import Analysis, Comparison
from training.metrics import Estimate
from training.page import new_figure, page, png

Verdict = Literal["ship", "hold", "roll back"]
CROSSED = 0.01
"""Share of visitors seen in more than one arm above which assignment was not sticky."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict on one arm, and why."""

    arm: str
    verdict: Verdict
    reasons: list[str]


def decide(analysis: Analysis, arm: str, primary: str = "ctr", always_valid: bool = True) -> Decision:
    """Judge an arm by its intervals, of the kind asked for.

    A log that cannot be trusted holds. Else harm in any metric rolls back, a gain in the primary one ships, and what is
    left holds.
    """
    if doubts := _doubts(analysis):
        return Decision(arm, "hold", doubts)
    found = analysis.comparisons[arm]
    intervals = {name: _interval(one, always_valid) for name, one in found.items() if one}
    harmed = [name for name, interval in intervals.items() if interval.high < 0]
    if harmed:
        return Decision(arm, "roll back", [f"{name} fell: {_told(intervals[name])}" for name in harmed])
    if primary not in intervals:
        return Decision(arm, "hold", [f"cannot say of {primary}: too few units, or too few with any of it"])
    told = _told(intervals[primary])
    if intervals[primary].low > 0:
        return Decision(arm, "ship", [f"{primary} rose: {told}", "no other metric surely fell"])
    return Decision(arm, "hold", [f"{primary} may have risen or fallen: {told}"])


def _doubts(analysis: Analysis) -> list[str]:
    """Why the log cannot be trusted; empty when it can."""
    doubts = []
    if analysis.sample_ratio < CHANCE:
        counts = ", ".join(f"{arm} {totals['units']:,.0f}" for arm, totals in analysis.arms.items())
        doubts.append(f"sample ratio mismatch: {counts} do not fit the shares (p = {analysis.sample_ratio:.1g})")
    if analysis.share_drift < CHANCE:
        doubts.append(f"shares changed from day to day (p = {analysis.share_drift:.1g}); give --since the last change")
    if analysis.crossed > CROSSED:
        doubts.append(f"{analysis.crossed:.1%} of visitors saw more than one arm; assignment was not sticky")
    return doubts


def _interval(comparison: Comparison, always_valid: bool) -> Estimate:
    return comparison.difference_always if always_valid else comparison.difference


def _told(estimate: Estimate) -> str:
    return f"difference {estimate.value:+.5f} [{estimate.low:+.5f}, {estimate.high:+.5f}]"


def table_rows(analysis: Analysis, always_valid: bool) -> list[list[object]]:
    """One row per arm and metric: the rates, their difference and the lift with its interval."""
    rows: list[list[object]] = []
    for arm, found in analysis.comparisons.items():
        for name, one in found.items():
            if one is None:
                rows.append([arm, name, "", "", "cannot say", "", ""])
                continue
            lift = one.lift_always if always_valid else one.lift
            told = f"{lift.value:+.1%} [{lift.low:+.1%}, {lift.high:+.1%}]" if lift else "cannot say"
            saved = "" if one.reduction is None else f"{max(one.reduction, 0.0):.0%}"
            difference = _told(_interval(one, always_valid)).removeprefix("difference ")
            rows.append([arm, name, f"{one.control_rate:.5f}", f"{one.rate:.5f}", difference, told, saved])
    return rows


def summary_lines(name: str, analysis: Analysis, decisions: Sequence[Decision]) -> list[str]:
    """What was compared, and each verdict with its reasons."""
    left_out = f", {analysis.left_out} left out that lacked an arm" if analysis.left_out else ""
    lines = [f"{name}: {analysis.days} days from {analysis.first_day} to {analysis.last_day}{left_out}"]
    unit = "visitors" if analysis.design.unit == "visitor" else "periods"
    for arm, totals in analysis.arms.items():
        shown = f"{totals['views']:,.0f} views, {totals['clicks']:,.0f} clicks, value {totals['value']:,.2f}"
        role = " (control)" if arm == analysis.design.control else ""
        lines.append(f"  {arm}{role}: {totals['units']:,.0f} {unit}, {totals['sessions']:,.0f} sessions, {shown}")
    lines.append(f"sample ratio p = {analysis.sample_ratio:.3g}, shares over days p = {analysis.share_drift:.3g}")
    return lines + [f"{one.arm}: {one.verdict.upper()}: {'; '.join(one.reasons)}" for one in decisions]


def decision_record(name: str, analysis: Analysis, decisions: Sequence[Decision], **asked: Any) -> dict[str, Any]:
    """All figures as one JSON object; ``asked`` says what the verdicts were judged by."""
    return {"experiment": name, **asked, "decisions": [asdict(one) for one in decisions], "analysis": asdict(analysis)}


def write_decision(folder: Path, record: dict[str, Any], analysis: Analysis, lines: list[str]) -> Path:
    """Write ``decision.json`` and ``decision.html`` into the folder; the path of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    plot = lift_plot(analysis, record["always_valid"])
    title = f"experiment {record['experiment']}"
    (folder / "decision.html").write_text(page(title, lines, [plot] if plot else []), encoding="utf-8")
    path = folder / "decision.json"
    path.write_text(json.dumps(record, indent=1), encoding="utf-8")
    return path


def lift_plot(analysis: Analysis, always_valid: bool) -> tuple[str, str] | None:
    """Every lift with its interval against 0, best seen at a glance; None where the log can say none."""
    found = [one for by_metric in analysis.comparisons.values() for one in by_metric.values() if one]
    told = [(one, one.lift_always if always_valid else one.lift) for one in found]
    lifts = [(f"{one.arm}\n{one.metric}", lift) for one, lift in told if lift]
    if not lifts:
        return None
    figure = new_figure(height=1.2 + 0.6 * len(lifts))
    axes = figure.subplots()
    places = range(len(lifts), 0, -1)
    values = [100 * lift.value for _, lift in lifts]
    below = [100 * (lift.value - lift.low) for _, lift in lifts]
    above = [100 * (lift.high - lift.value) for _, lift in lifts]
    axes.axvline(0, color="#bbb", linewidth=1)
    axes.errorbar(values, list(places), xerr=[below, above], fmt="o", capsize=4, color="#1f5fa8")
    axes.set_yticks(list(places), [name for name, _ in lifts])
    axes.set(xlabel="lift over the control, %", title="Always-valid intervals" if always_valid else "Fixed horizon")
    return "lift of each arm and metric", png(figure)
