"""The two-tower recommender: its loss by hand, its batches, and worlds where the answer is known."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sparse
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from numpy.typing import NDArray

from marquee.errors import MarqueeError
from training.interactions import Interactions, Queries, ask, from_events
from training.models.two_tower import TwoTower, TwoTowerSettings, unit
from training.recommender import Epoch, Fitting

pytestmark = pytest.mark.models
QUIET = {"dropout": 0.0, "id_dropout": 0.0, "negatives": 1000}
"""Nothing at random, and all items are candidates."""


def events_of(lengths: list[int], items: int, seed: int = 0) -> Interactions:
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(len(lengths)), lengths)
    names = np.char.mod("i%02d", np.arange(items))
    return from_events(
        np.char.mod("u%02d", users), names[rng.integers(0, items, len(users))], np.arange(len(users)) * 1.0
    )


def network_of(train: Interactions, **settings: Any) -> Any:
    from training.history_towers import HistoryNetwork

    return HistoryNetwork(train, replace(TwoTowerSettings(dimensions=3, seed=1), **settings))


def batch_of(items: list[list[int]], users: list[list[int]], targets: list[list[int]]) -> dict[str, Any]:
    return {
        "items": np.array(items, np.int32),
        "users": np.array(users, np.int32),
        "targets": np.array(targets, dtype=bool),
        "step": np.int32(0),
    }


ROWS = batch_of([[0, 1, 2, 0], [3, 1, 3, 2]], [[0, 0, 0, 1], [2, 2, 2, 2]], [[0, 1, 1, 1], [1, 0, 1, 1]])


def by_hand(weights: dict[str, NDArray[Any]], temperature: float, half_life: float) -> list[float]:
    """Losses of the six targets of ``ROWS``, one after the other, from the definition."""
    vectors = unit(weights["id_vectors"]).astype(np.float64)
    losses = []
    for history, target in (([0], 1), ([0, 1], 2), ([], 0), ([], 3), ([3, 1], 3), ([3, 1, 3], 2)):
        shares = np.array([0.5 ** (back / half_life) for back in reversed(range(len(history)))])
        mean = shares @ vectors[history] / shares.sum() if history else np.zeros(3)
        query = mean @ weights["projection"] + (0 if history else weights["nobody"])
        logits = vectors @ query / np.linalg.norm(query) / temperature + weights["id_biases"]
        losses.append(np.log(np.exp(logits).sum()) - logits[target])
    return losses


def test_loss_of_a_batch_by_hand() -> None:
    train = events_of([4, 4, 4], 4)
    network = network_of(train, length=4, half_life=2.0, temperature=0.5, **QUIET)
    network.weights_by_name["projection"].assign(np.random.default_rng(3).normal(size=(3, 3)))
    losses = by_hand(network.learnt(), 0.5, 2.0)
    assert float(network.compute_loss(ROWS, training=True)) == pytest.approx(np.mean(losses), rel=1e-4)
    assert np.std(losses) > 0.1, "a loss that forgot histories or targets would be the same for all"


def test_parts_of_a_batch_sum_up_to_the_whole() -> None:
    """Two workers, each with its rows and the whole batch's candidates, have the loss of one."""
    train = events_of([9, 9, 9], 6)
    network = network_of(train, length=4, negatives=3, dropout=0.4)
    whole = float(network.compute_loss(ROWS, training=True))
    parts = [float(network.compute_loss(ROWS | {"part": (part, 2), "count": 6}, training=True)) for part in (0, 1)]
    assert sum(parts) == pytest.approx(whole, rel=1e-5)
    assert min(parts) > 0.1


def test_where_all_items_are_candidates_the_loss_is_that_of_tfrs() -> None:
    """TFRS takes the first candidates for the targets and the rest for further negatives, and sums over the batch."""
    import tensorflow_recommenders as tfrs

    from training.neural import tf
    from training.two_tower import Sides, TwoTowerNetwork

    rng = np.random.default_rng(5)
    queries, candidates = (unit(rng.normal(size=(n, 4))) for n in (3, 7))

    class Fixed(TwoTowerNetwork):
        def sides(self, features: Any, training: bool) -> Sides:
            nothing = tf.zeros(7)
            return Sides(tf.constant(queries), tf.range(7), tf.constant(candidates), nothing, nothing, tf.range(3))

    expected = tfrs.tasks.Retrieval(temperature=0.2)(tf.constant(queries), tf.constant(candidates))
    assert float(Fixed(0.2).compute_loss({})) == pytest.approx(float(expected) / 3, rel=1e-4)


def test_what_was_taken_stands_for_itself_and_others_for_those_not_drawn() -> None:
    """−log (eˢ / (eˢ + Σ eᵗ / π)) by hand, with s = 2, t = 1 and 0, and π = 1/2 and 1/4."""
    from training.neural import tf
    from training.two_tower import Sides, TwoTowerNetwork

    class Fixed(TwoTowerNetwork):
        def sides(self, features: Any, training: bool) -> Sides:
            log_inclusion = tf.math.log([0.125, 0.5, 0.25])
            return Sides(tf.ones((1, 1)), tf.range(3), tf.constant([[2.0], [1], [0]]), tf.zeros(3), log_inclusion, [0])

    expected = -np.log(np.exp(2) / (np.exp(2) + np.exp(1) * 2 + np.exp(0) * 4))
    assert float(Fixed(1.0).compute_loss({})) == pytest.approx(expected, rel=1e-5)


def test_how_likely_an_item_is_a_candidate_by_counting() -> None:
    from training.two_tower import log_inclusion

    shares, known = np.array([0.5, 0.3, 0.15, 0.05, 0.0]), np.array([True] * 4 + [False])
    found = np.exp(log_inclusion(shares, 3, known, 2))
    rng = np.random.default_rng(1)
    counts = np.zeros(5)
    for _ in range(4000):
        counts[np.unique(np.concatenate([rng.choice(5, 3, p=shares), rng.integers(0, 4, 2)]))] += 1
    assert found == pytest.approx(counts / 4000, abs=0.03)
    assert log_inclusion(shares, 3, known, 4).tolist() == [0.0] * 5, "all known items are candidates"


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any),
    st.integers(1, 6),
    st.integers(1, 40),
    st.booleans(),
    st.integers(0, 99),
)
@effort(max_examples=40, deadline=None)
def test_batches_hold_each_event_at_most_once_and_in_order(
    lengths: list[int], length: int, batch: int, repeats: bool, seed: int
) -> None:
    from training.history_towers import event_rows, first_times

    train = events_of(lengths, 5, seed)
    settings = TwoTowerSettings(length=length, batch=batch, repeats=repeats, seed=seed)
    seen: set[tuple[int, int]] = set()
    position = np.arange(len(train)) - np.repeat(train.starts[:-1], train.lengths)
    batches = list(event_rows(train, settings, 2).as_numpy_iterator())
    assert batches
    for one in batches:
        for items, users, targets in zip(one["items"], one["users"], one["targets"], strict=True):
            for user in np.unique(users):
                # The row's part of the user's history is a piece of it, in order, at a place that fits.
                piece = items[users == user].tolist()
                whole = train.items[train.starts[user] : train.starts[user + 1]].tolist()
                assert any(whole[start : start + len(piece)] == piece for start in range(len(whole)))
            for place in np.flatnonzero(targets):
                assert place > 0 or (items[0] == train.items[train.starts[users[0]]])
        seen |= {(int(one["step"]), index) for index in range(one["items"].size)}
    held = sum(one["items"].size for one in batches)
    assert len(train) // 2 <= held <= len(train)
    assert len(seen) == held
    again = list(event_rows(train, settings, 2).as_numpy_iterator())
    assert all(np.array_equal(a["items"], b["items"]) for a, b in zip(batches, again, strict=True))
    assert first_times(train).sum() == len({(u, i) for u, i in zip(train.users, train.items, strict=True)})
    assert (position >= 0).all()


def test_numpy_scores_are_the_networks() -> None:
    """A history that is asked about is the query tower's, with content of items and users and without a history."""
    rng = np.random.default_rng(2)
    train = events_of([4, 4, 4], 4)
    content = sparse.csr_matrix(rng.random((4, 6)).astype(np.float32))
    people = sparse.csr_matrix(rng.random((3, 2)).astype(np.float32))
    train = replace(train, item_features=content, user_features=people)
    network = network_of(train, length=4, half_life=2.0, **QUIET)
    network.weights_by_name["content_biases"].assign(rng.normal(size=(6, 1)))
    model = TwoTower(dimensions=3, length=4, half_life=2.0)
    model.take(network, train)
    sides = network.sides(ROWS, training=False)
    histories = [([0], 0), ([0, 1], 0), ([], 1), ([], 2), ([3, 1], 2), ([3, 1, 3], 2)]
    names = np.concatenate([np.full(len(history), f"q{row}") for row, (history, _) in enumerate(histories)])
    items = train.item_ids[np.concatenate([np.array(history, np.int64) for history, _ in histories])]
    asked = from_events(names, items, np.arange(len(items)) * 1.0, item_ids=train.item_ids)
    rows = [int(name[1:]) for name in asked.user_ids]
    asked = replace(asked, user_features=people[[histories[row][1] for row in rows]])
    np.testing.assert_allclose(model.query_vectors(ask(asked, train)), sides.queries.numpy()[rows], atol=1e-5)
    nobody = asked.take(np.array([0])).where(np.zeros(asked.lengths[0], dtype=bool))
    nobody = replace(nobody, user_features=people[[1]])
    alone = Queries(nobody, np.array([-1]), np.zeros(1), np.zeros(1, np.int64))
    np.testing.assert_allclose(model.query_vectors(alone), sides.queries.numpy()[[2]], atol=1e-5)
    np.testing.assert_allclose(model.vectors, sides.candidates.numpy(), atol=1e-5)
    np.testing.assert_allclose(model.biases, sides.offsets.numpy(), atol=1e-4)


def shelves(users: int = 240, new: int = 8) -> tuple[Interactions, NDArray[np.int64]]:
    """Users who take items of one of four shelves; the first ``new`` items, two of each shelf, nobody took so far.

    Content is the shelf and a little noise. Returns the events and each item's shelf.
    """
    rng = np.random.default_rng(4)
    shelf = np.arange(48) % 4
    taken = [
        rng.choice(np.flatnonzero((shelf == user % 4) & (np.arange(48) >= new)), 8, False) for user in range(users)
    ]
    names = np.char.mod("i%02d", np.arange(48))
    train = from_events(
        np.repeat(np.char.mod("u%03d", np.arange(users)), 8),
        names[np.concatenate(taken)],
        np.arange(8 * users) * 1.0,
        item_ids=names,
    )
    content = np.hstack([np.eye(4)[shelf], rng.random((48, 3)) < 0.3]).astype(np.float32)
    return replace(train, item_features=sparse.csr_matrix(content)), shelf


SMALL = {"dimensions": 16, "length": 8, "batch": 128, "epochs": 12, "learning_rate": 0.02}


def test_new_items_are_placed_by_their_content() -> None:
    """Of eight items that nobody took two are of the asker's shelf, a quarter; they come first for nearly all."""
    train, shelf = shelves()
    model = TwoTower(**SMALL).fit(train)
    queries = ask(train, train)
    best = np.argsort(-model.score(queries)[:, :8], axis=1)[:, :2]
    assert np.mean(shelf[best] == (np.arange(train.user_count) % 4)[:, None]) > 0.95
    blind = TwoTower(**SMALL).fit(replace(train, item_features=None))
    scores = blind.score(queries)
    assert (scores[:, :8].max(axis=1) <= scores[:, 8:].max(axis=1)).all(), "without content new items come last"
    assert np.isfinite(scores).all()


def test_what_is_known_of_users_counts_where_they_have_no_history() -> None:
    train, shelf = shelves()
    people = sparse.csr_matrix(np.eye(4, dtype=np.float32)[np.arange(train.user_count) % 4])
    model = TwoTower(**SMALL).fit(replace(train, user_features=people))
    nobody = replace(train, user_features=people).take(np.arange(4)).where(np.zeros(32, dtype=bool))
    items, _ = model.recommend(Queries(nobody, np.full(4, -1), np.zeros(4), np.zeros(4, np.int64)), 5)
    assert np.mean(shelf[items] == np.arange(4)[:, None]) > 0.95


def test_an_update_learns_new_items_and_keeps_the_rest() -> None:
    """Ten users of each shelf take its new items; afterwards these come up for others of that shelf."""
    train, shelf = shelves()
    model = TwoTower(**SMALL, update_epochs=4).fit(replace(train, item_features=None))
    before = model.vectors.copy()
    rng = np.random.default_rng(9)
    late = [rng.choice(np.flatnonzero(shelf == user % 4)[:2], 2, False) for user in range(80)]
    users = np.concatenate([train.user_ids[train.users], np.repeat(train.user_ids[:80], 2)])
    items = np.concatenate([train.item_ids[train.items], train.item_ids[np.concatenate(late)]])
    new = from_events(users, items, np.arange(len(users)) * 1.0)
    model.update(new)
    queries = ask(train.take(np.arange(80, 240)), new)
    best = np.argsort(-model.score(queries)[:, :8], axis=1)[:, :2]
    assert np.mean(shelf[best] == (np.arange(80, 240) % 4)[:, None]) > 0.9
    alike = np.sum(unit(model.vectors[8:]) * unit(before[8:]), axis=1)
    assert alike.mean() > 0.6, "a model fitted anew would have other axes"


class Interrupted(Exception):
    pass


def test_a_fit_that_was_broken_off_goes_on_to_the_same_model(tmp_path: Path) -> None:
    train, _ = shelves(users=60)
    settings = SMALL | {"epochs": 4, "negatives": 12}

    def stop(epoch: Epoch) -> None:
        if epoch.number == 2:
            raise Interrupted

    whole = TwoTower(**settings).fit(train)
    with pytest.raises(Interrupted):
        TwoTower(**settings).fit(train, Fitting(on_epoch=stop, checkpoint=tmp_path))
    told: list[int] = []
    resumed = TwoTower(**settings).fit(
        train, Fitting(on_epoch=lambda epoch: told.append(epoch.number), checkpoint=tmp_path)
    )
    assert told == [3, 4]
    np.testing.assert_allclose(resumed.vectors, whole.vectors, atol=1e-5)


@pytest.mark.slow
def test_it_is_better_than_popular_and_than_bpr_on_real_events(tmp_path: Path) -> None:
    """Tmall by time: what users do after the first 80 % of the events, ranked among all brands."""
    from training.harness.judging import quality
    from training.harness.protocols import Files, read_task
    from training.models.bpr import BPR
    from training.models.popular import Popular

    path = Path(os.environ.get("MARQUEE_DATA", "../shared/data")) / "tmall_2014" / "t_alibaba_data.csv.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    raw = pd.read_csv(path)
    months = raw["visit_datetime"].str.split("-", expand=True).astype(int)
    days = [f"2013-{month:02d}-{day:02d}" for month, day in zip(months[0], months[1], strict=True)]
    table = tmp_path / "clicks.csv"
    pd.DataFrame({"user": raw["user_id"], "item": raw["brand_id"], "time": days}).to_csv(table, index=False)
    task = read_task("temporal", Files(table))
    kinds = (TwoTower, Popular, BPR)
    found = {kind.name(): quality(kind().fit(task.train), task, [20])["recall_capped@20"] for kind in kinds}
    assert found["two_tower"] > found["popular"], found
    assert found["two_tower"] > found["bpr"], found


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(MarqueeError, match="two_tower has no setting 'hidden'"):
        TwoTower(hidden=3)
