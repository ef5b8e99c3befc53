"""The catalogue's routes on a bare application with a real store: what marketers may send, and what comes back."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from features.products import Products
from ingestion.catalogue_store import CatalogueStoreError, Managed, SqliteCatalogue
from marquee.catalogue import KINDS
from marquee.settings import Settings
from serving.http.catalogue import router
from serving.http.catalogue_bodies import ALL
from serving.http.catalogue_edits import merge_patch
from serving.http.problems import MEDIA_TYPE, Problem, faults, invalid
from serving.live_catalogue import merge
from training.catalogue import Catalogue

ROWS: list[dict[str, Any]] = [
    {
        "banner_id": f"w{n}",
        "campaign_id": f"wc{n // 2}",
        "title": "t" * 600,
        "starts_at": datetime(2026, 1, 1),
        "ends_at": datetime(2026, 2, 1),
        "status": "active",
        "placements": '["hero"]',
        "product_count": 2,
        "mean_price": 5.0,
        "category_mix": "{}",
    }
    for n in range(4)
]
PRODUCTS = Products(
    ids=frozenset({"p1", "p2"}), categories={"p1": "c1"}, prices={"p1": 3.0}, of_banner={"w0": ("p1", "p2")}
)
CAMPAIGN, BANNER = ALL[0].example, ALL[1].example | {"placements": ["hero"]}


class Worker:
    """What the routes ask of a worker; ``live`` is as old as the last call of ``follow``."""

    def __init__(self, home: Path) -> None:
        self.catalogue_store = SqliteCatalogue(Settings(home=home))
        self._live = merge(Catalogue.from_rows(ROWS), Managed(), PRODUCTS)

    def live(self) -> Any:
        return self._live

    def follow(self) -> None:
        self._live = merge(Catalogue.from_rows(ROWS), self.catalogue_store.read(), PRODUCTS)


def application(worker: Any) -> FastAPI:
    app = FastAPI()
    app.include_router(router)
    app.state.worker = worker

    @app.exception_handler(Problem)
    def told(_: Request, problem: Problem) -> Response:
        return Response(problem.body("r"), problem.status, problem.headers, MEDIA_TYPE)

    @app.exception_handler(RequestValidationError)
    def unfit(request: Request, error: RequestValidationError) -> Response:
        return told(request, invalid(faults(error.errors())))  # type: ignore[no-any-return]

    @app.middleware("http")
    async def known(request: Request, call_next: Any) -> Any:
        if name := request.headers.get("x-name"):
            request.scope.setdefault("state", {}).update(principal=SimpleNamespace(name=name), request_id="req-7")
        return await call_next(request)

    return app


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(tmp_path / "home")
    yield worker
    worker.catalogue_store.close()


@pytest.fixture
def client(worker: Worker) -> TestClient:
    return TestClient(application(worker))


def fields(answer: httpx.Response, status: int) -> list[str]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == MEDIA_TYPE
    return [error["field"] for error in answer.json().get("errors", [])]


def test_a_record_is_created_replaced_changed_and_deleted(client: TestClient) -> None:
    created = client.put("/campaigns/spring-sale", json=CAMPAIGN)
    assert (created.status_code, created.headers["etag"]) == (201, '"1"')
    assert created.json()["time_zone"] == "Europe/Prague"
    assert client.get("/campaigns/spring-sale").json() == created.json()
    assert client.put("/campaigns/spring-sale", json=CAMPAIGN | {"title": "x"}).status_code == 200
    patch = {"title": None, "targeting": {"pages": None, "countries": ["CZ"]}, "budget": 9}
    changed = client.patch(
        "/campaigns/spring-sale", json=patch, headers={"Content-Type": "application/merge-patch+json"}
    )
    assert (changed.status_code, changed.headers["etag"]) == (200, '"3"')
    told = changed.json()
    assert (told["title"], told["budget"], told["priority"]) == ("", 9, 10)
    assert told["targeting"] == {"devices": ["mobile"], "segments": [], "pages": [], "countries": ["CZ"]}
    assert client.get("/campaigns/spring-sale").json() == told
    assert client.delete("/campaigns/spring-sale").status_code == 204
    for method in ("GET", "DELETE", "PATCH"):
        answer = client.request(method, "/campaigns/spring-sale", json={} if method == "PATCH" else None)
        assert fields(answer, 404) == []
        assert "there is no campaign 'spring-sale'" in answer.text


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
def test_every_kind_has_all_routes(client: TestClient, kind: Any) -> None:
    client.put("/campaigns/spring-sale", json=CAMPAIGN)
    example = BANNER if kind.name == "banners" else kind.example
    path = f"/{kind.name}/{example[kind.id_field]}"
    assert client.put(path, json=example).status_code == (200 if kind.name == "campaigns" else 201)
    answer = client.get(path)
    assert answer.json() == KINDS[kind.name].model_validate(example).model_dump(mode="json")
    assert client.patch(path, json=kind.patch).status_code == 200
    assert client.get(f"/{kind.name}", params={"limit": 500}).json()["total"] >= 1
    bulk = client.post(f"/{kind.name}/bulk", json={"upsert": [example]})
    assert bulk.json() == {"version": int(client.get(path).headers["etag"].strip('"')), "upserted": 1, "deleted": 0}
    assert fields(client.put(f"/{kind.name}/other", json=example), 400) == [kind.id_field]
    assert fields(client.put(path, json=example | {"colour": "red"}), 400) == ["colour"]
    assert client.delete(path, params={"cascade": True}).status_code == 204
    assert client.get(path).status_code == 404


def test_the_warehouses_records_are_there_and_can_be_changed(client: TestClient, worker: Worker) -> None:
    answer = client.get("/banners/w0")
    assert (answer.headers["etag"], answer.json()["product_ids"]) == ('"0"', ["p1", "p2"])
    assert client.get("/campaigns/wc0").json()["starts_at"] == "2026-01-01T00:00:00Z"
    assert fields(client.patch("/banners/w0", json={"status": "paused"}), 400) == ["title"]
    changed = client.patch("/banners/w0", json={"status": "paused", "title": "T"})
    assert changed.json()["product_ids"] == ["p1", "p2"]
    stored = worker.catalogue_store.read().records["banners"]["w0"]
    assert stored.model_dump()["product_ids"] == (), "left to the warehouse"
    assert client.patch("/products/p1", json={"is_available": False}).json() == {
        **{"product_id": "p1", "title": None, "category_id": "c1", "price": 3.0, "is_available": False}
    }
    assert worker.catalogue_store.read().records["products"]["p1"].model_dump()["price"] is None
    worker.follow()
    assert worker.live().unavailable == {"p1"}
    assert client.get("/banners/w0").json() == changed.json()
    assert client.delete("/banners/w1").status_code == 204
    assert client.delete("/campaigns/wc1", params={"cascade": "true"}).status_code == 204
    assert client.get("/banners").json()["total"] == 1
    assert worker.catalogue_store.read().deleted["banners"]["w1"] is None, "its title is longer than one may be"


def test_etags_guard_a_record(client: TestClient) -> None:
    client.put("/campaigns/spring-sale", json=CAMPAIGN)
    path = "/campaigns/spring-sale"
    for method, body in (("PUT", CAMPAIGN), ("PATCH", {"title": "x"}), ("DELETE", None)):
        for wrong in ('"0"', '"2"', "1", 'W/"1"'):
            answer = client.request(method, path, json=body, headers={"If-Match": wrong})
            assert fields(answer, 412) == ["If-Match"], (method, wrong)
    assert client.patch(path, json={"title": "x"}, headers={"If-Match": '"1"'}).headers["etag"] == '"2"'
    assert client.patch(path, json={"title": "x"}, headers={"If-Match": '"1"'}).status_code == 412
    assert client.put(path, json=CAMPAIGN, headers={"If-Match": '"7", "2"'}).headers["etag"] == '"3"'
    assert client.delete(path, headers={"If-Match": "*"}).status_code == 204
    assert client.put(path, json=CAMPAIGN, headers={"If-Match": "*"}).status_code == 412
    assert client.patch("/campaigns/wc0", json={"priority": 1}, headers={"If-Match": '"0"'}).status_code == 200


def test_a_change_between_reading_and_writing_is_not_lost(worker: Worker, client: TestClient) -> None:
    client.put("/campaigns/spring-sale", json=CAMPAIGN)
    store, change = worker.catalogue_store, worker.catalogue_store.change
    hits = []

    def change_after_another(*args: Any) -> int:
        if not hits:
            hits.append(1)
            client.patch("/campaigns/spring-sale", json={"budget": 5})
        return change(*args)

    store.change = change_after_another  # type: ignore[method-assign,assignment]
    told = client.patch("/campaigns/spring-sale", json={"title": "new"}).json()
    assert (told["title"], told["budget"]) == ("new", 5)
    hits.clear()
    etag = client.get("/campaigns/spring-sale").headers["etag"]
    hits.clear()
    answer = client.put("/campaigns/spring-sale", json=CAMPAIGN, headers={"If-Match": etag})
    assert fields(answer, 412) == ["campaign_id"]


def test_a_patch_that_makes_no_record_is_refused(client: TestClient) -> None:
    client.put("/campaigns/spring-sale", json=CAMPAIGN)
    json = {"Content-Type": "application/json"}
    deep = '{"targeting": ' + '{"a": ' * 400 + "1" + "}" * 401
    for body in (
        deep,
        '{"title": "\\ud800"}',
        '{"budget": NaN}',
        '{"campaign_id": "other"}',
        '{"starts_at": null}',
        "[]",
    ):
        answer = client.patch("/campaigns/spring-sale", content=body, headers=json)
        assert answer.status_code == 400, (body[:40], answer.text)
    assert client.get("/campaigns/spring-sale").headers["etag"] == '"1"'


def test_lists_are_filtered_and_paged(client: TestClient) -> None:
    places = [["hero"], ["side"], []]
    client.post("/placements/bulk", json={"upsert": [{"placement_id": "side"}, {"placement_id": "hero"}]})
    client.put("/campaigns/spring-sale", json=CAMPAIGN)
    made = [BANNER | {"banner_id": f"b{n:02d}", "placements": places[n % 3]} for n in range(30)]
    made[0]["status"] = "paused"
    assert client.post("/banners/bulk", json={"upsert": made}).status_code == 200
    query: dict[str, Any] = {"campaign_id": "spring-sale", "limit": 7}
    seen, pages = [], 0
    while True:
        page = client.get("/banners", params=query).json()
        assert page["total"] == 30
        seen += [item["banner_id"] for item in page["items"]]
        pages += 1
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert (seen, pages) == ([f"b{n:02d}" for n in range(30)], 5)
    assert client.get("/banners", params={"placement": "side"}).json()["total"] == 20
    assert client.get("/banners", params={"placement": "hero"}).json()["total"] == 24
    assert client.get("/banners", params={"status": "paused"}).json()["items"][0]["banner_id"] == "b00"
    assert client.get("/campaigns", params={"status": "active"}).json()["total"] == 3
    client.patch("/products/p2", json={"is_available": False})
    assert [p["product_id"] for p in client.get("/products?is_available=false").json()["items"]] == ["p2"]
    for query, field in (
        ({"limit": 501}, "limit"),
        ({"limit": 0}, "limit"),
        ({"cursor": "???"}, "cursor"),
        ({"status": "on"}, "status"),
        ({"colour": "red"}, "colour"),
    ):
        assert fields(client.get("/banners", params=query), 400) == [field]


def test_a_bulk_change_is_made_whole_or_not_at_all(client: TestClient, worker: Worker) -> None:
    good = {"upsert": [CAMPAIGN, CAMPAIGN | {"campaign_id": "c2"}], "delete": ["wc1"]}
    assert fields(client.post("/campaigns/bulk", json=good), 409) == ["delete[0]"]
    short = {"upsert": [CAMPAIGN, CAMPAIGN | {"ends_at": "2020-01-01T00:00:00"}]}
    assert fields(client.post("/campaigns/bulk", json=short), 400) == ["upsert[1].ends_at"]
    assert fields(client.post("/campaigns/bulk", json={"upsert": [CAMPAIGN, CAMPAIGN]}), 400) == [
        "upsert[1].campaign_id"
    ]
    assert fields(client.post("/campaigns/bulk", json={"delete": ["wc0", "no"]}), 400) == ["delete[1]"]
    assert client.post("/campaigns/bulk", json={}).status_code == 400
    unknown = {"upsert": [BANNER | {"campaign_id": "wc0"}, BANNER | {"banner_id": "b2", "placements": ["hero", "no"]}]}
    answer = client.post("/banners/bulk", json=unknown)
    assert fields(answer, 400) == ["upsert[1].campaign_id", "upsert[1].placements[1]"]
    assert worker.catalogue_store.version() == 0
    assert client.post("/campaigns/bulk?cascade=true", json=good).json() == {"version": 1, "upserted": 2, "deleted": 1}
    assert client.get("/banners").json()["total"] == 2
    many = [{"product_id": f"p{n}", "is_available": False} for n in range(1_000)]
    assert client.post("/products/bulk", json={"upsert": many}).json()["upserted"] == 1_000
    assert client.post("/products/bulk", json={"upsert": many, "delete": ["p1"]}).status_code == 400


def test_a_campaign_in_use_is_kept(client: TestClient) -> None:
    answer = client.delete("/campaigns/wc0")
    assert fields(answer, 409) == ["campaign_id"]
    assert "still has banners: w0, w1; delete them too, or cascade" in answer.json()["detail"]


def test_a_banners_products(client: TestClient) -> None:
    client.put("/campaigns/spring-sale", json=CAMPAIGN)
    client.put("/banners/a/b", json=BANNER | {"banner_id": "a/b"})
    assert client.get("/banners/w0/products").json()["total"] == 2
    put = client.put("/banners/a%2Fb/products", json=["p1", "p9"], headers={"If-Match": '"2"'})
    assert (put.status_code, put.headers["etag"]) == (200, '"3"')
    assert [(item["product_id"], item["price"]) for item in put.json()["items"]] == [("p1", 3.0), ("p9", None)]
    assert client.get("/banners/a/b/products").json() == put.json()
    assert client.get("/banners/a/b").json()["product_ids"] == ["p1", "p9"]
    assert fields(client.put("/banners/a/b/products", json=["x", ""]), 400) == ["[1]"]
    assert client.put("/banners/a/b/products", json=["x"] * 1_001).status_code == 400
    assert client.get("/banners/no/products").status_code == 404
    assert client.put("/banners/no/products", json=[]).status_code == 404


def test_the_audit_says_who(client: TestClient) -> None:
    client.put("/campaigns/spring-sale", json=CAMPAIGN, headers={"x-name": "ann"})
    client.patch("/campaigns/spring-sale", json={"budget": 3}, headers={"X-Request-ID": "mine"})
    client.delete("/campaigns/spring-sale")
    page = client.get("/audit", params={"limit": 2}).json()
    assert [(e["by"], e["request_id"]) for e in page["items"]][1] == ("local", "mine")
    assert page["items"][0]["after"] is None
    assert page["items"][1]["before"]["budget"] is None
    rest = client.get("/audit", params={"limit": 2, "before": page["next_before"]}).json()
    assert [(e["by"], e["request_id"], e["kind"], e["id"]) for e in rest["items"]] == [
        ("ann", "req-7", "campaigns", "spring-sale")
    ]
    assert rest["next_before"] is None


def test_a_store_that_is_unwell_is_told_of(client: TestClient, worker: Worker) -> None:
    def fail() -> int:
        raise CatalogueStoreError("valkey: no route")

    worker.catalogue_store.version = fail  # type: ignore[method-assign]
    answer = client.get("/campaigns")
    assert fields(answer, 503) == []
    assert answer.headers["retry-after"] == "1"


def test_the_schema_shows_each_kind_with_an_example(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    for kind in ALL:
        put = schema["paths"][f"/{kind.name}/{{record_id}}"]["put"]
        body = put["requestBody"]["content"]["application/json"]["schema"]
        assert body["$ref"].endswith(f"/{kind.model.__name__}")
        assert body["examples"] == [kind.example]
        KINDS[kind.name].model_validate(kind.example)
        bulk = schema["paths"][f"/{kind.name}/bulk"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert kind.model.__name__ in bulk["$ref"]
        patch = schema["paths"][f"/{kind.name}/{{record_id}}"]["patch"]["requestBody"]["content"]
        assert patch["application/merge-patch+json"]["schema"]["examples"] == [kind.patch]
    ids = [op["operationId"] for path in schema["paths"].values() for op in path.values()]
    assert len(ids) == len(set(ids)) == 27
    assert "/banners/{record_id}/products" in schema["paths"]


leaves = st.none() | st.integers(0, 3) | st.text("ab", max_size=2)
trees = st.recursive(leaves, lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=8)


@given(trees, trees)
def test_a_merge_patch_is_what_rfc_7396_says(target: Any, patch: Any) -> None:
    merged = merge_patch(target, patch)
    if not isinstance(patch, dict):
        assert merged == patch
        return
    before = target if isinstance(target, dict) else {}
    for name in {*before, *patch}:
        if name not in patch:
            assert merged[name] == before[name]
        elif patch[name] is None:
            assert name not in merged
        else:
            assert merged[name] == merge_patch(before.get(name), patch[name])
