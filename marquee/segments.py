"""The verb that shows how segments respond. Part of the composition root, as ``cli`` is."""

from __future__ import annotations

from dataclasses import asdict

from marquee import console
from marquee.options import Home, Json, command_settings


def segments(home: Home = None, as_json: Json = False) -> None:
    """Show how each customer segment responds to banners: click and conversion rates with intervals, and a page."""
    settings = command_settings(home, after="transform")
    from training.segments import segment_responses
    from training.segments_page import CAUTION, HEADINGS, table_rows, write_segments_page

    responses = segment_responses(settings)
    lines = [console.table("", list(HEADINGS), table_rows(responses)), CAUTION]
    path = write_segments_page(settings, responses, lines)
    values = {"segments": [asdict(one) for one in responses], "report": str(path)}
    console.show(values, [*lines, f"report: {path}"], as_json)
