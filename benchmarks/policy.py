"""What the policy earns and what the gate refuses: ``make bench-policy DATA=DIR``; the last line is one JSON object.

Progress on stderr. ``DIR`` holds the public data sets (``completejourney/``). Difficulty, size and seed of the
simulated shops are arguments: ``BENCH="--worlds usual --seed 3 --requests 200000"``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

# XGBoost's threads else spin while they wait, which takes several times as long where the cores are shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmarks.bad_bundles import bad_bundles, build_installation
from benchmarks.campaigns import campaigns
from benchmarks.coverage import coverage
from benchmarks.learning import WORLDS, change, worlds
from benchmarks.measure import say
from benchmarks.position_bias import position_bias
from benchmarks.rollback import rollback_seconds

PARTS: Final = ("learning", "change", "coverage", "position", "journey", "gate")
GATE_EVENTS: Final = 60_000


def main() -> None:
    """Run the parts asked for and print what they found."""
    asked = _arguments()
    result: dict[str, Any] = {"cpus": os.cpu_count(), "seed": asked.seed, "requests": asked.requests}
    with tempfile.TemporaryDirectory(prefix="marquee-bench-") as folder:
        work = Path(folder)
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "learning": lambda: worlds(asked.seed, asked.requests, tuple(asked.worlds.split(","))),
            "change": lambda: change(asked.seed, asked.requests),
            "coverage": lambda: coverage(asked.seed),
            "position": position_bias,
            "journey": lambda: campaigns(Path(asked.data).absolute() / "completejourney", work / "journey"),
            "gate": lambda: _gate(work / "gate", asked.seed),
        }
        for name in asked.parts.split(","):
            since = time.perf_counter()
            say(f"{name} …")
            found = parts[name]()
            say(f"{name}, {time.perf_counter() - since:.0f} s: {json.dumps(found)}")
            result |= found
    sys.stdout.write(json.dumps(result) + "\n")


def _gate(home: Path, seed: int) -> dict[str, Any]:
    build_installation(home, GATE_EVENTS, seed)
    return bad_bundles(home, seed) | rollback_seconds(home)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-policy", description=__doc__)
    parser.add_argument("--data", help="folder with the public data sets")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--requests", type=int, default=200_000, help="of each simulated run")
    parser.add_argument("--worlds", default=",".join(WORLDS), help="difficulties of the simulated shop")
    parser.add_argument("--parts", default=",".join(PARTS))
    asked = parser.parse_args()
    if unknown := [name for name in asked.parts.split(",") if name not in PARTS]:
        parser.error(f"unknown part {unknown[0]!r}; there are {', '.join(PARTS)}")
    if unknown := [name for name in asked.worlds.split(",") if name not in WORLDS]:
        parser.error(f"unknown world {unknown[0]!r}; there are {', '.join(WORLDS)}")
    if "journey" in asked.parts.split(",") and not asked.data:
        parser.error("the part journey needs --data DIR (make bench-policy DATA=DIR), or leave it out by --parts")
    return asked


if __name__ == "__main__":
    main()
