"""``GET /v1/clicks/{token}``: report a click and lead on. The link's signature is the key."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Request
from fastapi.responses import RedirectResponse, Response
from prometheus_client import Counter

from serving.clicks import DAYS
from serving.http.problems import Problem

router = APIRouter(prefix="/v1", tags=["events"])
CLICKS: Final = Counter("marquee_clicks", "Banner links followed, by what became of the click.", ["outcome"])
LONGEST: Final = 8_000
"""Of a token, in characters; the longest that is made has some 4,000."""
_LEADS: Final[dict[int | str, dict[str, Any]]] = {
    302: {
        "description": "Leads to the banner's page.",
        "headers": {"Location": {"schema": {"type": "string", "format": "uri"}}},
    },
    404: {"description": f"Not a link of this service, or one older than {DAYS} days."},
}


@router.get(
    "/clicks/{token}", summary="Follow a banner", status_code=302, response_class=RedirectResponse, responses=_LEADS
)
async def follow(request: Request, token: Annotated[str, Path(max_length=LONGEST)]) -> Response:
    """Report the click that `click_url` stands for, and lead to the banner's page; no other page can be named."""
    worker = request.app.state.worker
    click = worker.links.read(token) if worker.links else None
    if click is None:
        CLICKS.labels("refused").inc()
        raise Problem(404, f"this is no link of this service, or one older than {DAYS} days")
    outcome = await worker.clicks.record(click)
    CLICKS.labels(outcome).inc()
    if outcome == "recorded":
        worker.sessions.wake()
    return RedirectResponse(click.landing_url, 302)
