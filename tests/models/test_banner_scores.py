"""Banners from products, and new banners from their content, in worlds whose answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sparse
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from numpy.typing import NDArray

from marquee.errors import NothingToDo
from marquee.settings import Settings
from training.banner_scores import (
    BannerScoreSettings,
    fit_product_scores,
    histories_before,
    lift,
    original,
    rank_gains,
    read_products,
)
from training.cold_start import ColdStartSettings, click_rates, neighbour_rates
from training.dataset import load_dataset
from training.interactions import from_events

pytestmark = pytest.mark.models


def lists_of(*banners: list[int], products: int) -> sparse.csr_matrix:
    rows = np.repeat(np.arange(len(banners)), [len(banner) for banner in banners])
    columns = np.concatenate([np.array(banner, dtype=np.int64) for banner in banners])
    return sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=(len(banners), products))


def test_original_and_lift_by_hand() -> None:
    scores = np.array([[0.4, 0.3, 0.2, 0.1]], np.float32)
    lists = lists_of([0], [0, 3], [2, 3], products=4)
    # The best two are products 0 and 1.
    assert original(scores, lists, depth=2)[0].tolist() == [1 / 1, 1 / 2, 0 / 2]
    gains = np.array([[2.0, 1.0, 0.5, 0.5]], np.float32)
    expected = [(2 + 3) / (1 + 3), (2.5 + 3) / (2 + 3), (1 + 3) / (2 + 3)]
    assert lift(gains, lists, prior=3.0)[0] == pytest.approx(expected)


def test_rank_gains_by_hand() -> None:
    found = rank_gains(np.array([[0.1, 0.9, 0.1]], np.float32))[0]
    # Discounts 1/log2(2), 1/log2(3), 1/log2(4) for product 1, then 0 and 2, which tie and keep their order.
    discounts = np.array([1 / np.log2(3), 1.0, 0.5])
    assert found == pytest.approx(discounts / discounts.mean())


@given(st.integers(1, 40), st.floats(0, 20), st.integers(0, 10_000))
@effort(max_examples=50, deadline=None)
def test_a_list_of_all_products_is_worth_what_random_ones_are(products: int, prior: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    gains = rank_gains(rng.normal(size=(3, products)).astype(np.float32))
    everything = lists_of(list(range(products)), products=products)
    assert lift(gains, everything, prior)[:, 0] == pytest.approx(np.ones(3), rel=1e-4)


def crowd(
    sizes: NDArray[np.int64], worths: NDArray[np.float64], seed: int
) -> tuple[NDArray[np.float32], sparse.csr_matrix]:
    """Scores of products of their own for each banner: the banner's worth for the asker, plus each product's luck."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    scores = worths[:, owner] + rng.normal(size=(len(worths), len(owner)))
    lists = sparse.csr_matrix((np.ones(len(owner), np.float32), (owner, np.arange(len(owner)))))
    return scores.astype(np.float32), lists


SIZES = np.array([1] * 60 + [5] * 20 + [20] * 15 + [300] * 5)


def winners(scores: NDArray[np.float32], k: int = 10) -> NDArray[np.int64]:
    ties = np.random.default_rng(0).random(scores.shape[1]) * 1e-6
    return np.argsort(-(scores + ties), axis=1)[:, :k]


def test_neither_one_product_nor_hundreds_make_a_winner() -> None:
    """Where all banners are worth the same, no size should win much more than its share of the banners.

    One-product banners are 60 % here and those of 300 are 5 %. By the original formula one-product banners take nearly
    all places; by a sum over products those with 300 take five of ten, which is all of them.
    """
    scores, lists = crowd(SIZES, np.zeros((60, len(SIZES))), seed=1)

    def shares(found: NDArray[np.float32]) -> dict[int, float]:
        best = SIZES[winners(found)]
        return {size: float((best == size).mean()) for size in (1, 300)}

    depth = scores.shape[1] // 5
    by_original = shares(original(scores, lists, depth))
    by_sum = shares(np.asarray((lists @ rank_gains(scores).T).T, np.float32))
    by_lift = shares(lift(rank_gains(scores), lists, BannerScoreSettings().prior))
    assert by_original[1] > 0.9
    assert by_sum[300] > 0.45
    assert by_lift[1] <= 0.6
    assert by_lift[300] <= 0.05


def test_lift_finds_the_banners_that_are_worth_most_better_than_original_mean_and_sum() -> None:
    """Banners of all sizes whose worths differ: the mean true worth of the ten chosen, in standard deviations."""
    rng = np.random.default_rng(2)
    worths = rng.normal(0, 0.3, (60, len(SIZES)))
    scores, lists = crowd(SIZES, worths, seed=3)
    gains = rank_gains(scores)

    def worth(found: NDArray[np.float32]) -> float:
        return float(np.take_along_axis(worths, winners(found), axis=1).mean() / 0.3)

    ours = worth(lift(gains, lists, BannerScoreSettings().prior))
    others = {
        "original": worth(original(scores, lists, 20)),
        "mean": worth(lift(gains, lists, 0.0)),
        "sum": worth(np.asarray((lists @ gains.T).T, np.float32)),
    }
    assert ours > 0.7
    assert all(ours > other + 0.1 for other in others.values()), others


def test_a_history_ends_before_the_moment_of_asking() -> None:
    events = from_events(np.array(["a", "a", "a", "b"]), np.array(["x", "y", "z", "x"]), np.array([1.0, 2.0, 3.0, 9.0]))
    queries = histories_before(events, np.array(["b", "a", "nobody", "a"]), np.array([9.0, 3.0, 5.0, 3.5]))
    names = [events.item_ids[queries.histories.take(np.array([row])).items].tolist() for row in range(4)]
    assert names == [[], ["x", "y"], [], ["x", "y", "z"]]


RATES = np.array([0.02, 0.05, 0.08])
"""Of the three kinds of content."""


def shop(
    seed: int, new: int = 12
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float32], NDArray[np.int64]]:
    """Clicks and impressions [2, B] of 60 banners shown 300 times in each of two contexts, and of new ones, never."""
    rng = np.random.default_rng(seed)
    kinds = np.concatenate([np.arange(60) % 3, np.arange(new) % 3])
    content = (0.8 * np.eye(3)[kinds] + 0.2 * rng.dirichlet(np.ones(3), len(kinds))).astype(np.float32)
    impressions = np.tile(np.where(np.arange(len(kinds)) < 60, 300.0, 0.0), (2, 1))
    clicks = rng.binomial(impressions.astype(int), RATES[kinds] * np.array([[1.5], [0.5]])).astype(np.float64)
    return clicks, impressions, content, kinds


def test_new_banners_of_good_content_rank_above_those_of_bad() -> None:
    """By chance a third of the first four new banners would be of the best kind."""
    first = []
    for seed in range(10):
        clicks, impressions, content, kinds = shop(seed)
        new = slice(60, None)
        rates = click_rates(clicks, impressions, content)
        first.append(np.mean(kinds[new][np.argsort(-rates.mean[0, new])[:4]] == 2))
        assert rates.mean[0, new].mean() > 2 * rates.mean[1, new].mean(), "the first context is clicked thrice as much"
    assert np.mean(first) > 0.9


def test_the_interval_of_a_new_banner_is_wide_and_holds_its_rate() -> None:
    held, wider = [], []
    for seed in range(20):
        clicks, impressions, content, kinds = shop(seed)
        rates = click_rates(clicks, impressions, content)
        truth = RATES[kinds] * np.array([[1.5], [0.5]])
        held.append(((rates.low <= truth) & (truth <= rates.high))[:, 60:].mean())
        wider.append((rates.high - rates.low)[0, 60:].mean() / (rates.high - rates.low)[0, :60].mean())
        assert (rates.low < rates.mean).all()
        assert (rates.mean < rates.high).all()
    assert np.mean(held) > 0.85
    assert np.mean(wider) > 1.1


def test_a_banner_shown_often_has_the_rate_it_was_clicked_at() -> None:
    clicks, impressions = np.array([[900.0, 30.0]]), np.array([[10_000.0, 1_000.0]])
    rates = click_rates(clicks, impressions, np.eye(2, dtype=np.float32))
    assert rates.mean[0, 0] == pytest.approx(0.09, rel=0.05)
    assert rates.high[0, 0] - rates.low[0, 0] < 0.012


def test_neighbours_by_hand() -> None:
    """Two banners alike and one that shares nothing: the twin's clicks count, its own and the stranger's do not."""
    content = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    settings = replace(ColdStartSettings(), neighbour_prior=10.0)
    found = neighbour_rates(np.array([5.0, 3.0, 9.0]), np.array([50.0, 30.0, 10.0]), content, 0.2, settings)
    assert found == pytest.approx([(3 + 2) / (30 + 10), (5 + 2) / (50 + 10), 2 / 10])


@pytest.mark.tools
def test_products_of_an_installation_retrieve_banners(installation: Settings) -> None:
    """Scored from the warehouse; a banner's list is found by its id, and a model that is not there is no error."""
    data = load_dataset(installation)
    events, lists = read_products(installation, data.catalogue.banner_ids)
    assert lists.shape == (len(data.catalogue), events.item_count)
    assert np.asarray(lists.sum(axis=1))[:, 0] == pytest.approx(data.catalogue.product_counts)
    assert events.item_features.shape[0] == events.item_count
    with pytest.raises(NothingToDo, match="no model nothing"):
        fit_product_scores(
            installation, data.catalogue.banner_ids, data.split.test_starts_at, BannerScoreSettings(model="nothing")
        )
    quick = BannerScoreSettings(model="ease")
    scores = fit_product_scores(installation, data.catalogue.banner_ids, data.split.test_starts_at, quick)
    rows = data.split.test[:40]
    moments = data.frame["impressed_at"].to_numpy("datetime64[us]")[rows].astype(np.int64) / 1e6
    lifts, originals = scores.scores(data.frame["visitor_id"].to_numpy(str)[rows], moments)
    assert lifts.shape == originals.shape == (40, len(data.catalogue))
    assert np.isfinite(lifts).all()
    assert ((originals >= 0) & (originals <= 1)).all()
