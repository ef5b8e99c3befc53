"""Fits the page model of a bundle on the sessions before the held-out window, and judges it on those after."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from marquee.errors import NothingToDo
from marquee.settings import Settings
from training.models.markov import Markov
from training.pages.clusters import communities, modularity
from training.pages.decision_process import DecisionProcess, evaluate, solve
from training.pages.evaluation import policy_report
from training.pages.graph import PageGraph, PagePaths
from training.pages.next_page import next_page_report
from training.pages.page_model import Learnt, PageModel
from training.pages.page_policy import Following, Offering, offers_of, page_process
from training.pages.reading import followed_share, read_paths

MOST_PAGES: Final = 100_000
LEAST_VIEWS: Final = 5
"""Of a page, to be a state of its own."""
LEAST_VISITS: Final = 1_000
"""Page views that there must be to learn anything from."""


@dataclass(frozen=True, slots=True)
class PageChoices:
    """Plain values.

    Attributes:
        order: pages that the next one is predicted from.
        discount: what a step later is worth; near 1, as a session is short and its order counts whenever it comes.
        following: how visitors take a recommendation.
        offering: what may be recommended where.
    """

    order: int = 3
    discount: float = 0.99
    following: Following = field(default_factory=Following)
    offering: Offering = field(default_factory=Offering)


def fit_page_model(settings: Settings, until: np.datetime64) -> tuple[PageModel | None, dict[str, Any]]:
    """The model of all sessions that had ended by ``until``, and its report; without enough of them only why not.

    The report judges it on the sessions that began at ``until`` or later: the next page against a first-order model,
    the policy by what those sessions say of it. How many follow is taken from how many click banners.
    """
    moment = float(until.astype("datetime64[us]").astype(np.int64)) / 1e6
    try:
        paths = read_paths(settings)
        window = frequent_paths(paths, moment)
        share = followed_share(settings, until)
    except NothingToDo as reason:
        return None, {"skipped": str(reason)}
    choices = PageChoices()
    if share is not None:
        choices = replace(choices, following=replace(choices.following, share=share))
    model = fit_pages(window, choices, settings.seed)
    told = {"model": model.described(), "share_known": share is not None}
    return model, told | quality(model, window, paths.since(moment).onto(model.pages), settings.seed)


def frequent_paths(paths: PagePaths, until: float) -> PagePaths:
    """The sessions that had ended by ``until``, over the pages frequent in them.

    Raises:
        NothingToDo: there are too few to learn from.
    """
    window = paths.before(until)
    if len(window) < LEAST_VISITS:
        raise NothingToDo(f"{len(window):,} page views before the held-out window, {LEAST_VISITS:,} are needed")
    return window.frequent(MOST_PAGES, LEAST_VIEWS)


def fit_pages(window: PagePaths, choices: PageChoices, seed: int) -> PageModel:
    """The model of a window's sessions, all of whose views are of its pages."""
    graph, following = PageGraph.of(window), choices.following
    offers = offers_of(graph, following, choices.offering, choices.discount)
    solved = solve(page_process(graph, offers, choices.discount))
    markov = Markov(order=choices.order).fit(window.interactions())
    learnt = Learnt(
        order=choices.order,
        smoothing=markov.settings.smoothing,
        markov_discount=markov.settings.discount,
        share=following.share,
        lift=following.lift if np.isfinite(following.lift) else None,
        discount=choices.discount,
        error=solved.error,
        sweeps=solved.sweeps,
        visits=len(window),
        sessions=window.session_count,
    )
    return PageModel(graph, offers, solved.values, communities(graph, seed), markov, learnt)


def quality(model: PageModel, window: PagePaths, later: PagePaths, seed: int) -> dict[str, Any]:
    """What the model is worth on later sessions, and what it thinks of itself; JSON-ready."""
    first = Markov(order=1).fit(window.interactions())
    names = {"first_order": first, f"order_{model.learnt.order}": model.markov}
    known = modularity(model.graph, model.labels)
    return {
        "pages": len(model),
        "clusters": {"count": int(model.labels.max()) + 1, "modularity": known if np.isfinite(known) else None},
        "expected": expected(model),
        "next_page": next_page_report(names, later, seed),
        "policy": policy_report(model, later, seed),
    }


def expected(model: PageModel) -> dict[str, float]:
    """By the model itself: a session's value under the policy, by itself, and if the most probable page were advised.

    ``recommended_rate`` is the share of page views with an advice.
    """
    graph, discount = model.graph, model.learnt.discount
    process = page_process(graph, model.offers, discount)
    (chosen, _), (probable, _) = model.best, model.probable
    found = {
        "value": graph.entry_shares @ model.values,
        "natural": graph.entry_shares @ evaluate(process, process.starts[:-1]),
        "probable": graph.entry_shares @ evaluate(process, _actions(model, process, probable)),
        "recommended_rate": graph.visits[chosen >= 0].sum() / max(int(graph.visits.sum()), 1),
    }
    return {name: float(value) for name, value in found.items()}


def _actions(model: PageModel, process: DecisionProcess, targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """[S] the action of the process by which each page's target [S] is recommended; the first, nothing, for -1."""
    offers, actions = model.offers, process.starts[:-1].copy()
    states = np.repeat(np.arange(len(model)), np.diff(offers.indptr))
    hits = np.flatnonzero(offers.indices == targets[states])
    # An offer's action stands as many places further as there are states up to its own, each with its first action.
    actions[states[hits]] = hits + states[hits] + 1
    return actions
