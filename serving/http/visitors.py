"""What is known of a visitor, for callers that keep ids out of paths."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Body, Request

from serving.schemas import VisitorFeatures, VisitorRequest

if TYPE_CHECKING:  # Feast and XGBoost come with it, and BentoML's parent process needs neither
    from serving.worker import Worker


router = APIRouter(prefix="/v1/visitors", tags=["visitors"])
_EXAMPLE = {
    "visitor_id": "v000123",
    "session": None,
    "session_fallback": "no_session",
    "features": {"view_count_28d": 41, "cart_count_28d": 3},
    "fallback": None,
}


# Not ``async``: what it reads waits for a store, which a thread may and the event loop may not.
@router.post(
    "/features",
    summary="Read a visitor's features",
    responses={200: {"content": {"application/json": {"example": _EXAMPLE}}}},
)
def features(
    request: Request,
    body: Annotated[VisitorRequest, Body(openapi_examples={"one": {"value": {"visitor_id": "v000123"}}})],
) -> VisitorFeatures:
    """The session under way, fresh within a second, and the daily features."""
    return VisitorFeatures.model_validate(_known(request.app.state.worker, body.visitor_id))


def _known(worker: Worker, visitor_id: str) -> dict[str, Any]:
    session, session_fallback = worker.sessions.session(visitor_id)
    found, fallback = worker.scorer.known(visitor_id)
    return {
        "visitor_id": visitor_id,
        "session": session,
        "session_fallback": session_fallback,
        "features": found,
        "fallback": fallback,
    }
