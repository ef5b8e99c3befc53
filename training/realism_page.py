"""What was found of synthetic sessions, for people: lines, and one page with plots and nothing outside itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from training.copies import longest_runs
from training.interactions import Interactions
from training.page import interval, new_figure, page, png
from training.realism import LONGEST_SHOWN, item_shares, length_shares

REAL, MADE, OTHER = "#1f5fa8", "#d1701b", "#999"
MOST_POINTS = 5_000
"""Items drawn in the plot of popularity: the most popular ones."""


def lines(report: dict[str, Any]) -> list[str]:
    """The report in a few lines."""
    use, alike = report["utility"], report["closeness"]
    made, real = alike["synthetic"], alike["held_out"]
    overlaps = (
        f"{name} {made[f'{one}_overlap']:.3f} / {real[f'{one}_overlap']:.3f}"
        for name, one in (("popularity", "popularity"), ("transitions", "transition"), ("lengths", "length"))
    )
    return [
        f"{report['sessions']:,} sessions, {report['events']:,} events; {report['copies_dropped']:,} copies dropped",
        f"use        {use['metric']} of {use['judge']} on {use['questions']:,} later real questions, learnt from"
        f" {use['sessions']:,} sessions: real {interval(use['real'])}, synthetic {interval(use['synthetic'])},"
        f" popular {use['popular']['value']:.4f}",
        f"           gap {interval(use['gap'])}",
        f"alike      overlap with training, synthetic / later real: {', '.join(overlaps)}",
        *_copy_lines(report["copies"]),
    ]


def _copy_lines(copies: dict[str, Any]) -> list[str]:
    ours, theirs = copies["synthetic"], copies["held_out"]
    if not ours["sessions"] or not theirs["sessions"]:
        return [f"copies     no session has {copies['least_events']} events, so none was looked at"]
    ratio = copies["distance_ratio"]
    verdict = (
        "MORE copied than real sessions are, before copies were dropped"
        if copies["more_copied_than_real"]
        else "no more than real ones are"
    )
    return [
        f"copies     of sessions of {copies['least_events']} events or more {ours['copies']['value']:.2%} are copies,"
        f" of later real ones {theirs['copies']['value']:.2%}: {verdict}",
        f"           distance to the closest real session {interval(ours['distance'])}, of later real ones"
        f" {interval(theirs['distance'])}" + (f", ratio {ratio:.2f}" if ratio is not None else ""),
    ]


def realism_page(
    title: str, report: dict[str, Any], made: Interactions, train: Interactions, held_out: Interactions
) -> str:
    """The page, with plots of popularity, lengths, closeness and use."""
    plots = [_popularity(made, train), _lengths(made, train, held_out), _runs(made, train, held_out), _use(report)]
    return page(title, lines(report), plots)


def _popularity(made: Interactions, train: Interactions) -> tuple[str, str]:
    figure = new_figure()
    axes = figure.subplots()
    real, ours = item_shares(train), item_shares(made)
    shown = np.argsort(-(real + ours), kind="stable")[:MOST_POINTS]
    least = 0.5 / max(len(train), len(made))
    axes.loglog(np.maximum(real[shown], least), np.maximum(ours[shown], least), ".", color=MADE, alpha=0.4)
    ends = [least, float(max(real.max(), ours.max()))]
    axes.plot(ends, ends, color=OTHER, linewidth=1)
    axes.set(xlabel="share of events, real", ylabel="share of events, synthetic", title="Popularity of each item")
    return "popularity of items, real and synthetic", png(figure)


def _lengths(made: Interactions, train: Interactions, held_out: Interactions) -> tuple[str, str]:
    figure = new_figure()
    axes = figure.subplots()
    for label, part, colour in _sides(made, train, held_out):
        axes.step(np.arange(LONGEST_SHOWN + 1), length_shares(part), where="mid", color=colour, label=label)
    axes.set(xlabel=f"events; {LONGEST_SHOWN} stands for more too", ylabel="share of sessions", title="Length")
    axes.legend(frameon=False)
    return "length of sessions", png(figure)


def _runs(made: Interactions, train: Interactions, held_out: Interactions) -> tuple[str, str]:
    figure = new_figure()
    axes = figure.subplots()
    for label, part, colour in (("synthetic", made, MADE), ("later real", held_out, REAL)):
        runs = longest_runs(part, train)[part.lengths > 1] / part.lengths[part.lengths > 1]
        axes.step(np.sort(runs), np.linspace(0, 1, len(runs)), color=colour, label=label)
    axes.set(
        xlabel="longest run shared with a training session ÷ length",
        ylabel="share of sessions up to it",
        title="Copies",
    )
    axes.legend(frameon=False)
    return "longest shared runs", png(figure)


def _use(report: dict[str, Any]) -> tuple[str, str]:
    figure = new_figure()
    axes = figure.subplots()
    names = ["real", "synthetic", "popular"]
    found = [report["utility"][name] for name in names]
    values = [one["value"] for one in found]
    errors = [[one["value"] - one["low"] for one in found], [one["high"] - one["value"] for one in found]]
    axes.bar(names, values, yerr=errors, capsize=4, color=[REAL, MADE, OTHER])
    axes.set(ylabel=report["utility"]["metric"], title="Learnt from these, asked for later real items")
    return "use of synthetic sessions", png(figure)


def _sides(made: Interactions, train: Interactions, held_out: Interactions) -> list[tuple[str, Interactions, str]]:
    return [("real", train, REAL), ("later real", held_out, OTHER), ("synthetic", made, MADE)]
