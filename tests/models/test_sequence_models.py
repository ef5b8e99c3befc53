"""GRU4Rec and SASRec: tables of histories, losses by hand, no look ahead, a fit that was interrupted."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from training.interactions import Interactions, ask, from_events
from training.neural import keras, tf
from training.recommender import Epoch, Fitting, model_class
from training.sequences import SequenceNetwork, SequenceSettings, _batches, _table, _windows, _without_hits

pytestmark = pytest.mark.models
NAMES = ("gru4rec", "sasrec")
TINY = {"dimensions": 8, "length": 6, "epochs": 3, "batch": 16, "negatives": 12, "learning_rate": 0.01}


def cycle(users: int = 40, items: int = 10, length: int = 7) -> Interactions:
    """Everybody walks i, i + 1, i + 2 … around a ring of items, each from somewhere else: the next is always known."""
    walks = [[f"i{(start + step) % items}" for step in range(length)] for start in range(users)]
    names = np.repeat([f"u{user:02d}" for user in range(users)], length)
    return from_events(names, np.array(walks).ravel(), np.arange(users * length, dtype=float))


def of_lengths(*lengths: int) -> Interactions:
    """Histories whose items count up from 0 through all of them."""
    names = np.repeat([f"u{user:02d}" for user in range(len(lengths))], lengths)
    items = np.char.mod("i%04d", np.arange(sum(lengths)))
    return from_events(names, items, np.arange(sum(lengths), dtype=float))


def test_a_history_stands_from_the_left_with_codes_from_one() -> None:
    table, lengths = _table(of_lengths(3, 1, 5), 4)
    # The third history has items 4 to 8 and keeps its newest four.
    assert table.tolist() == [[1, 2, 3, 0], [4, 0, 0, 0], [6, 7, 8, 9]]
    assert lengths.tolist() == [3, 1, 4]


def test_long_histories_are_cut_into_windows_that_share_one_event() -> None:
    table, lengths = _windows(of_lengths(6, 1, 2), 2)
    # Six events hold five steps: two from the end, two before, one left; the single event holds none.
    assert sorted(row[:size].tolist() for row, size in zip(table, lengths, strict=True)) == [
        [1, 2],
        [2, 3, 4],
        [4, 5, 6],
        [8, 9],
    ]


@pytest.mark.parametrize("seed", range(3))
def test_every_step_is_trained_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    world = of_lengths(*rng.integers(1, 30, 20).tolist())
    table, lengths = _windows(world, 7)
    rows = [row[:size].tolist() for row, size in zip(table, lengths, strict=True)]
    steps = {pair for row in rows for pair in pairwise(row)}
    codes = np.arange(1, len(world) + 1)
    within = world.users[1:] == world.users[:-1]
    assert steps == set(zip(codes[:-1][within], codes[1:][within], strict=True))
    assert (lengths - 1).sum() == within.sum()


def test_batches_hold_every_window_once_in_an_order_of_the_epoch() -> None:
    table, lengths = _windows(of_lengths(*range(2, 40)), 9)
    orders = []
    for epoch in (1, 1, 2):
        rows = [row for batch, _ in _batches(table, lengths, 8, np.random.default_rng(epoch)) for row in batch.numpy()]
        orders.append([row[row > 0].tolist() for row in rows])
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) == sorted(row[row > 0].tolist() for row in table)


def test_a_target_that_was_drawn_too_does_not_count_against_itself() -> None:
    scores = tf.constant([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
    found = _without_hits(scores, tf.constant([2, 5, 9], tf.int64), tf.constant([5, 1, 9], tf.int64)).numpy()
    assert found.tolist() == [[1.0, -1e9, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, -1e9]]


def network(items: int, **settings: object) -> SequenceNetwork:
    """A network whose state is the embedding of the last item itself."""

    class Same(keras.layers.Layer):
        def call(self, embedded: object, lengths: object, training: bool = False) -> object:
            return embedded

    return SequenceNetwork(Same(), items, SequenceSettings(dropout=0.0, output_dropout=0.0, scale=0.0, **settings))  # type: ignore[arg-type]


def test_the_full_softmax_loss_by_hand() -> None:
    net = network(3, dimensions=2, negatives=0)
    net.embeddings.assign([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    # History: item 0, then item 2. The state is (1, 0), the logits (1, 0, 1): log(e + 1 + e) - 1.
    loss = net.loss((tf.constant([[1, 3]], tf.int64), tf.constant([2], tf.int64)))
    assert float(loss) == pytest.approx(np.log(2 * np.e + 1) - 1)


def test_gbce_by_hand() -> None:
    net = network(5, dimensions=2, loss="gbce", calibration=0.75, negatives=2)
    # Two of four possible negatives: α = 1/2, β = 1/2 · (3/4 · (1 − 2) + 2) = 5/8.
    # −β log σ(1) = 5/8 · .313262; negatives 0 and −1: log 2 + .313262; all over three.
    loss = net._gbce(tf.constant([1.0]), tf.constant([[0.0, -1.0]]))
    assert float(loss) == pytest.approx((0.625 * 0.3132617 + 0.6931472 + 0.3132617) / 3, rel=1e-5)


def test_the_sampled_softmax_is_near_the_full_one() -> None:
    """With the log-Q correction the mean of many draws comes close; without it, it would be off by a factor."""
    items = 400
    full, sampled = network(items, dimensions=8, negatives=0), network(items, dimensions=8, negatives=100)
    sampled.embeddings.assign(full.embeddings)
    chances = np.random.default_rng(0).dirichlet(np.ones(items))
    sampled.draw_from(chances)
    batch = (tf.constant([[5, 9, 17]], tf.int64), tf.constant([3], tf.int64))
    mean = np.mean([float(sampled.loss(batch)) for _ in range(200)])
    assert mean == pytest.approx(float(full.loss(batch)), rel=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_the_next_step_of_a_ring_is_learnt(name: str) -> None:
    world = cycle()
    model = model_class(name)(**{**TINY, "epochs": 60, "dropout": 0.0, "output_dropout": 0.0, "scale": 8.0}).fit(world)
    items, _ = model.recommend(ask(world, world), 1)
    assert np.mean(items[:, 0] == _next_of(world)) > 0.95


@pytest.mark.parametrize("name", NAMES)
def test_a_state_never_looks_ahead(name: str) -> None:
    model = model_class(name)(**TINY).fit(cycle())
    first = np.array([[1, 2, 3, 4, 5]])
    second = np.array([[1, 2, 3, 9, 7]])
    states = [
        model.network.states(tf.constant(table, tf.int64), tf.constant([5], tf.int64), training=False).numpy()
        for table in (first, second)
    ]
    np.testing.assert_allclose(states[0][0, :3], states[1][0, :3], atol=1e-6)
    assert np.abs(states[0][0, 3:] - states[1][0, 3:]).max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_chances_sum_to_one(name: str) -> None:
    world = cycle()
    model = model_class(name)(**TINY).fit(world)
    queries = ask(world.where(world.users > 2), world)
    logs = model.log_probabilities(queries)
    np.testing.assert_allclose(np.exp(logs).sum(axis=1), 1.0, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_an_update_learns_of_new_items_and_keeps_what_it_knew(name: str) -> None:
    """A tenth of a fit's epochs from nothing would not do: the ring grows by two items at its end."""
    settings = {**TINY, "epochs": 60, "dropout": 0.0, "output_dropout": 0.0, "scale": 8.0}
    model = model_class(name)(**settings).fit(cycle())
    known = {item: row.copy() for item, row in zip(model.item_ids, model.item_vectors(), strict=True)}
    grown = cycle(items=12, users=48)
    model.update(grown)
    assert list(model.item_ids) == list(grown.item_ids)
    items, _ = model.recommend(ask(grown, grown), 1)
    assert np.mean(items[:, 0] == _next_of(grown)) > 0.9
    kept = [
        float(known[item] @ row)
        for item, row in zip(model.item_ids, model.item_vectors(), strict=True)
        if item in known
    ]
    assert np.mean(kept) > 0.5


def _next_of(world: Interactions) -> np.ndarray:
    """Code of the item one step on from each history's last."""
    last = [int(world.item_ids[code][1:]) for code in world.padded(1)[:, 0]]
    return np.searchsorted(world.item_ids, [f"i{(number + 1) % world.item_count}" for number in last])


class Killed(Exception):
    """Stands for what ends a process in the middle."""


@pytest.mark.parametrize("name", NAMES)
def test_a_fit_that_was_interrupted_goes_on_where_it_was(name: str, tmp_path: Path) -> None:
    world, epochs = cycle(), []

    def stop(epoch: Epoch) -> None:
        epochs.append(epoch.number)
        if len(epochs) == 2:
            raise Killed

    whole = model_class(name)(**TINY).fit(world)
    with pytest.raises(Killed):
        model_class(name)(**TINY).fit(world, Fitting(on_epoch=stop, checkpoint=tmp_path))
    resumed = model_class(name)(**TINY).fit(world, Fitting(on_epoch=stop, checkpoint=tmp_path))
    assert epochs == [1, 2, 3]
    queries = ask(world, world)
    np.testing.assert_allclose(resumed.score(queries), whole.score(queries), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_best_epoch_is_kept_and_a_stale_fit_stops(name: str) -> None:
    world, seen = cycle(), []
    judged = iter([0.1, 0.5, 0.2, 0.3, 0.4])

    def validate(model: object) -> float:
        seen.append(model.score(ask(world, world)))  # type: ignore[attr-defined]
        return next(judged)

    model = model_class(name)(**{**TINY, "epochs": 50}).fit(world, Fitting(validate=validate, patience=1))
    assert len(seen) == 4
    np.testing.assert_allclose(model.score(ask(world, world)), seen[1], atol=1e-6)
