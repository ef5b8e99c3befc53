"""``GET /v1/marquee.js``: what a page loads to show banners and to report what became of them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

router = APIRouter(include_in_schema=False)
SCRIPT: Final = (Path(__file__).parent.parent / "static" / "marquee.js").read_bytes()
_ETAG: Final = f'"{hashlib.sha256(SCRIPT).hexdigest()[:16]}"'
_HEADERS: Final = {
    "etag": _ETAG,
    "cache-control": "public, max-age=3600",
    "cross-origin-resource-policy": "cross-origin",
}


@router.get("/v1/marquee.js")
def script(request: Request) -> Response:
    """The script; 304 to a browser that has it."""
    if _ETAG in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=_HEADERS)
    return Response(SCRIPT, headers=_HEADERS, media_type="text/javascript")
