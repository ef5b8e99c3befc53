"""What the route for notifications is asked, and what it answers."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from marquee.notifications import Channel
from marquee.outbox import State
from serving.schemas import Id

MOST_LISTED: Final = 500


class ScheduleAsked(BaseModel):
    """Whose notifications."""

    model_config = ConfigDict(extra="forbid")

    visitor_id: Id
    limit: int = Field(100, ge=1, le=MOST_LISTED, description="Of a page.")
    cursor: str | None = Field(None, max_length=500, description="The next_cursor of the page before.")


class ScheduledNotification(BaseModel):
    """One notification and how far it is; moments are UTC."""

    notification_id: str = Field(description="Send it back with what became of it.")
    notification_type: str
    channel: Channel
    segment: str
    content_id: str | None
    due_at: datetime
    expires_at: datetime = Field(description="After this it is not sent any more.")
    planned_at: datetime
    policy: str
    propensity: float = Field(description="Probability of its type and hour bucket under the policy.")
    hour_bucket: int = Field(description="Of the day where the visitor is.")
    state: State
    tries: int = Field(description="Those that failed.")
    next_at: datetime | None = Field(description="When it is tried; null once it is over.")
    sent_at: datetime | None
    reason: str | None = Field(description="Why it failed last, or was given up.")


class Schedule(BaseModel):
    """A visitor's notifications, latest due first, sent ones of the last 90 days among them."""

    visitor_id: str
    items: list[ScheduledNotification]
    next_cursor: str | None = Field(description="Give it back for the next page; null when this is the last.")
