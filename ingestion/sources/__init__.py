"""The data sets and export formats that Marquee reads, one file each, by the name used on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol

from ingestion.batch import Source
from ingestion.sources.completejourney import CompleteJourney
from ingestion.sources.ga4 import GA4
from ingestion.sources.globo import Globo
from ingestion.sources.marquee_files import MarqueeFiles
from ingestion.sources.online_retail import OnlineRetail
from ingestion.sources.retailrocket import RetailRocket
from ingestion.sources.tmall import Tmall
from marquee.errors import SourceError


class FileSource(Source, Protocol):
    """A source that reads a path."""

    about: str

    def __init__(self, path: Path) -> None: ...


SOURCES: Final[dict[str, type[FileSource]]] = {
    source.name: source for source in (CompleteJourney, RetailRocket, Tmall, Globo, OnlineRetail, GA4, MarqueeFiles)
}


def open_source(name: str, path: Path) -> Source:
    """The source called ``name`` over ``path``; nothing is read yet.

    Raises:
        SourceError: there is no such source.
    """
    if name not in SOURCES:
        raise SourceError(f"unknown source {name!r}; known ones: {', '.join(sorted(SOURCES))}")
    return SOURCES[name](path)
