"""One row of the promotion gate."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """What was measured, its limit, and whether it passed; None where there is nothing to measure."""

    name: str
    value: float | None
    threshold: float | None
    passed: bool
    about: str
