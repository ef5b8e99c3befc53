"""Taking people out of the event log, the quarantine and the warehouse, so that every batch's books still balance.

What the log loses it keeps count of: an erased record is one more rejected row with the reason ``erased`` and no
text, an erased line of a stream is as many blanks, so that byte offsets hold and the writer may go on. Where others'
rows mention a person, stars stand for the id.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow.parquet as pq

from ingestion.event_log import (
    MANIFEST,
    REJECTED,
    Manifest,
    Segment,
    clear_staging,
    read_manifest,
    rejected_lines,
)
from ingestion.event_stream import StreamPart, parse_event, pending_part, sync
from ingestion.forgotten import Erasable, Forgotten, OnePerson
from marquee.erasures import ERASED, Tombstones
from marquee.parquet import rewrite_parquet, rows_of
from marquee.person import Person
from marquee.settings import Settings

# --- batches ----------------------------------------------------------------------------------------------------------


def erase_from_batch(folder: Path, whose: Erasable) -> int:
    """Turn records of a batch folder into rejected rows without text; returns how many records and lines it changed.

    Killed anywhere and run again it ends the same: what a file lacks beside the manifest is what was erased.
    """
    manifest = read_manifest(folder)
    texts = sum(rewrite_parquet(folder / segment.file, whose.rows, whose.named).texts for segment in manifest.segments)
    lines, changed = _without_text(rejected_lines(folder), whose)
    lost = {s.file: s.rows - pq.read_metadata(folder / s.file).num_rows for s in manifest.segments}
    erased: int = sum(lost.values())
    if not (erased or changed):
        return texts
    lines += _missing_lines(manifest, lost, lines)
    _write(folder / REJECTED, "".join(f"{line}\n" for line in lines))
    segments = tuple(
        replace(s, rows=s.rows - lost[s.file], rejected=s.rejected + lost[s.file]) for s in manifest.segments
    )
    content = {"source": manifest.source, "tables": Manifest(manifest.source, segments).tables, "segments": segments}
    _write(folder / MANIFEST, json.dumps(content, default=asdict, indent=1))
    return erased + changed + texts


def _without_text(lines: list[str], whose: Erasable) -> tuple[list[str], int]:
    kept, changed = [], 0
    for line in lines:
        row = json.loads(line)
        if row["reason"] != ERASED and (whose.in_text(row["text"]) or whose.in_text(row["reason"])):
            line = json.dumps(row | {"reason": ERASED, "text": ""}, ensure_ascii=False)
            changed += 1
        kept.append(line)
    return kept, changed


def _missing_lines(manifest: Manifest, lost: dict[str, int], lines: list[str]) -> Iterator[str]:
    """A rejected row for each lost record that has none yet: a killed run may have written them, but no manifest."""
    written = Counter((row["table"], row["derived"]) for row in map(json.loads, lines))
    told: Counter[tuple[str, bool]] = Counter()
    for segment in manifest.segments:
        told[segment.table, segment.derived] += segment.rejected
    surplus = {key: written[key] - count for key, count in told.items()}
    for segment in manifest.segments:
        key = (segment.table, segment.derived)
        there = min(surplus[key], lost[segment.file])
        surplus[key] -= there
        yield from (_erased_line(segment, number) for number in range(lost[segment.file] - there))


def _erased_line(segment: Segment, number: int) -> str:
    row = {"table": segment.table, "derived": segment.derived, "file": segment.file, "line": number + 1}
    return json.dumps(row | {"reason": ERASED, "text": ""})


def _write(path: Path, text: str) -> None:
    """Replace a file in one step; it keeps its time, by which a warehouse that is made anew loads batches in order."""
    partial = path.with_name(f"_{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    times = path.stat()
    os.utime(partial, ns=(times.st_atime_ns, times.st_mtime_ns))
    sync(partial)
    partial.replace(path)
    sync(path.parent)


# --- streams ----------------------------------------------------------------------------------------------------------


def erase_from_stream(file: Path, whose: Erasable, start: int = 0, stop: int | None = None) -> int:
    """Overwrite lines of a stream, or mentions in them, byte for byte; returns how many lines.

    The writer may go on meanwhile and is never kept waiting: complete lines do not move, so they are read without its
    lock, and it is taken only for the moment in which one is overwritten.
    """
    complete = pending_part(file, start)
    if complete is None:
        return 0
    stop = complete.stop if stop is None else min(stop, complete.stop)
    erased = 0
    descriptor = os.open(file, os.O_RDWR)
    try:
        with file.open("rb") as stream:
            position = stream.seek(start)
            while position < stop and (line := stream.readline()):
                erased += _overwrite(descriptor, position, line, line_without(line, whose))
                position += len(line)
        if erased:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return erased


def line_without(line: bytes, whose: Erasable) -> bytes:
    """What is to stand in a line's place: as many blanks, the line with stars in it, or itself."""
    if not line.strip():
        return line
    blanks = b" " * (len(line) - 1) + b"\n"
    if line.startswith(b" "):  # a killed erasure got this far
        return blanks
    try:
        if whose.in_event(parse_event(line)):
            return blanks
    except (ValueError, RecursionError):
        return blanks if whose.in_text(line.decode("utf-8", "replace")) else line
    return whose.named.blank(line) if whose.named else line


def _overwrite(descriptor: int, position: int, before: bytes, after: bytes) -> bool:
    if before == after:
        return False
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        # A writer takes back what it could not store whole; then another line may stand here by now.
        if os.pread(descriptor, len(before), position) != before:
            return False
        os.pwrite(descriptor, after, position)
        return True
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


# --- the whole of it --------------------------------------------------------------------------------------------------


def erase_from_log(settings: Settings, person: Person) -> int:
    """Erase a person from every batch and stream of the event log; returns the records, lines and texts.

    Raises:
        MarqueeError: a file of a batch cannot be read.
    """
    whose = OnePerson(person)
    batches = [folder for folder in sorted((settings.log / "batches").glob("*")) if (folder / MANIFEST).is_file()]
    streams = sorted((settings.log / "stream").glob("*.jsonl"))
    return sum(erase_from_batch(folder, whose) for folder in batches) + sum(
        erase_from_stream(file, whose) for file in streams
    )


def erase_from_files(folder: Path, person: Person) -> int:
    """Rewrite the Parquet files below a folder without a person; returns the rows and texts.

    Raises:
        MarqueeError: a file cannot be read.
    """
    files = sorted(file for file in folder.rglob("*.parquet") if file.is_file())
    return sum(sum(rewrite_parquet(file, rows_of(person), person)) for file in files)


def clear_leftovers(settings: Settings) -> None:
    """Remove what killed runs left half-written: nobody reads it, and it may quote anybody."""
    clear_staging(settings.log)
    spark = settings.home / "spark"
    shutil.rmtree(spark / "pulled", ignore_errors=True)
    for file in [*settings.home.rglob("_*.partial"), *(spark / "raw").rglob("_*.parquet")]:
        file.unlink(missing_ok=True)


def set_aside_forgotten(folder: Path, forgotten: Tombstones) -> int:
    """Before a batch is loaded: rows of forgotten people become rejected ones. Costs nothing without tombstones."""
    return erase_from_batch(folder, Forgotten(forgotten)) if forgotten else 0


def blank_forgotten(part: StreamPart, forgotten: Tombstones) -> int:
    """The same for the lines of a part of a stream: they become blanks."""
    return erase_from_stream(part.file, Forgotten(forgotten), part.start, part.stop) if forgotten else 0
