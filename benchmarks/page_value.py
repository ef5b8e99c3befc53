"""What following the page policy is worth on simulated sites, beside the most probable next page and beside nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from benchmarks.measure import say
from benchmarks.page_world import (
    SHARE,
    Floats,
    Ints,
    PageWorld,
    Views,
    best_advice,
    by_page,
    exact_value,
    make_world,
    walk,
)
from training.harness.intervals import difference
from training.metrics import Estimate
from training.pages.evaluation import policy_report
from training.pages.graph import PagePaths
from training.pages.page_fitting import PageChoices, fit_pages
from training.pages.page_model import PageModel
from training.pages.page_policy import Following

PAGES: Final = 120
TAPER: Final = 0.5
STEP_SECONDS, SESSION_SECONDS = 30.0, 60.0


@dataclass(frozen=True, slots=True)
class Trial:
    """One simulated site: what sessions earned under each arm, [n], and what the log says the policy earns."""

    world: PageWorld
    policy: Floats
    probable: Floats
    nothing: Floats
    advised: Ints
    estimate: dict[str, float]


def value(seed: int, worlds: int, sessions: int) -> dict[str, Any]:
    """Gains over the most probable next page: on sites with value in them, without, and with other followers.

    On the last the off-policy estimate is too high, and should be: it rests on how visitors are supposed to follow.
    The policy is learnt from a log in which nothing was recommended, and its value is estimated from a second one of
    that kind; then every arm serves the same fresh sessions.

    Args:
        seed: of the first site; the others count on.
        worlds: sites of each kind.
        sessions: of each log, and of each arm.
    """
    kinds: dict[str, dict[str, Any]] = {"value": {}, "flat": {"valued": False}, "tapered": {"taper": TAPER}}
    found: dict[str, Any] = {}
    for name, kind in kinds.items():
        trials = [trial(make_world(PAGES, one, **kind), one, sessions) for one in range(seed, seed + worlds)]
        found |= _of(trials, name, seed)
    return found


def trial(world: PageWorld, seed: int, sessions: int) -> Trial:
    """Learn from a log of the site, then serve fresh sessions with each arm."""
    model = fit_pages(as_paths(walk(world, sessions, 3 * seed)), choices(), seed)
    report = policy_report(model, as_paths(walk(world, sessions, 3 * seed + 1)).onto(model.pages), seed)
    policy, probable = policy_advice(model), most_probable(model)

    def earned(advised: Ints | None) -> Floats:
        return walk(world, sessions, 3 * seed + 2, None if advised is None else by_page(advised)).values()

    return Trial(world, earned(policy), earned(probable), earned(None), policy, report["value"]["policy"])


def choices() -> PageChoices:
    """As an installation has them, which takes the share that follows from what visitors do with its banners."""
    return PageChoices(following=Following(share=SHARE))


def as_paths(views: Views) -> PagePaths:
    """A log as the warehouse gives it: every session somebody else's, a view every half minute."""
    starts = np.searchsorted(views.sessions, np.arange(views.count + 1)).astype(np.int64)
    place = np.arange(len(views.pages)) - np.repeat(starts[:-1], np.diff(starts))
    seconds = np.full(len(views.pages), STEP_SECONDS)
    seconds[starts[1:] - 1] = np.nan
    times = views.sessions * SESSION_SECONDS + place * STEP_SECONDS
    return PagePaths(
        pages=tuple(f"/page/{number}" for number in range(PAGES)),
        starts=starts,
        codes=views.pages,
        times=times,
        ends=times[starts[1:] - 1] + STEP_SECONDS,
        amounts=views.earned,
        seconds=seconds,
        visitors=np.arange(views.count),
    )


def policy_advice(model: PageModel) -> Ints:
    """[n] page that the model recommends on each page of the site, -1 for none, asked as the service asks."""
    found = [model.recommend(page, 1) for page in _names()]
    return np.array([_number(one[0].page) if one else -1 for one in found])


def most_probable(model: PageModel) -> Ints:
    """[n] page that it says comes next after each page, whatever that is worth."""
    found = [model.next_pages([page], 1) for page in _names()]
    return np.array([_number(one[0][0]) if one else -1 for one in found])


def _names() -> list[str]:
    return [f"/page/{number}" for number in range(PAGES)]


def _number(page: str) -> int:
    return int(page.rpartition("/")[2])


def _of(trials: Sequence[Trial], name: str, seed: int) -> dict[str, Any]:
    """Figures of the sites of one kind, all together and each."""
    each = [_figures(one, seed) for one in trials]
    policy, probable, nothing = (
        np.concatenate([getattr(one, arm) for one in trials]) for arm in ("policy", "probable", "nothing")
    )
    ratio = float(policy.mean() / probable.mean())
    say(f"  {name}: {policy.mean():.3f} a session, {ratio:.3f} of what the most probable page earns")
    return {
        f"{name}_vs_probable": ratio,
        f"{name}_vs_probable_lowest": min(one["vs_probable"] for one in each),
        f"{name}_vs_nothing": float(policy.mean() / nothing.mean()),
        f"{name}_gain": asdict(gain := _gain(policy, probable, seed)),
        f"{name}_shows_gain": gain.low > 0,
        f"{name}_estimates_right": float(np.mean([one["estimate_right"] for one in each])),
        f"{name}_worlds": each,
    }


def _figures(one: Trial, seed: int) -> dict[str, Any]:
    """Of one site; ``estimate`` is the off-policy one, and right where its interval holds the exact value."""
    exact, best = exact_value(one.world, one.advised), exact_value(one.world, best_advice(one.world))
    return {
        "policy": float(one.policy.mean()),
        "probable": float(one.probable.mean()),
        "nothing": float(one.nothing.mean()),
        "vs_probable": float(one.policy.mean() / one.probable.mean()),
        "gain": asdict(_gain(one.policy, one.probable, seed)),
        "exact": exact,
        "of_the_possible": exact / best,
        "estimate": one.estimate,
        "estimate_right": one.estimate["low"] <= exact <= one.estimate["high"],
    }


def _gain(one: Floats, other: Floats, seed: int) -> Estimate:
    """The mean difference of paired sessions, with its interval."""
    return difference({"value": one}, {"value": other}, seed=seed)["value"]
