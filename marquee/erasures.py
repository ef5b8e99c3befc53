"""Who asked to be forgotten: the audit of erasures, and the tombstones that keep a person from coming back.

``home/erasures.jsonl`` holds a line for each attempt, written before anything is touched, and one when all is done.
None holds the visitor's id, only its keyed hash; the key, ``home/erasure.key``, can be read by the owner alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from marquee.errors import MarqueeError
from marquee.settings import Settings

ERASED: Final = "erased"
"""Reason of a row that was set aside because its visitor was forgotten."""


class Tombstones:
    """Until when which visitors were forgotten; false when there is none."""

    def __init__(self, key: bytes, until: dict[str, datetime]) -> None:
        self._key = key
        self._until = until
        self._known: dict[str, datetime | None] = {}

    def __bool__(self) -> bool:
        return bool(self._until)

    def until(self, visitor_id: str) -> datetime | None:
        """Rows of this visitor up to that moment (UTC) must not be kept; None for one who was never forgotten."""
        if visitor_id not in self._known:
            self._known[visitor_id] = self._until.get(keyed_hash(self._key, visitor_id))
        return self._known[visitor_id]

    def among(self, visitor_ids: Iterable[str | None]) -> dict[str, datetime]:
        """Those of the visitors who were forgotten, each with the moment."""
        found = ((one, self.until(one)) for one in visitor_ids if one is not None)
        return {one: moment for one, moment in found if moment is not None}


def tombstones(settings: Settings) -> Tombstones:
    """The visitors that this installation has forgotten; reads one small file, nothing where there is none.

    Raises:
        MarqueeError: somebody was forgotten, but the key that tells who is gone.
    """
    until: dict[str, datetime] = {}
    for line in lines(settings):
        moment = datetime.fromisoformat(line["until"])
        until[line["person"]] = max(moment, until.get(line["person"], moment))
    return Tombstones(read_key(settings) if until else b"", until)


def lines(settings: Settings) -> list[dict[str, Any]]:
    """Every line of the audit, oldest first; a last line cut short by a kill is left out."""
    path = audit_file(settings)
    if not path.exists():
        return []
    complete = path.read_bytes().rpartition(b"\n")[0]
    return [json.loads(line) for line in complete.splitlines() if line]


def open_erasure(settings: Settings, person: str) -> dict[str, Any] | None:
    """The last attempt at an erasure of this person that was never finished."""
    own = [line for line in lines(settings) if line["person"] == person]
    finished = {line["erasure"] for line in own if line["state"] == "finished"}
    return next((line for line in reversed(own) if line["erasure"] not in finished), None)


def record(settings: Settings, line: dict[str, Any]) -> None:
    """Append a line to the audit, durable when this returns."""
    path = audit_file(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        # What a killed run left of a line ends here, and does not spoil the next one.
        is_cut = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        if is_cut:
            os.ftruncate(descriptor, path.read_bytes().rfind(b"\n") + 1)
        os.write(descriptor, (json.dumps(line, ensure_ascii=False) + "\n").encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    _sync(path.parent)


def person_hash(settings: Settings, visitor_id: str) -> str:
    """The visitor's keyed hash; makes the key when this is the first erasure."""
    path = key_file(settings)
    if not path.exists() and not lines(settings):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, secrets.token_hex(32).encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        partial.replace(path)
        _sync(path.parent)
    return keyed_hash(read_key(settings), visitor_id)


def read_key(settings: Settings) -> bytes:
    """The key of the hashes.

    Raises:
        MarqueeError: it is not there.
    """
    path = key_file(settings)
    if not path.exists():
        raise MarqueeError(
            f"{path} is missing, so nobody can tell whom {audit_file(settings)} says to keep out; restore it"
        )
    return path.read_bytes()


def keyed_hash(key: bytes, visitor_id: str) -> str:
    """A hash that only the holder of the key can compare with an id."""
    return hashlib.blake2b(visitor_id.encode("utf-8", "surrogatepass"), key=key, digest_size=16).hexdigest()


def audit_file(settings: Settings) -> Path:
    """The audit of erasures."""
    return settings.home / "erasures.jsonl"


def key_file(settings: Settings) -> Path:
    """The key of its hashes."""
    return settings.home / "erasure.key"


def utc_now() -> str:
    """The wall clock, UTC, to the second."""
    return datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="seconds")


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
