"""The segments' response rates as lines of text, and as a page with a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from marquee.settings import Settings
from training.metrics import Estimate
from training.page import Plot, new_figure, page, png
from training.segments import Response

CAUTION: Final = (
    "Segments are those of today: a rate tells how those who are in one now responded, and not what being in it does."
)
HEADINGS: Final = ("segment", "visitors", "impressions", "clicks", "click rate", "conversions", "conversion rate")


def table_rows(responses: Sequence[Response]) -> list[list[object]]:
    """A row a segment, under ``HEADINGS``, and one of the sums."""
    rows: list[list[object]] = [
        [
            one.segment,
            f"{one.visitors:,}",
            f"{one.impressions:,}",
            f"{one.clicks:,}",
            _told(one.click_rate),
            f"{one.conversions:,}",
            _told(one.conversion_rate),
        ]
        for one in responses
    ]
    visitors, impressions, clicks, conversions = totals(responses)
    rates = (f"{count / impressions:.2%}" for count in (clicks, conversions))
    counted = [f"{visitors:,}", f"{impressions:,}", f"{clicks:,}", next(rates), f"{conversions:,}", next(rates)]
    return [*rows, ["all", *counted]]


def totals(responses: Sequence[Response]) -> tuple[int, int, int, int]:
    """Visitors, impressions, clicks and conversions of all segments together."""
    visitors, impressions = (sum(getattr(one, name) for one in responses) for name in ("visitors", "impressions"))
    return visitors, impressions, sum(one.clicks for one in responses), sum(one.conversions for one in responses)


def write_segments_page(settings: Settings, responses: Sequence[Response], lines: list[str]) -> Path:
    """Draw ``reports/segments.html``: the lines, and each rate with its interval beside that of all."""
    settings.reports.mkdir(parents=True, exist_ok=True)
    path = settings.reports / "segments.html"
    plots = [_plot(responses, "click"), _plot(responses, "conversion")]
    path.write_text(page("How each segment responds", lines, plots), encoding="utf-8")
    return path


def _plot(responses: Sequence[Response], kind: str) -> Plot:
    rates: list[Estimate] = [getattr(one, f"{kind}_rate") for one in responses]
    _, impressions, clicks, conversions = totals(responses)
    overall = 100 * {"click": clicks, "conversion": conversions}[kind] / impressions
    places = list(range(len(rates), 0, -1))
    values = [100 * rate.value for rate in rates]
    ends: list[Any] = [
        [100 * (rate.value - rate.low) for rate in rates],
        [100 * (rate.high - rate.value) for rate in rates],
    ]
    figure = new_figure(height=1.2 + 0.35 * len(rates))
    axes = figure.subplots()
    axes.axvline(overall, color="#bbb", linewidth=1)
    axes.errorbar(values, places, xerr=ends, fmt="o", capsize=4, color="#1f5fa8")
    axes.set_yticks(places, [one.segment for one in responses])
    axes.set(xlabel=f"{kind}s per impression, %; the line is that of all", title=f"{kind.capitalize()} rate by segment")
    return f"{kind} rate by segment", png(figure)


def _told(rate: Estimate) -> str:
    return f"{rate.value:.2%} [{rate.low:.2%}, {rate.high:.2%}]"
