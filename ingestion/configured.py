"""The source that the settings name: the simulator, the managed catalogue, or one of the file sources."""

from __future__ import annotations

from typing import Final

from ingestion.batch import Source
from ingestion.simulator import Simulator
from ingestion.sources import SOURCES, open_source
from ingestion.sources.catalogue import CatalogueSource
from marquee.errors import SourceError
from marquee.settings import Settings

CATALOGUE: Final = "catalogue"
"""Source of what marketers manage; it needs no path."""


def source_names() -> list[str]:
    """Every name that ``--source`` takes."""
    return [Simulator.name, CATALOGUE, *SOURCES]


def configured_source(settings: Settings) -> Source:
    """Open ``settings.source`` on ``settings.source_path``.

    Raises:
        SourceError: an unknown name, or a file source without a path.
    """
    if settings.source == Simulator.name:
        return Simulator(settings.seed, settings.events, difficulty=settings.difficulty)
    if settings.source == CATALOGUE:
        return CatalogueSource(settings)
    if settings.source in SOURCES and settings.source_path is None:
        raise SourceError(f"source {settings.source} needs a path: give --path, or set MARQUEE_SOURCE_PATH")
    if settings.source not in SOURCES:
        raise SourceError(f"unknown source {settings.source!r}; known ones: {', '.join(source_names())}")
    assert settings.source_path is not None
    return open_source(settings.source, settings.source_path)
