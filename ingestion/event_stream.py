"""The stream: events acknowledged one by one, one durable file for each writer, and how it is read back."""

from __future__ import annotations

import fcntl
import json
import os
import re
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

from ingestion.batch import BATCH_ROWS, Batch, Rejected, check_event, records
from marquee import contract
from marquee.erasures import ERASED
from marquee.errors import MarqueeError, TryAgain

MOST_WAITING_BYTES: Final = 16 << 20
"""What may wait for the disk before appends are refused."""
AGAIN_SECONDS: Final = 1.0
"""After an error, how often the disk is tried without events."""
TRIAL_BYTES: Final = 1 << 16


class EventStream:
    """One writer's durable file of single events.

    Any thread may append: what arrives while the disk is busy shares the next write and fsync. The file is locked
    while it is written, so a reader only ever sees lines that are durable (see ``pending_part``).

    Raises:
        MarqueeError: another process or object already writes under this name.
    """

    def __init__(self, folder: Path, writer: str) -> None:
        if not re.fullmatch(r"[\w.-]+", writer):
            raise MarqueeError(f"stream writer {writer!r} may only hold letters, digits and . _ -")
        folder.mkdir(parents=True, exist_ok=True)
        self.file: Final = folder / f"{writer}.jsonl"
        self._owner = (folder / f"{writer}.lock").open("w")
        try:
            fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._owner.close()
            raise MarqueeError(f"{self.file} already has a writer; give each process a writer name") from None
        self._descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        with self.file.open("rb") as stream:
            self._offset = _last_line_end(stream)
        # A last line without its newline was never acknowledged: its writer was killed.
        os.ftruncate(self._descriptor, self._offset)
        sync(self.file)
        sync(folder)
        self._waiting: list[tuple[bytes, Future[None]]] = []
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._is_closed = False
        self._last_error: str | None = None
        self._writer = threading.Thread(target=self._run, name="event-stream", daemon=True)
        self._writer.start()

    def append(self, events: list[dict[str, Any]]) -> None:
        """Store events; returns once they are durable.

        Raises:
            MarqueeError: the disk is full or failed; none of these events was stored.
            TryAgain: more waits for the disk than may wait; nothing was stored.
            ValueError, TypeError: an event cannot be written as JSON; nothing was stored.
        """
        self.append_soon([event_line(event) for event in events]).result()

    def append_soon(self, lines: list[bytes]) -> Future[None]:
        """Store lines, each one event and its newline, without waiting.

        Returns:
            Done once all of them are durable; fails with a ``MarqueeError`` when none of them was stored.

        Raises:
            TryAgain: more waits for the disk than may wait; nothing was stored.
            MarqueeError: the stream is closed; nothing was stored.
        """
        data = b"".join(lines)
        done: Future[None] = Future()
        with self._changed:
            if self._is_closed:
                raise MarqueeError(f"{self.file}: events were not stored: the stream is closed")
            if self._waiting_bytes + len(data) > MOST_WAITING_BYTES and self._waiting:
                raise TryAgain(f"{self.file}: {self._waiting_bytes:,} bytes wait for the disk; send the events again")
            self._waiting.append((data, done))
            self._waiting_bytes += len(data)
            self._changed.notify()
        return done

    @property
    def error(self) -> str | None:
        """Why the last write failed; ``None`` when it did not, or nothing was written yet."""
        return self._last_error

    def close(self) -> None:
        """Write what waits, then release the file."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._writer.join()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._owner.close()

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
            # Who is sent no events because of an error would never see that it is over.
            error = self._stored(b"".join(data for data, _ in group), is_trial=not is_awaited)
            for _, done in group:
                done.set_exception(error) if error else done.set_result(None)

    def _stored(self, data: bytes, is_trial: bool) -> MarqueeError | None:
        """Make lines durable; why that failed, whatever it was, for somebody waits to hear it."""
        try:
            if is_trial or data:
                self._write(b" " * TRIAL_BYTES if is_trial else data, is_kept=not is_trial)
        except Exception as error:
            self._last_error = str(error)
            told = MarqueeError(f"{self.file}: events were not stored: {error}")
            told.__cause__ = error
            return told
        self._last_error = None
        return None

    def _write(self, data: bytes, is_kept: bool = True) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            # Only true when an earlier failure could not be taken back; then nothing may follow it.
            if os.fstat(self._descriptor).st_size != self._offset:
                os.ftruncate(self._descriptor, self._offset)
            written = os.write(self._descriptor, data)
            if written != len(data):
                raise OSError(f"the disk took {written} of {len(data)} bytes")
            os.fsync(self._descriptor)
            self._offset += len(data) if is_kept else 0
        finally:
            try:
                if os.fstat(self._descriptor).st_size != self._offset:
                    os.ftruncate(self._descriptor, self._offset)
            finally:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)


def event_line(event: dict[str, Any]) -> bytes:
    """An event as a line of a stream.

    Raises:
        ValueError, TypeError: a value has no place in JSON.
    """
    return (json.dumps(event, default=_json, ensure_ascii=False, allow_nan=False) + "\n").encode()


@dataclass(frozen=True, slots=True)
class StreamPart:
    """Complete lines of one stream file: its bytes from ``start`` up to ``stop``."""

    file: Path
    start: int
    stop: int

    @property
    def batch_id(self) -> str:
        """The batch that these lines form."""
        return f"stream-{self.file.stem}-{self.start}-{self.stop}"


def pending_part(file: Path, start: int) -> StreamPart | None:
    """The complete, durable lines after byte ``start``; ``None`` when there are none.

    Raises:
        MarqueeError: the file is shorter than what was loaded from it.
    """
    with file.open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        os.fsync(stream.fileno())  # a killed writer may have left lines that only memory holds
        stop = _last_line_end(stream)
    if stop < start:
        raise MarqueeError(f"{file} ends at byte {stop}, but {start} bytes of it were loaded; restore the file")
    return StreamPart(file, start, stop) if stop > start else None


def read_part(part: StreamPart) -> Iterator[Batch]:
    """The events of a part of a stream; a line that is not a valid event becomes a rejected row."""
    rows: list[dict[str, Any]] = []
    rejected: list[Rejected] = []
    with part.file.open("rb") as stream:
        first = 1 + _count_lines(stream, part.start)
        for number, line in enumerate(_lines(stream, part.stop), start=first):
            if line.isspace():  # its visitor was forgotten (see ``erasure``)
                rejected.append(Rejected(part.file.name, number, ERASED, ""))
                continue
            try:
                rows.append(parse_event(line))
            except (ValueError, RecursionError) as error:
                text = line[:200].decode("utf-8", "replace").rstrip("\n")
                rejected.append(Rejected(part.file.name, number, str(error), text))
            if len(rows) + len(rejected) == BATCH_ROWS:
                yield Batch("events", records(contract.EVENTS, rows), rejected)
                rows, rejected = [], []
    yield Batch("events", records(contract.EVENTS, rows), rejected)


def parse_event(line: bytes) -> dict[str, Any]:
    """One line of a stream as an event; ``ValueError`` says which field breaks the contract."""
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    for name, value in row.items():
        if name not in contract.EVENTS.names:
            raise ValueError(f"unknown field {name!r}")
        if value is not None:
            row[name] = _typed(name, contract.EVENTS.column(name).type, value)
    if reason := check_event(row):
        raise ValueError(reason)
    return row


def _typed(name: str, kind: contract.ColumnType, value: Any) -> Any:
    if kind == "timestamp" and isinstance(value, str):
        return _naive_utc(datetime.fromisoformat(value))
    if kind == "string" and isinstance(value, str):
        value.encode()  # a lone surrogate is no text; the UnicodeEncodeError is a ValueError
        return value
    is_number = isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    if (kind in ("int", "float") and is_number) or (kind == "float" and isinstance(value, float)):
        return value
    raise ValueError(f"{name} {value!r} is not a {kind}")


def _naive_utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def _json(value: object) -> str:
    if isinstance(value, datetime):
        return _naive_utc(value).isoformat()
    raise TypeError(f"{value!r} cannot be stored in an event")


def _lines(stream: BinaryIO, stop: int) -> Iterator[bytes]:
    position = stream.tell()
    while position < stop:
        if not (line := stream.readline()):
            raise MarqueeError(f"{stream.name} ends at byte {position}, before byte {stop}; restore the file")
        position += len(line)
        yield line


def _count_lines(stream: BinaryIO, stop: int) -> int:
    """Newlines in the first ``stop`` bytes; leaves the stream there."""
    count = 0
    while block := stream.read(min(1 << 20, stop - stream.tell())):
        count += block.count(b"\n")
    return count


def _last_line_end(stream: BinaryIO) -> int:
    """Offset just after the last newline, 0 when there is none."""
    end = stream.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - (1 << 16))
        stream.seek(start)
        if (found := stream.read(end - start).rfind(b"\n")) >= 0:
            return start + found + 1
        end = start
    return 0


def sync(path: Path) -> None:
    """Make a file's content, or a folder's entries, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
