"""The event log: what came in, durable before anyone is told so, and never changed afterwards.

log/
├── batches/<batch_id>/    one source read whole: <table>-00000.parquet …, rejected.jsonl, batch.json
├── stream/<writer>.jsonl  events that the service acknowledged, one JSON line each (``event_stream``)
└── staging/<pid>-<…>/     being written; never loaded, removed once its writer is gone
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
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
    "read_manifest",
    "staging_folder",
    "write_batch",
]

REJECTED: Final = "rejected.jsonl"
MANIFEST: Final = "batch.json"


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
    digest = hashlib.sha256()
    with (folder / REJECTED).open("w", encoding="utf-8") as rejected:
        for batch in batches:
            number = sum(s.table == batch.table for s in segments)
            data = _to_parquet(source, batch)
            file = folder / f"{batch.table}-{number:05d}.parquet"
            file.write_bytes(data)
            sync(file)
            segments.append(Segment(file.name, batch.table, batch.derived, batch.records.num_rows, len(batch.rejected)))
            digest.update(f"\n{batch.table} {batch.derived} {hashlib.sha256(data).hexdigest()}".encode())
            for row in batch.rejected:
                rejected.write(_rejected_line(batch, row))
                digest.update(f"\n{row.line} {row.reason} {row.text}".encode("utf-8", "replace"))
            if on_batch:
                on_batch(0 if batch.derived else batch.records.num_rows + len(batch.rejected))
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


@contextmanager
def staging_folder(log: Path) -> Iterator[Path]:
    """An empty folder that disappears with the block, unless it was moved away; also clears up after killed runs."""
    root = log / "staging"
    root.mkdir(parents=True, exist_ok=True)
    for left_over in root.iterdir():
        pid = left_over.name.partition("-")[0]
        if pid.isdigit() and not _is_alive(int(pid)):
            shutil.rmtree(left_over, ignore_errors=True)  # another append may be removing it at this moment
    folder = root / f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
    folder.mkdir()
    try:
        yield folder
    finally:
        if folder.exists():
            shutil.rmtree(folder)


def _to_parquet(source: str, batch: Batch) -> bytes:
    table = contract.RAW_TABLES.get(batch.table)
    if table is None:
        raise SourceError(f"source {source}: {batch.table!r} is not one of {', '.join(contract.RAW_TABLES)}")
    try:
        checked = batch.records.cast(arrow_schema(table))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise SourceError(f"source {source}, table {batch.table}: {error}") from error
    buffer = io.BytesIO()
    pq.write_table(checked, buffer, compression="zstd")
    return buffer.getvalue()


def _rejected_line(batch: Batch, row: Rejected) -> str:
    values = {"table": batch.table, "derived": batch.derived} | asdict(row)
    # Undecodable bytes may reach us as lone surrogates, which no JSON reader takes back.
    return json.dumps(values, ensure_ascii=False).encode("utf-8", "replace").decode() + "\n"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
