"""Parts of a bench that run one after another: what each found, and which failed."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import say

Part = Callable[[Path], dict[str, Any]]
"""Given a folder of its own, the figures as plain JSON values."""


def run_parts(parts: Mapping[str, Part], only: str, about: dict[str, Any]) -> int:
    """Run the parts asked for and print their figures as one JSON object, with ``failures``; 1 when one failed.

    Args:
        only: names, separated by commas.
        about: what stands before the figures.
    """
    result, failures = dict(about), {}
    with tempfile.TemporaryDirectory(prefix="marquee-bench-") as folder:
        for name in only.split(","):
            work = Path(folder) / name
            work.mkdir()
            since = time.perf_counter()
            say(f"{name} …")
            try:
                found = parts[name](work)
            except Exception as error:  # the other parts' figures are worth having all the same
                failures[name] = f"{type(error).__name__}: {error}"
                say(f"{name} failed: {failures[name]}")
                continue
            say(f"{name}, {time.perf_counter() - since:.0f} s: {json.dumps(found)}")
            result |= found
    sys.stdout.write(json.dumps(result | {"failures": failures}) + "\n")
    return 1 if failures else 0


def require_parts(parser: argparse.ArgumentParser, only: str, parts: Sequence[str]) -> None:
    """End with a usage error that names an unknown part."""
    if unknown := [name for name in only.split(",") if name not in parts]:
        parser.error(f"unknown part {unknown[0]!r}; there are {', '.join(parts)}")
