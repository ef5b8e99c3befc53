"""The product model on vectors made by hand: what follows from them, that it is what was fitted, and its file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marquee.errors import BundleError, NothingToDo
from training.interactions import Interactions, from_events
from training.models.als import ALS
from training.product_fitting import fit_product_model, frequent, quality, questions
from training.product_model import Learnt, ProductModel, wilson
from training.similar import SimilarItems

LEARNT = Learnt("als", 100, 5.0, 0.02, 0.0, 0.5, 2.0, -5.0, 10.0, -6.0)
AXES = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9], [0.7, 0.7]], np.float32)
IDS = np.array(["boots", "laces", "tent", "stove", "bag"])
EVERY = np.ones(5, bool)
NOTHING = np.zeros(0, np.int64)


def model(**other: float) -> ProductModel:
    learnt = Learnt(**(asdict(LEARNT) | other))
    return ProductModel(IDS, AXES, np.array([50, 10, 40, 0, 20]), learnt)


def shop(seed: int = 3) -> Interactions:
    """Sixty visitors of two kinds, each of which looks at one half of 20 products, in two long sessions."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"v{visitor:02}", f"p{int(rng.integers(10)) + 10 * (visitor % 2):02}", visitor * 50 + session * 9_000 + step)
        for visitor in range(60)
        for session in range(2)
        for step in range(8)
    ]
    visitors, products, times = (np.array(column) for column in zip(*rows, strict=True))
    return from_events(visitors, products, times.astype(np.float64))


def test_without_a_history_the_nearest_directions_come_first() -> None:
    listed = model().similar(0, NOTHING, EVERY, 3)
    assert IDS[listed.rows].tolist() == ["laces", "bag", "stove"]
    cosines = AXES[[1, 4, 3], 0] / np.linalg.norm(AXES[[1, 4, 3]], axis=1)
    assert listed.scores == pytest.approx(2.0 * cosines - 5.0, abs=1e-5)
    assert listed.taste is None
    assert listed.base == -5.0


def test_a_history_draws_the_list_towards_what_the_visitor_likes() -> None:
    taste = model(weight=0.0)
    assert IDS[taste.similar(0, np.array([2]), EVERY, 2).rows].tolist() == ["tent", "stove"]
    assert (
        IDS[model().similar(0, np.array([2]), EVERY, 2).rows][0] != IDS[model().similar(0, NOTHING, EVERY, 1).rows][0]
    )
    assert IDS[model(weight=1.0).similar(0, np.array([2]), EVERY, 1).rows].tolist() == ["laces"]


def test_the_vector_of_a_history_solves_the_normal_equations() -> None:
    found, taken = model().vector_of(np.array([2, 3, 2])), AXES[[2, 3]].astype(np.float64)
    left = AXES.T @ AXES + 5.0 * taken.T @ taken + 0.02 * (5 + 5.0 * 2) * np.eye(2)
    assert left @ found == pytest.approx(6.0 * taken.sum(axis=0), abs=1e-4)


def test_popular_products_rank_by_the_lower_end_of_their_share() -> None:
    listed = model().popular(EVERY, 5)
    assert IDS[listed.rows].tolist() == ["boots", "tent", "bag", "laces", "stove"]
    low = wilson(np.array([50]), 100)[0]
    assert low == pytest.approx(0.4038, abs=1e-4)  # by Wilson's formula, as any table of it has
    assert listed.scores[0] == pytest.approx(np.log(low / (1 - low)), abs=1e-5)
    assert wilson(np.array([9]), 10)[0] < wilson(np.array([900]), 1_000)[0]
    assert model(popularity=1.0).similar(3, np.array([1]), EVERY, 1).rows.tolist() == [0]
    assert model().recommend(NOTHING, EVERY, 5).rows.tolist() == listed.rows.tolist()


@given(
    history=st.lists(st.integers(0, 4), max_size=6),
    looked=st.integers(0, 4),
    allowed=st.lists(st.booleans(), min_size=5, max_size=5),
    n=st.integers(1, 7),
    weight=st.sampled_from([0.0, 0.4, 1.0]),
    popularity=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_lists_hold_what_is_allowed_once_and_in_order_and_their_parts_make_up_the_scores(
    history: list[int], looked: int, allowed: list[bool], n: int, weight: float, popularity: float
) -> None:
    own, mask = model(weight=weight, popularity=popularity), np.array(allowed)
    rows = np.array(list(dict.fromkeys(history)), dtype=np.int64)
    cases = [(own.similar(looked, rows, mask, n), {looked}), (own.recommend(rows, mask, n), set(history))]
    for listed, never in [*cases, (own.popular(mask, n), set())]:
        found = listed.rows.tolist()
        possible = {row for row in range(5) if allowed[row]} - never
        assert set(found) <= possible
        assert len(set(found)) == len(found) == min(n, len(possible))
        assert np.all(np.diff(listed.scores) <= 0)
        parts = [part for part in (listed.popularity, listed.similarity, listed.taste) if part is not None]
        assert listed.scores == pytest.approx(listed.base + np.sum(parts, axis=0), abs=1e-4)
    assert mask.tolist() == allowed


def test_it_says_what_similar_items_say() -> None:
    events = shop()
    asked = questions(events, 0.0)
    similar = SimilarItems.fit(ALS(factors=8, iterations=4).fit(events), asked)
    blend, als = similar.blend, similar.model
    learnt = Learnt(
        *("als", 60, 5.0, 0.02, 0.0, 0.4, blend.similarity.slope, blend.similarity.intercept),
        *(blend.taste.slope, blend.taste.intercept),
    )
    assert isinstance(als, ALS)
    served = ProductModel(als.item_ids, als.item_factors, als.item_events, learnt)
    expected = similar.with_weight(0.4).scores(asked.items, asked.queries)
    histories = asked.queries.histories
    for row in range(0, len(asked), 7):
        history, looked = histories.items[histories.starts[row] : histories.starts[row + 1]], int(asked.items[row])
        listed = served.similar(looked, history, np.ones(20, bool), 19)
        assert listed.scores == pytest.approx(expected[row, listed.rows], abs=2e-3)


def test_questions_are_asked_half_way_through_a_session() -> None:
    events = from_events(
        np.array(["a"] * 7 + ["b"] * 2),
        np.array(["p", "q", "p", "r", "s", "q", "p", "p", "q"]),
        np.array([0, 1, 2, 3, 4, 9_000, 9_001, 5, 6], np.float64),
    )
    asked = questions(events, 0.0)
    assert len(asked) == 1
    assert events.item_ids[asked.queries.histories.items].tolist() == ["p", "q"]
    assert (events.item_ids[asked.items].tolist(), events.item_ids[asked.truth.items].tolist()) == (["r"], ["s"])
    assert len(questions(events, 1.0)) == 0


def test_too_few_events_are_said_to_be_too_few() -> None:
    with pytest.raises(NothingToDo, match="60 product events before the held-out window, 500 are needed"):
        frequent(shop().where(np.arange(960) < 60), 1e9)


def test_products_without_events_have_no_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.product_fitting.MOST_PRODUCTS", 7)
    window = frequent(shop(), 1e9)
    assert window.item_count == 7
    counts = np.bincount(shop().items)
    assert sorted(np.bincount(window.items)) == sorted(np.sort(counts)[-7:])
    assert {*window.item_ids.tolist()} == {f"p{row:02}" for row in np.argsort(-counts, kind="stable")[:7]}


def test_where_tastes_differ_the_blend_beats_what_everybody_takes(tmp_path: Path) -> None:
    window = frequent(shop(), 1e9)
    found = fit_product_model(window, 7)
    told = quality(found, questions(shop(seed=4), 0.0))
    assert told["questions"] == 120
    assert told["ndcg"]["blend"] > told["ndcg"]["popular"] + 0.05
    found.save(tmp_path / "products.npz")
    again = ProductModel.load(tmp_path / "products.npz", found.described())
    assert again.described() == found.described()
    every = np.ones(len(found), bool)
    one, other = (each.recommend(np.array([1, 2]), every, 9) for each in (found, again))
    assert one.rows.tolist() == other.rows.tolist()
    assert one.scores.tolist() == other.scores.tolist()


@pytest.mark.parametrize("damage", [None, b"PK\x03\x04 not a file", b""])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, damage: bytes | None) -> None:
    file = tmp_path / "products.npz"
    if damage is not None:
        file.write_bytes(damage)
    with pytest.raises(BundleError, match=r"products\.npz: cannot be read as a product model"):
        ProductModel.load(file, asdict(LEARNT))
    model().save(file)
    with pytest.raises(BundleError, match="weigh"):
        ProductModel.load(file, asdict(LEARNT) | {"weigh": 1})
    assert len(ProductModel.load(file, asdict(LEARNT))) == 5


def test_rows_are_those_of_known_products_each_once_in_order() -> None:
    assert model().rows(["tent", "nothing", "boots", "tent"]).tolist() == [2, 0]
