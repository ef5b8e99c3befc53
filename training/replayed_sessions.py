"""The sessions that logged requests were served with, made again from the log.

A session online is as fresh as the events that had arrived, a second behind as a rule. So the service logs the moment
of the last event that the served session had in it, and the session is made again from the visitor's events up to that
moment, by the rules of ``features.session``; that these are the mart's, ``tests/tools/test_session_agreement.py`` says.

What was there by the clock may still have arrived later: two workers, a page that sends two events at once. Where that
cannot be told, the session is unsure and its values are not compared:

- another event of the visitor happened in the second before that moment,
- no session was served, and the log has one, or
- the session was made of products in the request, which the log does not hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.matrix import SESSION_FIELDS
from features.product_categories import ProductCategories
from features.session import SessionEvent, VisitorState, absorb, current_session, events_by_visitor, microseconds
from marquee.settings import Settings
from marquee.warehouse import open_warehouse
from training.inputs import live_session

FRESHNESS: Final = timedelta(seconds=1)
LONGEST: Final = timedelta(days=7)
"""How long a session may have lasted; one that its source lets go on for longer is begun anew here."""
_EVENTS: Final = """
with asked as (
    select visitor_id, min(impressed_at) as first_at, max(greatest(impressed_at, session_at)) as last_at
    from requests group by 1
)
select event_id, kind, occurred_at, visitor_id, product_id, session_id
from raw.events join asked using (visitor_id)
where occurred_at <= last_at and occurred_at >= first_at - to_microseconds(?)
"""


def served_sessions(settings: Settings, rows: pd.DataFrame) -> tuple[pd.DataFrame, NDArray[np.bool_]]:
    """``SESSION_FIELDS`` [n] of each row's session as it was served, and whether that is unsure [n].

    Args:
        rows: ``visitor_id``, ``impressed_at``, ``session_at``: the moment of the last event in the served session, NaT
            where none was served; and ``is_session_given``: whether it was made of the request.
    """
    events = _events(settings, rows)
    sessions: list[Mapping[str, Any] | None] = []
    unsure: list[bool] = []
    for visitor_id, impressed, session, is_given in zip(
        rows["visitor_id"],
        pd.to_datetime(rows["impressed_at"]),
        pd.to_datetime(rows["session_at"]),
        rows["is_session_given"],
        strict=True,
    ):
        at, known = impressed.to_pydatetime(), events.get(visitor_id, [])
        is_served = not pd.isna(session)
        until = microseconds(session.to_pydatetime() if is_served else at) - (not is_served)
        found = _session(known, until, visitor_id, at)
        sessions.append(found if is_served else None)
        unsure.append(is_given or (_has_others(known, until) if is_served else found is not None))
    table = [{name: found[name] if found else None for name in SESSION_FIELDS} for found in sessions]
    return pd.DataFrame(table, columns=list(SESSION_FIELDS), index=rows.index), np.array(unsure, dtype=bool)


def _session(events: list[SessionEvent], until: int, visitor_id: str, now: datetime) -> Any:
    state = absorb(VisitorState(), [event for event in events if event.at <= until])
    return live_session(current_session(state, visitor_id, now))


def _has_others(events: list[SessionEvent], until: int) -> bool:
    """Whether what happened in the second up to that moment is more than one event, or one slate."""
    since = until - FRESHNESS // timedelta(microseconds=1)
    last = [event for event in events if since < event.at <= until]
    behaviour = sum(event.kind != "impression" for event in last)
    return behaviour + any(event.kind == "impression" for event in last) > 1


def _events(settings: Settings, rows: pd.DataFrame) -> dict[str, list[SessionEvent]]:
    """By visitor, what happened until the last of their requests."""
    moments = ("impressed_at", "session_at")
    asked = rows[["visitor_id", *moments]].astype(dict.fromkeys(moments, "datetime64[us]"))
    with open_warehouse(settings) as connection:
        connection.register("requests", asked)
        found = connection.execute(_EVENTS, [LONGEST // timedelta(microseconds=1)]).to_arrow_table().to_pylist()
    return events_by_visitor(found, ProductCategories(settings).now())
