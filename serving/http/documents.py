"""The API's description: ``/v1/openapi.json``, and a page that shows it without any other server."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from pydantic.json_schema import models_json_schema

from serving.http.access import EVENTS, RECOMMEND, needed_scope
from serving.http.problems import MEDIA_TYPE, Problem, ProblemBody
from serving.schemas import Accepted, Events, RecommendRequest, RecommendResponse, RecommendResponses

router = APIRouter(include_in_schema=False)
ABOUT: Final = (
    "Which banner to show to whom, now. Every problem is `application/problem+json` (RFC 9457); its `errors` name the "
    "fields. Send an API key as `Authorization: Bearer KEY` or `X-API-Key: KEY`."
)
TAGS: Final = [
    {"name": "slates", "description": "Ask what to show."},
    {"name": "events", "description": "Report what happened."},
    {"name": "visitors", "description": "See what is known of a visitor."},
    {"name": "models", "description": "See what answers."},
    {"name": "products", "description": "Ask which products are alike, or come next."},
    {"name": "pages", "description": "Ask which page comes next, and which to recommend."},
    {"name": "notifications", "description": "See what a visitor was sent and is to be sent."},
    {"name": "catalogue", "description": "Manage campaigns, banners, placements and products."},
]
PROBLEMS: Final = {
    "400": "The request does not fit; errors names the fields.",
    "401": "No API key, or one that is unknown, expired or revoked.",
    "403": "The API key has no scope for this.",
    "404": "There is nothing of that name.",
    "413": "The body is too large.",
    "415": "The body is no application/json.",
    "429": "The key asks too often; Retry-After says when to ask again.",
    "503": "The service cannot do this now; Retry-After says when to ask again.",
    "504": "The request took too long and was given up.",
}
ASSETS: Final = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_PAGE: Final = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Marquee API</title>
<link rel="stylesheet" href="docs/swagger-ui.css"></head>
<body><div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script><script src="docs/start.js"></script></body></html>
"""
_START: Final = 'SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true});'
_CLICK: Final = {
    "event_id": "e-1",
    "kind": "click",
    "occurred_at": "2026-02-02T12:00:03Z",
    "visitor_id": "v000123",
    "banner_id": "b017",
    "impression_id": "4f1c-0",
}
_FAULT: Final = {"field": "kind", "message": "Input should be 'page_view', 'click' or another kind"}


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of an application, with the raw routes that it does not know."""
    document = get_openapi(
        title=app.title, version=app.version, description=ABOUT, routes=app.routes, tags=TAGS, openapi_version="3.1.0"
    )
    kinds = (RecommendRequest, RecommendResponse, RecommendResponses, Events, Accepted, ProblemBody)
    # In both modes, answers would be described twice.
    _, found = models_json_schema([(kind, "validation") for kind in kinds], ref_template="#/components/schemas/{model}")
    components = document.setdefault("components", {})
    components["schemas"] = {**components.get("schemas", {}), **found["$defs"]}
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "`marquee keys create NAME --scope …`"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    components["responses"] = {f"Problem{status}": _problem(int(status)) for status in PROBLEMS}
    for (method, path), operation in ((RECOMMEND, _recommend()), (EVENTS, _events())):
        document["paths"].setdefault(path, {})[method.lower()] = operation
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete(operation, needed_scope(method.upper(), path), is_named="{" in path)
    return document


def _complete(operation: dict[str, Any], scope: str | None, is_named: bool) -> None:
    """Say of an operation who may call it and what it answers when it does not."""
    operation["responses"].pop("422", None)
    has_body = "requestBody" in operation
    not_here = {status for status, is_here in (("404", is_named), ("413", has_body), ("415", has_body)) if not is_here}
    for status in sorted(PROBLEMS.keys() - not_here):
        operation["responses"].setdefault(status, {"$ref": f"#/components/responses/Problem{status}"})
    if scope:
        operation["security"] = [{"bearer": []}, {"header": []}]
        operation["description"] = f"{operation.get('description', '')}\n\nNeeds the scope `{scope}`.".strip()


def _problem(status: int) -> dict[str, Any]:
    example = {
        "type": "about:blank",
        "title": Problem(status, "").title,
        "status": status,
        "detail": PROBLEMS[str(status)],
        "request_id": "0f8a",
    }
    content = {"schema": {"$ref": "#/components/schemas/ProblemBody"}, "example": example}
    return {"description": PROBLEMS[str(status)], "content": {MEDIA_TYPE: content}}


def _content(schema: dict[str, Any], **examples: Any) -> dict[str, Any]:
    shown = {name: {"value": value} for name, value in examples.items()}
    return {"content": {"application/json": {"schema": schema, "examples": shown}}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _recommend() -> dict[str, Any]:
    banner: dict[str, Any] = {
        "banner_id": "b017",
        "campaign_id": "c03",
        "title": "Winter boots",
        "position": 0,
        "impression_id": "4f1c-0",
        "image_url": None,
        "landing_url": "https://shop.example/boots",
        "click_url": None,
        "score": 0.031,
        "propensity": 0.95,
        "reasons": ["34 % of this visitor's recent interest is in boots"],
    }
    slate: dict[str, Any] = {
        "request_id": "4f1c",
        "placement": "home_hero",
        "slate": [banner],
        "bundle": "banner_bundle:0123",
    }
    slate |= {"policy": "epsilon-greedy", "fallback": None}
    asked = {"visitor_id": "v000123", "placement": "home_hero", "n": 2, "context": {"device": "mobile"}}
    several = {
        "visitor_id": "v000123",
        "placements": [{"placement": "home_hero", "n": 1}, {"placement": "cart", "n": 3}],
    }
    answers = {"oneOf": [_ref("RecommendResponse"), _ref("RecommendResponses")]}
    return {
        "tags": ["slates"],
        "summary": "Recommend banners",
        "description": "Which banners to show this visitor here and now, and why. What is answered is logged as shown.",
        "operationId": "recommend",
        "requestBody": {"required": True} | _content(_ref("RecommendRequest"), one=asked, several=several),
        "responses": {"200": {"description": "The slate."} | _content(answers, slate=slate)},
    }


def _events() -> dict[str, Any]:
    rejected = [{"index": 1, "event_id": "e-2", "errors": [_FAULT]}]
    told = {"accepted": 1, "rejected": rejected}
    return {
        "tags": ["events"],
        "summary": "Report events",
        "description": "Report one event or a list. What is accepted is durable; a repeated event_id counts once. Each "
        "event of a list is judged on its own; when none is valid the answer is 400.",
        "operationId": "report",
        "requestBody": {"required": True} | _content(_ref("Events"), one=_CLICK, list=[_CLICK]),
        "responses": {
            "202": {"description": "Stored."}
            | _content(_ref("Accepted"), all={"accepted": 2, "rejected": []}, some=told)
        },
    }


@router.get("/v1/docs")
def page() -> Response:
    """A page that shows the API and tries it."""
    return HTMLResponse(_PAGE, headers={"content-security-policy": PAGE_POLICY})


@router.get("/v1/docs/start.js")
def start() -> Response:
    """What the page runs; a file of its own, so that no script in a page is ever allowed."""
    return Response(_START, media_type="text/javascript")


@router.get("/v1/docs/{name}")
def asset(name: str) -> Response:
    """The page's library, as BentoML brings it."""
    if name not in ASSETS:
        raise Problem(404, "there is nothing here")
    from bentoml._internal import server

    headers = {"cache-control": "public, max-age=3600"}
    return FileResponse(
        Path(server.__file__).parent / "static_content" / name, media_type=ASSETS[name], headers=headers
    )


@router.get("/")
def start_page() -> Response:
    """Lead to the page."""
    return RedirectResponse("/v1/docs")


@router.get("/docs.json")
def former_document() -> Response:
    """Lead to the document, which was here in version 0.1."""
    return RedirectResponse("/v1/openapi.json")
