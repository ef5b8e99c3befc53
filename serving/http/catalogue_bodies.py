"""What the catalogue's routes take and give beside the records themselves, and an example of each kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from marquee.catalogue import KINDS, Banner, Id, Record, Status

MOST_LISTED: Final = 500
MOST_CHANGES: Final = 1_000
RecordType = TypeVar("RecordType", bound=BaseModel)


class Page(BaseModel, Generic[RecordType]):
    """Records by id, and where the next page begins."""

    items: list[RecordType]
    total: int = Field(description="Records that fit, on all pages.")
    next_cursor: str | None = Field(None, description="Ask with it for the next page; null on the last.")


class Bulk(BaseModel, Generic[RecordType]):
    """Changes that are made together or not at all."""

    model_config = ConfigDict(extra="forbid")

    upsert: list[RecordType] = Field(default=[], max_length=MOST_CHANGES, description="Created, or replaced whole.")
    delete: list[Id] = Field(default=[], max_length=MOST_CHANGES, description="Ids.")

    @model_validator(mode="after")
    def _has_changes(self) -> Bulk[RecordType]:
        if not 1 <= len(self.upsert) + len(self.delete) <= MOST_CHANGES:
            raise ValueError(f"upsert and delete must hold 1 to {MOST_CHANGES} changes together")
        return self


class Changed(BaseModel):
    """What a bulk change came to."""

    version: int = Field(description="Of each record that was put there; its ETag.")
    upserted: int
    deleted: int


class AuditEntry(BaseModel):
    """One change of one record."""

    seq: int
    version: int
    at: str = Field(description="UTC.")
    by: str = Field(description="Name of the key that it was made with.")
    request_id: str
    kind: str
    id: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None = Field(description="null for a deletion.")


class AuditPage(BaseModel):
    """Changes, newest first."""

    items: list[AuditEntry]
    next_before: int | None = Field(description="Ask with before= for older ones; null when there are none.")


class Asked(BaseModel):
    """Which page."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(100, ge=1, le=MOST_LISTED)
    cursor: str | None = Field(None, max_length=1_000, description="next_cursor of the page before.")

    def among(self, records: Mapping[str, Record]) -> list[str]:
        """Ids of the records that are asked for."""
        wanted = self.model_dump(exclude={"limit", "cursor", "placement"}, exclude_none=True)
        if not wanted:  # then no record need be looked at, and of products there may be very many
            return list(records)
        return [key for key, record in records.items() if all(getattr(record, n) == v for n, v in wanted.items())]


class AskedByStatus(Asked):
    """Which page, of records with a status."""

    status: Status | None = None


class AskedBanners(AskedByStatus):
    """Which page, of banners."""

    campaign_id: Id | None = None
    placement: Id | None = Field(None, description="That may stand there, those without placements too.")

    def among(self, records: Mapping[str, Record]) -> list[str]:
        """Ids of the banners that are asked for."""
        found = super().among(records)
        if self.placement is None:
            return found
        places = {key: banner.placements for key in found if isinstance(banner := records[key], Banner)}
        return [key for key, named in places.items() if not named or self.placement in named]


class AskedProducts(Asked):
    """Which page, of products."""

    is_available: bool | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of record: its name in paths and in words, its model, its filters and an example with a change of it."""

    name: str
    word: str
    asked: type[Asked]
    example: dict[str, Any]
    patch: dict[str, Any]

    @property
    def model(self) -> type[Record]:
        """Of its records."""
        return KINDS[self.name]

    @property
    def id_field(self) -> str:
        """The field that names a record."""
        return f"{self.word}_id"


BannerProducts = Annotated[list[Id], Field(max_length=1_000)]
ALL: Final = (
    Kind(
        "campaigns",
        "campaign",
        AskedByStatus,
        {
            "campaign_id": "spring-sale",
            "title": "Spring sale",
            "starts_at": "2026-03-01T00:00:00",
            "ends_at": "2026-04-01T00:00:00",
            "time_zone": "Europe/Prague",
            "priority": 10,
            "daily_target": 50_000,
            "caps": [{"most": 5, "hours": 24}],
            "targeting": {"devices": ["mobile"], "pages": ["/category/*"]},
        },
        {"status": "paused"},
    ),
    Kind(
        "banners",
        "banner",
        AskedBanners,
        {
            "banner_id": "spring-shoes",
            "campaign_id": "spring-sale",
            "title": "New shoes",
            "placements": ["home_hero"],
            "landing_url": "https://shop.example/shoes",
            "product_ids": ["p0001", "p0002"],
        },
        {"title": "New shoes, 20 % off", "product_ids": ["p0001"]},
    ),
    Kind(
        "placements",
        "placement",
        AskedByStatus,
        {"placement_id": "home_hero", "title": "Top of the home page", "slots": 3},
        {"slots": 4},
    ),
    Kind(
        "products",
        "product",
        AskedProducts,
        {"product_id": "p0001", "category_id": "shoes", "price": 59.9, "is_available": True},
        {"is_available": False},
    ),
)
