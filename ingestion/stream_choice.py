"""Where the service's events go: a file of this machine, or a stream in Valkey that several machines share."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, Protocol

from ingestion.event_stream import EventStream
from ingestion.valkey_stream import ValkeyStream
from marquee.settings import Settings


class Stream(Protocol):
    """What acknowledges events one by one; see ``EventStream``."""

    def append(self, events: list[dict[str, Any]]) -> None:
        """Store events; returns once they are durable, or raises a ``MarqueeError``."""

    def append_soon(self, lines: list[bytes]) -> Future[None]:
        """Store lines, each one event and its newline; done once they are durable. It never waits."""

    @property
    def error(self) -> str | None:
        """Why events are not stored now; ``None`` when they are, as far as is known."""

    def close(self) -> None:
        """Wait for the appends under way, then release what is held."""


def open_event_stream(settings: Settings, writer: str) -> Stream:
    """The stream that ``event_log`` names; ``writer`` is a name that no other process of this machine has.

    Raises:
        MarqueeError: the name is taken (files), or the server is not there or keeps nothing (Valkey).
    """
    if settings.event_log == "files":
        return EventStream(settings.log / "stream", writer)
    return ValkeyStream(settings, writer)
