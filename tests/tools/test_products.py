"""The product model of a trained bundle, what it is worth on later sessions, and its lists from the running service."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ingestion.simulator import Simulator
from marquee.errors import BundleError
from marquee.settings import Settings
from training import registry
from training.bundle import PRODUCTS, Bundle, bundle_files, content_hash
from training.interactions import Interactions, from_events
from training.pipeline import require_latest_bundle
from training.product_fitting import fit_product_model, frequent, quality, questions
from training.report import summary_lines

pytestmark = pytest.mark.tools
RECOMMEND = "/v1/products/recommend"
KINDS = ["product_view", "favourite", "cart", "order"]


def simulated(events: int, seed: int) -> Interactions:
    """What the simulator's visitors do with products."""
    tables = [batch.records for batch in Simulator(seed=seed, events=events).read() if batch.table == "events"]
    columns: list[list[Any]] = [[], [], []]
    for table in tables:
        table = table.filter(pc.is_in(table["kind"], pa.array(KINDS)))
        for column, name in zip(columns, ("visitor_id", "product_id", "occurred_at"), strict=True):
            column.append(table[name].to_numpy(zero_copy_only=False))
    visitors, products, moments = (np.concatenate(column) for column in columns)
    return from_events(visitors, products, moments.astype("datetime64[us]").astype(np.int64) / 1e6)


def test_lists_are_better_than_similarity_and_than_what_is_popular() -> None:
    events = simulated(60_000, seed=11)
    moment = float(np.quantile(events.times, 0.75))
    window = frequent(events, moment)
    told = quality(fit_product_model(window, 7), _later(events, window, moment))
    assert told["questions"] > 200
    assert told["ndcg"]["blend"] >= max(told["ndcg"]["similarity"], told["ndcg"]["popular"]), told


def _later(events: Interactions, window: Interactions, moment: float) -> Any:
    """Questions about later sessions in the window's products."""
    later = events.times >= moment
    known = np.isin(events.item_ids[events.items], window.item_ids)
    row = np.repeat(np.arange(events.user_count), events.lengths)
    kept = later & known
    names = events.user_ids[row[kept]], events.item_ids[events.items[kept]]
    return questions(from_events(*names, events.times[kept], item_ids=window.item_ids), moment)


def test_a_trained_bundle_has_a_product_model_and_its_tag_covers_it(installation: Settings, tmp_path: Path) -> None:
    tag = require_latest_bundle(installation)
    folder = registry.bundle_folder(installation, tag)
    assert PRODUCTS in bundle_files(folder)
    bundle = Bundle.load(folder)
    assert bundle.products is not None
    assert bundle.manifest["products"] == bundle.products.described()
    report = bundle.report["products"]
    assert (report["products"], report["model"]) == (len(bundle.products), bundle.manifest["products"])
    assert report["ndcg"]["blend"] > report["ndcg"]["similarity"]
    assert any(line.startswith("products ") and "later sessions" in line for line in summary_lines(bundle.report))
    assert bundle.with_catalogue(bundle.catalogue).products is bundle.products
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert content_hash(copy) == tag.partition(":")[2]
    with np.load(copy / PRODUCTS) as arrays:
        changed = dict(arrays) | {"counts": arrays["counts"] + 1}
    np.savez(copy / PRODUCTS, **changed)
    assert content_hash(copy) != tag.partition(":")[2]


def test_a_bundle_without_one_loads_and_one_whose_file_is_gone_does_not(installation: Settings, tmp_path: Path) -> None:
    folder = registry.bundle_folder(installation, require_latest_bundle(installation))
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / PRODUCTS).unlink()
    with pytest.raises(BundleError, match=r"products\.npz: cannot be read"):
        Bundle.load(copy)
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    del manifest["products"]
    (copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert Bundle.load(copy).products is None
    assert PRODUCTS not in bundle_files(copy)


def test_the_service_lists_products_and_follows_session_and_catalogue_within_a_second(served: Any) -> None:
    client, model = served.client, _model(served.settings)
    looked, *others = [str(model.ids[row]) for row in np.argsort(-model.counts)[:4]]
    plain = client.get(f"/v1/products/{looked}/similar", params={"n": 5})
    assert plain.status_code == 200, plain.text
    told = plain.json()
    assert (told["fallback"], told["based_on"], len(told["products"])) == (None, [looked], 5)
    assert told["bundle"] == registry.champion(served.settings)
    assert all(product["category_id"] and product["reasons"] for product in told["products"])

    assert client.post(RECOMMEND, json={"visitor_id": "shopper"}).json()["fallback"] == "cold_visitor"
    now = served.settings.as_of or datetime.now(UTC)
    views = [
        {"event_id": f"shop-{product}", "kind": "product_view", "product_id": product, "visitor_id": "shopper"}
        | {"occurred_at": now.replace(microsecond=place).isoformat()}
        for place, product in enumerate(others)
    ]
    assert client.post("/v1/events", json=views).status_code == 202
    asked = {"visitor_id": "shopper", "n": 5}
    after = _within(lambda: client.post(RECOMMEND, json=asked).json(), lambda told: not told["fallback"])
    assert after["based_on"] == others[::-1]
    listed = [product["product_id"] for product in after["products"]]
    assert not {*listed} & {*others}
    mine = client.get(f"/v1/products/{looked}/similar", params=asked | {"unseen": True}).json()
    assert mine["based_on"] == [looked, *others[::-1]]

    gone = client.put(f"/v1/products/{listed[0]}", json={"product_id": listed[0], "is_available": False})
    assert gone.status_code in (200, 201), gone.text
    _within(
        lambda: client.post(RECOMMEND, json=asked).json()["products"],
        lambda products: listed[0] not in [product["product_id"] for product in products],
    )


def test_the_service_names_what_it_does_not_know_and_says_how_it_is_asked(served: Any) -> None:
    answer = served.client.get("/v1/products/nothing/similar")
    assert (answer.status_code, answer.json()["detail"]) == (404, "there is no product nothing")
    paths = served.client.get("/v1/openapi.json").json()["paths"]
    for path, method in ((RECOMMEND, "post"), ("/v1/products/{product_id}/similar", "get")):
        operation = paths[path][method]
        assert "Needs the scope `recommend`" in operation["description"]
        assert operation["responses"]["200"]["content"]["application/json"]["example"]["products"]


def _model(settings: Settings) -> Any:
    return registry.load_bundle(settings, registry.require_champion(settings)).products


def _within(ask: Callable[[], Any], is_so: Callable[[Any], bool], seconds: float = 3.0) -> Any:
    """The first answer of which it is so; a busy machine is given longer than the second that is promised."""
    until = time.monotonic() + seconds
    while not is_so(found := ask()):
        assert time.monotonic() < until, found
        time.sleep(0.05)
    return found
