"""From Valkey into the log's files, from which the load takes events as always; and out of Valkey on an erasure."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from ingestion.erasure import line_without
from ingestion.event_stream import EventStream
from ingestion.forgotten import OnePerson
from ingestion.valkey_log import ENTRIES_AT_ONCE, FIELD, KEY, LogGroup, create_groups, opened_valkey
from marquee.errors import MarqueeError, TryAgain
from marquee.person import PERSON_COLUMNS, Person
from marquee.settings import Settings

WRITER: Final = "valkey"
"""The stream file, and the one consumer of its group. A drain that was killed goes on as its successor, at once."""

REWRITE_SECONDS: Final = 60.0
"""How long an erasure waits for the rewrite of one before it."""


def drain(settings: Settings) -> int:
    """Bring what waits in Valkey into ``log/stream/valkey.jsonl``; how many lines.

    An entry is acknowledged once its lines are durable in the file. Killed in between, the next drain writes them
    again, and the load counts them as duplicates.

    Raises:
        EventLogDown: Valkey cannot be reached or refuses; what was not acknowledged waits for the next drain.
        TryAgain: another drain is under way.
        MarqueeError: the disk is full or failed.
    """
    with _own_file(settings) as stream, opened_valkey(settings) as client:
        create_groups(client)
        group = LogGroup(client, "warehouse", WRITER)
        count = 0
        for entries in group.waiting(is_first=True):
            lines = [entry.lines for entry in entries]
            stream.append_soon(lines).result()
            group.finish(entries)
            count += sum(line.count(b"\n") for line in lines)
    return count


def waiting_lines(settings: Settings) -> Iterator[bytes]:
    """The lines that stand in the stream, each with its newline; some may stand in the file already.

    Raises:
        EventLogDown: Valkey cannot be reached or refuses.
    """
    with opened_valkey(settings) as client:
        for _, lines in _entries(client):
            yield from lines


def erase_from_valkey(settings: Settings, person: Person) -> int:
    """Take a person out of what still stands in the stream, where it has an address; how many lines.

    An entry that names them gives way to one without: others' lines come once more and count as duplicates.

    Raises:
        EventLogDown: Valkey cannot be reached or refuses.
    """
    if settings.valkey_url is None:
        return 0
    whose, erased = OnePerson(person), 0
    with opened_valkey(settings) as client:
        for entry_id, lines in _entries(client):
            kept = [line_without(line, whose) for line in lines]
            if kept != lines:
                _replace(client, entry_id, b"".join(line for line in kept if line.strip()))
                erased += sum(before != after for before, after in zip(lines, kept, strict=True))
    return erased


def count_in_valkey(settings: Settings, person: Person) -> int:
    """Lines of the stream that name a person, where it has an address.

    Raises:
        EventLogDown: Valkey cannot be reached.
    """
    if settings.valkey_url is None:
        return 0
    with opened_valkey(settings) as client:
        return sum(_names(line, person) for _, lines in _entries(client) for line in lines)


def rewrite_file(settings: Settings) -> None:
    """Have Valkey write its append-only file anew, which goes on telling of what was deleted until then.

    Raises:
        EventLogDown: Valkey cannot be reached, or an earlier rewrite does not end; try again when it has ended.
    """
    if settings.event_log == "valkey":
        until = time.monotonic() + REWRITE_SECONDS
        with opened_valkey(settings) as client:
            while not _begins_rewrite(client, is_last=time.monotonic() > until):
                time.sleep(0.1)


def _begins_rewrite(client: Any, is_last: bool) -> bool:
    """Whether it begins; one that is under way began before what was deleted last."""
    import redis

    try:
        client.bgrewriteaof()
    except redis.ResponseError as error:
        if is_last or "in progress" not in str(error):
            raise
        return False
    return True


@contextmanager
def _own_file(settings: Settings) -> Iterator[EventStream]:
    try:
        stream = EventStream(settings.log / "stream", WRITER)
    except MarqueeError as error:
        raise TryAgain(f"another process brings events from Valkey into the log; try again later ({error})") from None
    try:
        yield stream
    finally:
        stream.close()


def _replace(client: Any, entry_id: bytes, lines: bytes) -> None:
    with client.pipeline(transaction=True) as pipeline:
        if lines:
            pipeline.xadd(KEY, {FIELD: lines})
        pipeline.xdel(KEY, entry_id)
        pipeline.execute()


def _entries(client: Any) -> Iterator[tuple[bytes, list[bytes]]]:
    """The id and the lines of each entry that stands in the stream now."""
    last = client.xinfo_stream(KEY)["last-generated-id"] if client.exists(KEY) else None
    start = b"-"
    while last and (found := client.xrange(KEY, start, last, count=ENTRIES_AT_ONCE)):
        for entry_id, fields in found:
            yield entry_id, fields[FIELD].splitlines(keepends=True)
        start = b"(" + found[-1][0]


def _names(line: bytes, person: Person) -> bool:
    try:
        row = json.loads(line)
    except ValueError:
        row = {}
    return any(row.get(name) in person.ids(name) for name in PERSON_COLUMNS) or person.count(line) > 0
