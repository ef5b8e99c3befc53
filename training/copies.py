"""How much of one set of sessions stands in another: exact copies, and the longest run in common."""

from __future__ import annotations

from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.harness.intervals import intervals
from training.interactions import Interactions, Ints

Values = NDArray[np.float64]


def longest_runs(sessions: Interactions, real: Interactions) -> Ints:
    """[U] length of the longest run of successive items of each session that stands in some real session too.

    Runs are looked for by length: one of k items can only be in common where its first k − 1 are. So each round looks
    at what the round before has left, and the work ends with the longest run.

    Args:
        sessions: over the same item codes as ``real``; a code that is not among its items is in common with nothing.
        real: the sessions to look in.
    """
    longest = np.zeros(sessions.user_count, dtype=np.int64)
    items = np.concatenate([real.items, sessions.items])
    ends = np.concatenate([np.repeat(part.starts[1:] + shift, part.lengths) for part, shift in _parts(real, sessions)])
    users = sessions.users
    border, span = len(real), int(items.max(initial=0)) + 2
    place = np.arange(len(items))
    code = items
    length = 1
    while True:
        ours = place >= border
        shared = np.isin(code, code[~ours]) & np.isin(code, code[ours])
        place, code = place[shared], code[shared]
        if not len(place):
            return longest
        np.maximum.at(longest, users[place[place >= border] - border], length)
        longer = place + length < ends[place]
        place, code = place[longer], code[longer]
        if not len(place):
            return longest
        # A run and the item behind it are one number; the numbers are made small again.
        code = np.unique(code * span + items[place + length] + 1, return_inverse=True)[1].ravel()
        length += 1


def are_copies(sessions: Interactions, real: Interactions) -> NDArray[np.bool_]:
    """[U] whether a session is, as a whole, a whole real session."""
    known = {real.items[start:stop].tobytes() for start, stop in pairwise(real.starts)}
    ours = (sessions.items[start:stop].tobytes() for start, stop in pairwise(sessions.starts))
    return np.array([one in known for one in ours], dtype=bool)


def copy_report(
    made: Interactions, held_out: Interactions, train: Interactions, least: int, seed: int
) -> dict[str, Any]:
    """Whether made sessions are closer to those that a model learnt from than real ones of a later time are.

    A copy is a whole real session, a piece stands as a whole within one. Distance is 1 − longest run in common ÷
    length, 0 for a piece; the distance to the closest record and its ratio are those of Zhao et al., "CTAB-GAN", ACML
    2021. A ratio of 1 or more says that the made ones are no closer than real ones are. A chain of few steps falls a
    little below without repeating anybody: it takes no step that nobody took. Only sessions of ``least`` events or more
    are judged: short ones coincide by chance.

    Args:
        made: before copies are dropped.
        held_out: real ones that the model has not learnt from.
        train: those that it has.
        least: events.
        seed: of the intervals.
    """
    sides: dict[str, dict[str, Any]] = {}
    for name, sessions in (("synthetic", made), ("held_out", held_out)):
        judged = sessions.take(np.flatnonzero(sessions.lengths >= least))
        runs = longest_runs(judged, train)
        values = {
            "copies": are_copies(judged, train).astype(np.float64),
            "pieces": (runs == judged.lengths).astype(np.float64),
            "distance": 1.0 - runs / np.maximum(judged.lengths, 1),
        }
        found = intervals(values, seed=seed) if judged.user_count else {}
        estimates = {one: asdict(found[one]) if one in found else None for one in values}
        sides[name] = {"sessions": judged.user_count, **estimates, "longest_run": int(runs.max(initial=0))}
    ours, theirs = sides["synthetic"], sides["held_out"]
    told = {"least_events": least, **sides, "distance_ratio": None, "more_copied_than_real": False}
    if ours["sessions"] and theirs["sessions"]:
        told["more_copied_than_real"] = bool(ours["copies"]["low"] > theirs["copies"]["high"])
        if theirs["distance"]["value"]:
            told["distance_ratio"] = ours["distance"]["value"] / theirs["distance"]["value"]
    return told


def _parts(real: Interactions, sessions: Interactions) -> tuple[tuple[Interactions, int], tuple[Interactions, int]]:
    return (real, 0), (sessions, len(real))
