"""The product's service with two routes beside it that do nothing, in the same processes: what is possible at most.

``FLOOR`` stands where the product's application stands and answers once it has read the body. ``GUARDED`` does the
same behind all that the product does to every request: access, limits, headers, measures and the log's line.
"""

from __future__ import annotations

from typing import Any, Final

from serving.http.access import Access
from serving.http.middleware import Answer, Exchange, Front, Receive, Scope, Send
from serving.service import API, BannerService

FLOOR, GUARDED = "/floor/recommend", "/guarded/recommend"
BODY: Final = b'{"slate":[]}'
_HEADERS: Final = [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())]


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the body and answer."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": BODY})


class Guarded:
    """The same behind the product's own front, made with the first request because only then there is a worker."""

    def __init__(self) -> None:
        self._front: Front | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if self._front is None:
            worker = API.state.worker
            access = Access(worker.keys, worker.settings.service_host)
            self._front = Front(worker.settings, access, {("POST", GUARDED): _nothing}, nothing)
        await self._front(scope, receive, send)


async def _nothing(body: bytes, exchange: Exchange) -> Answer:
    return Answer(200, BODY)


def _first(app: Any, route: str) -> None:
    """Mount before the product's own application, which takes every path."""
    name = route.split("/")[1]
    BannerService.mount_asgi_app(app, path=f"/{name}", name=name)
    BannerService.mount_apps.insert(0, BannerService.mount_apps.pop())


_first(nothing, FLOOR)
_first(Guarded(), GUARDED)
