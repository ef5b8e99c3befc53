"""Read lines of items: sessions, test pairs of sessions, and one list a user."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from marquee.errors import SourceError
from training.harness.coding import coded, from_codes
from training.harness.plain_text import opened
from training.interactions import Interactions

LOOKED_AT = 2_000
"""Lines from which a format is told."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Questions as they stand in a file.

    Attributes:
        prefixes: items in order, of each question.
        targets: the item that came next.
        sessions: number of the session each question comes from, as far as one follows from the next.
    """

    prefixes: list[list[str]]
    targets: list[str]
    sessions: list[int]


def read_sessions(path: Path) -> Interactions:
    """Sessions, one a line, item ids in order and parted by blanks; the file's order is taken for the order in time.

    Times count clicks over the whole file, one a second: only their order means something.

    Raises:
        SourceError: no session has two items, or the file cannot be read.
    """
    with opened(path) as file:
        lines = [items for items in map(str.split, file) if items]
    if not lines:
        raise SourceError(f"{path} is empty; it should hold a session a line")
    if max(map(len, lines)) < 2:
        raise SourceError(f"{path}: no session has two items, so nothing follows anything; part items by blanks")
    width = len(str(len(lines)))
    names = np.array([f"{number:0{width}d}" for number in range(len(lines))])
    users = np.repeat(np.arange(len(lines)), [len(items) for items in lines])
    items = coded(list(chain.from_iterable(lines)))
    return from_codes((names, users), items, np.arange(len(users), dtype=np.float64))


def are_pairs(path: Path, table: bool) -> bool:
    """Whether a test file holds pairs rather than sessions: one tab in some of its first lines.

    Args:
        path: the file.
        table: whether training is a table; the test is one too then, unless the part before its only tab has blanks.
    """
    with opened(path) as file:
        lines = [line for line, _ in zip(file, range(LOOKED_AT), strict=False)]
    paired = [line for line in lines if line.count("\t") == 1]
    return any(" " in line.partition("\t")[0].strip() for line in paired) if table else bool(paired)


def read_pairs(path: Path) -> Pairs:
    """Test pairs, one a line: the items of a session so far, a tab, the next item.

    Neighbouring lines belong to one session where one line's prefix and target make the other's prefix.

    Raises:
        SourceError: a line has no tab, nothing before it, or not one item behind it; or there is no line.
    """
    prefixes: list[list[str]] = []
    targets: list[str] = []
    sessions: list[int] = []
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            before, tab, after = line.partition("\t")
            prefix, target = before.split(), after.split()
            if not tab or not prefix or len(target) != 1:
                wrong = (
                    "no tab" if not tab else "no item before the tab" if not prefix else "not one item behind the tab"
                )
                raise SourceError(f"{path} line {number}: {wrong}; a line is the items so far, a tab and the next item")
            session = sessions[-1] if sessions else 0
            if prefixes:
                last, following = prefixes[-1], targets[-1]
                session += not (last == [*prefix, *target] or prefix == [*last, following])
            prefixes.append(prefix)
            targets.append(target[0])
            sessions.append(session)
    if not prefixes:
        raise SourceError(f"{path} is empty; it should hold the items so far, a tab and the next item on each line")
    return Pairs(prefixes, targets, sessions)


def read_lists(path: Path) -> Interactions:
    """One list a user and line, as LightGCN has them: the user, then the items, parted by blanks; no item is allowed.

    Times count the items of a user: in some sets their order is that of time, in others it means nothing.

    Raises:
        SourceError: a user has two lines, or there is no item at all.
    """
    with opened(path) as file:
        numbered = [(number, fields) for number, fields in enumerate(map(str.split, file), 1) if fields]
    first: dict[str, int] = {}
    for number, fields in numbered:
        if first.setdefault(fields[0], number) != number:
            raise SourceError(
                f"{path} line {number}: user {fields[0]} has line {first[fields[0]]} already; "
                "if lines are sessions rather than users, give the format sessions"
            )
    lengths = np.array([len(fields) - 1 for _, fields in numbered], dtype=np.int64)
    if not lengths.sum():
        raise SourceError(f"{path} holds no item; a line is a user and then the user's items, parted by blanks")
    names, code = coded([fields[0] for _, fields in numbered])
    items = coded(list(chain.from_iterable(fields[1:] for _, fields in numbered)))
    places = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return from_codes((names, np.repeat(code, lengths)), items, places.astype(np.float64))
