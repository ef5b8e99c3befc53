"""Fits the product model of a bundle on the training window, and measures its lists on the sessions after it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any, Final

import numpy as np

from marquee import contract
from marquee.errors import NothingToDo
from marquee.settings import Settings
from training.banner_scores import read_products
from training.harness.measures import means, per_question
from training.harness.task import Truth
from training.interactions import Floats, Interactions, Ints, Queries
from training.models.als import ALS
from training.product_model import Learnt, ProductModel
from training.similar import Asked, SimilarItems, best

FACTORS: Final = 64
ITERATIONS: Final = 10
MOST_PRODUCTS: Final = 50_000
"""Products with a vector: the most frequent ones."""
NEWEST_EVENTS: Final = 300_000
"""Events that are learnt from."""
LEAST_EVENTS: Final = 500
MOST_QUESTIONS: Final = 1_000
VALIDATION_SHARE: Final = 0.1
LISTED: Final = 20
METRIC: Final = f"ndcg@{LISTED}"
SHARES: Final = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
BATCH: Final = 256


def product_model(settings: Settings, until: np.datetime64) -> tuple[ProductModel | None, dict[str, Any]]:
    """The model of all product events before ``until``, and its report; without enough of them only why not.

    What counts how much is learnt on the newest tenth of the window by a model of the rest; the report's lists answer
    sessions that began at ``until`` or later, which neither has seen.
    """
    moment = float(until.astype("datetime64[us]").astype(np.int64)) / 1e6
    try:
        events = read_products(settings, [])[0]
        window = frequent(events, moment)
        model = fit_product_model(window, settings.seed)
    except NothingToDo as reason:
        return None, {"skipped": str(reason)}
    told = {"products": len(model), "events": len(window), "model": model.described()}
    return model, told | quality(model, questions(_known(events, window.item_ids), moment))


def fit_product_model(window: Interactions, seed: int) -> ProductModel:
    """The model of a window's events.

    Raises:
        NothingToDo: nobody took three products in one of its newest sessions.
    """
    cut = float(np.quantile(window.times, 1.0 - VALIDATION_SHARE))
    asked = questions(window, cut)
    if not len(asked):
        raise NothingToDo("no session of three products in the newest tenth of the training window")
    earlier = window.where(window.times < cut)
    similar = SimilarItems.fit(_als(earlier, seed), asked, METRIC)
    popularity = _product_model(similar, earlier).popularity
    weight, share = _shares(similar, popularity, asked)
    return _product_model(SimilarItems(_als(window, seed), similar.blend), window).weighted(weight, share)


def quality(model: ProductModel, asked: Asked) -> dict[str, Any]:
    """NDCG@20 of the lists as they are served, of what goes into them, and of the most popular products."""
    if not len(asked):
        return {"questions": 0}
    own, k = model.learnt, min(LISTED, len(model) - 1)
    compared = {"blend": model, "similarity": model.weighted(1.0, 0.0), "taste": model.weighted(0.0, 0.0)}
    compared |= {"popular": model.weighted(own.weight, 1.0)}
    return {"questions": len(asked), "ndcg": {name: _ndcg(one, asked, k) for name, one in compared.items()}}


def frequent(events: Interactions, until: float) -> Interactions:
    """The newest events before ``until``, and of the products that have any the most frequent.

    Raises:
        NothingToDo: there are too few to learn from.
    """
    earlier = events.times < until
    if (count := int(np.count_nonzero(earlier))) < LEAST_EVENTS:
        raise NothingToDo(f"{count:,} product events before the held-out window, {LEAST_EVENTS:,} are needed")
    kept = np.sort(events.times[earlier])[-NEWEST_EVENTS:][0]
    events = events.where(earlier & (events.times >= kept))
    counts = np.bincount(events.items, minlength=events.item_count)
    best = np.argsort(-counts, kind="stable")[:MOST_PRODUCTS]
    return _only(events, np.sort(best[counts[best] > 0]))


def questions(events: Interactions, since: float) -> Asked:
    """What comes next in sessions that began at ``since`` or later, asked half-way as the service is asked.

    Each session of at least three different products: those before the middle one are the history, the middle one is
    looked at, those after it came. The newest sessions, if there are many.
    """
    starts, times, histories, items, truths = [0], [], [], [], []
    for first, stop in _sessions(events, since)[-MOST_QUESTIONS:]:
        distinct = list(dict.fromkeys(events.items[first:stop].tolist()))
        middle = len(distinct) // 2
        history = distinct[:middle][-contract.SESSION_PRODUCTS :]
        histories += history
        starts.append(len(histories))
        items.append(distinct[middle])
        truths.append(np.array(sorted(distinct[middle + 1 :]), dtype=np.int64))
        times.append(events.times[first])
    count = len(items)
    own = Interactions(
        user_ids=np.array([str(number) for number in range(count)], dtype=np.str_),
        item_ids=events.item_ids,
        starts=np.array(starts, dtype=np.int64),
        items=np.array(histories, dtype=np.int64),
        times=np.repeat(np.array(times, dtype=np.float64), np.diff(starts)),
        weights=np.ones(len(histories), np.float32),
        contexts=np.zeros(len(histories), np.int64),
    )
    queries = Queries(own, np.full(count, -1), np.array(times, dtype=np.float64), np.zeros(count, np.int64))
    ends = np.concatenate([[0], np.cumsum([len(truth) for truth in truths])]).astype(np.int64)
    truth = Truth(ends, np.concatenate(truths) if truths else np.zeros(0, np.int64))
    return Asked(np.array(items, dtype=np.int64), queries, truth)


def _als(events: Interactions, seed: int) -> ALS:
    return ALS(factors=FACTORS, iterations=ITERATIONS, seed=seed).fit(events)


def _product_model(similar: SimilarItems, window: Interactions) -> ProductModel:
    """The part of similar items by ALS that answers a history, without any user."""
    als, blend = similar.model, similar.blend
    assert isinstance(als, ALS)
    learnt = Learnt(
        model=als.name(),
        visitors=int(np.count_nonzero(window.lengths)),
        alpha=als.settings.alpha,
        regularisation=als.settings.regularisation,
        popularity=0.0,
        weight=float(blend.weight),
        similarity_slope=float(blend.similarity.slope),
        similarity_intercept=float(blend.similarity.intercept),
        taste_slope=float(blend.taste.slope),
        taste_intercept=float(blend.taste.intercept),
    )
    return ProductModel(als.item_ids, als.item_factors.astype(np.float32), als.item_events.astype(np.int64), learnt)


def _shares(similar: SimilarItems, popularity: Floats, asked: Asked) -> tuple[float, float]:
    """The weight of similarity and the share of popularity that together rank held-out questions best."""
    k = min(LISTED, len(popularity) - 1)
    sums = dict.fromkeys(itertools.product(SHARES, SHARES), 0.0)
    for start in range(0, len(asked), BATCH):
        rows = np.arange(start, min(start + BATCH, len(asked)))
        items, queries, truth = asked.items[rows], asked.queries.take(rows), asked.truth.take(rows)
        by_similarity, by_taste = similar.log_odds(items, queries)
        for weight, share in sums:
            scores = (1 - share) * (weight * by_similarity + (1 - weight) * by_taste) + share * popularity
            lists = best(scores.astype(np.float32), items, queries, k, unseen=True)
            sums[weight, share] += float(per_question(lists, truth, [k])[f"ndcg@{k}"].sum())
    return max(sums, key=lambda pair: sums[pair])


def _ndcg(model: ProductModel, asked: Asked, k: int) -> float:
    lists, anything = np.full((len(asked), k), -1), np.ones(len(model), dtype=bool)
    histories = asked.queries.histories
    for row, looked in enumerate(asked.items):
        before = histories.items[histories.starts[row] : histories.starts[row + 1]]
        found = model.recommend(np.concatenate([[looked], before[::-1]]), anything, k).rows
        lists[row, : len(found)] = found
    return means(per_question(lists, asked.truth, [k]))[f"ndcg@{k}"]


def _sessions(events: Interactions, since: float) -> list[tuple[int, int]]:
    """First event and end of each session with three different products, by time; silence bounds a session."""
    if not len(events):
        return []
    quiet = np.diff(events.times, prepend=-np.inf) >= contract.SESSION_GAP_MINUTES * 60
    quiet[events.starts[:-1][events.lengths > 0]] = True
    first = np.flatnonzero(quiet)
    stop = np.append(first[1:], len(events))
    long = (stop - first >= 3) & (events.times[first] >= since)
    found = [(int(a), int(b)) for a, b in zip(first[long], stop[long], strict=True)]
    found = [(a, b) for a, b in found if len(set(events.items[a:b].tolist())) >= 3]
    return sorted(found, key=lambda one: float(events.times[one[0]]))


def _known(events: Interactions, item_ids: Any) -> Interactions:
    """Only the events with these products, which keep the codes that they have among them."""
    return _only(events, np.searchsorted(events.item_ids, item_ids))


def _only(events: Interactions, items: Ints) -> Interactions:
    """The events with these products, sorted codes, which get new codes."""
    code = np.full(events.item_count, -1)
    code[items] = np.arange(len(items))
    events = events.where(code[events.items] >= 0)
    return replace(events, items=code[events.items], item_ids=events.item_ids[items], item_features=None)
