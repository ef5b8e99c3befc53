"""What a person sees: progress on stderr, results on stdout as lines or as one JSON object."""

from __future__ import annotations

import io
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from marquee.warehouse import lock_holder

Advance = Callable[[int], None]


def show(result: dict[str, Any], lines: list[str], as_json: bool) -> None:
    """Print the result: the lines for a person, or one JSON object for a program."""
    text = json.dumps(result, default=str) if as_json else "\n".join(lines)
    sys.stdout.write(text + "\n")


def fail(message: str) -> None:
    """Print one line on stderr that says what went wrong."""
    sys.stderr.write(f"error: {message}\n")


def plain_reason(error: Exception) -> str:
    """What a person can mend of an error that is not ours: a path, a full disk, a locked warehouse; else empty."""
    if str(error) == "Query interrupted":  # DuckDB's own word for Ctrl-C
        return "interrupted; nothing is half-loaded, run the same command again"
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    if holder := lock_holder(error):
        return f"the warehouse is in use by {holder}; wait for it to end, then try again"
    return ""


@contextmanager
def progress(title: str, total: int | None = None, quiet: bool = False) -> Iterator[Advance]:
    """A bar on stderr while the block runs; the yielded function takes how much more is done.

    What tools print meanwhile is dropped: stdout is for the result, which may be JSON, and their warnings of each
    other's deprecations help no user.
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    bar = Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True)
    with redirect_stdout(io.StringIO()), warnings.catch_warnings(record=True), bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)


def table(title: str, columns: list[str], rows: list[list[object]]) -> str:
    """A text table, as wide as its content needs."""
    drawn = Table(*columns, show_edge=False, pad_edge=False)
    for row in rows:
        drawn.add_row(*(str(cell) for cell in row))
    console = Console(width=160, no_color=True, highlight=False)
    with console.capture() as capture:
        console.print(drawn)
    lines = [line.rstrip() for line in capture.get().rstrip().splitlines()]
    return "\n".join([title, *lines] if title else lines)
