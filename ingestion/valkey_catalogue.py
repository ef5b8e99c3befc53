"""The managed catalogue in Valkey or Redis, for services on many machines."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

from ingestion.catalogue_changes import (
    CatalogueStoreError,
    Change,
    Managed,
    Records,
    Stored,
    Write,
    absorbed,
    decide,
    restored,
)
from marquee.settings import Settings
from marquee.valkey import connect

SECONDS: Final = 5.0
"""How long an answer is waited for; only those who change or follow the catalogue wait, never a page view."""
READ: Final = """
local version = redis.call('GET', KEYS[1]) or '0'
local from = tonumber(version) < tonumber(ARGV[1]) and '0' or ARGV[1]
local rows = {}
for i, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. from, '+inf')) do
    rows[i] = redis.call('HGET', KEYS[3], name)
end
return {version, rows}
"""
WRITE: Final = """
if (redis.call('GET', KEYS[1]) or '0') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
for i = 3, #ARGV, 3 do
    redis.call('ZADD', KEYS[2], ARGV[2], ARGV[i])
    redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1])
    redis.call('RPUSH', KEYS[4], ARGV[i + 2])
end
return 1
"""


class ValkeyCatalogue:
    """See ``CatalogueStore``. A change counts only if nobody changed the catalogue in between; else it is decided anew.

    Durable as far as Valkey is: with ``appendonly yes`` a change waits until it is on Valkey's disk.
    """

    # The braces keep all of them on one node of a cluster.
    KEYS: Final = tuple(f"{{marquee:catalogue}}:{name}" for name in ("version", "changed", "records", "audit"))
    ATTEMPTS: Final = 50

    def __init__(self, settings: Settings) -> None:
        import redis

        # Over a dropped connection a change may be made twice, which comes to the same and is twice in the audit.
        self._client = connect(settings, "online_store = valkey", SECONDS, retries=1)
        self._errors, self._refusal = redis.RedisError, redis.ResponseError
        self._read_script, self._write_script = self._client.register_script(READ), self._client.register_script(WRITE)
        self._lock = threading.Lock()
        self._managed = Managed()

    def version(self) -> int:
        """See ``CatalogueStore``."""
        with self._told():
            return int(self._client.get(self.KEYS[0]) or 0)

    def read(self) -> Managed:
        """See ``CatalogueStore``."""
        with self._lock, self._told():
            last = self._managed
            found, rows = self._read_script(keys=self.KEYS[:3], args=[last.version])
            version = int(found)
            last = last if last.version <= version else Managed()  # an older copy was put back
            if last.version < version:
                last = absorbed(last, version, map(_stored, rows))
            self._managed = last
            return last

    def change(
        self,
        changes: Sequence[Change],
        by: str,
        request_id: str,
        known: Records | None = None,
        cascade: bool = False,
    ) -> int:
        """See ``CatalogueStore``."""
        if not changes:
            return self.version()
        for _ in range(self.ATTEMPTS):
            managed = self.read()
            version = managed.version + 1
            writes = decide(managed, changes, known or {}, cascade)
            told = {"version": version, "at": datetime.now(UTC).isoformat(), "by": by, "request_id": request_id}
            if self._write(managed.version, version, [part for w in writes for part in _parts(w, version, told)]):
                return version
        raise CatalogueStoreError("valkey: the catalogue changed at every attempt; try again")

    def audit(self, limit: int = 100, before: int | None = None) -> list[dict[str, Any]]:
        """See ``CatalogueStore``."""
        with self._told():
            total = int(self._client.llen(self.KEYS[3]))
            end = total if before is None else max(0, min(total, before - 1))
            first = max(0, end - limit)
            lines: Any = self._client.lrange(self.KEYS[3], first, end - 1) if first < end else []
        return [{"seq": first + place + 1} | json.loads(line) for place, line in enumerate(lines)][::-1]

    def close(self) -> None:
        """See ``CatalogueStore``."""
        self._client.close()

    def _write(self, before: int, after: int, parts: list[str]) -> bool:
        """Whether the catalogue still stood where it did, and was changed; only then is the disk waited for."""
        with self._told():
            with self._client.pipeline(transaction=False) as pipeline:
                self._write_script(keys=self.KEYS, args=[before, after, *parts], client=pipeline)
                # In the same breath: it waits for what this connection wrote.
                pipeline.waitaof(1, 0, int(SECONDS * 800))
                is_done, synced = pipeline.execute(raise_on_error=False)
            if isinstance(is_done, Exception):
                raise is_done
            if is_done and isinstance(synced, Exception):
                self._check_unsynced(synced)
            elif is_done and not synced[0]:
                raise CatalogueStoreError(f"valkey: version {after} is in force but not on its disk yet; send it again")
        return bool(is_done)

    def _check_unsynced(self, error: Exception) -> None:
        """Without an append-only file there is no disk to wait for, which is the operator's choice."""
        if not (isinstance(error, self._refusal) and "appendonly is disabled" in str(error)):
            raise error

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (self._errors, OSError) as error:
            raise CatalogueStoreError(f"valkey: {error}") from error


def _parts(write: Write, version: int, told: dict[str, Any]) -> tuple[str, str, str]:
    """The row's name, the row and the audit's line, as text."""
    stored = write.stored(version)
    body = None if stored.record is None else stored.record.model_dump_json()
    row = [stored.kind, stored.id, stored.version, body, stored.is_deleted]
    before, after = (record and record.model_dump(mode="json") for record in (write.before, write.after))
    line = told | {"kind": write.kind, "id": write.id, "before": before, "after": after}
    return f"{write.kind}:{write.id}", json.dumps(row), json.dumps(line)


def _stored(row: bytes) -> Stored:
    return restored(*json.loads(row))
