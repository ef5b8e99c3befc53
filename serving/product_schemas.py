"""What the routes for products are asked, and what they answer."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from marquee import contract
from serving.schemas import Id, OptionalId

MOST_LISTED: Final = 50
MOST_EXCLUDED: Final = 500
ProductFallback = Literal["no_product_model", "new_product", "cold_visitor", "session_unavailable", "nothing_available"]
Wanted = Annotated[int, Field(ge=1, le=MOST_LISTED, description="Products wanted; fewer come back when fewer fit.")]
Category = Annotated[OptionalId, Field(description="Only products of this category.")]


class SimilarAsked(BaseModel):
    """How to list what is like a product."""

    model_config = ConfigDict(extra="forbid")

    visitor_id: OptionalId = Field(
        default=None, description="Cookie-scoped visitor, whose session under way counts too."
    )
    n: Wanted = 10
    category_id: Category = None
    unseen: bool = Field(default=False, description="Leave out the products of the visitor's session.")


class ProductsRequest(BaseModel):
    """Ask which products come next for a visitor, for a page, or for both."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"visitor_id": "v000123", "product_ids": ["p0042"], "n": 2}}
    )

    visitor_id: OptionalId = Field(default=None, description="Cookie-scoped visitor; none for one without a cookie.")
    product_ids: tuple[Id, ...] = Field(
        default=(),
        max_length=contract.SESSION_PRODUCTS,
        description="Products that the page is about, newest last; they count as newer than the session's.",
    )
    n: Wanted = 10
    exclude: tuple[Id, ...] = Field(
        default=(), max_length=MOST_EXCLUDED, description="Products not to list, such as those in the cart."
    )
    category_id: Category = None


class ListedProduct(BaseModel):
    """One product of a list, best first."""

    product_id: str
    title: str | None
    price: float | None
    category_id: str | None
    score: float = Field(description="Log-odds of being taken next; of being taken at all in a list of popular ones.")
    reasons: list[str] = Field(description="What adds how much to the score, most first.")


class ProductList(BaseModel):
    """Products, best first; empty, never an error, when none can be listed."""

    products: list[ListedProduct]
    based_on: list[str] = Field(description="Products that the list was made from, newest first.")
    bundle: str = Field(description="Tag of the bundle that answered.")
    fallback: ProductFallback | None = Field(description="Why the list is not what was asked for; null when it is.")
