"""Sessions that nobody had: sampled from a sequence model, item by item, all sessions one step at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from marquee.errors import MarqueeError
from training.copies import are_copies
from training.interactions import Floats, Interactions, Ints
from training.likelihood import CELLS, SequenceModel, ask_next

ROUNDS = 10
"""Times that sessions are sampled anew in place of copies."""
JITTER = 1800.0
"""Seconds that a session begins before or after the real one whose time of day it takes."""


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """Plain values.

    Attributes:
        sessions: how many.
        temperature: 1 samples as the model says, less only what is likely, more evens out.
        top_p: only from the likeliest items that together have this chance (nucleus sampling: Holtzman et al., "The
            curious case of neural text degeneration", ICLR 2020); 1 from all.
        longest: no session is longer; 0 for as long as real ones are.
        history: newest items of a session that the model is told.
        least_copy: a session of so many events or more that is a real one, item by item, is dropped; 0 drops none.
        seed: of everything drawn.
    """

    sessions: int = 1_000
    temperature: float = 1.0
    top_p: float = 1.0
    longest: int = 0
    history: int = 50
    least_copy: int = 3
    seed: int = 7

    def __post_init__(self) -> None:
        if self.sessions < 1 or self.history < 1:
            raise MarqueeError("it takes 1 session and a history of 1 item at least")
        if self.temperature <= 0.0 or not 0.0 < self.top_p <= 1.0:
            raise MarqueeError("the temperature must be above 0, and top_p above 0 and at most 1")


@dataclass(frozen=True, slots=True)
class Synthetic:
    """What came of sampling.

    Attributes:
        sessions: without copies.
        sampled: as they were sampled at first, copies among them, for judging the model.
        dropped: how many copies were dropped in all.
    """

    sessions: Interactions
    sampled: Interactions
    dropped: int


def synthesise(model: SequenceModel, train: Interactions, settings: SamplingSettings) -> Synthetic:
    """Sample sessions, drop those that are copies of real ones, and sample others in their place.

    Where a model has nothing but copies to give, fewer sessions come than were asked for.

    Args:
        model: fitted.
        train: the sessions that it was fitted on.
        settings: see there.
    """
    parts: list[Interactions] = []
    missing, dropped = settings.sessions, 0
    sampled: Interactions | None = None
    for number in range(ROUNDS):
        found = sample_sessions(model, train, settings, missing, np.random.default_rng([settings.seed, number]))
        sampled = sampled or found
        copied = np.zeros(found.user_count, dtype=bool)
        if settings.least_copy:
            copied = are_copies(found, train) & (found.lengths >= settings.least_copy)
        parts.append(found.take(np.flatnonzero(~copied)))
        missing = int(copied.sum())
        dropped += missing
        if not missing:
            break
    assert sampled is not None
    return Synthetic(_joined(parts), sampled, dropped)


def sample_sessions(
    model: SequenceModel, train: Interactions, settings: SamplingSettings, count: int, rng: np.random.Generator
) -> Interactions:
    """Sessions as they come, copies among them.

    The first item, the length, the begin with its context, and each pause are drawn from the real ones, each for
    itself; the items are the model's.
    """
    real = train.take(np.flatnonzero(train.lengths > 0))
    if not real.user_count:
        raise MarqueeError("there is no session to learn from")
    lengths = real.lengths[rng.integers(real.user_count, size=count)]
    if settings.longest:
        lengths = np.minimum(lengths, settings.longest)
    table = np.full((count, int(lengths.max(initial=1))), -1, dtype=np.int64)
    table[:, 0] = real.items[real.starts[rng.integers(real.user_count, size=count)]]
    at = float(real.times.max())
    rows_at_once = max(1, CELLS // real.item_count)
    for place in range(1, table.shape[1]):
        going = np.flatnonzero(lengths > place)
        for start in range(0, len(going), rows_at_once):
            rows = going[start : start + rows_at_once]
            asked = ask_next(table[rows, max(0, place - settings.history) : place], real.item_ids, at)
            table[rows, place] = draw_items(model.log_probabilities(asked), settings, rng)
    return _timed(table[table >= 0], lengths, real, rng)


def draw_items(log_probabilities: Floats, settings: SamplingSettings, rng: np.random.Generator) -> Ints:
    """[n] an item for each row of [n, I] logarithms of chances."""
    scaled = (log_probabilities - log_probabilities.max(axis=1, keepdims=True)) / np.float32(settings.temperature)
    chances = np.exp(scaled)
    if settings.top_p < 1.0:
        chances = _nucleus(chances, settings.top_p)
    cumulative = np.cumsum(chances, axis=1, dtype=np.float64)
    wanted = rng.random(len(chances)) * cumulative[:, -1]
    # The first item whose cumulative chance exceeds the number drawn, so that none with chance 0 is ever drawn.
    return np.array([np.searchsorted(row, one, "right") for row, one in zip(cumulative, wanted, strict=True)], np.int64)


def _nucleus(chances: Floats, top_p: float) -> Floats:
    """The chances of the fewest items, likeliest first, that have ``top_p`` of a row together; 0 for the others."""
    order = np.argsort(-chances, axis=1, kind="stable")
    ordered = np.take_along_axis(chances, order, axis=1)
    before = np.cumsum(ordered, axis=1, dtype=np.float64) - ordered
    ordered[before >= top_p * chances.sum(axis=1, keepdims=True, dtype=np.float64)] = 0.0
    kept = np.zeros_like(chances)
    np.put_along_axis(kept, order, ordered, axis=1)
    return kept


def _timed(items: Ints, lengths: Ints, real: Interactions, rng: np.random.Generator) -> Interactions:
    """Sessions of these items with moments and contexts."""
    count = len(lengths)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    users = real.users
    pauses = np.diff(real.times)[users[1:] == users[:-1]]
    drawn = pauses[rng.integers(len(pauses), size=len(items))] if len(pauses) else np.ones(len(items))
    model_of = real.starts[rng.integers(real.user_count, size=count)]
    # Cumulated over all sessions, less what was there where each began.
    drawn[starts[:-1]] = 0.0
    passed = np.cumsum(drawn)
    begins = real.times[model_of] + rng.uniform(-JITTER, JITTER, count)
    times = np.repeat(begins - passed[starts[:-1]], lengths) + passed
    width = len(str(count))
    return replace(
        real,
        user_ids=np.char.mod(f"synthetic-%0{width}d", np.arange(count)),
        starts=starts,
        items=items,
        times=times,
        weights=np.ones(len(items), np.float32),
        contexts=np.repeat(real.contexts[model_of], lengths),
        user_features=None,
    )


def _joined(parts: list[Interactions]) -> Interactions:
    """All sessions, with new names."""
    lengths = np.concatenate([part.lengths for part in parts])
    width = len(str(len(lengths)))
    return replace(
        parts[0],
        user_ids=np.char.mod(f"synthetic-%0{width}d", np.arange(1, len(lengths) + 1)),
        starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=np.concatenate([part.items for part in parts]),
        times=np.concatenate([part.times for part in parts]),
        weights=np.concatenate([part.weights for part in parts]),
        contexts=np.concatenate([part.contexts for part in parts]),
    )
