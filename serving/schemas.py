"""The API's requests and answers. ``tests/contract`` holds ``Event`` against the contract's events table."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, RootModel, Tag, model_validator

from marquee import contract

Id = Annotated[str, Field(min_length=1, max_length=contract.LONGEST_ID)]
# An empty id is none, as it is in the warehouse.
OptionalId = Annotated[
    Annotated[str, Field(max_length=contract.LONGEST_ID)] | None,
    BeforeValidator(lambda value: None if value == "" else value),
]
Kind = Literal["page_view", "product_view", "favourite", "cart", "order", "return", "impression", "click", "other"]
Device = Literal["desktop", "mobile", "tablet", "unknown"]


class RequestContext(BaseModel):
    """What the page knows of the moment."""

    model_config = ConfigDict(extra="forbid")

    device: Device = "unknown"
    page: str | None = None
    session_id: OptionalId = None


class RecommendRequest(BaseModel):
    """Ask for a slate."""

    model_config = ConfigDict(
        extra="forbid",
        # BentoML's OpenAPI knows OpenAPI 3.0's singular ``example`` only; ``examples`` breaks /docs.json.
        json_schema_extra={"example": {"visitor_id": "v000123", "placement": "home_hero", "n": 2}},
    )

    visitor_id: Id = Field(description="Cookie-scoped visitor.")
    placement: Id = Field(description="Where the slate will stand.")
    n: int = Field(3, ge=1, le=contract.SLATE_LIMIT, description="Banners wanted; fewer come back when fewer fit.")
    context: RequestContext = RequestContext()


class RecommendedBanner(BaseModel):
    """One banner of the slate, best position first."""

    banner_id: str
    campaign_id: str
    title: str
    position: int = Field(description="From 0.")
    impression_id: str = Field(description="Send it back with the click.")
    score: float = Field(description="Calibrated click probability at the first position.")
    propensity: float = Field(description="Probability of this banner here, given those above it.")
    reasons: list[str]


class RecommendResponse(BaseModel):
    """A slate; empty, never an error, when nothing may be shown."""

    request_id: str
    slate: list[RecommendedBanner]
    bundle: str = Field(description="Tag of the bundle that answered.")
    policy: str
    fallback: Literal["cold_visitor", "features_unavailable", "nothing_eligible"] | None = Field(
        description="Why the answer is not a personal one; null when it is."
    )


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
    position: int | None = Field(None, ge=0, lt=2**63)
    request_id: OptionalId = None
    impression_id: OptionalId = None
    order_id: OptionalId = None
    page: str | None = None
    quantity: float | None = Field(None, ge=0)
    amount: float | None = Field(None, ge=0)
    device: Device | None = None
    country: str | None = None
    referrer: str | None = None
    arm: str | None = None
    policy: str | None = None
    propensity: float | None = Field(None, gt=0, le=1)
    features: str | None = None

    @model_validator(mode="after")
    def _needs_of_its_kind(self) -> Event:
        missing = [name for name in contract.required_by_kind(self.kind) if getattr(self, name) is None]
        if missing:
            raise ValueError(f"{missing[0]} is missing, which a {self.kind} needs")
        # As given first: a moment near year 1 or 9999 has no UTC to convert to.
        if not (1990 <= self.occurred_at.year <= 2100 and 1990 <= self._occurred_utc().year <= 2100):
            raise ValueError("occurred_at must lie between 1990 and 2100")
        return self

    def row(self) -> dict[str, Any]:
        """As a row of the contract's events table: UTC, without a zone."""
        return self.model_dump() | {"occurred_at": self._occurred_utc()}

    def _occurred_utc(self) -> datetime:
        moment = self.occurred_at
        return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


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


class Accepted(BaseModel):
    """How many events are now durable."""

    accepted: int


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
