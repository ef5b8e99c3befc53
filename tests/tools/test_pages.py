"""The page model of a trained bundle, and its answers from the running service."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from marquee.errors import BundleError
from marquee.settings import Settings
from serving.client import Client
from serving.http.access import needed_scope
from training import registry
from training.bundle import PAGES, Bundle, bundle_files, content_hash
from training.pages.network_page import write_network
from training.pipeline import require_latest_bundle
from training.report import summary_lines

pytestmark = pytest.mark.tools


def test_a_trained_bundle_has_a_page_model_and_its_tag_covers_it(installation: Settings, tmp_path: Path) -> None:
    tag = require_latest_bundle(installation)
    folder = registry.bundle_folder(installation, tag)
    assert bundle_files(folder)[-1] == PAGES
    bundle = Bundle.load(folder)
    assert bundle.pages is not None
    assert bundle.manifest["pages"] == bundle.pages.described() == bundle.report["pages"]["model"]
    assert bundle.with_catalogue(bundle.catalogue).pages is bundle.pages
    assert any("page policy" in line and "later sessions" in line for line in summary_lines(bundle.report))
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert content_hash(copy) == tag.partition(":")[2]
    with np.load(copy / PAGES) as arrays:
        changed = dict(arrays) | {"values": arrays["values"] + 1}
    np.savez(copy / PAGES, **changed)
    assert content_hash(copy) != tag.partition(":")[2]


def test_a_bundle_without_one_loads_and_one_whose_file_is_gone_does_not(installation: Settings, tmp_path: Path) -> None:
    folder = registry.bundle_folder(installation, require_latest_bundle(installation))
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / PAGES).unlink()
    with pytest.raises(BundleError, match=r"pages\.npz: cannot be read"):
        Bundle.load(copy)
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    for told in ({**manifest, "pages": None}, {name: one for name, one in manifest.items() if name != "pages"}):
        (copy / "manifest.json").write_text(json.dumps(told), encoding="utf-8")
        assert Bundle.load(copy).pages is None
    assert PAGES not in bundle_files(copy)


def test_the_network_of_a_trained_bundle_is_drawn(installation: Settings, tmp_path: Path) -> None:
    tag = require_latest_bundle(installation)
    model = registry.load_bundle(installation, tag).pages
    assert model is not None
    text = write_network(Settings(home=tmp_path), tag, model).read_text(encoding="utf-8")
    assert text.count("<circle") == 40
    assert 'class="advice"' in text


def test_the_service_answers_as_the_bundle_does(served: Any) -> None:
    tag = registry.require_champion(served.settings)
    model = registry.load_bundle(served.settings, tag).pages
    assert model is not None
    with Client(str(served.client.base_url), timeout=5) as client:
        told = client.next_pages(["/", "/cart"], n=3)
    assert (told.bundle, told.current) == (tag, "/cart")
    assert [one.page for one in told.next] == [page for page, _ in model.next_pages(["/", "/cart"], 3)]
    best = model.recommend("/cart", 1)
    assert (told.recommended.page if told.recommended else None) == (best[0].page if best else None)
    policy = served.client.get("/v1/pages/policy", params={"limit": 5}).json()
    assert [row["page"] for row in policy["items"]] == [state.page for state in model.policy(5)]
    assert policy["next_cursor"] == 5
    graph = served.client.get("/v1/pages/graph", params={"limit": 5, "cursor": 5}).json()
    edges = model.edges(10)[5:]
    assert [edge["count"] for edge in graph["edges"]] == [edge.count for edge in edges]
    clusters = served.client.get("/v1/pages/clusters").json()["items"]
    assert sum(one["visit_count"] for one in clusters) == model.graph.visits.sum()
    answer = served.client.get("/v1/pages/graph", params={"page": "/nowhere"})
    assert (answer.status_code, answer.json()["detail"]) == (404, "there is no page /nowhere")


def test_the_document_says_how_pages_are_asked_for(served: Any) -> None:
    paths = served.client.get("/v1/openapi.json").json()["paths"]
    named = {"next": "post", "graph": "get", "clusters": "get", "policy": "get"}
    assert {path for path in paths if path.startswith("/v1/pages")} == {f"/v1/pages/{name}" for name in named}
    for name, method in named.items():
        operation = paths[f"/v1/pages/{name}"][method]
        assert f"Needs the scope `{needed_scope(method.upper(), f'/v1/pages/{name}')}`" in operation["description"]
        assert operation["responses"]["200"]["content"]["application/json"]["example"]["bundle"]
