"""The verb that explains a logged answer. Part of the composition root, as ``cli`` is."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from marquee import console
from marquee.errors import MarqueeError
from marquee.options import Home, Json, command_settings


def explain(
    request_id: Annotated[str, typer.Argument(help="What the answer called request_id.")],
    every: Annotated[bool, typer.Option("--all", help="Tell of every banner, not only of the first twenty.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Make a logged answer again, bit for bit, and say why each banner was shown or not."""
    from serving.explanation import explain as explained

    settings = command_settings(home, existing=True)
    told = explained(settings, request_id)
    shown = told.banners if every or as_json else told.banners[:20]
    rows: list[list[object]] = [
        [
            "" if one.position is None else one.position,
            one.banner_id,
            "" if one.score is None else f"{one.score:.4f}",
            "" if one.propensity is None else f"{one.propensity:.4f}",
            one.why,
        ]
        for one in shown
    ]
    who = told.visitor_id or "a visitor without a cookie"
    lines = [f"{who} at {told.placement_id}, {told.at} UTC, bundle {told.bundle}, fallback: {told.fallback or 'none'}"]
    lines.append(console.table("why", ["position", "banner", "score", "propensity", "why"], rows))
    for one in told.banners:
        if one.shares:
            largest = ", ".join(f"{name} {share:+.2f}" for name, share in one.shares.items())
            lines.append(f"{one.banner_id}: largest shares in its log-odds: {largest}")
    if len(shown) < len(told.banners):
        lines.append(f"{len(told.banners) - len(shown)} more banners; --all tells of them")
    lines.append("made again bit for bit" if told.is_same else f"NOT the same as logged: {told.difference}")
    console.show(asdict(told), lines, as_json)
    if not told.is_same:
        raise MarqueeError(f"request {request_id} was made again and differs: {told.difference}")
