"""``recommend`` beside the library ``implicit``'s, on the same vectors: ``python -m benchmarks.recommend_speed``.

Both answer the same askers in one process, in turn, with as many threads as there are processors. The library has its
matrix products in one thread, as it asks for. Progress on stderr; the last line of stdout is one JSON object.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np

from benchmarks.measure import say
from training.factors import one_thread, processors
from training.interactions import Interactions, Queries, ask, from_events
from training.models.als import ALS

VISITORS: Final = 10_000
ITEMS: Final = 20_000
FACTORS: Final = 64
BEST: Final = 10
TIMES: Final = 7


def main() -> None:
    """Measure and print."""
    sys.stdout.write(json.dumps(measure()) + "\n")


def measure(
    visitors: int = VISITORS, items: int = ITEMS, factors: int = FACTORS, k: int = BEST, times: int = TIMES
) -> dict[str, Any]:
    """Visitors a second of both, and ours ÷ the library's: of known visitors, and of all folded in.

    A ratio is the median over the pairs of calls, which machines with other work to do disturb least.

    Returns:
        Plain JSON values: ``recommend_vs_implicit`` and ``fold_in_vs_implicit`` with their ranges, the seconds of
        each, and ``recommend_same`` and ``fold_in_same``, the share of recommended items that both name.
    """
    train = clicks(visitors, items)
    say(f"{len(train)} clicks of {visitors} visitors with {items} items")
    model = ALS(factors=factors, iterations=3, scaling="none", regularisation=1.0).fit(train)
    known = ask(train, train)
    strangers = replace(known, users=np.full(visitors, -1))
    result: dict[str, Any] = {"visitors": visitors, "items": items, "factors": factors, "k": k, "threads": processors()}
    for name, queries, anew in (("recommend", known, False), ("fold_in", strangers, True)):
        result |= _compare(name, _ours(model, queries, k), _the_librarys(model, train, k, anew), times)
        say(f"{name}: {result[f'{name}_vs_implicit']} of the library's speed, {result[f'{name}_vs_implicit_range']}")
    return result


def clicks(visitors: int, items: int, seed: int = 7) -> Interactions:
    """Histories of 1 to some hundred items, 20 in the mean, of items whose popularity falls as a power."""
    rng = np.random.default_rng(seed)
    lengths = np.minimum(rng.lognormal(2.4, 1.0, visitors).astype(np.int64) + 1, items // 4)
    chance = 1 / (np.arange(items) + 10.0)
    who = np.repeat(np.arange(visitors), lengths)
    what = rng.permutation(items)[rng.choice(items, len(who), p=chance / chance.sum())]
    names = np.char.mod("item%06d", np.arange(items))
    return from_events(np.char.mod("visitor%06d", who), names[what], np.arange(len(who)) * 1.0, item_ids=names)


def _ours(model: ALS, queries: Queries, k: int) -> Callable[[], Any]:
    return lambda: model.recommend(queries, k, exclude_seen=True)[0]


def _the_librarys(model: ALS, train: Interactions, k: int, anew: bool) -> Callable[[], Any]:
    from implicit.cpu.als import AlternatingLeastSquares

    with one_thread():
        library = AlternatingLeastSquares(
            model.settings.factors, model.settings.regularisation, num_threads=processors()
        )
    library.user_factors, library.item_factors = model.user_factors, model.item_factors
    rows, taken = np.arange(train.user_count), model.matrix(train)

    def call() -> Any:
        with one_thread():
            return library.recommend(rows, taken, N=k, filter_already_liked_items=True, recalculate_user=anew)[0]

    return call


def _compare(name: str, ours: Callable[[], Any], theirs: Callable[[], Any], times: int) -> dict[str, Any]:
    """Both in turn, after one call of each that does not count."""
    first, second = ours(), theirs()
    shared = np.mean([len(set(one) & set(other)) / len(one) for one, other in zip(first, second, strict=True)])
    seconds = [(_timed(ours), _timed(theirs)) for _ in range(times)]
    ratios = [other / one for one, other in seconds]
    return {
        f"{name}_vs_implicit": round(statistics.median(ratios), 2),
        f"{name}_vs_implicit_range": [round(min(ratios), 2), round(max(ratios), 2)],
        f"{name}_seconds": round(statistics.median(one for one, _ in seconds), 3),
        f"{name}_implicit_seconds": round(statistics.median(other for _, other in seconds), 3),
        f"{name}_same": round(float(shared), 4),
    }


def _timed(run: Callable[[], Any]) -> float:
    since = time.perf_counter()
    run()
    return time.perf_counter() - since


if __name__ == "__main__":
    main()
