"""Bundles that must not ship, each really made: fitted, calibrated, grown or left behind as such bundles are."""

from __future__ import annotations

import copy
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ingestion.batch import Batch, records
from ingestion.load import admit_batch, ingest
from marquee import contract
from marquee.monotone import monotone_signs
from marquee.settings import Settings
from training import registry
from training.bundle import Bundle, Context
from training.calibration import Beta, Calibration, Isotonic, Platt
from training.dataset import Dataset, banner_counts, load_dataset
from training.evaluation import evaluate_policy
from training.promotion import LATENCY_LIMIT_MS
from training.ranker import Ranker, RankerSettings, fit_ranker
from training.ranker_evaluation import evaluate_ranker

Change = Callable[[dict[str, Any]], object]
PILOT_COPIES: Final = 50
BY_HEART: Final = 20
"""Times that the held-out window stands among the rows of a ranker that learns it by heart."""


class Workshop:
    """An installation, the honest bundle trained on it, and the means to make others of it."""

    def __init__(self, settings: Settings, tag: str) -> None:
        self.settings, self.tag = settings, tag
        self.data = load_dataset(settings)
        self.bundle = registry.load_bundle(settings, tag)
        self.training_set = settings.features / "training_set.parquet"
        self._kept = shutil.copyfile(self.training_set, settings.home / "training_set.kept")
        self._batches = 0

    def tidy(self) -> None:
        """Put the honest training set back."""
        shutil.copyfile(self._kept, self.training_set)

    def fit(self, data: Dataset | None = None, **chosen: Any) -> Ranker:
        """A ranker fitted as ``marquee train`` does, but for the data and what is chosen otherwise."""
        usual: dict[str, Any] = {"seed": self.settings.seed, "monotone": monotone_signs(self.settings.monotone)}
        return fit_ranker(data or self.data, RankerSettings(**(usual | chosen)))

    def with_ranker(self, ranker: Ranker, data: Dataset | None = None) -> str:
        """The honest bundle with another ranker and a true report of it, stored; its tag."""
        data = data or self.data
        other = Bundle(self.bundle.manifest, self.bundle.towers, ranker, dict(self.bundle.report))
        other.report["ranker"] = evaluate_ranker(data, ranker, self.settings.seed)
        other.report["policy"] = evaluate_policy(data, other, self.settings)
        return self._stored(other)

    def with_manifest(self, change: Change) -> str:
        """The honest bundle with another manifest, stored; its tag."""
        manifest = copy.deepcopy(self.bundle.manifest)
        change(manifest)
        return self._stored(Bundle(manifest, self.bundle.towers, self.bundle.ranker, self.bundle.report))

    def add_batch(self) -> None:
        """One more admitted batch: the shop went on after the training."""
        self._batches += 1
        seen = {"kind": "page_view", "occurred_at": pd.Timestamp(2026, 2, 3).to_pydatetime(), "visitor_id": "v000001"}
        rows = [seen | {"event_id": f"late-{self._batches}-{number}"} for number in range(100)]
        admit_batch(self.settings, ingest(_Later(rows), self.settings).batch_id)

    def _stored(self, bundle: Bundle) -> str:
        folder = self.settings.home / "spoiled"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        bundle.save(folder)
        return registry.store_bundle(self.settings, folder)


class _Later:
    """A source of these events."""

    name = "later"
    about = "Events that came after the training."

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def read(self) -> Any:
        yield Batch("events", records(contract.EVENTS, self._rows))


# --- worse ----------------------------------------------------------------------------------------------------------


def shuffled(shop: Workshop, share: float) -> str:
    """This share of the labels is dealt out anew among its rows."""
    rng = np.random.default_rng(shop.settings.seed)
    clicked = shop.data.clicked.copy()
    rows = np.flatnonzero(rng.random(len(clicked)) < share)
    clicked[rows] = clicked[rng.permutation(rows)]
    return shop.with_ranker(shop.fit(replace(shop.data, clicked=clicked)))


def without_matches(shop: Workshop) -> str:
    """While fitting, who likes what was not to be seen."""
    matrix = shop.data.matrix.copy()
    alike = ("affinity_match", "affinity_cosine", "session_affinity_match", "session_affinity_cosine")
    matrix[:, [contract.RANKER_FEATURES.index(name) for name in (*alike, "last_category_share")]] = 0.0
    return shop.with_ranker(shop.fit(replace(shop.data, matrix=matrix)))


def few_trees(shop: Workshop, rounds: int) -> str:
    """Fitting stopped long before it was done."""
    return shop.with_ranker(shop.fit(rounds=rounds))


# --- leaking --------------------------------------------------------------------------------------------------------


def by_heart(shop: Workshop, depth: int) -> str:
    """The held-out window was among the rows fitted, again and again."""
    split, everything = shop.data.split, np.arange(len(shop.data.clicked))
    seen = replace(split, train=np.tile(split.test, BY_HEART), validation=everything)
    deep = {"max_depth": depth, "min_child_weight": 1.0, "learning_rate": 0.3, "rounds": 80, "monotone": {}}
    return shop.with_ranker(shop.fit(replace(shop.data, split=seen), **deep))


def with_the_future(shop: Workshop, who: str, impressions: str, clicks: str) -> str:
    """The training set counts impressions and clicks over the whole log, later ones and the row's own too."""
    frame = shop.data.frame.copy()
    groups = frame.groupby(who)["is_clicked"]
    frame[impressions], frame[clicks] = groups.transform("size") * 1.0, groups.transform("sum") * 1.0
    frame.to_parquet(shop.training_set)
    data = load_dataset(shop.settings)
    return shop.with_ranker(shop.fit(data), data)


# --- miscalibrated --------------------------------------------------------------------------------------------------


def miscalibrated(shop: Workshop, factor: float = 1.0, slope: float = 1.0) -> str:
    """Odds multiplied by ``factor``, log-odds stretched by ``slope`` about those of the click rate."""
    rate = float(shop.data.clicked[shop.data.split.train].mean())
    shift = float(np.log(factor) + (1 - slope) * np.log(rate / (1 - rate)))
    honest = shop.bundle.ranker
    return shop.with_ranker(Ranker(honest.booster, bent(honest.calibration, slope, shift)))


def bent(known: Calibration, slope: float, shift: float) -> Calibration:
    """The calibration with its log-odds times ``slope``, and ``shift`` added."""
    match known:
        case Platt():
            return Platt(known.slope * slope, known.intercept * slope + shift)
        case Beta():
            return Beta(known.a * slope, known.b * slope, known.intercept * slope + shift)
        case Isotonic():
            calibrated = tuple(value * slope + shift for value in known.calibrated)
            return Isotonic(known.raw, calibrated, known.slope * slope)


# --- slow -----------------------------------------------------------------------------------------------------------


def slow(shop: Workshop, times: float) -> str:
    """As many more banners, all of them candidates, as scoring them takes that multiple of the limit here."""
    pilot = registry.load_bundle(shop.settings, shop.with_manifest(partial(repeat, copies=PILOT_COPIES)))
    copies = PILOT_COPIES * times * LATENCY_LIMIT_MS / _scoring_ms(shop, pilot)
    return shop.with_manifest(partial(repeat, copies=int(np.ceil(copies))))


def repeat(manifest: dict[str, Any], copies: int) -> None:
    """The catalogue over and over under new ids, which sort behind those that there are."""
    rows = manifest["catalogue"]
    more = [row | {"banner_id": f"~{copy}-{row['banner_id']}"} for copy in range(1, copies) for row in rows]
    manifest["catalogue"] = [*rows, *more]
    manifest["policy"]["candidates"] = len(rows) * copies


def _scoring_ms(shop: Workshop, bundle: Bundle, requests: int = 20) -> float:
    at = shop.data.split.test_starts_at
    counts = banner_counts(shop.settings, bundle.catalogue, at)
    context = Context(bundle.encoding.placements[0], "mobile", at)
    taken = []
    for _ in range(requests):
        since = time.perf_counter()
        bundle.ranking(None, counts, context)
        taken.append((time.perf_counter() - since) * 1e3)
    return statistics.median(taken)


# --- feature-mismatched ---------------------------------------------------------------------------------------------


def other_list(manifest: dict[str, Any]) -> None:
    """Made for one feature less."""
    manifest["features"] = manifest["features"][:-1]
    manifest["feature_hash"] = contract.feature_hash(tuple(manifest["features"]))


def other_service(manifest: dict[str, Any]) -> None:
    """Reads one field more of the feature store than this version serves."""
    manifest["feature_service"][contract.VISITOR_FEATURES_365D.name].append("order_count_365d")


def other_names(shop: Workshop) -> str:
    """The trees were fitted on features of other names."""
    ranker = shop.fit()
    ranker.booster.feature_names = [f"old_{name}" for name in contract.RANKER_FEATURES]
    return shop.with_ranker(ranker)


def other_order(shop: Workshop) -> str:
    """The trees were fitted, and the report written, on columns in another order than their names say."""
    turned = replace(shop.data, matrix=_turned(shop.data.matrix))
    return shop.with_ranker(shop.fit(turned, monotone={}), turned)


def _turned(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(matrix[:, ::-1])


def other_encoding(manifest: dict[str, Any]) -> None:
    """Placements have other numbers than while fitting."""
    manifest["encoding"]["placements"].reverse()


# --- honest, and stale once the shop goes on -------------------------------------------------------------------------


def honest_twin(shop: Workshop, number: int) -> str:
    """An honest bundle, fitted with another seed."""
    return shop.with_ranker(shop.fit(seed=shop.settings.seed + number))
