"""Talks to the service from Python: ``Client`` and ``AsyncClient``, typed, and quick to give up.

A service that is down, slow or overloaded never stops a page: ``recommend`` then gives an empty slate whose
``fallback`` is ``unreachable``. Whatever else goes wrong is an ``ApiError`` or ``Unreachable``. What no page waits for
is tried three times, and a service that gives no answer is left alone for a few seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Literal, Self

import httpx
from tenacity import AsyncRetrying, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from marquee.catalogue import Banner, Campaign, Placement, Product, Record
from serving import client_calls as calls
from serving.client_calls import (
    BUSY,
    AnswerType,
    ApiError,
    Call,
    Circuit,
    ClientError,
    Pages,
    Products,
    Slate,
    Unreachable,
)
from serving.http.catalogue_bodies import Changed
from serving.notification_schemas import Schedule
from serving.product_schemas import SimilarAsked
from serving.schemas import Accepted, Event, RecommendedBanner, RequestContext

__all__ = [
    "Accepted",
    "ApiError",
    "AsyncClient",
    "Banner",
    "Campaign",
    "Changed",
    "Client",
    "ClientError",
    "Event",
    "Pages",
    "Placement",
    "Product",
    "Products",
    "RecommendedBanner",
    "RequestContext",
    "Schedule",
    "Slate",
    "Unreachable",
]
TRIES: Final = 3
_RETRIES: Final[dict[str, Any]] = {
    "stop": stop_after_attempt(TRIES),
    "wait": wait_random_exponential(multiplier=0.05, max=0.5),
    "retry": retry_if_exception(calls.may_pass),
    "reraise": True,
}


def _options(key: str | None, url: str, timeout: float) -> dict[str, Any]:
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    return {"base_url": url, "headers": headers, "timeout": timeout}


class Client:
    """Asks one service; safe to share between threads, and meant to be kept.

    Args:
        url: the service's address, such as ``http://banners.internal:3000``.
        key: an API key with the scopes for what is asked.
        timeout: seconds for each of connecting, sending and waiting for the answer.

    Raises:
        ApiError: the service refuses; its fields say why.
        Unreachable: there is no answer in time. ``recommend``, ``recommend_all``, ``similar`` and
            ``next_pages`` never raise this.
    """

    def __init__(self, url: str, key: str | None = None, timeout: float = 0.3) -> None:
        self._http = httpx.Client(**_options(key, url, timeout))
        self._circuit = Circuit()

    def recommend(
        self,
        placement: str,
        visitor_id: str | None = None,
        n: int = 3,
        context: RequestContext | None = None,
        reasons: bool = True,
    ) -> Slate:
        """The banners to show, best position first; without their ``reasons`` the answer comes sooner."""
        return self._send(calls.slate(placement, visitor_id, n, context, reasons))

    def recommend_all(
        self,
        placements: Mapping[str, int],
        visitor_id: str | None = None,
        context: RequestContext | None = None,
        reasons: bool = True,
    ) -> list[Slate]:
        """The slates of a page's placements, each with how many it holds; no banner stands in two of them."""
        return self._send(calls.slates(placements, visitor_id, context, reasons))

    def similar(
        self, product_id: str, visitor_id: str | None = None, n: int = 10, category_id: str | None = None
    ) -> Products:
        """What is like a product and, with a visitor, likely to please them; best first."""
        asked = SimilarAsked(visitor_id=visitor_id, n=n, category_id=category_id)
        return self._send(calls.similar(product_id, asked))

    def next_pages(self, path: Sequence[str], n: int = 5) -> Pages:
        """Which pages come next after those of a session, newest last, and which one to recommend."""
        return self._send(calls.next_pages(path, n))

    def schedule(self, visitor_id: str, limit: int = 100, cursor: str | None = None) -> Schedule:
        """What a visitor was sent and is to be sent, latest due first; ``cursor`` is that of the page before."""
        return self._send(calls.schedule(visitor_id, limit, cursor))

    def report(self, events: Event | Iterable[Event]) -> Accepted:
        """Report events; those accepted are durable."""
        return self._send(calls.report(events))

    def click(
        self,
        banner: RecommendedBanner,
        visitor_id: str | None = None,
        session_id: str | None = None,
        at: datetime | None = None,
        kind: Literal["click", "seen"] = "click",
    ) -> Accepted:
        """Report a banner's click, or that it was seen; visitor and session are those of the request."""
        return self.report(calls.happened(kind, banner, visitor_id, session_id, at))

    def put(self, record: Record) -> None:
        """Create or replace a campaign, banner, placement or product."""
        self._send(calls.put(record))

    def put_all(self, records: Sequence[Record]) -> Changed:
        """Create or replace up to 1,000 records of one kind, all or none."""
        return self._send(calls.put_all(records))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close()

    def _send(self, call: Call[AnswerType]) -> AnswerType:
        try:
            self._circuit.admit()
            return Retrying(**_RETRIES)(self._once, call) if call.missing is None else self._once(call)
        except ClientError as error:
            if call.missing is None or not calls.stops_no_page(error):
                raise
            return call.missing

    def _once(self, call: Call[AnswerType]) -> AnswerType:
        try:
            response = self._http.request(call.method, call.path, content=call.body)
        except httpx.TransportError as error:
            self._circuit.note(is_answered=False)
            raise Unreachable(f"{self._http.base_url}: {str(error) or type(error).__name__}") from error
        self._circuit.note(is_answered=response.status_code not in BUSY)
        return call.answer(response)


class AsyncClient:
    """``Client`` for asyncio: the same calls, awaited."""

    def __init__(self, url: str, key: str | None = None, timeout: float = 0.3) -> None:
        self._http = httpx.AsyncClient(**_options(key, url, timeout))
        self._circuit = Circuit()

    async def recommend(
        self,
        placement: str,
        visitor_id: str | None = None,
        n: int = 3,
        context: RequestContext | None = None,
        reasons: bool = True,
    ) -> Slate:
        """The banners to show, best position first; without their ``reasons`` the answer comes sooner."""
        return await self._send(calls.slate(placement, visitor_id, n, context, reasons))

    async def recommend_all(
        self,
        placements: Mapping[str, int],
        visitor_id: str | None = None,
        context: RequestContext | None = None,
        reasons: bool = True,
    ) -> list[Slate]:
        """The slates of a page's placements, each with how many it holds; no banner stands in two of them."""
        return await self._send(calls.slates(placements, visitor_id, context, reasons))

    async def similar(
        self, product_id: str, visitor_id: str | None = None, n: int = 10, category_id: str | None = None
    ) -> Products:
        """What is like a product and, with a visitor, likely to please them; best first."""
        asked = SimilarAsked(visitor_id=visitor_id, n=n, category_id=category_id)
        return await self._send(calls.similar(product_id, asked))

    async def next_pages(self, path: Sequence[str], n: int = 5) -> Pages:
        """Which pages come next after those of a session, newest last, and which one to recommend."""
        return await self._send(calls.next_pages(path, n))

    async def schedule(self, visitor_id: str, limit: int = 100, cursor: str | None = None) -> Schedule:
        """What a visitor was sent and is to be sent, latest due first; ``cursor`` is that of the page before."""
        return await self._send(calls.schedule(visitor_id, limit, cursor))

    async def report(self, events: Event | Iterable[Event]) -> Accepted:
        """Report events; those accepted are durable."""
        return await self._send(calls.report(events))

    async def click(
        self,
        banner: RecommendedBanner,
        visitor_id: str | None = None,
        session_id: str | None = None,
        at: datetime | None = None,
        kind: Literal["click", "seen"] = "click",
    ) -> Accepted:
        """Report a banner's click, or that it was seen; visitor and session are those of the request."""
        return await self.report(calls.happened(kind, banner, visitor_id, session_id, at))

    async def put(self, record: Record) -> None:
        """Create or replace a campaign, banner, placement or product."""
        await self._send(calls.put(record))

    async def put_all(self, records: Sequence[Record]) -> Changed:
        """Create or replace up to 1,000 records of one kind, all or none."""
        return await self._send(calls.put_all(records))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        await self.close()

    async def _send(self, call: Call[AnswerType]) -> AnswerType:
        try:
            self._circuit.admit()
            return await (AsyncRetrying(**_RETRIES)(self._once, call) if call.missing is None else self._once(call))
        except ClientError as error:
            if call.missing is None or not calls.stops_no_page(error):
                raise
            return call.missing

    async def _once(self, call: Call[AnswerType]) -> AnswerType:
        try:
            response = await self._http.request(call.method, call.path, content=call.body)
        except httpx.TransportError as error:
            self._circuit.note(is_answered=False)
            raise Unreachable(f"{self._http.base_url}: {str(error) or type(error).__name__}") from error
        self._circuit.note(is_answered=response.status_code not in BUSY)
        return call.answer(response)
