"""Services as processes that the bench starts, watches and ends, and loads on them; only by the ids of its children."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

import psutil

from marquee.process import environment, free_port
from marquee.settings import PREFIX, ROOT, Settings, load_settings, quiet_environment

HOST: Final = "127.0.0.1"
READY_SECONDS: Final = 90.0
STOP_SECONDS: Final = 20.0
PRODUCT: Final = "serving.service:BannerService"
FLOOR: Final = "benchmarks.floor_service:BannerService"
API: Final = "benchmarks.api_service:NothingService"
NAIVE: Final = "benchmarks.naive_service:app"
BIN: Final = Path(sys.executable).parent


@dataclass(frozen=True, slots=True)
class Service:
    """A running service: where it listens, the process that was started and the file that it writes to."""

    address: str
    child: subprocess.Popen[bytes]
    log: Path

    def workers(self) -> list[psutil.Process]:
        """The processes that answer requests, without the one that starts them again."""
        with suppress(psutil.NoSuchProcess):
            below = psutil.Process(self.child.pid).children(recursive=True)
            return [one for one in below if _answers(one)]
        return []

    def is_ready(self) -> bool:
        """Whether it says that it answers."""
        try:
            with urllib.request.urlopen(f"{self.address}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (HTTPException, OSError):
            return False

    def ask(self, path: str, body: object) -> tuple[int, Any]:
        """Status and JSON of one request; 0 and None when there is no answer."""
        request = urllib.request.Request(
            self.address + path, json.dumps(body).encode(), {"content-type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return int(answer.status), json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, None
        except (HTTPException, OSError):
            return 0, None


def bench_settings(home: Path, workers: int, **other: Any) -> Settings:
    """Settings of an installation of the bench and of no other; this process's environment is set for its tools."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]
    settings = load_settings(home, service_host=HOST, service_workers=workers, quiet=True, lineage=False, **other)
    os.environ.update(quiet_environment(settings))
    return settings


@contextmanager
def service(settings: Settings, target: str = PRODUCT, **variables: str) -> Iterator[Service]:
    """A service on a free port of this machine, ready; ended afterwards with all its children.

    Args:
        target: what answers: ``PRODUCT``, ``FLOOR``, ``API`` or ``NAIVE``.
        variables: more of its environment.

    Raises:
        RuntimeError: it ended or was not ready in time; the message holds its last lines.
    """
    settings = settings.model_copy(update={"service_port": free_port(HOST, 0)})
    log = settings.home / f"{target.split(':')[0]}.log"
    with log.open("ab") as output:
        child = subprocess.Popen(
            _command(settings, target),
            env=environment(settings) | _address(settings) | variables,
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    started = Service(f"http://{HOST}:{settings.service_port}", child, log)
    try:
        _wait(started)
        yield started
    finally:
        _end(child)


def run_load(address: str, bodies: Path, **options: Any) -> dict[str, Any]:
    """The figures of one load (``benchmarks.load``), which runs to its end; options are its arguments."""
    return finished(started_load(address, bodies, **options))


def started_load(address: str, bodies: Path, **options: Any) -> subprocess.Popen[bytes]:
    """A load that has begun."""
    words = [sys.executable, "-m", "benchmarks.load", "--url", address, "--bodies", str(bodies)]
    for name, value in options.items():
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE)


def finished(load: subprocess.Popen[bytes]) -> dict[str, Any]:
    """A load's figures once it is over.

    Raises:
        RuntimeError: it failed.
    """
    told, _ = load.communicate(timeout=3_600)
    if load.returncode:
        raise RuntimeError(f"the load failed with {load.returncode}")
    figures: dict[str, Any] = json.loads(told)
    return figures


def answers(file: Path) -> Iterator[tuple[float, int, int, str]]:
    """What a load wrote of its answers: moment (Unix seconds), the body's number, status and the answer's body."""
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            at, number, status, body = line.rstrip("\n").split(" ", 3)
            yield float(at), int(number), int(status), body


def _command(settings: Settings, target: str) -> list[str]:
    place = ["--host", HOST, "--port", str(settings.service_port)]
    if target == NAIVE:
        workers = str(settings.service_workers)
        return [str(BIN / "uvicorn"), target, *place, "--workers", workers, "--log-level", "warning"]
    if target == PRODUCT:
        return [str(BIN / "marquee"), "serve", "--home", str(settings.home), "--port", str(settings.service_port)]
    return [str(BIN / "bentoml"), "serve", target, *place]


def _address(settings: Settings) -> dict[str, str]:
    """Valkey's, which is a secret and stands in no file here."""
    return {"MARQUEE_VALKEY_URL": settings.valkey_url.get_secret_value()} if settings.valkey_url else {}


def _answers(process: psutil.Process) -> bool:
    try:
        words = " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False
    return "_bentoml_impl.worker.service" in words or "multiprocessing.spawn" in words


def _wait(started: Service) -> None:
    limit = time.monotonic() + READY_SECONDS
    while time.monotonic() < limit:
        if started.child.poll() is not None:
            break
        if started.is_ready():
            return
        time.sleep(0.2)
    last = started.log.read_text(encoding="utf-8", errors="replace")[-2_000:]
    raise RuntimeError(f"the service at {started.address} was not ready: {last}")


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a service by what it is ended with in a terminal, and whatever of its children is still there."""
    below: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        below = psutil.Process(child.pid).children(recursive=True)
    if child.poll() is None:
        child.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            child.wait(STOP_SECONDS)
    for process in below:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    if child.poll() is None:
        child.kill()
    child.wait()
