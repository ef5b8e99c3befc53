"""Impressions as lines of the event log: what was shown, with the ranker's inputs and the propensity of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from marquee import contract
from serving.recommend import Placed


def impression_lines(
    slate: Sequence[Placed], common: dict[str, Any], banner_ids: Sequence[str], as_of: dict[str, Any]
) -> list[bytes]:
    """One line for each banner of a slate, each with its newline.

    Args:
        common: fields of the contract's events table that all share, ``request_id`` among them.
        banner_ids: [B] the catalogue's.
        as_of: when each kind of the features was known.
    """
    return [_line(placed, common, banner_ids[placed.row], as_of) for placed in slate]


def _line(placed: Placed, common: dict[str, Any], banner_id: str, as_of: dict[str, Any]) -> bytes:
    impression_id, features = f"{common['request_id']}-{placed.position}", None
    if len(placed.features):  # what is missing is NaN, and null in JSON
        told: dict[str, Any] = dict(zip(contract.RANKER_FEATURES, placed.features.tolist(), strict=True))
        told["as_of"] = as_of
        features = msgspec.json.encode(told).decode()
    own = {
        "event_id": impression_id,
        "kind": "impression",
        "impression_id": impression_id,
        "banner_id": banner_id,
        "position": placed.position,
        "propensity": placed.propensity,
        "features": features,
    }
    return msgspec.json.encode(own | common) + b"\n"
