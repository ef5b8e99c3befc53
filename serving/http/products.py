"""Products that are alike, and products that come next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Body, Path, Query, Request

from marquee import contract
from serving.http.problems import Problem
from serving.product_schemas import ProductList, ProductsRequest, SimilarAsked

if TYPE_CHECKING:  # Feast and XGBoost come with it, and BentoML's parent process needs neither
    from serving.products import ProductLists


router = APIRouter(prefix="/v1/products", tags=["products"])
_EXAMPLE: Final = {
    "products": [
        {
            "product_id": "p0107",
            "title": "Winter boots",
            "price": 89.0,
            "category_id": "boots",
            "score": -2.31,
            "reasons": [
                "by similarity to p0042 +2.10",
                "by taste, of 3 products before +0.85",
                "popular: 41 of 2,385 visitors took it +0.31",
            ],
        }
    ],
    "based_on": ["p0042", "p0311", "p0007", "p0094"],
    "bundle": "banner_bundle:0123",
    "fallback": None,
}
_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {"application/json": {"example": _EXAMPLE}}}}


# Not ``async``: they read the session store and go over all products, which a thread may and the event loop may not.
@router.post("/recommend", summary="Recommend products", responses=_ANSWERS)
def recommend(
    request: Request,
    body: Annotated[
        ProductsRequest,
        Body(
            openapi_examples={
                "visitor": {"value": {"visitor_id": "v000123", "n": 4}},
                "page": {"value": {"product_ids": ["p0311", "p0042"], "n": 4, "exclude": ["p0007"]}},
            }
        ),
    ],
) -> ProductList:
    """Which products come next after those of the page and of the visitor's session, none of them among the answer.

    Nothing is logged by this.
    """
    return _lists(request).recommend(body)


@router.get("/{product_id:path}/similar", summary="Similar products", responses=_ANSWERS)
def similar(
    request: Request,
    product_id: Annotated[
        str, Path(min_length=1, max_length=contract.LONGEST_ID, examples=["p0042"], description="What is looked at.")
    ],
    asked: Annotated[SimilarAsked, Query()],
) -> ProductList:
    """What is like a product and, with `visitor_id`, likely to please the visitor; never the product itself."""
    found = _lists(request).similar(product_id, asked)
    if found is None:
        raise Problem(404, f"there is no product {product_id}")
    return found


def _lists(request: Request) -> ProductLists:
    lists: ProductLists = request.app.state.worker.products
    return lists
