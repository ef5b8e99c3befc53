"""Many appends, one commit: what arrives while a log is busy shares its next write."""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from marquee.errors import MarqueeError, TryAgain

MOST_WAITING_BYTES: Final = 16 << 20
"""What may wait for a log before appends are refused."""
AGAIN_SECONDS: Final = 1.0
"""After an error, how often a log is tried without events."""


class Lines(Protocol):
    """Where lines become durable."""

    def append_soon(self, lines: list[bytes]) -> Future[None]:
        """Done once they are; fails with ``MarqueeError`` when they are not. See ``GroupCommit``."""


class GroupCommit(ABC):
    """A log with one thread that commits for all.

    Args:
        name: of the log, as messages begin.
        awaited: what appends wait for.
    """

    def __init__(self, name: str, awaited: str) -> None:
        self._name, self._awaited = name, awaited
        self._waiting: list[tuple[bytes, Future[None]]] = []
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._is_closed = False
        self._last_error: str | None = None
        self._thread = threading.Thread(target=self._run, name="group-commit", daemon=True)

    def append(self, events: list[dict[str, Any]]) -> None:
        """Store events; returns once they are durable.

        Raises:
            MarqueeError: they were not stored (see ``append_soon``).
            TryAgain: more waits than may wait; nothing was stored.
            ValueError, TypeError: an event cannot be written as JSON; nothing was stored.
        """
        self.append_soon([event_line(event) for event in events]).result()

    def append_soon(self, lines: list[bytes]) -> Future[None]:
        """Store lines, all or none, each one event and its newline, without waiting.

        Returns:
            Done once all of them are durable; fails with a ``MarqueeError`` when that is not known. While it can be
            cancelled, nothing was stored, and nothing will be. After an error of a server, or a lost connection, the
            lines may stand in the log all the same: to send them again is harmless, for an event_id counts once.

        Raises:
            TryAgain: more waits than may wait; nothing was stored.
            MarqueeError: the log is closed; nothing was stored.
        """
        data = b"".join(lines)
        done: Future[None] = Future()
        with self._changed:
            if self._is_closed:
                raise MarqueeError(f"{self._name}: events were not stored: the stream is closed")
            if self._waiting_bytes + len(data) > MOST_WAITING_BYTES and self._waiting:
                raise TryAgain(
                    f"{self._name}: {self._waiting_bytes:,} bytes wait for the {self._awaited}; send the events again"
                )
            self._waiting.append((data, done))
            self._waiting_bytes += len(data)
            self._changed.notify()
        return done

    @property
    def error(self) -> str | None:
        """Why events were last not stored; ``None`` when they were, or nothing was written yet."""
        return self._last_error

    def close(self) -> None:
        """Store what waits, then release what is held."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()
        self._release()

    @abstractmethod
    def _store(self, appends: Sequence[bytes]) -> None:
        """Make appends durable, at least one; any exception says that they may not be."""

    @abstractmethod
    def _try(self) -> None:
        """See whether the log takes events, without any."""

    @abstractmethod
    def _release(self) -> None:
        """Let go of files and connections; called again by a second ``close``."""

    def _told(self, error: Exception) -> MarqueeError:
        """The error for whoever waits."""
        told = MarqueeError(f"{self._name}: events were not stored: {error}")
        told.__cause__ = error
        return told

    def _run(self) -> None:
        while True:
            with self._changed:
                again = AGAIN_SECONDS if self._last_error else None
                is_awaited = self._changed.wait_for(lambda: self._waiting or self._is_closed, again)
                waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
            if is_awaited and not waiting:
                return
            # Who no longer waits has told somebody that nothing was stored.
            group = [one for one in waiting if one[1].set_running_or_notify_cancel()]
            error = self._commit([data for data, _ in group], is_awaited=bool(is_awaited))
            for _, done in group:
                done.set_exception(error) if error else done.set_result(None)

    def _commit(self, appends: list[bytes], is_awaited: bool) -> MarqueeError | None:
        """Why it failed, whatever it was, for somebody waits to hear it."""
        try:
            if appends:
                self._store(appends)
            elif not is_awaited:
                # Who is sent no events because of an error would never see that it is over.
                self._try()
        except Exception as error:
            told = self._told(error)
            self._last_error = str(told)
            return told
        if appends or not is_awaited:
            self._last_error = None
        return None


def event_line(event: dict[str, Any]) -> bytes:
    """An event as a line of a log.

    Raises:
        ValueError, TypeError: a value has no place in JSON.
    """
    return (json.dumps(event, default=_json, ensure_ascii=False, allow_nan=False) + "\n").encode()


def naive_utc(moment: datetime) -> datetime:
    """A moment in UTC without a zone; one that has none is taken as UTC."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def _json(value: object) -> str:
    if isinstance(value, datetime):
        return naive_utc(value).isoformat()
    raise TypeError(f"{value!r} cannot be stored in an event")
