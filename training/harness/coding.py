"""From names of users and items to Interactions, quickly for millions of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.interactions import Floats, Interactions, Ints

MISSING = ("", "NA", "N/A", "NULL", "null", "None", "none", "NaN", "nan", "\\N")
"""What stands for no user or no item."""


def coded(names: Any) -> tuple[NDArray[np.str_], Ints]:
    """Sorted distinct names and the code of each; -1 for a missing one.

    Args:
        names: a list of texts, or an Arrow column of them.
    """
    if isinstance(names, list):
        places: dict[str, int] = {}
        found = np.fromiter((places.setdefault(name, len(places)) for name in names), np.int64, len(names))
        words = np.array(list(places), dtype=np.str_)
        order = np.argsort(words)
    else:
        encoded = names.combine_chunks().dictionary_encode()
        # Nothing here asks Arrow for an array of objects, or gives it one: that would import pandas.
        words = np.array(encoded.dictionary.to_pylist(), dtype=np.str_)
        found = encoded.indices.fill_null(len(words)).to_numpy()
        order = _sorted(encoded.dictionary)
    order = order[~np.isin(words[order], MISSING)] if len(words) else order
    # The last place is for rows without a name.
    code = np.full(len(words) + 1, -1, dtype=np.int64)
    code[order] = np.arange(len(order))
    return words[order], code[found]


def _sorted(words: Any) -> Ints:
    """Places in sorted order; Arrow sorts millions of texts several times faster than NumPy."""
    from pyarrow import compute

    order: Ints = compute.array_sort_indices(words).to_numpy().astype(np.int64)
    return order


def from_codes(
    users: tuple[NDArray[np.str_], Ints],
    items: tuple[NDArray[np.str_], Ints],
    times: NDArray[np.float64],
    weights: Floats | None = None,
    contexts: Ints | None = None,
) -> Interactions:
    """Interactions of parallel arrays [E] in any order, names and codes; events of one moment keep their order."""
    (user_ids, user), (item_ids, item) = users, items
    order = np.lexsort((times, user)) if len(times) else np.zeros(0, np.int64)
    starts = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=len(user_ids)))]).astype(np.int64)
    return Interactions(
        user_ids=user_ids,
        item_ids=item_ids,
        starts=starts,
        items=item[order],
        times=times[order],
        weights=np.ones(len(order), np.float32) if weights is None else weights[order].astype(np.float32),
        contexts=np.zeros(len(order), np.int64) if contexts is None else contexts[order],
    )
