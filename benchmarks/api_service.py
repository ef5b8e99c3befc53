"""A service whose methods do nothing, written as BentoML's tutorials write them: what its way of answering costs."""

from __future__ import annotations

from typing import Any

import bentoml
from pydantic import BaseModel, RootModel

from marquee.settings import load_settings


class RequestContext(BaseModel):
    """What the page knows."""

    device: str = "unknown"
    page: str | None = None
    session_id: str | None = None


class Report(RootModel[list[dict[str, Any]]]):
    """Events as they are reported."""


@bentoml.service(
    name="nothing",
    workers=load_settings().service_workers,
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class NothingService:
    """Reads what the product is asked too, and answers."""

    @bentoml.api
    async def recommend(self, visitor_id: str, placement: str, n: int, context: RequestContext) -> dict[str, Any]:
        """Nothing to show."""
        return {"slate": []}

    @bentoml.api
    async def report(self, events: Report, /) -> dict[str, Any]:
        """Nothing stored."""
        return {"accepted": len(events.root)}
