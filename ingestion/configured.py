"""The source that the settings name: the simulator, or one of the file sources."""

from __future__ import annotations

from ingestion.batch import Source
from ingestion.simulator import Simulator
from ingestion.sources import SOURCES, open_source
from marquee.errors import SourceError
from marquee.settings import Settings


def source_names() -> list[str]:
    """Every name that ``--source`` takes."""
    return [Simulator.name, *SOURCES]


def configured_source(settings: Settings) -> Source:
    """Open ``settings.source`` on ``settings.source_path``.

    Raises:
        SourceError: an unknown name, or a file source without a path.
    """
    if settings.source == Simulator.name:
        return Simulator(settings.seed, settings.events, difficulty=settings.difficulty)
    if settings.source in SOURCES and settings.source_path is None:
        raise SourceError(f"source {settings.source} needs a path: give --path, or set MARQUEE_SOURCE_PATH")
    if settings.source not in SOURCES:
        raise SourceError(f"unknown source {settings.source!r}; known ones: {', '.join(source_names())}")
    assert settings.source_path is not None
    return open_source(settings.source, settings.source_path)
