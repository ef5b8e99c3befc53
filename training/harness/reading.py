"""Read what people have: tables of events, sessions and test pairs, lists of items a user; the format is found out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from marquee.errors import SourceError
from training.harness.filtering import core, dense, first_events
from training.harness.plain_text import opened
from training.interactions import Interactions

FORMATS = ("auto", "table", "sessions", "lists")
LOOKED_AT = 2_000
"""Lines from which the format is told."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How to read; empty names are found by themselves.

    Attributes:
        format: ``table`` (a line or Parquet row an event), ``sessions`` (a line a session, items in order), ``lists``
            (a line a user: user, then items), or ``auto``.
        user: column of the user, or of the session.
        item: column of the item.
        time: column of the time: seconds, milli-, micro- or nanoseconds since 1970 by their size, or ISO text (UTC
            unless it says otherwise).
        weight: column of the weight; without it every event weighs 1.
        context: column of the context.
        min_weight: keep events with at least that weight, or rating where no weight column is named; 0 keeps all.
        since: keep events at or after this moment, ISO text.
        until: keep events before this moment, ISO text.
        first_only: keep each user's first event with an item.
        min_user_events: users with fewer events are left out; with ``min_item_events`` in turn until nothing changes.
        min_item_events: items with fewer events are left out.
    """

    format: str = "auto"
    user: str = ""
    item: str = ""
    time: str = ""
    weight: str = ""
    context: str = ""
    min_weight: float = 0.0
    since: str = ""
    until: str = ""
    first_only: bool = False
    min_user_events: int = 1
    min_item_events: int = 1


@dataclass(frozen=True, slots=True)
class Events:
    """Interactions as they were read.

    Attributes:
        interactions: the events.
        timed: whether times are moments; otherwise they count events in the order of the file.
        by_session: whether the users are sessions.
        about: counts and choices, plain JSON values.
    """

    interactions: Interactions
    timed: bool
    by_session: bool
    about: dict[str, Any] = field(default_factory=dict)


def read_events(path: Path, reading: Reading, purpose: str = "events") -> Events:
    """Read one file, or all files of a folder that holds one table in parts.

    Args:
        path: where.
        reading: how.
        purpose: ``sessions`` takes a session column before a user column, and lines of items for sessions; ``lists``
            takes them for a user's list; ``events`` goes by what the lines look like.

    Raises:
        SourceError: it cannot be read, or holds nothing; the message names file, line and what to do.
    """
    from training.harness.lists import read_lists, read_sessions
    from training.harness.tables import read_table

    form = find_format(path, reading, purpose)
    if form == "table":
        events = read_table(path, reading, purpose == "sessions")
    elif form == "sessions":
        events = Events(read_sessions(path), timed=False, by_session=True)
    else:
        events = Events(read_lists(path), timed=False, by_session=False)
    kept = events.interactions
    if reading.first_only:
        kept = first_events(kept)
    kept = dense(core(kept, reading.min_user_events, reading.min_item_events))
    if not len(kept):
        raise SourceError(f"{path}: no event is left of {len(events.interactions)} after filtering; ask for less")
    counts = {"events": len(kept), "users": kept.user_count, "items": kept.item_count}
    filtered = {"filtered_out": len(events.interactions) - len(kept)}
    about = {"format": form, "timed": events.timed, **events.about, **filtered, **counts}
    return Events(kept, events.timed, events.by_session, about)


def find_format(path: Path, reading: Reading, purpose: str = "events") -> str:
    """``table``, ``sessions`` or ``lists``, from the first lines unless the format is given.

    Raises:
        SourceError: the format asked for does not exist, or the file does not.
    """
    if reading.format not in FORMATS:
        raise SourceError(f"there is no format {reading.format!r}; there are {', '.join(FORMATS)}")
    if reading.format != "auto":
        return reading.format
    first = parts_of(path)[0]
    if is_parquet(first):
        return "table"
    with opened(first) as file:
        lines = [line.split() for line, _ in zip(file, range(LOOKED_AT), strict=False)]
    if not lines:
        raise SourceError(f"{first} is empty; it should hold a line for each event, session or user")
    if any(len(field) > 1 and any(mark in field for mark in ",;|:") for field in lines[0]) or _has_tab(first):
        return "table"
    if purpose == "sessions":
        return "sessions"
    repeated = len({line[0] for line in lines if line}) < sum(map(bool, lines))
    widths = {len(line) for line in lines if line}
    if not repeated:
        return "lists"
    return "table" if len(widths) == 1 and widths <= {2, 3, 4} else "lists" if purpose == "lists" else "sessions"


def parts_of(path: Path) -> list[Path]:
    """The file, or the files of a folder in the order of their names; hidden ones are left out.

    Raises:
        SourceError: there is none.
    """
    if path.is_dir():
        parts = sorted(one for one in path.iterdir() if one.is_file() and not one.name.startswith((".", "_")))
        if not parts:
            raise SourceError(f"there is no file in {path}")
        return parts
    if not path.is_file():
        raise SourceError(f"there is no file {path}")
    return [path]


def is_parquet(path: Path) -> bool:
    """Whether the file begins as Parquet files do."""
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def fingerprint(paths: Iterable[Path]) -> str:
    """SHA-256 of the files' contents one after another, in hex: the same data give the same, whatever their names."""
    digest = hashlib.sha256()
    for path in paths:
        for part in parts_of(path):
            with part.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


def described(reading: Reading) -> dict[str, Any]:
    """The options that differ from the usual, for a report."""
    usual = asdict(Reading())
    return {name: value for name, value in asdict(reading).items() if value != usual[name]}


def _has_tab(path: Path) -> bool:
    with opened(path) as file:
        return "\t" in file.readline()
