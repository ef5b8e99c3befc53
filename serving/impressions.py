"""Impressions as lines of the event log: what was shown, with the ranker's inputs and the propensity of each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marquee import contract
from serving.recommend import Placed


def impression_lines(
    slate: Sequence[Placed], common: dict[str, Any], banner_ids: Sequence[str], as_of: dict[str, Any]
) -> list[bytes]:
    """One line for each banner of a slate, each with its newline.

    Written by hand where it is the same for all, because it is a good part of what an answer costs.

    Args:
        common: fields of the contract's events table that all share, ``request_id`` among them.
        banner_ids: [B] the catalogue's.
        as_of: when each kind of the features was known.
    """
    shared = json.dumps(common, default=_iso)[1:-1]
    known = json.dumps(as_of)
    lines = []
    for placed in slate:
        impression_id = json.dumps(f"{common['request_id']}-{placed.position}")
        features = json.dumps(_features(placed.features, known)) if len(placed.features) else "null"
        lines.append(
            f'{{"event_id":{impression_id},"kind":"impression","impression_id":{impression_id},'
            f'"banner_id":{json.dumps(banner_ids[placed.row])},"position":{placed.position},'
            f'"propensity":{placed.propensity!r},"features":{features},{shared}}}\n'.encode()
        )
    return lines


def _features(values: NDArray[np.float32], known: str) -> str:
    # Python writes what is missing as NaN, which is no JSON; no feature's name has these letters.
    told = json.dumps(dict(zip(contract.RANKER_FEATURES, values.tolist(), strict=True))).replace("NaN", "null")
    return f'{told[:-1]}, "as_of": {known}}}'


def _iso(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{value!r} cannot be stored in an event")
