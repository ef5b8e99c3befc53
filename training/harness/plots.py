"""The bench's plots, each as its title, what it shows, and a PNG."""

from __future__ import annotations

from typing import Any

from training.harness.bench import Row
from training.page import new_figure, png

Plot = tuple[str, str, str]
"""Title, what it shows and how to read it, PNG in base 64."""
COLOURS = ("#1f5fa8", "#d1701b", "#2c8a4b", "#b5352c", "#6b4fa0", "#7a5a48", "#c65a9b", "#4d4d4d", "#9a9a1f", "#1a9bb0")
MARKERS = "osD^vP*Xph"


def plots(rows: list[Row], metric: str) -> list[Plot]:
    """Every plot there are figures for; ``rows`` finished, best first."""
    drawn = [
        _quality(rows, metric),
        _quality_by_time(rows, metric),
        _slices(rows, metric, "history", "Quality by length of the history", "events in the history"),
        _slices(rows, metric, "target", "Quality by popularity of what came", "the right item, by events in training"),
        _robustness(rows, metric),
        _scaling(rows),
    ]
    return [plot for plot in drawn if plot]


def _quality(rows: list[Row], metric: str) -> Plot:
    figure = new_figure(7.5, 1.2 + 0.36 * len(rows))
    axes = figure.subplots()
    names = [row.model for row in rows][::-1]
    for place, row in enumerate(reversed(rows)):
        one = row.result["metrics"][metric]
        axes.plot([one["low"], one["high"]], [place, place], color="#8fb1d9", linewidth=4, solid_capstyle="butt")
        axes.plot(one["value"], place, "o", color=COLOURS[0])
    for row in rows:
        if row.model == "popular":
            axes.axvline(row.result["metrics"][metric]["value"], color="#999", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel=metric)
    return (
        f"Quality: {metric}",
        "The point is the mean over all questions, the bar its 95 % interval; the dashed line is popularity.",
        png(figure),
    )


def _quality_by_time(rows: list[Row], metric: str) -> Plot:
    figure = new_figure(7.5, 4.2)
    axes = figure.subplots()
    for place, row in enumerate(rows):
        seconds, value = max(row.result["cost"]["fit_s"], 1e-3), row.result["metrics"][metric]["value"]
        axes.plot(seconds, value, _marker(place), color=_colour(place))
        axes.annotate(row.model, (seconds, value), xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set(xlabel="seconds to fit", ylabel=metric)
    return "Quality against the time to fit", "Up is better, left is cheaper.", png(figure)


def _slices(rows: list[Row], metric: str, kind: str, title: str, label: str) -> Plot | None:
    """A line a model over the slices whose names begin with ``kind``."""
    found = [one for one in rows[0].result["slices"] if one["slice"].startswith(kind)]
    if len(found) < 2:
        return None
    figure = new_figure(7.5, 4.2)
    axes = figure.subplots()
    for place, row in enumerate(rows):
        by_name = {one["slice"]: one["metrics"][metric] for one in row.result["slices"]}
        values = [by_name[one["slice"]] for one in found]
        axes.plot(range(len(found)), values, _line(place), color=_colour(place), label=row.model)
    names = [one["slice"].removeprefix(kind).strip() for one in found]
    axes.set_xticks(range(len(found)), [f"{n}\n({one['questions']:,})" for n, one in zip(names, found, strict=True)])
    axes.set(xlabel=f"{label} (questions)", ylabel=metric)
    _legend(axes)
    return title, f"{metric} among the questions of each group.", png(figure)


def _robustness(rows: list[Row], metric: str) -> Plot | None:
    tried = [row for row in rows if row.result["robustness"]]
    if not tried:
        return None
    kinds = list(dict.fromkeys(point["kind"] for point in tried[0].result["robustness"]))
    figure = new_figure(3.2 * len(kinds) + 1.6, 4.2)
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        for place, row in enumerate(rows):
            points = [point for point in row.result["robustness"] if point["kind"] == kind]
            if points:
                shares = [0.0, *(100 * point["share"] for point in points)]
                kept = [100.0, *(100 * point["kept"] for point in points)]
                axes.plot(shares, kept, _line(place), color=_colour(place), label=row.model)
        axes.set(title=kind, xlabel="% of events")
    panels[0].set(ylabel=f"% of {metric} kept")
    _legend(panels[-1])
    return (
        "Robustness",
        f"How much of its own {metric} each model keeps when some events of the histories are dropped, replaced by"
        " random items, or have not arrived yet.",
        png(figure),
    )


def _scaling(rows: list[Row]) -> Plot | None:
    tried = [row for row in rows if row.result["scaling"]]
    if not tried:
        return None
    figure = new_figure(9, 4.2)
    latency, throughput = figure.subplots(1, 2)
    sizes = [point["items"] for point in tried[0].result["scaling"]]
    for place, row in enumerate(rows):
        for axes, name in ((latency, "p50_ms"), (throughput, "per_second")):
            values = [point[name] for point in row.result["scaling"]]
            axes.plot(sizes[: len(values)], values, _line(place), color=_colour(place), label=row.model)
    for axes in (latency, throughput):
        axes.set(xscale="log", yscale="log", xlabel="items in the catalogue")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
    latency.set(ylabel="milliseconds for one question (median)")
    throughput.set(ylabel="questions a second in batches")
    _legend(throughput)
    return (
        "Speed against the size of the catalogue",
        "Parts of the catalogue, most popular items first, with the same users; on the parts, models that learn in"
        " epochs were fitted for one only.",
        png(figure),
    )


def _legend(axes: Any) -> None:
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def _marker(place: int) -> str:
    return MARKERS[(place + place // len(COLOURS)) % len(MARKERS)]


def _line(place: int) -> str:
    """Marker and dashes, so that models stay apart without colours."""
    return _marker(place) + ("-", "--", ":")[place // len(COLOURS) % 3]
