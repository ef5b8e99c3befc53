"""Who chooses slates in a simulated shop: the true best, chance, the most clicked, and Marquee's ranker and policy."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.live_sessions import live_sessions
from benchmarks.shop import POSITIONS, Shop, top_slates
from features.matrix import SMOOTHING, Encoding, Shares, ranker_matrix
from ingestion.traffic import KINDS, SECOND, Rows, placements
from ingestion.world import DEVICES, PLACEMENTS, SLOTS, Floats, Ints
from marquee import contract
from marquee.errors import NothingToDo
from marquee.monotone import monotone_signs
from marquee.policy import Policy, draw_slate, new_banner_boost
from marquee.settings import Settings
from training.catalogue import Catalogue
from training.dataset import Dataset, Split, split_by_time
from training.ranker import Ranker, RankerSettings, fit_ranker

HALF_LIFE_DAYS: Final = 14
"""Of interest in a category, as dbt has it."""
RETRAINED_AFTER: Final = (0, 1, 2, 4, 6, 9, 13, 18, 23)
"""Days after which a new bundle is trained; more often while there is little to go by."""
VALIDATION_SHARE: Final = 0.2
LABEL_DELAY: Final = np.timedelta64(1, "D")
"""Until the pipeline takes a label for final, as attribution has it by default."""
POSITION: Final = contract.RANKER_FEATURES.index("position")


class Best:
    """Knows the truth: the eligible banners in order of their true click probability."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop

    def choose(self, day: int, asked: Rows, views: Rows) -> tuple[Ints, Floats]:
        """As ``Chooser`` says."""
        return _without_propensities(top_slates(self.shop.true_chances(day, asked), placements(asked)))

    def learn(self, day: int, rows: Rows) -> None:
        """There is nothing to learn."""


class Random:
    """Uniform slates."""

    def __init__(self, shop: Shop) -> None:
        self.shop, self.rng = shop, np.random.default_rng(shop.world.settings.seed)

    def choose(self, day: int, asked: Rows, views: Rows) -> tuple[Ints, Floats]:
        """As ``Chooser`` says."""
        place = placements(asked)
        eligible = self.shop.world.eligible(place, day)
        return _without_propensities(top_slates(np.where(eligible, self.rng.random(eligible.shape), -1.0), place))

    def learn(self, day: int, rows: Rows) -> None:
        """Chance does not learn."""


class Popular:
    """The same slate for everybody: by click rate so far, smoothed as the ranker's own feature is."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.clicks, self.impressions = np.zeros(shop.world.settings.banners), np.zeros(shop.world.settings.banners)

    def choose(self, day: int, asked: Rows, views: Rows) -> tuple[Ints, Floats]:
        """As ``Chooser`` says."""
        place = placements(asked)
        base = self.clicks.sum() / max(1.0, self.impressions.sum())
        rates = (self.clicks + SMOOTHING * base) / (self.impressions + SMOOTHING)
        return _without_propensities(top_slates(np.where(self.shop.world.eligible(place, day), rates, -1.0), place))

    def learn(self, day: int, rows: Rows) -> None:
        """Count."""
        _count(self.clicks, rows, "click", "banner")
        _count(self.impressions, rows, "impression", "banner")


class Marquee:
    """The product's ranker on the product's features, retrained as days go by, and the product's policy.

    Features are as of the last midnight, as the feature store has them, but for the session under way. Before the first
    bundle slates are uniform.
    Retrieval is left out: there are hardly more banners than the candidates it hands on. ``held_out`` trains as the
    pipeline does, which keeps the newest three tenths for its report and waits a day for labels; without it the ranker
    learns from every impression up to midnight.
    """

    def __init__(
        self,
        shop: Shop,
        settings: Settings,
        half_life_days: float = HALF_LIFE_DAYS,
        retrained_after: tuple[int, ...] = RETRAINED_AFTER,
        held_out: bool = False,
    ) -> None:
        world = shop.world
        self.shop, self.settings, self.half_life_days = shop, settings, half_life_days
        self.policy = Policy(settings.exploration, settings.temperature, settings.diversity)
        self.rng = np.random.default_rng(settings.seed)
        self.retrained_after, self.held_out = retrained_after, held_out
        self.ranker: Ranker | None = None
        self.base_rate = 0.05
        self.interest = np.zeros(world.tastes.shape)
        self.visitor = {
            name: np.zeros(len(world.tastes)) for name in ("view", "cart", "order", "amount", "shown", "click", "day")
        }
        self.seen_at = np.full(len(world.tastes), np.nan)
        self.banner = {name: np.zeros(world.settings.banners) for name in ("shown", "click")}
        self.prices = np.add.reduceat(world.price[world.banner_products], world.banner_offsets[:-1])
        self.prices /= np.diff(world.banner_offsets)
        self.campaign = (world.campaign_starts[world.banner_campaign], world.campaign_ends[world.banner_campaign])
        self.log: list[tuple[NDArray[np.float32], NDArray[np.bool_], Ints, Ints]] = []
        self.pending: list[tuple[Rows, NDArray[np.float32], Ints]] = []

    def choose(self, day: int, asked: Rows, views: Rows) -> tuple[Ints, Floats]:
        """As ``Chooser`` says."""
        matrix, place = self.matrix(asked, views), placements(asked)
        eligible = self.shop.world.eligible(place, day)
        scores, policy = self.scores(matrix), self.policy if self.ranker else Policy(exploration=1.0)
        banners = np.full((len(asked), POSITIONS), -1)
        propensities = np.full(banners.shape, np.nan)
        for row in range(len(asked)):
            candidates, slots = np.flatnonzero(eligible[row]), SLOTS[place[row]]
            slate = draw_slate(scores[row, candidates], int(slots), policy, self.rng)
            banners[row, : len(slate.items)] = candidates[slate.items]
            propensities[row, : len(slate.items)] = slate.propensities
        taken = np.take_along_axis(matrix, np.maximum(banners, 0)[..., None], axis=1)
        self.pending.append((asked, taken, banners))
        return banners, propensities

    def scores(self, matrix: NDArray[np.float32]) -> Floats:
        """[n, B] what the policy draws by, as a bundle's ``appeal`` is."""
        if self.ranker is None:
            return np.zeros(matrix.shape[:2])
        chances = self.ranker.predict(matrix.reshape(-1, matrix.shape[2])).reshape(matrix.shape[:2])
        boost = (self.settings.new_banner_boost, self.settings.new_banner_impressions)
        return np.asarray(chances * new_banner_boost(self.banner["shown"], *boost))

    def matrix(self, asked: Rows, views: Rows) -> NDArray[np.float32]:
        """[n, B, F] the ranker's inputs of every banner at the first position."""
        world, visitor = self.shop.world, asked["visitor"]
        n, banners = len(asked), world.settings.banners
        known = {name: np.where(np.isnan(self.seen_at), np.nan, counts) for name, counts in self.visitor.items()}
        of_visitor = {
            "view_count_28d": known["view"],
            "cart_count_28d": known["cart"],
            "order_count_28d": known["order"],
            "order_count_365d": known["order"],
            "order_amount_365d": known["amount"],
            "active_day_count_28d": known["day"],
            "visitor_impression_count_365d": known["shown"],
            "visitor_click_count_365d": known["click"],
            "last_seen_at": self.seen_at,
            "device": world.device.astype(np.float64),
        }
        columns: dict[str, Any] = {name: np.repeat(values[visitor], banners) for name, values in of_visitor.items()}
        sessions, request = live_sessions(world, asked, views), np.repeat(np.arange(n), banners)
        columns |= {name: np.repeat(values, banners) for name, values in sessions.columns.items()}
        columns |= {
            "banner_impression_count_28d": np.tile(self.banner["shown"], n),
            "banner_click_count_28d": np.tile(self.banner["click"], n),
            "mean_price": np.tile(self.prices, n),
            "product_count": np.tile(np.diff(world.banner_offsets).astype(np.float64), n),
            "starts_at": np.tile(self.campaign[0] * 86_400.0, n),
            "ends_at": np.tile(self.campaign[1] * 86_400.0, n),
            "placement": np.repeat(placements(asked).astype(np.float64), banners),
            "position": 0.0,
            "impressed_at": np.repeat(asked["at"] / SECOND, banners),
        }
        total = self.interest[visitor].sum(axis=1, keepdims=True)
        shares = np.divide(self.interest[visitor], total, out=np.zeros((n, world.mix.shape[1])), where=total > 0)
        banner, rows = Shares.of(world.mix), np.tile(np.arange(banners), n)
        of_request = Shares.of(shares).rows(request), sessions.interest.rows(request)
        found = ranker_matrix(columns, *of_request, banner.rows(rows), self.base_rate)
        return np.asarray(found, dtype=np.float32).reshape(n, banners, -1)

    def learn(self, day: int, rows: Rows) -> None:
        """Keep the day's impressions with what was known of them, bring the features up to midnight, retrain."""
        self._keep(rows)
        world = self.shop.world
        self.interest *= 0.5 ** (1 / self.half_life_days)
        for kind in ("product_view", "favourite", "cart", "order"):
            of_kind = rows[rows["kind"] == KINDS[kind]]
            where = (of_kind["visitor"], world.product_category[of_kind["product"]])
            np.add.at(self.interest, where, contract.IMPLICIT_WEIGHTS[kind])
        names = {"view": "product_view", "cart": "cart", "order": "order", "shown": "impression", "click": "click"}
        for name, kind in names.items():
            _count(self.visitor[name], rows, kind, "visitor")
        orders = rows[rows["kind"] == KINDS["order"]]
        np.add.at(self.visitor["amount"], orders["visitor"], orders["amount"])
        for name, kind in (("shown", "impression"), ("click", "click")):
            _count(self.banner[name], rows, kind, "banner")
        came = np.unique(rows["visitor"])
        self.visitor["day"][came] += 1
        self.seen_at[rows["visitor"]] = rows["at"] / SECOND  # in time order: the last one stays
        if day in self.retrained_after:
            with suppress(NothingToDo):  # too short a log to hold anything out: the policy stays what it is
                self.ranker = self._fitted()

    def _keep(self, rows: Rows) -> None:
        clicks = rows[rows["kind"] == KINDS["click"]]
        clicked = set(zip(clicks["request"].tolist(), clicks["position"].tolist(), strict=True))
        first = 0
        for asked, taken, banners in self.pending:
            row, position = np.nonzero(banners >= 0)
            inputs = taken[row, position]
            inputs[:, POSITION] = position
            hits = [(first + r, p) in clicked for r, p in zip(row.tolist(), position.tolist(), strict=True)]
            self.log.append((inputs, np.array(hits), asked["visitor"][row].astype(np.int64), asked["at"][row]))
            first += len(asked)
        self.pending = []

    def _fitted(self) -> Ranker:
        matrix, clicked, visitors, at = (np.concatenate(parts) for parts in zip(*self.log, strict=True))
        order = np.argsort(at, kind="stable")
        matrix, clicked, visitors, at = matrix[order], clicked[order], visitors[order], at[order]
        moments = at.astype("datetime64[us]")
        split = split_by_time(moments, moments + LABEL_DELAY) if self.held_out else _everything(len(clicked))
        self.base_rate = float(clicked[split.train].mean())
        chosen = RankerSettings(seed=self.settings.seed, monotone=monotone_signs(self.settings.monotone))
        return fit_ranker(_dataset(matrix, clicked, visitors, split, self.base_rate), chosen)


def _everything(rows: int) -> Split:
    """Train on the earlier part, choose the number of trees on the later; nothing is held out for a test."""
    border, every, never = int(rows * (1 - VALIDATION_SHARE)), np.arange(rows), np.datetime64("NaT")
    return Split(every[:border], every[border:], every[:0], never, never, 0)


def _dataset(
    matrix: NDArray[np.float32], clicked: NDArray[np.bool_], visitors: Ints, split: Split, base_rate: float
) -> Dataset:
    """As much of a training set as a ranker is fitted on, in time order."""
    frame = pd.DataFrame({"visitor_id": visitors.astype(str)})
    encoding = Encoding((), PLACEMENTS, DEVICES, base_rate)
    none, no_rows = np.zeros((0, 0), np.float32), np.arange(0)
    return Dataset(frame, Catalogue.from_rows([]), encoding, split, matrix, none, none, no_rows, clicked, "")


def _without_propensities(banners: Ints) -> tuple[Ints, Floats]:
    return banners, np.full(banners.shape, np.nan)


def _count(into: Floats, rows: Rows, kind: str, of: str) -> None:
    np.add.at(into, rows[rows["kind"] == KINDS[kind]][of], 1.0)
