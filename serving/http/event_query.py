"""Reading events back, one page or all of them, and deleting those that must not count."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Path, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from marquee import contract
from marquee.settings import Settings
from serving.http.exports import EXPORTS, Format, as_json, format_of
from serving.http.problems import Problem, invalid
from serving.http.visitors import ErasureState, erase_visitor
from serving.schemas import Id, Kind

router = APIRouter(prefix="/v1/events", tags=["events"])
MOST_LISTED: Final = 1_000
MOST_DELETED: Final = 1_000
MOST_EXPORTS: Final = 2
"""Exports that one process writes at once."""
_EXPORTING: Final = threading.BoundedSemaphore(MOST_EXPORTS)
_EVENT: Final = {
    "event_id": "e-1",
    "kind": "click",
    "occurred_at": "2026-02-02T12:00:03Z",
    "visitor_id": "v000123",
    "banner_id": "b017",
}
_TEXT: Final = {"schema": {"type": "string"}}
_BYTES: Final = {"schema": {"type": "string", "format": "binary"}}


class EventQuery(BaseModel):
    """Which events."""

    model_config = ConfigDict(extra="forbid")

    kind: Kind | None = None
    visitor_id: Id | None = None
    banner_id: Id | None = None
    placement_id: Id | None = None
    product_id: Id | None = None
    session_id: Id | None = None
    request_id: Id | None = None
    arm: Id | None = None
    policy: Id | None = None
    since: datetime | None = Field(None, alias="from", description="First moment; a time without a zone is UTC.")
    until: datetime | None = Field(None, alias="to", description="First moment that is no longer wanted.")
    limit: int = Field(100, ge=1, le=MOST_LISTED, description="Of a page; exports have no limit.")
    cursor: str | None = Field(None, max_length=2_000, description="The next_cursor of the page before.")
    format: Format | None = Field(None, description="json gives a page; the others stream every event there is.")


class EventPage(BaseModel):
    """Events in order of time, then of id; what is not known of one is left out."""

    items: list[dict[str, Any]]
    next_cursor: str | None = Field(description="Give it back for the next page; null when this is the last.")


class Deletion(BaseModel):
    """Which events must not count."""

    model_config = ConfigDict(extra="forbid")

    event_ids: list[Id] = Field(min_length=1, max_length=MOST_DELETED)
    reason: str = Field("", max_length=200, description="Why; recorded. Do not name a person.")


class Deleted(BaseModel):
    """Events that do not count from now on."""

    deletion_id: str
    event_ids: int = Field(description="How many different ids were given; whether they are known does not matter.")


_CONTENT: Final[dict[str, Any]] = {
    "application/json": {"example": {"items": [_EVENT], "next_cursor": None}},
    "application/x-ndjson": _TEXT,
    "text/csv": _TEXT,
    "application/vnd.apache.parquet": _BYTES,
}


# Not ``async``: what they read waits for the disk, which a thread may and the event loop may not.
@router.get(
    "",
    summary="Read events",
    response_model=EventPage,
    responses={200: {"content": _CONTENT}},
)
def events(request: Request, asked: Annotated[EventQuery, Query()]) -> Response:
    """What was reported and logged, from the moment it was acknowledged; a repeated event once.

    As JSON it comes in pages. As CSV, JSON lines or Parquet (`format`, or `Accept`) all of it is streamed.
    """
    form = format_of(asked.format, request.headers.get("accept", ""))
    if form is None:
        raise Problem(406, "events come as application/json, application/x-ndjson, text/csv or Parquet")
    settings: Settings = request.app.state.worker.settings
    if form != "json":
        return _export(settings, asked, form)
    from ingestion.event_query import read_page

    page = read_page(settings, _wanted(asked), asked.limit, _after(asked))
    cursor = page.rest.cursor if page.rest else None
    return JSONResponse({"items": as_json(page.events), "next_cursor": cursor})


@router.delete(
    "",
    summary="Delete events",
    status_code=202,
)
def delete(
    request: Request,
    body: Annotated[Deletion | None, Body(examples=[{"event_ids": ["e-1"], "reason": "sent by a test"}])] = None,
    visitor_id: Annotated[Id | None, Query(description="Instead of a body: erase this visitor.")] = None,
) -> Deleted | ErasureState:
    """Have events left out of every answer at once, and of the warehouse from its next load and build on.

    All events of a visitor are an erasure: see `DELETE /v1/visitors/{visitor_id}`.
    """
    if (body is None) == (visitor_id is None):
        raise invalid([{"field": "event_ids", "message": "give event_ids in a body, or visitor_id in the query"}])
    if visitor_id is not None:
        return erase_visitor(request, visitor_id)
    assert body is not None
    return _delete(request, body)


@router.delete("/{event_id:path}", summary="Delete one event", status_code=202)
def delete_one(
    request: Request, event_id: Annotated[str, Path(min_length=1, max_length=contract.LONGEST_ID)]
) -> Deleted:
    """The same for one event."""
    return _delete(request, Deletion(event_ids=[event_id], reason=""))


def _delete(request: Request, asked: Deletion) -> Deleted:
    from ingestion.deleted_events import delete_events

    settings: Settings = request.app.state.worker.settings
    by = request.state.principal.name
    deletion = delete_events(settings.log, asked.event_ids, by, asked.reason)
    return Deleted(deletion_id=deletion, event_ids=len(set(asked.event_ids)))


def _export(settings: Settings, asked: EventQuery, form: Format) -> Response:
    from ingestion.event_export import read_chunks

    if asked.cursor is not None:
        raise invalid([{"field": "cursor", "message": "an export has no pages; leave cursor out, or ask for json"}])
    wanted = _wanted(asked)
    if not _EXPORTING.acquire(blocking=False):
        raise Problem(503, "as many exports as may be are under way; ask again", headers={"Retry-After": "10"})
    parts = _released(EXPORTS[form].write(read_chunks(settings, wanted)))
    # What cannot be read at all is told before the answer begins; and a begun generator always ends in its finally.
    first = next(parts, b"")
    name = f"events-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.{form}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(chain([first], parts), headers=headers, media_type=EXPORTS[form].media_type)


def _released(parts: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield from parts
    finally:
        _EXPORTING.release()


def _wanted(asked: EventQuery) -> Any:
    from ingestion.event_query import FILTERS, Wanted

    if asked.since and asked.until and _utc(asked.since) > _utc(asked.until):
        raise invalid([{"field": "to", "message": "lies before from"}])
    equals = {name: getattr(asked, name) for name in FILTERS if getattr(asked, name) is not None}
    return Wanted(equals, asked.since and _utc(asked.since), asked.until and _utc(asked.until))


def _after(asked: EventQuery) -> Any:
    from ingestion.event_query import place_of

    if asked.cursor is None:
        return None
    try:
        return place_of(asked.cursor)
    except ValueError as error:
        raise invalid([{"field": "cursor", "message": str(error)}]) from None


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
