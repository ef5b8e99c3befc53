"""Options that verbs share, and the settings that come of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from marquee.settings import Settings, load_settings, quiet_environment

Home = Annotated[Path | None, typer.Option("--home", help="Folder with all state of the installation.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def command_settings(home: Path | None, after: str | None = None, **overrides: Any) -> Settings:
    """The settings of one command; ``after`` is the step that must have left it something to work on."""
    settings = load_settings(home, **overrides)
    os.environ.update(quiet_environment(settings))
    if after:
        from marquee.overview import require

        require(settings, after)
    return settings
