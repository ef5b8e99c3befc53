"""What one service process answers: a slate by the bundle in force for the visitor, logged before it is given."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

import numpy as np

from features.matrix import Floats
from ingestion.event_stream import EventStream
from marquee import contract
from marquee.settings import Settings, settings_now
from serving.lineup import Lineup, Standing
from serving.recommend import Placed, recommend, request_rng
from serving.schemas import RecommendedBanner, RecommendRequest, RecommendResponse, Running
from serving.shadow import Seen, Shadow
from training.bundle import Bundle, Context

Fallback = Literal["cold_visitor", "features_unavailable", "nothing_eligible"] | None


class Scorer:
    """Answers requests and logs each impression before it answers.

    Without a stream it only previews: nothing is logged, and no shadow is asked.

    Raises:
        BundleError: no bundle has been promoted yet.
    """

    def __init__(
        self, settings: Settings, stream: EventStream | None, clock: Callable[[], datetime] | None = None
    ) -> None:
        self.settings = settings
        self._stream = stream
        self._clock = clock or (lambda: settings_now(settings))
        self._lineup = Lineup(settings, lambda: self._clock())
        self.shadow = Shadow(settings) if stream else None

    def recommend(self, request: RecommendRequest) -> RecommendResponse:
        """Draw a slate, make its impressions durable, and say why each banner is there."""
        self._lineup.follow()
        now = self._clock()
        arm, standing = self._lineup.answering(request.visitor_id, now)
        request_id = uuid.uuid4().hex
        moments = self._lineup.moments
        before = moments.now()
        visitor, fallback = self._visitor(standing, request.visitor_id, now)
        # Features that were written meanwhile may be of either moment: then none is claimed.
        as_of = {
            "visitor": before if before == moments.now() else None,
            "banner": standing.counts_moment,
            "counted_at": standing.counted_at and standing.counted_at.isoformat(),
            "is_visitor_read": fallback != "features_unavailable",
        }
        context = Context(request.placement, request.context.device, np.datetime64(now, "us"))
        rng = request_rng(request_id)
        slate = recommend(standing.bundle, context, request.n, visitor, standing.banner_counts, rng)
        if not standing.counts:
            fallback = "features_unavailable"
        if not slate:
            fallback = "nothing_eligible"
        elif self._stream:
            self._stream.append(
                [self._impression(request, request_id, placed, now, as_of, arm, standing) for placed in slate]
            )
        self._ask_shadow(Seen(request_id, context, request.n, visitor, slate, standing, now))
        return RecommendResponse(
            request_id=request_id,
            slate=[self._shown(request_id, placed, standing.bundle) for placed in slate],
            bundle=standing.tag,
            policy=standing.bundle.manifest["policy"]["name"],
            fallback=fallback,
        )

    def known(self, visitor_id: str) -> tuple[dict[str, Any] | None, Fallback]:
        """The visitor's online features as of now, or why there are none."""
        return self._visitor(self._lineup.champion, visitor_id, self._clock())

    def running(self) -> Running:
        """What answers now."""
        self._lineup.follow()
        champion, roles = self._lineup.champion, self._lineup.roles
        manifest = champion.bundle.manifest
        return Running(
            bundle=champion.tag,
            policy=manifest["policy"]["name"],
            exploration=champion.bundle.policy.exploration,
            banners=len(champion.bundle.catalogue),
            trained_until=manifest["trained_until"],
            snapshot=manifest["snapshot"],
            canary=roles.canary,
            canary_share=roles.share,
            shadow=roles.shadow,
        )

    @property
    def tag(self) -> str:
        """The champion that answers."""
        return self._lineup.champion.tag

    @property
    def bundle(self) -> Bundle:
        """The champion's bundle."""
        return self._lineup.champion.bundle

    @property
    def banner_counts(self) -> dict[str, Floats]:
        """[B] arrays of the champion's banners' counts."""
        return self._lineup.champion.banner_counts

    def _ask_shadow(self, seen: Seen) -> None:
        shadow = self._lineup.shadow
        if self.shadow and shadow and shadow is not seen.answered_by:
            self.shadow.ask(shadow, seen)

    def _visitor(self, standing: Standing, visitor_id: str, now: datetime) -> tuple[dict[str, Any] | None, Fallback]:
        try:
            visitor = standing.features.visitors([visitor_id], now).get(visitor_id)
        except Exception:  # whatever the online store raises, a page view still gets its banners
            return None, "features_unavailable"
        return visitor, None if visitor else "cold_visitor"

    @staticmethod
    def _impression(
        request: RecommendRequest,
        request_id: str,
        placed: Placed,
        now: datetime,
        as_of: dict[str, Any],
        arm: str,
        standing: Standing,
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
            "banner_id": standing.bundle.catalogue.banner_ids[placed.row],
            "placement_id": request.placement,
            "position": placed.position,
            "request_id": request_id,
            "impression_id": impression_id,
            "page": request.context.page,
            "device": request.context.device,
            "arm": arm,
            "policy": f"{standing.bundle.manifest['policy']['name']}@{standing.tag}",
            "propensity": placed.propensity,
            "features": json.dumps(features | {"as_of": as_of}),
        }

    @staticmethod
    def _shown(request_id: str, placed: Placed, bundle: Bundle) -> RecommendedBanner:
        catalogue = bundle.catalogue
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
