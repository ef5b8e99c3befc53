"""Answers about pages by the champion's page model: what comes next, what to recommend, and what the model holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeVar

from serving.page_schemas import (
    TOP_PAGES,
    Advice,
    ExplainedAdvice,
    GraphAsked,
    ListedCluster,
    ListedClusters,
    Listing,
    NextPages,
    NextRequest,
    PageFallback,
    PageNetwork,
    PageNode,
    PagePolicy,
    PageStep,
    PolicyAsked,
    PolicyRow,
    ProbablePage,
)
from training.pages.answers import PageAction, PageState
from training.pages.page_model import PageModel

if TYPE_CHECKING:
    from serving.lineup import Standing

ItemType = TypeVar("ItemType")


class PageAnswers:
    """Answers for one worker. May be called by several threads at once.

    Args:
        standing: the champion.
    """

    def __init__(self, standing: Callable[[], Standing]) -> None:
        self._standing = standing

    def next(self, request: NextRequest) -> NextPages:
        """Probable next pages of a path, and the page to recommend on its newest one."""
        tag, model = self._now()
        if model is None:
            return NextPages(next=[], recommended=None, current=None, bundle=tag, fallback="no_page_model")
        newest = request.path[-1]
        probable = [
            ProbablePage(page=page, probability=chance) for page, chance in model.next_pages(request.path, request.n)
        ]
        is_known, advice = model.knows(newest), _advice(model, newest)
        fallback: PageFallback | None = None if advice else "nothing_to_recommend"
        return NextPages(
            next=probable,
            recommended=advice,
            current=newest if is_known else None,
            bundle=tag,
            fallback=fallback if is_known else "unknown_page",
        )

    def graph(self, asked: GraphAsked) -> PageNetwork | None:
        """Steps and the pages that they join; None for a page or cluster that there is not."""
        tag, model = self._now()
        if model is None:
            return PageNetwork(nodes=[], edges=[], next_cursor=None, bundle=tag, fallback="no_page_model")
        is_page = asked.page is None or model.figures(asked.page) is not None
        if not is_page or (asked.cluster is not None and asked.cluster > model.labels.max()):
            return None
        found, following = _part(model.edges(asked.limit + 1, asked.page, asked.cluster, asked.cursor), asked)
        edges = [PageStep(**asdict(edge)) for edge in found]
        joined = dict.fromkeys(page for edge in edges for page in (edge.from_page, edge.to_page))
        if asked.page is not None:
            joined.setdefault(asked.page)
        nodes = [PageNode(**asdict(figures)) for figures in map(model.figures, joined) if figures is not None]
        return PageNetwork(nodes=nodes, edges=edges, next_cursor=following, bundle=tag, fallback=None)

    def clusters(self, asked: Listing) -> ListedClusters:
        """Clusters of pages with their figures."""
        tag, model = self._now()
        if model is None:
            return ListedClusters(items=[], next_cursor=None, bundle=tag, fallback="no_page_model")
        found, following = _part(model.clusters(asked.limit + 1, asked.cursor), asked)
        items = [
            ListedCluster(**asdict(one.figures), page_count=len(one.pages), pages=list(one.pages[:TOP_PAGES]))
            for one in found
        ]
        return ListedClusters(items=items, next_cursor=following, bundle=tag, fallback=None)

    def policy(self, asked: PolicyAsked) -> PagePolicy | None:
        """What the policy does on each page, or on one; None for a page that there is not."""
        tag, model = self._now()
        if model is None:
            return PagePolicy(items=[], next_cursor=None, bundle=tag, fallback="no_page_model")
        states: Sequence[PageState]
        if asked.page is None:
            states, following = _part(model.policy(asked.limit + 1, asked.cursor), asked)
        elif (figures := model.figures(asked.page)) is None:
            return None
        else:
            best = next(iter(model.recommend(asked.page, 1)), None)
            states, following = [PageState(asked.page, figures.value, best)], None
        items = [PolicyRow(page=one.page, value=one.value, recommended=_told(one.action)) for one in states]
        return PagePolicy(items=items, next_cursor=following, bundle=tag, fallback=None)

    def _now(self) -> tuple[str, PageModel | None]:
        standing = self._standing()
        return standing.tag, standing.trained.pages


def _advice(model: PageModel, page: str) -> ExplainedAdvice | None:
    """The best page to recommend on a page, which is a rare one where it is not known."""
    best = next(iter(model.recommend(page, 1)), None)
    if best is None:
        return None
    seen, here = model.figures(best.page), model.figures(page)
    assert seen is not None
    reasons = [
        f"it adds {best.gain:.2f} to what is left of a session",
        f"orders of {best.value:.2f} are expected from there on; so far they were {seen.page_value:.2f}",
        f"{best.probability:.1%} go there next when it is recommended",
    ]
    if here is not None:
        expected = f"orders of {here.value:.2f} are expected from here on"
        reasons.append(f"{expected}, {here.exit_rate:.1%} of the visits end here")
    return ExplainedAdvice(**asdict(best), reasons=reasons)


def _told(action: PageAction | None) -> Advice | None:
    return Advice(**asdict(action)) if action else None


def _part(found: Sequence[ItemType], asked: Listing) -> tuple[Sequence[ItemType], int | None]:
    """The page that is asked for, and the cursor of the next one, which is there when one more than wanted is."""
    return found[: asked.limit], asked.cursor + asked.limit if len(found) > asked.limit else None
