"""Banners from products: what a banner's list of products is worth to a visitor, whatever the list's size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray

from marquee.errors import NothingToDo
from marquee.settings import Settings
from marquee.warehouse import open_warehouse
from training.interactions import Floats, Interactions, Queries, from_events, places
from training.recommender import Recommender, model_class, model_names

TABLES: Final = ("stg_events", "stg_products", "stg_banner_products")
EVENTS: Final = """
    select visitor_id, product_id, epoch_us(occurred_at) as at from staging.stg_events
    where product_id is not null and kind in ('product_view', 'favourite', 'cart', 'order')
    order by visitor_id, occurred_at, event_id
"""


@dataclass(frozen=True, slots=True)
class BannerScoreSettings:
    """Plain values, chosen on the validation windows of four simulated shops.

    Attributes:
        model: the retrieval model whose product scores are used.
        prior: products of no particular worth that each list is thought to hold besides its own.
        weight: of the log of a list's lift beside the cosine of the banner tower, in the blend.
        original_depth: how many of the best products count in the original formula.
        newest: so many events are learnt from, the newest.
        epochs: passes over them, where the model has that setting.
    """

    model: str = "two_tower"
    prior: float = 5.0
    weight: float = 0.1
    original_depth: int = 20
    newest: int = 300_000
    epochs: int = 10


@dataclass(frozen=True, slots=True)
class ProductScores:
    """What is needed to score banners by their products.

    Attributes:
        model: fitted on events before ``until``.
        events: all product events, of which an asker's earlier ones are the history.
        lists: [B, I] CSR matrix, 1 where a banner's list holds a product.
        settings: how scores are put together.
    """

    model: Recommender
    events: Interactions
    lists: sparse.csr_matrix
    settings: BannerScoreSettings

    def scores(self, visitors: NDArray[np.str_], moments: NDArray[np.float64]) -> tuple[Floats, Floats]:
        """[n, B] log lift and the original formula's score of all banners, for visitors [n] at moments [n]."""
        queries = histories_before(self.events, visitors, moments)
        lifts = np.empty((len(queries), self.lists.shape[0]), np.float32)
        originals = np.empty_like(lifts)
        for rows in np.array_split(np.arange(len(queries)), max(1, len(queries) // 256)):
            products = self.model.score(queries.take(rows))
            lifts[rows] = np.log(lift(rank_gains(products), self.lists, self.settings.prior))
            originals[rows] = original(products, self.lists, self.settings.original_depth)
        return lifts, originals


def lift(gains: Floats, lists: sparse.csr_matrix, prior: float) -> Floats:
    """[n, B] how many times as much a banner's products gain as products taken at random: > 0, near 1 for any list.

    (Σ gain + prior) / (size + prior), where gains have mean 1 over all products. The mean does not grow with the list,
    so hundreds of products win nothing by their number. The prior is what keeps a list of one product from winning by
    its luck: were banners' worths normal around 1 and a product's gain normal around its banner's worth, this would be
    the worth to expect, with the ratio of the two variances as prior (James and Stein's shrinkage).

    Args:
        gains: [n, I] what each product is worth to each asker, ≥ 0, with mean 1 in each row.
        lists: [B, I].
        prior: ≥ 0, in products.
    """
    sizes = np.asarray(lists.sum(axis=1))[:, 0]
    totals = np.asarray((lists @ gains.T).T)
    found: Floats = ((totals + prior) / np.maximum(sizes + prior, 1e-12)).astype(np.float32)
    return found


def rank_gains(scores: Floats) -> Floats:
    """[n, I] 1 / log₂(2 + rank) of each product, ranks from 0, ties by column, divided by the row's mean.

    The discount of NDCG: it needs no calibrated scores, and the first ranks count most without deciding alone.
    """
    discounts = 1.0 / np.log2(2.0 + np.arange(scores.shape[1]))
    order = np.argsort(-scores, axis=1, kind="stable")
    gains = np.empty(scores.shape, np.float32)
    np.put_along_axis(gains, order, np.broadcast_to(discounts / discounts.mean(), scores.shape), axis=1)
    return gains


def original(scores: Floats, lists: sparse.csr_matrix, depth: int = 20) -> Floats:
    """[n, B] share of a banner's products among the asker's best ``depth``: |top(u) ∩ S| / |S|; 0 for an empty list.

    A baseline: one lucky product makes a banner of one product the best there is, and ranks do not count.
    """
    depth = min(depth, scores.shape[1])
    best = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    chosen = np.zeros(scores.shape, np.float32)
    np.put_along_axis(chosen, best, 1.0, axis=1)
    sizes = np.asarray(lists.sum(axis=1))[:, 0]
    found: Floats = (np.asarray((lists @ chosen.T).T) / np.maximum(sizes, 1.0)).astype(np.float32)
    return found


def histories_before(events: Interactions, visitors: NDArray[np.str_], moments: NDArray[np.float64]) -> Queries:
    """One question for each visitor [n] at a moment [n]: what they did strictly before it is the history."""
    row = places(events.user_ids, visitors)
    taken = events.take(np.maximum(row, 0))
    earlier = taken.times < np.repeat(moments, taken.lengths)
    histories = taken.where(earlier & np.repeat(row >= 0, taken.lengths))
    return Queries(histories, np.full(len(row), -1), moments, np.zeros(len(row), np.int64))


def fit_product_scores(
    settings: Settings, banner_ids: list[str], until: np.datetime64, scoring: BannerScoreSettings | None = None
) -> ProductScores:
    """Learn what follows what among products from events before ``until``.

    Raises:
        NothingToDo: the warehouse has no product events before that or no product lists, or there is no such model.
    """
    scoring = scoring or BannerScoreSettings()
    if scoring.model not in model_names():
        raise NothingToDo(f"there is no model {scoring.model}")
    events, lists = read_products(settings, banner_ids)
    moment = float(until.astype("datetime64[us]").astype(np.int64)) / 1e6
    earlier = events.times < moment
    if not earlier.any() or not lists.nnz:
        raise NothingToDo("no visitor looked at a product before the held-out window, or no banner lists products")
    kept = np.sort(events.times[earlier])[-scoring.newest :][0]
    kind = model_class(scoring.model)
    known = kind.Settings.__dataclass_fields__
    model = kind(**({"epochs": scoring.epochs} if "epochs" in known else {}))
    model.fit(events.where(earlier & (events.times >= kept)))
    return ProductScores(model, events, lists, scoring)


def read_products(settings: Settings, banner_ids: list[str]) -> tuple[Interactions, sparse.csr_matrix]:
    """All product events with the products' categories as content, and the banners' lists [B, I].

    Raises:
        NothingToDo: the events are in another engine than DuckDB and were not brought back, or there are none.
    """
    with open_warehouse(settings) as connection:
        known = {row[0] for row in connection.execute("select table_name from information_schema.tables").fetchall()}
        if not known.issuperset(TABLES):
            raise NothingToDo("the warehouse has no product events")
        table = connection.sql(EVENTS).to_arrow_table()
        products = connection.sql("select product_id, category_id from staging.stg_products").fetchall()
        lists = connection.sql("select distinct banner_id, product_id from staging.stg_banner_products").fetchall()
    if not len(table):
        raise NothingToDo("no event names a product")
    seen = table["product_id"].to_numpy().astype(np.str_)
    item_ids = np.unique(np.concatenate([seen, np.array([row[0] for row in products], dtype=np.str_)]))
    times = table["at"].to_numpy().astype(np.float64) / 1e6
    events = from_events(table["visitor_id"].to_numpy(), seen, times, item_ids=item_ids)
    events = replace(events, item_features=_one_hot(products, item_ids))
    return events, _lists(lists, banner_ids, item_ids)


def _one_hot(products: list[tuple[str, str | None]], item_ids: NDArray[np.str_]) -> Any:
    named = [(product, category) for product, category in products if category]
    if not named:
        return None
    categories, columns = np.unique([category for _, category in named], return_inverse=True)
    rows = np.searchsorted(item_ids, np.array([product for product, _ in named], dtype=np.str_))
    shape = (len(item_ids), len(categories))
    return sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=shape)


def _lists(pairs: list[tuple[str, str]], banner_ids: list[str], item_ids: NDArray[np.str_]) -> sparse.csr_matrix:
    rows = places(np.array(banner_ids, dtype=np.str_), np.array([pair[0] for pair in pairs], dtype=np.str_))
    columns = places(item_ids, np.array([pair[1] for pair in pairs], dtype=np.str_))
    both = (rows >= 0) & (columns >= 0)
    ones = np.ones(int(both.sum()), np.float32)
    return sparse.csr_matrix((ones, (rows[both], columns[both])), shape=(len(banner_ids), len(item_ids)))
