"""What happens to every request, in one pass: an id, a limit on its size and time, access, headers, measures, a line.

Plain ASGI and no stack of middleware: the requests that matter take less time than such a stack would.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from marquee.errors import MarqueeError, TryAgain
from marquee.settings import Settings
from serving.http import measures
from serving.http.access import EVENTS, SHOPPERS, Access, Principal
from serving.http.bodies import require_json, strict_json
from serving.http.journal import Journal
from serving.http.limits import RateLimits
from serving.http.problems import MEDIA_TYPE, Problem

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGI = Callable[[Scope, Receive, Send], Awaitable[None]]
_REQUEST_ID: Final = re.compile(rb"[\w.:@/+=-]{1,128}")
SECURITY: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
_JSON: Final = (b"content-type", b"application/json")
_CORS_METHODS: Final = b"GET, POST, PUT, PATCH, DELETE"
_CORS_HEADERS: Final = b"authorization, content-type, if-match, x-api-key, x-request-id"
SLOW_SECONDS: Final = 9.0
"""For all that no page view waits for: a search through the log, a large change of the catalogue."""
SHARED: Final = frozenset({EVENTS[1]})
"""Paths of raw handlers of which the application takes other methods."""
OTHER_BODIES: Final = (b"text/csv", b"application/x-ndjson")
"""Media types besides JSON that a route may take."""


@dataclass(slots=True)
class Exchange:
    """One request while it is answered."""

    scope: Scope
    headers: dict[bytes, bytes]
    request_id: str
    route: str = "unknown"
    principal: Principal | None = None
    status: int = 0
    has_started: bool = False
    told: dict[str, Any] = field(default_factory=dict)
    """What the log's line says besides."""
    origin: bytes | None = None
    limit: asyncio.Timeout | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a raw handler answers."""

    status: int
    body: bytes
    media_type: bytes = b"application/json"


class Handler(Protocol):
    """Answers one route from the body's bytes."""

    async def __call__(self, body: bytes, exchange: Exchange) -> Answer:
        """The answer; a ``Problem`` when there is none."""


class Gone(Exception):
    """The client left before its request was read."""


class Front:
    """Stands in front of all handlers.

    Args:
        settings: limits, origins and the log's form.
        access: who may do what.
        handlers: by method and path, the routes that take bytes and give bytes.
        rest: the application for all other routes.
    """

    def __init__(
        self, settings: Settings, access: Access, handlers: Mapping[tuple[str, str], Handler], rest: ASGI
    ) -> None:
        self._access, self._handlers, self._rest = access, handlers, rest
        self._paths = {path for _, path in handlers}
        self._limits = RateLimits(settings)
        self._journal = Journal(settings)
        self._deadline, self._body_limit = settings.deadline, settings.body_limit
        self._most = settings.service_requests
        self._origins = {part.strip().encode() for part in (settings.cors_origins or "").split(",")} - {b""}
        self._in_flight = 0
        self._times: dict[tuple[str, int], Any] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; a web socket is closed."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1003})
            return
        began, at = time.perf_counter(), time.time()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode() if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
        exchange = Exchange(scope, headers, request_id)
        if (origin := headers.get(b"origin")) in self._origins:
            exchange.origin = origin
        self._in_flight += 1
        try:
            is_hot = (scope["method"], scope["path"]) in self._handlers
            async with asyncio.timeout(self._deadline if is_hot else SLOW_SECONDS) as limit:
                exchange.limit = limit
                await self._answer(exchange, receive, send)
        except Gone:
            exchange.status = 499
        except Exception as error:
            await self._fail(exchange, error, send)
        finally:
            self._in_flight -= 1
            self._note(exchange, at, time.perf_counter() - began)

    def flush(self) -> None:
        """Write down what the log still lacks."""
        self._journal.flush()

    async def _answer(self, exchange: Exchange, receive: Receive, send: Send) -> None:
        scope = exchange.scope
        method, path = scope["method"], scope["path"]
        handler = self._handlers.get((method, path))
        if handler:
            exchange.route = path
        if method == "OPTIONS" and exchange.origin and b"access-control-request-method" in exchange.headers:
            return await self._send(exchange, Answer(204, b""), send, self._preflight())
        if self._in_flight > self._most:
            raise Problem(503, "too many requests are being worked on; ask again", headers={"Retry-After": "1"})
        exchange.principal = self._access.admit(scope, exchange.headers)
        scope.setdefault("state", {})["principal"] = exchange.principal
        scope["state"]["request_id"] = exchange.request_id
        if not path.startswith(SHOPPERS):
            await self._limits.take(exchange.principal.name)
        if handler is None and path in self._paths - SHARED and method != "OPTIONS":
            allowed = ", ".join(sorted(method for method, known in self._handlers if known == path))
            raise Problem(405, f"{path} takes {allowed}", headers={"Allow": allowed})
        body = await self._body(exchange, receive)
        if handler:
            if method == "POST":
                require_json(exchange.headers.get(b"content-type"))
            return await self._send(exchange, await handler(body, exchange), send)
        if body and require_json(exchange.headers.get(b"content-type"), *OTHER_BODIES) == b"application/json":
            strict_json(body)
        return await self._pass_on(exchange, body, receive, send)

    async def _body(self, exchange: Exchange, receive: Receive) -> bytes:
        declared = exchange.headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._body_limit:
            raise self._too_large()
        if exchange.headers.get(b"content-encoding", b"identity") != b"identity":
            raise Problem(415, "send the body without Content-Encoding")
        parts, size, is_more = [], 0, True
        while is_more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Gone
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._body_limit:
                raise self._too_large()
            is_more = message.get("more_body", False)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _pass_on(self, exchange: Exchange, body: bytes, receive: Receive, send: Send) -> None:
        """Let the application answer; it finds the body read and its headers completed."""
        is_read = False

        async def read() -> Message:
            nonlocal is_read
            if is_read:
                return await receive()
            is_read = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def complete(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status, exchange.has_started = message["status"], True
                if exchange.limit:  # an export may take as long as it is read
                    exchange.limit.reschedule(None)
                own = {name for name, _ in message["headers"]}
                more = [pair for pair in self._headers(exchange) if pair[0] not in own]
                message["headers"] = [*message["headers"], *more]
            await send(message)

        exchange.scope.pop("route", None)  # BentoML's, which mounts this
        await self._rest(exchange.scope, read, complete)
        exchange.route = _route(exchange)

    async def _fail(self, exchange: Exchange, error: Exception, send: Send) -> None:
        problem = problem_of(error)
        exchange.route = _route(exchange)
        if problem.status == 500:
            self._journal.failure(exchange.request_id, exchange.route)
        if exchange.has_started:
            return
        if exchange.principal is None or problem.status in (413, 415, 429, 504):
            measures.REFUSED.labels(problem.title).inc()
        headers = [(name.lower().encode(), value.encode()) for name, value in problem.headers.items()]
        body = problem.body(exchange.request_id)
        await self._send(exchange, Answer(problem.status, body, MEDIA_TYPE.encode()), send, headers)

    async def _send(
        self, exchange: Exchange, answer: Answer, send: Send, more: list[tuple[bytes, bytes]] | None = None
    ) -> None:
        exchange.status, exchange.has_started = answer.status, True
        headers = [
            _JSON if answer.media_type == b"application/json" else (b"content-type", answer.media_type),
            (b"content-length", str(len(answer.body)).encode()),
            *self._headers(exchange),
            *(more or ()),
        ]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    def _headers(self, exchange: Exchange) -> list[tuple[bytes, bytes]]:
        headers = [(b"x-request-id", exchange.request_id.encode()), *SECURITY]
        if exchange.origin:
            headers += [(b"access-control-allow-origin", exchange.origin)]
            headers += [(b"access-control-expose-headers", b"etag, retry-after, x-request-id")]
        if self._origins:
            headers += [(b"vary", b"origin")]
        return headers

    @staticmethod
    def _preflight() -> list[tuple[bytes, bytes]]:
        return [
            (b"access-control-allow-methods", _CORS_METHODS),
            (b"access-control-allow-headers", _CORS_HEADERS),
            (b"access-control-max-age", b"600"),
        ]

    def _too_large(self) -> Problem:
        # The rest of the body is not read, so nothing else can follow on this connection.
        return Problem(413, f"the body is larger than {self._body_limit} bytes", headers={"Connection": "close"})

    def _note(self, exchange: Exchange, at: float, seconds: float) -> None:
        known = (exchange.route, exchange.status)
        if (times := self._times.get(known)) is None:
            times = self._times[known] = measures.REQUESTS.labels(exchange.route, str(exchange.status))
        times.observe(seconds)
        self._journal.request(
            at,
            {
                "request_id": exchange.request_id,
                "method": exchange.scope["method"],
                "route": exchange.route,
                "status": exchange.status,
                "ms": round(seconds * 1e3, 3),
                "key": exchange.principal.name if exchange.principal else None,
                **exchange.told,
            },
        )


def _route(exchange: Exchange) -> str:
    """The route that answered, as a template: what was in the path is nobody's to count or to log."""
    return getattr(exchange.scope.get("route"), "path", "") or exchange.route


def problem_of(error: Exception) -> Problem:
    """What a client is told of an exception; of one that is not ours, only that there was one."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, TimeoutError):
        return Problem(504, "the request took too long and was given up")
    if isinstance(error, TryAgain):
        return Problem(503, "the service cannot do this now; ask again", headers={"Retry-After": "1"})
    if isinstance(error, MarqueeError):
        return Problem(503, "the service cannot do this now", headers={"Retry-After": "5"})
    return Problem(500, "something went wrong here; the service's log says what, under the request_id")
