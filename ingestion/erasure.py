"""Taking people out of the event log, the quarantine and the warehouse, so that every batch's books still balance.

What the log loses it keeps count of: an erased record is one more rejected row with the reason ``erased`` and no
text, an erased line of a stream is as many blanks, so that byte offsets hold and the writer may go on.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ingestion.event_log import MANIFEST, REJECTED, Manifest, Segment, read_manifest
from ingestion.event_stream import StreamPart, parse_event, sync
from marquee.erasures import ERASED, Tombstones
from marquee.parquet import RowMask, rewrite_parquet, rows_of
from marquee.person import PERSON_COLUMNS, Person
from marquee.settings import Settings


class Erasable(Protocol):
    """Whose rows and lines must go."""

    @property
    def rows(self) -> RowMask:
        """Marks records that must go."""
        ...

    def in_event(self, event: dict[str, Any]) -> bool:
        """Whether an event must go."""
        ...

    def in_text(self, text: str) -> bool:
        """Whether a line that could not be read names them."""
        ...


@dataclass(frozen=True, slots=True)
class OnePerson:
    """Everything of one person, whenever it happened."""

    person: Person

    @property
    def rows(self) -> RowMask:
        """See ``Erasable``."""
        return rows_of(self.person)

    def in_event(self, event: dict[str, Any]) -> bool:
        """See ``Erasable``."""
        return any(event.get(name) == self.person.visitor_id for name in PERSON_COLUMNS)

    def in_text(self, text: str) -> bool:
        """See ``Erasable``; a field of a line is enough, for nothing else is lost with such a line."""
        return self.person.visitor_id in _fields(text) or self.person.count(text.encode("utf-8", "replace")) > 0


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What people did up to the moment at which they were forgotten; they may have come back since."""

    tombstones: Tombstones

    @property
    def rows(self) -> RowMask:
        """See ``Erasable``."""
        return self._mask

    def in_event(self, event: dict[str, Any]) -> bool:
        """See ``Erasable``."""
        ids = [event.get(name) for name in PERSON_COLUMNS]
        known = self.tombstones.among(one for one in ids if isinstance(one, str))
        return any(event["occurred_at"] <= until for until in known.values())

    def in_text(self, text: str) -> bool:
        """See ``Erasable``."""
        return bool(self.tombstones.among(_fields(text)))

    def _mask(self, rows: pa.RecordBatch) -> pa.BooleanArray:
        found: Any = pa.array([False] * rows.num_rows, pa.bool_())
        for name in PERSON_COLUMNS:
            if name in rows.schema.names and "occurred_at" in rows.schema.names:
                ids = rows.column(name)
                known = self.tombstones.among(pc.unique(ids).to_pylist())
                for visitor_id, until in known.items():
                    theirs = pc.fill_null(pc.equal(ids, visitor_id), False)
                    before = pc.less_equal(rows.column("occurred_at"), pa.scalar(until, pa.timestamp("us")))
                    found = pc.or_(found, pc.and_(theirs, before))
        return found


def _fields(text: str) -> set[str]:
    """What could be an id in a line of CSV or JSON."""
    return {field.strip() for field in re.split(r"[,;|\t\"']", text)} | set(re.split(r"[^\w.@-]+", text))


# --- batches ----------------------------------------------------------------------------------------------------------


def erase_from_batch(folder: Path, whose: Erasable) -> int:
    """Turn records of a batch folder into rejected rows without text; returns how many records and lines it changed.

    Killed anywhere and run again it ends the same: what a file lacks beside the manifest is what was erased.
    """
    manifest = read_manifest(folder)
    for segment in manifest.segments:
        if set(_columns(folder / segment.file)) & set(PERSON_COLUMNS):
            rewrite_parquet(folder / segment.file, whose.rows)
    lines, changed = _without_text((folder / REJECTED).read_text(encoding="utf-8").splitlines(), whose)
    lost = {s.file: s.rows - pq.read_metadata(folder / s.file).num_rows for s in manifest.segments}
    erased: int = sum(lost.values())
    if not (erased or changed):
        return 0
    lines += _missing_lines(manifest, lost, lines)
    _write(folder / REJECTED, "".join(f"{line}\n" for line in lines))
    segments = tuple(
        replace(s, rows=s.rows - lost[s.file], rejected=s.rejected + lost[s.file]) for s in manifest.segments
    )
    content = {"source": manifest.source, "tables": Manifest(manifest.source, segments).tables, "segments": segments}
    _write(folder / MANIFEST, json.dumps(content, default=asdict, indent=1))
    return erased + changed


def _columns(path: Path) -> list[str]:
    return list(pq.read_schema(path).names)


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
    """Overwrite lines of a stream with blanks of the same length; returns how many. The writer may go on meanwhile."""
    descriptor = os.open(file, os.O_RDWR)
    erased = 0
    try:
        # The writer's lock: a line that is being written is not ours to judge.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with os.fdopen(os.dup(descriptor), "rb") as stream:
            stream.seek(start)
            position = start
            for line in stream:
                if not line.endswith(b"\n") or (stop is not None and position >= stop):
                    break
                if line.strip() and _must_go(line, whose):
                    os.pwrite(descriptor, b" " * (len(line) - 1), position)
                    erased += 1
                position += len(line)
        if erased:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return erased


def _must_go(line: bytes, whose: Erasable) -> bool:
    if line.startswith(b" "):  # a killed erasure got this far
        return True
    try:
        return whose.in_event(parse_event(line))
    except (ValueError, RecursionError):
        return whose.in_text(line.decode("utf-8", "replace"))


# --- the whole of it --------------------------------------------------------------------------------------------------


def erase_from_log(settings: Settings, person: Person) -> int:
    """Erase a person from every batch and stream of the event log; returns the records and lines."""
    whose = OnePerson(person)
    batches = [folder for folder in sorted((settings.log / "batches").glob("*")) if (folder / MANIFEST).is_file()]
    streams = sorted((settings.log / "stream").glob("*.jsonl"))
    return sum(erase_from_batch(folder, whose) for folder in batches) + sum(
        erase_from_stream(file, whose) for file in streams
    )


def erase_from_files(folders: Iterable[Path], person: Person) -> int:
    """Rewrite the Parquet files below some folders without a person's rows; returns the rows."""
    mask = rows_of(person)
    files = sorted(file for folder in folders for file in folder.rglob("*.parquet") if file.is_file())
    return sum(rewrite_parquet(file, mask) for file in files)


def set_aside_forgotten(folder: Path, forgotten: Tombstones) -> int:
    """Before a batch is loaded: rows of forgotten people become rejected ones. Costs nothing without tombstones."""
    return erase_from_batch(folder, Forgotten(forgotten)) if forgotten else 0


def blank_forgotten(part: StreamPart, forgotten: Tombstones) -> int:
    """The same for the lines of a part of a stream: they become blanks."""
    return erase_from_stream(part.file, Forgotten(forgotten), part.start, part.stop) if forgotten else 0
