"""The true value of the served policy in a world that knows it, beside random and most-popular."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from features.matrix import BANNER_COUNTS, Floats, smoothed_rate
from serving.recommend import recommend
from training.bundle import Bundle, Context
from training.eligibility import eligible_banners
from training.metrics import Estimate, bootstrap, weighted_mean


class Requests(Protocol):
    """R page views that ask for a slate."""

    visitor_id: NDArray[np.str_]
    placement_id: NDArray[np.str_]
    device: NDArray[np.str_]
    at: NDArray[np.datetime64]
    slots: NDArray[np.int64]


class World(Protocol):
    """Something that knows the click probability of any slate."""

    def value(self, requests: Any, slates: list[list[str]]) -> Floats:
        """[R] mean click probability over the places each request has."""
        ...

    def best_slates(self, requests: Any) -> list[list[str]]:
        """The best slates there are."""
        ...


def policy_values(
    bundle: Bundle,
    world: World,
    requests: Any,
    visitors: dict[str, dict[str, Any]],
    banner_counts: dict[str, Floats],
    seed: int,
) -> dict[str, Estimate]:
    """Click rate per shown banner of each policy on the same requests, with intervals over visitors.

    Args:
        visitors: raw features by visitor; one who is absent is cold.
        banner_counts: [B] arrays of what is known of the banners now.
    """
    slates = _slates(bundle, requests, visitors, banner_counts, seed)
    slates["best"] = world.best_slates(requests)
    groups = requests.visitor_id
    result = {}
    for name, chosen in slates.items():
        # Per place to fill, so that a policy that shows fewer banners does not look better for it.
        slots = requests.slots.astype(np.float64)
        result[name] = bootstrap(weighted_mean(world.value(requests, chosen) * slots, slots), groups, seed)
    return result


def _slates(
    bundle: Bundle, requests: Any, visitors: dict[str, dict[str, Any]], counts: dict[str, Floats], seed: int
) -> dict[str, list[list[str]]]:
    rng = np.random.default_rng(seed)
    ids = bundle.catalogue.banner_ids
    rates = smoothed_rate(counts[BANNER_COUNTS[1]], counts[BANNER_COUNTS[0]], bundle.encoding.base_rate)
    slates: dict[str, list[list[str]]] = {"trained": [], "popular": [], "random": []}
    for row, visitor_id in enumerate(requests.visitor_id):
        n = int(requests.slots[row])
        context = Context(str(requests.placement_id[row]), str(requests.device[row]), requests.at[row])
        placed = recommend(bundle, context, n, visitors.get(str(visitor_id)), counts, rng, explain=False)
        rows = np.flatnonzero(eligible_banners(bundle.catalogue, context.placement_id, context.at))
        popular = rows[np.argsort(-rates[rows], kind="stable")[:n]]
        drawn = rng.permutation(rows)[:n]
        slates["trained"].append([ids[item.row] for item in placed])
        slates["popular"].append([ids[item] for item in popular])
        slates["random"].append([ids[item] for item in drawn])
    return slates
