"""Where the service's events go: a file of this machine, or a stream in Valkey that several machines share."""

from __future__ import annotations

from ingestion.event_stream import EventStream
from ingestion.group_commit import GroupCommit
from ingestion.valkey_stream import ValkeyStream
from marquee.settings import Settings


def open_event_stream(settings: Settings, writer: str) -> GroupCommit:
    """The stream that ``event_log`` names; ``writer`` is a name that no other process of this machine has.

    Raises:
        MarqueeError: the name is taken (files), or the server is not there or keeps nothing (Valkey).
    """
    if settings.event_log == "files":
        return EventStream(settings.log / "stream", writer)
    return ValkeyStream(settings, writer)
