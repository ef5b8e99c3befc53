"""To whom and where: choices of values, as masks over those who chose. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

MOST_PAGES = 4_096
"""Pages of which is remembered what they fit."""
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Choice:
    """N lists of values, of which an empty one takes any.

    Attributes:
        any_value: [N] who takes any.
        takers: value → who takes it.
        values: all that somebody asks for.
    """

    any_value: Mask
    takers: dict[str, list[int]]
    values: frozenset[str]

    @classmethod
    def of(cls, lists: Sequence[Iterable[str]]) -> Choice:
        """The choice that lists of values mean."""
        takers: dict[str, list[int]] = {}
        for row, values in enumerate(lists):
            for value in values:
                takers.setdefault(value, []).append(row)
        return cls(np.array([not values for values in lists], dtype=np.bool_), takers, frozenset(takers))

    def misses(self, values: Iterable[str]) -> Mask:
        """[N] who takes none of these values."""
        fits = self.any_value.copy()
        for value in values:
            fits[self.takers.get(value, [])] = True
        return ~fits


@dataclass(frozen=True, slots=True)
class Pages:
    """Page patterns, in which only ``*`` is special, and what each page fits."""

    patterns: tuple[tuple[str, tuple[str, ...]], ...]
    known: dict[str, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, patterns: Iterable[str]) -> Pages:
        """Patterns, split once."""
        return cls(tuple((pattern, tuple(pattern.split("*"))) for pattern in sorted(patterns)))

    def fitting(self, page: str | None) -> frozenset[str]:
        """The patterns that a page fits, case and all; an unknown page fits none."""
        if page is None or not self.patterns:
            return frozenset()
        if (found := self.known.get(page)) is None:
            if len(self.known) >= MOST_PAGES:
                self.known.clear()
            found = frozenset(pattern for pattern, parts in self.patterns if fits(parts, page))
            self.known[page] = found
        return found


def fits(parts: tuple[str, ...], text: str) -> bool:
    """Whether a text consists of these parts with anything between them.

    The first place of each part is the best one, so that no pattern takes longer than one reading of the text.
    """
    first, *middle = parts
    if not middle:
        return text == first
    last = middle.pop()
    if not text.startswith(first):
        return False
    place, end = len(first), len(text) - len(last)
    for part in middle:
        place = text.find(part, place, end)
        if place < 0:
            return False
        place += len(part)
    return place <= end and text.endswith(last)
