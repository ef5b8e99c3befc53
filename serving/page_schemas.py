"""What the routes for pages are asked, and what they answer. Amounts are those of orders."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from marquee import contract

LONGEST_PATH: Final = 50
MOST_NEXT: Final = 50
MOST_LISTED: Final = 500
MOST_CURSOR: Final = 1_000_000
TOP_PAGES: Final = 10
PageFallback = Literal["no_page_model", "unknown_page", "nothing_to_recommend"]
Page = Annotated[str, Field(min_length=1, max_length=contract.LONGEST_PAGE)]
NextCursor = Annotated[int | None, Field(description="Ask with it for the next page; null on the last.")]
Bundle = Annotated[str, Field(description="Tag of the bundle that answered.")]
Fallback = Annotated[PageFallback | None, Field(description="Why it is not what was asked for; null when it is.")]


class NextRequest(BaseModel):
    """Ask which page comes next after a path, and which one to recommend."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"path": ["/", "/category/cat03"], "n": 2}})

    path: tuple[Page, ...] = Field(
        min_length=1, max_length=LONGEST_PATH, description="Pages of the session as events name them, newest last."
    )
    n: int = Field(default=5, ge=1, le=MOST_NEXT, description="Pages wanted; fewer come back when fewer are known.")


class ProbablePage(BaseModel):
    """A page that may come next by itself."""

    page: str
    probability: float = Field(description="That it comes next, of those who go on.")


class Advice(BaseModel):
    """What to recommend on a page."""

    page: str
    gain: float = Field(description="Amount that recommending it here adds to the rest of a session on average.")
    value: float = Field(description="Amount expected from a view of it to the end of the session.")
    probability: float = Field(description="That it comes next when it is recommended.")


class ExplainedAdvice(Advice):
    """What to recommend on a page, and why."""

    reasons: list[str] = Field(description="The figures that the gain follows from.")


class NextPages(BaseModel):
    """Probable next pages, the most probable first, and the page to recommend."""

    next: list[ProbablePage]
    recommended: ExplainedAdvice | None = Field(description="null when there is nothing to gain.")
    current: str | None = Field(description="The path's newest page, when the model knows it.")
    bundle: Bundle
    fallback: Fallback


class Listing(BaseModel):
    """Which part of a list."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=100, ge=1, le=MOST_LISTED)
    cursor: int = Field(default=0, ge=0, le=MOST_CURSOR, description="next_cursor of the page before.")


class GraphAsked(Listing):
    """Which part of the network of pages; the whole of it without a page and a cluster."""

    page: Page | None = Field(default=None, description="Only steps from or to this page.")
    cluster: int | None = Field(default=None, ge=0, description="Only steps inside this cluster.")


class PolicyAsked(Listing):
    """Which rows of the policy."""

    page: Page | None = Field(default=None, description="Only this page.")


class PageNode(BaseModel):
    """What is known of a page, or of a cluster of them."""

    page: str = Field(description="Of a cluster its most visited one.")
    cluster: int
    visit_count: int
    entry_count: int = Field(description="Visits that began a session.")
    exit_rate: float = Field(description="Share of the visits that ended a session.")
    bounce_rate: float | None = Field(description="Share of the sessions begun here that had no other page.")
    mean_seconds: float | None = Field(description="On the page; null where it is never known.")
    page_value: float = Field(description="Mean amount from a visit to the end of the session, as it was.")
    value: float = Field(description="The same as it is expected to be when the policy is followed.")


class PageStep(BaseModel):
    """A step from one page to another."""

    from_page: str
    to_page: str
    count: int
    probability: float = Field(description="That a visit of from_page ends in this step.")


class PageNetwork(BaseModel):
    """Steps between pages, the most frequent first, and the pages that they join."""

    nodes: list[PageNode]
    edges: list[PageStep]
    next_cursor: NextCursor
    bundle: Bundle
    fallback: Fallback


class ListedCluster(PageNode):
    """Pages between which people move more than between others."""

    page_count: int
    pages: list[str] = Field(description=f"The most visited ones, at most {TOP_PAGES}.")


class ListedClusters(BaseModel):
    """Clusters, the most visited first."""

    items: list[ListedCluster]
    next_cursor: NextCursor
    bundle: Bundle
    fallback: Fallback


class PolicyRow(BaseModel):
    """What the policy does on one page."""

    page: str
    value: float = Field(description="Amount expected from a visit to the end of the session, under the policy.")
    recommended: Advice | None = Field(description="null where there is nothing to gain.")


class PagePolicy(BaseModel):
    """What the policy does, the most visited pages first."""

    items: list[PolicyRow]
    next_cursor: NextCursor
    bundle: Bundle
    fallback: Fallback
