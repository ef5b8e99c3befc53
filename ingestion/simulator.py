"""The shop as a source: a stream of events day by day, and what would have happened under any other policy.

A day is drawn at once (``traffic``) and turned into Arrow columns, so memory is bounded by one day. Each day has its
own generator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from ingestion.batch import BATCH_ROWS, Batch, arrow_schema
from ingestion.traffic import KINDS, Rows, daytime, draw_day
from ingestion.world import DEVICES, PLACEMENTS, SLOTS, Floats, Ints, World, WorldSettings
from marquee import contract

WEEKDAYS: Final = np.array([1.0, 0.97, 0.95, 0.98, 1.05, 1.2, 1.25])
"""Traffic by weekday, Monday first, relative to each other."""
SIZE_TOLERANCE, REDRAWS = 0.05, 50
PLACEMENT_SHARES: Final = np.array([0.33, 0.60, 0.07])
"""Share of requests by placement for counterfactual requests; close to the log's."""
UNSEEN_SHARE: Final = 0.1
POLICY, ARM = "uniform", "control"


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests by human visitors on the day after the log; every array is [count].

    Attributes:
        visitor, placement: numbers in the world. ``slots``: positions that the placement shows.
        visitor_id, placement_id, device: what a service would be told. ``at``: datetime64[us], UTC.
    """

    visitor: Ints
    visitor_id: NDArray[np.str_]
    placement: Ints
    placement_id: NDArray[np.str_]
    device: NDArray[np.str_]
    at: NDArray[np.datetime64]
    slots: Ints

    def __len__(self) -> int:
        return len(self.visitor)


class Simulator:
    """A source whose truth is known; settings as in ``WorldSettings``."""

    name = "simulator"
    about = "A shop with known truth: seeded, of any size from 1,000 to 10,000,000 events."

    def __init__(
        self,
        seed: int = 7,
        events: int = 60_000,
        days: int = 28,
        start: date = date(2026, 1, 5),
        difficulty: str = "usual",
    ) -> None:
        self.world = World(WorldSettings(seed, events, days, start, difficulty))
        self.end_at = self.world.start_at + timedelta(days=days)
        self._prior: NDArray[np.uint16] | None = None

    def read(self) -> Iterator[Batch]:
        """Yield the catalogue, then all events in time order; the same settings give the same bytes."""
        yield from self.world.catalogue()
        for day, rows in self._days():
            for first in range(0, len(rows), BATCH_ROWS):
                yield Batch("events", event_table(self.world, day, first, rows[first : first + BATCH_ROWS]))

    def _days(self) -> Iterator[tuple[int, Rows]]:
        """Each day's events; sessions follow what is still missing from the asked number of events."""
        settings = self.world.settings
        prior = np.zeros((settings.visitors, settings.banners), np.uint16)
        weights = WEEKDAYS[(settings.start.weekday() + np.arange(settings.days)) % 7]
        quotas = settings.events * np.cumsum(weights) / weights.sum()
        pilot = draw_day(self.world, settings.days // 2, prior, 2_000, settings.rng(5))
        emitted = 0
        for day, quota in enumerate(quotas):
            sessions = max(0, round((quota - emitted) * 2_000 / len(pilot)))
            rng = settings.rng(6, day)
            # A short, small log is lumpy: a day that would take it off its size is drawn again.
            for _ in range(REDRAWS):
                rows = draw_day(self.world, day, prior, sessions, rng)
                if abs(emitted + len(rows) - quota) <= SIZE_TOLERANCE * settings.events:
                    break
            shown = rows[rows["kind"] == KINDS["impression"]]
            np.add.at(prior, (shown["visitor"], shown["banner"]), 1)
            emitted += len(rows)
            yield day, rows
        self._prior = prior

    @property
    def prior_impressions(self) -> NDArray[np.uint16]:
        """[V, B] impressions at the end of the log; draws the log once when it was not read to its end."""
        if self._prior is None:
            for _ in self._days():
                pass
        assert self._prior is not None
        return self._prior

    def requests(self, count: int, seed: int) -> Requests:
        """Draw requests for the day after the log.

        A tenth come from visitors who were never seen before, the rest from those who have met a banner.
        """
        rng = np.random.default_rng(np.random.SeedSequence(self.world.settings.seed, spawn_key=(7, seed)))
        world = self.world
        chances = np.where(self.prior_impressions.any(axis=1) & ~world.is_bot, world.activity, 0.0)
        known = rng.choice(len(chances), count, p=chances / chances.sum())
        strangers = np.searchsorted(world.first_day, world.settings.days)
        stranger = rng.integers(strangers, len(chances), count)
        visitor = np.where(rng.random(count) < UNSEEN_SHARE, stranger, known)
        placement = rng.choice(len(PLACEMENTS), count, p=PLACEMENT_SHARES)
        return Requests(
            visitor=visitor,
            visitor_id=np.array(self.world.visitor_ids)[visitor],
            placement=placement,
            placement_id=np.array(PLACEMENTS)[placement],
            device=np.array(DEVICES)[world.device[visitor]],
            at=np.datetime64(self.end_at, "us") + daytime(count, rng).astype("timedelta64[us]"),
            slots=SLOTS[placement],
        )

    def click_probabilities(
        self, requests: Requests, rows: Sequence[int] | Ints, banner_ids: Sequence[str], positions: ArrayLike
    ) -> Floats:
        """True probability of a click, [n], for showing ``banner_ids[i]`` at ``positions[i]`` to request ``rows[i]``.

        Raises:
            ValueError: an unknown banner or a position that no placement has.
        """
        return self._probability(requests, np.asarray(rows, np.int64), self._numbers(banner_ids), positions)

    def eligible_banners(self, requests: Requests, row: int) -> list[str]:
        """Ids of the banners that may answer one request."""
        mask = self.world.eligible(requests.placement[row], self._at_day(requests.at[row]))
        return [self.world.banner_ids[number] for number in np.flatnonzero(mask)]

    def value(self, requests: Requests, slates: Sequence[Sequence[str]]) -> Floats:
        """Expected clicks per position, [count]: the mean over the slots of each request's placement.

        What the shop would not show earns nothing: a slot left empty, a banner that may not stand there, one that the
        slate already has, or a position beyond the slots. So no slate is worth more than the best one.

        Raises:
            ValueError: not one slate a request, an unknown banner, or a position that no placement has.
        """
        if len(slates) != len(requests):
            raise ValueError(f"{len(slates)} slates were given for {len(requests)} requests")
        sizes = np.array([len(slate) for slate in slates], np.int64)
        rows = np.repeat(np.arange(len(slates)), sizes)
        positions = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        banners = self._numbers([banner for slate in slates for banner in slate])
        earned = self._probability(requests, rows, banners, positions)
        eligible = self.world.eligible(requests.placement[rows], self._at_day(requests.at[rows]))
        shown = eligible[np.arange(len(rows)), banners]
        repeated = np.ones(len(rows), bool)
        repeated[np.unique(np.stack([rows, banners]), axis=1, return_index=True)[1]] = False
        clicks = np.bincount(rows, np.where(shown & ~repeated, earned, 0.0), len(slates))
        return np.asarray(clicks / requests.slots, np.float64)

    def best_slates(self, requests: Requests) -> list[list[str]]:
        """The slates of highest true value: eligible banners by true probability, best at the best position."""
        rows = np.arange(len(requests))[:, None]
        chance = self._probability(requests, rows, np.arange(self.world.settings.banners)[None, :], 0)
        chance[~self.world.eligible(requests.placement, self._at_day(requests.at))] = -1.0
        order = np.argsort(-chance, axis=1, kind="stable")[:, : int(SLOTS.max())]
        return [
            [self.world.banner_ids[number] for number in best[:slots]]
            for best, slots in zip(order, requests.slots, strict=True)
        ]

    def _probability(self, requests: Requests, rows: Ints, banners: Ints, positions: ArrayLike) -> Floats:
        places = np.asarray(positions)
        if places.size and not 0 <= places.min() <= places.max() < SLOTS.max():
            raise ValueError(f"positions run from 0 to {SLOTS.max() - 1}; got {places.min()} to {places.max()}")
        hour = (requests.at - requests.at.astype("datetime64[D]")).astype("timedelta64[h]").astype(np.int64)
        visitor = requests.visitor[rows]
        prior = self.prior_impressions[visitor, banners]
        return self.world.click_probability(visitor, banners, requests.placement[rows], places, hour[rows], prior)

    def _numbers(self, banner_ids: Sequence[str]) -> Ints:
        number = {name: i for i, name in enumerate(self.world.banner_ids)}
        unknown = next((name for name in banner_ids if name not in number), None)
        if unknown is not None:
            raise ValueError(f"banner {unknown!r} is not in this world")
        return np.array([number[name] for name in banner_ids], np.int64)

    def _at_day(self, at: Any) -> Any:
        return (at - np.datetime64(self.world.start_at, "us")) / np.timedelta64(1, "D")


def event_table(world: World, day: int, first: int, rows: Rows) -> pa.Table:
    """Rows ``first``, ``first`` + 1, … of a day as contract events."""
    # Ids carry the world's fingerprint, so that events of different worlds never pass for each other.
    world_id = hashlib.blake2b(repr(world.settings).encode(), digest_size=3).hexdigest()
    scope = f"{world_id}-{day:03d}-"
    is_order, is_shown = rows["kind"] == KINDS["order"], rows["kind"] == KINDS["impression"]
    request = _serial(scope + "r", rows["request"])
    position = pa.array(rows["position"], pa.int64(), mask=rows["position"] < 0)
    pages = [
        "/",
        "/cart",
        *(f"/category/{c}" for c in world.category_ids),
        *(f"/product/{p}" for p in world.product_ids),
    ]
    columns = {
        "event_id": _serial(scope + "e", first + np.arange(len(rows))),
        "kind": _pick(contract.EVENT_KINDS, rows["kind"]),
        "occurred_at": pa.array(np.datetime64(world.start_at, "us") + rows["at"].astype("timedelta64[us]")),
        "visitor_id": _pick(world.visitor_ids, rows["visitor"]),
        "customer_id": _serial("u", np.where(is_order, rows["visitor"], -1)),
        "session_id": _serial(scope + "s", rows["session"]),
        "product_id": _pick(world.product_ids, rows["product"]),
        "banner_id": _pick(world.banner_ids, rows["banner"]),
        "placement_id": _pick(PLACEMENTS, rows["placement"]),
        "position": position,
        "request_id": request,
        "impression_id": pc.binary_join_element_wise(request, pc.cast(position, pa.string()), "-"),
        "order_id": _serial(scope + "o", rows["order"]),
        "page": _pick(pages, rows["page"]),
        "quantity": pa.array(rows["quantity"], mask=np.isnan(rows["quantity"])),
        "amount": pa.array(rows["amount"], mask=np.isnan(rows["amount"])),
        "device": _pick(DEVICES, world.device[rows["visitor"]]),
        "arm": _pick([ARM], np.where(is_shown, 0, -1)),
        "policy": _pick([POLICY], np.where(is_shown, 0, -1)),
        "propensity": pa.array(rows["propensity"], mask=np.isnan(rows["propensity"])),
    }
    schema = arrow_schema(contract.EVENTS)
    nothing = pa.nulls(len(rows), pa.string())
    return pa.Table.from_arrays([columns.get(name, nothing) for name in schema.names], schema=schema)


def _pick(names: Sequence[str], numbers: Ints) -> Any:
    """The names of numbers as an Arrow array; null for a negative number."""
    return pa.array(names, pa.string()).take(pa.array(numbers, pa.int32(), mask=numbers < 0))


def _serial(prefix: str, numbers: Ints) -> Any:
    """Ids such as ``prefix000042`` as an Arrow array; null for a negative number."""
    digits = pc.cast(pa.array(numbers, pa.int64(), mask=numbers < 0), pa.string())
    return pc.binary_join_element_wise(prefix, pc.utf8_lpad(digits, 6, "0"), "")
