"""Options that verbs share, and the settings that come of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from marquee.errors import MarqueeError
from marquee.settings import Settings, load_settings, quiet_environment

Home = Annotated[Path | None, typer.Option("--home", help="Folder with all state of the installation.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def command_settings(home: Path | None, after: str | None = None, existing: bool = False, **overrides: Any) -> Settings:
    """The settings of one command.

    Args:
        home: the folder given with ``--home``.
        after: the step that must have left this command something to work on; asks for an installation too.
        existing: whether the command works on an installation and begins none, so that a mistyped home is an error.
        overrides: settings given as options.

    Raises:
        MarqueeError: there is no installation at ``home``, and the command begins none.
        NothingToDo: the step has not run; the message names the earliest one to run.
    """
    settings = load_settings(home, **overrides)
    os.environ.update(quiet_environment(settings))
    if after or existing:
        from marquee.traces import require_installation

        require_installation(settings)
    if after:
        from marquee.overview import require

        require(settings, after)
    return settings


def given_reason(text: str, option: str = "--reason") -> str:
    """A reason that somebody gave, without space around it.

    Raises:
        MarqueeError: it says nothing.
    """
    if not text.strip():
        raise MarqueeError(f"{option} is empty; say why, for it is kept")
    return text.strip()
