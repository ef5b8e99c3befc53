"""Valkey or Redis as the settings name it: one way in for all that is kept there."""

from __future__ import annotations

from typing import Any

from marquee.errors import SettingsError
from marquee.settings import Settings


def connect(settings: Settings, needed_by: str, seconds: float, retries: int = 0, **options: Any) -> Any:
    """A client of little patience; redis-py's own is many seconds. It connects when it is first asked.

    Args:
        needed_by: the setting that makes an address necessary, for the message.
        seconds: until an answer, or a connection, is given up.
        retries: at once, over a connection that was lost.
        options: more of redis-py's, which win.

    Raises:
        SettingsError: ``valkey_url`` is missing or no address.
    """
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    if settings.valkey_url is None:
        raise SettingsError(f"setting valkey_url is missing, which {needed_by} needs")
    limits: dict[str, Any] = {"socket_timeout": seconds, "socket_connect_timeout": seconds}
    limits["retry"] = Retry(NoBackoff(), retries)
    try:
        return redis.Redis.from_url(settings.valkey_url.get_secret_value(), **limits | options)
    except ValueError:
        raise SettingsError("setting valkey_url: expected redis://host:port/number") from None
