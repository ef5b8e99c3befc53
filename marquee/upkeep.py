"""Verbs that look after an installation: gates, skew and erasure. Part of the composition root, as ``cli`` is."""

from __future__ import annotations

import getpass
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from marquee import console
from marquee.errors import MarqueeError, NothingToDo
from marquee.options import Home, Json, command_settings, given_reason

if TYPE_CHECKING:
    from marquee.forget import Erasure


def check(home: Home = None, as_json: Json = False) -> None:
    """Run the quality gates: new batches in, and the training rows if they have been built."""
    settings = command_settings(home, existing=True)
    from expectations.validate import check_raw, check_training_rows
    from ingestion.load import admit_batch, quarantine_batch

    with console.progress("check", None, settings.quiet):
        verdicts = check_raw(
            settings,
            admit=lambda batch: admit_batch(settings, batch),
            quarantine=lambda batch, reason: quarantine_batch(settings, batch, reason),
        )
        try:
            verdicts.append(check_training_rows(settings))
        except NothingToDo as reason:
            pending = str(reason)
        else:
            pending = ""
    lines = [line for verdict in verdicts for line in _verdict_lines(verdict)]
    lines += [pending] if pending else []
    lines += [f"what the gates saw: {settings.reports / 'gates.html'}"] if verdicts else []
    console.show({"verdicts": [asdict(verdict) for verdict in verdicts], "pending": pending}, lines, as_json)


def admit(
    batch: Annotated[str, typer.Argument(help="A batch that is quarantined, or training_rows.")],
    reason: Annotated[str, typer.Option(help="Why it is good all the same; kept with the batch.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Admit a quarantined batch against the gate's verdict; its rows come back whole."""
    why = f"admitted by {getpass.getuser()}: {given_reason(reason)}"
    settings = command_settings(home, existing=True)
    from expectations.validate import accept_training_rows
    from ingestion.load import admit_batch

    if batch == "training_rows":
        accept_training_rows(settings, why)
        console.show({"admitted": batch}, ["the training rows are the measure of those to come"], as_json)
        return
    admit_batch(settings, batch, why)
    console.show({"admitted": batch}, [f"{batch} is admitted; run `marquee transform` next"], as_json)


def quarantine(
    batch: Annotated[str, typer.Argument(help="A batch that a gate admitted, or that waits for one.")],
    reason: Annotated[str, typer.Option(help="Why it must not count; kept with the batch.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Take a batch back that a gate let in; its rows leave the raw tables whole, and marts with the next build."""
    why = f"quarantined by {getpass.getuser()}: {given_reason(reason)}"
    settings = command_settings(home, existing=True)
    from ingestion.load import quarantine_batch

    taken = quarantine_batch(settings, batch, why)
    if taken is None:
        raise MarqueeError(f"batch {batch} is quarantined already; nothing was changed (`marquee status` says why)")
    result = {"quarantined": batch, "gained": list(taken.gained), "full_build": taken.was_built}
    console.show(result, _taken_back_lines(batch, taken), as_json)


def check_skew(
    requests: Annotated[int, typer.Option(min=1, help="Newest logged requests to replay, at most.")] = 10_000,
    bundle: Annotated[str | None, typer.Option(help="Only requests that this bundle answered.")] = None,
    since: Annotated[datetime | None, typer.Option(help="Only requests from then on (UTC).")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Replay logged requests through the offline path and compare every feature with what was served."""
    settings = command_settings(home, after="materialize")
    from training.skew import check_skew as replay

    if since and since.tzinfo:
        since = since.astimezone(UTC).replace(tzinfo=None)
    with console.progress("check skew", None, settings.quiet):
        found = replay(settings, requests, bundle, since)
    console.show(asdict(found), _skew_lines(found), as_json)
    if found.differences:
        raise MarqueeError(f"{len(found.differences)} features were served other than the offline store has them")


def forget(
    visitor: Annotated[str | None, typer.Option(help="The visitor's id.")] = None,
    pending: Annotated[bool, typer.Option("--pending", help="Whom the API was asked to forget, all of them.")] = False,
    reason: Annotated[str, typer.Option(help="Why; recorded. Do not name the person.")] = "asked to be forgotten",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before erasing.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only search; exit code 1 if something is found.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Erase a visitor from every store, search for what is left, and list the bundles trained with them."""
    from marquee.forget import forget as erase
    from marquee.forget import known_person, require_erased
    from marquee.traces import find_visitor

    if pending:
        _forget_pending(visitor, home, as_json)
        return
    if visitor is None:
        raise MarqueeError("give --visitor, or --pending for all whom the API was asked to forget")
    _require_id(visitor)
    settings = command_settings(home, existing=True)
    if check:
        traces = find_visitor(settings, known_person(settings, visitor)[0])
        lines = [f"{trace.store} ({trace.place}): {trace.count:,}" for trace in traces] or ["nothing of them is stored"]
        console.show({"found": [asdict(trace) for trace in traces]}, lines, as_json)
        sys.exit(1 if traces else 0)
    if not yes:
        _confirm()
    with console.progress("forget", None, settings.quiet):
        erasure = erase(settings, visitor, reason)
    if erasure is None:
        console.show({"erased": False}, ["nothing of this visitor is stored; nothing was changed"], as_json)
        return
    console.show({"erased": True} | asdict(erasure), _erasure_lines(erasure), as_json)
    require_erased(erasure)


def _forget_pending(visitor: str | None, home: Path | None, as_json: bool) -> None:
    from marquee.forget import forget_pending, require_erased

    if visitor is not None:
        raise MarqueeError("--visitor and --pending exclude each other; give one of them")
    settings = command_settings(home, existing=True)
    with console.progress("forget", None, settings.quiet):
        done = forget_pending(settings)
    lines = [line for erasure in done for line in _erasure_lines(erasure)] or ["no erasure is pending"]
    console.show({"erased": [asdict(erasure) for erasure in done]}, lines, as_json)
    for erasure in done:
        require_erased(erasure)


def _verdict_lines(verdict: Any) -> list[str]:
    lines = [f"{verdict.subject}: passed {verdict.expectations} expectations over {verdict.rows:,} rows"]
    lines += [f"  warning: {warning}" for warning in verdict.warnings]
    return lines + [f"  unjudged: {reason}" for reason in verdict.unjudged]


def _taken_back_lines(batch: str, taken: Any) -> list[str]:
    lines = [f"{batch} is quarantined; `marquee admit {batch} --reason …` brings it back"]
    if taken.gained:
        lines.append(
            f"rows that it shared with others now count as theirs: {', '.join(taken.gained)}; run `marquee check` next"
        )
    if taken.was_built:
        lines.append(
            "its rows stand in the marts and features until `marquee transform`, which will build all days anew, "
            "and `marquee materialize`"
        )
    return lines


def _require_id(visitor: str) -> None:
    if not visitor.strip():
        raise MarqueeError("--visitor is empty; give the id as the events have it")
    try:
        visitor.encode()
    except UnicodeEncodeError:
        raise MarqueeError(
            "--visitor is not UTF-8, so no event can have it; give the id as the events have it"
        ) from None


def _confirm() -> None:
    if not sys.stdin.isatty():
        raise MarqueeError("nobody is here to confirm; give --yes to erase without being asked")
    if not typer.confirm("This cannot be undone. Erase the visitor from every store?"):
        raise MarqueeError("nothing was changed")


def _skew_lines(found: Any) -> list[str]:
    lines = [
        f"{one.feature}: {one.count:,} differ, for example impression {one.impression_id}: "
        f"served {_shown(one.served)}, replayed {_shown(one.replayed)}"
        for one in found.differences
    ]
    lines += [f"left out: {count:,} {reason}" for reason, count in found.left_out.items()]
    compared = f"{found.values:,} values of {found.impressions:,} impressions in {found.requests:,} requests"
    return [*lines, f"compared {compared}: {'no difference' if not found.differences else 'DIFFERENT'}"]


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.9g}"


def _erasure_lines(erasure: Erasure) -> list[str]:
    lines = [
        f"{store:<18} {place}: {count:,}" for store, places in erasure.counts.items() for place, count in places.items()
    ]
    lines += [
        f"trained with them: {one['bundle']} ({one['rows']:,} impressions up to {one['trained_until']})"
        for one in erasure.bundles
    ]
    lines += [
        f"kept: customer {customer}, whom other visitors' events name too; forget those visitors, or it stays"
        for customer in erasure.shared_customers
    ]
    if not erasure.left:
        lines.append(f"searched every store: nothing is left; audited as {erasure.person} in erasures.jsonl")
    return lines
