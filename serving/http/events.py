"""``POST /v1/events``: reports are checked one by one, written down, and only then acknowledged."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter, ValidationError

from ingestion.event_forms import decode_report, encode_lines
from marquee.errors import MarqueeError
from serving.http import measures
from serving.http.bodies import require_strict, strict_json
from serving.http.middleware import Answer, Exchange
from serving.http.problems import Problem, faults, invalid, invalid_body
from serving.schemas import Event

if TYPE_CHECKING:  # Feast and XGBoost come with it, and BentoML's parent process needs neither
    from serving.worker import Worker


ROOT: Final = "events"
ACCEPTED, REJECTED = measures.EVENTS.labels("accepted"), measures.EVENTS.labels("rejected")
NOT_STORED = measures.EVENTS.labels("not_stored")
_MANY: Final = TypeAdapter(list[Event])
Rejection = dict[str, Any]


class Report:
    """Takes reports of events for one worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._most = worker.settings.events_limit

    async def __call__(self, body: bytes, exchange: Exchange) -> Answer:
        """202 once every valid event is durable, with what is wrong with the others.

        Raises:
            Problem: 400 when none is valid, 503 when they could not be stored.
        """
        count, lines, rejected = read_report(body, self._most)
        if rejected:
            REJECTED.inc(len(rejected))
            if not count:
                raise invalid([error for one in rejected for error in _placed(one)])
        exchange.told |= {"events": count, "rejected": len(rejected)}
        if count:
            await self._store(count, lines)
            ACCEPTED.inc(count)
        return Answer(202, json.dumps({"accepted": count, "rejected": rejected}).encode())

    async def _store(self, count: int, lines: bytes) -> None:
        try:
            await asyncio.wrap_future(self._worker.stream.append_soon([lines]))
        except MarqueeError as error:
            NOT_STORED.inc(count)
            told = "the events could not be stored and none of them counts; send them all again"
            raise Problem(503, told, headers={"Retry-After": "1"}) from error
        self._worker.sessions.wake()


def read_report(body: bytes, most: int) -> tuple[int, bytes, list[Rejection]]:
    """How many events of a body are valid, their lines, and what is wrong with each of the others.

    Raises:
        Problem: as ``read_events``.
    """
    if plain := _read_plain(body):
        _require_at_most(most, plain[0])
        return *plain, []
    events, rejected = read_events(body, most)
    return len(events), b"".join(event.line() for event in events), rejected


def _read_plain(body: bytes) -> tuple[int, bytes] | None:
    """The number of events of a body and their lines, if nothing about it is doubtful; the common case, and fast.

    The decoder lets a name be repeated and keeps one. But a text has as many quotes in a body without \\u as in its
    line, so where the lines have as many as the body, nothing was dropped.
    """
    if b"\\u" in body:
        return None
    try:
        events = decode_report(body)
    except (ValueError, RecursionError):
        return None
    lines = encode_lines(events)
    return (len(events), lines) if lines.count(b'"') == body.count(b'"') else None


def read_events(body: bytes, most: int) -> tuple[list[Event], list[Rejection]]:
    """The valid events of a body, one or a list, and what is wrong with each of the others.

    Raises:
        Problem: 400; it is no JSON, one event that is not valid, or a list of more than ``most``.
    """
    if body.lstrip()[:1] != b"[":
        return [_one(body)], []
    try:
        events = _MANY.validate_json(body)
    except ValidationError:
        return _each(body, most)
    _require_at_most(most, len(events))
    require_strict(body, sum(len(event.model_fields_set) for event in events))
    return events, []


def _one(body: bytes) -> Event:
    try:
        event = Event.model_validate_json(body)
    except ValidationError as error:
        raise invalid_body(error) from None
    require_strict(body, len(event.model_fields_set))
    return event


def _each(body: bytes, most: int) -> tuple[list[Event], list[Rejection]]:
    """Judge the events of a list on their own, as at least one of them is not valid."""
    events: list[Event] = []
    rejected: list[Rejection] = []
    values = strict_json(body)
    _require_at_most(most, len(values))
    for index, value in enumerate(values):
        try:
            events.append(Event.model_validate_json(json.dumps(value)))
        except ValidationError as error:
            found = faults(error.errors(include_url=False, include_context=False, include_input=False))
            rejected.append({"index": index, "event_id": _event_id(value), "errors": found})
    return events, rejected


def _event_id(value: object) -> str | None:
    given = value.get("event_id") if isinstance(value, dict) else None
    return given if isinstance(given, str) and 0 < len(given) <= 200 else None


def _placed(one: Rejection) -> list[dict[str, str]]:
    place = f"{ROOT}[{one['index']}]"
    return [
        {"field": f"{place}.{error['field']}" if error["field"] else place, "message": error["message"]}
        for error in one["errors"]
    ]


def _require_at_most(most: int, count: int) -> None:
    if count > most:
        raise invalid([{"field": ROOT, "message": f"at most {most:,} events in one report, and these are {count:,}"}])
