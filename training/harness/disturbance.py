"""Worse data on purpose, to see how much of its quality a model keeps: events lost, events wrong, events late."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from training.interactions import Interactions, Ints

Disturb = Callable[[Interactions, float, int], Interactions]


def dropped(events: Interactions, share: float, seed: int) -> Interactions:
    """Without a share of all events, drawn alike: a tracker that is blocked, a request that never arrived."""
    keep = np.ones(len(events), dtype=bool)
    keep[_drawn(len(events), share, seed)] = False
    return events.where(keep)


def flipped(events: Interactions, share: float, seed: int) -> Interactions:
    """A share of all events, drawn alike, now with some other item, each of the others as likely: slips and robots.

    With one item in the catalogue nothing changes.
    """
    if events.item_count < 2:
        return events
    places = _drawn(len(events), share, seed)
    items = events.items.copy()
    # Moved on by 1 to I - 1 places around the catalogue, so that it is never the same item again.
    moved = np.random.default_rng([seed, 1]).integers(1, events.item_count, size=len(places))
    items[places] = (items[places] + moved) % events.item_count
    return replace(events, items=items)


def delayed(events: Interactions, share: float, seed: int) -> Interactions:
    """Without the newest share of each history: events that are still on their way when the question is asked.

    Events carry the moment at which they happened, so a late one is put into its place when it arrives, and lateness
    does not disturb the order; what it costs is that the newest are not there yet, which are also the most telling.
    Where the share of a history is no whole number, the seed decides on rounding up or down, so that the shares of
    all together are right.
    """
    _check(share)
    late = np.floor(events.lengths * share + np.random.default_rng(seed).random(events.user_count))
    from_end = np.repeat(events.starts[1:], events.lengths) - np.arange(len(events))
    return events.where(from_end > np.repeat(late, events.lengths))


KINDS: dict[str, Disturb] = {"dropped": dropped, "flipped": flipped, "delayed": delayed}
"""All disturbances by name; each takes events, a share from 0 to 1 and a seed, and with share 0 changes nothing."""


def _drawn(count: int, share: float, seed: int) -> Ints:
    """Places of that share of the events; of a larger share with the same seed they are all part."""
    _check(share)
    return np.random.default_rng(seed).permutation(count)[: round(count * share)].astype(np.int64)


def _check(share: float) -> None:
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"a share of {share:g} is not between 0 and 1")
