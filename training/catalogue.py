"""The banners as arrays: what eligibility and scoring need, read from the warehouse and carried by the bundle."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.matrix import Floats, seconds
from marquee import contract


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Parallel arrays over B banners, ordered by ``banner_id``."""

    banner_ids: list[str]
    campaign_ids: list[str]
    titles: list[str]
    starts_at: NDArray[np.datetime64]
    ends_at: NDArray[np.datetime64]
    is_active: NDArray[np.bool_]
    placements: list[frozenset[str]]
    product_counts: NDArray[np.float64]
    mean_prices: NDArray[np.float64]
    category_mixes: list[str]

    def __len__(self) -> int:
        return len(self.banner_ids)

    @classmethod
    def from_rows(cls, rows: list[dict[str, Any]]) -> Catalogue:
        """From rows of the ``banner_catalogue`` mart, or of ``to_rows``."""
        rows = sorted(rows, key=lambda row: str(row["banner_id"]))
        return cls(
            banner_ids=[row["banner_id"] for row in rows],
            campaign_ids=[row["campaign_id"] for row in rows],
            titles=[row["title"] for row in rows],
            starts_at=np.array([row["starts_at"] for row in rows], dtype="datetime64[us]"),
            ends_at=np.array([row["ends_at"] for row in rows], dtype="datetime64[us]"),
            is_active=np.array([row["status"] == "active" for row in rows], dtype=bool),
            placements=[frozenset(json.loads(row["placements"])) for row in rows],
            product_counts=np.array([row["product_count"] for row in rows], dtype=np.float64),
            mean_prices=np.array([row["mean_price"] for row in rows], dtype=np.float64),
            category_mixes=[row["category_mix"] for row in rows],
        )

    def to_rows(self) -> list[dict[str, Any]]:
        """JSON-ready rows with the mart's columns."""
        columns = (
            self.banner_ids,
            self.campaign_ids,
            self.titles,
            [_iso(moment) for moment in self.starts_at],
            [_iso(moment) for moment in self.ends_at],
            ["active" if active else "paused" for active in self.is_active],
            [json.dumps(sorted(places)) for places in self.placements],
            [int(count) for count in self.product_counts],
            [float(price) for price in self.mean_prices],
            self.category_mixes,
        )
        return [dict(zip(contract.BANNER_CATALOGUE.names, row, strict=True)) for row in zip(*columns, strict=True)]


def banner_columns(catalogue: Catalogue) -> dict[str, Floats]:
    """[B] arrays of what the ranker is told of each banner and its campaign besides counts and shares."""
    return {
        "mean_price": catalogue.mean_prices,
        "product_count": catalogue.product_counts,
        "starts_at": seconds(catalogue.starts_at),
        "ends_at": seconds(catalogue.ends_at),
    }


def _iso(moment: np.datetime64) -> str:
    value: datetime = moment.astype("datetime64[us]").item()
    return value.isoformat()
