"""The catalogue's routes: one implementation for campaigns, banners, placements and products, and the audit.

Answers come from the store as it is at that moment, so what was written on any worker is read back at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Path, Query, Request, Response
from pydantic import BaseModel

from marquee import contract
from marquee.catalogue import Banner, Product, Record
from serving.http.catalogue_bodies import (
    ALL,
    MOST_LISTED,
    Asked,
    AuditEntry,
    AuditPage,
    BannerProducts,
    Bulk,
    Changed,
    Kind,
    Page,
)
from serving.http.catalogue_edits import Edits, answered, cursor_of, missing, page_of

router = APIRouter(tags=["catalogue"])
RecordId = Annotated[str, Path(min_length=1, max_length=contract.LONGEST_ID)]
IfMatch = Annotated[str | None, Header(alias="If-Match", description="Refused with 412 unless the ETag is this one.")]
Cascade = Annotated[bool, Query(description="Delete a deleted campaign's banners too.")]
Before = Annotated[int | None, Query(ge=1, description="Only entries with a smaller seq.")]
PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"description": "A field does not fit, or names a record that there is not."},
    404: {"description": "There is no such record."},
    409: {"description": "A campaign still has banners, or the record changes all the time."},
    412: {"description": "The record has another version than If-Match says."},
    503: {"description": "The catalogue's store cannot be reached."},
}
BANNERS, PRODUCTS = ALL[1], ALL[3]


@router.get("/audit", summary="Who changed what", response_model=AuditPage)
def audit(
    request: Request, limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 100, before: Before = None
) -> AuditPage:
    """Every change, newest first: who, when, by which request, and the record before and after."""
    with answered():
        found = request.app.state.worker.catalogue_store.audit(limit, before)
    items = [AuditEntry.model_validate(entry) for entry in found]
    return AuditPage(items=items, next_before=items[-1].seq if len(items) == limit and items[-1].seq > 1 else None)


@router.get("/banners/{record_id:path}/products", response_model=Page[Product], summary="A banner's products")
def banner_products(request: Request, record_id: RecordId) -> Response:
    """The products that a banner promotes, as they are now. The ETag is the banner's."""
    return _products_answer(Edits(request), record_id)


@router.put(
    "/banners/{record_id:path}/products", response_model=Page[Product], summary="Set products", responses=PROBLEMS
)
def put_banner_products(
    request: Request,
    record_id: RecordId,
    body: Annotated[BannerProducts, Body(examples=[["p0001", "p0002"]])],
    if_match: IfMatch = None,
) -> Response:
    """Replace a banner's list. An empty one leaves a banner of the warehouse with the products known there."""
    Edits(request).patch(BANNERS, record_id, {"product_ids": body}, if_match)
    return _products_answer(Edits(request), record_id)


def _products_answer(edits: Edits, banner_id: str) -> Response:
    banner = edits.records("banners").get(banner_id)
    if not isinstance(banner, Banner):
        raise missing(BANNERS, banner_id)
    known = edits.records("products")
    items = [known.get(key) or Product(product_id=key) for key in banner.product_ids]
    return _answer(Page[Any](items=items, total=len(items), next_cursor=None), edits.version(BANNERS, banner_id))


def _answer(body: BaseModel, version: int | None = None, status: int = 200) -> Response:
    """As JSON as it stands: the warehouse's records were never asked to fit what new ones must."""
    headers = {} if version is None else {"ETag": f'"{version}"'}
    text = body.model_dump_json(warnings=False)
    return Response(text, status, headers, "application/json")


def _add(kind: Kind) -> None:
    """The routes of one kind. What is annotated here differs by kind, and shows so in the OpenAPI schema."""
    page: Any = Page[kind.model]  # type: ignore[name-defined]
    bulk: Any = Bulk[kind.model]  # type: ignore[name-defined]
    body = Annotated[kind.model, Body(examples=[kind.example])]  # type: ignore[name-defined]
    many = {"upsert": [kind.example], "delete": [f"old-{kind.word}"]}
    merge_patch = Annotated[dict[str, Any], Body(examples=[kind.patch], media_type="application/merge-patch+json")]

    def list_records(request: Request, asked: Asked) -> Response:
        records = Edits(request).records(kind.name)
        items, total, rest = page_of(records, asked)
        return _answer(Page[Any](items=items, total=total, next_cursor=cursor_of(rest)))

    def get_record(request: Request, record_id: RecordId) -> Response:
        edits = Edits(request)
        if (record := edits.records(kind.name).get(record_id)) is None:
            raise missing(kind, record_id)
        return _answer(record, edits.version(kind, record_id))

    def put_record(request: Request, record_id: RecordId, body: Record, if_match: IfMatch = None) -> Response:
        version, is_new = Edits(request).put(kind, record_id, body, if_match)
        return _answer(body, version, 201 if is_new else 200)

    def patch_record(request: Request, record_id: RecordId, body: dict[str, Any], if_match: IfMatch = None) -> Response:
        record, version = Edits(request).patch(kind, record_id, body, if_match)
        return _answer(record, version)

    def delete_record(
        request: Request, record_id: RecordId, if_match: IfMatch = None, cascade: Cascade = False
    ) -> Response:
        Edits(request).delete(kind, record_id, if_match, cascade)
        return Response(status_code=204)

    def change_records(request: Request, body: Bulk[Any], cascade: Cascade = False) -> Changed:
        version = Edits(request).bulk(kind, body, cascade)
        return Changed(version=version, upserted=len(body.upsert), deleted=len(body.delete))

    list_records.__annotations__["asked"] = Annotated[kind.asked, Query()]
    put_record.__annotations__["body"] = body
    patch_record.__annotations__["body"] = merge_patch
    change_records.__annotations__["body"] = Annotated[bulk, Body(examples=[many])]
    word, one = kind.word, f"/{kind.name}/{{record_id:path}}"
    _route("GET", f"/{kind.name}", list_records, page, f"List {kind.name}")
    _route("POST", f"/{kind.name}/bulk", change_records, Changed, f"Change many {kind.name}, all or nothing")
    _route("GET", one, get_record, kind.model, f"One {word}")
    _route("PUT", one, put_record, kind.model, f"Create or replace a {word}")
    _route("PATCH", one, patch_record, kind.model, f"Change fields of a {word} (RFC 7396)")
    _route("DELETE", one, delete_record, None, f"Delete a {word}", 204)


def _route(
    method: str, path: str, handler: Callable[..., Any], answer: Any, summary: str, status: int | None = None
) -> None:
    name = f"{handler.__name__}_{path.split('/')[1]}"
    codes = {201: {"model": answer, "description": "Created."}} | PROBLEMS if method == "PUT" else PROBLEMS
    router.add_api_route(
        path,
        handler,
        methods=[method],
        response_model=answer,
        name=name,
        operation_id=name,
        summary=summary,
        status_code=status,
        responses=codes,
    )


for _kind in ALL:
    _add(_kind)
