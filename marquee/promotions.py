"""Verbs on bundles: promote, shadow, canary, rollback, history. Part of the composition root, as ``cli`` is."""

from __future__ import annotations

import getpass
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from marquee import console
from marquee.options import Home, Json, command_settings, given_reason

By = Annotated[str | None, typer.Option(help="Who asks; recorded.")]
Override = Annotated[str | None, typer.Option(help="A reason to go on although a check fails; recorded.")]
AnyTag = Annotated[str | None, typer.Argument(help="A bundle; the one trained last if not given.")]


def promote(
    tag: AnyTag = None, by: By = None, override: Override = None, home: Home = None, as_json: Json = False
) -> None:
    """Let the gate judge a bundle and make it champion; a running service follows within a second."""
    why = None if override is None else given_reason(override, "--override")
    settings = command_settings(home, after=None if tag else "train", existing=True)
    from training.pipeline import require_latest_bundle
    from training.promotion import promote as ask

    tag = tag or require_latest_bundle(settings)
    checks = ask(settings, tag, by or getpass.getuser(), why)
    _show_checks({"champion": tag}, f"{tag} is champion", checks, as_json)


def canary(
    tag: AnyTag = None,
    share: Annotated[float, typer.Option(help="Share of the visitors that it answers, each for good.")] = 0.05,
    end: Annotated[bool, typer.Option("--end", help="End the canary; the champion answers everybody.")] = False,
    reason: Annotated[str, typer.Option(help="Why it ends; recorded.")] = "",
    by: By = None,
    override: Override = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Let a bundle answer a share of the visitors, if the gate lets it; a share that grows keeps those it had."""
    why = None if override is None else given_reason(override, "--override")
    settings = command_settings(home, after="promote")
    from training.pipeline import require_latest_bundle
    from training.promotion import end_trial, start_canary

    if end:
        ended = end_trial(settings, "canary", by or getpass.getuser(), given_reason(reason))
        console.show({"ended": ended}, [f"{ended} answers nobody now"], as_json)
        return
    tag = tag or require_latest_bundle(settings)
    checks = start_canary(settings, tag, share, by or getpass.getuser(), why)
    line = f"{tag} answers {share:.1%} of the visitors"
    _show_checks({"canary": tag, "share": share}, line, checks, as_json)


def shadow(
    tag: Annotated[str | None, typer.Argument(help="A bundle; without one, what the present shadow did.")] = None,
    end: Annotated[bool, typer.Option("--end", help="End the shadow.")] = False,
    by: By = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Score a bundle beside the champion, seen by nobody, and compare what it would have shown."""
    settings = command_settings(home, after="promote")
    from serving.shadow import compare_shadow
    from training.promotion import end_trial, start_shadow
    from training.registry import roles

    if end:
        ended = end_trial(settings, "shadow", by or getpass.getuser(), "ended by hand")
        console.show({"ended": ended}, [f"{ended} is no longer scored"], as_json)
    elif tag:
        start_shadow(settings, tag, by or getpass.getuser())
        lines = [f"{tag} is scored beside the champion", "next: marquee shadow, once requests have come"]
        console.show({"shadow": tag}, lines, as_json)
    else:
        found = compare_shadow(settings, roles(settings).shadow)
        console.show(asdict(found), found.lines(), as_json)


def rollback(
    reason: Annotated[str, typer.Option(help="Why; recorded.")],
    by: By = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Make the champion before the present one champion again, for everybody: a canary ends too."""
    why = given_reason(reason)
    settings = command_settings(home, after="promote")
    from training.registry import roll_back

    now = datetime.now(UTC).replace(tzinfo=None)
    tag = roll_back(settings, by or getpass.getuser(), why, now)
    console.show({"champion": tag}, [f"{tag} is champion again"], as_json)


def history(home: Home = None, as_json: Json = False) -> None:
    """List every promotion, refusal, trial and rollback, oldest first."""
    from training.registry import history as read

    lines = read(command_settings(home, existing=True))
    rows: list[list[object]] = [
        [line.at, line.action + (f" {line.share:.1%}" if line.share else ""), line.tag, line.by, line.reason]
        for line in lines
    ]
    text = console.table("", ["at (UTC)", "what", "bundle", "by", "why"], rows) if rows else "nothing promoted yet"
    console.show({"history": [asdict(line) for line in lines]}, [text], as_json)


def _show_checks(told: dict[str, Any], line: str, checks: list[Any], as_json: bool) -> None:
    rows: list[list[object]] = [
        [
            c.name,
            "–" if c.value is None else f"{c.value:.4g}",
            "–" if c.threshold is None else f"{c.threshold:.4g}",
            "passed" if c.passed else "FAILED",
            c.about,
        ]
        for c in checks
    ]
    table = console.table("", ["check", "value", "limit", "verdict", "what it is"], rows)
    console.show({**told, "checks": [asdict(c) for c in checks]}, [line, table], as_json)
