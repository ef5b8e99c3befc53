"""An installation made by hand through the product's own formats, in less than a minute: to serve, not to learn."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import xgboost as xgb

from benchmarks.measure import say
from features.definitions import BANNER_VIEWS, ONLINE_VIEWS, VISITOR_VIEWS, entity_keys, feature_names
from features.encoding import cells
from features.encoding import entity_keys as serialised_keys
from features.matrix import COUNTS, Encoding, category_matrix
from features.online_store import Rows
from features.store import open_store
from ingestion.catalogue_store import Change, open_catalogue_store
from marquee import contract
from marquee.catalogue import Campaign, Cap
from marquee.settings import Settings
from training import registry
from training.bundle import FORMAT, Bundle, feature_service
from training.calibration import Platt
from training.catalogue import Catalogue
from training.ranker import Ranker
from training.towers import Towers, banner_inputs

VISITORS: Final = 100_000
PLACEMENT: Final = "home_hero"
PLACEMENTS: Final = (PLACEMENT, "cart", "category_top")
TREES, DEPTH, CANDIDATES, EXPLORATION = 300, 6, 50, 0.05
CATEGORIES: Final = tuple(f"c{number:02d}" for number in range(30))
CAMPAIGNS: Final = 20
CAP: Final = Cap(most=1_000, hours=24.0)
"""Counted for each showing and never reached: a cap that blocks would leave the service less to do."""
ROWS: Final = 6_000
CHUNK: Final = 20_000
STARTS_AT, ENDS_AT = datetime(2020, 1, 1), datetime(2090, 1, 1)


def build(settings: Settings, banners: int, visitors: int = VISITORS, capped: int = CAMPAIGNS, seed: int = 7) -> str:
    """Make the installation that the settings name; the tag of its champion.

    All ``banners`` may stand in ``PLACEMENT``; features of all ``visitors`` are in the online store, as of midnight.
    The first ``capped`` of the campaigns have a cap.
    """
    rng = np.random.default_rng(seed)
    rows = [_banner(number, rng) for number in range(banners)]
    tag = _promoted(settings, _bundle(rows, rng))
    say(f"  bundle of {TREES} trees over {banners} banners: {tag}")
    _put_campaigns(settings, capped)
    write_features(settings, [row["banner_id"] for row in rows], visitors, rng)
    say(f"  features of {visitors} visitors are online")
    return tag


def visitor_id(number: int) -> str:
    """The name of a visitor that features are known of."""
    return f"v{number:06d}"


def write_features(settings: Settings, banner_ids: list[str], visitors: int, rng: np.random.Generator) -> None:
    """Put features of visitors and banners online, stamped with the last midnight, by the stores' own way in."""
    store = open_store(settings)
    online: Any = store._get_provider().online_store
    midnight = datetime.now(UTC).replace(tzinfo=None, hour=0, minute=0, second=0, microsecond=0)
    everybody = (*VISITOR_VIEWS, contract.VISITOR_SEGMENTS)
    ids = {view.name: [visitor_id(number) for number in range(visitors)] for view in everybody}
    ids |= {view.name: sorted(banner_ids) for view in BANNER_VIEWS}
    for table in ONLINE_VIEWS:
        view, key = store.get_feature_view(table.name), entity_keys(table)[0]
        for start in range(0, len(ids[table.name]), CHUNK):
            part = ids[table.name][start : start + CHUNK]
            columns = {name: _column(name, len(part), midnight, rng) for name in feature_names(table)}
            fields = {name: cells(column, table.column(name).type) for name, column in columns.items()}
            rows = Rows(serialised_keys(pa.array(part), key), [midnight] * len(part), fields)
            online.write_columns(store.config, view, rows, {"lineage": "bench", "done": None, "running": None})
    online.settle(store.config)
    moment = [midnight.isoformat(), datetime.now(UTC).replace(tzinfo=None).isoformat()]
    told = json.dumps({table.name: moment for table in ONLINE_VIEWS})
    (settings.features / "materialized.json").write_text(told, encoding="utf-8")


def recommend_bodies(
    file: Path, count: int, n: int = 3, seed: int = 11, visitors: int = VISITORS, **more: object
) -> Path:
    """A file for ``benchmarks.load``: requests for slates by that many visitors, drawn with equal chances.

    Args:
        more: further fields of each request.
    """
    rng = np.random.default_rng(seed)
    asked = rng.permutation(visitors)[np.arange(count) % visitors]
    devices = rng.choice(contract.DEVICES, count)

    def lines() -> Iterator[str]:
        for number, device in zip(asked, devices, strict=True):
            context = {"device": str(device), "page": "/", "session_id": f"s{number}"}
            body = {"visitor_id": visitor_id(number), "placement": PLACEMENT, "n": n, "context": context, **more}
            yield f"/v1/banners/recommend {json.dumps(body)}\n"

    file.write_text("".join(lines()), encoding="utf-8")
    return file


def event_bodies(file: Path, count: int, events: int, prefix: str, path: str = "/v1/events") -> Path:
    """A file for ``benchmarks.load``: reports of ``events`` page and product views each, every id but once."""
    at = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=1)
    rng = np.random.default_rng(13)
    seen = rng.integers(VISITORS, size=(count, events))

    def one(number: int, place: int) -> dict[str, Any]:
        told = {"event_id": f"{prefix}-{number}-{place}", "occurred_at": at.isoformat(), "page": f"/p/{place}"}
        who = {"visitor_id": visitor_id(seen[number, place]), "device": "mobile", "country": "CZ"}
        product = {"kind": "product_view", "product_id": f"p{place:03d}"} if place % 2 else {"kind": "page_view"}
        return told | who | product

    with file.open("w", encoding="utf-8") as out:
        for number in range(count):
            out.write(f"{path} {json.dumps([one(number, place) for place in range(events)])}\n")
    return file


def _banner(number: int, rng: np.random.Generator) -> dict[str, Any]:
    """A row of the ``banner_catalogue`` mart."""
    mixed = rng.choice(len(CATEGORIES), size=3, replace=False)
    shares = rng.dirichlet(np.ones(3)).round(4)
    values = (
        f"b{number:05d}",
        f"k{number % CAMPAIGNS:02d}",
        f"Banner {number}",
        STARTS_AT.isoformat(),
        ENDS_AT.isoformat(),
        "active",
        "[]",
        int(rng.integers(1, 40)),
        round(float(rng.lognormal(3, 0.6)), 2),
        json.dumps({CATEGORIES[place]: float(share) for place, share in zip(mixed, shares, strict=True)}),
    )
    return dict(zip(contract.BANNER_CATALOGUE.names, values, strict=True))


def _bundle(rows: list[dict[str, Any]], rng: np.random.Generator) -> Bundle:
    policy = {"name": "epsilon-greedy", "exploration": EXPLORATION, "candidates": CANDIDATES, "rank_by": "clicks"}
    manifest = {
        "format": FORMAT,
        "features": list(contract.RANKER_FEATURES),
        "feature_hash": contract.feature_hash(),
        "feature_service": feature_service(),
        "snapshot": "bench",
        "seed": 7,
        "encoding": Encoding(CATEGORIES, PLACEMENTS, contract.DEVICES, 0.03).to_dict(),
        "catalogue": rows,
        "category_titles": {category: f"Category {category}" for category in CATEGORIES},
        "banners_seen": [row["banner_id"] for row in rows],
        "policy": policy | {"new_banner_boost": 0.15, "new_banner_impressions": 1_000.0},
        "click_values": {},
        "trained_until": STARTS_AT.isoformat(),
    }
    known = Catalogue.from_rows(rows)
    shares = category_matrix(known.category_mixes, CATEGORIES)
    content = banner_inputs(shares, known.product_counts, known.mean_prices)
    towers = Towers.from_content(len(CATEGORIES) + len(COUNTS), content, 32, 64, 16, rng)
    report = {"snapshot": "bench", "ranker": {"auc": {"value": 0.5}}}
    return Bundle(manifest, towers, Ranker(_booster(rng), Platt(1.0, -3.0)), report)


def _booster(rng: np.random.Generator) -> xgb.Booster:
    """Exactly ``TREES`` trees, each ``DEPTH`` deep, fitted on random rows in which a little is to be learned."""
    matrix = rng.random((ROWS, len(contract.RANKER_FEATURES)), dtype=np.float32)
    clicked = rng.random(ROWS) < 0.2 + 0.6 * matrix[:, contract.RANKER_FEATURES.index("affinity_match")]
    data = xgb.DMatrix(matrix, label=clicked, feature_names=list(contract.RANKER_FEATURES))
    settings = {"objective": "binary:logistic", "max_depth": DEPTH, "eta": 0.05, "nthread": 1, "min_child_weight": 1}
    booster = xgb.train(settings, data, TREES)
    depths = {max(line.count("\t") for line in tree.splitlines()) for tree in booster.get_dump()}
    if len(booster.get_dump()) != TREES or depths != {DEPTH}:
        raise RuntimeError(f"{len(booster.get_dump())} trees of depths {sorted(depths)}, not {TREES} of {DEPTH}")
    return booster


def _promoted(settings: Settings, bundle: Bundle) -> str:
    with tempfile.TemporaryDirectory(prefix="marquee-bundle-") as folder:
        bundle.save(Path(folder))
        tag = registry.store_bundle(settings, Path(folder))
    at = datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="seconds")
    registry.record(settings, registry.Promotion(tag, "promoted", at, "bench", "made by hand", []))
    return tag


def _put_campaigns(settings: Settings, capped: int) -> None:
    """Every campaign in the managed catalogue."""
    dates: dict[str, Any] = {"starts_at": STARTS_AT, "ends_at": ENDS_AT}
    campaigns = [
        Campaign(campaign_id=f"k{number:02d}", caps=(CAP,) if number < capped else (), **dates)
        for number in range(CAMPAIGNS)
    ]
    store = open_catalogue_store(settings)
    try:
        store.change([Change("campaigns", one.campaign_id, one) for one in campaigns], "bench", "bench")
    finally:
        store.close()


def _column(name: str, count: int, midnight: datetime, rng: np.random.Generator) -> pa.Array:
    """A feature's values, as a shop has them: small counts, shares of some categories, a last visit."""
    if name == "segment":
        return pa.array(rng.choice(["champions", "loyal", "lost"], count))
    if name == "category_affinity":
        return pa.array(_affinities(count, rng))
    if name == "last_seen_at":
        ago = rng.integers(3_600, 20 * 86_400, count)
        return pa.array([midnight - timedelta(seconds=int(seconds)) for seconds in ago], pa.timestamp("us"))
    if name.startswith("banner_impression"):
        return pa.array(rng.integers(500, 50_000, count).astype(np.float64))
    if name.startswith("banner_click"):
        return pa.array(rng.integers(5, 500, count).astype(np.float64))
    return pa.array(rng.poisson(4, count).astype(np.float64))


def _affinities(count: int, rng: np.random.Generator) -> list[str]:
    places = rng.integers(len(CATEGORIES), size=(count, 5))
    shares = rng.dirichlet(np.ones(5), count).round(4)
    return [
        json.dumps({CATEGORIES[place]: share for place, share in zip(mine, own, strict=True)})
        for mine, own in zip(places.tolist(), shares.tolist(), strict=True)
    ]
