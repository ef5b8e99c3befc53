"""The plan for an installation: visitors, their hours and what they were sent, from the warehouse and the outbox."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from datetime import datetime, time, timedelta
from typing import Any, Final

import numpy as np

from marquee.errors import NothingToDo, SettingsError
from marquee.notifications import OUTCOMES, PlannedNotification
from marquee.outbox import Entry, open_outbox, outbox_file
from marquee.settings import ROOT, Settings
from training.notifications.caps import UNKNOWN, Caps
from training.notifications.click_model import ClickModelSettings, device_codes, fit_click_model
from training.notifications.decisions import Chooser, Visitors, weekday_of
from training.notifications.local_time import Ints, Moments, clock_around, hour_of_day
from training.notifications.past import Past, teach, training_rows
from training.notifications.planner import plan
from training.notifications.planning_rows import Columns, read_planning_rows
from training.notifications.quiet_hours import QuietHours
from training.notifications.rules import Rules
from training.notifications.send_time import BUCKETS, HOURS, Floats, fit_send_time, hour_counts
from training.notifications.zones import zone_of

OUTBOX_DAYS: Final = 9
"""A week, and as much as one may be sent after it was due."""


def plan_notifications(settings: Settings, now: datetime) -> list[PlannedNotification]:
    """What to send in the 24 hours from ``now``, UTC without a zone.

    A visitor for whom something still waits in the outbox gets nothing new until it is sent or given up: it may go out
    late, and caps hold for what is sent.

    Raises:
        NothingToDo: no warehouse, no marts, or nobody in a segment.
        SettingsError: a setting is no time zone or no quiet hours.
        WarehouseBusy: another process writes to it.
    """
    rules = installation_rules(settings)
    rows = read_planning_rows(settings, now)
    if not rows.visitors["visitor_id"]:
        raise NothingToDo("nobody is in a segment yet, as nobody has ordered; there is nobody to notify")
    visitors = _visitors(rows.visitors, rows.activity, rules, settings, now)
    entries = _outbox(settings, now)
    past, is_final = _past(_with_sent(rows.sent, entries, visitors, settings), visitors, rules, now)
    chooser = _learned(past.rows(is_final), visitors, rules, settings)
    shown = {visitor: str(banner) for banner in rows.content["banner_id"] for visitor in visitors.ids}
    free = replace(visitors, segment=_without_waiting(visitors, entries))
    return plan(now, free, past, chooser, rules, shown, settings.seed)


def installation_rules(settings: Settings) -> Rules:
    """The rules of the project's seeds and of the settings.

    Raises:
        SettingsError: the quiet hours are none.
    """
    types: dict[str, list[str]] = {}
    for row in _seed("segment_notification_types"):
        types.setdefault(row["segment"], []).append(row["notification_type"])
    weekly = {row["segment"]: int(row["weekly_cap"]) for row in _seed("segment_weekly_caps")}
    return Rules(types, quiet_hours(settings.notify_quiet), Caps(weekly, settings.notify_weekly))


def quiet_hours(text: str) -> QuietHours:
    """Those that a text such as 21:00-09:00 names.

    Raises:
        SettingsError: it names none.
    """
    try:
        start, end = (time.fromisoformat(part.strip()) for part in text.split("-"))
    except ValueError:
        raise SettingsError(f"notify_quiet is {text!r}; write two times of day, such as 21:00-09:00") from None
    return QuietHours(start, end)


def _visitors(people: Columns, activity: Columns, rules: Rules, settings: Settings, now: datetime) -> Visitors:
    names = [zone_of(country, settings.notify_time_zone) for country in people["country"]]
    zones = tuple(sorted(set(names)))
    zone = np.array([zones.index(name) for name in names], dtype=np.int64)
    rows = _places(people["visitor_id"])
    who = np.array([rows[one] for one in activity["visitor_id"]], dtype=np.int64)
    hours = hour_of_day(_local(zones, zone[who], np.array(activity["at"], dtype="datetime64[s]"), now))
    counts = hour_counts(np.repeat(who, activity["events"]), np.repeat(hours, activity["events"]), len(rows))
    segments = {name: place for place, name in enumerate(rules.segments)}
    return Visitors(
        ids=people["visitor_id"],
        segment=np.array([segments.get(name, -1) for name in people["segment"]], dtype=np.int64),
        zones=zones,
        zone=zone,
        device=device_codes(people["device"]),
        habits=_habits(counts, people["segment"]),
    )


def _habits(counts: Ints, segments: Sequence[str]) -> Floats:
    if not counts.sum():
        return np.full((len(counts), HOURS), 1 / HOURS)
    return fit_send_time(counts, segments).shares(counts, segments)


def _past(sent: Columns, visitors: Visitors, rules: Rules, now: datetime) -> tuple[Past, Any]:
    """What was sent of the types that there still are, and of which nothing more will become."""
    rows, types = _places(visitors.ids), _places(rules.types)
    kept = [place for place, name in enumerate(sent["notification_type"]) if name in types]
    column = {name: [values[place] for place in kept] for name, values in sent.items()}
    who = np.array([rows[one] for one in column["visitor_id"]], dtype=np.int64)
    at = np.array(column["sent_at"], dtype="datetime64[s]")
    local = _local(visitors.zones, visitors.zone[who], at, now)
    segments = _places(rules.segments)
    own = {one: segment for segment in rules.segments for one in rules.types_of[segment]}
    names = [
        told if told in segments else own[of_type]
        for told, of_type in zip(column["segment"], column["notification_type"], strict=True)
    ]
    hour = hour_of_day(local)
    planned = [h // (HOURS // BUCKETS) if b is None else b for b, h in zip(column["hour_bucket"], hour, strict=True)]
    is_final = np.array([known <= now for known in column["outcome_known_at"]], dtype=np.bool_)
    past = Past(
        visitor=who,
        type=np.array([types[one] for one in column["notification_type"]], dtype=np.int64),
        group=np.array([segments[name] for name in names], dtype=np.int64),
        at=at,
        outcome=np.array([OUTCOMES.index(one) if one else UNKNOWN for one in column["outcome"]], dtype=np.int64),
        hour=hour,
        bucket=np.clip(np.array(planned, dtype=np.int64), 0, BUCKETS - 1),
        weekday=weekday_of(local),
        # The device that answered is known of answered ones alone, and would tell which they are.
        device=visitors.device[who],
        propensity=np.array([one or 0.0 for one in column["propensity"]], dtype=np.float64),
    )
    return past, is_final


def _learned(final: Past, visitors: Visitors, rules: Rules, settings: Settings) -> Chooser:
    bandit = rules.new_bandit()
    teach(bandit, final)
    rows = training_rows(final, visitors.habits)
    clicks = fit_click_model(*rows, rules.types, ClickModelSettings(seed=settings.seed)) if len(rows[0]) else None
    return Chooser(bandit, clicks)


def _outbox(settings: Settings, now: datetime) -> list[Entry]:
    """What waits, and what was sent in the days that caps look back on: the warehouse may not have it yet."""
    if not outbox_file(settings).exists():
        return []
    with closing(open_outbox(settings)) as outbox:
        return outbox.due_since(now - timedelta(days=OUTBOX_DAYS))


def _with_sent(sent: Columns, entries: list[Entry], visitors: Visitors, settings: Settings) -> Columns:
    """The warehouse's rows and those that only the outbox has, of whose outcome nothing is known."""
    known, people = set(sent["notification_id"]), set(visitors.ids)
    found = {name: list(values) for name, values in sent.items()}
    for entry in entries:
        one = entry.notification
        if entry.sent_at is None or one.notification_id in known or one.visitor_id not in people:
            continue
        later = entry.sent_at + timedelta(hours=settings.notification_hours)
        row = asdict(one) | {"sent_at": entry.sent_at, "outcome": None, "outcome_known_at": later}
        for name, values in found.items():
            values.append(row[name])
    return found


def _without_waiting(visitors: Visitors, entries: list[Entry]) -> Ints:
    """Segments, but none for who has something waiting."""
    waiting = {one.notification.visitor_id for one in entries if one.sent_at is None}
    return np.where([one in waiting for one in visitors.ids], -1, visitors.segment)


def _local(zones: Sequence[str], zone: Ints, at: Moments, now: datetime) -> Moments:
    found = at.copy()
    for place, name in enumerate(zones):
        here = zone == place
        found[here] = clock_around(name, now).local(at[here])
    return found


def _places(names: Sequence[str]) -> dict[str, int]:
    return {name: place for place, name in enumerate(names)}


def _seed(name: str) -> list[dict[str, str]]:
    with (ROOT / "dbt_project" / "seeds" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
