"""How often each key may ask."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import Final

import limits
from limits import RateLimitItem
from limits.aio.storage import RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter as SharedLimiter
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from marquee.settings import Settings
from serving.http.problems import Problem

LOG: Final = logging.getLogger("bentoml.marquee")
SHARED_SECONDS: Final = 0.05
PAUSE_SECONDS: Final = 5.0


class RateLimits:
    """Counts requests by key: all workers together in Valkey where there is one, else each its share of the limit.

    Args:
        patience: seconds that the shared count may take; a store that is slower is left out for ``PAUSE_SECONDS``.
    """

    def __init__(self, settings: Settings, patience: float = SHARED_SECONDS) -> None:
        self._patience = patience
        rate = settings.rate_limit
        self._whole: RateLimitItem | None = limits.parse(rate) if rate else None
        self._local = FixedWindowRateLimiter(MemoryStorage())
        self._shared: SharedLimiter | None = None
        self._shared_from = 0.0
        if self._whole is None:
            return
        share = max(1, self._whole.amount // settings.service_workers)
        self._share = type(self._whole)(share, self._whole.multiples)
        if settings.online_store == "valkey" and settings.valkey_url:
            url = settings.valkey_url.get_secret_value().replace("valkey://", "redis://", 1)
            storage = RedisStorage(f"async+{url}", implementation="redispy", key_prefix="marquee-limits")
            self._shared = SharedLimiter(storage)

    async def take(self, name: str) -> None:
        """Count one request.

        Raises:
            Problem: 429, with the seconds to wait.
        """
        if self._whole is None:
            return
        refused_until = await self._refused_until(name, self._whole)
        if refused_until is not None:
            seconds = max(1, math.ceil(refused_until - time.time()))
            told = f"more than {self._whole}; ask again in {seconds} s"
            raise Problem(429, told, headers={"Retry-After": str(seconds)})

    async def _refused_until(self, name: str, whole: RateLimitItem) -> float | None:
        if self._shared and time.monotonic() >= self._shared_from:
            try:
                async with asyncio.timeout(self._patience):
                    if await self._shared.hit(whole, name):
                        return None
                    return (await self._shared.get_window_stats(whole, name)).reset_time
            except Exception as error:  # whatever it is, a store that is down must not stop the service
                self._shared_from = time.monotonic() + PAUSE_SECONDS
                LOG.warning("rates are counted in each process for now: %s", str(error) or type(error).__name__)
        if self._local.hit(self._share, name):
            return None
        return self._local.get_window_stats(self._share, name).reset_time
