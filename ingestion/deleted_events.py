"""Single events that must not count: sent by mistake, or as a test. The log keeps them; a line here keeps them out.

``log/deleted.jsonl`` has a line for each deletion: its id, when, by whom, why and the events' ids. It is only ever
appended to. The query leaves such events out at once, the load from the next one on, copies that come later too.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ingestion.event_stream import sync
from marquee.erasures import utc_now

MOST_AT_ONCE: Final = 1_000
"""Events that one deletion may name."""


def delete_events(log: Path, event_ids: Sequence[str], by: str, reason: str) -> str:
    """Have events left out from now on, known or not; durable when this returns. Returns the deletion's id."""
    deletion = secrets.token_hex(8)
    line = {"deletion": deletion, "at": utc_now(), "by": by, "reason": reason, "event_ids": sorted(set(event_ids))}
    log.mkdir(parents=True, exist_ok=True)
    with deleted_file(log).open("a+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        # What a killed writer left of a line ends here, and does not spoil the next one.
        stream.truncate(_complete(stream.fileno()))
        stream.write((json.dumps(line) + "\n").encode())
        stream.flush()
        os.fsync(stream.fileno())
    sync(log)
    return deletion


def deletions(log: Path) -> list[dict[str, Any]]:
    """Every deletion, oldest first; a last line cut short by a kill is left out."""
    path = deleted_file(log)
    if not path.exists():
        return []
    complete = path.read_bytes().rpartition(b"\n")[0]
    return [json.loads(line) for line in complete.splitlines() if line]


def deleted_ids(log: Path) -> set[str]:
    """The ids of all events that must not count."""
    return {event_id for line in deletions(log) for event_id in line["event_ids"]}


def deleted_file(log: Path) -> Path:
    """The record of deletions."""
    return log / "deleted.jsonl"


def _complete(descriptor: int) -> int:
    """Bytes of the file's complete lines."""
    size = os.fstat(descriptor).st_size
    if not size or os.pread(descriptor, 1, size - 1) == b"\n":
        return size
    return os.pread(descriptor, size, 0).rfind(b"\n") + 1
