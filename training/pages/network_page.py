"""The network of pages as one page with nothing outside itself: a drawing in SVG, and what is recommended where."""

from __future__ import annotations

import html
import math
from pathlib import Path
from typing import Final, NamedTuple

from marquee.settings import Settings
from training.pages.answers import PageFigures, PageState
from training.pages.page_model import PageModel

DRAWN: Final = 40
"""Pages in the drawing: the most visited ones."""
LISTED: Final = 200
STEPS: Final = 120
SIZE: Final = 760
RING: Final = 210
"""Radius of the circle on which the pages stand."""
COLOURS: Final = ("#1f5fa8", "#b3261e", "#1a7f37", "#d08a00", "#7a3fa0", "#00838f", "#8d6e63", "#5c6bc0")
ARROW: Final = 'class="advice" stroke="#d04000" stroke-dasharray="5 3" marker-end="url(#tip)"'
TIP: Final = (
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0L8 4L0 8z" fill="#d04000"/></marker></defs>'
)
PAGE: Final = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Pages of {tag}</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#222}}
table{{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}}
td,th{{text-align:right;padding:.2rem .6rem;border-bottom:1px solid #ddd}}
td.name,th.name{{text-align:left;overflow-wrap:anywhere}}
tr:target{{background:#fff3c4}}svg{{width:100%;height:auto}}svg text{{font:11px system-ui,sans-serif}}</style>
<h1>Pages of {tag}</h1>
<p>{about}
<p>A circle is a page, its size its visits, its colour its cluster; it leads to its line below. Grey lines are the most
frequent steps. A dashed arrow leads from a page to the one that is worth recommending there.
{drawing}
<h2>What is recommended where</h2>
<p>{listed}
<table><tr><th class="name">current page<th>cluster<th>visits<th class="name">most probable next<th>probability
<th class="name">recommended next<th>gain<th>probability<th>value</tr>
{rows}</table></html>
"""


class _Place(NamedTuple):
    turn: float
    radius: float


def write_network(settings: Settings, tag: str, model: PageModel) -> Path:
    """Write ``reports/<tag>-pages.html``, whole or not at all."""
    settings.reports.mkdir(parents=True, exist_ok=True)
    path = settings.reports / f"{tag.replace(':', '-')}-pages.html"
    part = path.with_suffix(".html.part")
    part.write_text(network_page(tag, model), encoding="utf-8")
    return part.replace(path)


def network_page(tag: str, model: PageModel) -> str:
    """The page as HTML."""
    states = model.policy(LISTED)
    figures = {state.page: found for state in states if (found := model.figures(state.page))}
    learnt = model.learnt
    about = (
        f"{len(model):,} pages in {int(model.labels.max()) + 1:,} clusters, learnt from {learnt.visits:,} visits in"
        f" {learnt.sessions:,} sessions. Gain and value are amounts of orders: what a recommendation adds to the rest"
        f" of a session, and what is expected until its end when recommendations are followed as often as assumed."
    )
    listed = f"The {len(states):,} most visited pages; no recommendation where there is nothing to gain."
    rows = "\n".join(_row(model, number, state, figures[state.page]) for number, state in enumerate(states))
    return PAGE.format(
        tag=html.escape(tag), about=about, drawing=_drawing(model, states[:DRAWN], figures), listed=listed, rows=rows
    )


def _row(model: PageModel, number: int, state: PageState, figures: PageFigures) -> str:
    probable = next(iter(model.next_pages([state.page], 1)), None)
    expected = [_name(probable[0]), f"<td>{probable[1]:.1%}"] if probable else [_name("–"), "<td>"]
    action = state.action
    advice = (
        [_name(action.page), f"<td>{action.gain:+.2f}", f"<td>{action.probability:.1%}"]
        if action
        else [_name("–"), "<td>", "<td>"]
    )
    known = [_name(state.page), f"<td>{figures.cluster}", f"<td>{figures.visit_count:,}"]
    return f'<tr id="p{number}">{"".join([*known, *expected, *advice])}<td>{state.value:.2f}</tr>'


def _name(text: str) -> str:
    return f'<td class="name">{html.escape(text)}'


def _drawing(model: PageModel, states: list[PageState], figures: dict[str, PageFigures]) -> str:
    places = _places({state.page: figures[state.page] for state in states})
    steps = [
        (edge.from_page, edge.to_page, f'stroke="#999" stroke-opacity="{0.15 + 0.6 * edge.probability:.2f}"')
        for edge in model.edges(STEPS)
        if edge.from_page != edge.to_page
    ]
    advice = [(state.page, state.action.page, ARROW) for state in states if state.action]
    lines = [
        _line(places[start], places[end], style)
        for start, end, style in steps + advice
        if start in places and end in places
    ]
    circles = [_circle(number, figures[page], place) for number, (page, place) in enumerate(places.items())]
    inside = "\n".join([TIP, *lines, *circles])
    return f'<svg viewBox="0 0 {SIZE} {SIZE}" role="img" aria-label="network of pages">\n{inside}\n</svg>'


def _places(shown: dict[str, PageFigures]) -> dict[str, _Place]:
    """Where each page is drawn: on one ring, the pages of a cluster side by side."""
    most = max((one.visit_count for one in shown.values()), default=1)
    ordered = sorted(shown, key=lambda page: shown[page].cluster)
    turns = {page: 2 * math.pi * (number + 0.5) / len(ordered) for number, page in enumerate(ordered)}
    return {
        page: _Place(turns[page], 4 + 14 * math.sqrt(figures.visit_count / max(most, 1)))
        for page, figures in shown.items()
    }


def _at(turn: float, radius: float) -> tuple[float, float]:
    return SIZE / 2 + radius * math.cos(turn), SIZE / 2 + radius * math.sin(turn)


def _line(start: _Place, end: _Place, style: str) -> str:
    """A line bent towards the middle, to the rim of the circle that it leads to."""
    (x, y), (to_x, to_y) = (_at(place.turn, RING - place.radius) for place in (start, end))
    middle_x, middle_y = (SIZE / 2 + 0.3 * ((one + other) / 2 - SIZE / 2) for one, other in ((x, to_x), (y, to_y)))
    way = f"M{x:.1f} {y:.1f}Q{middle_x:.1f} {middle_y:.1f} {to_x:.1f} {to_y:.1f}"
    return f'<path d="{way}" fill="none" {style}/>'


def _circle(number: int, figures: PageFigures, place: _Place) -> str:
    name = html.escape(figures.page)
    label = html.escape(figures.page if len(figures.page) <= 24 else f"{figures.page[:23]}…")
    colour = COLOURS[figures.cluster % len(COLOURS)]
    (x, y), (text_x, text_y) = _at(place.turn, RING), _at(place.turn, RING + place.radius + 6)
    is_left = math.cos(place.turn) < 0
    turned = math.degrees(place.turn) + (180 if is_left else 0)
    return (
        f'<a href="#p{number}"><circle cx="{x:.1f}" cy="{y:.1f}" r="{place.radius:.1f}" fill="{colour}">'
        f"<title>{name}: {figures.visit_count:,} visits, cluster {figures.cluster}</title></circle>"
        f'<text transform="translate({text_x:.1f} {text_y:.1f}) rotate({turned:.1f})" dominant-baseline="central"'
        f' text-anchor="{"end" if is_left else "start"}">{label}</text></a>'
    )
