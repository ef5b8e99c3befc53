"""Reasons: sentences from the ranker's real contributions, largest first, at most three, and true of this visitor."""

from __future__ import annotations

import json
import re
from datetime import datetime
from functools import cache
from typing import Any

import numpy as np
import pytest
import xgboost as xgb
from hypothesis import given
from hypothesis import strategies as st

from features.matrix import BANNER_COUNTS, COUNTS, RESPONSE_COUNTS, Encoding
from marquee import contract
from serving.reasons import GROUPS, LEAST_SHARE, reasons
from serving.recommend import recommend, request_rng
from training.bundle import Bundle, Context
from training.calibration import Platt
from training.ranker import Ranker
from training.towers import Towers

FEATURES = list(contract.RANKER_FEATURES)
PLACE = {name: place for place, name in enumerate(FEATURES)}
NOON = datetime(2026, 2, 1, 12)
SENTENCES = {
    "taste": "recent interest is in Boots",
    "popularity": "impressions were clicked",
    "price": "its products cost",
    "moment": "does well in this place",
}


def ranker(feature: str) -> Ranker:
    """Five trees that have learned that this one feature makes a click."""
    rng = np.random.default_rng(3)
    matrix = rng.random((3000, len(FEATURES))).astype(np.float32)
    label = rng.random(3000) < np.where(matrix[:, PLACE[feature]] > 0.4, 0.6, 0.05)
    data = xgb.DMatrix(matrix, label=label, feature_names=FEATURES)
    parameters = {"objective": "binary:logistic", "max_depth": 2, "eta": 0.5, "nthread": 1}
    return Ranker(xgb.train(parameters, data, 5), Platt(1.0, 0.0))


def made(trees: Ranker) -> Bundle:
    """Two banners, one of boots and one of bags, and towers that tell nothing apart."""
    row = {"campaign_id": "c", "status": "active", "placements": "[]", "product_count": 1, "mean_price": 0.2}
    row |= {"starts_at": "2026-01-01", "ends_at": "2027-01-01"}
    mixes = {"b1": "k1", "b2": "k2"}
    manifest = {
        "encoding": Encoding(("k1", "k2"), ("home",), contract.DEVICES, 0.05).to_dict(),
        "catalogue": [
            row | {"banner_id": b, "title": b, "category_mix": json.dumps({k: 1.0})} for b, k in mixes.items()
        ],
        "category_titles": {"k1": "Boots"},
        "banners_seen": ["b1", "b2"],
        "policy": {"name": "epsilon-greedy", "exploration": 0.0, "candidates": 50},
    }

    def zeros(*shape: int) -> Any:
        return np.zeros(shape, np.float32)

    towers = Towers(
        *(zeros(2 + len(COUNTS), 2), zeros(2), zeros(2, 2), zeros(2)),
        *(zeros(3, 1), zeros(1 + 4, 2), zeros(2), zeros(2, 2), zeros(2)),
    )
    return Bundle(manifest, towers, trees, {})


def visitor(clicks: float = 0.0, **shares: float) -> dict[str, Any]:
    counts = dict.fromkeys(COUNTS, 0.2) | dict(zip(RESPONSE_COUNTS, (100.0, clicks), strict=True))
    return counts | {"category_affinity": json.dumps(shares), "last_seen_at": NOON}


@cache
def made_once() -> Bundle:
    return made(ranker("affinity_match"))


@pytest.fixture
def taste() -> Bundle:
    return made_once()


def contributions(**gains: float) -> Any:
    """A row of contributions; each group's gain lies on its first feature."""
    row = np.zeros(len(FEATURES) + 1, np.float32)
    for group, gain in gains.items():
        row[PLACE[GROUPS[group][0] if group in GROUPS else group]] = gain
    return row


INPUTS = np.zeros(len(FEATURES), np.float32)


def test_a_banner_pushed_by_taste_says_so_with_the_trees_own_number(taste: Bundle) -> None:
    counts = {name: np.array([10.0, 10.0]) for name in BANNER_COUNTS}
    context = Context("home", "mobile", np.datetime64(NOON, "us"))
    first, second = recommend(taste, context, 2, visitor(k1=0.8), counts, request_rng("r"))
    assert taste.catalogue.banner_ids[first.row] == "b1"
    shares = taste.ranker.contributions(first.features[None])[0]
    gain = float(shares[PLACE["affinity_match"]] + shares[PLACE["affinity_cosine"]])
    assert gain > 0.3
    assert first.reasons[0] == f"80% of this visitor's recent interest is in Boots (+{gain:.2f} log-odds)"
    assert not any("interest" in reason for reason in second.reasons)


def test_a_banner_pushed_by_price_does_not_speak_of_taste() -> None:
    bundle = made(ranker("mean_price"))
    bundle.catalogue.mean_prices[:] = [0.9, 0.1]
    counts = {name: np.array([10.0, 10.0]) for name in BANNER_COUNTS}
    context = Context("home", "mobile", np.datetime64(NOON, "us"))
    first, _ = recommend(bundle, context, 2, visitor(k2=1.0), counts, request_rng("r"))
    assert bundle.catalogue.banner_ids[first.row] == "b1"
    assert first.reasons[0].startswith("its products cost 0.90 on average (+")


@given(st.dictionaries(st.sampled_from(sorted(GROUPS)), st.floats(-1, 1, width=32)), st.booleans())
def test_largest_first_at_most_three_and_none_below_the_least(gains: dict[str, float], explored: bool) -> None:
    bundle = made_once()
    told = reasons(bundle, 0, INPUTS, contributions(**gains), visitor(k1=0.5), explored)
    counted = sorted((group for group in GROUPS if gains.get(group, 0) >= LEAST_SHARE), key=lambda g: -gains[g])
    expected = (["shown to learn"] if explored else []) + [SENTENCES[group] for group in counted]
    expected = expected[:3] or ["the best of what may be shown here now"]
    assert len(told) == len(expected)
    assert all(part in reason for part, reason in zip(expected, told, strict=True))
    numbers = [float(found[1]) for reason in told if (found := re.search(r"\(\+([\d.]+) log-odds\)", reason))]
    assert numbers == sorted(numbers, reverse=True)


def test_a_cold_visitor_is_not_told_of_interests(taste: Bundle) -> None:
    told = reasons(taste, 0, INPUTS, contributions(taste=0.4, price=0.2), None, False)
    assert told == [
        "it suits visitors we know little of (+0.40 log-odds)",
        "its products cost 0.00 on average (+0.20 log-odds)",
    ]
    # A known visitor without anything in common with the banner is no different.
    assert reasons(taste, 0, INPUTS, contributions(taste=0.4), visitor(k2=1.0), False)[0] == told[0]


def test_a_category_without_a_title_is_named_by_its_id(taste: Bundle) -> None:
    (told,) = reasons(taste, 1, INPUTS, contributions(taste=0.4), visitor(k2=0.25, k1=0.75), False)
    assert told == "25% of this visitor's recent interest is in k2 (+0.40 log-odds)"


def test_popularity_tells_the_counts(taste: Bundle) -> None:
    inputs = INPUTS.copy()
    inputs[PLACE["banner_click_rate"]], inputs[PLACE["banner_impression_count_28d"]] = 0.125, 240
    (told,) = reasons(taste, 0, inputs, contributions(popularity=0.05), None, False)
    assert told == "12.5% of its last 240 impressions were clicked (+0.05 log-odds)"


def test_a_click_habit_is_named_only_where_it_is_true_and_nothing_else_is(taste: Bundle) -> None:
    inputs = INPUTS.copy()
    inputs[PLACE["visitor_click_rate"]] = 0.2
    habit = contributions(visitor_click_rate=0.3)
    keen = visitor(clicks=20)
    assert reasons(taste, 0, inputs, habit, keen, False) == ["this visitor clicks more than most: 20% (+0.30 log-odds)"]
    assert len(reasons(taste, 0, inputs, habit + contributions(taste=0.1), keen, False)) == 1
    nothing = ["the best of what may be shown here now"]
    assert reasons(taste, 0, inputs, habit, None, False) == nothing, "of a visitor not known there is no habit to tell"
    inputs[PLACE["visitor_click_rate"]] = 0.02
    assert reasons(taste, 0, inputs, habit, keen, False) == nothing, "below the base rate it would not be true"
