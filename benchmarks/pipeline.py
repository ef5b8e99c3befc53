"""The warehouse at volume: ``make bench-pipeline DATA=DIR``. Progress on stderr; the last line is one JSON object.

Each figure stands beside a peer measured in the same run: a plain scan of the same files, a smaller input, a full
build, a hand-written ASOF join. ``DIR`` holds the public data sets (``globo_clicks/``, ``online_retail_uci/``).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import duckdb

from benchmarks import faults, joins
from benchmarks.measure import Measured, environment, marquee, say

SCANS: Final = 3
STEPS: Final = ("ingest", "check", "transform", "materialize")
SCAN: Final = "select user_id, count(*), max(click_timestamp) from read_csv(?) group by user_id"
SIMULATED: Final = 10_000_000
DAYS_BEFORE: Final = 14
PROOFS: Final = {
    "targets_equal": "tests/tools/test_targets.py",
    "rfm_by_hand": "tests/tools/test_rfm.py",
}


def main() -> None:
    """Run the parts asked for and print what they found."""
    asked = _arguments()
    data = Path(asked.data)
    result: dict[str, Any] = {"data": "globo_clicks", "cpus": os.cpu_count()}
    with tempfile.TemporaryDirectory(prefix="marquee-bench-") as folder:
        work = Path(folder)
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "volume": lambda: volume(data / "globo_clicks" / "clicks", work),
            "join": lambda: joins.compare(work / "all"),
            "increment": lambda: increment(data / "globo_clicks" / "clicks", work),
            "simulator": lambda: simulator(work),
            "proofs": lambda: proofs(data),
            "faults": lambda: faults.kill_and_rerun(asked.kills, asked.seed),
        }
        for name in asked.parts.split(","):
            say(f"{name} …")
            found = parts[name]()
            say(f"{name}: {json.dumps(found)}")
            result |= found
    sys.stdout.write(json.dumps(result) + "\n")


def volume(clicks: Path, work: Path) -> dict[str, Any]:
    """From gzip CSV to materialised features, beside scans of the same files; and the same for a tenth of them."""
    everything = _link(sorted(clicks.glob("*.csv.gz")), work / "files")
    tenth = _link(_first_share(everything, 0.1), work / "tenth")
    scans = [_scan(everything) for _ in range(SCANS)]
    small = _pipeline(tenth, work / "small")
    whole = _pipeline(everything, work / "all")
    scans += [_scan(everything) for _ in range(SCANS)]
    scan, seconds = statistics.median(scans), sum(step.seconds for step in whole.values())
    rows, fewer = _rows(work / "all"), _rows(work / "small")
    return {
        "rows": rows,
        "scan_seconds": round(scan, 3),
        "step_seconds": {name: round(step.seconds, 2) for name, step in whole.items()},
        "seconds_vs_scan": round(seconds / scan, 1),
        "peak_gb": round(max(step.peak_gb for step in whole.values()), 2),
        "growth": round(seconds / sum(step.seconds for step in small.values()), 2),
        "growth_rows": [fewer, rows],
    }


def increment(clicks: Path, work: Path) -> dict[str, Any]:
    """One more day after fourteen, beside a build of all fifteen from nothing.

    The clicks are cut into days by their time: in the hourly files a session's later clicks lie with its first.
    """
    days = _split_into_days(clicks, work)
    home = work / "days"
    _pipeline(_link(days[:DAYS_BEFORE], work / "before"), home, ("ingest", "check", "transform"))
    day = _pipeline(_link(days[DAYS_BEFORE:], work / "day"), home, ("ingest", "check", "transform"))
    in_dbt = _dbt_seconds(home)
    full = marquee("transform", "--full-refresh", home=home)
    full_in_dbt = _dbt_seconds(home)
    say(f"  {home.name} transform --full-refresh: {full.seconds:.1f} s")
    return {
        "incremental_seconds": round(in_dbt, 2),
        "full_seconds": round(full_in_dbt, 2),
        "incremental_vs_full": round(in_dbt / full_in_dbt, 3),
        "incremental_vs_full_whole_command": round(day["transform"].seconds / full.seconds, 3),
    }


def simulator(work: Path) -> dict[str, Any]:
    """Ten million simulated events, written to files."""
    done = marquee("simulate", "--events", str(SIMULATED), "--out", str(work / "simulated"), home=work / "simulator")
    shutil.rmtree(work / "simulated", ignore_errors=True)
    return {"simulator_events": SIMULATED, "simulator_seconds": round(done.seconds, 1), "simulator_gb": done.peak_gb}


def proofs(data: Path) -> dict[str, Any]:
    """Whether the tests that prove equality and hand-computed numbers pass here; skipped ones do not count."""
    found: dict[str, Any] = {}
    for name, path in PROOFS.items():
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", path]
        done = subprocess.run(command, env=environment(data=data), capture_output=True, text=True, check=False)
        last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "no output"
        found[name] = done.returncode == 0 and "skipped" not in last
        found[f"{name}_tests"] = last.strip("= ")
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-pipeline", description=__doc__)
    parser.add_argument("--data", default=os.environ.get("MARQUEE_DATA", "../shared/data"))
    parser.add_argument("--parts", default="volume,join,increment,simulator,proofs,faults", help="which, in order")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=7, help="of the moments at which processes are killed")
    asked = parser.parse_args()
    if not (Path(asked.data) / "globo_clicks" / "clicks").is_dir():
        parser.error(f"{asked.data} holds no globo_clicks/clicks; give the folder of the data sets with --data")
    return asked


def _pipeline(files: Path, home: Path, steps: tuple[str, ...] = STEPS) -> dict[str, Measured]:
    source = ("--source", "globo", "--path", str(files))
    done = {}
    for step in steps:
        # A log without banners has no training rows, which the second check refuses; the batch itself is admitted.
        done[step] = marquee(
            step, *(source if step == "ingest" else ()), home=home, may_refuse=step == "check" and home.name == "days"
        )
        say(f"  {home.name} {step}: {done[step].seconds:.1f} s, {done[step].peak_gb:.2f} GB")
    return done


def _link(files: list[Path], folder: Path) -> Path:
    folder.mkdir()
    for file in files:
        (folder / file.name).symlink_to(file.resolve())
    return folder


def _first_share(folder: Path, share: float) -> list[Path]:
    """The first files, in name order, that hold this share of the folder's rows."""
    files = sorted(folder.iterdir())
    counts = dict(
        duckdb.execute(
            "select parse_filename(filename), count(*) from read_csv(?, filename = true) group by 1",
            [str(folder / "*.csv.gz")],
        ).fetchall()
    )
    wanted, chosen = share * sum(counts.values()), []
    while wanted > 0:
        chosen.append(files[len(chosen)])
        wanted -= counts.get(chosen[-1].name, 0)
    return chosen


def _split_into_days(clicks: Path, work: Path) -> list[Path]:
    """The first fifteen days, one gzip CSV each in the published columns; what is later is left out."""
    folder = work / "split"
    folder.mkdir()
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        connection.execute(
            "create table clicks as select *, epoch_ms(click_timestamp::bigint)::date as day "
            "from read_csv(?, all_varchar = true)",
            [str(clicks / "*.csv.gz")],
        )
        found = connection.execute("select distinct day from clicks order by day limit ?", [DAYS_BEFORE + 1]).fetchall()
        files = []
        for (day,) in found:
            file = folder / f"clicks_hour_{day}.csv.gz"
            connection.execute(
                "copy (select * exclude (day) from clicks where day = $day) to $file (header, compression gzip)",
                {"day": day, "file": str(file)},
            )
            files.append(file)
    return files


def _scan(folder: Path) -> float:
    with duckdb.connect() as connection:
        since = time.perf_counter()
        connection.execute(SCAN, [str(folder / "*.csv.gz")]).fetchall()
        return time.perf_counter() - since


def _rows(home: Path) -> int:
    with duckdb.connect(str(home / "warehouse.duckdb"), read_only=True) as connection:
        row = connection.execute("select count(*) from raw.events").fetchone()
    assert row
    return int(row[0])


def _dbt_seconds(home: Path) -> float:
    results = json.loads((home / "dbt" / "target" / "run_results.json").read_text())
    return float(results["elapsed_time"])


if __name__ == "__main__":
    main()
