"""Position bias: which treatment ranks best where the truth is known; the last line is one JSON object.

``python -m benchmarks.position_bias [--seeds 10] [--requests 12000]``. Under two minutes on two cores.

A shop logs slates in the order of popularity, which agrees with true quality only in part, so a banner's clicks tell
where it stood as well as how good it is. One request in ten is in random order. On that log XGBoost is fitted

- ``feature``: with the position among its inputs, and scores everything at position 0;
- ``ipw``: without it, on clicks weighted by the inverse of the chance that their position is looked at, estimated from
  the requests in random order (Joachims, Swaminathan and Schnabel 2017; the pointwise loss of Saito et al. 2020);
- ``ipw_known``: the same with the true chance, which no shop knows: what a better estimate could give at most;
- ``neither``: without either.

All are judged on fresh requests, all eligible banners at position 0, by the simulator's own click probabilities.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray
from scipy.stats import rankdata, t

from features.matrix import smoothed_rate
from ingestion.simulator import PLACEMENT_SHARES
from ingestion.world import EXAMINE, SLOTS, World, WorldSettings
from marquee import contract
from marquee.monotone import monotone_signs
from marquee.settings import Settings
from training.metrics import weighted_auc
from training.ranker import RankerSettings, tree_parameters

Floats = NDArray[np.float64]
FEATURES: Final = list(contract.RANKER_FEATURES)
POSITION: Final = FEATURES.index("position")
WAYS: Final = ("feature", "ipw", "ipw_known", "neither")
AGREEMENTS: Final = {"loose": 0.5, "close": 0.9}
"""Correlation of the popularity that orders slates with the banners' true quality."""
RANDOM_SHARE: Final = 0.1
ROUNDS: Final = 130
"""About what early stopping chooses on the simulator's log of 60,000 and of 200,000 events."""
MONOTONE: Final = monotone_signs(Settings.model_fields["monotone"].default)
VIEWS: Final = 20
"""Page views by which a visitor's taste is known."""
LEAST_SEEN: Final = 0.1
FRESH: Final = 1_500


@dataclass(frozen=True, slots=True)
class Log:
    """Impressions as arrays of one length: who, what, where, whether in random order, what came of it."""

    visitor: NDArray[np.int64]
    banner: NDArray[np.int64]
    placement: NDArray[np.int64]
    position: NDArray[np.int64]
    hour: NDArray[np.int64]
    is_random: NDArray[np.bool_]
    clicked: NDArray[np.bool_]


class Shop:
    """A world, what it knows of its visitors, and the order in which it shows banners."""

    def __init__(self, seed: int, agreement: float) -> None:
        self.world = World(WorldSettings(seed=seed))
        self.rng = np.random.default_rng([seed, 99])
        quality = self.world.quality / self.world.quality.std()
        self.popularity = agreement * quality + np.sqrt(1 - agreement**2) * self.rng.normal(size=len(quality))
        tastes = self.world.tastes.astype(np.float64)
        self.shares = self.rng.multinomial(VIEWS, tastes / tastes.sum(axis=1, keepdims=True)) / VIEWS
        self.eligible = self.world.eligible(np.arange(len(SLOTS)), 14)

    def requests(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Visitor, placement and hour of each."""
        chances = np.where(self.world.is_bot, 0.0, self.world.activity)
        visitor = self.rng.choice(len(chances), count, p=chances / chances.sum())
        return visitor, self.rng.choice(len(SLOTS), count, p=PLACEMENT_SHARES), self.rng.integers(24, size=count)

    def log(self, count: int) -> Log:
        """Slates of banners drawn at random, the popular ones above, but for the share in random order."""
        visitor, placement, hour = self.requests(count)
        is_random = self.rng.random(count) < RANDOM_SHARE
        places = np.arange(int(SLOTS.max()))
        drawn = np.where(self.eligible[placement], self.rng.random((count, self.eligible.shape[1])), 2.0)
        banner = np.argsort(drawn, axis=1)[:, : len(places)]  # in an order that means nothing
        shown = places[None, :] < SLOTS[placement][:, None]
        order = np.where(is_random[:, None], self.rng.random(banner.shape), -self.popularity[banner])
        banner = np.take_along_axis(banner, np.argsort(np.where(shown, order, np.inf), axis=1), axis=1)
        row, position = np.nonzero(shown)
        own = banner[row, position]
        chance = self.world.click_probability(visitor[row], own, placement[row], position, hour[row], 0)
        clicked = self.rng.random(len(row)) < chance
        return Log(visitor[row], own, placement[row], position, hour[row], is_random[row], clicked)

    def matrix(self, log: Log, before: Log) -> NDArray[np.float32]:
        """The ranker's inputs; counts of banners are of an earlier log, and as biased as that is."""
        shown = np.bincount(before.banner, minlength=len(self.popularity)).astype(np.float64)
        clicks = np.bincount(before.banner, before.clicked, len(self.popularity)).astype(np.float64)
        rate = smoothed_rate(clicks, shown, float(before.clicked.mean()))
        shares, mix = self.shares[log.visitor], self.world.mix[log.banner]
        match = (shares * mix).sum(axis=1)
        known = {
            "banner_impression_count_28d": shown[log.banner],
            "banner_click_rate": rate[log.banner],
            "affinity_match": match,
            "affinity_cosine": match / np.linalg.norm(shares, axis=1) / np.linalg.norm(mix, axis=1),
            "placement": log.placement,
            "position": log.position,
            "device": self.world.device[log.visitor],
            "hour_of_day": log.hour,
        }
        matrix = np.full((len(log.banner), len(FEATURES)), np.nan, np.float32)
        for name, values in known.items():
            matrix[:, FEATURES.index(name)] = values
        return matrix


def examination(log: Log) -> Floats:
    """[placement, position] chance to be looked at over that of position 0, by clicks of requests in random order."""
    clicks, shown = np.zeros(EXAMINE.shape), np.zeros(EXAMINE.shape)
    for table, values in ((clicks, log.clicked), (shown, np.ones(len(log.clicked)))):
        np.add.at(table, (log.placement[log.is_random], log.position[log.is_random]), values[log.is_random])
    rates = (clicks + 1) / (shown + 1 / log.clicked.mean())
    looks: Floats = np.clip(rates / rates[:, :1], LEAST_SEEN, 1.0)
    return looks


def fitted(matrix: NDArray[np.float32], clicked: NDArray[np.bool_], weights: Floats, seed: int) -> xgb.Booster:
    """Trees whose loss is the log loss of click × weight: without bias where weights are 1 / chance of a look."""
    parameters = tree_parameters(RankerSettings(seed=seed, monotone=MONOTONE))
    wanted = clicked * weights
    base = float(np.log(wanted.mean() / (1 - wanted.mean())))
    data = xgb.DMatrix(matrix, label=clicked, base_margin=np.full(len(matrix), base), feature_names=FEATURES)

    def loss(margin: Floats, _: xgb.DMatrix) -> tuple[Floats, Floats]:
        p = 1 / (1 + np.exp(-margin.astype(np.float64)))
        return p - wanted, np.maximum(p * (1 - p), 1e-6)

    del parameters["objective"]
    return xgb.train(parameters, data, ROUNDS, obj=loss)


def scored(shop: Shop, train: Log, before: Log, fresh: Log, seed: int) -> dict[str, Floats]:
    """[n] log-odds, up to a constant, of the fresh rows at position 0, by each way."""
    matrix, asked = shop.matrix(train, before), shop.matrix(fresh, before)
    truth = EXAMINE / EXAMINE[:, :1]
    looked = {"ipw": examination(train), "ipw_known": truth}
    scores = {}
    for way in WAYS:
        inputs, wanted = matrix.copy(), asked.copy()
        if way != "feature":
            inputs[:, POSITION] = wanted[:, POSITION] = np.nan
        weights = 1 / looked[way][train.placement, train.position] if way in looked else np.ones(len(train.clicked))
        scores[way] = fitted(inputs, train.clicked, weights, seed).inplace_predict(wanted, predict_type="margin")
    return scores


def fresh_rows(shop: Shop) -> tuple[Log, NDArray[np.int64]]:
    """All eligible banners of fresh requests, at position 0; and the request of each row."""
    visitor, placement, hour = shop.requests(FRESH)
    row, banner = np.nonzero(shop.eligible[placement])
    nothing = np.zeros(len(row), bool)
    first = np.zeros(len(row), np.int64)
    return Log(visitor[row], banner, placement[row], first, hour[row], nothing, nothing), row


def judged(scores: Floats, truth: Floats, request: NDArray[np.int64], placement: NDArray[np.int64]) -> dict[str, float]:
    """AUC of the true probabilities, rank correlation within a request, and the greedy slates' share of the best."""
    both = np.concatenate([scores, scores])
    clicked = np.repeat([True, False], len(scores))
    auc = weighted_auc(clicked, both)(np.concatenate([truth, 1 - truth]))
    correlations, earned, best = [], 0.0, 0.0
    starts = np.flatnonzero(np.r_[True, np.diff(request) > 0, True])
    for low, high in pairwise(starts):
        own, true = scores[low:high], truth[low:high]
        correlations.append(np.corrcoef(rankdata(own), rankdata(true))[0, 1])
        looks = EXAMINE[placement[low], : SLOTS[placement[low]]] / EXAMINE[placement[low], 0]
        earned += float(true[np.argsort(-own, kind="stable")][: len(looks)] @ looks)
        best += float(np.sort(true)[::-1][: len(looks)] @ looks)
    return {"auc": auc, "rank_correlation": float(np.mean(correlations)), "value": earned / best}


def one_world(seed: int, agreement: float, count: int) -> dict[str, dict[str, float]]:
    """What each way is worth in one world."""
    shop = Shop(seed, agreement)
    before, train = shop.log(count), shop.log(count)
    fresh, request = fresh_rows(shop)
    truth = shop.world.click_probability(fresh.visitor, fresh.banner, fresh.placement, 0, fresh.hour, 0)
    scores = scored(shop, train, before, fresh, seed)
    return {way: judged(own.astype(np.float64), truth, request, fresh.placement) for way, own in scores.items()}


def interval(values: Floats) -> dict[str, float]:
    """Mean with its 95 % interval by Student's t, over worlds."""
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    mean = float(values.mean())
    return {"value": round(mean, 4), "low": round(mean - half, 4), "high": round(mean + half, 4)}


def position_bias(seeds: int = 10, requests: int = 12_000) -> dict[str, Any]:
    """Every way in worlds of both agreements, and the difference to position as a feature, with intervals."""
    result: dict[str, Any] = {}
    for name, agreement in AGREEMENTS.items():
        worlds = [one_world(seed, agreement, requests) for seed in range(seeds)]
        found: dict[str, dict[str, Any]] = {}
        for way in WAYS:
            table = {figure: np.array([world[way][figure] for world in worlds]) for figure in worlds[0][way]}
            over = {figure: np.array([world["feature"][figure] for world in worlds]) for figure in table}
            found[way] = {figure: interval(values) for figure, values in table.items()}
            found[way] |= {
                f"{figure}_over_feature": interval(values - over[figure]) for figure, values in table.items()
            }
            told = ", ".join(f"{figure} {one['value']:+.4f}" for figure, one in found[way].items())
            sys.stderr.write(f"{name} {way}: {told}\n")
        result[name] = found
    return {"position_bias": result}


def main() -> None:
    """Measure, tell on stderr, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--requests", type=int, default=12_000)
    asked = parser.parse_args()
    started = time.monotonic()
    found = position_bias(asked.seeds, asked.requests)
    print(json.dumps({"seeds": asked.seeds, "seconds": round(time.monotonic() - started, 1), **found}))


if __name__ == "__main__":
    main()
