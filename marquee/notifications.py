"""What a notification is, for those who plan it, those who send it and those who learn from what became of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

Channel = Literal["email", "push", "webhook"]
CHANNELS: Final[tuple[Channel, ...]] = ("email", "push", "webhook")
Outcome = Literal["opened", "clicked", "dismissed", "ignored"]
OUTCOMES: Final[tuple[Outcome, ...]] = ("opened", "clicked", "dismissed", "ignored")
"""What can become of a sent one; ``ignored`` is what none of the others followed in time."""


@dataclass(frozen=True, slots=True)
class PlannedNotification:
    """One notification that somebody is to get.

    Attributes:
        notification_id: idempotency key; planning the same thing twice gives the same one.
        notification_type: of the seed ``segment_notification_types``.
        content_id: banner (or product) that it shows; None for one without.
        due_at: when to send it, UTC, without a zone.
        hour_bucket: of the day where the visitor is, the arm's second half.
        propensity: probability of (type, hour bucket) under the policy that chose it, in (0, 1].
        policy: what chose it, and its version.
        planned_at: when, UTC.
        expires_at: after this it is not worth sending any more, UTC.
    """

    notification_id: str
    visitor_id: str
    segment: str
    notification_type: str
    channel: Channel
    content_id: str | None
    due_at: datetime
    hour_bucket: int
    propensity: float
    policy: str
    planned_at: datetime
    expires_at: datetime


def notification_id(visitor_id: str, notification_type: str, due_at: datetime) -> str:
    """The idempotency key: one visitor gets one type once a local day at most, so the due day names it."""
    told = f"{visitor_id}\x1f{notification_type}\x1f{due_at:%Y-%m-%d}"
    return hashlib.blake2b(told.encode(), digest_size=16).hexdigest()
