"""A shop whose truth is known: who likes what, what may stand where, and what makes a visitor click.

Arrays are indexed by number: visitor V, product I, banner B, category C, placement P. ``visitor_ids`` and the like
turn a number into the id that a warehouse sees. The click model is

    P(click) = examine[placement, position]
             × sigmoid(base + quality[banner] + strength × affinity(visitor, banner)
                       + rhythm(hour) + device effect − fatigue × log(1 + prior impressions))

with affinity the standardised dot product of a visitor's tastes and a banner's category mix. Clicks on one slate are
independent given who looks, so the best slate is the one sorted by true probability.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from math import log10
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ingestion.batch import Batch, records
from marquee import contract
from marquee.errors import SettingsError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

PLACEMENTS: Final = ("home_hero", "category_top", "cart_side")
SLOTS: Final = np.array([2, 3, 1])
EXAMINE: Final = np.array([[0.90, 0.60, 0.0], [0.80, 0.55, 0.38], [0.60, 0.0, 0.0]])
"""Probability that a visitor looks at a position, [placement, position]; 0 beyond the placement's slots."""
DEVICES: Final = ("desktop", "mobile", "tablet")
CATEGORY_TITLES: Final = (
    "Boots", "Sneakers", "Sandals", "Dresses", "Shirts", "Jackets", "Jeans", "Knitwear",
    "Bags", "Watches", "Jewellery", "Sunglasses", "Tents", "Bikes", "Running", "Swimming",
    "Toys", "Puzzles", "Books", "Lamps", "Kitchen", "Garden", "Headphones", "Phones",
)  # fmt: skip
DEPARTMENT_TITLES: Final = ("Footwear and clothes", "Accessories", "Sport and play", "Home and technology")

UNIFORM_CLICK_RATE: Final = {"easy": 0.104, "usual": 0.052, "hard": 0.026}
"""Mean click rate of uniform random slates to unwearied visitors; fatigue takes the usual one to about 0.05."""
CURIOSITY: Final = {"easy": 0.03, "usual": 0.1, "hard": 0.3}
"""Share of page views that tell nothing of who makes them."""
QUALITY_SPREAD: Final = 0.12
TASTE_STRENGTH: Final = 0.45
FATIGUE: Final = 0.15
DEVICE_EFFECT: Final = np.array([-0.05, 0.08, -0.02])
EVERGREEN: Final = 12
"""Banners that every placement may show on every day, at least."""
AFTERLIFE: Final = 28
"""Days that open-ended campaigns outlive the log."""


@dataclass(frozen=True, slots=True)
class WorldSettings:
    """How large a world is and which one of that size; everything else follows.

    Raises:
        SettingsError: fewer than 1,000 or more than 10,000,000 events, less than one day, a negative seed, or a
            difficulty that is none.
    """

    seed: int = 7
    events: int = 60_000
    days: int = 28
    start: date = date(2026, 1, 5)
    difficulty: str = "usual"

    def __post_init__(self) -> None:
        if not 1_000 <= self.events <= 10_000_000:
            raise SettingsError(f"events is {self.events}; the simulator makes between 1,000 and 10,000,000")
        if self.days < 1:
            raise SettingsError(f"days is {self.days}; the simulator needs at least 1")
        if self.seed < 0:
            raise SettingsError(f"seed is {self.seed}; it must be 0 or more")
        if self.difficulty not in CURIOSITY:
            raise SettingsError(f"difficulty is {self.difficulty!r}; it must be one of {', '.join(CURIOSITY)}")

    @property
    def visitors(self) -> int:
        """Visitors, of whom the last tenth appear only after the log."""
        return max(100, self.events // 45)

    @property
    def banners(self) -> int:
        """60 at 1,000 events, 120 at 10 million."""
        return 60 + round(15 * log10(self.events / 1_000))

    @property
    def campaigns(self) -> int:
        """8 to 16."""
        return min(16, self.banners // 7)

    @property
    def products(self) -> int:
        """600 at 1,000 events, 1,800 at 10 million."""
        return 600 + round(300 * log10(self.events / 1_000))

    def rng(self, stream: int, day: int = 0) -> np.random.Generator:
        """The generator of one stream of draws on one day, independent of all others."""
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(stream, day)))


class World:
    """One shop, drawn from its settings.

    Attributes:
        tastes: [V, C] share of interest, rows sum to 1. ``activity``, ``device``, ``first_day``, ``is_bot``: [V];
            visitors are sorted by ``first_day``, and those with ``first_day == days`` come only after the log.
        product_category, price, popularity, is_available: [I]; products are sorted by category.
        campaign_starts, campaign_ends: [K] days from the log's start; the end is exclusive.
        banner_campaign, quality, landing: [B]; ``allowed``: [P, B]; ``mix``: [B, C], rows sum to 1.
        banner_offsets: [B + 1] into ``banner_products``, the product numbers of all banners in turn.
        visitor_ids, product_ids, category_ids, campaign_ids, banner_ids: what the warehouse calls them, by number.
        base: intercept of the click model; affinities are standardised by ``affinity_mean`` and ``affinity_spread``.
    """

    def __init__(self, settings: WorldSettings) -> None:
        self.settings = settings
        self.start_at = datetime.combine(settings.start, time())
        self.visitor_ids = [f"v{number:06d}" for number in range(settings.visitors)]
        self.product_ids = [f"p{number:04d}" for number in range(settings.products)]
        self.category_ids = [f"cat{number:02d}" for number in range(len(CATEGORY_TITLES))]
        self.campaign_ids = [f"c{number:02d}" for number in range(settings.campaigns)]
        self.banner_ids = [f"b{number:03d}" for number in range(settings.banners)]
        self._draw_visitors(settings.rng(0))
        self._draw_products(settings.rng(1))
        self._draw_campaigns(settings.rng(2))
        self._draw_banners(settings.rng(3))
        self._calibrate(settings.rng(4))

    def _draw_visitors(self, rng: np.random.Generator) -> None:
        count, days = self.settings.visitors, self.settings.days
        # A fixed profile in random order: seeds differ in what is popular, not in how unequal things are.
        self.demand: Floats = rng.permutation(np.linspace(1.5, 0.5, len(CATEGORY_TITLES)))
        tastes = rng.standard_gamma(0.15 * self.demand, (count, len(self.demand))) + 1e-9
        self.tastes = (tastes / tastes.sum(axis=1, keepdims=True)).astype(np.float32)
        self.activity: Floats = rng.lognormal(0.0, 1.0, count)
        self.device: Ints = rng.choice(len(DEVICES), count, p=[0.45, 0.47, 0.08])
        later, after = count * 4 // 10, count // 10
        known = np.zeros(count - later - after, np.int64)
        self.first_day: Ints = np.concatenate(
            [known, np.sort(rng.integers(0, days, later)), np.full(after, days, np.int64)]
        )
        self.is_bot: Bools = np.zeros(count, bool)
        self.is_bot[rng.choice(len(known), max(1, count // 100), replace=False)] = True
        self.activity[self.is_bot] = 1.5 * self.activity.mean()

    def _draw_products(self, rng: np.random.Generator) -> None:
        count, categories = self.settings.products, len(CATEGORY_TITLES)
        self.product_category: Ints = np.arange(count) * categories // count
        level = rng.permutation(np.geomspace(8, 250, categories))
        self.price: Floats = np.round(level[self.product_category] * rng.lognormal(0.0, 0.4, count), 2)
        self.popularity: Floats = rng.lognormal(0.0, 1.0, count)
        self.is_available: Bools = rng.random(count) > 0.05

    def _draw_campaigns(self, rng: np.random.Generator) -> None:
        """Half run throughout; of the rest one starts on the last day, others start late, end early, or both."""
        count, days = self.settings.campaigns, self.settings.days
        self.campaign_starts: Ints = np.full(count, -14)
        self.campaign_ends: Ints = np.full(count, days + AFTERLIFE)
        kinds = ["Always on"] * (count // 2) + ["Launch"]
        kinds += [("New arrivals", "Closing sale", "Flash sale")[i % 3] for i in range(count - len(kinds))]
        self.campaign_titles = [f"{kind} {number}" for number, kind in enumerate(kinds)]
        for number, kind in enumerate(kinds):
            if kind == "Launch":
                self.campaign_starts[number] = days - 1
            if kind in ("New arrivals", "Flash sale"):
                self.campaign_starts[number] = int(days * rng.uniform(0.25, 0.7))
            if kind in ("Closing sale", "Flash sale"):
                first = max(0, int(self.campaign_starts[number]))
                self.campaign_ends[number] = first + max(1, int((days - first) * rng.uniform(0.3, 0.8)))

    def _draw_banners(self, rng: np.random.Generator) -> None:
        count, categories = self.settings.banners, len(CATEGORY_TITLES)
        self.banner_campaign: Ints = np.arange(count) % self.settings.campaigns
        # Evenly spread quantiles in random order, again so that seeds are equally hard.
        self.quality: Floats = QUALITY_SPREAD * rng.permutation(np.linspace(-1.7, 1.7, count))
        self.landing: Ints = rng.permutation(np.arange(count) % categories)
        self.allowed: Bools = rng.random((len(PLACEMENTS), count)) < 0.8
        self.allowed[0, ~self.allowed.any(axis=0)] = True
        always = np.flatnonzero(self.banner_campaign < self.settings.campaigns // 2)
        self.allowed[:, always[:EVERGREEN]] = True
        lists = [self._product_list(int(category), rng) for category in self.landing]
        self.banner_offsets: Ints = np.concatenate([[0], np.cumsum([len(products) for products in lists])])
        self.banner_products: Ints = np.concatenate(lists)
        self.mix = np.zeros((count, categories), np.float32)
        owners = np.repeat(np.arange(count), np.diff(self.banner_offsets))
        np.add.at(self.mix, (owners, self.product_category[self.banner_products]), 1.0)
        self.mix /= self.mix.sum(axis=1, keepdims=True)
        self.creative_count: Ints = np.minimum(rng.integers(1, 3, count), np.diff(self.banner_offsets))

    def _product_list(self, landing: int, rng: np.random.Generator) -> Ints:
        """1 to 30 distinct products, nearly all of the landing category and, for every other banner, a second one."""
        weight = np.full(len(CATEGORY_TITLES), 0.002)
        if rng.random() < 0.5:
            weight[rng.integers(len(weight))] = 0.3
        weight[landing] = 1.0
        chances = weight[self.product_category]
        size = int(rng.integers(1, 31))
        return np.sort(rng.choice(len(chances), size, replace=False, p=chances / chances.sum()))

    def _calibrate(self, rng: np.random.Generator) -> None:
        """Standardise affinity over human traffic, then find the intercept that gives ``UNIFORM_CLICK_RATE``."""
        chances = np.where(self.is_bot, 0.0, self.activity)
        visitors = rng.choice(len(chances), 500, p=chances / chances.sum())[:, None]
        raw = self.tastes[visitors[:, 0]] @ self.mix.T
        self.affinity_mean, self.affinity_spread = float(raw.mean()), float(raw.std())
        middle = self.settings.days / 2
        shows = [np.flatnonzero(self.eligible(p, middle))[None, :] for p in range(len(PLACEMENTS))]
        looks = EXAMINE.sum(axis=1) / EXAMINE[:, 0]
        low, high = -8.0, 2.0
        for _ in range(20):
            self.base = (low + high) / 2
            at_top = [self.click_probability(visitors, banners, p, 0, 14, 0).mean() for p, banners in enumerate(shows)]
            rate = float(looks @ at_top) / SLOTS.sum()
            wanted = UNIFORM_CLICK_RATE[self.settings.difficulty]
            low, high = (low, self.base) if rate > wanted else (self.base, high)

    def eligible(self, placement: ArrayLike, at_day: ArrayLike) -> Bools:
        """Which banners may stand at a placement, [..., B], ``at_day`` days after the log's start."""
        day = np.asarray(at_day, np.float64)[..., None]
        starts, ends = self.campaign_starts[self.banner_campaign], self.campaign_ends[self.banner_campaign]
        may: Bools = self.allowed[np.asarray(placement)] & (starts <= day) & (day < ends)
        return may

    def affinity(self, visitor: ArrayLike, banner: ArrayLike) -> Floats:
        """Standardised match of tastes and category mix; arrays of numbers broadcast together."""
        raw = np.einsum("...c,...c->...", self.tastes[np.asarray(visitor)], self.mix[np.asarray(banner)])
        return np.asarray((raw.astype(np.float64) - self.affinity_mean) / self.affinity_spread, np.float64)

    def click_probability(
        self,
        visitor: ArrayLike,
        banner: ArrayLike,
        placement: ArrayLike,
        position: ArrayLike,
        hour: ArrayLike,
        prior: ArrayLike,
    ) -> Floats:
        """True probability that a human visitor clicks; all arguments broadcast together.

        Args:
            hour: hour of the day, 0 to 23, UTC. prior: impressions of this banner to this visitor on earlier days.
        """
        logit = self.base + self.quality[np.asarray(banner)] + TASTE_STRENGTH * self.affinity(visitor, banner)
        logit = logit + 0.15 * np.cos((np.asarray(hour, np.float64) - 20) * (np.pi / 12))
        logit = logit + DEVICE_EFFECT[self.device[np.asarray(visitor)]]
        logit = logit - FATIGUE * np.log1p(np.asarray(prior, np.float64))
        seen: Any = EXAMINE[np.asarray(placement), np.asarray(position)]
        return np.asarray(seen / (1.0 + np.exp(-logit)), np.float64)

    def catalogue(self) -> Iterator[Batch]:
        """Yield every table but the events, parents before children."""
        tables: list[tuple[contract.Table, list[dict[str, Any]]]] = [
            (contract.CATEGORIES, self._category_rows()),
            (contract.PRODUCTS, self._product_rows()),
            (contract.CAMPAIGNS, self._campaign_rows()),
            (contract.BANNERS, self._banner_rows()),
            (contract.BANNER_PLACEMENTS, self._placement_rows()),
            (contract.CREATIVES, self._creative_rows()),
            (contract.BANNER_PRODUCTS, self._banner_product_rows()),
        ]
        for table, rows in tables:
            yield Batch(table.name, records(table, rows))

    def _category_rows(self) -> list[dict[str, Any]]:
        leaves, share = len(CATEGORY_TITLES), len(CATEGORY_TITLES) // len(DEPARTMENT_TITLES)
        departments = [f"cat{leaves + number:02d}" for number in range(len(DEPARTMENT_TITLES))]
        roots = [{"category_id": c, "title": t} for c, t in zip(departments, DEPARTMENT_TITLES, strict=True)]
        return roots + [
            {"category_id": self.category_ids[c], "parent_id": departments[c // share], "title": title}
            for c, title in enumerate(CATEGORY_TITLES)
        ]

    def _product_rows(self) -> list[dict[str, Any]]:
        return [
            {
                "product_id": product_id,
                "category_id": self.category_ids[self.product_category[i]],
                "title": f"{CATEGORY_TITLES[self.product_category[i]]} {i}",
                "price": float(self.price[i]),
                "is_available": bool(self.is_available[i]),
            }
            for i, product_id in enumerate(self.product_ids)
        ]

    def _campaign_rows(self) -> list[dict[str, Any]]:
        return [
            {
                "campaign_id": campaign_id,
                "title": self.campaign_titles[k],
                "starts_at": self.start_at + timedelta(days=int(self.campaign_starts[k])),
                "ends_at": self.start_at + timedelta(days=int(self.campaign_ends[k])),
                "status": "active",
            }
            for k, campaign_id in enumerate(self.campaign_ids)
        ]

    def _banner_rows(self) -> list[dict[str, Any]]:
        return [
            {
                "banner_id": banner_id,
                "campaign_id": self.campaign_ids[self.banner_campaign[b]],
                "title": f"{CATEGORY_TITLES[self.landing[b]]} {b}",
                "landing_category_id": self.category_ids[self.landing[b]],
                "created_at": self.start_at + timedelta(days=int(self.campaign_starts[self.banner_campaign[b]])),
            }
            for b, banner_id in enumerate(self.banner_ids)
        ]

    def _placement_rows(self) -> list[dict[str, Any]]:
        pairs = np.argwhere(self.allowed.T)
        return [{"banner_id": self.banner_ids[b], "placement_id": PLACEMENTS[p]} for b, p in pairs]

    def _creative_rows(self) -> list[dict[str, Any]]:
        return [
            {"creative_id": f"{banner_id}-{n}", "banner_id": banner_id, "title": f"Drawing {n} of {banner_id}"}
            for b, banner_id in enumerate(self.banner_ids)
            for n in range(self.creative_count[b])
        ]

    def _banner_product_rows(self) -> list[dict[str, Any]]:
        """The creatives of a banner share its products out, so that each product counts once for the banner."""
        return [
            {
                "banner_id": name,
                "creative_id": f"{name}-{n % self.creative_count[b]}",
                "product_id": self.product_ids[i],
            }
            for b, name in enumerate(self.banner_ids)
            for n, i in enumerate(self.banner_products[self.banner_offsets[b] : self.banner_offsets[b + 1]])
        ]
