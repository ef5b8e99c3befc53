"""Erasures that were asked for and wait for ``marquee forget --pending``, which needs the id that no audit line holds.

``home/erasures.pending/`` has a file for each, readable by the owner alone, from before the request is acknowledged
until the erasure is finished. From then on, too, the audit's line keeps the person out of every load and answer.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from marquee import erasures
from marquee.settings import Settings

PENDING: Final = "erasures.pending"
"""The folder under ``home``. The search for a visitor leaves it out: it is what the search is made for."""


@dataclass(frozen=True, slots=True)
class Request:
    """An erasure that is not finished: its id, whom to forget and why."""

    erasure: str
    visitor_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class State:
    """How far an erasure is: requested, started (by ``marquee forget``, perhaps killed) or finished.

    Attributes:
        counts: rows erased by store and place, once it is finished.
    """

    erasure: str
    state: str
    requested_at: str
    changed_at: str
    counts: dict[str, dict[str, int]] | None


def request_erasure(settings: Settings, visitor_id: str, until: datetime, by: str, reason: str) -> str:
    """Keep a visitor's rows up to a moment (UTC) out from now on, and have them erased; durable when this returns.

    Returns:
        The erasure's id, that of the one under way where there is one.
    """
    with _locked(settings):
        person = erasures.person_hash(settings, visitor_id)
        known = erasures.open_erasure(settings, person)
        erasure = known["erasure"] if known else secrets.token_hex(8)
        # First the id: a line whose erasure nobody can finish would promise too much.
        _write(settings.home / PENDING / f"{erasure}.json", {"visitor_id": visitor_id, "reason": reason})
        line = {"erasure": erasure, "state": "requested", "at": erasures.utc_now(), "person": person}
        line |= {"until": until.isoformat(), "by": by, "reason": reason}
        erasures.record(settings, line | {"bundles": known["bundles"] if known else []})
    return erasure


def pending(settings: Settings) -> list[Request]:
    """The erasures that wait, in order of their requests; removes what finished ones left."""
    found = []
    for file in sorted((settings.home / PENDING).glob("*.json"), key=lambda file: file.stat().st_mtime_ns):
        state = erasure_state(settings, file.stem)
        if state is not None and state.state == "finished":
            close_request(settings, file.stem)
        else:  # without a line the request was never acknowledged, but it was made
            found.append(Request(file.stem, **json.loads(file.read_text(encoding="utf-8"))))
    return found


def close_request(settings: Settings, erasure: str) -> None:
    """Forget whom an erasure was about; nothing happens when nobody asked for it here."""
    (settings.home / PENDING / f"{erasure}.json").unlink(missing_ok=True)


def erasure_state(settings: Settings, erasure: str) -> State | None:
    """How far an erasure is; None when there is none of this id."""
    lines = [line for line in erasures.lines(settings) if line["erasure"] == erasure]
    if not lines:
        return None
    return State(erasure, lines[-1]["state"], lines[0]["at"], lines[-1]["at"], lines[-1].get("counts"))


@contextmanager
def _locked(settings: Settings) -> Iterator[None]:
    """One request at a time: the first of all makes the key."""
    folder = settings.home / PENDING
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_name(f"_{path.name}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, json.dumps(content).encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
