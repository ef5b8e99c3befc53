"""Feast: feature definitions, point-in-time training sets, materialisation and online reads."""

from __future__ import annotations

from typing import Any

import typeguard


def _unchecked(target: Any = None, **options: Any) -> Any:
    return target if target is not None else _unchecked


# Feast's classes ask typeguard to rewrite them when they are imported, so that each call checks its arguments. That is
# two thirds of Feast's start-up. Nothing here depends on it, and every module here comes before Feast.
typeguard.typechecked = _unchecked
