"""Sessions in Valkey or Redis, for services on many machines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

from features.patience import REQUEST_SECONDS, Pause
from features.session import VisitorState, current_session, encode
from features.session_states import RETENTION_HOURS, Events, SessionStoreError, Tally, state_of
from marquee.settings import Settings
from marquee.valkey import connect

APPEND: Final = """
for i, key in ipairs(KEYS) do
    redis.call('RPUSH', key, ARGV[i + 1])
    redis.call('EXPIRE', key, ARGV[1])
end
"""
FOLD: Final = """
local parts = redis.call('LRANGE', KEYS[1], 0, #ARGV - 3)
if #parts ~= #ARGV - 2 then return 0 end
for i, part in ipairs(parts) do
    if part ~= ARGV[i + 2] then return 0 end
end
redis.call('LTRIM', KEYS[1], #parts, -1)
redis.call('LPUSH', KEYS[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1
"""
COMPARE_AND_SET: Final = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1
"""
RETENTION_SECONDS: Final = RETENTION_HOURS * 3600
KEYS_AT_ONCE: Final = 1_000
FEED_SECONDS: Final = 2.0
"""How long the feed waits, which holds nobody up."""


class ValkeySessions:
    """See ``SessionStore``. A list of parts for each visitor; folding replaces those that still stand there."""

    PREFIX: Final = "marquee:visitor:"
    STREAMS: Final = "marquee:stream:"

    def __init__(self, settings: Settings) -> None:
        import redis

        self._client = connect(settings, "online_store = valkey", FEED_SECONDS, retries=1)
        self._hasty = connect(settings, "online_store = valkey", REQUEST_SECONDS)
        self._errors = redis.RedisError
        self._pause = Pause()
        self._append, self._replace, self._move = map(self._client.register_script, (APPEND, FOLD, COMPARE_AND_SET))
        self._tally = Tally()

    def update(self, events: Events) -> None:
        """See ``SessionStore``."""
        parts = {self.PREFIX + name: encode(VisitorState(tuple(some))) for name, some in events.items() if some}
        keys = list(parts)
        with self._told():
            for start in range(0, len(keys), KEYS_AT_ONCE):
                some = keys[start : start + KEYS_AT_ONCE]
                self._append(keys=some, args=[RETENTION_SECONDS, *(parts[key] for key in some)])
            for visitor_id in self._tally.due(events):
                self._fold(self.PREFIX + visitor_id)

    def read(self, visitor_id: str, now: datetime) -> dict[str, Any] | None:
        """See ``SessionStore``."""
        with self._told(), self._pause.after(self._errors, OSError):
            parts = self._hasty.lrange(self.PREFIX + visitor_id, 0, -1)
        return current_session(state_of(parts), visitor_id, now) if parts else None

    def visitors(self, prefix: str = "") -> list[str]:
        """See ``SessionStore``."""
        pattern = "".join(f"\\{sign}" if sign in "*?[]\\^" else sign for sign in self.PREFIX + prefix) + "*"
        with self._told():
            keys = set(self._client.scan_iter(match=pattern, count=1000))
        return sorted(key.decode().removeprefix(self.PREFIX) for key in keys)

    def position(self, stream: str) -> int | None:
        """See ``SessionStore``."""
        with self._told():
            found = self._client.get(self.STREAMS + stream)
        if found is not None and not found.isdigit():
            raise SessionStoreError(f"valkey: {self.STREAMS + stream} holds no position; delete that key")
        return None if found is None else int(found)

    def advance(self, stream: str, before: int | None, after: int) -> bool:
        """See ``SessionStore``."""
        known = "" if before is None else str(before)
        with self._told():
            return bool(self._move(keys=[self.STREAMS + stream], args=[known, after, RETENTION_SECONDS]))

    def close(self) -> None:
        """See ``SessionStore``."""
        self._client.close()
        self._hasty.close()

    def _fold(self, key: str) -> None:
        """Make one part of all that a visitor has, unless somebody else does so or forgets them meanwhile."""
        if parts := self._client.lrange(key, 0, -1):
            self._replace(keys=[key], args=[RETENTION_SECONDS, encode(state_of(parts)), *parts])

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (self._errors, OSError) as error:
            raise SessionStoreError(f"valkey: {error}") from error
