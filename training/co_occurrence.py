"""Which items follow or accompany which in a history, counted sparsely, here or on Spark."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray

from training.interactions import Floats, Interactions, Ints

Engine = Literal["local", "spark"]
_PAIRS: Final = """
    select one.item + later.part as one, later.item as other, later.place - one.place as distance,
        count(*) as times, min(later.moment * {base} + one.place - later.place) as first
    from {events} as one join {events} as later
        on one.user = later.user and later.place > one.place and later.place - one.place <= {steps}
        and later.time - one.time <= {gap}
    group by 1, 2, 3
"""


@dataclass(frozen=True, slots=True)
class Pairs:
    """P different pairs of items, "who took a took b too".

    Attributes:
        rows: [P] item a; a + I · c where contexts are told apart.
        columns: [P] item b.
        weights: [P] summed over all times the pair came up.
        first: [P] when it came up first; only the order means something.
    """

    rows: Ints
    columns: Ints
    weights: NDArray[np.float64]
    first: Ints


NO_PAIRS: Final = Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64))


@dataclass(frozen=True, slots=True)
class Counting:
    """Which two events of one user are a pair; a pair of one item with itself is one too.

    Attributes:
        steps: the later event is at most so many places behind the earlier one.
        weight: of a pair so many places apart, from 1.
        both_ways: the later item also leads to the earlier one.
        gap: seconds between the two at most.
        by_context: rows are a + I · c, c the context of the later event.
        engine: where the pairs are counted; the result is the same.
    """

    steps: int
    weight: Callable[[int], float]
    both_ways: bool
    gap: float = np.inf
    by_context: bool = False
    engine: Engine = "local"


def count_pairs(train: Interactions, counting: Counting) -> Pairs:
    """All pairs there are, each once.

    Raises:
        MarqueeError: Spark is asked for, and missing or not starting.
    """
    counted = _by_spark if counting.engine == "spark" else _by_distance
    items = train.item_count
    found: list[Pairs] = []
    for distance, pairs in counted(train, counting):
        weights = pairs.weights * counting.weight(distance)
        found.append(Pairs(pairs.rows, pairs.columns, weights, pairs.first))
        if counting.both_ways:
            rows = pairs.rows - pairs.rows % items + pairs.columns
            found.append(Pairs(rows, pairs.rows % items, weights, pairs.first))
    return _joined(found)


def without_contexts(pairs: Pairs, items: int) -> Pairs:
    """The same pairs, those of all contexts put together."""
    return _distinct(pairs.rows % items, pairs.columns, pairs.weights, pairs.first)


def shares(pairs: Pairs, shape: tuple[int, int]) -> tuple[sparse.csr_matrix, Floats]:
    """CSR matrix of each pair's share of its row's weight, float32, and the weight of each row.

    Of equal shares in a row, that of the pair that came up first is the larger one, by the least that float32 can
    tell: rules are often equal, and this way their order is nothing that chance decides.
    """
    # Sums of the same fractions in another order differ in their last bits.
    weights = np.round(pairs.weights, 9)
    totals = np.bincount(pairs.rows, weights=weights, minlength=shape[0])
    order = np.lexsort((pairs.first, -weights, pairs.rows))
    rows, weights = pairs.rows[order], weights[order]
    values = (weights / totals[rows]).astype(np.float32)
    equal = _places_in_runs(rows, weights)
    values -= equal.astype(np.float32) * np.spacing(values)
    starts = np.searchsorted(rows, np.arange(shape[0] + 1))
    return sparse.csr_matrix((values, pairs.columns[order], starts), shape=shape), totals.astype(np.float32)


def recent_items(histories: Interactions, newest: int, decay: float = 1.0) -> sparse.csr_matrix:
    """[n, I] CSR matrix of the newest events' weights: decay^d for the one d places before the last, summed by item.

    Args:
        histories: n histories.
        newest: how many events of each; 0 for all.
        decay: 1 weighs all alike.
    """
    kept = histories.last(newest) if newest else histories
    places = np.repeat(kept.starts[1:], kept.lengths) - 1 - np.arange(len(kept))
    values: Floats = np.power(decay, places).astype(np.float32)
    found = sparse.csr_matrix((values, kept.items, kept.starts), shape=(kept.user_count, kept.item_count), copy=True)
    found.sum_duplicates()
    return found


def packed(name: str, matrix: sparse.csr_matrix) -> dict[str, NDArray[Any]]:
    """A CSR matrix as arrays under names that begin with ``name``, as ``state`` wants them."""
    parts = ("data", "indices", "indptr", "shape")
    return {f"{name}_{part}": np.asarray(getattr(matrix, part)) for part in parts}


def unpacked(name: str, state: dict[str, NDArray[Any]]) -> sparse.csr_matrix:
    """The matrix that ``packed`` took apart."""
    data, indices, indptr, shape = (state[f"{name}_{part}"] for part in ("data", "indices", "indptr", "shape"))
    return sparse.csr_matrix((data, indices, indptr), shape=tuple(int(side) for side in shape))


def _by_distance(train: Interactions, counting: Counting) -> Iterator[tuple[int, Pairs]]:
    """Forward pairs and their number, one distance after the other."""
    users, moment = train.users, _moments(train)
    part = train.contexts * train.item_count if counting.by_context else np.zeros(len(train), np.int64)
    for distance in range(1, min(counting.steps, int(train.lengths.max(initial=1)) - 1) + 1):
        near = train.times[distance:] - train.times[:-distance] <= counting.gap
        later = np.flatnonzero(near & (users[distance:] == users[:-distance])) + distance
        # Of the pairs that one event closes, the one that reaches back furthest came up first.
        first = moment[later] * (counting.steps + 1) - distance
        rows = train.items[later - distance] + part[later]
        yield distance, _distinct(rows, train.items[later], np.ones(len(later)), first)


def _by_spark(train: Interactions, counting: Counting) -> Iterator[tuple[int, Pairs]]:
    """The same by a join of the events with themselves."""
    import pyarrow as pa

    from training.spark_retrieval import spark_session

    place = np.arange(len(train)) - np.repeat(train.starts[:-1], train.lengths)
    part = train.contexts * train.item_count if counting.by_context else np.zeros(len(train), np.int64)
    columns = {"user": train.users, "place": place, "item": train.items, "part": part, "time": train.times}
    events = pa.table({**columns, "moment": _moments(train)})
    gap = min(counting.gap, 1e18)
    with spark_session() as spark:
        frame = spark.createDataFrame(events)
        found = spark.sql(_PAIRS, events=frame, steps=counting.steps, base=counting.steps + 1, gap=gap).toArrow()
    one, other, distances, times, first = (found.column(name).to_numpy() for name in found.column_names)
    for distance in np.unique(distances):
        here = distances == distance
        yield int(distance), Pairs(one[here], other[here], times[here].astype(np.float64), first[here])


def _moments(train: Interactions) -> Ints:
    """[E] place of each event in the order of time."""
    found = np.empty(len(train), dtype=np.int64)
    found[np.argsort(train.times, kind="stable")] = np.arange(len(train))
    return found


def _joined(parts: list[Pairs]) -> Pairs:
    rows, columns, weights, first = (
        np.concatenate([getattr(part, name) for part in [NO_PAIRS, *parts]])
        for name in ("rows", "columns", "weights", "first")
    )
    return _distinct(rows, columns, weights, first)


def _distinct(rows: Ints, columns: Ints, weights: NDArray[np.float64], first: Ints) -> Pairs:
    """Each pair once, its weights summed."""
    order = np.lexsort((first, columns, rows))
    rows, columns = rows[order], columns[order]
    begins = np.flatnonzero(_places_in_runs(rows, columns) == 0)
    summed = np.add.reduceat(weights[order], begins) if len(begins) else weights
    return Pairs(rows[begins], columns[begins], summed, first[order][begins])


def _places_in_runs(*keys: NDArray[Any]) -> Ints:
    """How many neighbours before each element are equal to it in all the keys, which are sorted."""
    count = len(keys[0])
    new = np.ones(count, dtype=bool)
    if count:
        new[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    begins = np.flatnonzero(new)
    return np.arange(count) - np.repeat(begins, np.diff(np.append(begins, count)))
