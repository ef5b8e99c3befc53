"""The two-tower's training beside TensorFlow Recommenders' tutorial: ``python -m benchmarks.two_tower_speed``.

Both learn from the same events in one process, in turn, with batches of the same number of events and vectors of the
same length. The tutorial ("Recommending movies: retrieval" in TFRS's documentation) looks up texts, embeds users and
items, and runs ``fit`` on a shuffled, batched and cached data set with Adagrad at 0.1. As published its task has a
``FactorizedTopK`` metric, which is computed while training too; it is measured with and without.

Ours is the model ``two_tower`` by its own ``fit``: histories instead of user ids, 1,024 negatives drawn besides the
batch's, log-Q correction, dropout, Adam, and an epoch's end with its export. Examples are what a loss was computed for.
Progress on stderr; the last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.measure import say
from training.interactions import Interactions, from_events
from training.recommender import Epoch, Fitting

BATCH: Final = 8192
DIMENSIONS: Final = 32
TIMES: Final = 5
LONGEST_SECONDS: Final = 8.0
"""Of one turn of the tutorial; it gets as many of its batches as that needs, and one at least."""
USERS, ITEMS, EVENTS = 943, 1682, 80_000
"""The size of what the tutorial trains on."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.two_tower_speed")
    parser.add_argument("--data", type=Path, help="a table of users, items and times instead of made-up ratings")
    parser.add_argument("--batch", type=int, default=BATCH)
    asked = parser.parse_args()
    train = None
    if asked.data:
        from training.harness.reading import Reading, read_events

        train = read_events(asked.data, Reading()).interactions
    sys.stdout.write(json.dumps(measure(train, asked.batch)) + "\n")


def measure(train: Interactions | None = None, batch: int = BATCH, times: int = TIMES) -> dict[str, Any]:
    """Examples a second of all three, and ours ÷ the tutorial's; a ratio is the median over the turns.

    Args:
        train: what to learn from; made up in the size of the tutorial's data unless given.
        batch: events in a training step, at most all.
        times: turns that count; the first one, in which everything is compiled, does not.

    Returns:
        Plain JSON values: ``two_tower_vs_tutorial`` (as published) and ``two_tower_vs_tutorial_without_metrics`` with
        their ranges, the examples a second of each, and the sizes.
    """
    from training.models.two_tower import TwoTower

    train = ratings() if train is None else train
    batch = min(batch, len(train))
    say(f"{len(train)} events of {train.user_count} users with {train.item_count} items, batches of {batch}")
    tutorials = {"tutorial": Tutorial(train, batch, metrics=True), "plain": Tutorial(train, batch, metrics=False)}
    model = TwoTower(dimensions=DIMENSIONS, batch=batch, epochs=times + 1, repeats=True)
    speeds: dict[str, list[float]] = {"ours": [], "tutorial": [], "plain": []}
    since = [0.0]

    def turn(epoch: Epoch) -> None:
        speeds["ours"].append(examples(train, model.settings, epoch.number) / (time.perf_counter() - since[0]))
        for name, tutorial in tutorials.items():
            speeds[name].append(tutorial.examples_a_second())
        say(", ".join(f"{name} {values[-1]:,.0f}/s" for name, values in speeds.items()))
        since[0] = time.perf_counter()

    since[0] = time.perf_counter()
    model.fit(train, Fitting(on_epoch=turn))
    result: dict[str, Any] = {"users": train.user_count, "items": train.item_count, "events": len(train)}
    result |= {"batch": batch, "dimensions": DIMENSIONS}
    for name, other in (("two_tower_vs_tutorial", "tutorial"), ("two_tower_vs_tutorial_without_metrics", "plain")):
        ratios = [one / its for one, its in zip(speeds["ours"][1:], speeds[other][1:], strict=True)]
        result |= {name: round(statistics.median(ratios), 2)}
        result |= {f"{name}_range": [round(min(ratios), 2), round(max(ratios), 2)]}
    for name, values in speeds.items():
        result[f"{name}_examples_a_second"] = round(statistics.median(values[1:]))
    return result


def examples(train: Interactions, settings: Any, number: int) -> int:
    """How many events an epoch computes a loss for."""
    from training.history_towers import event_rows

    return sum(int(batch["targets"].numpy().sum()) for batch in event_rows(train, settings, number))


def ratings(users: int = USERS, items: int = ITEMS, events: int = EVENTS, seed: int = 7) -> Interactions:
    """Events of users of unequal activity with items whose popularity falls as a power."""
    rng = np.random.default_rng(seed)
    activity, chance = rng.lognormal(0.0, 1.0, users), 1 / (np.arange(items) + 20.0)
    who = np.concatenate([np.arange(users), rng.choice(users, events - users, p=activity / activity.sum())])
    what = np.concatenate([np.arange(items), rng.choice(items, events - items, p=chance / chance.sum())])
    names = np.char.mod("user%05d", who), np.char.mod("item%05d", rng.permutation(items)[what])
    return from_events(*names, rng.permutation(events) * 60.0)


class Tutorial:
    """The published training loop, one turn at a time."""

    def __init__(self, train: Interactions, batch: int, metrics: bool) -> None:
        from training.neural import keras, tf

        users, items = train.user_ids[train.users], train.item_ids[train.items]
        self.model = _network(train.user_ids, train.item_ids, metrics)
        self.model.compile(optimizer=keras.optimizers.Adagrad(learning_rate=0.1))
        data = tf.data.Dataset.from_tensor_slices({"user_id": users.tolist(), "movie_title": items.tolist()})
        self.data = data.shuffle(100_000, seed=42).batch(batch).cache()
        # A cache that was never read to its end is dropped, and the shuffle would be paid for in each turn.
        self.sizes = [len(part["user_id"]) for part in self.data]
        self.batches = 1

    def examples_a_second(self) -> float:
        """Of ``fit`` over as many batches as may be."""
        since = time.perf_counter()
        self.model.fit(self.data.take(self.batches), epochs=1, verbose=0)
        seconds = time.perf_counter() - since
        done = sum(self.sizes[: self.batches])
        # The first turn compiles, so it says little of the speed; it is left out.
        self.batches = max(1, min(len(self.sizes), int(self.batches * LONGEST_SECONDS / seconds)))
        return done / seconds


def _network(user_ids: Any, item_ids: Any, metrics: bool) -> Any:
    import tensorflow_recommenders as tfrs

    from training.neural import keras, tf

    def tower(names: Any) -> Any:
        look_up = keras.layers.StringLookup(vocabulary=names.tolist(), mask_token=None)
        return keras.Sequential([look_up, keras.layers.Embedding(len(names) + 1, DIMENSIONS)])

    class MovielensModel(tfrs.Model):
        def __init__(self) -> None:
            super().__init__()
            self.user_model, self.movie_model = tower(user_ids), tower(item_ids)
            movies = tf.data.Dataset.from_tensor_slices(item_ids.tolist()).batch(128).map(self.movie_model)
            self.task = tfrs.tasks.Retrieval(
                metrics=tfrs.metrics.FactorizedTopK(candidates=movies) if metrics else None
            )

        def compute_loss(self, features: Any, training: bool = False) -> Any:
            return self.task(self.user_model(features["user_id"]), self.movie_model(features["movie_title"]))

    return MovielensModel()


if __name__ == "__main__":
    main()
