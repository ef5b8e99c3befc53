"""The retrieval models on data with known answers: ``make bench-retrieval DATA=DIR``; the last line is one JSON object.

Progress on stderr. ``DIR`` holds the public data sets (``diginetica/``). Other data are judged with the same models
by ``--top-n TRAIN TEST`` (lists or tables, given split) and ``--sequential FILE`` (leave-one-out).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.measure import MARQUEE, environment, say
from training.recommender import model_names

RULES: Final = ("association_rules", "sequential_rules")
SESSIONS: Final = (
    *(*RULES, "popular", "markov", "item_knn", "vsknn", "stan", "vstan"),
    *("gru4rec", "sasrec", "hybrid"),
)
ENOUGH: Final = 0.46
"""HR@20 on Diginetica that at least three models are above."""
LISTS: Final = ("popular", "ease", "als", "bpr", "mult_vae", "two_tower")
SEQUENTIAL: Final = ("popular", "gru4rec", "sasrec")
LONG_HISTORIES: Final = {"length": 200, "batch": 128, "learning_rate": 0.002, "dropout": 0.5, "scale": 10.0}
"""Settings of the sequence models where users have a hundred events: the best of three on MovieLens 100K."""
IN_LARGE: Final = (*RULES, "markov", "item_knn", "vsknn", "stan", "vstan", "gru4rec", "sasrec", "dmf", "hybrid")
LARGE, SMALL = 1_200_000, 200_000
"""Events of the simulated shops. Models of what follows what need the large one: in one of half its size too few
products follow each other for Markov to say more than popular. Those that learn a visitor's taste need less; all of
them in the large one would take an hour."""
GRAM_ITEMS: Final = 20_000


def main() -> None:
    """Run the parts asked for and print what they found."""
    asked = _arguments()
    result: dict[str, Any] = {"cpus": os.cpu_count(), "seed": asked.seed}
    with tempfile.TemporaryDirectory(prefix="marquee-bench-") as folder:
        work = Path(folder)
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "diginetica": lambda: diginetica(Path(asked.data) / "diginetica", work, asked.seed),
            "worlds": lambda: worlds(work, asked.seed, asked.models),
            "speed": speed,
            "memory": gram_memory,
        }
        if asked.top_n:
            parts["top_n"] = lambda: {"top_n": top_n(*asked.top_n, work, asked.seed)}
        if asked.sequential:
            parts["sequential"] = lambda: {"sequential": sequential(asked.sequential, work, asked.seed)}
        for name, part in parts.items():
            if name in asked.parts.split(",") or name in ("top_n", "sequential"):
                say(f"{name} …")
                found = part()
                say(f"{name}: {json.dumps(found)}")
                result |= found
    sys.stdout.write(json.dumps(result) + "\n")


def diginetica(folder: Path, work: Path, seed: int) -> dict[str, Any]:
    """HR@20 and MRR@20 of the session models on the published split, all 60,858 questions over all items."""
    files = ("--data", folder / "train_sessions.plain.txt.gz", "--test", folder / "test_pairs.plain.txt.gz")
    rows = bench(work, seed, "sessions", *files, models=SESSIONS, metric="hr@20")
    table = {name: {"hr20": _of(row, "hr@20"), "mrr20": _of(row, "mrr@20")} for name, row in rows.items()}
    return {
        "diginetica": {
            "best_hr20": max(one["hr20"] for one in table.values()),
            "best_mrr20": max(one["mrr20"] for one in table.values()),
            "models_above_46": sum(one["hr20"] > ENOUGH for one in table.values()),
            "models": table,
        }
    }


def worlds(work: Path, seed: int, models: str) -> dict[str, Any]:
    """Models that beat popular where visitors have tastes, and where the same events were dealt out anew.

    Beating is a paired 95 % interval above zero; models of what follows what are asked in a larger shop.
    """
    found: dict[str, Any] = {}
    asked = [name for name in (model_names() if models == "all" else models.split(",")) if name != "popular"]
    for name, shuffled in (("taste", False), ("shuffled", True)):
        gains: dict[str, float] = {}
        beating: list[str] = []
        for events in (LARGE, SMALL):
            chosen = [model for model in asked if (model in IN_LARGE) == (events == LARGE)]
            file = work / f"{name}-{events}.parquet"
            views(file, seed, events, shuffled)
            rows = bench(work, seed, "temporal", "--data", file, models=["popular", *chosen], metric="ndcg@10")
            popular = _of(rows.pop("popular"), "ndcg@10")
            gains |= {one: round(_of(row, "ndcg@10") / popular - 1, 4) for one, row in rows.items()}
            beating += [one for one, row in rows.items() if row["to_popular"]["low"] > 0]
        found |= {f"{name}_gain": gains, f"{name}_beat_popular": sorted(beating), f"{name}_models": len(gains)}
    return found


def views(file: Path, seed: int, events: int, shuffled: bool) -> None:
    """The product views of a simulated shop as a table; shuffled, each view gets the product of another one."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from ingestion.simulator import Simulator

    tables = [batch.records for batch in Simulator(seed=seed, events=events).read() if batch.table == "events"]
    log = pa.concat_tables(tables)
    seen = log.filter(pc.equal(log["kind"], "product_view")).select(["visitor_id", "product_id", "occurred_at"])
    if shuffled:
        order = np.random.default_rng(seed).permutation(len(seen))
        seen = seen.set_column(1, "product_id", seen["product_id"].take(pa.array(order)))
    pq.write_table(seen, file)


def speed() -> dict[str, Any]:
    """Training of the two towers beside the tutorial's loop, and ``recommend`` beside the library's."""
    from benchmarks import recommend_speed, two_tower_speed

    return {**two_tower_speed.measure(), **recommend_speed.measure()}


def gram_memory() -> dict[str, Any]:
    """EASE on 20,000 items in a process of its own: seconds, and its peak in GB beside that of one I × I matrix."""
    program = f"""
import json, resource, time
import numpy as np
from training.interactions import from_events
from training.models.ease import EASE
rng = np.random.default_rng(7)
items = (rng.random(2_000_000) ** 2 * {GRAM_ITEMS}).astype(int)
data = from_events(rng.integers(0, 100_000, len(items)), items, np.arange(float(len(items))))
since = time.perf_counter()
EASE(regularisation=500.0).fit(data)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
print(json.dumps({{"ease_items": data.item_count, "ease_seconds": round(time.perf_counter() - since, 1),
                  "ease_peak_gb": round(peak, 2), "ease_matrix_gb": round(data.item_count**2 * 4 / 1e9, 2)}}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def top_n(train: Path, test: Path, work: Path, seed: int) -> dict[str, Any]:
    """Recall and NDCG of the general models on given lists."""
    rows = bench(work, seed, "given-split", "--data", train, "--test", test, models=LISTS, metric="ndcg@20")
    names = ("recall@20", "recall_capped@20", "ndcg@20", "recall@10", "ndcg@10")
    return {model: {name: _of(row, name) for name in names} for model, row in rows.items()}


def sequential(data: Path, work: Path, seed: int) -> dict[str, Any]:
    """HR@10 and NDCG@10 of the sequence models, the last event of each user left out."""
    words: list[object] = ["--data", data, "--epochs", 200, "--patience", 10]
    for model in ("gru4rec", "sasrec"):
        words += [word for name, value in LONG_HISTORIES.items() for word in ("--set", f"{model}.{name}={value}")]
    rows = bench(work, seed, "leave-one-out", *words, models=SEQUENTIAL, metric="ndcg@10")
    return {model: {name: _of(row, name) for name in ("hr@10", "ndcg@10")} for model, row in rows.items()}


def bench(
    work: Path, seed: int, protocol: str, *words: object, models: tuple[str, ...] | list[str], metric: str
) -> dict[str, dict[str, Any]]:
    """Run ``marquee bench-models`` and read its rows by model; a model that failed ends the bench."""
    out = Path(tempfile.mkdtemp(dir=work)) / "report"
    command = [MARQUEE, "bench-models", "--protocol", protocol, "--models", ",".join(models), "--metric", metric]
    command += ["--seed", str(seed), "--out", str(out), "--home", str(work / "home"), "--json", *map(str, words)]
    done = subprocess.run(command, env=environment(quiet=1), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    rows = json.loads(done.stdout)["rows"]
    for row in rows:
        say(f"  {row['model']}: {metric} {_of(row, metric):.4f}")
    return {row["model"]: row for row in rows}


def _of(row: dict[str, Any], metric: str) -> float:
    return round(float(row["metrics"][metric]["value"]), 4)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-retrieval", description=__doc__)
    parser.add_argument("--data", default=os.environ.get("MARQUEE_DATA", "../shared/data"))
    parser.add_argument("--parts", default="diginetica,worlds,speed,memory", help="which, in order")
    parser.add_argument("--models", default="all", help="of the simulated worlds")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--top-n", nargs=2, type=Path, metavar=("TRAIN", "TEST"))
    parser.add_argument("--sequential", type=Path, metavar="FILE")
    asked = parser.parse_args()
    if "diginetica" in asked.parts and not (Path(asked.data) / "diginetica").is_dir():
        parser.error(f"{asked.data} holds no diginetica; give the folder of the data sets with --data")
    return asked


if __name__ == "__main__":
    main()
