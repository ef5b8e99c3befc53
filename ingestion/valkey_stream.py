"""The event log's writer on Valkey or Redis: events are on the server's disk before anyone is told so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from ingestion.group_commit import GroupCommit
from ingestion.valkey_log import FIELD, KEY, EventLogDown, connect_valkey, create_groups, plain_errors
from marquee.errors import MarqueeError
from marquee.settings import Settings

DURABLE_SECONDS: Final = 1.5
ANSWER_SECONDS: Final = 2.0
ENTRY_BYTES: Final = 256 << 10
"""What appends are joined up to; a larger one stands alone."""
MEGABYTE: Final = 1 << 20
TURN_ON: Final = "start it with --appendonly yes --appendfsync always"
"""How to make a server keep what it acknowledges."""


class ValkeyStream(GroupCommit):
    """One writer of the stream that all service machines share; see ``EventStream``.

    Threads may append at once: what waits together is sent together and shares one wait for the server's disk.

    Raises:
        MarqueeError: the server is too old, not set up to keep what it is told, or cannot be reached.
    """

    def __init__(self, settings: Settings, writer: str) -> None:
        self.writer: Final = writer
        self._client = connect_valkey(settings, ANSWER_SECONDS)
        self._most_bytes = settings.valkey_log_mb * MEGABYTE
        with plain_errors():
            _require_durable(self._client)
            create_groups(self._client)
            self._size: int = self._client.memory_usage(KEY) or 0
        super().__init__("valkey", "server")
        self._thread.start()

    def _store(self, appends: Sequence[bytes]) -> None:
        with plain_errors():
            self._require_room()
            self._send(appends)

    def _try(self) -> None:
        self._store([])

    def _release(self) -> None:
        self._client.close()

    def _told(self, error: Exception) -> MarqueeError:
        if isinstance(error, MarqueeError):
            return error
        return EventLogDown(f"valkey: events were not stored: {error!r}")

    def _send(self, appends: Sequence[bytes]) -> None:
        with self._client.pipeline(transaction=False) as pipeline:
            for lines in _entries(appends):
                pipeline.xadd(KEY, {FIELD: lines})
            pipeline.memory_usage(KEY)
            pipeline.execute_command("WAITAOF", 1, 0, int(DURABLE_SECONDS * 1000))
            *_, size, (copies, _) = pipeline.execute()
        self._size = size or 0
        if not copies:
            raise EventLogDown(_too_slow())

    def _require_room(self) -> None:
        if self._size >= self._most_bytes:
            self._size = self._client.memory_usage(KEY) or 0
        if self._size >= self._most_bytes:
            raise EventLogDown(
                f"valkey: the event log holds {self._size / MEGABYTE:.0f} MB there, valkey_log_mb is "
                f"{self._most_bytes // MEGABYTE}; run `marquee ingest` or its DAG, which takes them out"
            )


def _entries(appends: Sequence[bytes]) -> Iterator[bytes]:
    """Appends joined: the server stops for its disk after each 16 KB of commands, but only once in a large one."""
    joined: list[bytes] = []
    size = 0
    for data in appends:
        if joined and size + len(data) > ENTRY_BYTES:
            yield b"".join(joined)
            joined, size = [], 0
        joined.append(data)
        size += len(data)
    if size:
        yield b"".join(joined)


def _require_durable(client: Any) -> None:
    """Raise a ``MarqueeError`` unless the server keeps on disk, and in memory, what it is told; by trying it."""
    import redis

    policy = client.info("memory")["maxmemory_policy"]
    if policy.startswith("allkeys"):
        raise MarqueeError(
            f"valkey: maxmemory-policy {policy} lets the server drop the event log; set noeviction or a volatile one"
        )
    try:
        with client.pipeline(transaction=False) as pipeline:
            pipeline.set(f"{KEY}:probe", "1", ex=60)
            pipeline.execute_command("WAITAOF", 1, 0, int(DURABLE_SECONDS * 1000))
            durable = pipeline.execute()[-1]
    except redis.ResponseError as error:
        if "unknown command" in str(error).lower():
            raise MarqueeError("valkey: the event log needs Valkey, or Redis 7.2 or newer") from None
        if "appendonly" in str(error):
            raise MarqueeError(f"valkey: the server would not keep the event log on its disk; {TURN_ON}") from None
        raise
    if not durable[0]:
        raise MarqueeError(_too_slow())


def _too_slow() -> str:
    return f"valkey: not on the server's disk after {DURABLE_SECONDS} s; with appendfsync no it never is: {TURN_ON}"
