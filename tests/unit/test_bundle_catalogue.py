"""A bundle over another catalogue: what training knew stays, what it did not know has a stated place; and tiers."""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
import pytest
import xgboost as xgb
from hypothesis import given
from hypothesis import strategies as st

from features.matrix import BANNER_COUNTS, COUNTS, VISITOR_NUMBERS, Encoding
from marquee import contract
from training.banner_effects import PRIOR_DEVIATION, BannerEffects
from training.bundle import Bundle, Context
from training.calibration import Platt
from training.catalogue import Catalogue
from training.ranker import Ranker
from training.towers import Towers

START = datetime(2026, 1, 1)
CATEGORIES = ("bags", "boots", "tents")
CONTEXT = Context("home", "mobile", np.datetime64(START + timedelta(hours=10), "us"))
VISITOR: dict[str, Any] = dict.fromkeys(VISITOR_NUMBERS, 4.0) | {"last_seen_at": START}
VISITOR |= {"category_affinity": '{"boots": 0.7, "bags": 0.3}'}


@cache
def ranker() -> Ranker:
    names, rng = list(contract.RANKER_FEATURES), np.random.default_rng(1)
    data = xgb.DMatrix(rng.random((60, len(names))), rng.random(60) > 0.5, feature_names=names)
    return Ranker(xgb.train({"objective": "binary:logistic", "nthread": 1}, data, 2), Platt(1.0, 0.0))


def banner(name: str, category: str = "bags", **other: Any) -> dict[str, Any]:
    texts = {"banner_id": name, "campaign_id": "c1", "title": name, "status": "active", "placements": "[]"}
    days = {"starts_at": START.isoformat(), "ends_at": (START + timedelta(days=9)).isoformat()}
    return texts | days | {"product_count": 3, "mean_price": 20.0, "category_mix": json.dumps({category: 1.0})} | other


def bundle(rows: list[dict[str, Any]], **policy: Any) -> Bundle:
    rng, count = np.random.default_rng(2), len(rows)
    shapes = (
        *((3 + len(COUNTS), 4), (4,), (4, 2), (2,)),
        *((count + 1, 2), (2 + 3 + 2, 4), (4,), (4, 2), (2,)),
    )
    towers = Towers(*(rng.normal(size=shape).astype(np.float32) for shape in shapes))
    manifest = {
        "seed": 7,
        "encoding": Encoding(CATEGORIES, ("home",), contract.DEVICES, 0.05).to_dict(),
        "catalogue": rows,
        "category_titles": {},
        "banners_seen": [row["banner_id"] for row in rows[:-1]] + [""],
        "policy": {"name": "any", "exploration": 0.0, "candidates": 3, **policy},
        "click_values": {row["banner_id"]: 10.0 * (place + 1) for place, row in enumerate(rows)},
        "banner_effects": {"mean": [0.1 * place for place in range(count)], "deviation": [0.2] * count},
    }
    return Bundle(manifest, towers, ranker(), {})


ROWS = [banner("b1"), banner("b2", "boots"), banner("b3", "tents"), banner("b5", "boots")]


@pytest.mark.parametrize("policy", [{"heads": 5}, {"optimism": 1.5}, {"rank_by": "value"}, {}])
def test_what_training_knew_is_the_same_beside_new_banners(policy: dict[str, Any]) -> None:
    made = bundle(ROWS, **policy)
    other = made.with_catalogue(Catalogue.from_rows([banner("a0", "tents"), *ROWS[1:], banner("b4", "new")]))
    assert other.catalogue.banner_ids == ["a0", "b2", "b3", "b4", "b5"]
    old, new = np.array([1, 2, 3]), np.array([1, 2, 4])
    counts = [{name: np.full(n, 9.0) for name in BANNER_COUNTS} for n in (4, 5)]
    matrices = made.matrix(VISITOR, old, counts[0], CONTEXT), other.matrix(VISITOR, new, counts[1], CONTEXT)
    assert np.array_equal(*matrices, equal_nan=True)
    assert np.array_equal(made.worth[old], other.worth[new])
    np.testing.assert_allclose(made.banner_vectors[old], other.banner_vectors[new], rtol=1e-6)
    if made.effects is not None and other.effects is not None:
        assert np.array_equal(made.effects[:, old], other.effects[:, new])


def test_the_same_catalogue_is_the_same_bundle() -> None:
    made = bundle(ROWS, heads=3, rank_by="value")
    again = made.with_catalogue(Catalogue.from_rows(ROWS))
    assert made.effects is not None
    assert again.effects is not None
    assert np.array_equal(made.effects, again.effects)
    assert np.array_equal(made.worth, again.worth)
    assert np.array_equal(made.banner_vectors, again.banner_vectors)


def test_a_banner_unknown_to_training_has_no_embedding_mean_worth_and_the_priors_effect() -> None:
    made = bundle(ROWS, heads=4_000, rank_by="value")
    # b5 was in the catalogue and never shown: it and a new one of the same content are the same to the towers.
    other = made.with_catalogue(Catalogue.from_rows([*ROWS, banner("new", "boots")]))
    np.testing.assert_allclose(other.banner_vectors[4], other.banner_vectors[3], rtol=1e-6)
    assert other.worth[4] == 1.0
    assert other.effects is not None
    assert abs(other.effects[:, 4].mean()) < 4 * PRIOR_DEVIATION / np.sqrt(4_000)
    assert other.effects[:, 4].std() == pytest.approx(PRIOR_DEVIATION, rel=0.06)


def test_draws_of_one_new_banner_do_not_depend_on_another() -> None:
    fitted = BannerEffects(np.zeros(1), np.ones(1))
    alone = fitted.of_catalogue(["a"], ["b"], 4, 0.0, 7)
    assert np.array_equal(fitted.of_catalogue(["a"], ["c", "b", "a"], 4, 0.0, 7)[:, [1]], alone)
    assert not np.array_equal(fitted.of_catalogue(["a"], ["b"], 4, 0.0, 8), alone)
    assert fitted.of_catalogue(["a"], ["b", "a"], 0, 2.0, 7).tolist() == [[2.0 * PRIOR_DEVIATION, 2.0]]


def test_an_empty_catalogue_has_nothing_to_retrieve() -> None:
    empty = bundle(ROWS, heads=2, rank_by="value").with_catalogue(Catalogue.from_rows([]))
    assert len(empty.retrieve(VISITOR, np.zeros(0, bool))) == 0
    counts = {name: np.zeros(0) for name in BANNER_COUNTS}
    assert empty.matrix(VISITOR, np.zeros(0, np.int64), counts, CONTEXT).shape == (0, len(contract.RANKER_FEATURES))


def test_two_thousand_banners_take_a_moment() -> None:
    made = bundle(ROWS, heads=10)
    rows = [banner(f"n{number:04d}", CATEGORIES[number % 3]) for number in range(2_000)]
    catalogue, started = Catalogue.from_rows(rows), time.process_time()
    made.with_catalogue(catalogue)
    assert time.process_time() - started < 0.2


@given(st.lists(st.tuples(st.booleans(), st.integers(-2, 2)), min_size=1, max_size=30), st.integers(1, 10))
def test_higher_tiers_come_first_and_within_one_the_nearest(drawn: list[tuple[bool, int]], candidates: int) -> None:
    rows = [banner(f"b{number:02d}", CATEGORIES[number * 7 % 3]) for number in range(len(drawn))]
    made = bundle(rows)
    made.candidates = candidates
    eligible, tiers = np.array([may for may, _ in drawn]), np.array([tier for _, tier in drawn])
    found = made.retrieve(VISITOR, eligible, tiers).tolist()
    made.candidates = len(rows)
    nearest = made.retrieve(VISITOR, eligible).tolist()
    assert found == sorted(nearest, key=lambda row: (-tiers[row], nearest.index(row)))[:candidates]
    assert made.retrieve(VISITOR, eligible, np.zeros(len(rows), np.int64)).tolist() == nearest
