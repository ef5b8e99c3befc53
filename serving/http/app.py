"""The application: raw routes for what is asked all the time, FastAPI for the rest, ``Front`` before both."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.datastructures import State
from starlette.exceptions import HTTPException

from marquee.errors import MarqueeError
from serving.http import (
    catalogue,
    clicks,
    documents,
    event_query,
    measures,
    models,
    notifications,
    pages,
    products,
    snippet,
    visitors,
)
from serving.http.access import EVENTS, RECOMMEND, Access
from serving.http.events import Report
from serving.http.middleware import Answer, Exchange, Front, Handler, Receive, Scope, Send, problem_of
from serving.http.problems import MEDIA_TYPE, Problem, faults, invalid
from serving.http.slates import Slates

if TYPE_CHECKING:  # Feast and XGBoost come with it, and BentoML's parent process needs neither
    from serving.worker import Worker


BARE: Final = {404: "there is nothing at this path", 405: "this path takes another method"}


class Application:
    """An ASGI application that answers once it was given a worker.

    No Starlette application itself: BentoML would look through the routes of one a second time for each request.
    """

    def __init__(self) -> None:
        self.rest = _rest()
        self._front: Front | None = None

    @property
    def state(self) -> State:
        """What handlers reach; ``state.worker`` is the worker."""
        return self.rest.state

    def serve(self, worker: Worker) -> None:
        """Answer with this worker from now on."""
        self.state.worker = worker
        access = Access(worker.keys, worker.settings.service_host)
        handlers: dict[tuple[str, str], Handler] = {
            RECOMMEND: Slates(worker),
            EVENTS: Report(worker),
            ("GET", "/metrics"): _metrics,
        }
        self._front = Front(worker.settings, access, handlers, self.rest)

    def close(self) -> None:
        """Write down what the log still lacks; requests have been answered."""
        if self._front:
            self._front.flush()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or a server that says when it begins and ends."""
        if scope["type"] == "lifespan":
            for word in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{word}.complete"})
            return
        if self._front is None:
            raise RuntimeError("the application was given no worker")
        await self._front(scope, receive, send)


def application() -> Application:
    """A new application, without a worker yet."""
    return Application()


def _rest() -> FastAPI:
    app = FastAPI(
        title="Marquee",
        version=version("marquee"),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    for kind in (Problem, MarqueeError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _told)
    # The catalogue's paths of a product take whatever stands behind /products/, so they come last.
    for one in (visitors, event_query, models, clicks, snippet, documents, notifications, pages, products):
        app.include_router(one.router)
    app.include_router(catalogue.router, prefix="/v1")

    @app.get("/v1/openapi.json", include_in_schema=False)
    def document() -> dict[str, Any]:
        """The API's description."""
        if not app.openapi_schema:
            app.openapi_schema = documents.describe(app)
        return app.openapi_schema

    return app


def _told(request: Request, error: Exception) -> Response:
    """Any exception as a problem; one that is no problem of the client's goes on to the log."""
    problem = _problem(error)
    body = problem.body(request.scope["state"]["request_id"])
    return Response(body, problem.status, problem.headers, MEDIA_TYPE)


def _problem(error: Exception) -> Problem:
    if isinstance(error, RequestValidationError):
        return invalid(faults(error.errors()))
    if isinstance(error, HTTPException):
        # Starlette's own have no more to say than the status.
        is_bare = error.detail == HTTPStatus(error.status_code).phrase
        return Problem(
            error.status_code, BARE.get(error.status_code, "") if is_bare else error.detail, headers=error.headers
        )
    return problem_of(error)


async def _metrics(body: bytes, exchange: Exchange) -> Answer:
    return Answer(200, await asyncio.to_thread(measures.page), measures.MEDIA_TYPE.encode())
