"""Sessions in Valkey or Redis, for services on many machines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

from features.patience import REQUEST_SECONDS, Pause
from features.session import absorb, current_session, encode
from features.session_states import RETENTION_HOURS, Events, SessionStoreError, parts, stored_state
from marquee.errors import SettingsError
from marquee.settings import Settings

COMPARE_AND_SET: Final = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1
"""
FEED_SECONDS: Final = 2.0
"""How long the feed waits, which holds nobody up."""


class ValkeySessions:
    """See ``SessionStore``. One key a visitor; a write counts only if nobody wrote in between."""

    PREFIX: Final = "marquee:session:"
    STREAMS: Final = "marquee:stream:"
    ATTEMPTS: Final = 50

    def __init__(self, settings: Settings) -> None:
        import redis

        if settings.valkey_url is None:
            raise SettingsError("setting valkey_url is missing, which online_store = valkey needs")
        url = settings.valkey_url.get_secret_value()
        try:
            self._client, self._hasty = _client(url, FEED_SECONDS, 1), _client(url, REQUEST_SECONDS, 0)
        except ValueError:
            raise SettingsError("setting valkey_url: expected redis://host:port/number") from None
        self._errors = redis.RedisError
        self._pause = Pause()
        self._script = self._client.register_script(COMPARE_AND_SET)

    def update(self, events: Events) -> None:
        """See ``SessionStore``."""
        with self._told():
            for visitor_ids in parts(events):
                left = visitor_ids
                for _ in range(self.ATTEMPTS):
                    if not (left := self._try(left, events)):
                        break
                else:
                    raise SessionStoreError(f"valkey: {len(left)} visitors changed at every attempt")

    def read(self, visitor_id: str, now: datetime) -> dict[str, Any] | None:
        """See ``SessionStore``."""
        with self._told(), self._pause.after(self._errors, OSError):
            stored = self._hasty.get(self.PREFIX + visitor_id)
        return current_session(stored_state(stored), visitor_id, now)

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
            return bool(self._script(keys=[self.STREAMS + stream], args=[known, after, RETENTION_HOURS * 3600]))

    def close(self) -> None:
        """See ``SessionStore``."""
        self._client.close()
        self._hasty.close()

    def _try(self, visitor_ids: list[str], events: Events) -> list[str]:
        """Write these visitors' new states; those whose state somebody else changed meanwhile."""
        stored = self._client.mget([self.PREFIX + visitor_id for visitor_id in visitor_ids])
        with self._client.pipeline(transaction=False) as pipeline:
            for visitor_id, before in zip(visitor_ids, stored, strict=True):
                after = encode(absorb(stored_state(before), events[visitor_id]))
                values = [before or b"", after.encode(), RETENTION_HOURS * 3600]
                self._script(keys=[self.PREFIX + visitor_id], args=values, client=pipeline)
            done = pipeline.execute()
        return [visitor_id for visitor_id, is_done in zip(visitor_ids, done, strict=True) if not is_done]

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (self._errors, OSError) as error:
            raise SessionStoreError(f"valkey: {error}") from error


def _client(url: str, seconds: float, retries: int) -> Any:
    """A client with little patience: redis-py's own is many seconds."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    retry = Retry(NoBackoff(), retries)
    return redis.Redis.from_url(url, socket_timeout=seconds, socket_connect_timeout=seconds, retry=retry)
