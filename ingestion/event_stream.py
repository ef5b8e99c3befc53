"""The stream: events acknowledged one by one, one durable file for each writer, and how it is read back."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

from ingestion.batch import BATCH_ROWS, Batch, Rejected, check_event, records
from ingestion.group_commit import GroupCommit, naive_utc
from marquee import contract
from marquee.erasures import ERASED
from marquee.errors import MarqueeError

TRIAL_BYTES: Final = 1 << 16


class EventStream(GroupCommit):
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
        super().__init__(str(self.file), "disk")
        self._thread.start()

    def _store(self, appends: Sequence[bytes]) -> None:
        self._write(b"".join(appends))

    def _try(self) -> None:
        self._write(b" " * TRIAL_BYTES, is_kept=False)

    def _release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._owner.close()

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
        return naive_utc(datetime.fromisoformat(value))
    if kind == "string" and isinstance(value, str):
        value.encode()  # a lone surrogate is no text; the UnicodeEncodeError is a ValueError
        return value
    is_number = isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    if (kind in ("int", "float") and is_number) or (kind == "float" and isinstance(value, float)):
        return value
    raise ValueError(f"{name} {value!r} is not a {kind}")


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
