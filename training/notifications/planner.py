"""The plan: who gets what, when and how, in the coming day. Pure, and the same for the same input and seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final

import numpy as np

from marquee.contract import DEVICES
from marquee.experiment import bucket as chance
from marquee.notifications import Channel, PlannedNotification, notification_id
from training.notifications.decisions import Chooser, Decisions, Visitors, decide
from training.notifications.past import Past
from training.notifications.rules import Rules

POLICY: Final = "recovering_softmax:1"
CHANNEL: Final[dict[str, Channel]] = {"mobile": "push", "tablet": "push"}
"""By the device that a visitor uses most; others get an email."""


def plan(
    now: datetime,
    visitors: Visitors,
    past: Past,
    chooser: Chooser,
    rules: Rules,
    content: Mapping[str, str] | None = None,
    seed: int = 0,
) -> list[PlannedNotification]:
    """What is to be sent in the 24 hours from ``now`` (UTC), by moment and visitor; see ``decide``.

    Args:
        content: by visitor id, what the notification shows; others get one without.
        seed: with the day and the visitor's id it decides every draw.
    """
    salt = f"notifications:{seed}:{now:%Y-%m-%d}"
    uniform = np.array([chance(one, salt) for one in visitors.ids], dtype=np.float64)
    made = decide(now, visitors, past, chooser, rules, uniform)
    planned = list(_named(now, made, visitors, rules, content or {}))
    return sorted(planned, key=lambda one: (one.due_at, one.visitor_id))


def _named(
    now: datetime, made: Decisions, visitors: Visitors, rules: Rules, content: Mapping[str, str]
) -> Iterator[PlannedNotification]:
    types, segments = rules.types, rules.segments
    columns = (made.visitor, made.type, made.bucket, made.due, made.expires, made.propensity)
    for row, of_type, bucket, due, expires, propensity in zip(*(one.tolist() for one in columns), strict=True):
        visitor, name = visitors.ids[row], types[of_type]
        yield PlannedNotification(
            notification_id=notification_id(visitor, name, due),
            visitor_id=visitor,
            segment=segments[visitors.segment[row]],
            notification_type=name,
            channel=CHANNEL.get(DEVICES[visitors.device[row]], "email"),
            content_id=content.get(visitor),
            due_at=due,
            hour_bucket=bucket,
            propensity=propensity,
            policy=POLICY,
            planned_at=now,
            expires_at=expires,
        )
