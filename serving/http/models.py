"""Which bundle answers now."""

from __future__ import annotations

from fastapi import APIRouter, Request

from serving.schemas import Running

router = APIRouter(prefix="/v1", tags=["models"])
_EXAMPLE = {
    "bundle": "banner_bundle:0123456789abcdef",
    "policy": "epsilon-greedy",
    "exploration": 0.05,
    "banners": 82,
    "trained_until": "2026-02-01T00:00:00",
    "snapshot": "0123456789abcdef",
    "canary": None,
    "canary_share": 0.0,
    "shadow": None,
}


@router.get(
    "/models",
    summary="Read what runs",
    responses={200: {"content": {"application/json": {"example": _EXAMPLE}}}},
)
def models(request: Request) -> Running:
    """The champion, and the canary and shadow beside it."""
    running: Running = request.app.state.worker.scorer.running()
    return running


@router.post(
    "/model",
    summary="Read what runs",
    deprecated=True,
    responses={200: {"content": {"application/json": {"example": _EXAMPLE}}}},
)
def model(request: Request) -> Running:
    """The same by POST, as version 0.1 had it."""
    return models(request)
