"""A service whose one method does nothing, as BentoML's tutorials write it: what its own way of answering costs."""

from __future__ import annotations

from typing import Any

import bentoml
from pydantic import BaseModel

from marquee.settings import load_settings


class RequestContext(BaseModel):
    """What the page knows."""

    device: str = "unknown"
    page: str | None = None
    session_id: str | None = None


@bentoml.service(
    name="nothing",
    workers=load_settings().service_workers,
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class NothingService:
    """Reads a request for a slate and answers an empty one."""

    @bentoml.api
    async def recommend(self, visitor_id: str, placement: str, n: int, context: RequestContext) -> dict[str, Any]:
        """Nothing to show."""
        return {"slate": []}
