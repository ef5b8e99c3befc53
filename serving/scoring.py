"""What one service process holds: the champion, the banners' counts, online features and its own stream of events."""

from __future__ import annotations

import json
import logging
import math
import time
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, Literal

import numpy as np

from features.matrix import BANNER_COUNTS, Floats
from features.moments import Moment, OnlineMoments
from features.patience import PAUSE_SECONDS
from features.store import OnlineFeatures
from ingestion.event_stream import EventStream
from marquee import contract
from marquee.settings import Settings, settings_now
from serving.recommend import Placed, recommend, request_rng
from serving.schemas import RecommendedBanner, RecommendRequest, RecommendResponse, Running
from training import registry
from training.bundle import Bundle, Context

CHAMPION_CHECK_SECONDS: Final = 1.0
COUNTS_SECONDS: Final = 60.0
"""How long the banners' counts are kept before they are read again; they change once a day."""
LOG: Final = logging.getLogger("bentoml.marquee")
Fallback = Literal["cold_visitor", "features_unavailable", "nothing_eligible"] | None


class Scorer:
    """Answers requests with the champion and logs each impression before it answers.

    Without a stream it only previews: nothing is logged.

    Raises:
        BundleError: no bundle has been promoted yet.
    """

    def __init__(
        self, settings: Settings, stream: EventStream | None, clock: Callable[[], datetime] | None = None
    ) -> None:
        self._settings = settings
        self._stream = stream
        self._clock = clock or (lambda: settings_now(settings))
        self._features = OnlineFeatures(settings)
        self._moments = OnlineMoments(settings)
        self._counts_moment: Moment | None = None
        self._counted_at: datetime | None = None
        self._checked_at = self._count_at = -math.inf
        self.tag = ""
        self.bundle: Bundle
        self._counts: dict[str, Floats] = {}
        self._follow_champion()

    def recommend(self, request: RecommendRequest) -> RecommendResponse:
        """Draw a slate, make its impressions durable, and say why each banner is there."""
        self._follow_champion()
        now = self._clock()
        request_id = uuid.uuid4().hex
        before = self._moments.now()
        visitor, fallback = self._visitor(request.visitor_id, now)
        # Features that were written meanwhile may be of either moment: then none is claimed.
        as_of = {
            "visitor": before if before == self._moments.now() else None,
            "banner": self._counts_moment,
            "counted_at": self._counted_at and self._counted_at.isoformat(),
            "is_visitor_read": fallback != "features_unavailable",
        }
        context = Context(request.placement, request.context.device, np.datetime64(now, "us"))
        slate = recommend(self.bundle, context, request.n, visitor, self.banner_counts, request_rng(request_id))
        if not self._counts:
            fallback = "features_unavailable"
        if not slate:
            fallback = "nothing_eligible"
        elif self._stream:
            self._stream.append([self._impression(request, request_id, placed, now, as_of) for placed in slate])
        return RecommendResponse(
            request_id=request_id,
            slate=[self._shown(request_id, placed) for placed in slate],
            bundle=self.tag,
            policy=self.bundle.manifest["policy"]["name"],
            fallback=fallback,
        )

    def known(self, visitor_id: str) -> tuple[dict[str, Any] | None, Fallback]:
        """The visitor's online features as of now, or why there are none."""
        return self._visitor(visitor_id, self._clock())

    def running(self) -> Running:
        """What answers now."""
        self._follow_champion()
        manifest = self.bundle.manifest
        return Running(
            bundle=self.tag,
            policy=manifest["policy"]["name"],
            exploration=self.bundle.policy.exploration,
            banners=len(self.bundle.catalogue),
            trained_until=manifest["trained_until"],
            snapshot=manifest["snapshot"],
        )

    def _follow_champion(self) -> None:
        """Switch to a newly promoted (or rolled back) bundle; looked up at most once a second."""
        if time.monotonic() - self._checked_at < CHAMPION_CHECK_SECONDS:
            return
        self._checked_at = time.monotonic()
        try:
            tag = registry.require_champion(self._settings)
            if tag != self.tag:
                bundle = registry.load_bundle(self._settings, tag)
                service = registry.feature_service_name(tag)
                self._features = self._features.through(service, bundle.manifest["feature_service"])
                self.bundle, self.tag = bundle, tag
                self._counts, self._counts_moment, self._count_at = {}, None, -math.inf
        except Exception as error:  # whatever is wrong with the new one, the last good one still answers
            if not self.tag:
                raise
            LOG.error("still serving %s: %s", self.tag, error)
        if self._checked_at >= self._count_at:
            self._read_counts()

    @property
    def banner_counts(self) -> dict[str, Floats]:
        """[B] arrays of the banners' counts as the online store has them; NaN while it could not be asked."""
        return self._counts or dict.fromkeys(BANNER_COUNTS, np.full(len(self.bundle.catalogue), np.nan))

    def _read_counts(self) -> None:
        """Take the banners' counts from the online store; while it is down, those known last stay."""
        ids, before, now = self.bundle.catalogue.banner_ids, self._moments.now(), self._clock()
        try:
            known = self._features.banners(ids, now)
        except Exception as error:  # whatever it raises, a page view still gets its banners
            self._count_at = self._checked_at + PAUSE_SECONDS
            LOG.error("the banners' counts cannot be read, %s: %s", "old ones stay" if self._counts else "none", error)
            return
        self._counts_moment, self._counted_at = before if before == self._moments.now() else None, now
        self._count_at = self._checked_at + COUNTS_SECONDS
        self._counts = {
            name: np.array([known[b][name] if b in known else np.nan for b in ids], dtype=np.float64)
            for name in BANNER_COUNTS
        }

    def _visitor(self, visitor_id: str, now: datetime) -> tuple[dict[str, Any] | None, Fallback]:
        try:
            visitor = self._features.visitors([visitor_id], now).get(visitor_id)
        except Exception:  # whatever the online store raises, a page view still gets its banners
            return None, "features_unavailable"
        return visitor, None if visitor else "cold_visitor"

    def _impression(
        self, request: RecommendRequest, request_id: str, placed: Placed, now: datetime, as_of: dict[str, Any]
    ) -> dict[str, Any]:
        values = zip(contract.RANKER_FEATURES, placed.features, strict=True)
        features: dict[str, Any] = {name: None if np.isnan(value) else float(value) for name, value in values}
        impression_id = f"{request_id}-{placed.position}"
        return {
            "event_id": impression_id,
            "kind": "impression",
            "occurred_at": now,
            "visitor_id": request.visitor_id,
            "session_id": request.context.session_id,
            "banner_id": self.bundle.catalogue.banner_ids[placed.row],
            "placement_id": request.placement,
            "position": placed.position,
            "request_id": request_id,
            "impression_id": impression_id,
            "page": request.context.page,
            "device": request.context.device,
            "arm": "champion",
            "policy": f"{self.bundle.manifest['policy']['name']}@{self.tag}",
            "propensity": placed.propensity,
            "features": json.dumps(features | {"as_of": as_of}),
        }

    def _shown(self, request_id: str, placed: Placed) -> RecommendedBanner:
        catalogue = self.bundle.catalogue
        return RecommendedBanner(
            banner_id=catalogue.banner_ids[placed.row],
            campaign_id=catalogue.campaign_ids[placed.row],
            title=catalogue.titles[placed.row],
            position=placed.position,
            impression_id=f"{request_id}-{placed.position}",
            score=placed.score,
            propensity=placed.propensity,
            reasons=placed.reasons,
        )
