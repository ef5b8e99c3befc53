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
from numpy.typing import NDArray

from features.matrix import BANNER_COUNTS, COUNTS, VISITOR_NUMBERS, Encoding
from marquee import contract
from serving.reasons import BEST, GROUPS, LEAST_SHARE, USED, reasons
from serving.recommend import RequestChance, recommend
from training.bundle import Bundle, Context
from training.calibration import Platt
from training.ranker import Ranker
from training.towers import Towers

FEATURES = list(contract.RANKER_FEATURES)
PLACE = {name: place for place, name in enumerate(FEATURES)}
NOON = datetime(2026, 2, 1, 12)
WORDS = {
    "session": "what this visitor looks at now",
    "taste": "recent interest is in Boots",
    "popularity": "impressions were clicked",
    "price": "its products cost",
    "freshness": "its campaign has run for",
    "breadth": "it promotes",
}
ALIKE = {
    *("view_count_28d", "cart_count_28d", "order_count_28d", "active_day_count_28d", "visitor_click_rate"),
    *("cart_rate", "order_rate", "hours_since_seen", "mean_order_amount", "visitor_focus"),
    *("session_view_count", "session_cart_count", "session_order_count", "session_product_count", "session_minutes"),
    *("placement", "position", "device", "hour_of_day", "day_of_week"),
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


def visitor(**shares: float) -> dict[str, Any]:
    counts = dict.fromkeys(VISITOR_NUMBERS, 0.2)
    return counts | {"category_affinity": json.dumps(shares), "last_seen_at": NOON}


@cache
def made_once() -> Bundle:
    return made(ranker("affinity_match"))


@pytest.fixture
def taste() -> Bundle:
    return made_once()


def told(
    bundle: Bundle, matrix: NDArray[np.float32], items: list[int], who: dict[str, Any] | None, *explored: bool
) -> list[list[str]]:
    """Reasons for candidates that are, in turn, the two banners."""
    rows = np.arange(len(matrix)) % 2
    scores = bundle.ranker.predict(matrix)
    chance = np.array(explored or [False] * len(items))
    return reasons(bundle, matrix, scores, rows, np.array(items), who, chance)


def candidates(n: int = 5, **values: list[float]) -> NDArray[np.float32]:
    """n candidates alike but for these features, which are given for the first ones."""
    matrix = np.zeros((n, len(FEATURES)), np.float32)
    for name, given_values in values.items():
        matrix[: len(given_values), PLACE[name]] = given_values
    return matrix


def log_odds(p: float) -> float:
    return float(np.log(p) - np.log1p(-p))


def test_a_banner_pushed_by_taste_says_so_with_the_trees_own_number(taste: Bundle) -> None:
    matrix = candidates(affinity_match=[0.8])
    first, typical = told(taste, matrix, [0, 2], visitor(k1=0.8))
    with_taste, without = taste.ranker.predict(matrix[[0, 2]])
    gain = log_odds(with_taste) - log_odds(without)
    assert gain > 0.3
    assert first == [f"80% of this visitor's recent interest is in Boots (+{gain:.2f} log-odds)"]
    assert typical == [BEST], "what is like the others has nothing over them"


def test_a_slate_of_the_service_has_the_reasons_of_its_own_candidates(taste: Bundle) -> None:
    counts = {name: np.array([10.0, 10.0]) for name in BANNER_COUNTS}
    context = Context("home", "mobile", np.datetime64(NOON, "us"))
    first, second = recommend(taste, context, 2, visitor(k1=0.8), counts, RequestChance("r"))
    assert taste.catalogue.banner_ids[first.row] == "b1"
    assert first.reasons[0].startswith("80% of this visitor's recent interest is in Boots (+")
    assert not any("interest" in reason for reason in second.reasons)


def test_a_banner_pushed_by_price_does_not_speak_of_taste() -> None:
    bundle = made(ranker("mean_price"))
    ((reason,),) = told(bundle, candidates(mean_price=[0.9], affinity_match=[0.9]), [0], visitor(k1=1.0))
    assert reason.startswith("its products cost 0.90 on average (+")


@pytest.mark.parametrize("group", sorted(USED))
def test_each_kind_of_evidence_is_told_in_its_own_words(group: str) -> None:
    """Whatever the trees have learned from, the sentence is that of the evidence they used."""
    feature = FEATURES[USED[group][0]]
    bundle = made(ranker(feature))
    ((reason,),) = told(bundle, candidates(**{feature: [0.9]}), [0], visitor(k1=1.0))
    assert WORDS[group] in reason
    ((none,),) = told(bundle, candidates(), [0], visitor(k1=1.0))
    assert none == BEST


def test_every_input_that_differs_between_banners_belongs_to_one_kind_of_evidence() -> None:
    named = [name for names in GROUPS.values() for name in names]
    assert len(named) == len(set(named))
    assert set(named) <= set(FEATURES)
    assert set(FEATURES) - set(named) == ALIKE, "alike for all banners of a request"


@given(st.lists(st.lists(st.floats(0, 1, width=32), min_size=8, max_size=8), min_size=1, max_size=6), st.booleans())
def test_largest_first_at_most_three_and_none_below_the_least(values: list[list[float]], explored: bool) -> None:
    bundle = made_once()
    matrix = candidates(len(values))
    matrix[:, [PLACE[name] for name in ("affinity_match", "mean_price", "banner_click_rate", "product_count")]] = [
        row[:4] for row in values
    ]
    for own in told(bundle, matrix, list(range(len(values))), visitor(k1=0.5), *[explored] * len(values)):
        assert 1 <= len(own) <= 3
        assert (own[0] == "shown to learn how it is received") == explored
        numbers = [float(found[1]) for reason in own if (found := re.search(r"\(\+([\d.]+) log-odds\)", reason))]
        assert numbers == sorted(numbers, reverse=True)
        assert all(number >= LEAST_SHARE - 0.005 for number in numbers)


def test_a_cold_visitor_is_not_told_of_interests(taste: Bundle) -> None:
    matrix = candidates(affinity_match=[0.9])
    ((stranger,),) = told(taste, matrix, [0], None)
    assert stranger.startswith("it suits visitors we know little of (+")
    # A known visitor without anything in common with the banner is no different.
    assert told(taste, matrix, [0], visitor(k2=1.0)) == [[stranger]]


def test_a_category_without_a_title_is_named_by_its_id(taste: Bundle) -> None:
    ((reason,),) = told(taste, candidates(affinity_match=[0.0, 0.9]), [1], visitor(k2=0.25, k1=0.75))
    assert reason.startswith("25% of this visitor's recent interest is in k2 (+")


def test_popularity_tells_the_counts() -> None:
    bundle = made(ranker("banner_click_rate"))
    ((reason,),) = told(
        bundle, candidates(banner_click_rate=[0.625], banner_impression_count_28d=[240.0]), [0], visitor()
    )
    assert reason.startswith("62.5% of its last 240 impressions were clicked (+")


def test_one_candidate_alone_is_the_best_there_is(taste: Bundle) -> None:
    assert told(taste, candidates(1, affinity_match=[0.9]), [0], visitor(k1=1.0)) == [[BEST]]
