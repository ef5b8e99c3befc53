"""Brings what a service worker logs into the session store within a moment, off the path of any request.

The log is the queue: a thread reads the worker's own stream from where the store says it was applied to. So a store
that is down delays nothing and loses nothing, and what a killed worker left behind is read by the next one. A store
that was restarted empty, flushed or replaced by one that lags says itself how far it is, and is brought up from there.
"""

from __future__ import annotations

import logging
import platform
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from prometheus_client import Counter

from features.product_categories import ProductCategories
from features.session import KEPT_HOURS, SessionEvent, category_at, microseconds
from features.session_store import SessionStore, SessionStoreError
from ingestion.event_forms import EventForm, decode_lines
from ingestion.event_stream import parse_event, pending_part
from marquee import contract
from marquee.settings import Settings, settings_now

POLL_SECONDS: Final = 0.05
BUSY_SECONDS, MOST_BUSY_SECONDS = 0.001, 0.25
"""Pause for each event applied, so that passes grow with what there is to do; and the longest."""
RETRY_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 1.0
"""How often the store is asked whether it still has what it was told, when nothing happens."""
CHUNK_BYTES: Final = 4 << 20
REPLAYED_BYTES: Final = 64 << 20
"""Most that is read again of a stream of which nobody knows how far it was applied."""
EARLIEST: Final = datetime(1990, 1, 1)
AHEAD: Final = timedelta(minutes=5)
"""A visitor's clock may be this much ahead; an event from further on would hide all that follow."""
LOG: Final = logging.getLogger("bentoml.marquee")
APPLIED: Final = Counter("marquee_session_events", "Events brought into session features.")
SessionFallback = Literal["no_session", "session_unavailable"] | None
FAILED: Final = Counter("marquee_session_failures", "Attempts to bring events into session features that failed.")


class Feed(ABC):
    """A thread that brings logged events into session features, and the features as they stand."""

    def __init__(self, settings: Settings, store: SessionStore) -> None:
        self._store = store
        self._categories = ProductCategories(settings)
        self._settings = settings
        self._is_open = self._is_failing = False
        self._looked_at = time.monotonic()
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="session-feed", daemon=True)

    def start(self) -> None:
        """Follow from now on, in a thread that ends with the process."""
        self._thread.start()

    def wake(self) -> None:
        """Look at once, and not only at the next poll."""
        self._wake.set()

    def stop(self) -> None:
        """End the thread after the pass under way."""
        self._stop.set()
        self._wake.set()
        self._thread.join()

    @abstractmethod
    def catch_up(self) -> int:
        """Apply what is durable in the log and was not applied yet; how many events that was.

        Raises:
            SessionStoreError: the store is unwell; what was not applied stays for the next call.
            MarqueeError, OSError: the log cannot be read.
        """

    def session(self, visitor_id: str) -> tuple[dict[str, Any] | None, SessionFallback]:
        """The visitor's session under way, or why there is none to tell of."""
        try:
            session = self._store.read(visitor_id, settings_now(self._settings))
        except SessionStoreError:
            return None, "session_unavailable"
        return session, None if session else "no_session"

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                applied = self.catch_up()
                self._stop.wait(min(applied * BUSY_SECONDS, MOST_BUSY_SECONDS))
                if self._is_failing:
                    self._is_failing = False
                    LOG.info("session features are kept up again")
            except Exception as error:  # whatever it is, events stay in the log and the service answers
                self._fail(error)
                self._stop.wait(RETRY_SECONDS)
            self._wake.wait(POLL_SECONDS)
            self._wake.clear()

    def _fail(self, error: Exception) -> None:
        FAILED.inc()
        self._is_open = False  # the store may come back empty: ask it again how far it is
        if not self._is_failing:
            self._is_failing = True
            LOG.error("session features stand still, events are logged and will be applied: %s", error)

    def _apply(self, data: bytes) -> int:
        """Bring the valid events of whole lines into the store; how many that were."""
        latest = max(settings_now(self._settings), datetime.now(UTC).replace(tzinfo=None)) + AHEAD
        first, last = microseconds(EARLIEST), microseconds(latest)
        categories = self._categories.now()
        events: dict[str, list[SessionEvent]] = {}
        count = 0
        for event in valid_events(data):
            at = microseconds(event.occurred_at)
            if event.kind in contract.NOTIFICATION_KINDS:  # no part of a visit
                continue
            if not first <= at <= last:
                continue
            product_id = event.product_id or None
            periods = categories.get(product_id) if product_id else None
            category_id = category_at(periods, at) if periods else None
            told = SessionEvent(at, event.event_id, event.kind, product_id, category_id, event.session_id or None)
            events.setdefault(event.visitor_id, []).append(told)
            count += 1
        if events:
            self._store.update(events)
            APPLIED.inc(count)
        return count


class SessionFeed(Feed):
    """Follows one worker's stream file; first it finishes what other workers left unapplied."""

    def __init__(self, settings: Settings, store: SessionStore, own: Path) -> None:
        super().__init__(settings, store)
        self._own = own
        self._positions: dict[Path, int] = {}

    def catch_up(self) -> int:
        """See ``Feed``."""
        if self._is_open and time.monotonic() - self._looked_at >= LOOK_SECONDS:
            self._looked_at = time.monotonic()
            self._rejoin(self._own)
        if not self._is_open:
            self._open()
        return sum(self._follow(file) for file in list(self._positions))

    def _open(self) -> None:
        """Where to go on: the own stream, and others' streams as far as they were not applied."""
        files = sorted(self._own.parent.glob("*.jsonl"), key=lambda file: file != self._own)
        self._positions = {file: self._join(file) for file in files if file == self._own or _is_recent(file)}
        self._is_open = True

    def _join(self, file: Path) -> int:
        """Where the store says that a stream stands; of one it does not know, the start of what is worth reading."""
        while (position := self._store.position(_stream(file))) is None:
            start = _recent(file)
            if self._store.advance(_stream(file), None, start):
                return start
        return position

    def _rejoin(self, file: Path) -> None:
        """Where a stream stands when that may not be where we left it."""
        found = self._store.position(_stream(file))
        if found is None or found < self._positions[file]:
            self._is_open = False  # the store lost what it had: begin again with all streams
        else:
            self._positions[file] = found  # another worker began with all streams, ours among them

    def _follow(self, file: Path) -> int:
        """Apply a stream up to its end; another worker's is then its own worker's again."""
        applied = 0
        while self._is_open and (before := self._positions[file]) != (size := file.stat().st_size):
            if size < before:  # rewritten: what stays is harmless to apply again
                after = _recent(file)
            elif part := pending_part(file, before):
                data = _read(file, part.start, part.stop)
                after = before + len(data)
                applied += self._apply(data)
            else:
                break
            # Only together with its position an update is known to have reached the store that had all before it.
            if self._store.advance(_stream(file), before, after):
                self._positions[file] = after
            else:
                self._rejoin(file)
        if file != self._own:
            del self._positions[file]
        return applied


def _read(file: Path, start: int, stop: int) -> bytes:
    """Whole lines from ``start``, a chunk at most."""
    with file.open("rb") as stream:
        stream.seek(start)
        data = stream.read(min(CHUNK_BYTES, stop - start))
        if start + len(data) < stop and not data.endswith(b"\n"):
            data += stream.readline()
    return data


class _Seen(NamedTuple):
    """What a session needs to know of an event that was read the slow way."""

    event_id: str
    kind: str
    occurred_at: datetime
    visitor_id: str
    product_id: str | None = None
    session_id: str | None = None


def valid_events(data: bytes) -> Sequence[EventForm | _Seen]:
    """The events of whole lines, without those that break the contract."""
    try:
        return decode_lines(data)
    except (ValueError, RecursionError):
        return list(_each_valid(data))


def _each_valid(data: bytes) -> Iterator[EventForm | _Seen]:
    """Line by line, as one of them is none or is unusual."""
    for line in data.split(b"\n")[:-1]:
        try:
            yield from decode_lines(line)
        except (ValueError, RecursionError):
            try:
                row = parse_event(line)
            except (ValueError, RecursionError):
                continue  # the loader sets it aside and says so
            yield _Seen._make(row.get(name) for name in _Seen._fields)


def _is_recent(file: Path) -> bool:
    """Whether sessions may still be under way of which a stream tells."""
    return file.stat().st_mtime >= time.time() - KEPT_HOURS * 3600


def _recent(file: Path) -> int:
    """The start of the last lines worth reading again."""
    size = file.stat().st_size
    if not _is_recent(file):
        return size
    if size <= REPLAYED_BYTES:
        return 0
    with file.open("rb") as stream:
        stream.seek(size - REPLAYED_BYTES)
        stream.readline()
        return stream.tell()


def _stream(file: Path) -> str:
    """A stream's name among those of all machines that share a store."""
    return f"{platform.node()}:{file}"
