"""Pages: which comes next, which to recommend, and the network, clusters and policy that the answers come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Body, Query, Request

from serving.http.problems import Problem
from serving.page_schemas import (
    GraphAsked,
    ListedClusters,
    Listing,
    NextPages,
    NextRequest,
    PageNetwork,
    PagePolicy,
    PolicyAsked,
)

if TYPE_CHECKING:  # XGBoost comes with it, and BentoML's parent process does not need it
    from serving.pages import PageAnswers


router = APIRouter(prefix="/v1/pages", tags=["pages"])
_BUNDLE: Final = {"bundle": "banner_bundle:0123", "fallback": None}
_ADVICE: Final = {"page": "/advice", "gain": 3.12, "value": 41.5, "probability": 0.19}
_REASONS: Final = [
    "it adds 3.12 to what is left of a session",
    "orders of 41.50 are expected from there on; so far they were 38.20",
    "19.0% go there next when it is recommended",
    "orders of 12.40 are expected from here on, 31.0% of the visits end here",
]
_FIGURES: Final = {"page": "/", "cluster": 0, "visit_count": 8210, "entry_count": 6120, "exit_rate": 0.31}
_FIGURES_TOO: Final = {"bounce_rate": 0.22, "mean_seconds": 24.5, "page_value": 9.1, "value": 12.4}
_NODE: Final = _FIGURES | _FIGURES_TOO


def _answers(example: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {"application/json": {"example": example | _BUNDLE}}}}


_NEXT: Final = {
    "next": [{"page": "/category/cat03", "probability": 0.41}, {"page": "/advice", "probability": 0.08}],
    "recommended": _ADVICE | {"reasons": _REASONS},
    "current": "/",
}
_GRAPH: Final = {
    "nodes": [_NODE],
    "edges": [{"from_page": "/", "to_page": "/category/cat03", "count": 2310, "probability": 0.28}],
    "next_cursor": 100,
}
_CLUSTERS: Final = {
    "items": [_NODE | {"page_count": 14, "pages": ["/", "/category/cat03", "/advice"]}],
    "next_cursor": None,
}
_MISSING: Final[dict[int | str, dict[str, Any]]] = {404: {"description": "There is no such page or cluster."}}
_POLICY: Final = {"items": [{"page": "/", "value": 12.4, "recommended": _ADVICE}], "next_cursor": 100}


# Not ``async``: they go over all pages, which a thread may and the event loop may not.
@router.post("/next", summary="Recommend the next page", responses=_answers(_NEXT))
def next_page(
    request: Request,
    body: Annotated[
        NextRequest, Body(openapi_examples={"session": {"value": {"path": ["/", "/category/cat03"], "n": 2}}})
    ],
) -> NextPages:
    """Which pages probably come next after a session's path, and which one is worth recommending.

    Nothing is logged by this.
    """
    return _pages(request).next(body)


@router.get("/graph", summary="The network of pages", responses=_answers(_GRAPH) | _MISSING)
def graph(request: Request, asked: Annotated[GraphAsked, Query()]) -> PageNetwork:
    """Steps between pages, the most frequent first: of all, of one page, or inside one cluster."""
    found = _pages(request).graph(asked)
    if found is None:
        raise Problem(404, f"there is no {_named(asked)}")
    return found


@router.get("/clusters", summary="Clusters of pages", responses=_answers(_CLUSTERS))
def clusters(request: Request, asked: Annotated[Listing, Query()]) -> ListedClusters:
    """Groups of pages between which people move more than between others, the most visited first."""
    return _pages(request).clusters(asked)


@router.get("/policy", summary="What is recommended where", responses=_answers(_POLICY) | _MISSING)
def policy(request: Request, asked: Annotated[PolicyAsked, Query()]) -> PagePolicy:
    """The page to recommend on each page with its expected gain, the most visited pages first; or on one page."""
    found = _pages(request).policy(asked)
    if found is None:
        raise Problem(404, f"there is no page {asked.page}")
    return found


def _named(asked: GraphAsked) -> str:
    """What was asked for and is not there."""
    wanted = {"page": asked.page, "cluster": asked.cluster}
    return " in ".join(f"{name} {value}" for name, value in wanted.items() if value is not None)


def _pages(request: Request) -> PageAnswers:
    pages: PageAnswers = request.app.state.worker.pages
    return pages
