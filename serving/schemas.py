"""The API's requests and answers. ``tests/contract`` holds ``Event`` against the contract's events table."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, RootModel, Tag, model_validator

from marquee import contract
from serving.http.problems import Fault

Id = Annotated[str, Field(min_length=1, max_length=contract.LONGEST_ID)]
# An empty id is none, as it is in the warehouse.
OptionalId = Annotated[
    Annotated[str, Field(max_length=contract.LONGEST_ID)] | None,
    BeforeValidator(lambda value: None if value == "" else value),
]
Kind = Literal[
    "page_view",
    "product_view",
    "favourite",
    "cart",
    "order",
    "return",
    "impression",
    "click",
    "seen",
    "other",
    "notification_sent",
    "notification_opened",
    "notification_clicked",
    "notification_dismissed",
    "notification_ignored",
]
Device = Literal["desktop", "mobile", "tablet", "unknown"]
Fallback = Literal[
    "cold_visitor", "features_unavailable", "counters_unavailable", "nothing_eligible", "overloaded", "too_late"
]


class RequestContext(BaseModel):
    """What the page knows of the moment."""

    model_config = ConfigDict(extra="forbid")

    device: Device = "unknown"
    page: str | None = Field(default=None, max_length=contract.LONGEST_PAGE, description="Path of the page.")
    session_id: OptionalId = Field(
        default=None, description="The shop's own session; caps of visitors without a cookie use it."
    )
    country: str | None = Field(default=None, pattern="^[A-Z]{2}$", description="ISO 3166-1 alpha-2.")
    segments: tuple[Id, ...] = Field(
        default=(), max_length=20, description="Segments that the shop knows the visitor to be in."
    )
    product_ids: tuple[Id, ...] = Field(
        default=(),
        max_length=contract.SESSION_PRODUCTS,
        description="Products looked at, newest last; decides for a stranger.",
    )


class Wanted(BaseModel):
    """One of several placements of a page."""

    model_config = ConfigDict(extra="forbid")

    placement: Id
    n: int = Field(default=3, ge=1, le=contract.SLATE_LIMIT)


class RecommendRequest(BaseModel):
    """Ask for a slate, or for the slates of several placements of one page."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"visitor_id": "v000123", "placement": "home_hero", "n": 2}},
    )

    visitor_id: OptionalId = Field(default=None, description="Cookie-scoped visitor; none for one without a cookie.")
    placement: Id = Field(default="", validate_default=False, description="Where the slate will stand.")
    n: int = Field(
        default=3, ge=1, le=contract.SLATE_LIMIT, description="Banners wanted; fewer come back when fewer fit."
    )
    placements: tuple[Wanted, ...] = Field(
        default=(), max_length=contract.MOST_PLACEMENTS, description="Instead of placement and n: several of one page."
    )
    context: RequestContext = RequestContext()
    reasons: bool = Field(default=True, strict=True, description="False leaves the reasons empty and answers sooner.")

    @model_validator(mode="after")
    def _names_a_place(self) -> RecommendRequest:
        if bool(self.placement) == bool(self.placements):
            raise ValueError(
                "placement is missing" if not self.placement else "placement and placements exclude each other"
            )
        return self

    def each(self) -> tuple[RecommendRequest, ...]:
        """One request for each placement."""
        if not self.placements:
            return (self,)
        return tuple(
            self.model_copy(update={"placement": one.placement, "n": one.n, "placements": ()})
            for one in self.placements
        )


class RecommendedBanner(BaseModel):
    """One banner of the slate, best position first."""

    banner_id: str
    campaign_id: str
    title: str
    position: int = Field(description="From 0.")
    impression_id: str = Field(description="Send it back with the click.")
    image_url: str | None = Field(description="What to show, where the catalogue knows it.")
    landing_url: str | None = Field(description="Where it leads, where the catalogue knows it.")
    click_url: str | None = Field(default=None, description="Signed: reports the click and redirects to landing_url.")
    score: float | None = Field(
        description="Calibrated click probability at the first position; null without a ranker."
    )
    propensity: float = Field(description="Probability of this banner here, given those above it.")
    reasons: list[str]


class RecommendResponse(BaseModel):
    """A slate; empty, never an error, when nothing may be shown."""

    request_id: str
    placement: str
    slate: list[RecommendedBanner]
    bundle: str = Field(description="Tag of the bundle that answered.")
    policy: str
    fallback: Fallback | None = Field(description="Why the answer is not a personal one; null when it is.")


class RecommendResponses(BaseModel):
    """The slates of several placements, in the order asked for; no banner stands in two of them."""

    answers: list[RecommendResponse]


class Event(BaseModel):
    """Something a visitor did. A repeated ``event_id`` counts once."""

    model_config = ConfigDict(
        extra="forbid",
        allow_inf_nan=False,  # JSON has no infinity, and neither has the event log
        json_schema_extra={
            "example": {
                "event_id": "e-1",
                "kind": "click",
                "occurred_at": "2026-02-02T12:00:03Z",
                "visitor_id": "v000123",
                "banner_id": "b017",
                "impression_id": "4f1c-0",
            }
        },
    )

    event_id: Id
    kind: Kind
    occurred_at: datetime
    visitor_id: Id
    customer_id: OptionalId = None
    session_id: OptionalId = None
    product_id: OptionalId = None
    banner_id: OptionalId = None
    placement_id: OptionalId = None
    position: int | None = Field(default=None, ge=0, lt=2**63)
    request_id: OptionalId = None
    impression_id: OptionalId = None
    order_id: OptionalId = None
    page: str | None = None
    quantity: float | None = Field(default=None, ge=0)
    amount: float | None = Field(default=None, ge=0)
    device: Device | None = None
    country: str | None = None
    referrer: str | None = None
    arm: str | None = None
    policy: str | None = None
    propensity: float | None = Field(default=None, gt=0, le=1)
    features: str | None = None
    notification_id: OptionalId = None
    notification_type: OptionalId = None

    @model_validator(mode="after")
    def _needs_of_its_kind(self) -> Event:
        for name in _REQUIRED_BY_KIND[self.kind]:
            if getattr(self, name) is None:
                raise ValueError(f"{name} is missing, which a {self.kind} needs")
        moment = self.occurred_at
        # As given first: a moment near year 1 or 9999 has no UTC to convert to.
        if 1990 <= moment.year <= 2100 and moment.tzinfo:
            # Not through __setattr__, which would count it as a field that was given.
            moment = self.__dict__["occurred_at"] = moment.astimezone(UTC).replace(tzinfo=None)
        if not 1990 <= moment.year <= 2100:
            raise ValueError("occurred_at must lie between 1990 and 2100")
        return self

    def row(self) -> dict[str, Any]:
        """As a row of the contract's events table: UTC, without a zone."""
        return self.model_dump()

    def line(self) -> bytes:
        """As a line of the event log; fields that are empty are left out."""
        return self.__pydantic_serializer__.to_json(self, exclude_none=True) + b"\n"


_REQUIRED_BY_KIND: Final = {kind: contract.required_by_kind(kind) for kind in contract.EVENT_KINDS}
OneEvent = Annotated[Event, Tag("event")]
ManyEvents = Annotated[list[Event], Tag("list")]


def _event_or_list(body: object) -> str:
    return "list" if isinstance(body, list) else "event"


class Events(RootModel[Annotated[OneEvent | ManyEvents, Discriminator(_event_or_list)]]):
    """One event or a list of them; told apart first, so that an error names the field and not both shapes."""

    def rows(self) -> list[dict[str, Any]]:
        """Rows of the contract's events table."""
        events = self.root if isinstance(self.root, list) else [self.root]
        return [event.row() for event in events]


class Rejected(BaseModel):
    """An event of a list that was not stored, and why."""

    index: int = Field(description="Its place in the list, from 0.")
    event_id: str | None
    errors: list[Fault]


class Accepted(BaseModel):
    """How many events are now durable, and which are not."""

    accepted: int
    rejected: list[Rejected] = Field(default=[], description="Send these again once they are mended.")


class VisitorRequest(BaseModel):
    """Ask what is known of a visitor."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"visitor_id": "v000123"}})

    visitor_id: Id = Field(description="Cookie-scoped visitor.")


class Session(BaseModel):
    """The session under way, as of its last event."""

    session_id: str
    feature_at: datetime = Field(description="When its last event happened, UTC.")
    session_view_count: int
    session_cart_count: int
    session_order_count: int
    session_impression_count: int
    session_click_count: int
    last_products: list[str] = Field(description="The last distinct products, newest first.")
    category_interest: dict[str, float] = Field(description="Decayed sum of event weights by category.")


class VisitorFeatures(BaseModel):
    """What is known of a visitor now."""

    visitor_id: str
    session: Session | None
    session_fallback: Literal["no_session", "session_unavailable"] | None = Field(
        description="Why there is no session; null when there is one."
    )
    features: dict[str, Any] | None = Field(description="The daily features that a request would read.")
    fallback: Literal["cold_visitor", "features_unavailable"] | None = Field(
        description="Why there are no daily features; null when there are."
    )


class Running(BaseModel):
    """What runs now."""

    bundle: str
    policy: str
    exploration: float
    banners: int
    trained_until: str
    snapshot: str
    canary: str | None = Field(description="Bundle that answers a share of the visitors.")
    canary_share: float
    shadow: str | None = Field(description="Bundle that is scored beside the answer, unseen.")
