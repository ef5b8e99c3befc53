"""Lists of products: what is like one, and what comes next, by the champion's product model over the live catalogue."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from serving.live_catalogue import KnownProducts, Live
from serving.product_schemas import ListedProduct, ProductFallback, ProductList, ProductsRequest, SimilarAsked
from training.product_model import Bools, Ints, Listed, ProductModel

if TYPE_CHECKING:
    from marquee.catalogue import Product
    from serving.lineup import Standing
    from serving.session_feed import SessionFallback

Session = tuple[dict[str, Any] | None, "SessionFallback"]


class Shelf:
    """A product model over one state of the catalogue."""

    def __init__(self, model: ProductModel, live: Live) -> None:
        self.model, self.live = model, live
        gone = live.unavailable
        self.available: Bools = np.fromiter((product not in gone for product in model.row_of), bool, len(model))

    def allowed(self, category_id: str | None, without: Iterable[str] = ()) -> Bools:
        """[I] what can be had, of a category where one is given, without some."""
        allowed = self.available.copy()
        if category_id is not None:
            codes, known = self._categories
            allowed &= codes == known.get(category_id, -1)
        allowed[self.model.rows(without)] = False
        return allowed

    @cached_property
    def _categories(self) -> tuple[Ints, dict[str | None, int]]:
        """[I] a code for each product's category, and the codes; 0 is for none."""
        by_product = cast(KnownProducts, self.live.products).known.categories
        managed = cast("dict[str, Product]", self.live.managed.records["products"])
        own = {key: product.category_id for key, product in managed.items() if product.category_id is not None}
        known: dict[str | None, int] = {None: 0}
        found = (own.get(product) or by_product.get(product) for product in self.model.row_of)
        return np.fromiter((known.setdefault(one, len(known)) for one in found), np.int64, len(self.model)), known


class ProductLists:
    """Answers for one worker. May be called by several threads at once.

    Args:
        standing: the champion.
        session: a visitor's session under way, or why there is none.
    """

    def __init__(self, standing: Callable[[], Standing], session: Callable[[str], Session]) -> None:
        self._standing, self._session = standing, session
        self._shelf: Shelf | None = None

    def similar(self, product_id: str, asked: SimilarAsked) -> ProductList | None:
        """What is like a product, and likely to please the visitor; None for a product that there is not."""
        tag, live, shelf = self._now()
        if not is_known(product_id, live, shelf):
            return None
        if shelf is None:
            return ProductList(products=[], based_on=[], bundle=tag, fallback="no_product_model")
        seen, fallback = self._seen(asked.visitor_id)
        listed, based_on, own = similar_list(shelf, product_id, seen, asked)
        return _answer(shelf, listed, based_on, tag, own if own == "new_product" else fallback or own)

    def recommend(self, request: ProductsRequest) -> ProductList:
        """What comes next after the page's products and those of the visitor's session."""
        tag, _, shelf = self._now()
        if shelf is None:
            return ProductList(products=[], based_on=[], bundle=tag, fallback="no_product_model")
        seen, fallback = self._seen(request.visitor_id)
        listed, based_on = next_list(shelf, seen, request)
        own: ProductFallback | None = None if len(based_on) else "cold_visitor"
        return _answer(shelf, listed, based_on, tag, fallback or own)

    def _now(self) -> tuple[str, Live, Shelf | None]:
        standing = self._standing()
        model, live = standing.trained.products, standing.board.live
        if model is None:
            return standing.tag, live, None
        shelf = self._shelf
        if shelf is None or shelf.model is not model or shelf.live is not live:
            shelf = self._shelf = Shelf(model, live)
        return standing.tag, live, shelf

    def _seen(self, visitor_id: str | None) -> tuple[list[str], ProductFallback | None]:
        """The session's products, newest first, and whether they could not be asked for."""
        if visitor_id is None:
            return [], None
        session, why = self._session(visitor_id)
        return list(session["last_products"]) if session else [], why if why == "session_unavailable" else None


def is_known(product_id: str, live: Live, shelf: Shelf | None) -> bool:
    """Whether there is such a product: in the catalogue, or learnt from events and not deleted since."""
    if product_id in live.products:
        return True
    is_learnt = shelf is not None and product_id in shelf.model.row_of
    return is_learnt and product_id not in live.managed.deleted["products"]


def similar_list(
    shelf: Shelf, product_id: str, seen: list[str], asked: SimilarAsked
) -> tuple[Listed, Ints, ProductFallback | None]:
    """The list, the rows that it was made from, newest first, and why it is not what was asked for."""
    model = shelf.model
    without = [product_id, *seen] if asked.unseen else [product_id]
    looked = model.row_of.get(product_id)
    if looked is None:
        record = shelf.live.products.get(product_id)
        category_id = asked.category_id or (record.category_id if record else None)
        return model.popular(shelf.allowed(category_id, without), asked.n), model.rows(()), "new_product"
    history = model.rows(product for product in seen if product != product_id)
    listed = model.similar(looked, history, shelf.allowed(asked.category_id, without), asked.n)
    is_cold = asked.visitor_id is not None and not len(history)
    return listed, np.append(looked, history), "cold_visitor" if is_cold else None


def next_list(shelf: Shelf, seen: list[str], request: ProductsRequest) -> tuple[Listed, Ints]:
    """The list and the rows that it was made from, newest first; none where popularity alone decides."""
    before = [*reversed(request.product_ids), *seen]
    history = shelf.model.rows(before)
    allowed = shelf.allowed(request.category_id, [*before, *request.exclude])
    return shelf.model.recommend(history, allowed, request.n), history


def reasons(model: ProductModel, listed: Listed, place: int, based_on: Ints) -> list[str]:
    """What adds how much to a listed product's score, most first; with the base they make up the score."""
    count = int(model.counts[listed.rows[place]])
    visitors = f"popular: {count:,} of {model.learnt.visitors:,} visitors took it"
    parts = [(float(listed.popularity[place]), visitors)]
    if listed.similarity is not None:
        parts.append((float(listed.similarity[place]), f"by similarity to {model.ids[based_on[0]]}"))
    if listed.taste is not None:
        parts.append((float(listed.taste[place]), f"by taste, of {len(based_on) - 1} products before"))
    return [f"{text} {value:+.2f}" for value, text in sorted(parts, reverse=True) if value]


def _answer(shelf: Shelf, listed: Listed, based_on: Ints, tag: str, fallback: ProductFallback | None) -> ProductList:
    model, products = shelf.model, []
    for place, (row, score) in enumerate(zip(listed.rows.tolist(), listed.scores.tolist(), strict=True)):
        product_id = str(model.ids[row])
        record = shelf.live.products.get(product_id)
        products.append(
            ListedProduct(
                product_id=product_id,
                title=record.title if record else None,
                price=record.price if record else None,
                category_id=record.category_id if record else None,
                score=score,
                reasons=reasons(model, listed, place, based_on),
            )
        )
    made_from = [str(model.ids[row]) for row in based_on]
    told = fallback if products else "nothing_available"
    return ProductList(products=products, based_on=made_from, bundle=tag, fallback=told)
