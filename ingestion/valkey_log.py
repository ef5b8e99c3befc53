"""The event log's stream in Valkey or Redis: how it is reached, who reads it, and when an entry may go.

An entry is what one append or some brought: JSON lines, each with its newline. Two groups read every entry:
``warehouse`` brings it into the log's files, ``sessions`` into session features. It goes once both acknowledged it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, Final, NamedTuple

from marquee.errors import TryAgain
from marquee.settings import Settings
from marquee.valkey import connect

KEY: Final = "marquee:log"
FIELD: Final = b"lines"
GROUPS: Final = ("warehouse", "sessions")
ENTRIES_AT_ONCE: Final = 50
READER_SECONDS: Final = 10.0
"""How long a reader waits for an answer, which holds nobody up."""


class EventLogDown(TryAgain):
    """The event log's Valkey cannot be reached, refuses, or is full."""


class Entry(NamedTuple):
    """Some appends: the id in the stream and the lines; no lines when it was deleted meanwhile."""

    id: bytes
    lines: bytes


def connect_valkey(settings: Settings, seconds: float) -> Any:
    """A client that waits so long for an answer and connects anew, with growing pauses, when a connection is lost.

    Raises:
        SettingsError: ``valkey_url`` is missing or no address.
    """
    import redis
    from redis.backoff import ExponentialWithJitterBackoff
    from redis.retry import Retry

    # Not after a timeout: whoever waits has waited long enough.
    retry = Retry(ExponentialWithJitterBackoff(cap=0.2, base=0.05), 2, supported_errors=(redis.ConnectionError,))
    return connect(settings, "event_log = valkey", seconds, retry=retry, protocol=2)


@contextmanager
def plain_errors() -> Iterator[None]:
    """The client's errors as ``EventLogDown``."""
    import redis

    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise EventLogDown(f"valkey: {error}; the event log is there (event_log = valkey)") from error


@contextmanager
def opened_valkey(settings: Settings) -> Iterator[Any]:
    """A client for the length of a block.

    Raises:
        EventLogDown: Valkey cannot be reached or refuses.
    """
    with closing(connect_valkey(settings, READER_SECONDS)) as client, plain_errors():
        yield client


def create_groups(client: Any) -> None:
    """Make the stream and its groups where they are missing; a new group reads from the first entry there is."""
    import redis

    for group in GROUPS:
        try:
            client.xgroup_create(KEY, group, id="0", mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise


class LogGroup:
    """One consumer of a group. Whatever it was given it is given again until it is acknowledged."""

    def __init__(self, client: Any, group: str, consumer: str) -> None:
        self._client = client
        self._group = group
        self._consumer = consumer

    def waiting(self, is_first: bool) -> Iterator[list[Entry]]:
        """New entries, up to the newest of now; at first those that this consumer was given before and never finished.

        Finish each list before asking for the next.
        """
        if is_first:
            while entries := self._read(b"0"):
                yield entries
        end: tuple[int, int] | None = None
        while entries := self._read(b">"):
            end = end or _number(self._client.xinfo_stream(KEY)["last-generated-id"])
            yield entries
            if _number(entries[-1].id) >= end:
                return

    def abandoned(self, seconds: float) -> Iterator[list[Entry]]:
        """Entries that any consumer was given so long ago and never finished: its process ended, or is stuck."""
        cursor = b"0-0"
        while True:
            idle = int(seconds * 1000)
            cursor, found, _ = self._client.xautoclaim(
                KEY, self._group, self._consumer, idle, cursor, count=ENTRIES_AT_ONCE
            )
            if entries := _entries(found):
                yield entries
            if cursor == b"0-0":
                return

    def finish(self, entries: list[Entry]) -> None:
        """Acknowledge entries, then delete what no group needs any more."""
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.xack(KEY, self._group, *(entry.id for entry in entries))
            pipeline.xinfo_groups(KEY)
            for group in GROUPS:
                pipeline.xpending(KEY, group)
            _, groups, *pending = pipeline.execute()
        # What was acknowledged stays so: this holds also when others have gone on meanwhile.
        self._client.xtrim(KEY, minid=first_needed(groups, pending), approximate=False)

    def _read(self, after: bytes) -> list[Entry]:
        streams = self._client.xreadgroup(self._group, self._consumer, {KEY: after}, count=ENTRIES_AT_ONCE)
        return _entries(streams[0][1]) if streams else []


def first_needed(groups: list[dict[str, Any]], pending: list[dict[str, Any]]) -> str:
    """The lowest id that a group has still to get or to acknowledge, of groups and their pending ids at one moment.

    A group has been given everything up to its last delivered id, and of that, everything below its lowest pending id
    is acknowledged. So what lies below these, for every group, was acknowledged by every group.
    """
    given = [_number(group["last-delivered-id"]) for group in groups]
    needed = [(first, second + 1) for first, second in given]
    needed += [_number(told["min"]) for told in pending if told["pending"]]
    first, second = min(needed)
    return f"{first}-{second}"


def _entries(found: list[Any]) -> list[Entry]:
    return [Entry(entry_id, fields.get(FIELD, b"") if fields else b"") for entry_id, fields in found]


def _number(entry_id: bytes) -> tuple[int, int]:
    first, second = entry_id.split(b"-")
    return int(first), int(second)
