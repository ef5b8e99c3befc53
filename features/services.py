"""What each bundle reads, kept as one small file a bundle: Feast's registry can be made from them at any time.

A bundle's service stays as long as the installation, so that a rollback finds it.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from features.freshness import TTL
from marquee.errors import MarqueeError
from marquee.settings import Settings

PREFIX: Final = "ranker_"


def service_name(version: str) -> str:
    """The feature service of the bundle with this version."""
    return f"{PREFIX}{version}"


def register_service(settings: Settings, name: str, reads: dict[str, list[str]]) -> None:
    """Keep what a service reads: fields by view. Registering it again changes nothing.

    Raises:
        MarqueeError: it names a view that does not exist.
    """
    for view in reads:
        if view not in TTL:
            raise MarqueeError(f"feature service {name} reads {view}, which is no feature view; there are {list(TTL)}")
    path = settings.features / "services" / f"{name}.json"
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(reads, indent=1, sort_keys=True), encoding="utf-8")
    partial.replace(path)


def registered_services(settings: Settings) -> dict[str, dict[str, list[str]]]:
    """What each registered service reads, by its name."""
    files = sorted((settings.features / "services").glob("*.json"))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}


@contextmanager
def locked(settings: Settings, name: str) -> Iterator[None]:
    """Only one process at a time is inside the block of this name; others wait."""
    settings.features.mkdir(parents=True, exist_ok=True)
    with (settings.features / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
