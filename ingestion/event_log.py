"""The event log: what came in, durable before anyone is told so, and never changed afterwards.

log/
├── batches/<batch_id>/    one source read whole: <table>-00000.parquet …, rejected.jsonl, batch.json
├── stream/<writer>.jsonl  events that the service acknowledged, one JSON line each (``event_stream``)
└── staging/<…>/           being written, beside its lock; never loaded, removed once its writer is gone
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from ingestion.batch import Batch, Rejected, Source, arrow_schema
from ingestion.event_stream import EventStream, sync
from marquee import contract
from marquee.errors import MarqueeError, SourceError

__all__ = [
    "AppendedBatch",
    "EventStream",
    "Manifest",
    "Segment",
    "TableRead",
    "append_batches",
    "clear_staging",
    "read_manifest",
    "rejected_lines",
    "staging_folder",
    "write_batch",
]

REJECTED: Final = "rejected.jsonl"
MANIFEST: Final = "batch.json"
SEGMENT_ROWS: Final = 200_000
"""Rows up to which batches that follow each other share a segment, so that many small files make few segments."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One Parquet file of a batch: its records (``rows``), and the rows beside them that were ``rejected``."""

    file: str
    table: str
    derived: bool
    rows: int
    rejected: int


@dataclass(frozen=True, slots=True)
class TableRead:
    """What a batch read for one table, derived records apart: read = records + rejected."""

    table: str
    derived: bool
    read: int
    rejected: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What ``batch.json`` says of a batch; the same for the same content."""

    source: str
    segments: tuple[Segment, ...]

    @property
    def tables(self) -> tuple[TableRead, ...]:
        """Counts per table, in order of first appearance."""
        counts: dict[tuple[str, bool], tuple[int, int]] = {}
        for s in self.segments:
            read, rejected = counts.get((s.table, s.derived), (0, 0))
            counts[s.table, s.derived] = (read + s.rows + s.rejected, rejected + s.rejected)
        return tuple(TableRead(*key, *count) for key, count in counts.items())


@dataclass(frozen=True, slots=True)
class AppendedBatch:
    """A batch that is in the log; ``already_there`` when an earlier append brought the same content."""

    batch_id: str
    manifest: Manifest
    already_there: bool


def append_batches(log: Path, source: Source, on_batch: Callable[[int], None] | None = None) -> AppendedBatch:
    """Read ``source`` to its end and put it into the log as one batch: all of it or nothing.

    ``on_batch`` hears the rows of each batch read (derived ones count 0). The batch id comes from the content,
    not from file names, so the same content is kept once.

    Raises:
        SourceError: the source cannot be read, breaks the contract's schema, or holds no rows at all.
    """
    if not re.fullmatch(r"[\w.-]+", source.name):
        raise SourceError(f"source name {source.name!r} may only hold letters, digits and . _ -")
    with staging_folder(log) as staging:
        manifest, content_hash = write_batch(staging, source.name, source.read(), on_batch)
        if not any(count.read for count in manifest.tables):
            raise SourceError(f"source {source.name} holds no rows; check its path")
        target = log / "batches" / f"{source.name}-{content_hash[:16]}"
        target.parent.mkdir(exist_ok=True)
        already_there = False
        try:
            staging.replace(target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            already_there = True
        for folder in (target.parent, log, log.parent):
            sync(folder)
    return AppendedBatch(target.name, manifest, already_there)


def write_batch(
    folder: Path, source: str, batches: Iterable[Batch], on_batch: Callable[[int], None] | None = None
) -> tuple[Manifest, str]:
    """Write one batch into ``folder``, durable; returns its manifest and a hash of its content, file names apart."""
    segments: list[Segment] = []
    hashes: list[Future[str]] = []
    digest = hashlib.sha256()
    with (folder / REJECTED).open("w", encoding="utf-8") as rejected, ThreadPoolExecutor(1) as writer:
        for batch in _merged(_checked(source, batch, on_batch) for batch in batches):
            number = sum(s.table == batch.table for s in segments)
            file = folder / f"{batch.table}-{number:05d}.parquet"
            # The next segment is read while this one is written; never two, or a fast reader would fill the memory.
            wait(hashes[-1:])
            hashes.append(writer.submit(_write_segment, file, batch.records))
            segments.append(Segment(file.name, batch.table, batch.derived, batch.records.num_rows, len(batch.rejected)))
            for row in batch.rejected:
                rejected.write(_rejected_line(batch, row))
                digest.update(f"\n{row.line} {row.reason} {row.text}".encode("utf-8", "replace"))
        for segment, written in zip(segments, hashes, strict=True):
            text = f"\n{segment.table} {segment.derived} {segment.rejected} {written.result()}"
            digest.update(text.encode())
    manifest = Manifest(source, tuple(segments))
    content = {"source": source, "tables": manifest.tables, "segments": manifest.segments}
    (folder / MANIFEST).write_text(json.dumps(content, default=asdict, indent=1), encoding="utf-8")
    for path in (folder / REJECTED, folder / MANIFEST, folder):
        sync(path)
    return manifest, digest.hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a batch in the log; ``MarqueeError`` when a file that it names is missing."""
    content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    manifest = Manifest(content["source"], tuple(Segment(**segment) for segment in content["segments"]))
    for name in (REJECTED, *(segment.file for segment in manifest.segments)):
        if not (folder / name).is_file():
            raise MarqueeError(f"batch {folder.name}: {name} is missing from the event log; restore {folder}")
    return manifest


def rejected_lines(folder: Path) -> list[str]:
    """The JSON of each rejected row of a batch; its text may hold what ``str.splitlines`` takes for a line's end."""
    return [line for line in (folder / REJECTED).read_text(encoding="utf-8").split("\n") if line]


@contextmanager
def staging_folder(log: Path) -> Iterator[Path]:
    """An empty folder that disappears with the block, unless it was moved away; also clears up after killed runs.

    The lock file beside it tells a living owner from a dead one, in another container too.
    """
    clear_staging(log)
    with _claimed(log / "staging") as folder:
        folder.mkdir()
        try:
            yield folder
        finally:
            if folder.exists():
                shutil.rmtree(folder)


def clear_staging(log: Path) -> None:
    """Remove what killed runs left half-written; a folder whose owner lives stays."""
    root = log / "staging"
    root.mkdir(parents=True, exist_ok=True)
    for name in {entry.name.removesuffix(".lock") for entry in root.iterdir()}:
        _clear(root / name)


@contextmanager
def _claimed(root: Path) -> Iterator[Path]:
    """A name for a folder, locked while the block lasts."""
    while True:
        folder = root / uuid.uuid4().hex[:12]
        with _lock_of(folder).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _lock_of(folder).exists():  # taken for a left-over in the moment before it was locked
                continue
            try:
                yield folder
            finally:
                _lock_of(folder).unlink(missing_ok=True)
        return


def _clear(folder: Path) -> None:
    """Remove a folder whose owner is gone."""
    with _lock_of(folder).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        shutil.rmtree(folder, ignore_errors=True)  # another append may be removing it at this moment
        _lock_of(folder).unlink(missing_ok=True)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _checked(source: str, batch: Batch, on_batch: Callable[[int], None] | None) -> Batch:
    """The batch with its records in the contract's schema."""
    table = contract.RAW_TABLES.get(batch.table)
    if table is None:
        raise SourceError(f"source {source}: {batch.table!r} is not one of {', '.join(contract.RAW_TABLES)}")
    try:
        records = batch.records.cast(arrow_schema(table))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise SourceError(f"source {source}, table {batch.table}: {error}") from error
    if on_batch:
        on_batch(0 if batch.derived else batch.records.num_rows + len(batch.rejected))
    return replace(batch, records=records)


def _merged(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Neighbours of one table as one batch of at most ``SEGMENT_ROWS`` rows, unless a single one has more."""
    for _, run in groupby(batches, key=lambda batch: (batch.table, batch.derived)):
        gathered: list[Batch] = []
        for batch in run:
            if gathered and _size(*gathered, batch) > SEGMENT_ROWS:
                yield _joined(gathered)
                gathered = []
            gathered.append(batch)
        yield _joined(gathered)


def _size(*batches: Batch) -> int:
    return sum(batch.records.num_rows + len(batch.rejected) for batch in batches)


def _joined(batches: list[Batch]) -> Batch:
    records = pa.concat_tables([batch.records for batch in batches]).combine_chunks()
    return replace(batches[0], records=records, rejected=[row for batch in batches for row in batch.rejected])


def _write_segment(file: Path, records: pa.Table) -> str:
    """Write a segment, durable; the hash of its bytes."""
    buffer = io.BytesIO()
    pq.write_table(records, buffer, compression="zstd")
    file.write_bytes(buffer.getbuffer())
    sync(file)
    return hashlib.sha256(buffer.getbuffer()).hexdigest()


def _rejected_line(batch: Batch, row: Rejected) -> str:
    values = {"table": batch.table, "derived": batch.derived} | asdict(row)
    # Undecodable bytes may reach us as lone surrogates, which no JSON reader takes back.
    return json.dumps(values, ensure_ascii=False).encode("utf-8", "replace").decode() + "\n"
