"""Answers many requests at once: scoring in threads, one commit for many, and something valid in time."""

from __future__ import annotations

import asyncio
import time
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Protocol

from prometheus_client import Counter, Histogram

from marquee.errors import MarqueeError, TryAgain
from marquee.settings import Settings
from serving.decision_log import DecisionLog
from serving.schemas import Fallback, RecommendRequest, RecommendResponse, RecommendResponses
from serving.scoring import Answer, Scorer
from serving.shadow import Seen, Shadow

THREADS: Final = 2
"""That score: more only wait for each other, fewer would all wait for one slow store."""
COMMIT_SECONDS: Final = 1.5
"""Until impressions that are not durable yet are given up; the answer would be of no use by then."""
COMMIT: Final = Histogram(
    "marquee_commit_seconds",
    "Time until an answer's impressions are durable.",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.5),
)
SHED: Final = Counter("marquee_shed", "Requests that got the quick answer.", ["reason"])


class NotDurable(TryAgain):
    """The impressions of an answer could not be stored, so the answer is not given."""


class Lines(Protocol):
    """Where impressions become durable."""

    def append_soon(self, lines: list[bytes]) -> Future[None]:
        """Done once they are; fails with ``MarqueeError`` when they are not."""


class Responder:
    """Answers requests of one process.

    Args:
        lines: the event log.
        decisions: what ``marquee explain`` reads, or None to keep nothing of it.
        shadow: what scores the shadow bundle, or None.
    """

    def __init__(
        self,
        settings: Settings,
        scorer: Scorer,
        lines: Lines,
        decisions: DecisionLog | None = None,
        shadow: Shadow | None = None,
    ) -> None:
        self._scorer, self._lines, self._decisions, self._shadow = scorer, lines, decisions, shadow
        self._pool = ThreadPoolExecutor(THREADS, "scoring")
        self._deadline = settings.slate_ms / 1e3
        self._most = settings.slates_waiting
        self._waiting = 0

    async def answer(self, request: RecommendRequest) -> RecommendResponse | RecommendResponses:
        """The slate, or the slates of several placements; durable when this returns.

        Raises:
            NotDurable: the event log does not take the impressions; nothing was shown.
        """
        answers = await self._answers(request)
        lines = [line for one in answers for line in one.lines]
        if lines:
            await self._commit(lines)
        for one in answers:
            self._note(one)
        if request.placements:
            return RecommendResponses(answers=[one.response for one in answers])
        return answers[0].response

    def close(self) -> None:
        """Let the threads end after what they are at."""
        self._pool.shutdown()

    async def _answers(self, request: RecommendRequest) -> list[Answer]:
        if self._waiting >= self._most:
            return self._quick(request, "overloaded")
        future = self._pool.submit(self._scored, request, time.monotonic() + self._deadline)
        self._waiting += 1
        loop = asyncio.get_running_loop()
        waited = asyncio.wrap_future(future, loop=loop)
        waited.add_done_callback(self._leave)
        done, _ = await asyncio.wait((waited,), timeout=self._deadline)
        return waited.result() if done else self._quick(request, "too_late")

    def _leave(self, _: object) -> None:
        self._waiting -= 1

    def _scored(self, request: RecommendRequest, until: float) -> list[Answer]:
        # One that waited its time away here is answered quickly: its caller will not wait for more.
        if time.monotonic() > until:
            return self._quick(request, "too_late")
        request_id = uuid.uuid4().hex
        answers: list[Answer] = []
        elsewhere: tuple[str, ...] = ()
        for place, wanted in enumerate(request.each()):
            own = f"{request_id}.{place}" if place else request_id
            answers.append(self._scorer.answer(wanted, own, elsewhere))
            elsewhere += tuple(banner.banner_id for banner in answers[-1].response.slate)
        return answers

    def _quick(self, request: RecommendRequest, reason: Fallback) -> list[Answer]:
        SHED.labels(reason).inc()
        request_id = uuid.uuid4().hex
        return [
            self._scorer.answer_quickly(wanted, reason, f"{request_id}.{place}" if place else request_id)
            for place, wanted in enumerate(request.each())
        ]

    async def _commit(self, lines: list[bytes]) -> None:
        since = time.perf_counter()
        try:
            committed = asyncio.wrap_future(self._lines.append_soon(lines))
        except MarqueeError as error:
            raise NotDurable(f"the event log takes no impressions now: {error}") from error
        done, _ = await asyncio.wait((committed,), timeout=COMMIT_SECONDS)
        if not done:
            raise NotDurable(f"the event log took no impressions for {COMMIT_SECONDS} seconds; ask again")
        if failed := committed.exception():
            raise NotDurable(f"the event log takes no impressions now: {failed}") from failed
        COMMIT.observe(time.perf_counter() - since)

    def _note(self, answer: Answer) -> None:
        if answer.inputs is None:
            return
        if self._decisions:
            self._decisions.note(answer)
        standing = self._scorer.lineup.shadow
        if self._shadow and standing and standing.tag != answer.board.tag:
            self._shadow.ask(standing, Seen(answer.inputs, [banner.banner_id for banner in answer.response.slate]))
