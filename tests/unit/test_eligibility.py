"""Eligibility: expired, not yet started, paused or misplaced banners are never shown; calendar edges included."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.catalogue import Catalogue
from training.eligibility import eligible_banners

START = datetime(2026, 1, 1)
moments = st.integers(0, 20).map(lambda hours: START + timedelta(hours=hours))
banners = st.fixed_dictionaries(
    {
        "starts_at": moments,
        "ends_at": moments,
        "status": st.sampled_from(["active", "paused"]),
        "placements": st.lists(st.sampled_from(["home", "cart"]), unique=True),
    }
)


def catalogue(rows: list[dict[str, object]]) -> Catalogue:
    filled = [
        row
        | {
            "banner_id": f"b{place:02d}",
            "campaign_id": "c",
            "title": "t",
            "product_count": 1,
            "mean_price": 1.0,
            "category_mix": "{}",
            "placements": json.dumps(row["placements"]),
        }
        for place, row in enumerate(rows)
    ]
    return Catalogue.from_rows(filled)


@given(st.lists(banners, max_size=6), moments, st.sampled_from(["home", "cart", "elsewhere"]))
def test_a_banner_is_eligible_exactly_when_every_rule_holds(
    rows: list[dict[str, object]], at: datetime, placement: str
) -> None:
    mask = eligible_banners(catalogue(rows), placement, np.datetime64(at, "us"))
    expected = [
        row["status"] == "active"
        and row["starts_at"] <= at < row["ends_at"]  # type: ignore[operator]
        and (not row["placements"] or placement in row["placements"])  # type: ignore[operator]
        for row in rows
    ]
    assert mask.tolist() == expected


def test_the_catalogue_survives_its_own_json() -> None:
    rows = [
        {"starts_at": START, "ends_at": START + timedelta(microseconds=1), "status": "paused", "placements": ["home"]}
    ]
    first = catalogue(rows)
    again = Catalogue.from_rows(json.loads(json.dumps(first.to_rows())))
    assert first.to_rows() == again.to_rows()
    assert again.ends_at[0] - again.starts_at[0] == np.timedelta64(1, "us")
