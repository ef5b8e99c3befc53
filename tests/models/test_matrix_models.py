"""The models over the visitor-item matrix: their arithmetic by hand, and what each promises beyond the protocol."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import scipy.sparse as sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from marquee.errors import MarqueeError
from training.interactions import Interactions, Queries, ask, from_events
from training.matrix_batches import Pairs, mean_history, rest_of_history, rows_of, times
from training.models import neumf
from training.models.dmf import DMFNetwork, DMFSettings, cross_entropy
from training.models.mult_vae import (
    MultVAE,
    MultVAENetwork,
    MultVAESettings,
    beta_rise,
    divergence,
    log_likelihood,
)
from training.models.ranking_factorization import (
    RankingFactorization,
    RankingFactorizationNetwork,
    RankingFactorizationSettings,
)
from training.neural import LazyAdam, keras, tf
from training.recommender import Epoch, Fitting, model_class

pytestmark = pytest.mark.models
NAMES = ["mult_vae", "dmf", "neumf", "ranking_factorization"]
ITEMS, USERS, LENGTH = 12, 60, 4
TINY: dict[str, dict[str, Any]] = {
    "mult_vae": {"hidden": 16, "latent": 4, "epochs": 4, "batch": 20, "learning_rate": 0.01},
    "dmf": {"user_hidden": 8, "item_hidden": 8, "dimensions": 8, "epochs": 4, "batch": 64, "learning_rate": 0.01},
    "neumf": {"factors": 4, "hidden": 8, "epochs": 4, "batch": 64, "learning_rate": 0.02},
    "ranking_factorization": {"factors": 4, "epochs": 4, "batch": 64, "learning_rate": 0.03},
}


def two_tastes(items: int = ITEMS, seed: int = 0) -> Interactions:
    """Even users take even items, odd users odd ones; the features of both are which of the two they are."""
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(USERS), LENGTH)
    taken = np.concatenate([rng.choice(np.arange(u % 2, items, 2), LENGTH, replace=False) for u in range(USERS)])
    names = np.char.mod("i%02d", np.arange(ITEMS))
    made = from_events(np.char.mod("u%02d", users), names[taken], np.arange(len(users)) * 1.0, item_ids=names)
    sides = np.eye(2, dtype=np.float32)
    return replace(
        made,
        item_features=sparse.csr_matrix(sides[np.arange(ITEMS) % 2]),
        user_features=sparse.csr_matrix(sides[np.arange(USERS) % 2] * 10),
    )


def same_side(items: Any, queries: Queries) -> float:
    """Share of items that are of the asker's side."""
    side = np.array([int(name[-1]) % 2 for name in queries.histories.user_ids])
    return float(np.mean(items % 2 == side[:, None]))


matrices = st.builds(
    lambda rows, columns, seed, density: sparse.random(
        rows, columns, density, "csr", dtype=np.float32, random_state=seed
    ),
    st.integers(1, 8),
    st.integers(2, 9),
    st.integers(0, 99),
    st.sampled_from([0.0, 0.2, 0.6]),
)


@settings(max_examples=25, deadline=None)
@given(matrices)
def test_sparse_product_and_its_gradient_are_the_dense_ones(matrix: sparse.csr_matrix) -> None:
    matrix.sort_indices()
    dense, weights = tf.constant(matrix.toarray()), tf.Variable(tf.random.normal((matrix.shape[1], 3)))
    with tf.GradientTape(persistent=True) as tape:
        ours, expected = times(rows_of(matrix), weights), dense @ weights
        ours_sum, expected_sum = tf.reduce_sum(ours**2), tf.reduce_sum(expected**2)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    np.testing.assert_allclose(
        tape.gradient(ours_sum, weights), tape.gradient(expected_sum, weights), rtol=1e-4, atol=1e-4
    )


@settings(max_examples=40, deadline=None)
@given(matrices, st.booleans())
def test_negatives_are_all_that_was_not_taken_and_nothing_else(matrix: sparse.csr_matrix, some: bool) -> None:
    matrix.sort_indices()
    taken = matrix.toarray() > 0
    candidates = np.flatnonzero(taken.any(axis=0)) if some else np.arange(matrix.shape[1])
    pairs = Pairs.of(matrix, candidates)
    assert set(pairs.users) == {user for user in range(len(taken)) if 0 < taken[user].sum() < len(candidates)}
    drawn = pairs.negatives(pairs.users, 400, np.random.default_rng(0))
    assert drawn.shape == (len(pairs), 400)
    for user, row in zip(pairs.users, drawn, strict=True):
        # 400 draws from at most nine: one is missed with a chance of (8/9)^400 < 1e-20.
        assert set(row) == set(candidates) - set(np.flatnonzero(taken[user]))


def test_every_pair_comes_once_an_epoch() -> None:
    matrix = two_tastes().matrix()
    pairs = Pairs.of(matrix)
    places = np.concatenate([chosen for chosen, _ in pairs.batches(7, 2, np.random.default_rng(3))])
    assert sorted(places) == list(range(matrix.nnz)) == list(range(len(pairs)))
    assert list(places) != sorted(places)


def test_history_is_what_remains_without_the_pairs_item() -> None:
    """Row 0 has items 0 and 2 with weights 1 and 4: without item 0, 4·t₂/√4 = 2·t₂. Row 1 has nothing but item 1."""
    matrix = sparse.csr_matrix(np.array([[1, 0, 4], [0, 3, 0]], np.float32))
    table = tf.constant([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    batch = rows_of(matrix), [0, 0, 1], [0, 2, 1], tf.constant([1.0, 4.0, 3.0]), None
    found = rest_of_history(batch, table, 0.5).numpy()
    np.testing.assert_allclose(found, [[10.0, 12.0], [1.0, 2.0], [0.0, 0.0]], atol=1e-6)
    without = sparse.csr_matrix(np.array([[0, 0, 4], [1, 0, 0], [0, 0, 0]], np.float32))
    np.testing.assert_allclose(mean_history(without, 0.5) @ table.numpy(), found, atol=1e-6)


def test_multinomial_likelihood_by_hand() -> None:
    """Row 0: two items of three equal ones, 2·ln(1/3). Row 1: twice the item with half of the mass, 2·ln(2/4)."""
    rows = rows_of(sparse.csr_matrix(np.array([[1, 0, 1], [0, 2, 0]], np.float32)))
    logits = tf.constant([[5.0, 5.0, 5.0], [0.0, np.log(2.0), 0.0]])
    np.testing.assert_allclose(log_likelihood(rows, logits), [-2 * np.log(3), -2 * np.log(2)], rtol=1e-6)


def test_divergence_is_the_closed_form() -> None:
    """N(1, 1)·N(0, 4) from N(0, 1)²: ½(1 + 1 − 0 − 1) + ½(0 + 4 − ln 4 − 1) = 2 − ln 2; none from itself."""
    mean, log_variance = tf.constant([[1.0, 0.0], [0.0, 0.0]]), tf.constant([[0.0, np.log(4.0)], [0.0, 0.0]])
    np.testing.assert_allclose(divergence(mean, log_variance), [2 - np.log(2), 0.0], atol=1e-6)


def test_mult_vae_loss_by_hand() -> None:
    """All weights 0, so all 3 items are equal: (1·ln 3 + 2·ln 3)/2. Mean 1 in 2 dimensions: divergence 1, of β = .2."""
    network = MultVAENetwork(3, MultVAESettings(hidden=4, latent=2))
    for variable in network.variables:
        variable.assign(tf.zeros_like(variable))
    network.normal.bias.assign([1.0, 1.0, 0.0, 0.0])
    rows = rows_of(sparse.csr_matrix(np.array([[1, 0, 0], [0, 1, 1]], np.float32)))
    assert float(network.loss(rows, 0.2, 0)) == pytest.approx(1.5 * np.log(3) + 0.2, rel=1e-6)


def test_the_divergence_weighs_as_published() -> None:
    """MovieLens 20M: 233 steps × 200 epochs, 1/200,000 a step. In 400 steps, .2 is reached after 344 of them."""
    assert beta_rise(MultVAESettings(), 233 * 200) == 1 / 200_000
    assert beta_rise(MultVAESettings(), 400) == pytest.approx(0.2 / 344)


def test_the_divergence_weighs_more_step_by_step_up_to_its_highest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve steps: β is 0 in the first, and .2 from step .86·12 = 10.32 on. An update begins at the highest."""
    betas: list[float] = []
    plain = MultVAENetwork.loss

    def noted(self: MultVAENetwork, rows: Any, beta: Any, step: Any) -> Any:
        tf.numpy_function(lambda value: betas.append(float(value)), [beta], [])
        return plain(self, rows, beta, step)

    monkeypatch.setattr(MultVAENetwork, "loss", noted)
    model = MultVAE(**TINY["mult_vae"] | {"update_epochs": 1}).fit(two_tastes())
    expected = [min(0.2, step * 0.2 / 10.32) for step in range(12)]
    np.testing.assert_allclose(betas, expected, rtol=1e-5)
    model.update(two_tastes())
    np.testing.assert_allclose(betas[12:], [0.2] * 3, rtol=1e-6)


@pytest.fixture(scope="module")
def vae() -> MultVAE:
    return MultVAE(**TINY["mult_vae"] | {"epochs": 60}).fit(two_tastes())


def test_mult_vae_bounds_the_likelihood_of_each_row(vae: MultVAE) -> None:
    """People of both tastes at once are less likely than those of one, and a row's bound does not hang on others."""
    world = two_tastes(seed=1)
    mixed = replace(world, items=np.random.default_rng(0).permutation(world.items))
    ours, theirs = vae.elbo(ask(world, world)), vae.elbo(ask(mixed, world))
    assert ours.shape == (USERS,)
    assert ours.mean() > theirs.mean() + 0.5
    assert (ours < 0).all()
    # No row can be likelier than under the best constant of its own: four items of four, each a quarter.
    assert (ours < LENGTH * np.log(1 / LENGTH)).all()
    some = np.array([5, 2])
    np.testing.assert_allclose(vae.elbo(ask(world, world).take(some)), ours[some], rtol=1e-4)
    nobody = world.where(np.zeros(len(world), bool))
    assert np.isfinite(vae.elbo(ask(nobody, world))).all()


def test_mult_vae_generates_rows_like_those_in_training(vae: MultVAE) -> None:
    sizes = np.tile([0, 3, 4], 100)
    rows = vae.generate(sizes, seed=1)
    assert list(np.diff(rows.indptr)) == list(sizes)
    assert (rows.data == 1).all()
    assert all(len(set(row.indices)) == row.nnz for row in rows)
    # Three or all of a row's four are of one side: by chance in 1 − C(6,2)²/C(12,4) = .55 of the rows.
    odd = rows[2::3].toarray()[:, 1::2].sum(axis=1)
    assert np.mean(odd != 2) > 0.75
    assert (vae.generate(sizes, seed=1) != rows).nnz == 0
    assert (vae.generate(sizes, seed=2) != rows).nnz > 0


def test_dmf_cross_entropy_by_hand() -> None:
    """Rating 3 of 5 at cosine 1/2: −.6 ln ½ − .4 ln ½ = ln 2; 5 of 5 at 1/4: ln 4. Negatives: −ln(1 − c)."""
    cosines = tf.constant([[0.5, 0.2, 0.0], [0.25, 0.75, 0.5]])
    expected = [[np.log(2), np.log(5 / 4), 0.0], [np.log(4), np.log(4), np.log(2)]]
    np.testing.assert_allclose(cross_entropy(cosines, tf.constant([0.6, 1.0])), expected, atol=2e-6)
    assert np.isfinite(cross_entropy(tf.constant([[0.0, 1.0]]), tf.constant([1.0]))).all()


def test_dmf_does_not_see_the_rating_it_has_to_foresee() -> None:
    """The loss of a pair is the same whatever the pair's rating in row and column, as long as the rating hides."""
    ratings = np.array([[5, 3, 0, 1], [4, 0, 0, 1], [1, 1, 0, 5]], np.float32)

    def loss(own: float, hide: bool) -> float:
        tf.random.set_seed(3)
        network = DMFNetwork(3, 4, DMFSettings(hide_target=hide, dimensions=4))
        for variable in network.variables:
            variable.assign(tf.random.stateless_uniform(variable.shape, [1, 2]))
        changed = ratings.copy()
        changed[0, 1] = own
        rows, columns = sparse.csr_matrix(changed[:1]), sparse.csr_matrix(changed.T[[1, 2]])
        one = tf.constant([0]), tf.constant([[0, 1]]), tf.constant([0]), tf.constant([1]), tf.constant([own])
        network.highest.assign(own)  # so that the rating's share in the loss is 1 in both
        return float(network.loss((rows_of(rows), rows_of(columns), *one)))

    assert loss(3.0, hide=True) == pytest.approx(loss(1.0, hide=True), rel=1e-5)
    assert loss(3.0, hide=False) != pytest.approx(loss(1.0, hide=False), rel=1e-5)


def test_ranking_losses_by_hand() -> None:
    """Scores 0 against (0, ln 3), ρ = ¼: ln(1 + e⁰) = ln 2, ln(1 + e^ln 3) = ln 4."""
    positive, negatives, rating = tf.constant([0.0]), tf.constant([[0.0, np.log(3.0)]]), tf.constant([2.0])

    def loss(name: str) -> float:
        network = RankingFactorizationNetwork(2, 0, 0, RankingFactorizationSettings(loss=name))
        network.expect(np.array([1.0, 3.0], np.float32))  # mean 2, deviation 1: nearly all are above 2 − 1.96 = .04
        return float(network.pair_losses(positive, negatives, rating)[0])

    assert loss("logistic") == pytest.approx(2 * np.log(2) + (np.log(2) + np.log(4)) / 4, rel=1e-6)
    assert loss("bpr") == pytest.approx(2 * (np.log(2) + np.log(4)) / 2, rel=1e-6)
    assert loss("rating") == pytest.approx((0 - 2) ** 2 + (np.log(3) - 0.04) ** 2 / 4, rel=1e-5)
    with pytest.raises(MarqueeError, match="no loss 'hinge'; there are logistic, bpr, rating"):
        RankingFactorization(loss="hinge").fit(two_tastes())


def test_ranking_score_is_the_formula() -> None:
    """μ 1 + w_i 2 + a·x 3 + w_j (4, 5) + b·y (6, 0) + (1 + 2)·(7, 8): 37 for item 0, 35 for item 1."""
    world = from_events(np.array(["a", "a"]), np.array(["x", "y"]), np.arange(2.0))
    world = replace(
        world,
        item_features=sparse.csr_matrix([[1.0], [0.0]]),
        user_features=sparse.csr_matrix([[1.0]]),
    )
    model = RankingFactorization(factors=1, epochs=0, history_power=1.0).fit(world)
    network = model.network
    network.mean.assign(1.0)
    network.histories.assign([[2.0, 1.0], [99.0, 99.0]])
    network.user_content.assign([[3.0, 2.0]])
    network.items.assign([[4.0, 7.0], [5.0, 8.0]])
    network.item_content.assign([[6.0, 0.0]])
    model._remember()
    asked = ask(world.where(np.array([True, False])), world)
    np.testing.assert_allclose(model.score(asked), [[37.0, 35.0]], rtol=1e-6)


def test_new_items_and_new_visitors_are_scored_from_their_content() -> None:
    """Nobody took the last four items in training, and those who ask have no history: only the features speak."""
    world = two_tastes(items=ITEMS - 4)
    model = RankingFactorization(**TINY["ranking_factorization"] | {"epochs": 15}).fit(world)
    new = np.arange(ITEMS - 4, ITEMS)
    queries = ask(world, world)
    best = new[np.argsort(-model.score(queries)[:, new], axis=1)[:, :2]]
    assert same_side(best, queries) > 0.9
    nobody = ask(world.where(np.zeros(len(world), bool)), world)
    assert same_side(np.argsort(-model.score(nobody), axis=1)[:, :3], nobody) > 0.9
    # Nobody could have taken the new items, so they were no negatives either: their own rows are as they were drawn.
    drawn = RankingFactorization(**TINY["ranking_factorization"] | {"epochs": 0}).fit(world).network.items.numpy()
    assert (model.network.items.numpy()[new] == drawn[new]).all()
    assert (model.network.items.numpy()[: new[0]] != drawn[: new[0]]).any(axis=1).all()
    vectors = model.item_vectors()
    np.testing.assert_allclose(vectors[new[0]], vectors[new[2]], rtol=1e-5)
    with pytest.raises(MarqueeError, match="there are 1 features, and the model was fitted on 2"):
        model.score(replace(queries, histories=replace(queries.histories, user_features=sparse.eye(USERS, 1))))


def test_neumf_scores_in_blocks_what_the_network_says(monkeypatch: pytest.MonkeyPatch) -> None:
    world = two_tastes()
    model: Any = model_class("neumf")(**TINY["neumf"] | {"epochs": 0}).fit(world)
    queries = ask(world, world).take(np.arange(7))
    visitors = mean_history(queries.histories.matrix(), 0.5) @ model.network.histories.numpy()
    items = tf.tile(model.network.items[None], [7, 1, 1])
    expected = model.network.logits(tf.constant(visitors, tf.float32), items).numpy()
    np.testing.assert_allclose(model.score(queries), expected, rtol=1e-4, atol=1e-6)
    for cells in (1, 5 * 8, 3 * ITEMS * 8):  # an item at a time; some items; some visitors
        monkeypatch.setattr(neumf, "CELLS", cells)
        np.testing.assert_allclose(model.score(queries), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_fit_that_was_interrupted_ends_like_one_that_was_not(name: str, tmp_path: Path) -> None:
    """Dropout, noise, negatives, order, the optimizer's state and β included."""
    world = two_tastes()
    whole = model_class(name)(**TINY[name]).fit(world)

    def stop(epoch: Epoch) -> None:
        if epoch.number == 2:
            raise KeyboardInterrupt

    told: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        model_class(name)(**TINY[name]).fit(world, Fitting(on_epoch=stop, checkpoint=tmp_path))
    again = model_class(name)(**TINY[name])
    again.fit(world, Fitting(on_epoch=lambda epoch: told.append(epoch.number), checkpoint=tmp_path))
    assert told == [3, 4]
    assert len(whole.state()) > 3
    for key, expected in whole.state().items():
        np.testing.assert_array_equal(again.state()[key], expected, err_msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_an_update_goes_on_with_new_items_from_what_was_learnt(name: str) -> None:
    """After some epochs with a new item, of a name before all others, the old taste is there and the new item in it."""
    old = two_tastes()
    model: Any = model_class(name)(**TINY[name] | {"epochs": 25, "update_epochs": 4}).fit(old)
    before = model.score(ask(old, old))
    users, items = old.user_ids[old.users], old.item_ids[old.items]
    even = old.user_ids[::2]
    new = from_events(
        np.concatenate([users, even]),
        np.concatenate([items, np.full(len(even), "a")]),
        np.arange(len(users) + len(even)) * 1.0,
    )
    features = sparse.csr_matrix(np.eye(2, dtype=np.float32)[np.concatenate([[0], np.arange(ITEMS) % 2])])
    new = replace(new, item_features=features, user_features=old.user_features)
    assert model.update(new) is model
    assert list(model.item_ids) == ["a", *old.item_ids]
    after = model.score(ask(replace(old, items=old.items + 1, item_ids=new.item_ids), new))
    assert after.shape == (USERS, ITEMS + 1)
    assert np.isfinite(after).all()
    kept = np.argsort(-after[:, 1:], axis=1)[:, :4]
    assert same_side(kept, ask(old, old)) > 0.9
    assert np.corrcoef(before.ravel(), after[:, 1:].ravel())[0, 1] > 0.8
    assert after[::2, 0].mean() > after[1::2, 0].mean()


@pytest.mark.parametrize("name", NAMES)
def test_weights_count_where_they_are_asked_to(name: str) -> None:
    """An item with a hundredfold weight says more of its taker than the others."""
    world = two_tastes()
    given_weights = {"dmf": {}}.get(name, {"weighted": True})
    model = model_class(name)(**TINY[name] | given_weights | {"epochs": 0}).fit(world)
    asked = ask(world.take(np.array([0])), world)
    weights = np.array([1.0, 4.0, 1.0, 1.0], np.float32)
    heavier = replace(asked, histories=replace(asked.histories, weights=weights))
    assert not np.allclose(model.score(asked), model.score(heavier), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_space_is_of_settings_that_the_model_has(name: str) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found = model_class(name).space(study.ask())
    assert len(found) >= 4
    model_class(name)(**found)


def test_adam_in_one_pass_is_adam() -> None:
    """The same values after three steps as Keras' own, to rounding."""
    gradients = [tf.random.stateless_normal((5, 3), [step, 0]) for step in range(3)]

    def after(adam: Any) -> Any:
        variable = tf.Variable(tf.ones((5, 3)))
        adam.build([variable])
        for gradient in gradients:
            adam.apply_gradients([(gradient, variable)])
        return variable.numpy()

    np.testing.assert_allclose(after(LazyAdam(0.1)), after(keras.optimizers.Adam(0.1)), rtol=1e-5)
