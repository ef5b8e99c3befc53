"""The session that an answer is for: what the visitor has done so far, or for a stranger what the page is about."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import pyarrow as pa

from features.product_categories import ProductCategories
from features.session import VisitorState, absorb, current_session, events_by_visitor
from features.session_store import SessionStore, SessionStoreError
from marquee.settings import Settings
from serving.schemas import RecommendRequest

STRANGER: Final = "?"


@dataclass(frozen=True, slots=True)
class CurrentSession:
    """Raw session features by name, None where there are none; ``is_given``: made of the products in the request."""

    features: dict[str, Any] | None
    is_given: bool = False


class VisitorSessions:
    """Reads sessions for answers; the feed keeps them up."""

    def __init__(self, settings: Settings, store: SessionStore) -> None:
        self._store = store
        self._categories = ProductCategories(settings)

    def current(self, request: RecommendRequest, now: datetime) -> CurrentSession:
        """The visitor's session under way; without one, that of somebody who just looked at the request's products.

        While the store is unwell there is none, as for a stranger.
        """
        if request.visitor_id is not None:
            try:
                if found := self._store.read(request.visitor_id, now):
                    return CurrentSession(found)
            except SessionStoreError:
                pass
        if not request.context.product_ids:
            return CurrentSession(None)
        views = [
            {
                "occurred_at": now,
                "event_id": str(place),
                "kind": "product_view",
                "product_id": product_id,
                "visitor_id": STRANGER,
            }
            for place, product_id in enumerate(request.context.product_ids)
        ]
        try:
            categories = self._categories.now()
        except (OSError, pa.ArrowException):  # without categories the products still are products
            categories = {}
        events = events_by_visitor(views, categories)
        return CurrentSession(current_session(absorb(VisitorState(), events[STRANGER]), STRANGER, now), is_given=True)
