"""ALS, BPR and logistic MF: their arithmetic by hand, folding in, updating, and answers however they are computed."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import optuna
import pytest
import scipy.sparse as sparse
from hypothesis import given, settings
from hypothesis import strategies as st

import training.factors
from marquee.errors import MarqueeError
from training.factors import fingerprints, least_squares, logistic, padded_rows, turn, typical_negatives
from training.interactions import Interactions, Queries, ask, from_events
from training.models.als import ALS
from training.models.bpr import BPR
from training.models.logistic_mf import LogisticMF
from training.models.popular import Popular
from training.recommender import Epoch, Fitting, Recommender

pytestmark = pytest.mark.models
SMALL: dict[type[Recommender], dict[str, Any]] = {
    ALS: {"factors": 4, "regularisation": 0.01},
    BPR: {"factors": 4, "learning_rate": 0.1, "regularisation": 0.01, "iterations": 90},
    LogisticMF: {"factors": 4, "regularisation": 0.6, "alpha": 1.0, "iterations": 30},
}
EACH = pytest.mark.parametrize("model_class", list(SMALL))
GROUPS, OLD, NEW = 4, 20, 6
"""Four kinds of users, each with its own items: 20 from the first day on and 6 that come later."""


def fitted(model_class: type[Recommender], train: Interactions, **changed: Any) -> Any:
    return model_class(**(SMALL[model_class] | changed)).fit(train)


def groups(users: range, events: int, items: int, seed: int = 0) -> list[tuple[str, str, float]]:
    """Events (user, item, time): each user takes distinct items of the own group, the first ``items`` of it."""
    rng = np.random.default_rng(seed)
    return [
        (f"u{user:03d}", f"g{user % GROUPS}-{item:02d}", 100.0 * user + n)
        for user in users
        for n, item in enumerate(rng.choice(items, events, replace=False))
    ]


def interactions(events: list[tuple[str, str, float]]) -> Interactions:
    users, items, times = zip(*events, strict=True)
    return from_events(np.array(users), np.array(items), np.array(times))


@pytest.fixture(scope="module")
def world() -> Interactions:
    return interactions(groups(range(80), 9, OLD))


# Arithmetic


def test_one_step_with_one_factor_by_hand() -> None:
    """y = (1, 2), λ = 1, so YᵀY = 5.

    Taken 1 with confidence 3: x = 3·1 / (5 + 2·1 + 1) = 3/8. Taken 2 with 3: x = 3·2 / (5 + 2·4 + 1) = 6/14.
    Taken 1 with 3, disliked 2 with 2: x = 3 / (5 + 2·1 + 1·4 + 1) = 3/12. Nothing: 0. The last with λ = 4: 3/15.
    """
    rows = sparse.csr_matrix(np.array([[3, 0], [0, 3], [3, -2], [0, 0], [3, -2]], dtype=np.float32))
    items = np.array([[1], [2]], dtype=np.float32)
    found = least_squares(rows, turn(items), np.array([1, 1, 1, 1, 4], dtype=np.float32))
    np.testing.assert_allclose(found[:, 0], [3 / 8, 6 / 14, 3 / 12, 0, 3 / 15], rtol=1e-6)


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_least_squares_solves_the_normal_equations(seed: int, size: int, count: int) -> None:
    """Rows with fewer entries than dimensions and rows with more, whose systems differ."""
    rng = np.random.default_rng(seed)
    items = rng.normal(size=(15, size)).astype(np.float32)
    rows = sparse.random(count, 15, density=0.4, format="csr", dtype=np.float32, random_state=seed)
    rows.data = (rng.choice([-1, 1], rows.nnz, p=[0.2, 0.8]) * (1 + 5 * rows.data)).astype(np.float32)
    ridge = (0.1 + rng.random(count)).astype(np.float32)
    found = least_squares(rows, turn(items), ridge)
    for row in range(count):
        c = rows[row].toarray()[0].astype(np.float64)
        whole = items.T.astype(np.float64) @ (np.where(c == 0, 1, np.abs(c))[:, None] * items)
        expected = np.linalg.solve(whole + ridge[row] * np.eye(size), items.T @ np.maximum(c, 0))
        np.testing.assert_allclose(found[row], expected, rtol=2e-3, atol=2e-4)


def test_a_logistic_minimum_by_hand() -> None:
    """ln(1 + e^−x) + ½ρx² has its minimum where σ(−x) = ρx: at x = ln 3, where σ(−x) = 1/4, for ρ = 1/(4 ln 3).

    With a weight of 2 and ρ twice that, the same; moved by an offset of ln 3, where x = ln 9 − ln 3 and σ = 1/10.
    """
    ln3 = np.log(3.0)
    ridge = np.array([1 / (4 * ln3), 2 / (4 * ln3), 1 / (10 * ln3)], dtype=np.float32)
    ones = np.ones((3, 1, 1), dtype=np.float32)
    offsets, weights = np.array([[0], [0], [ln3]], np.float32), np.array([[1], [2], [1]], np.float32)
    np.testing.assert_allclose(logistic(ones, offsets, weights, ridge, 60)[:, 0], [ln3] * 3, rtol=1e-5)


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_the_logistic_loss_is_flat_where_it_ends(seed: int, size: int, count: int) -> None:
    """Its slope, −Σ w σ(−m) f + ρx, is nothing beside the slope at 0, whatever the offsets."""
    rng = np.random.default_rng(seed)
    features, offsets = rng.normal(size=(2, count, size)), 3 * rng.normal(size=(2, count))
    weights, ridge = rng.random((2, count)), 0.1 + rng.random(2)
    found = logistic(*(array.astype(np.float32) for array in (features, offsets, weights, ridge)), steps=60)
    for row in range(2):
        margin = offsets[row] + features[row] @ found[row]
        slope = -(weights[row] / (1 + np.exp(margin))) @ features[row] + ridge[row] * found[row]
        first = (weights[row] / (1 + np.exp(offsets[row]))) @ features[row]
        assert np.abs(slope).max() <= 0.01 * np.abs(first).max() + 1e-3


@given(st.integers(0, 10_000), st.integers(1, 400))
@settings(max_examples=30, deadline=None)
def test_padded_rows_hold_each_entry_once(seed: int, cells: int) -> None:
    matrix = sparse.random(30, 12, density=0.2, format="csr", dtype=np.float32, random_state=seed)
    matrix.data += 1
    rebuilt = np.zeros(matrix.shape, np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.factors, "CELLS", 1000)
        for rows, columns, values in padded_rows(matrix, cells):
            assert len(rows) == 1 or columns.size * cells <= 1000
            np.add.at(rebuilt, (rows[:, None], columns), values)
    np.testing.assert_array_equal(rebuilt, matrix.toarray())


def test_a_fingerprint_is_of_items_and_values_in_any_order() -> None:
    rows = ([0, 1, 2, 0], [2, 1, 0, 1], [0, 1, 2, 0], [0, 1, 3, 0])
    values = ([1, 2, 3, 0], [3, 2, 1, 0], [1, 2, 4, 0], [1, 2, 3, 0])
    matrix = sparse.csr_matrix(
        (np.ravel([row[:3] for row in values]), np.ravel([row[:3] for row in rows]), [0, 3, 6, 9, 12, 12]),
        shape=(5, 4),
        dtype=np.float32,
    )
    first, reordered, other_value, other_item, empty = fingerprints(matrix)
    assert first == reordered
    assert len({first, other_value, other_item, empty}) == 4
    assert empty == 0


def test_typical_negatives_come_as_often_as_their_events() -> None:
    """Of 8 among 4 events of item 0, none of 1, 12 of 2: 8·4/16 = 2 and 8·12/16 = 6."""
    assert list(np.bincount(typical_negatives(np.array([4, 0, 12]), 8, seed=0))) == [2, 0, 6]


# Fitting


@pytest.mark.parametrize("scaling", ["none", "events", "confidence"])
def test_each_iteration_of_als_lowers_the_objective(scaling: str, world: Interactions) -> None:
    told: list[Epoch] = []
    model = ALS(factors=4, iterations=6, scaling=scaling).fit(world, Fitting(on_epoch=told.append))
    assert [(epoch.number, epoch.of) for epoch in told] == [(number, 6) for number in range(1, 7)]
    losses = [epoch.loss for epoch in told]
    assert all(later <= earlier * (1 + 1e-5) for earlier, later in pairwise(losses))
    assert losses[-1] < 0.9 * losses[0]
    assert model.objective(world) == pytest.approx(losses[-1] * world.matrix().nnz)


def test_the_objective_by_hand() -> None:
    """One user, two items, x = 2, y = (1, 1/2), c = (1 + 3, 1), λ = 1/2.

    4·(1 − 2)² + 1·(0 − 1)² + ½·2² + ½·(1² + ½²) = 4 + 1 + 2 + 5/8. With λ for each event of a row, item 1 has none
    and keeps ½: the same. With λ for each confidence, 5, 4 and 1: 5 + ½·(5·4 + 4·1 + 1·¼) = 5 + 97/8.
    """
    train = from_events(np.array(["u"]), np.array(["a"]), np.zeros(1), item_ids=np.array(["a", "b"]))
    for scaling, expected in (("none", 61 / 8), ("events", 61 / 8), ("confidence", 137 / 8)):
        model = ALS(factors=1, regularisation=0.5, alpha=3.0, scaling=scaling)
        model.user_factors, model.item_factors = np.array([[2.0]]), np.array([[1.0], [0.5]])
        assert model.objective(train) == pytest.approx(expected), scaling


@pytest.mark.parametrize("model_class", [BPR, LogisticMF])
def test_descent_lowers_the_loss(model_class: type[Recommender], world: Interactions) -> None:
    told: list[Epoch] = []
    model_class(**SMALL[model_class]).fit(world, Fitting(on_epoch=told.append))
    assert len(told) == told[0].of == told[-1].number >= 30
    assert told[-1].loss < 0.75 * told[0].loss


@EACH
def test_the_same_seed_gives_the_same_model(model_class: type[Recommender], world: Interactions) -> None:
    first, second, other = (fitted(model_class, world, seed=seed).score(ask(world, world)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - other).max() > 1e-4


@EACH
def test_the_best_epoch_is_kept_and_the_rest_saved(model_class: type[Recommender], world: Interactions) -> None:
    """Qualities 1, 3, 2, 2, 2 with a patience of 2: stopped after the fifth, with the second's vectors."""
    seen: list[np.ndarray] = []

    def validate(model: Recommender) -> float:
        seen.append(model.score(ask(world, world)))
        return [1.0, 3.0, 2.0, 2.0, 2.0][len(seen) - 1]

    model = model_class(**SMALL[model_class]).fit(world, Fitting(validate=validate, patience=2))
    assert len(seen) == 5
    np.testing.assert_array_equal(model.score(ask(world, world)), seen[1])
    assert np.abs(seen[1] - seen[4]).max() > 0


@pytest.mark.parametrize("model_class", [BPR, LogisticMF])
def test_an_item_without_events_has_the_lowest_bias(model_class: type[Recommender], world: Interactions) -> None:
    wider = replace(world, item_ids=np.append(world.item_ids, ["zzz"]))
    model = fitted(model_class, wider)
    bias = model.item_factors[:, model.settings.factors]
    assert bias[-1] == bias[:-1].min() < bias[:-1].max()
    items, _ = model.recommend(ask(wider, wider), 10)
    assert len(items) == 80
    assert not (items == world.item_count).any()
    assert fitted(ALS, wider).score(ask(wider, wider))[:, -1] == pytest.approx(0)


def test_half_of_the_negatives_can_be_uniform() -> None:
    """Item a has 97 events and b, c, d one each: 25 users who took all four make it 122 to 26, 26, 26 of 200."""
    users = np.array([f"u{n}" for n in range(100)])
    train = from_events(users, np.array(["a"] * 97 + ["b", "c", "d"]), np.zeros(100))
    model = BPR(factors=2, iterations=1, uniform=0.5).fit(train)
    assert list(model._chances()) == [122, 26, 26, 26]
    assert list(BPR(factors=2, iterations=1, uniform=0.0).fit(train)._chances()) == [97, 1, 1, 1]
    assert model.user_factors.shape == (100, 3)


# Folding in


@pytest.mark.parametrize("scaling", ["none", "events", "confidence"])
def test_folding_a_training_row_into_als_gives_its_own_vector(scaling: str, world: Interactions) -> None:
    model = fitted(ALS, world, scaling=scaling)
    np.testing.assert_allclose(model.fold_in(model.matrix(world)), model.user_factors, rtol=1e-5, atol=1e-6)


def test_the_librarys_own_vectors_are_met_after_convergence(world: Interactions) -> None:
    """The library solves the users before the items, and not exactly: its last users are ours only where both rest."""
    from implicit.cpu.als import AlternatingLeastSquares

    model = fitted(ALS, world, scaling="none", regularisation=1.0)
    library = AlternatingLeastSquares(4, 1.0, iterations=300, random_state=3)
    library.fit(model.matrix(world), show_progress=False)
    model.item_factors = library.item_factors
    np.testing.assert_allclose(model.fold_in(model.matrix(world)), library.user_factors, atol=0.01)


def test_folding_into_bpr_by_hand() -> None:
    """y = (1, 2, 0) without biases; 1, 1 and 2 events, so half of the negatives are the third item.

    Of somebody with the first two, only that half counts: ½ ln(1 + e^−x) + ½ ln(1 + e^−2x) + ½λ(½ + ½)x². Its slope
    is nothing where ½σ(−x) + σ(−2x) = λx, at x = ln 2 for λ = (½·1/3 + 1/5) / ln 2 = 11 / (30 ln 2).
    """
    model = BPR(factors=1, regularisation=11 / (30 * np.log(2)), negatives=512, uniform=0.0)
    model.item_events = np.array([1, 1, 2])
    model.item_factors = np.array([[1, 0], [2, 0], [0, 0]], dtype=np.float32)
    taken = sparse.csr_matrix(np.array([[1, 1, 0], [1, 1, 1]], dtype=np.float32))
    np.testing.assert_allclose(model.fold_in(taken), [[np.log(2), 1], [0, 1]], rtol=1e-4, atol=1e-6)


def test_folding_into_logistic_mf_minimises_the_loss_it_names(world: Interactions) -> None:
    """By the loss written out for one asker: no step in any direction lowers it."""
    model = fitted(LogisticMF, world, alpha=2.0, negatives=3, factors=3)
    row = model.matrix(world)[:1]
    found = model.fold_in(row)[0].astype(np.float64)
    pool = model.item_factors[typical_negatives(model.item_events, 128, model.settings.seed)]

    def loss(user: np.ndarray) -> float:
        taken = 2.0 * np.logaddexp(0, -model.item_factors[row.indices] @ user).sum()
        # The library draws at most factors + 2 = 5 negatives, fewer than the 9 · 3 that would be wanted.
        missed = 5 / 128 * np.logaddexp(0, pool @ user).sum()
        return float(taken + missed + 0.3 * (user @ user))

    assert found[3] == 1
    for column, step in product([0, 1, 2, 4], [-0.02, 0.02]):
        assert loss(found + step * np.eye(5)[column]) > loss(found)


@EACH
def test_a_known_visitor_is_asked_by_vector_and_a_stranger_by_history(
    model_class: type[Recommender], world: Interactions
) -> None:
    model = fitted(model_class, world)
    known = ask(world, world)
    model.user_factors = model.user_factors + 1  # so that one can tell
    np.testing.assert_array_equal(model.vectors(known), model.user_factors)
    strangers = model.vectors(replace(known, users=np.full(len(known), -1)))
    assert (np.abs(strangers - model.user_factors).max(axis=1) > 0.5).all()
    # One event less, and the stored vector is the wrong one.
    shorter = replace(known, histories=world.last(8))
    assert (np.abs(model.vectors(shorter) - model.user_factors).max(axis=1) > 0.5).all()


@EACH
def test_strangers_get_what_the_known_with_their_history_get(
    model_class: type[Recommender], world: Interactions
) -> None:
    """Of five items not yet taken, nearly all are of the own group for both; chance gives an eighth."""
    model = fitted(model_class, world)
    known = ask(world, world)
    for queries in (known, replace(known, users=np.full(len(known), -1))):
        items, _ = model.recommend(queries, 5, exclude_seen=True)
        names = world.item_ids[items]
        own = np.array([f"g{int(user[1:]) % GROUPS}" for user in world.user_ids])
        assert np.mean(np.char.startswith(names, own[:, None])) > 0.9


@EACH
def test_nobody_gets_the_mean_visitors_answer(model_class: type[Recommender], world: Interactions) -> None:
    model = fitted(model_class, world)
    nobody = world.take(np.zeros(1, np.int64)).where(np.zeros(9, bool))
    queries = Queries(nobody, np.array([-1]), np.zeros(1), np.zeros(1, np.int64))
    expected = (model.user_factors @ model.item_factors.T).mean(axis=0)
    np.testing.assert_allclose(model.score(queries)[0], expected, rtol=1e-3, atol=1e-4)


@EACH
@pytest.mark.parametrize("exclude_seen", [False, True])
def test_threads_and_batches_change_no_answer(
    model_class: type[Recommender], exclude_seen: bool, world: Interactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the plain way of the protocol: all scores, then the best."""
    monkeypatch.setattr(training.factors, "BATCH", 7)
    model, queries = fitted(model_class, world), ask(world, world)
    items, scores = model.recommend(queries, 5, exclude_seen)
    plain_items, plain_scores = Recommender.recommend(model, queries, 5, exclude_seen)
    np.testing.assert_allclose(scores, plain_scores, rtol=1e-5, atol=1e-6)
    assert np.mean(items == plain_items) > 0.99  # products in other batches differ in the last bit, so ties may


# Updating


def recall(model: Recommender, queries: Queries, truth: dict[str, set[str]]) -> float:
    """Mean share of what each asker took next that is among the six recommended."""
    items, _ = model.recommend(queries, 6, exclude_seen=True)
    shares = [
        len(truth[user] & set(model.item_ids[row])) / len(truth[user])
        for user, row in zip(queries.histories.user_ids, items, strict=True)
    ]
    return float(np.mean(shares))


@pytest.fixture(scope="module")
def later() -> tuple[Interactions, Interactions, dict[str, set[str]]]:
    """What was known, what is known now, and what each user takes next: the new items not taken yet.

    New items, 40 new users, and every user, old or new, took 4 of the own group's 6 new items.
    """
    before = groups(range(80), 9, OLD)
    added = groups(range(80, 120), 9, OLD, seed=1)
    newer = [
        (user, f"{item[:3]}{int(item[3:]) + OLD}", time + 50) for user, item, time in groups(range(120), 4, NEW, seed=2)
    ]
    truth: dict[str, set[str]] = {}
    for user in sorted({user for user, *_ in newer}):
        group = int(user[1:]) % GROUPS
        everything = {f"g{group}-{item + OLD}" for item in range(NEW)}
        truth[user] = everything - {item for one, item, _ in newer if one == user}
    return interactions(before), interactions(before + added + newer), truth


@EACH
def test_an_update_learns_new_items_and_users_nearly_as_well_as_a_new_fit(
    model_class: type[Recommender], later: tuple[Interactions, Interactions, dict[str, set[str]]]
) -> None:
    before, now, truth = later
    model = fitted(model_class, before)
    # The stale model is asked with what it can read of the histories: it cannot name a new item.
    known = now.where(np.isin(now.item_ids[now.items], before.item_ids))
    codes = np.searchsorted(before.item_ids, now.item_ids[known.items])
    stale = recall(model, ask(replace(known, items=codes, item_ids=before.item_ids), before), truth)
    assert model.update(now) is model
    updated = recall(model, ask(now, now), truth)
    anew = recall(fitted(model_class, now), ask(now, now), truth)
    assert stale == 0
    assert anew > 0.6
    assert updated > 0.9 * anew
    assert list(model.item_ids) == list(now.item_ids)
    strangers = ask(replace(now, user_ids=np.char.add("x", now.user_ids)), now)
    assert recall(model, replace(strangers, histories=now), truth) > 0.8 * anew


@EACH
def test_an_update_takes_few_epochs_and_starts_where_the_fit_ended(
    model_class: type[Recommender], world: Interactions
) -> None:
    """On the same interactions in other rows and codes, the loss goes on from where it was."""
    told: list[Epoch] = []
    model = model_class(**SMALL[model_class]).fit(world, Fitting(on_epoch=told.append))
    count, last, first = len(told), told[-1].loss, told[0].loss
    turned = np.arange(world.user_count)[::-1]
    flipped = replace(world.take(turned), item_ids=world.item_ids[::-1])
    flipped = replace(flipped, items=world.item_count - 1 - flipped.items)
    told.clear()
    model.update(flipped, Fitting(on_epoch=told.append))
    assert len(told) <= count / 3
    assert told[0].loss < last + 0.2 * (first - last)
    queries = ask(flipped, flipped)
    assert (queries.users == np.arange(world.user_count)).all()
    items, _ = model.recommend(queries, 5)
    own = np.array([f"g{int(user[1:]) % GROUPS}" for user in flipped.user_ids])
    assert np.mean(np.char.startswith(flipped.item_ids[items], own[:, None])) > 0.9


def test_a_model_without_an_update_says_so(world: Interactions) -> None:
    with pytest.raises(MarqueeError, match=r"^popular cannot be updated; fit it anew$"):
        Popular().fit(world).update(world)


# Settings


@EACH
def test_the_search_space_names_settings(model_class: Any) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [model_class.space(study.ask()) for _ in range(20)]
    assert all(len(one) >= 3 and model_class(**one) for one in drawn)
    assert len({str(one) for one in drawn}) == 20


def test_als_refuses_what_it_cannot_solve() -> None:
    with pytest.raises(MarqueeError, match=r"^als: regularisation must be more than 0$"):
        ALS(regularisation=0)
    with pytest.raises(MarqueeError, match="Spark scales by events"):
        ALS(engine="spark", scaling="none")
