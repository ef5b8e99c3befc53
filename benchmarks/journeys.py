"""Next page, value, segments, notifications against known answers: ``make bench-journeys DATA=DIR``; last line JSON.

``mdp`` solves random decision processes twice; ``value`` recommends pages on simulated sites whose truth is known;
``notifications`` plans for simulated visitors; ``dispatcher`` kills dispatchers while they send. ``globo`` asks models
for the next page on ``DIR/globo_clicks`` and ``segments`` builds those of ``DIR/online_retail_uci``; either is skipped,
and says so, where its data are missing. Progress on stderr. A part that fails ends in ``failures``, the run in 1.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Final

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmarks.parts import Part, require_parts, run_parts

PARTS: Final = ("mdp", "value", "globo", "notifications", "dispatcher", "segments")
LEAST: Final = {"processes": 1, "pages": 100, "worlds": 1, "sessions": 1_000, "questions": 0, "kills": 1}


def main() -> int:
    """Run the parts asked for and print what they found; 1 when one failed."""
    asked = _arguments()
    return run_parts(_parts(asked), asked.only, {"cpus": os.cpu_count(), "seed": asked.seed})


def _parts(asked: argparse.Namespace) -> dict[str, Part]:
    # Here and not above: --help should not load SciPy and MLflow.
    from benchmarks import (
        journeys_delivery,
        journeys_notifications,
        journeys_segments,
        next_page,
        page_processes,
        page_value,
    )

    data = Path(asked.data).absolute()
    return {
        "mdp": lambda work: page_processes.mdp(asked.seed, asked.processes, asked.pages),
        "value": lambda work: page_value.value(asked.seed, asked.worlds, asked.sessions),
        "globo": lambda work: next_page.globo(data, work, asked.seed, asked.questions),
        "notifications": lambda work: journeys_notifications.notifications(work, asked.seed),
        "dispatcher": lambda work: journeys_delivery.dispatcher_kills(work, asked.kills, asked.seed),
        "segments": lambda work: journeys_segments.segments(work, data),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-journeys", description=__doc__)
    parser.add_argument("--data", default=os.environ.get("MARQUEE_DATA", "../shared/data"))
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--processes", type=int, default=200, help="random decision processes")
    parser.add_argument("--pages", type=int, default=100_000, help="of the large graph")
    parser.add_argument("--worlds", type=int, default=4, help="simulated sites of each kind")
    parser.add_argument("--sessions", type=int, default=20_000, help="simulated for each log, and for each policy")
    parser.add_argument("--questions", type=int, default=0, help="asked of Globo at most; 0 asks all")
    parser.add_argument("--kills", type=int, default=50, help="of dispatchers")
    asked = parser.parse_args()
    require_parts(parser, asked.only, PARTS)
    for name, least in LEAST.items():
        if getattr(asked, name) < least:
            parser.error(f"--{name} must be at least {least:,}")
    return asked


if __name__ == "__main__":
    sys.exit(main())
