"""From a cold start: what Marquee earns in simulated shops, a new banner's way to its place, and a change of tastes."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from benchmarks.choosers import HALF_LIFE_DAYS, Best, Marquee, Popular, Random
from benchmarks.measure import say
from benchmarks.shop import Chooser, Run, Shop
from ingestion.world import World, WorldSettings
from marquee.settings import Settings

WORLDS: Final = ("easy", "usual", "hard")
EVENTS: Final = Settings.model_fields["events"].default
"""Size of the shop: as many visitors as the default log of the simulator has."""
RECOVERED: Final = 0.8
FORGETTING_DAYS: Final = (HALF_LIFE_DAYS, 2)
"""Half-lives of interest that are tried where tastes change; the first is the default."""


def worlds(seed: int, requests: int, names: tuple[str, ...] = WORLDS) -> dict[str, Any]:
    """Value of Marquee, the most clicked, and chance in each world, as shares of the best policy's own run."""
    found = {}
    for name in names:
        settings = WorldSettings(seed, EVENTS, difficulty=name)
        kinds = ("best", "random", "popular", "marquee", *(("held_out",) if name == "usual" else ()))
        runs = {kind: _run(settings, requests, kind) for kind in kinds}
        found[name] = _told(settings, runs)
        say(f"{name}: {found[name]}")
    usual = found.get("usual", {})
    against = ("value_vs_best", "value_vs_popular", "value_vs_random")
    stricter = ("value_vs_best_in_its_own_states", "value_vs_best_held_out")
    headline = (*against, *stricter, "new_banner_share")
    return {name: usual.get(name) for name in headline} | {"worlds": found}


def change(seed: int, requests: int) -> dict[str, Any]:
    """Tastes change hands at half time: after which share of the run Marquee earns four fifths of the best again."""
    settings = WorldSettings(seed, EVENTS)
    half = settings.days // 2
    best = _run(settings, requests, "best", half)
    found: dict[str, Any] = {}
    for days in FORGETTING_DAYS:
        run = _run(settings, requests, "marquee", half, days)
        ratio = np.array(run.value) / np.array(best.value)
        # From the first day on which it earns that much again and does so on all that follow.
        low = np.flatnonzero(ratio[half:] < RECOVERED)
        back = int(low[-1]) + 1 if len(low) else 0
        found[f"half_life_{days:g}"] = {
            "before": round(float(ratio[half - 1]), 3),
            "after_by_day": [round(float(one), 3) for one in ratio[half:]],
            "recovered_within": round((back + 1) / settings.days, 3) if back < len(ratio[half:]) else None,
        }
        say(f"change, half-life {days:g} days: {found[f'half_life_{days:g}']}")
    first = found[f"half_life_{FORGETTING_DAYS[0]:g}"]["recovered_within"]
    return {"change_recovered_within": first, "change": found}


def _run(
    settings: WorldSettings, requests: int, kind: str, change_on: int | None = None, days: float = HALF_LIFE_DAYS
) -> Run:
    shop = Shop(settings, requests, change_on)
    chooser: Chooser
    match kind:
        case "best":
            chooser = Best(shop)
        case "random":
            chooser = Random(shop)
        case "popular":
            chooser = Popular(shop)
        case _:
            chooser = Marquee(shop, Settings(seed=settings.seed), days, held_out=kind == "held_out")
    return shop.run(chooser)


def _told(settings: WorldSettings, runs: dict[str, Run]) -> dict[str, Any]:
    value = {name: sum(run.value) / sum(run.requests) for name, run in runs.items()}
    own = runs["marquee"]
    return {
        "requests": sum(own.requests),
        "value_vs_best": round(value["marquee"] / value["best"], 4),
        "value_vs_popular": round(value["marquee"] / value["popular"], 3),
        "value_vs_random": round(value["marquee"] / value["random"], 3),
        "value_vs_best_in_its_own_states": round(sum(own.value) / sum(own.best_there), 4),
        **({"value_vs_best_held_out": round(value["held_out"] / value["best"], 4)} if "held_out" in value else {}),
        **_newcomers(settings, runs),
    }


def _newcomers(settings: WorldSettings, runs: dict[str, Run]) -> dict[str, Any]:
    """Impressions of the banners of campaigns that begin during the run, over those that the best policy gives them.

    Counted over the first requests after their campaign began, 2 % of the run; ``new_banners_there`` is the share of
    them that alone had nine tenths by then, which chance decides too: each has some dozens of impressions.
    """
    world = World(settings)
    starts = world.campaign_starts[world.banner_campaign]
    new = np.flatnonzero((starts > 0) & (starts < settings.days - 1))
    given = {
        name: np.array([runs[name].shown_early[starts[banner]][banner] for banner in new], dtype=np.float64)
        for name in ("best", "marquee")
    }
    if not len(new) or not given["best"].sum():
        return {"new_banners": len(new), "new_banner_share": None}
    deserving = given["best"] > 0
    there = given["marquee"][deserving] >= 0.9 * given["best"][deserving]
    return {
        "new_banners": len(new),
        "new_banner_share": round(float(given["marquee"].sum() / given["best"].sum()), 3),
        "new_banners_there": round(float(there.mean()), 3),
    }
