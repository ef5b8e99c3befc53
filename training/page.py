"""Reports as one page with nothing outside itself: lines of text, and plots as pictures in it."""

from __future__ import annotations

import base64
import html
import io
from typing import Any

Plot = tuple[str, str]
"""What the plot shows, and its PNG in base 64."""
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color:#222}}
pre{{background:#f6f6f6;padding:1rem;overflow-x:auto}}img{{max-width:100%}}</style>
<h1>{title}</h1><pre>{text}</pre>{images}</html>
"""


def page(title: str, lines: list[str], plots: list[Plot]) -> str:
    """The page as HTML."""
    images = "".join(f'<p><img alt="{alt}" src="data:image/png;base64,{data}">' for alt, data in plots)
    return PAGE.format(title=html.escape(title), text=html.escape("\n".join(lines)), images=images)


def new_figure(width: float = 6.5, height: float = 4.0) -> Any:
    """An empty figure of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def png(figure: Any) -> str:
    """The figure as a PNG in base 64, its axes open at the top and the right."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()


def interval(estimate: dict[str, float]) -> str:
    """A value with its interval."""
    return f"{estimate['value']:.4f} [{estimate['low']:.4f}, {estimate['high']:.4f}]"
