"""Which way the click probability may go with a feature, as a setting says it: ``mean_price:-,position:-``."""

from __future__ import annotations

from typing import Final

from marquee import contract
from marquee.errors import SettingsError

SIGNS: Final = {"+": 1, "-": -1}
NAMES_ONLY: Final = ("placement", "device")
"""Features that are numbers of names: more of one means nothing."""


def monotone_signs(text: str) -> dict[str, int]:
    """1 for each feature with which the probability may never fall, -1 where it may never rise; of none when empty.

    Raises:
        SettingsError: an entry is not ``feature:+`` or ``feature:-``, or the feature is unknown, named twice or a code.
    """
    signs: dict[str, int] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, _, sign = entry.partition(":")
        if sign not in SIGNS:
            raise SettingsError(f"setting monotone: {entry!r} is not feature:+ or feature:-")
        if name not in contract.RANKER_FEATURES:
            known = ", ".join(contract.RANKER_FEATURES)
            raise SettingsError(f"setting monotone: the ranker has no feature {name!r}; it has {known}")
        if name in NAMES_ONLY:
            raise SettingsError(f"setting monotone: {name} has no order, so nothing can rise or fall with it")
        if name in signs:
            raise SettingsError(f"setting monotone: {name} is named twice")
        signs[name] = SIGNS[sign]
    return signs
