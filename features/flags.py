"""The sessions that leave the training rows, and what that cost the training set: two files and their notes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from marquee.settings import Settings

KEY: Final = ("visitor_id", "session_id")
"""Of a session: another visitor's may have the same id."""
FLAGS: Final = b"marquee_flags"
"""Under this name the file of flagged sessions says, as JSON, how they were judged."""
EXCLUSION: Final = b"marquee_exclusion"
"""Under this name the training set says, as JSON, how many rows flagged sessions cost it."""


def flagged_sessions_file(settings: Settings) -> Path:
    """Where flagged sessions stand, a row each with ``KEY``; it lies where erasure reaches it."""
    return settings.features / "flagged_sessions.parquet"


def flagged_sessions(settings: Settings) -> Any:
    """An Arrow table of the ``KEY`` of each flagged session; empty where none were judged, or that is turned off."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = flagged_sessions_file(settings)
    if not settings.flag_sessions or not path.exists():
        return pa.table({name: pa.array([], pa.string()) for name in KEY})
    return pq.read_table(path, columns=list(KEY))


def note_of(path: Path, name: bytes) -> dict[str, Any]:
    """What a Parquet file notes under a name; empty where there is no file or no note."""
    import pyarrow.parquet as pq

    noted = (pq.read_schema(path).metadata or {}) if path.exists() else {}
    found: dict[str, Any] = json.loads(noted.get(name, b"{}"))
    return found


def exclusion(settings: Settings) -> dict[str, Any]:
    """Training rows before, kept and excluded, and sessions excluded, of the training set built last; empty if none."""
    return note_of(settings.features / "training_set.parquet", EXCLUSION)


def told(report: dict[str, Any]) -> str:
    """In one line what the judging came to and what it took, from a bundle's report."""
    if not report["judged"]:
        return f"no session flagged: {report['note'] or 'none was judged'}"
    line = f"{report['flagged']:,} of {report['judged']:,} sessions flagged"
    reasons = [f"{count:,} {name}" for name, count in (report["by_reason"] or {}).items() if count]
    line += f" ({', '.join(reasons)})" if reasons else ""
    line += f"; {report['note']}" if report["note"] else ""
    if "rows_excluded" in report:
        line += f"; {report['rows_excluded']:,} of {report['rows_before']:,} training rows left out"
    return line
