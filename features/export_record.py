"""The record of exports, ``exports.db``: what each wrote, and which entities lost a row by it.

The latter are kept until the online store has followed. (So the file holds entity ids.)
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date
from typing import Final

from marquee.settings import Settings

SCHEMA: Final = """
create table if not exists lineage (id text not null, purged integer not null default 0);
create table if not exists exports (
    seq integer primary key, target text not null, built_at text not null, from_day text
);
create table if not exists retracted (
    seq integer not null, view text not null, entity text not null, primary key (view, entity, seq)
) without rowid;
"""


@dataclass(frozen=True, slots=True)
class Exported:
    """What the offline files hold: which export wrote them last, in which lineage of exports.

    What exports up to ``purged`` retracted is no longer known; a store that stands before it must be filled anew.
    """

    lineage: str
    seq: int
    purged: int


@contextmanager
def exports(settings: Settings) -> Iterator[sqlite3.Connection]:
    """The record of exports, made if there is none."""
    settings.features.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(settings.features / "exports.db", timeout=30)) as connection:
        connection.executescript(SCHEMA)
        with connection:
            new = "insert into lineage (id) select ? where not exists (select 1 from lineage)"
            connection.execute(new, [uuid.uuid4().hex])
        yield connection


def exported(record: sqlite3.Connection) -> Exported:
    """The last export of the record."""
    lineage, purged = record.execute("select id, purged from lineage").fetchone()
    seq = record.execute("select coalesce(max(seq), 0) from exports").fetchone()[0]
    return Exported(lineage, seq, purged)


def has_retracted(record: sqlite3.Connection) -> bool:
    """Whether the online store may hold a row that is no longer in the offline files."""
    return bool(record.execute("select exists (select 1 from retracted)").fetchone()[0])


def purge_retracted(record: sqlite3.Connection, seq: int) -> None:
    """Forget which entities lost a row by exports up to this one: the online store has followed them.

    An export that is under way has noted others already, which stay.
    """
    with record:
        record.execute("delete from retracted where seq <= ?", [seq])
        record.execute("update lineage set purged = ?", [seq])


def changed_from(record: sqlite3.Connection, after: int) -> tuple[bool, date | None]:
    """Whether exports after this one changed anything, and the first day they wrote; ``None``: every day."""
    days = [row[0] for row in record.execute("select from_day from exports where seq > ?", [after])]
    if not days or None in days:
        return bool(days), None
    return True, date.fromisoformat(min(days))
