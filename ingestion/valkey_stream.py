"""The event log's writer on Valkey or Redis: events are on the server's disk before anyone is told so."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, Final

from ingestion.event_stream import event_line
from ingestion.valkey_log import FIELD, KEY, EventLogDown, connect_valkey, create_groups, plain_errors
from marquee.errors import MarqueeError, TryAgain
from marquee.settings import Settings

DURABLE_SECONDS: Final = 1.5
ANSWER_SECONDS: Final = 2.0
AGAIN_SECONDS: Final = 1.0
"""After an error, how often the server is tried without events."""
MOST_WAITING_BYTES: Final = 16 << 20
"""What may wait for the server before appends are refused."""
ENTRY_BYTES: Final = 256 << 10
"""What appends are joined up to; a larger one stands alone."""
MEGABYTE: Final = 1 << 20
TURN_ON: Final = "start it with --appendonly yes --appendfsync always"
"""How to make a server keep what it acknowledges."""


class ValkeyStream:
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
        self._waiting: list[tuple[bytes, Future[None]]] = []
        self._waiting_bytes = 0
        self._is_closed = False
        self._last_error: str | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="valkey-stream", daemon=True)
        self._thread.start()

    def append(self, events: list[dict[str, Any]]) -> None:
        """Store events; returns once they are durable.

        Raises:
            MarqueeError: they were not stored, or nobody knows; they may be sent again (see ``append_soon``).
            ValueError, TypeError: an event cannot be written as JSON; nothing was stored.
        """
        self.append_soon([event_line(event) for event in events]).result()

    def append_soon(self, lines: list[bytes]) -> Future[None]:
        """Store lines, all or none, each one event and its newline, without waiting.

        Returns:
            Done once all of them are durable; fails with a ``MarqueeError`` when that is not known. After a timeout or
            a lost connection they may stand in the stream all the same: to send them again is harmless, for an
            event_id counts once.

        Raises:
            TryAgain: more waits for the server than may wait; nothing was stored.
            MarqueeError: the stream is closed; nothing was stored.
        """
        data = b"".join(lines)
        done: Future[None] = Future()
        with self._changed:
            if self._is_closed:
                raise MarqueeError("valkey: events were not stored: the stream is closed")
            if self._waiting_bytes + len(data) > MOST_WAITING_BYTES and self._waiting:
                raise TryAgain(f"valkey: {self._waiting_bytes:,} bytes wait for the server; send the events again")
            self._waiting.append((data, done))
            self._waiting_bytes += len(data)
            self._changed.notify()
        return done

    @property
    def error(self) -> str | None:
        """Why events are not stored now; ``None`` when they are, as far as is known."""
        return self._last_error

    def close(self) -> None:
        """Store what waits, then release the connection."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        while True:
            waiting = self._take()
            if not waiting and self._is_closed:
                return
            error = self._stored([data for data, _ in waiting])
            self._last_error = str(error) if error else None
            for _, done in waiting:
                # Who no longer waits may have cancelled; the lines are durable all the same.
                if done.set_running_or_notify_cancel():
                    done.set_exception(error) if error else done.set_result(None)

    def _stored(self, appends: list[bytes]) -> MarqueeError | None:
        """Make appends durable; why that failed, whatever it was, for somebody waits to hear it."""
        try:
            with plain_errors():
                self._require_room()
                self._send(appends)
        except MarqueeError as error:
            return error
        except Exception as error:
            return EventLogDown(f"valkey: events were not stored: {error!r}")
        return None

    def _take(self) -> list[tuple[bytes, Future[None]]]:
        """All that waits, as soon as something does; nothing once the stream is closed, or to try the server again.

        Without that, a worker that is sent no events because of an error would never see that it is over.
        """
        with self._changed:
            again = AGAIN_SECONDS if self._last_error else None
            self._changed.wait_for(lambda: self._waiting or self._is_closed, again)
            waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        return waiting

    def _send(self, appends: list[bytes]) -> None:
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


def _entries(appends: list[bytes]) -> Iterator[bytes]:
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
