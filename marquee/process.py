"""The processes that Marquee starts: Airflow's command line and the scoring service, each a child that it also ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType

from pydantic import SecretStr

from marquee.errors import MarqueeError
from marquee.settings import Settings, quiet_environment

READY_SECONDS = 90.0
STOP_SECONDS = 20.0
DRAIN_SECONDS = 15
"""How long a worker that is told to end may finish the requests that it is at."""


def environment(settings: Settings) -> dict[str, str]:
    """This process's environment with the installation's own settings and every tool's telemetry off."""
    # Without compiled bytecode TensorFlow and Airflow take three to five times longer to import.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    if settings.lineage:  # Airflow writes its events there and makes no folder
        settings.lineage_folder.mkdir(parents=True, exist_ok=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{inherited.get('PATH', '')}"
    return inherited | quiet_environment(settings) | service_environment(settings) | {"PATH": path}


def service_environment(settings: Settings) -> dict[str, str]:
    """What children need to know beyond the home: whatever an option or a caller chose, secrets apart.

    A secret stands in the environment or in ``marquee.toml``, where a child finds it as we did.
    """
    chosen = {"MARQUEE_SERVICE_HOST": settings.service_host, "MARQUEE_SERVICE_PORT": str(settings.service_port)}
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if name != "home" and value not in (field.default, None) and not isinstance(value, SecretStr):
            chosen[f"MARQUEE_{name.upper()}"] = value.isoformat() if isinstance(value, datetime) else str(value)
    if settings.traces_url:
        chosen["OTEL_SDK_DISABLED"] = "false"
    return chosen


def airflow(settings: Settings, arguments: list[str]) -> int:
    """Run Airflow's command line in the foreground; its exit code. The metadata database is made when missing."""
    executable = str(Path(sys.executable).with_name("airflow"))
    has_own_database = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN" in os.environ
    if not has_own_database and not (settings.home / "airflow" / "airflow.db").exists():
        migrate(settings)
    return subprocess.run([executable, *arguments], env=environment(settings), check=False).returncode


def migrate(settings: Settings) -> None:
    """Make or upgrade Airflow's metadata database.

    Raises:
        MarqueeError: Airflow could not; its last line is in the message.
    """
    command = [str(Path(sys.executable).with_name("airflow")), "db", "migrate"]
    done = subprocess.run(command, env=environment(settings), capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise MarqueeError(f"airflow db migrate failed: {' '.join(last)}")


def serve(settings: Settings) -> int:
    """Run the service in the foreground until Ctrl-C or SIGTERM, then let it finish what it is at; its exit code."""
    child = _start_service(settings, None)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return child.wait()
    except KeyboardInterrupt:
        _stop(child)
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def running_service(settings: Settings, log: Path) -> Iterator[str]:
    """The service in the background, ready; yields its address and stops it afterwards.

    Raises:
        MarqueeError: it ended, or was not ready in time; the message names its log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    child = _start_service(settings, log)
    address = f"http://{settings.service_host}:{settings.service_port}"
    try:
        _wait_until_ready(child, address, log)
        yield address
    finally:
        _stop(child)


def free_port(host: str, wanted: int) -> int:
    """The wanted port, or another free one when something already listens there."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise MarqueeError(f"no free port on {host}")


def _start_service(settings: Settings, log: Path | None) -> subprocess.Popen[bytes]:
    host, port = settings.service_host, settings.service_port
    if free_port(host, port) != port:  # else the other's answers would be taken for this one's
        raise MarqueeError(f"port {port} on {host} is taken; choose another with --port or MARQUEE_SERVICE_PORT")
    command = [str(Path(sys.executable).with_name("bentoml")), "serve", "serving.service:BannerService"]
    command += ["--host", host, "--port", str(port)]
    command += ["--timeout-graceful-shutdown", str(DRAIN_SECONDS)]
    output = log.open("wb") if log else None
    try:
        return subprocess.Popen(
            command,
            env=environment(settings),
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            start_new_session=log is not None,
            # A shell that starts jobs in the background makes them ignore SIGINT, which is how we stop it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
        )
    finally:
        if output:
            output.close()


def _wait_until_ready(child: subprocess.Popen[bytes], address: str, log: Path) -> None:
    limit = time.monotonic() + READY_SECONDS
    while time.monotonic() < limit:
        written = log.read_text(encoding="utf-8", errors="replace")
        if child.poll() is not None:
            raise MarqueeError(f"the service ended at once: {' '.join(written.strip().splitlines()[-1:])} (log: {log})")
        if "Application startup failed" in written:  # BentoML would start the worker again for ever
            reasons = re.findall(r"^[\w.]+(?:Error|Busy): (.*)$", written, re.MULTILINE)
            raise MarqueeError(f"the service cannot start: {' '.join(reasons[-1:])} (log: {log})")
        try:
            with urllib.request.urlopen(f"{address}/readyz", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise MarqueeError(f"the service was not ready after {READY_SECONDS:.0f} s; see {log}")


def _stop(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.send_signal(signal.SIGINT)
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
