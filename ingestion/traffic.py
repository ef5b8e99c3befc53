"""A day of the shop's traffic in numbers: page views, slates, clicks, carts and orders, drawn at once.

One structured array row is one event. A day's fatigue counts only impressions of earlier days, which makes the truth
of every impression a function of the log itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ingestion.world import CATEGORY_TITLES, CURIOSITY, SLOTS, Floats, Ints, World
from marquee import contract

Rows = NDArray[np.void]

EVENT: Final = np.dtype(
    [("kind", "i1"), ("at", "i8"), ("visitor", "i4"), ("session", "i4"), ("page", "i4"), ("product", "i4"),
     ("banner", "i2"), ("placement", "i1"), ("position", "i1"), ("request", "i4"), ("propensity", "f8"),
     ("order", "i4"), ("quantity", "f8"), ("amount", "f8")]
)  # fmt: skip
"""One event in numbers; ``at`` is in microseconds from the log's start, -1 and NaN mean "has none"."""
BLANK: Final = np.array([(0, 0, 0, 0, 0, -1, -1, -1, -1, -1, np.nan, -1, np.nan, np.nan)], EVENT)
KINDS: Final = {kind: number for number, kind in enumerate(contract.EVENT_KINDS)}
SECOND: Final = 1_000_000
DAY: Final = 86_400 * SECOND

# Pages are numbered: the two below, then one a category, then one a product.
HOME, CART, FIRST_CATEGORY = 0, 1, 2
FIRST_PRODUCT: Final = FIRST_CATEGORY + len(CATEGORY_TITLES)

Choose = Callable[[Rows, Rows], tuple[Ints, Floats]]
"""From the pages that ask for a slate, [n], and the day's product views so drawn, to banners and propensities,
[n, positions]; -1 where a page has no such position, NaN where the propensity is not known."""
HOURS: Final = np.array([3, 2, 1, 1, 1, 2, 4, 7, 10, 12, 13, 13, 13, 12, 12, 12, 13, 14, 16, 19, 21, 18, 12, 6])
SLATE_RATE: Final = 0.8
FAVOURITE_RATE, CART_RATE, ORDER_RATE = 0.03, 0.12, 0.45
BOT_CLICK_RATE: Final = 0.03


def draw_day(
    world: World,
    day: int,
    prior: NDArray[np.uint16],
    sessions: int,
    rng: np.random.Generator,
    choose: Choose | None = None,
) -> Rows:
    """All events of one day in time order, [n] of ``EVENT``; ``prior`` is [V, B] impressions of earlier days.

    Slates are uniformly random unless ``choose`` says which; the pages that people open are the same either way.
    """
    pages = _pages(world, day, sessions, rng)
    slated = pages[(pages["page"] < FIRST_PRODUCT) & (rng.random(len(pages)) < SLATE_RATE)]
    looked = pages[pages["page"] >= FIRST_PRODUCT]
    looked = _follow("product_view", looked, 0.2, product=looked["page"] - FIRST_PRODUCT, page=looked["page"])
    shown = _impressions(world, slated, day, 0, rng) if choose is None else _chosen(choose, slated, looked, 0)
    clicks, landings = _clicks(world, shown, prior, rng)
    views = np.concatenate([looked, landings])
    views = views[~world.is_bot[views["visitor"]]]
    liked = views[rng.random(len(views)) < FAVOURITE_RATE]
    favourites = _follow(
        "favourite", liked, rng.uniform(2, 8, len(liked)), product=liked["product"], page=liked["page"]
    )
    wanted = views[world.is_available[views["product"]] & (rng.random(len(views)) < CART_RATE)]
    carts = _follow("cart", wanted, rng.uniform(3, 12, len(wanted)), product=wanted["product"], page=wanted["page"])
    cart_pages = _follow("page_view", carts, rng.uniform(1, 4, len(carts)), page=CART)
    if choose is None:
        cart_shown = _impressions(world, cart_pages, day, len(slated), rng)
    else:
        cart_shown = _chosen(choose, cart_pages, views, len(slated))
    cart_clicks, cart_landings = _clicks(world, cart_shown, prior, rng)
    orders = _orders(world, carts, sessions, rng)
    browsing = (pages, shown, clicks, landings, looked, favourites, carts)
    buying = (cart_pages, cart_shown, cart_clicks, cart_landings, orders)
    events = np.concatenate([*browsing, *buying])
    return events[np.argsort(events["at"], kind="stable")]


def _follow(kind: str, after: Rows, seconds: Floats | float, **fields: ArrayLike) -> Rows:
    """One event of ``kind`` after each given one, in the same session; ``fields`` are set, the rest are blank."""
    rows = np.repeat(BLANK, len(after))
    rows["kind"] = KINDS[kind]
    rows["visitor"], rows["session"] = after["visitor"], after["session"]
    rows["at"] = after["at"] + np.asarray(np.multiply(seconds, SECOND), np.int64)
    for name, value in fields.items():
        rows[name] = value
    return rows


def daytime(count: int, rng: np.random.Generator) -> Ints:
    """Microseconds after midnight that follow the daily rhythm, [count]."""
    hour = rng.choice(24, count, p=HOURS / HOURS.sum())
    return np.asarray((hour + rng.random(count)) * (3600 * SECOND), np.int64)


def _pages(world: World, day: int, sessions: int, rng: np.random.Generator) -> Rows:
    """The page views of all sessions of a day; a session ends before midnight, so that days do not mix."""
    weight = np.cumsum(world.activity[: np.searchsorted(world.first_day, day, side="right")])
    visitor = np.searchsorted(weight, rng.random(sessions) * weight[-1], side="right")
    bot = world.is_bot[visitor]
    length = np.where(bot, rng.integers(15, 36, sessions), np.minimum(rng.geometric(0.25, sessions), 14))
    session = np.repeat(np.arange(sessions), length)
    first = np.cumsum(length) - length
    passed = np.cumsum(np.where(bot[session], rng.uniform(0.5, 2, len(session)), rng.uniform(20, 200, len(session))))
    passed = np.asarray((passed - np.repeat(passed[first], length)) * SECOND, np.int64)
    duration = passed[first + length - 1]
    # Five minutes are enough for the clicks and orders that follow the last page.
    start = np.minimum(np.sort(daytime(sessions, rng)), DAY - 300 * SECOND - duration)
    rows = np.repeat(BLANK, len(session))
    rows["kind"], rows["visitor"], rows["session"] = KINDS["page_view"], visitor[session], session
    rows["at"] = day * DAY + start[session] + passed
    rows["page"] = _page_numbers(world, visitor[session], passed == 0, rng)
    return rows


def _page_numbers(world: World, visitor: Ints, is_first: NDArray[np.bool_], rng: np.random.Generator) -> Ints:
    """Which page each view shows: people follow their tastes and what is popular, bots neither."""
    count, categories, bot = len(visitor), len(CATEGORY_TITLES), world.is_bot[visitor]
    taste = np.cumsum(world.tastes[visitor], axis=1) < rng.random(count)[:, None]
    curious = bot | (rng.random(count) < CURIOSITY[world.settings.difficulty])
    category = np.where(curious, rng.integers(0, categories, count), np.minimum(taste.sum(axis=1), categories - 1))
    # Popularity scaled to 1 a category and added up: category c owns the stretch from c to c + 1.
    total = np.bincount(world.product_category, world.popularity)
    stretch = np.cumsum(world.popularity / total[world.product_category])
    product = np.searchsorted(stretch, category + rng.random(count), side="right")
    product = np.minimum(product, len(stretch) - 1)
    home = np.where(bot, 0.0, np.where(is_first, 0.45, 0.15))
    draw = rng.random(count) - home
    is_product = draw < np.where(bot, 0.8, np.where(is_first, 0.25, 0.5))
    return np.where(draw < 0, HOME, np.where(is_product, FIRST_PRODUCT + product, FIRST_CATEGORY + category))


def _impressions(world: World, pages: Rows, day: int, first_request: int, rng: np.random.Generator) -> Rows:
    """A uniform random slate of eligible banners for each page, drawn without replacement."""
    number = first_request + np.arange(len(pages))
    placement = placements(pages)
    parts = [np.repeat(BLANK, 0)]
    for p, slots in enumerate(SLOTS):
        here, eligible = placement == p, np.flatnonzero(world.eligible(p, day))
        taken = np.empty((int(here.sum()), 0), np.int64)
        for position in range(slots):
            left = len(eligible) - position
            drawn = rng.integers(0, left, len(taken))
            for above in np.sort(taken, axis=1).T:
                drawn += drawn >= above  # the drawn-th of those left: step over each one taken, lowest first
            taken = np.column_stack([taken, drawn])
            where = {"page": pages["page"][here], "placement": p, "position": position, "request": number[here]}
            parts.append(_follow("impression", pages[here], 0.3, banner=eligible[drawn], propensity=1 / left, **where))
    return np.concatenate(parts)


def placements(pages: Rows) -> Ints:
    """Number of the placement that each page which asks for a slate has, [n]."""
    return np.where(pages["page"] == HOME, 0, np.where(pages["page"] == CART, 2, 1))


def _chosen(choose: Choose, pages: Rows, views: Rows, first_request: int) -> Rows:
    """The impressions of the slates that ``choose`` gives each page."""
    banners, propensities = choose(pages, views)
    number, placement = first_request + np.arange(len(pages)), placements(pages)
    parts = [np.repeat(BLANK, 0)]
    for position in range(banners.shape[1]):
        here = banners[:, position] >= 0
        where = {"page": pages["page"], "placement": placement, "request": number}
        shown = _follow("impression", pages[here], 0.3, position=position, **{k: v[here] for k, v in where.items()})
        shown["banner"], shown["propensity"] = banners[here, position], propensities[here, position]
        parts.append(shown)
    return np.concatenate(parts)


def _clicks(world: World, shown: Rows, prior: NDArray[np.uint16], rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Clicks on impressions, and the product views that they lead to; bots click on anything alike."""
    visitor, banner = shown["visitor"], shown["banner"]
    hour = shown["at"] % DAY // (3600 * SECOND)
    chance = world.click_probability(
        visitor, banner, shown["placement"], shown["position"], hour, prior[visitor, banner]
    )
    chance = np.where(world.is_bot[visitor], BOT_CLICK_RATE, chance)
    hit = shown[rng.random(len(shown)) < chance]
    same = {name: hit[name] for name in ("page", "banner", "placement", "position", "request")}
    clicks = _follow("click", hit, rng.uniform(2, 9, len(hit)), **same)
    first, end = world.banner_offsets[hit["banner"]], world.banner_offsets[hit["banner"] + 1]
    product = world.banner_products[rng.integers(first, end)]
    landings = _follow(
        "product_view", clicks, rng.uniform(1, 4, len(hit)), product=product, page=FIRST_PRODUCT + product
    )
    return clicks, landings


def _orders(world: World, carts: Rows, sessions: int, rng: np.random.Generator) -> Rows:
    """One order a session that buys, after its last cart; one event for each line."""
    buys, delay = rng.random(sessions) < ORDER_RATE, rng.uniform(15, 90, sessions)
    last = np.zeros(sessions, np.int64)
    np.maximum.at(last, carts["session"], carts["at"])
    bought = carts[buys[carts["session"]]]
    bought["at"] = last[bought["session"]]
    quantity = rng.geometric(0.8, len(bought)).astype(np.float64)
    amount = np.round(quantity * world.price[bought["product"]], 2)
    return _follow(
        "order", bought, delay[bought["session"]],
        product=bought["product"], page=CART, order=bought["session"], quantity=quantity, amount=amount,
    )  # fmt: skip
