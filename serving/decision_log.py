"""What each answer was decided from, kept for some days so that ``marquee explain`` can make it again.

decisions/<writer>-<day>.jsonl   one line an answer, written within a fraction of a second; not durable before it
decisions/states/<id>.json.gz    what answered then besides the bundle: catalogue, rules, counts; one file a change
"""

from __future__ import annotations

import gzip
import logging
import mmap
import queue
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary

import msgspec
import numpy as np
from prometheus_client import Counter

from marquee.settings import Settings
from serving.decision import Board, Inputs
from serving.rule import Ask
from serving.scoring import Answer
from serving.showings import Shows, Spent
from training.bundle import Context

WRITE_SECONDS: Final = 0.2
PRUNE_SECONDS: Final = 3600.0
WAITING: Final = 20_000
"""Answers that may wait to be written; further ones are counted and left out, so that no answer waits for this."""
MOMENTS: Final = frozenset({"at", "feature_at", "session_started_at", "last_seen_at"})
"""Names of what is a moment in a decision's inputs."""
SHOWN: Final = ("banner_ids", "campaign_ids", "at", "sessions")
LOG: Final = logging.getLogger("bentoml.marquee")
LEFT_OUT: Final = Counter("marquee_decisions_left_out", "Answers that marquee explain will not know.")


class DecisionLog:
    """One writer's log of decisions."""

    def __init__(self, settings: Settings, writer: str) -> None:
        self._folder, self._writer = settings.decisions, writer
        self._keep_seconds = settings.explain_days * 86_400
        self._waiting: queue.Queue[Answer] = queue.Queue(WAITING)
        self._states: WeakKeyDictionary[Board, str] = WeakKeyDictionary()
        self._pruned_at = -PRUNE_SECONDS
        self._stop = threading.Event()
        (self._folder / "states").mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._run, name="decisions", daemon=True)
        self._thread.start()

    def note(self, answer: Answer) -> None:
        """Leave an answer to be written; at once, whatever the disk does."""
        try:
            self._waiting.put_nowait(answer)
        except queue.Full:
            LEFT_OUT.inc()

    def stop(self) -> None:
        """Write what waits and end."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._stop.wait(WRITE_SECONDS)
            try:
                self._write()
                self._prune()
            except Exception as error:  # whatever the disk says, slates are answered
                LOG.error("decisions cannot be written, so they cannot be explained later: %s", error)

    def _write(self) -> None:
        lines = []
        while not self._waiting.empty():
            try:
                lines.append(msgspec.json.encode(self._line(self._waiting.get())) + b"\n")
            except Exception as error:  # the others are written
                LEFT_OUT.inc()
                LOG.error("a decision cannot be written, so it cannot be explained later: %s", error)
        if lines:
            day = time.strftime("%Y-%m-%d", time.gmtime())
            with (self._folder / f"{self._writer}-{day}.jsonl").open("ab") as file:
                file.writelines(lines)

    def _line(self, answer: Answer) -> dict[str, Any]:
        inputs, board = answer.inputs, answer.board
        if inputs is None or answer.decision is None:
            raise ValueError("a quick answer has nothing to explain")
        bundle = board.bundle
        slate = [
            [bundle.catalogue.banner_ids[placed.row], placed.score, placed.propensity]
            for placed in answer.decision.slate
        ]
        return {
            "request_id": inputs.request_id,
            "bundle": board.tag,
            "engine": bundle.ranker.engine.name,
            "state": self._state(board),
            "fallback": answer.response.fallback,
            "inputs": inputs_to_json(inputs),
            "slate": slate,
        }

    def _state(self, board: Board) -> str:
        """The id under which a board's state is kept; written when it is first used."""
        if board not in self._states:
            name = uuid.uuid4().hex
            content = msgspec.json.encode(board_to_json(board))
            partial = self._folder / "states" / f"{name}.partial"
            partial.write_bytes(gzip.compress(content, 3))
            partial.replace(partial.with_suffix(".json.gz"))
            self._states[board] = name
        return self._states[board]

    def _prune(self) -> None:
        if time.monotonic() - self._pruned_at < PRUNE_SECONDS:
            return
        self._pruned_at = time.monotonic()
        oldest = time.time() - self._keep_seconds
        for file in self._folder.glob("*.jsonl"):
            if file.stat().st_mtime < oldest:
                file.unlink(missing_ok=True)
        # A state may be used for long after it was written: it goes once no line is left that could name it.
        alive = min((file.stat().st_mtime for file in self._folder.glob("*.jsonl")), default=time.time())
        used = set(self._states.values())
        for file in (self._folder / "states").glob("*.json.gz"):
            if file.stat().st_mtime < alive - 2 * self._keep_seconds and file.name.partition(".")[0] not in used:
                file.unlink(missing_ok=True)


def find_decision(settings: Settings, request_id: str) -> dict[str, Any] | None:
    """The line of a request, None when none is kept."""
    for line in _lines_with(settings.decisions, request_id):
        found: dict[str, Any] = msgspec.json.decode(line)
        if found["request_id"] == request_id:
            return found
    return None


def read_state(settings: Settings, name: str) -> dict[str, Any]:
    """The state of that id, as ``board_to_json`` made it."""
    content = gzip.decompress((settings.decisions / "states" / f"{name}.json.gz").read_bytes())
    found: dict[str, Any] = msgspec.json.decode(content)
    return found


def inputs_to_json(inputs: Inputs) -> dict[str, Any]:
    """All of a decision's inputs as JSON-ready values."""
    context = inputs.context
    return {
        "request_id": inputs.request_id,
        "context": [context.placement_id, context.device, context.at.astype("datetime64[us]").item(), context.session],
        "n": inputs.n,
        "visitor": inputs.visitor,
        "ask": inputs.ask,
        "shows": {name: getattr(inputs.shows, name) for name in SHOWN},
        "spent": [list(inputs.spent.total.items()), [[*key, count] for key, count in inputs.spent.daily.items()]],
        "elsewhere": inputs.elsewhere,
        "taken": inputs.taken,
        "dropped": inputs.dropped,
    }


def inputs_from_json(values: Mapping[str, Any]) -> Inputs:
    """The inverse of ``inputs_to_json``."""
    placement, device, at, session = values["context"]
    total, daily = values["spent"]
    ask = _timed(values["ask"])
    return Inputs(
        request_id=values["request_id"],
        context=Context(placement, device, np.datetime64(at, "us"), _timed(session)),
        n=values["n"],
        visitor=_timed(values["visitor"]),
        ask=Ask(**ask | {"segments": frozenset(ask["segments"])}),
        shows=Shows(**values["shows"]),
        spent=Spent(dict(map(tuple, total)), {(campaign, day): count for campaign, day, count in daily}),
        elsewhere=tuple(values["elsewhere"]),
        taken=tuple(values["taken"]),
        dropped=tuple(values["dropped"]),
    )


def board_to_json(board: Board) -> dict[str, Any]:
    """What a board is made of besides its bundle."""
    live = board.live
    return {
        "catalogue": board.bundle.catalogue.to_rows(),
        "campaigns": [one.model_dump(mode="json") for one in live.campaigns.values()],
        "banners": [one.model_dump(mode="json") for one in live.banners.values()],
        "placements": [one.model_dump(mode="json") for one in live.placements.values()],
        "unavailable": sorted(live.unavailable),
        "counts": {
            name: [None if np.isnan(v) else v for v in values.tolist()] for name, values in board.counts.items()
        },
    }


def _lines_with(folder: Path, text: str) -> Iterator[bytes]:
    """Lines that hold a text, of the newest file first."""
    for file in sorted(folder.glob("*.jsonl"), key=lambda one: -one.stat().st_mtime):
        with file.open("rb") as stream:
            if not file.stat().st_size:
                continue
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                place = content.find(text.encode())
                while place >= 0:
                    start, end = content.rfind(b"\n", 0, place) + 1, content.find(b"\n", place)
                    if end < 0:  # a writer was killed in the middle of it
                        break
                    yield content[start:end]
                    place = content.find(text.encode(), end)


def _timed(values: Any) -> Any:
    """A record with its moments, which are text in JSON."""
    if values is None:
        return None
    return {name: datetime.fromisoformat(v) if name in MOMENTS and v else v for name, v in values.items()}
