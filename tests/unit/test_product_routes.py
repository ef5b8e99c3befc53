"""The routes for products on a bare application: what is listed, why, and what never is."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from features.products import Products
from ingestion.catalogue_store import Managed
from marquee.catalogue import Product
from serving.http.access import needed_scope
from serving.http.problems import MEDIA_TYPE, Problem, faults, invalid
from serving.http.products import router
from serving.live_catalogue import merge
from serving.product_schemas import ProductsRequest, SimilarAsked
from serving.products import ProductLists
from training.catalogue import Catalogue
from training.product_model import Learnt, ProductModel

RECOMMEND = "/v1/products/recommend"
IDS = ["boots", "laces", "tent", "stove", "a/b"]
VECTORS = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9], [0.7, 0.7]], np.float32)
MODEL = ProductModel(
    np.array(IDS),
    VECTORS,
    np.array([50, 10, 40, 5, 20]),
    Learnt("als", 100, 5.0, 0.02, 0.1, 0.5, 2.0, -5.0, 10.0, -6.0),
)
KNOWN = Products(
    ids=frozenset({*IDS, "new boots"}),
    titles={"boots": "Winter boots"},
    categories={"boots": "shoes", "laces": "shoes", "tent": "camp", "stove": "camp", "new boots": "shoes"},
    prices={"laces": 3.0},
)
BANNER: dict[str, Any] = {"banner_id": "b", "campaign_id": "c", "title": "t", "starts_at": "2026-01-01"}
BANNER |= {"ends_at": "2026-02-01", "status": "active", "placements": "[]"}
BANNER |= {"product_count": 1, "mean_price": 5.0, "category_mix": "{}"}
SESSIONS: dict[str, list[str]] = {"camper": ["stove", "tent"], "newcomer": ["new boots"], "walker": ["boots"]}


def managed(*products: Product, deleted: tuple[str, ...] = ()) -> Managed:
    none = Managed()
    records = {**none.records, "products": {product.product_id: product for product in products}}
    return Managed(records=records, deleted={**none.deleted, "products": dict.fromkeys(deleted)})


@dataclass
class Worker:
    """What the routes ask of a worker, and what they are told of sessions and the catalogue."""

    model: ProductModel | None = MODEL
    managed: Managed = field(default_factory=Managed)
    why: str = "no_session"

    def __post_init__(self) -> None:
        self.products = ProductLists(lambda: self.standing, self.session)  # type: ignore[arg-type,return-value]
        self.follow()

    def follow(self) -> None:
        live = merge(Catalogue.from_rows([BANNER]), self.managed, KNOWN)
        trained, board = SimpleNamespace(products=self.model), SimpleNamespace(live=live)
        self.standing = SimpleNamespace(tag="banner_bundle:1", trained=trained, board=board)

    def session(self, visitor_id: str) -> Any:
        last = SESSIONS.get(visitor_id) if self.why == "no_session" else None
        return ({"last_products": last}, None) if last else (None, self.why)


def client(worker: Worker) -> TestClient:
    app = FastAPI()
    app.include_router(router)
    app.state.worker = worker

    @app.exception_handler(Problem)
    def told(_: Request, problem: Problem) -> Response:
        return Response(problem.body("r"), problem.status, problem.headers, MEDIA_TYPE)

    @app.exception_handler(RequestValidationError)
    def unfit(request: Request, error: RequestValidationError) -> Response:
        return told(request, invalid(faults(error.errors())))

    return TestClient(app)


def similar(worker: Worker, product_id: str, **asked: Any) -> Any:
    answer = client(worker).get(f"/v1/products/{product_id}/similar", params=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


def recommend(worker: Worker, **body: Any) -> Any:
    answer = client(worker).post(RECOMMEND, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(told: Any) -> list[str]:
    return [product["product_id"] for product in told["products"]]


def test_nobody_in_particular_gets_what_is_alike() -> None:
    told = similar(Worker(), "laces")
    assert (told["fallback"], told["based_on"], told["bundle"]) == (None, ["laces"], "banner_bundle:1")
    assert ids(told) == ["boots", "a/b", "tent", "stove"]
    first = told["products"][0]
    assert (first["title"], first["price"], first["category_id"]) == ("Winter boots", None, "shoes")
    assert first["reasons"][0].startswith("by similarity to laces +1.")
    assert "popular: 50 of 100 visitors took it +0.1" in first["reasons"][1]
    assert len(first["reasons"]) == 2


def test_a_visitor_gets_what_is_alike_and_to_their_taste() -> None:
    told = similar(Worker(), "laces", visitor_id="camper")
    assert (told["fallback"], told["based_on"]) == (None, ["laces", "stove", "tent"])
    assert ids(told) != ids(similar(Worker(), "laces"))
    assert ids(told)[0] == "tent"
    assert any(reason.startswith("by taste, of 2 products before +") for reason in told["products"][0]["reasons"])
    assert not {"stove", "tent"} & {*ids(similar(Worker(), "laces", visitor_id="camper", unseen=True))}


def test_reasons_make_up_the_score() -> None:
    products = similar(Worker(), "laces", visitor_id="camper")["products"]
    sums = [sum(float(reason.rpartition(" ")[2]) for reason in product["reasons"]) for product in products]
    bases = [product["score"] - total for product, total in zip(products, sums, strict=True)]
    assert bases == pytest.approx([bases[0]] * len(bases), abs=0.03)


def test_a_visitor_without_another_product_is_cold_and_a_store_that_is_down_is_told_of() -> None:
    for visitor, why, fallback in (
        *(("nobody", "no_session", "cold_visitor"), ("walker", "no_session", "cold_visitor")),
        ("camper", "session_unavailable", "session_unavailable"),
    ):
        told = similar(Worker(why=why), "boots", visitor_id=visitor)
        assert (told["fallback"], ids(told)) == (fallback, ids(similar(Worker(), "boots")))
    assert recommend(Worker(why="session_unavailable"), visitor_id="camper")["fallback"] == "session_unavailable"


def test_recommended_is_what_follows_the_page_and_the_session_without_both() -> None:
    told = recommend(Worker(), visitor_id="camper", product_ids=["tent", "laces"], n=9)
    assert (told["fallback"], told["based_on"]) == (None, ["laces", "tent", "stove"])
    assert ids(told) == ["a/b", "boots"]
    assert ids(recommend(Worker(), product_ids=["laces"], n=1)) == ["boots"]
    assert ids(recommend(Worker(), product_ids=["laces"], exclude=["boots", "unheard of"], n=1)) == ["a/b"]


def test_a_stranger_gets_what_is_popular() -> None:
    told = recommend(Worker())
    assert (told["fallback"], told["based_on"]) == ("cold_visitor", [])
    assert ids(told) == ["boots", "tent", "a/b", "laces", "stove"]
    assert told["products"][0]["score"] == pytest.approx(-0.39, abs=0.01)  # Wilson's 40.4 % of 50 in 100
    assert ids(recommend(Worker(), category_id="camp")) == ["tent", "stove"]
    assert recommend(Worker(), category_id="unheard of") == told | {"products": [], "fallback": "nothing_available"}


def test_a_product_without_a_vector_gets_its_categorys_popular_ones() -> None:
    told = similar(Worker(), "new boots", visitor_id="camper")
    assert (told["fallback"], told["based_on"], ids(told)) == ("new_product", [], ["boots", "laces"])
    own = Worker(managed=managed(Product(product_id="brought in", category_id="camp")))
    assert ids(similar(own, "brought in")) == ["tent", "stove"]
    assert ids(similar(own, "brought in", category_id="shoes")) == ["boots", "laces"]


def test_a_product_that_there_is_not_is_named() -> None:
    for worker, gone in ((Worker(), "nothing"), (Worker(managed=managed(deleted=("boots",))), "boots")):
        answer = client(worker).get(f"/v1/products/{gone}/similar")
        assert (answer.status_code, answer.json()["detail"]) == (404, f"there is no product {gone}")


def test_a_bundle_without_a_product_model_says_so() -> None:
    worker = Worker(model=None)
    for told in (similar(worker, "boots"), recommend(worker, visitor_id="camper")):
        assert (told["products"], told["fallback"]) == ([], "no_product_model")
    assert client(worker).get("/v1/products/nothing/similar").status_code == 404


def test_what_marketers_take_away_or_move_is_followed() -> None:
    worker = Worker()
    assert ids(similar(worker, "laces", n=1)) == ["boots"]
    worker.managed = managed(
        Product(product_id="boots", is_available=False), Product(product_id="tent", category_id="shoes", price=9)
    )
    worker.follow()
    assert "boots" not in ids(similar(worker, "laces"))
    assert ids(similar(worker, "boots", category_id="shoes")) == ["laces", "tent"]
    assert similar(worker, "boots", category_id="shoes")["products"][1]["price"] == 9


def test_an_id_may_hold_a_slash() -> None:
    assert similar(Worker(), "a/b")["based_on"] == ["a/b"]
    assert similar(Worker(), "a%2Fb")["based_on"] == ["a/b"]


@pytest.mark.parametrize(
    ("asked", "named"),
    [({"n": 0}, "n"), ({"n": 51}, "n"), ({"visitor": "v"}, "visitor"), ({"unseen": "perhaps"}, "unseen")],
)
def test_what_does_not_fit_is_named(asked: dict[str, Any], named: str) -> None:
    answers = [client(Worker()).get("/v1/products/boots/similar", params=asked)]
    answers += [client(Worker()).post(RECOMMEND, json=asked)]
    for answer in answers:
        assert answer.status_code == 400, answer.text
        assert named in [error["field"] for error in answer.json()["errors"]]


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", RECOMMEND, "recommend"),
        ("GET", "/v1/products/p/similar", "recommend"),
        ("GET", "/v1/products/p", "read"),
        ("PUT", "/v1/products/p/similar", "manage"),
        ("GET", "/v1/banners/similar", "read"),
    ],
)
def test_both_need_the_scope_recommend_and_nothing_else_does(method: str, path: str, scope: str) -> None:
    assert needed_scope(method, path) == scope


PRODUCTS = st.sampled_from([*IDS, "new boots"])


@given(
    looked=PRODUCTS,
    gone=st.sets(PRODUCTS),
    deleted=st.sets(PRODUCTS),
    visitor=st.sampled_from([None, *SESSIONS]),
    page=st.lists(PRODUCTS, max_size=4),
    n=st.integers(1, 6),
)
def test_never_itself_never_unavailable_each_once_best_first(
    looked: str, gone: set[str], deleted: set[str], visitor: str | None, page: list[str], n: int
) -> None:
    away = [Product(product_id=one, is_available=False) for one in sorted(gone - deleted)]
    worker = Worker(managed=managed(*away, deleted=tuple(sorted(deleted))))
    seen = SESSIONS.get(visitor or "", [])
    alike = worker.products.similar(looked, SimilarAsked(visitor_id=visitor, n=n, unseen=True))
    assert (alike is None) == (looked in deleted)
    following = worker.products.recommend(ProductsRequest(visitor_id=visitor, product_ids=tuple(page), n=n))
    for told, never in ((alike, {looked, *seen}), (following, {*page, *seen})):
        if told is None:
            continue
        found = [product.product_id for product in told.products]
        assert not {*found} & (gone | deleted | never)
        assert len({*found}) == len(found) <= n
        scores = [product.score for product in told.products]
        assert scores == sorted(scores, reverse=True)
        assert (told.fallback == "nothing_available") == (not found)
