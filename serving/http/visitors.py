"""All that is known of one visitor, and having it forgotten."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Body, Path, Query, Request
from pydantic import BaseModel, Field

from marquee import contract
from marquee.erasure_requests import State, erasure_state, request_erasure
from marquee.errors import MarqueeError
from marquee.outbox import outbox_file
from marquee.settings import Settings, settings_now
from marquee.sqlite import delete_from_sqlite
from serving.http.exports import as_json
from serving.http.problems import Problem
from serving.schemas import VisitorFeatures, VisitorRequest

if TYPE_CHECKING:  # Feast and XGBoost come with it, and BentoML's parent process needs neither
    from serving.worker import Worker

router = APIRouter(prefix="/v1", tags=["visitors"])
VisitorId = Annotated[str, Path(min_length=1, max_length=contract.LONGEST_ID)]
MOST_RECENT = 100
_EXAMPLE = {
    "visitor_id": "v000123",
    "session": None,
    "session_fallback": "no_session",
    "features": {"view_count_28d": 41, "cart_count_28d": 3},
    "fallback": None,
}


class VisitorCard(VisitorFeatures):
    """What is known of a visitor now, what they like, and what they did last."""

    segment: str | None = Field(None, description="The customer segment, where they are in one.")
    affinities: dict[str, float] = Field(description="Shares of their interest by category, largest first.")
    recent: list[dict[str, Any]] = Field(description="Their last events, newest first, as GET /v1/events has them.")


class ErasureState(BaseModel):
    """How far an erasure is."""

    erasure_id: str
    state: str = Field(description="requested, started or finished.")
    requested_at: str = Field(description="UTC.")
    changed_at: str = Field(description="When it came into its state, UTC.")
    counts: dict[str, dict[str, int]] | None = Field(None, description="Rows erased by store and place, at its end.")


# Not ``async``: what they read waits for a store, which a thread may and the event loop may not.
@router.get("/visitors/{visitor_id}", summary="Read a visitor")
def visitor(
    request: Request, visitor_id: VisitorId, recent: Annotated[int, Query(ge=0, le=MOST_RECENT)] = 20
) -> VisitorCard:
    """The session under way, the daily features, the segment, the affinities and the last events."""
    from ingestion.event_query import newest_events

    worker: Worker = request.app.state.worker
    known = _known(worker, visitor_id)
    return VisitorCard.model_validate(
        known
        | {
            "affinities": affinities(known["features"]),
            "recent": as_json(newest_events(worker.settings, visitor_id, recent)) if recent else [],
        }
    )


@router.post(
    "/visitors/features",
    summary="Read a visitor's features",
    responses={200: {"content": {"application/json": {"example": _EXAMPLE}}}},
)
def features(
    request: Request,
    body: Annotated[VisitorRequest, Body(openapi_examples={"one": {"value": {"visitor_id": "v000123"}}})],
) -> VisitorFeatures:
    """The session under way, fresh within a second, and the daily features; for callers that keep ids out of paths."""
    return VisitorFeatures.model_validate(_known(request.app.state.worker, body.visitor_id))


def _known(worker: Worker, visitor_id: str) -> dict[str, Any]:
    session, session_fallback = worker.sessions.session(visitor_id)
    found, fallback = worker.scorer.known(visitor_id)
    return {
        "visitor_id": visitor_id,
        "session": session,
        "session_fallback": session_fallback,
        "features": found.features,
        "segment": found.segment,
        "fallback": fallback,
    }


@router.delete("/visitors/{visitor_id}", summary="Erase a visitor", status_code=202)
def erase(request: Request, visitor_id: VisitorId) -> ErasureState:
    """Keep a visitor out of every load and answer at once, and have the rest of them erased.

    The next run of `ingest_events`, or `marquee forget --pending`, erases them from every store and searches all of
    them. What they do after this request is no part of it.
    """
    return erase_visitor(request, visitor_id)


@router.get("/erasures/{erasure_id}", summary="How far an erasure is")
def erasure(request: Request, erasure_id: str) -> ErasureState:
    """Its state, and what was erased once it is finished."""
    settings: Settings = request.app.state.worker.settings
    if (found := erasure_state(settings, erasure_id)) is None:
        raise Problem(404, f"there is no erasure {erasure_id}")
    return _told(found)


def erase_visitor(request: Request, visitor_id: str) -> ErasureState:
    """Begin the erasure of a visitor, whether or not anything of them is known."""
    from features.erasure import drop_visitor

    settings: Settings = request.app.state.worker.settings
    by = request.state.principal.name
    until = _newest(settings, visitor_id)
    erasure_id = request_erasure(settings, visitor_id, until, by, "asked for over the API")
    # Where a store is busy or down, the erasure's run has the patience that a request has not.
    with suppress(MarqueeError):
        drop_visitor(settings, visitor_id)
    with suppress(MarqueeError):
        delete_from_sqlite(outbox_file(settings), {"visitor_id": visitor_id}, seconds=1.0)
    found = erasure_state(settings, erasure_id)
    assert found is not None
    return _told(found)


def affinities(features: dict[str, Any] | None) -> dict[str, float]:
    """Category → share of a visitor's interest, largest first."""
    shares: dict[str, float] = json.loads((features or {}).get("category_affinity") or "{}")
    return dict(sorted(shares.items(), key=lambda share: (-share[1], share[0])))


def _newest(settings: Settings, visitor_id: str) -> datetime:
    """Until when rows must go: now, or the visitor's last event where their clock was ahead."""
    from ingestion.event_query import newest_events

    moments: list[datetime] = [row["occurred_at"] for row in newest_events(settings, visitor_id, 1)]
    return max([settings_now(settings), *moments])


def _told(state: State) -> ErasureState:
    return ErasureState(
        erasure_id=state.erasure,
        state=state.state,
        requested_at=state.requested_at,
        changed_at=state.changed_at,
        counts=state.counts,
    )
