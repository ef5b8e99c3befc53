"""What the service does at most and at worst: ``make bench-serving``; the last line is one JSON object of all figures.

Parts, each on an installation made by hand for it (``serving_installation``), all on this machine alone:
``speed``, ``growth`` and ``events`` against a route that does nothing and a naive service; ``kills``, ``store``,
``disk`` and ``clock`` break something under load; ``soak`` waits for growth; ``fuzz`` sends what nobody should.
Progress on stderr. A part that fails ends in ``failures``, and the run in 1.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Final

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmarks.parts import Part, require_parts, run_parts

PARTS: Final = ("speed", "growth", "events", "kills", "store", "disk", "clock", "soak", "fuzz")
SECONDS, SOAK_SECONDS, ROUNDS = 5.0, 600.0, 5


def main() -> int:
    """Run the parts asked for and print what they found; 1 when one failed."""
    asked = _arguments()
    return run_parts(_parts(asked), asked.only, {"cpus": os.cpu_count(), "workers": asked.workers})


def _parts(asked: argparse.Namespace) -> dict[str, Part]:
    # Here and not above: --help should not load Feast and Schemathesis.
    from benchmarks import serving_faults, serving_fuzz, serving_kills, serving_soak, serving_speed, serving_store

    workers, seconds, rounds = asked.workers, asked.seconds or SECONDS, asked.rounds
    return {
        "speed": lambda work: serving_speed.speed(work, workers, seconds, rounds),
        "growth": lambda work: serving_speed.growth(work, workers, seconds, rounds),
        "events": lambda work: serving_speed.events(work, workers, seconds, rounds),
        "kills": lambda work: serving_kills.kills(work, workers),
        "store": lambda work: serving_store.store(work, workers),
        "disk": lambda work: serving_faults.disk(work, workers),
        "clock": lambda work: serving_faults.clock(work, workers),
        "soak": lambda work: serving_soak.soak(work, workers, asked.seconds or SOAK_SECONDS),
        "fuzz": lambda work: serving_fuzz.fuzz(work, workers),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-serving", description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument(
        "--seconds", type=float, help=f"of each load ({SECONDS:.0f}), and of the soak ({SOAK_SECONDS:.0f})"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of alternating loads; figures are their medians")
    parser.add_argument("--workers", type=int, default=2, help="processes of each service")
    asked = parser.parse_args()
    require_parts(parser, asked.only, PARTS)
    if asked.seconds is not None and not 1 <= asked.seconds <= 3_600:
        parser.error("--seconds must lie between 1 and 3600")
    if not 1 <= asked.rounds <= 100 or not 1 <= asked.workers <= 64:
        parser.error("--rounds must lie between 1 and 100, --workers between 1 and 64")
    return asked


if __name__ == "__main__":
    sys.exit(main())
