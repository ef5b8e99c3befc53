"""What a visitor was sent lately, and is to be sent."""

from __future__ import annotations

import base64
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Query, Request

from marquee.outbox import OVER, Entry
from serving.http.problems import invalid
from serving.notification_schemas import Schedule, ScheduleAsked, ScheduledNotification

if TYPE_CHECKING:  # XGBoost comes with it, and BentoML's parent process does not need it
    from serving.worker import Worker

router = APIRouter(prefix="/v1/notifications", tags=["notifications"])
_PLANNED: Final = {
    "notification_id": "9f0c2b7d41f2a6d8e3b05c1177aa02c4",
    "notification_type": "win_back_offer",
    "channel": "email",
    "segment": "at_risk",
    "content_id": "b017",
    "due_at": "2026-02-03T17:00:00Z",
    "expires_at": "2026-02-03T20:00:00Z",
    "planned_at": "2026-02-03T02:10:00Z",
    "policy": "difference-softmax-4",
    "propensity": 0.31,
    "hour_bucket": 4,
    "state": "planned",
    "tries": 0,
    "next_at": "2026-02-03T17:00:00Z",
    "sent_at": None,
    "reason": None,
}
_EXAMPLE: Final = {"visitor_id": "v000123", "items": [_PLANNED], "next_cursor": None}


# Not ``async``: it reads a file, which a thread may wait for and the event loop may not.
@router.get(
    "/schedule",
    summary="Read a visitor's notifications",
    responses={200: {"content": {"application/json": {"example": _EXAMPLE}}}},
)
def schedule(request: Request, asked: Annotated[ScheduleAsked, Query()]) -> Schedule:
    """What is planned for a visitor and what they were sent, latest due first; nothing of a visitor who has none."""
    worker: Worker = request.app.state.worker
    before = _before(asked.cursor)
    found = worker.notifications(asked.visitor_id, asked.limit + 1, before)
    shown = found[: asked.limit]
    return Schedule(
        visitor_id=asked.visitor_id,
        items=[_told(entry) for entry in shown],
        next_cursor=_cursor(shown[-1]) if len(found) > len(shown) else None,
    )


def _told(entry: Entry) -> ScheduledNotification:
    values: dict[str, Any] = asdict(entry.notification) | {
        "state": entry.state,
        "tries": entry.tries,
        "next_at": None if entry.state in OVER else entry.next_at,
        "sent_at": entry.sent_at,
        "reason": entry.reason,
    }
    zoned = {name: value.replace(tzinfo=UTC) for name, value in values.items() if isinstance(value, datetime)}
    return ScheduledNotification.model_validate(values | zoned)


def _cursor(entry: Entry) -> str:
    one = entry.notification
    return base64.urlsafe_b64encode(f"{one.due_at.isoformat()} {one.notification_id}".encode()).decode()


def _before(cursor: str | None) -> tuple[datetime, str] | None:
    if cursor is None:
        return None
    try:
        at, space, last = base64.b64decode(cursor, altchars=b"-_", validate=True).decode().partition(" ")
        moment = datetime.fromisoformat(at)
        if not space or moment.tzinfo:
            raise ValueError(cursor)
    except ValueError:
        told = "cursor is none that a page gave; leave it out to begin anew"
        raise invalid([{"field": "cursor", "message": told}]) from None
    return moment, last
