"""Which features a request has read: up to which moment they were online, and when they were written there.

The online store serves what was materialised last, not what is newest offline. So the service logs both moments with
each impression, and ``training.skew`` replays the offline features as of them.
"""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Final

from marquee import contract
from marquee.settings import Settings

Moment = tuple[str, str]
"""Until when features are online, and when they were written; ISO 8601, UTC without a zone."""


class OnlineMoments:
    """The moment of what is online now. Asked before and after a read, it tells whether the read saw one moment."""

    def __init__(self, settings: Settings) -> None:
        self._file: Final = settings.features / "materialized.json"
        self._lock: Final = settings.features / "materialize.lock"
        self._read_from: tuple[int, int] | None = None
        self._moment: Moment | None = None

    def now(self) -> Moment | None:
        """The moment, or None while features are being written or when none were yet."""
        if _is_held(self._lock):
            return None
        try:
            found = self._file.stat()
        except FileNotFoundError:
            return None
        if (found.st_mtime_ns, found.st_ino) != self._read_from:
            values = json.loads(self._file.read_text(encoding="utf-8"))
            # A view's own moment is that of its newest row; up to the latest of them it had no other. A ranker reads
            # no segment, and what a request was told of one is logged with it.
            read = [moment for view, moment in values.items() if view != contract.VISITOR_SEGMENTS.name]
            self._moment = max(((until, written_at) for until, written_at in read), default=None)
            self._read_from = (found.st_mtime_ns, found.st_ino)
        return self._moment


def _is_held(lock: Path) -> bool:
    """Whether a run writes at this moment."""
    try:
        with lock.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
