"""The steps of a training run, as the DAG schedules them: each reads files, writes files, and can be run again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from features.matrix import COUNTS
from marquee import contract
from marquee.errors import NothingToDo
from marquee.monotone import monotone_signs
from marquee.settings import Settings
from training import registry
from training.banner_effects import fit_banner_effects
from training.banner_scores import ProductScores, fit_product_scores
from training.bundle import FORMAT, Bundle, feature_service
from training.click_value import click_values
from training.dataset import Dataset, load_dataset, read_category_titles
from training.evaluation import embedding_ids, evaluate_policy, evaluate_retrieval
from training.flagging import exclusion_report, flag_sessions
from training.pages.page_fitting import fit_page_model
from training.product_fitting import product_model
from training.ranker import Ranker, RankerSettings, fit_ranker
from training.ranker_evaluation import evaluate_ranker
from training.reference import reference_statistics
from training.towers import Towers, banner_inputs, visitor_inputs

Progress = Callable[[int, float], None]


def train_retrieval(settings: Settings, on_epoch: Progress | None = None) -> Path:
    """Fit the two towers on the clicks of the training and validation parts; returns the weights' file."""
    from training.two_tower import TwoTowerSettings, fit_two_tower

    data = load_dataset(settings)
    fit = np.concatenate([data.split.train, data.split.validation])
    clicks = fit[data.clicked[fit]]
    if not len(clicks):
        raise NothingToDo("no impression before the held-out window was clicked: ingest more days")
    visitors = visitor_inputs(data.visitor_shares[clicks], data.frame[list(COUNTS)].to_numpy(np.float64)[clicks])
    banners = banner_inputs(data.banner_shares, data.catalogue.product_counts, data.catalogue.mean_prices)
    two_tower = TwoTowerSettings(seed=settings.seed)
    shown = np.bincount(data.banner_rows[fit], minlength=len(data.catalogue)).astype(np.float64)
    towers = fit_two_tower(visitors, data.banner_rows[clicks], banners, two_tower, on_epoch, shown)
    path = _work(settings) / "towers.npz"
    towers.save(path)
    return path


def train_ranker(settings: Settings) -> Path:
    """Fit and calibrate the ranker; returns the folder that holds its files."""
    folder = _work(settings)
    chosen = RankerSettings(
        seed=settings.seed,
        monotone=monotone_signs(settings.monotone),
        engine=settings.ranker_engine,
        workers=settings.ranker_workers,
    )
    with _engine(settings):
        fit_ranker(load_dataset(settings), chosen).save(folder)
    return folder


def assemble_bundle(settings: Settings) -> str:
    """Put towers and ranker together, evaluate them on the later window, store the bundle; returns its tag."""
    from features.store import open_store

    work = _work(settings)
    data = load_dataset(settings)
    towers, ranker = Towers.load(work / "towers.npz"), Ranker.load(work)
    products, products_report = product_model(settings, data.split.test_starts_at)
    pages, pages_report = fit_page_model(settings, data.split.test_starts_at)
    manifest = _manifest(settings, data) | _banner_effects(settings, data, ranker)
    bundle = Bundle(manifest, towers, ranker, {}, products=products, pages=pages)
    bundle.report = {
        "snapshot": data.snapshot,
        "test_starts_at": str(data.split.test_starts_at),
        "rows": {
            "train": len(data.split.train),
            "validation": len(data.split.validation),
            "test": len(data.split.test),
            "purged": data.split.purged,
        },
        "flagged": exclusion_report(settings),
        "ranker": evaluate_ranker(data, ranker, settings.seed),
        "retrieval": evaluate_retrieval(data, towers, _product_scores(settings, data)),
        "products": products_report,
        "pages": pages_report,
        "policy": evaluate_policy(data, bundle, settings),
        "reference": reference_statistics(settings, data, bundle),
    }
    folder = work / "bundle"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    bundle.save(folder)
    tag = registry.store_bundle(settings, folder)
    open_store(settings)  # the bundle's feature service is in Feast before anybody can promote it
    (work / "latest.json").write_text(json.dumps({"tag": tag}), encoding="utf-8")
    return tag


def train(settings: Settings, on_epoch: Progress | None = None) -> str:
    """The whole run, one step after the other; returns the bundle's tag."""
    from features.training_set import build_training_set

    flag_sessions(settings)
    build_training_set(settings)
    train_retrieval(settings, on_epoch)
    train_ranker(settings)
    return assemble_bundle(settings)


def require_latest_bundle(settings: Settings) -> str:
    """Tag of the bundle trained last.

    Raises:
        NothingToDo: none has been trained yet.
    """
    path = settings.home / "training" / "latest.json"
    if not path.exists():
        raise NothingToDo("no bundle has been trained yet: run train_models, or `marquee train`")
    return str(json.loads(path.read_text(encoding="utf-8"))["tag"])


def _manifest(settings: Settings, data: Dataset) -> dict[str, Any]:
    seen = embedding_ids(data)
    return {
        "format": FORMAT,
        "features": list(contract.RANKER_FEATURES),
        "feature_hash": contract.feature_hash(),
        # Its name in Feast is the bundle's version, which is a hash over this too, so only what it reads stands here.
        "feature_service": feature_service(),
        "snapshot": data.snapshot,
        "seed": settings.seed,
        "encoding": data.encoding.to_dict(),
        "catalogue": data.catalogue.to_rows(),
        "category_titles": read_category_titles(settings, data.encoding.categories),
        # Row r of the embedding is banner r − 1 of this list; an empty name was never shown while fitting.
        "banners_seen": [b if i else "" for b, i in zip(data.catalogue.banner_ids, seen, strict=True)],
        "policy": {
            "name": _policy_name(settings),
            "exploration": settings.exploration,
            "temperature": settings.temperature,
            "diversity": settings.diversity,
            "new_banner_boost": settings.new_banner_boost,
            "new_banner_impressions": settings.new_banner_impressions,
            "candidates": settings.candidates,
            "rank_by": settings.rank_by,
            # Only where they are used, so that a bundle without is what it was before there were such settings.
            **({"heads": settings.heads} if settings.heads else {}),
            **({"optimism": settings.optimism} if settings.optimism else {}),
        },
        "click_values": _click_values(settings, data),
        "ranker": {"monotone": monotone_signs(settings.monotone), "engine": settings.ranker_engine},
        "trained_until": str(data.frame["impressed_at"].max()),
    }


def _engine(settings: Settings) -> AbstractContextManager[object]:
    """One Spark session for all fits of the ranker, where Spark fits it: each would start one of its own."""
    if settings.ranker_engine == "local":
        return nullcontext()
    from training.spark_retrieval import spark_session

    return spark_session(settings)


def _policy_name(settings: Settings) -> str:
    if settings.heads or settings.optimism:
        return "thompson" if settings.heads else "ucb"
    return "softmax" if settings.temperature else "epsilon-greedy"


def _banner_effects(settings: Settings, data: Dataset, ranker: Ranker) -> dict[str, Any]:
    """For the manifest, where the policy draws with them; fitted on the ranker's rows, the test part untouched.

    With what the trained ranker says of them, not with out-of-sample predictions: those it does not keep.
    """
    if not (settings.heads or settings.optimism):
        return {}
    fit = np.concatenate([data.split.train, data.split.validation])
    probabilities, clicked, rows = ranker.predict(data.matrix[fit]), data.clicked[fit], data.banner_rows[fit]
    return {"banner_effects": fit_banner_effects(probabilities, clicked, rows, len(data.catalogue)).to_dict()}


def _click_values(settings: Settings, data: Dataset) -> dict[str, float]:
    """By banner where slates are drawn for value; empty where they are not."""
    if settings.rank_by == "clicks":
        return {}
    return dict(zip(data.catalogue.banner_ids, click_values(settings, data).tolist(), strict=True))


def _product_scores(settings: Settings, data: Dataset) -> ProductScores | None:
    """For the report: what banners scored by their products would retrieve; None where nobody looks at products."""
    try:
        return fit_product_scores(settings, data.catalogue.banner_ids, data.split.test_starts_at)
    except NothingToDo:
        return None


def _work(settings: Settings) -> Path:
    folder = settings.home / "training"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
