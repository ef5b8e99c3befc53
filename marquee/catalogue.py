"""The catalogue that marketers manage while the service runs: campaigns, banners, placements and products."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, field_validator, model_validator

from marquee import contract

Id = Annotated[str, Field(min_length=1, max_length=contract.LONGEST_ID)]
Text = Annotated[str, Field(max_length=500)]
Status = Literal["active", "paused"]
MOST_PRODUCTS = 1_000
"""Products of one banner."""


class _Record(BaseModel):
    """A record as it is stored: unknown fields are refused, values are never guessed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Cap(_Record):
    """How often one visitor may see something: at most ``most`` times in ``hours``, or in one session.

    Once reached it blocks for ``block_hours`` more, counted from the last showing; 0 lets the window alone decide.
    """

    most: int = Field(ge=1, le=1_000, description="Showings allowed.")
    scope: Literal["visitor", "session"] = "visitor"
    hours: float = Field(
        default=24.0, gt=0, le=24 * 90, description="Window of a visitor's cap; a session's is the session."
    )
    block_hours: float = Field(default=0.0, ge=0, le=24 * 90, description="How long a reached cap blocks, at least.")


class Window(_Record):
    """Hours of the week, in the campaign's time zone, at which a campaign runs."""

    weekdays: tuple[Annotated[int, Field(ge=0, le=6)], ...] = Field(
        default=(0, 1, 2, 3, 4, 5, 6), min_length=1, description="0 is Monday."
    )
    from_hour: int = Field(default=0, ge=0, le=23)
    until_hour: int = Field(default=24, ge=1, le=24, description="First hour at which it no longer runs.")

    @model_validator(mode="after")
    def _has_length(self) -> Window:
        if self.until_hour <= self.from_hour:
            raise ValueError("until_hour must be later than from_hour; write two windows for one over midnight")
        return self


class Targeting(_Record):
    """Who and where; an empty list means any."""

    devices: tuple[Literal["desktop", "mobile", "tablet", "unknown"], ...] = ()
    segments: tuple[Id, ...] = Field(
        default=(), max_length=100, description="Visitor segments, at least one of which fits."
    )
    pages: tuple[Text, ...] = Field(default=(), max_length=100, description="Page paths; * stands for anything.")
    countries: tuple[Annotated[str, Field(pattern="^[A-Z]{2}$")], ...] = Field(default=(), max_length=250)


class Campaign(_Record):
    """When, to whom and how often its banners may be shown."""

    campaign_id: Id
    title: Text = ""
    status: Status = "active"
    starts_at: datetime = Field(description="First moment; without an offset it is in time_zone.")
    ends_at: datetime = Field(description="First moment at which it no longer runs.")
    time_zone: str = Field(
        default="UTC", max_length=64, description="IANA name; days, hours and daily targets follow it."
    )
    hours: tuple[Window, ...] = Field(default=(), max_length=50, description="Hours of the week; empty for all.")
    priority: int = Field(default=0, ge=-1_000, le=1_000, description="Higher ones fill a slate first.")
    is_exclusive: bool = Field(
        default=False, description="While it may be shown, only its banners stand in that slate."
    )
    is_house: bool = Field(default=False, description="Shown only where nothing else may be.")
    budget: int | None = Field(default=None, ge=0, description="Impressions in all; empty for no limit.")
    daily_target: int | None = Field(default=None, ge=0, description="Impressions a day, in its time zone.")
    pacing: Literal["even", "asap"] = Field(default="even", description="How the daily target is spread over the day.")
    caps: tuple[Cap, ...] = Field(default=(), max_length=10, description="On all its banners together.")
    competes_in: Id | None = Field(
        default=None, description="Of campaigns with the same word a slate holds one banner."
    )
    targeting: Targeting = Targeting()

    @field_validator("time_zone")
    @classmethod
    def _is_known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{name!r} is no IANA time zone, such as Europe/Prague") from None
        return name

    @model_validator(mode="after")
    def _lasts(self) -> Campaign:
        if self.starts_utc >= self.ends_utc:
            raise ValueError("ends_at must be later than starts_at")
        return self

    @property
    def starts_utc(self) -> datetime:
        """First moment, UTC without a zone."""
        return _utc(self.starts_at, self.time_zone)

    @property
    def ends_utc(self) -> datetime:
        """First moment at which it no longer runs, UTC without a zone."""
        return _utc(self.ends_at, self.time_zone)


class Banner(_Record):
    """What is shown, where it leads and what it promotes."""

    banner_id: Id
    campaign_id: Id
    title: Text = ""
    status: Status = "active"
    placements: tuple[Id, ...] = Field(
        default=(), max_length=200, description="Where it may stand; empty for anywhere."
    )
    landing_category_id: Id | None = None
    landing_url: HttpUrl | None = Field(default=None, description="Where a click leads.")
    image_url: HttpUrl | None = None
    product_ids: tuple[Id, ...] = Field(default=(), max_length=MOST_PRODUCTS, description="Products that it promotes.")
    caps: tuple[Cap, ...] = Field(default=(), max_length=10)
    created_at: datetime | None = None


class Placement(_Record):
    """A place on a page."""

    placement_id: Id
    title: Text = ""
    status: Status = "active"
    slots: int = Field(
        default=contract.SLATE_LIMIT, ge=1, le=contract.SLATE_LIMIT, description="Most banners it holds."
    )


class Product(_Record):
    """What the shop says of a product now; a field left out stays as the warehouse knows it."""

    product_id: Id
    title: Text | None = None
    category_id: Id | None = None
    price: float | None = Field(default=None, ge=0)
    is_available: bool = True


Record = Campaign | Banner | Placement | Product
KINDS: dict[str, type[Campaign] | type[Banner] | type[Placement] | type[Product]] = {
    "campaigns": Campaign,
    "banners": Banner,
    "placements": Placement,
    "products": Product,
}
"""Collections by the name that the API and the store give them."""


def _utc(moment: datetime, time_zone: str) -> datetime:
    aware = moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(time_zone))
    return aware.astimezone(UTC).replace(tzinfo=None)
