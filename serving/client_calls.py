"""What ``serving.client`` asks and how it judges answers; the same for its two clients.

ClientError
├── ApiError      the service answered that it will not; the problem's fields say why
└── Unreachable   there was no answer, or none that makes sense
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Generic, Literal, TypeVar
from urllib.parse import quote, urlencode

import httpx
from pydantic import BaseModel, ValidationError

from marquee.catalogue import KINDS, Record
from marquee.errors import MarqueeError
from serving.http.catalogue_bodies import Changed
from serving.http.problems import Fault, ProblemBody
from serving.notification_schemas import Schedule, ScheduleAsked
from serving.page_schemas import NextPages, NextRequest
from serving.product_schemas import ProductList, SimilarAsked
from serving.schemas import (
    Accepted,
    Event,
    RecommendedBanner,
    RecommendRequest,
    RecommendResponse,
    RequestContext,
    Wanted,
)

FAILURES: Final = 5
"""Calls in a row without an answer, after which the service is left alone."""
PAUSE_SECONDS: Final = 5.0
"""For how long; then one call tries whether it is back."""
BUSY: Final = frozenset({502, 503, 504})
"""Statuses of a service that is down or overloaded; the same call may succeed later."""
UNREACHABLE: Final = "unreachable"
AnswerType = TypeVar("AnswerType")
ModelType = TypeVar("ModelType", bound=BaseModel)


class ClientError(MarqueeError):
    """A call that came to nothing."""


class Unreachable(ClientError):
    """There was no answer in time, or none that makes sense."""


class ApiError(ClientError):
    """The service answered with a problem (RFC 9457)."""

    def __init__(self, problem: ProblemBody) -> None:
        super().__init__(f"{problem.status} {problem.title}: {problem.detail}")
        self.status: int = problem.status
        self.title: str = problem.title
        self.detail: str = problem.detail
        self.request_id: str = problem.request_id
        self.errors: list[Fault] = problem.errors


class Slate(RecommendResponse):
    """A slate; ``fallback`` may also be ``unreachable``, and a reason that this version does not know."""

    # Wider than the service's on purpose: a newer service must not break an older client.
    fallback: str | None  # type: ignore[assignment]


class Products(ProductList):
    """A list of products; ``fallback`` as in ``Slate``."""

    fallback: str | None  # type: ignore[assignment]


class Pages(NextPages):
    """Probable next pages and the one to recommend; ``fallback`` as in ``Slate``."""

    fallback: str | None  # type: ignore[assignment]


class _Slates(BaseModel):
    answers: list[Slate]


class Circuit:
    """Keeps calls from waiting for a service that is down: after ``FAILURES`` one try each ``PAUSE_SECONDS``."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._missed, self._until = 0, 0.0

    def admit(self) -> None:
        """Let one call through.

        Raises:
            Unreachable: the service gave no answer lately.
        """
        now = self._clock()
        if self._missed < FAILURES:
            return
        if now < self._until:
            raise Unreachable("the service gave no answer lately, so it is not asked for a few seconds")
        self._until = now + PAUSE_SECONDS  # so that nobody else tries meanwhile

    def note(self, is_answered: bool) -> None:
        """What became of a call."""
        self._missed = 0 if is_answered else self._missed + 1
        if self._missed >= FAILURES:
            self._until = self._clock() + PAUSE_SECONDS


@dataclass(frozen=True, slots=True)
class Call(Generic[AnswerType]):
    """One request and how to read its answer.

    ``missing`` is what a page that waits for the answer gets instead. Such a call is made once: a page has no time for
    more, and each slate is logged as shown. All others do no more when made twice, so they are.
    """

    method: str
    path: str
    body: bytes
    read: Callable[[bytes], AnswerType]
    missing: AnswerType | None = None

    def answer(self, response: httpx.Response) -> AnswerType:
        """What the service said.

        Raises:
            ApiError: it says why not.
            Unreachable: that is no answer of the service.
        """
        if not response.is_success:
            raise ApiError(_problem(response))
        try:
            return self.read(response.content)
        except ValidationError as error:
            raise Unreachable(
                f"{response.url} answered what the service never does: {error.errors()[0]['msg']}"
            ) from None


def may_pass(error: BaseException) -> bool:
    """Whether the same call may succeed later, with nothing changed by the caller."""
    return isinstance(error, Unreachable) or (isinstance(error, ApiError) and error.status in BUSY)


def stops_no_page(error: ClientError) -> bool:
    """Whether a page goes on without banners; the other errors are the caller's to mend."""
    return isinstance(error, Unreachable) or (
        isinstance(error, ApiError) and (error.status >= 500 or error.status == 429)
    )


def slate(placement: str, visitor_id: str | None, n: int, context: RequestContext | None, reasons: bool) -> Call[Slate]:
    """Ask for one slate."""
    request = RecommendRequest(
        visitor_id=visitor_id, placement=placement, n=n, context=context or RequestContext(), reasons=reasons
    )
    return _asked(request, Slate.model_validate_json, _no_slate(placement))


def slates(
    placements: Mapping[str, int], visitor_id: str | None, context: RequestContext | None, reasons: bool
) -> Call[list[Slate]]:
    """Ask for the slates of several placements of one page."""
    wanted = tuple(Wanted(placement=name, n=n) for name, n in placements.items())
    request = RecommendRequest(
        visitor_id=visitor_id, placements=wanted, context=context or RequestContext(), reasons=reasons
    )
    missing = [_no_slate(placement) for placement in placements]
    return _asked(request, lambda body: _Slates.model_validate_json(body).answers, missing)


def similar(product_id: str, asked: SimilarAsked) -> Call[Products]:
    """Ask what is like a product."""
    query = urlencode(asked.model_dump(mode="json", exclude_none=True, exclude_defaults=True))
    path = f"/v1/products/{quote(product_id, safe='')}/similar?{query}"
    missing = Products(products=[], based_on=[], bundle="", fallback=UNREACHABLE)
    return Call("GET", path, b"", Products.model_validate_json, missing)


def next_pages(path: Sequence[str], n: int) -> Call[Pages]:
    """Ask which pages come next, and which one to recommend."""
    body = NextRequest(path=tuple(path), n=n).model_dump_json().encode()
    missing = Pages(next=[], recommended=None, current=None, bundle="", fallback=UNREACHABLE)
    return Call("POST", "/v1/pages/next", body, Pages.model_validate_json, missing)


def schedule(visitor_id: str, limit: int, cursor: str | None) -> Call[Schedule]:
    """Ask what a visitor was sent and is to be sent."""
    asked = ScheduleAsked(visitor_id=visitor_id, limit=limit, cursor=cursor)
    query = urlencode(asked.model_dump(mode="json", exclude_none=True, exclude_defaults=True))
    return Call("GET", f"/v1/notifications/schedule?{query}", b"", Schedule.model_validate_json)


def report(events: Event | Iterable[Event]) -> Call[Accepted]:
    """Report events."""
    each = [events] if isinstance(events, Event) else list(events)
    lines = (event.model_dump_json(exclude_none=True) for event in each)
    return Call("POST", "/v1/events", f"[{','.join(lines)}]".encode(), Accepted.model_validate_json)


def happened(
    kind: Literal["click", "seen"],
    banner: RecommendedBanner,
    visitor_id: str | None,
    session_id: str | None,
    at: datetime | None,
) -> Event:
    """The event of a banner of a slate, of the same visitor as its impression, and of an id that counts once."""
    request_id = banner.impression_id.rpartition("-")[0]
    return Event(
        event_id=f"{banner.impression_id}-{kind}",
        kind=kind,
        occurred_at=at or datetime.now(UTC),
        visitor_id=visitor_id or session_id or request_id,
        session_id=session_id,
        banner_id=banner.banner_id,
        impression_id=banner.impression_id,
    )


def put(record: Record) -> Call[None]:
    """Create or replace one record of the catalogue."""
    name = _kind(record)
    record_id = quote(getattr(record, f"{name[:-1]}_id"), safe="")
    return Call("PUT", f"/v1/{name}/{record_id}", record.model_dump_json(exclude_none=True).encode(), lambda _: None)


def put_all(records: Sequence[Record]) -> Call[Changed]:
    """Create or replace records of one kind, all or none."""
    kinds = {_kind(record) for record in records}
    if len(kinds) != 1:
        raise ClientError("put_all takes records of one kind, and at least one")
    lines = (record.model_dump_json(exclude_none=True) for record in records)
    body = f'{{"upsert":[{",".join(lines)}]}}'.encode()
    return Call("POST", f"/v1/{kinds.pop()}/bulk", body, Changed.model_validate_json)


def _asked(request: RecommendRequest, read: Callable[[bytes], AnswerType], missing: AnswerType) -> Call[AnswerType]:
    body = request.model_dump_json(exclude_none=True, exclude_defaults=True).encode()
    return Call("POST", "/v1/banners/recommend", body, read, missing)


def _no_slate(placement: str) -> Slate:
    return Slate(request_id="", placement=placement, slate=[], bundle="", policy="", fallback=UNREACHABLE)


def _kind(record: Record) -> str:
    return next(name for name, model in KINDS.items() if isinstance(record, model))


def _problem(response: httpx.Response) -> ProblemBody:
    try:
        return ProblemBody.model_validate_json(response.content)
    except ValidationError:  # of a proxy, say
        told: dict[str, Any] = {"title": response.reason_phrase, "status": response.status_code}
        return ProblemBody(**told, detail=response.text[:200], request_id=response.headers.get("x-request-id", ""))
