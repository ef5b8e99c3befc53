"""What one service process answers: a slate by the bundle in force for the visitor, and the impressions to log."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import numpy as np
from prometheus_client import Counter, Histogram

from features.matrix import Floats
from features.online_reads import OnlineVisitor
from marquee.settings import Settings, settings_now
from serving.clicks import Click, ClickLinks
from serving.counters import Counters
from serving.decision import Board, Decision, Inputs, decide, decide_quickly
from serving.impressions import impression_lines
from serving.lineup import Lineup, Standing
from serving.recommend import Placed
from serving.rule import Ask
from serving.schemas import Fallback, RecommendedBanner, RecommendRequest, RecommendResponse, Running
from serving.showings import Shows, Spent, visitor_key
from serving.visitor_sessions import CurrentSession, VisitorSessions
from training.bundle import Bundle, Context

ATTEMPTS: Final = 4
"""Draws of one slate, each without what others took meanwhile; of the last one, what could be had is shown."""
SPENT_SECONDS: Final = 0.5
"""How long what campaigns have spent is kept; a reservation looks again, so no budget is overdrawn for it."""
STAGES: Final = Histogram(
    "marquee_stage_seconds",
    "Time of one answer by stage.",
    ["stage"],
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1.0),
)
READ, DECIDE, RESERVE = (STAGES.labels(stage) for stage in ("read", "decide", "reserve"))
FALLBACKS: Final = Counter("marquee_fallbacks", "Answers that were not wholly personal, by reason.", ["reason"])


@dataclass(frozen=True, slots=True)
class Read:
    """What was read for a request: the decision's inputs, of what moment the features are, and what was missing."""

    inputs: Inputs
    as_of: dict[str, Any]
    fallback: Fallback | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What to answer, once its impressions (lines of the event log) are durable, and what it came from."""

    response: RecommendResponse
    lines: list[bytes]
    board: Board
    inputs: Inputs | None = None
    decision: Decision | None = None


class Scorer:
    """Decides what to answer. It waits for nobody but the online stores, and for those not long.

    Args:
        sessions: visitors' sessions under way; None when nobody keeps them.
        counters: who saw what and what campaigns have spent; None shows nothing that has a cap or a budget.
        is_preview: count nothing; what others take meanwhile is not noticed.
        links: makes the banners' click URLs; None leaves them out.

    Raises:
        BundleError: no bundle has been promoted yet.
    """

    def __init__(
        self,
        settings: Settings,
        sessions: VisitorSessions | None = None,
        counters: Counters | None = None,
        clock: Callable[[], datetime] | None = None,
        is_preview: bool = False,
        links: ClickLinks | None = None,
    ) -> None:
        self.settings, self._is_preview, self._links = settings, is_preview, links
        self._sessions, self._counters = sessions, counters
        self._clock = clock or (lambda: settings_now(settings))
        self.lineup = Lineup(settings, lambda: self._clock())
        self._spent, self._spent_at = Spent.none(), -np.inf

    def answer(
        self, request: RecommendRequest, request_id: str | None = None, elsewhere: tuple[str, ...] = ()
    ) -> Answer:
        """Draw a slate and say why each banner is there; what is capped or paid for is counted, nothing is logged.

        Args:
            elsewhere: banners that stand on the same page already.
        """
        if not self.lineup.is_followed:
            self.lineup.follow()
        now, request_id = self._clock(), request_id or uuid.uuid4().hex
        arm, standing = self.lineup.answering(_unit(request, request_id), now)
        board = standing.board
        since = time.perf_counter()
        read = self._read(request, request_id, standing, board, now, elsewhere)
        READ.observe(time.perf_counter() - since)
        inputs, decision = self._decided(board, read.inputs, request.reasons)
        # Where all that may be shown has a cap and nobody can count, that is why there is nothing.
        is_told = decision.slate or read.fallback == "counters_unavailable"
        fallback = read.fallback if is_told else "nothing_eligible"
        lines = _lines(request, request_id, decision.slate, now, read.as_of, arm, board)
        response = _response(request, request_id, decision.slate, board, fallback, self._links)
        return Answer(response, lines, board, inputs, decision)

    def answer_quickly(
        self,
        request: RecommendRequest,
        reason: Fallback,
        request_id: str | None = None,
        elsewhere: tuple[str, ...] = (),
    ) -> Answer:
        """The most clicked banners that may be shown to anybody: reads nothing, so it takes microseconds."""
        now, request_id = self._clock(), request_id or uuid.uuid4().hex
        arm, standing = self.lineup.answering(_unit(request, request_id), now)
        board = standing.board
        slate = decide_quickly(board, _ask(request, now, None), request.n, self._spent, elsewhere)
        lines = _lines(request, request_id, slate, now, {"is_visitor_read": False}, arm, board, "popular")
        return Answer(_response(request, request_id, slate, board, reason, self._links, "popular"), lines, board)

    def recommend(self, request: RecommendRequest) -> RecommendResponse:
        """A preview: what would be answered now. Its impressions are not logged."""
        return self.answer(request).response

    @property
    def tag(self) -> str:
        """The champion that answers."""
        return self.lineup.champion.tag

    @property
    def bundle(self) -> Bundle:
        """The champion's bundle over the live catalogue."""
        return self.lineup.champion.bundle

    @property
    def banner_counts(self) -> dict[str, Floats]:
        """[B] arrays of the champion's banners' counts."""
        return self.lineup.champion.banner_counts

    def known(self, visitor_id: str) -> tuple[OnlineVisitor, Fallback | None]:
        """The visitor's online features and segment as of now, and why there are no features."""
        return _visitor(self.lineup.champion, visitor_id, self._clock())

    def running(self) -> Running:
        """What answers now."""
        if not self.lineup.is_followed:
            self.lineup.follow()
        champion, roles = self.lineup.champion, self.lineup.roles
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

    def _read(
        self,
        request: RecommendRequest,
        request_id: str,
        standing: Standing,
        board: Board,
        now: datetime,
        elsewhere: tuple[str, ...],
    ) -> Read:
        before = self.lineup.moment
        visitor, fallback = _visitor(standing, request.visitor_id, now)
        # Features that were written since the last look may be of either moment: then none is claimed.
        as_of: dict[str, Any] = {
            "visitor": before if before == self.lineup.moments.now() else None,
            "banner": board.counts_moment,
            "counted_at": board.counted_at and board.counted_at.isoformat(),
            "is_visitor_read": fallback != "features_unavailable",
        }
        session = self._sessions.current(request, now) if self._sessions else CurrentSession(None)
        as_of["session_at"] = session.features and session.features["feature_at"].isoformat()
        as_of["is_session_given"] = session.is_given
        ask = _ask(request, now, visitor.segment)
        shows = self._shows(ask)
        if shows is None:  # what cannot be counted is not shown: as to a stranger without a session
            ask, shows, fallback = replace(ask, visitor_id=None, session_id=None), Shows.none(), "counters_unavailable"
        if board.counted_at is None:
            fallback = "features_unavailable"
        context = Context(request.placement, request.context.device, np.datetime64(now, "us"), session.features)
        inputs = Inputs(request_id, context, request.n, visitor.features, ask, shows, self._spent_now(), elsewhere)
        return Read(inputs, as_of, fallback)

    def _shows(self, ask: Ask) -> Shows | None:
        """What this visitor has seen of what is capped; None while that cannot be read."""
        key = visitor_key(ask.visitor_id, ask.session_id)
        if self._counters is None or key is None:
            return Shows.none()
        try:
            return self._counters.shows(key)
        except Exception:  # whatever the store raises, a page view still gets what is not capped
            return None

    def _spent_now(self) -> Spent:
        if self._counters is not None and time.monotonic() - self._spent_at > SPENT_SECONDS:
            self._spent_at = time.monotonic()
            try:
                self._spent = self._counters.spent()
            except Exception:  # the last known stays; a reservation looks again
                return self._spent
        return self._spent

    def _decided(self, board: Board, inputs: Inputs, explain: bool) -> tuple[Inputs, Decision]:
        """The decision once all that is limited in it is reserved, and the inputs that led to it."""
        for attempt in range(1, ATTEMPTS + 1):
            since = time.perf_counter()
            decision = decide(board, inputs, explain)
            DECIDE.observe(time.perf_counter() - since)
            since = time.perf_counter()
            refused = self._refused(board, inputs, decision.slate, in_part=attempt == ATTEMPTS)
            RESERVE.observe(time.perf_counter() - since)
            if not refused:
                break
            self._spent_at = -np.inf
            taken = tuple(sorted(board.bundle.catalogue.banner_ids[decision.slate[place].row] for place in refused))
            if attempt == ATTEMPTS:
                return replace(inputs, dropped=taken), decision.without(refused)
            inputs = replace(inputs, taken=inputs.taken + taken)
        return inputs, decision

    def _refused(self, board: Board, inputs: Inputs, slate: list[Placed], in_part: bool) -> frozenset[int]:
        """Positions that could not be reserved: a cap's last showing or a budget's last impression is gone."""
        limited = frozenset(placed.position for placed in slate if board.rules.limited[placed.row])
        if self._counters is None or not limited:
            return limited
        if self._is_preview:
            return frozenset()
        reservation = board.rules.reservation(inputs.ask, [placed.row for placed in slate], in_part)
        # Once refused, what was read is known to be old.
        seen = None if inputs.taken else inputs.shows
        try:
            return self._counters.reserve([replace(reservation, seen=seen)])[0]
        except Exception:  # what cannot be counted is not shown
            return limited


def _unit(request: RecommendRequest, request_id: str) -> str:
    """Whom an experiment assigns: without a cookie the session, without either nobody twice."""
    return request.visitor_id or request.context.session_id or request_id


def _ask(request: RecommendRequest, now: datetime, segment: str | None) -> Ask:
    context = request.context
    return Ask(
        placement_id=request.placement,
        device=context.device,
        page=context.page,
        country=context.country,
        segments=frozenset((*context.segments, segment) if segment else context.segments),
        at=now,
        visitor_id=request.visitor_id,
        session_id=context.session_id,
    )


def _visitor(standing: Standing, visitor_id: str | None, now: datetime) -> tuple[OnlineVisitor, Fallback | None]:
    if visitor_id is None:
        return OnlineVisitor(), "cold_visitor"
    try:
        visitor = standing.reads.read(visitor_id, now)
    except Exception:  # whatever the online store raises, a page view still gets its banners
        return OnlineVisitor(), "features_unavailable"
    return visitor, None if visitor.features else "cold_visitor"


def _lines(
    request: RecommendRequest,
    request_id: str,
    slate: list[Placed],
    now: datetime,
    as_of: dict[str, Any],
    arm: str,
    board: Board,
    policy: str | None = None,
) -> list[bytes]:
    common = {
        "occurred_at": now,
        "visitor_id": _unit(request, request_id),
        "session_id": request.context.session_id,
        "placement_id": request.placement,
        "request_id": request_id,
        "page": request.context.page,
        "device": request.context.device,
        "country": request.context.country,
        "arm": arm,
        "policy": f"{policy or board.policy}@{board.tag}",
    }
    return impression_lines(slate, common, board.bundle.catalogue.banner_ids, as_of) if slate else []


def _response(
    request: RecommendRequest,
    request_id: str,
    slate: list[Placed],
    board: Board,
    fallback: Fallback | None,
    links: ClickLinks | None,
    policy: str | None = None,
) -> RecommendResponse:
    if fallback:
        FALLBACKS.labels(fallback).inc()
    return RecommendResponse(
        request_id=request_id,
        placement=request.placement,
        slate=[_shown(request, request_id, placed, board, links) for placed in slate],
        bundle=board.tag,
        policy=policy or board.policy,
        fallback=fallback,
    )


def _shown(
    request: RecommendRequest, request_id: str, placed: Placed, board: Board, links: ClickLinks | None
) -> RecommendedBanner:
    catalogue = board.bundle.catalogue
    banner_id = catalogue.banner_ids[placed.row]
    banner = board.live.banners.get(banner_id)
    landing_url = str(banner.landing_url) if banner and banner.landing_url else None
    click_url = None
    if links and landing_url:
        unit, session_id = _unit(request, request_id), request.context.session_id
        click = Click(request_id, placed.position, banner_id, unit, request.placement, session_id, landing_url)
        click_url = links.url(click)
    return RecommendedBanner(
        banner_id=banner_id,
        campaign_id=catalogue.campaign_ids[placed.row],
        title=catalogue.titles[placed.row],
        image_url=str(banner.image_url) if banner and banner.image_url else None,
        landing_url=landing_url,
        click_url=click_url,
        position=placed.position,
        impression_id=f"{request_id}-{placed.position}",
        score=None if np.isnan(placed.score) else placed.score,
        propensity=placed.propensity,
        reasons=placed.reasons,
    )
