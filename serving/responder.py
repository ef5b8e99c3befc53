"""Answers many requests at once: scoring in threads, one commit for many, and something valid in time."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Final

from prometheus_client import Counter, Histogram

from ingestion.group_commit import Lines
from marquee.errors import MarqueeError, TryAgain
from marquee.settings import Settings
from serving.decision_log import DecisionLog
from serving.schemas import Fallback, RecommendRequest, RecommendResponse, RecommendResponses
from serving.scoring import Answer, Scorer
from serving.shadow import Seen, Shadow

THREADS: Final = {"sqlite": 1, "valkey": 4}
"""That score, by online store. Beside files two take turns at the interpreter's lock and need a fifth more time for
each answer than one alone; a server is waited for, and meanwhile others go on."""
BATCH_SECONDS: Final = 0.008
"""How long an answer waits for those that wait behind it, to be committed with them: one commit and one word to the
event loop for all. Where nobody waits it does not wait either."""
COMMIT_SECONDS: Final = 1.5
"""Until impressions that are not durable yet are given up; the answer would be of no use by then."""
COMMIT: Final = Histogram(
    "marquee_commit_seconds",
    "Time until the impressions of answers are durable, once a commit.",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.5),
)
SHED: Final = Counter("marquee_shed", "Requests that got the quick answer.", ["reason"])


class NotDurable(TryAgain):
    """The impressions of an answer could not be stored, so the answer is not given."""


class Turn:
    """One request on its way. A thread and a clock may both have an answer for it: who takes it first gives theirs."""

    __slots__ = ("_left", "answered", "committed", "loop", "request", "watch")

    def __init__(self, request: RecommendRequest, loop: asyncio.AbstractEventLoop) -> None:
        self.request, self.loop = request, loop
        self.answered: asyncio.Future[list[Answer]] = loop.create_future()
        self.watch: asyncio.TimerHandle | None = None
        self.committed: Future[None] | None = None
        self._left = [None]

    @property
    def is_taken(self) -> bool:
        """Whether somebody has an answer for it."""
        return not self._left

    def take(self) -> bool:
        """Whether it was still to be taken; from any thread."""
        try:
            self._left.pop()
        except IndexError:
            return False
        return True

    def settle(self, answers: list[Answer], error: BaseException | None = None) -> None:
        """Give the answers, or the error; from any thread."""
        _settle([(self, answers)], error)

    def give(self, answers: list[Answer], error: BaseException | None) -> None:
        """The same from the loop's own thread."""
        if self.answered.done():
            return
        if error is None:
            self.answered.set_result(answers)
        else:
            self.answered.set_exception(error)


Made = tuple[Turn, list[Answer]]


def _settle(made: list[Made], error: BaseException | None = None) -> None:
    def give(loop: asyncio.AbstractEventLoop) -> None:
        for turn, answers in made:
            if turn.loop is loop:
                turn.give(answers, error)

    for loop in {turn.loop for turn, _ in made}:
        with suppress(RuntimeError):  # the loop has ended, and nobody waits any more
            loop.call_soon_threadsafe(give, loop)


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
        self._deadline, self._most = settings.slate_ms / 1e3, settings.slates_waiting
        # Ids that nobody guesses, without a system call for each: those give the interpreter's lock away.
        self._secret, self._numbers = os.urandom(16), itertools.count()
        self._queue: SimpleQueue[Turn | None] = SimpleQueue()
        count = THREADS[settings.online_store]
        self._threads = [threading.Thread(target=self._work, name="scoring", daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    async def answer(self, request: RecommendRequest) -> RecommendResponse | RecommendResponses:
        """The slate, or the slates of several placements; durable when this returns.

        Raises:
            NotDurable: the event log does not take the impressions; nothing was shown.
        """
        turn = Turn(request, asyncio.get_running_loop())
        if self._queue.qsize() >= self._most:
            turn.take()
            self._watch(turn, COMMIT_SECONDS, self._stuck)
            self._commit([(turn, self._quick(request, "overloaded"))])
        else:
            self._watch(turn, self._deadline, self._late)
            self._queue.put(turn)
        try:
            answers = await turn.answered
        finally:
            if turn.watch:
                turn.watch.cancel()
        for one in answers:
            self._note(one)
        if request.placements:
            return RecommendResponses(answers=[one.response for one in answers])
        return answers[0].response

    def close(self) -> None:
        """Let the threads end after what they are at."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    @staticmethod
    def _watch(turn: Turn, seconds: float, then: Any) -> None:
        turn.watch = turn.loop.call_later(seconds, then, turn)

    def _late(self, turn: Turn) -> None:
        """The caller will not wait for the visitor's own slate any more."""
        self._watch(turn, COMMIT_SECONDS, self._stuck)
        if not turn.take():
            return
        try:
            self._commit([(turn, self._quick(turn.request, "too_late"))])
        except Exception as error:  # the caller hears of it
            turn.settle([], error)

    @staticmethod
    def _stuck(turn: Turn) -> None:
        if turn.committed:  # what is not being written yet is not to be: the answer is not given
            turn.committed.cancel()
        turn.settle([], _stuck())

    def _work(self) -> None:
        is_open = True
        while is_open:
            made: list[Made] = []
            turn, until = self._queue.get(), time.perf_counter() + BATCH_SECONDS
            with suppress(Empty):
                while turn is not None:
                    made += self._made(turn)
                    if time.perf_counter() >= until:
                        break
                    turn = self._queue.get_nowait()
            is_open = turn is not None
            self._commit([one for one in made if one[0].take()])

    def _made(self, turn: Turn) -> list[Made]:
        """The turn with its answers; nothing when it is answered already, or now by an error."""
        if turn.is_taken:  # it waited too long here, and was answered quickly
            return []
        try:
            return [(turn, self._scored(turn.request))]
        except Exception as error:  # the caller hears of it, and the thread goes on
            if turn.take():
                turn.settle([], error)
            return []

    def _commit(self, made: list[Made]) -> None:
        """Make the impressions durable, then give the answers."""
        lines = [line for _, answers in made for one in answers for line in one.lines]
        if not lines:
            return _settle(made)
        since = time.perf_counter()

        def settle(done: Future[None]) -> None:
            if done.cancelled():  # one of them was given up, and none of them was written
                return _settle(made, _stuck())
            COMMIT.observe(time.perf_counter() - since)
            error = done.exception()
            return _settle(made, _not_durable(error) if error else None)

        try:
            committed = self._lines.append_soon(lines)
        except MarqueeError as error:
            return _settle(made, _not_durable(error))
        for turn, _ in made:
            turn.committed = committed
        committed.add_done_callback(settle)
        return None

    def _scored(self, request: RecommendRequest) -> list[Answer]:
        return self._each(request, self._scorer.answer)

    def _quick(self, request: RecommendRequest, reason: Fallback) -> list[Answer]:
        SHED.labels(reason).inc()
        return self._each(
            request, lambda wanted, own, elsewhere: self._scorer.answer_quickly(wanted, reason, own, elsewhere)
        )

    def _each(
        self, request: RecommendRequest, answer: Callable[[RecommendRequest, str, tuple[str, ...]], Answer]
    ) -> list[Answer]:
        """One answer for each placement; no banner stands in two of them."""
        request_id = self._request_id()
        answers: list[Answer] = []
        elsewhere: tuple[str, ...] = ()
        for place, wanted in enumerate(request.each()):
            answers.append(answer(wanted, f"{request_id}.{place}" if place else request_id, elsewhere))
            elsewhere += tuple(banner.banner_id for banner in answers[-1].response.slate)
        return answers

    def _request_id(self) -> str:
        number = next(self._numbers).to_bytes(8, "big")
        return hashlib.blake2b(number, digest_size=16, key=self._secret).hexdigest()

    def _note(self, answer: Answer) -> None:
        if answer.inputs is None:
            return
        if self._decisions:
            self._decisions.note(answer)
        standing = self._scorer.lineup.shadow
        if self._shadow and standing and standing.tag != answer.board.tag:
            self._shadow.ask(standing, Seen(answer.inputs, [banner.banner_id for banner in answer.response.slate]))


def _stuck() -> NotDurable:
    return NotDurable(f"the event log took no impressions for {COMMIT_SECONDS} seconds; ask again")


def _not_durable(error: BaseException) -> NotDurable:
    told = NotDurable(f"the event log takes no impressions now: {error}")
    told.__cause__ = error
    return told
