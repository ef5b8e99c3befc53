"""The bundle: what is trained, promoted, served and rolled back as one immutable folder. No TensorFlow, no pickles."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.matrix import (
    BANNER_COUNTS,
    COUNTS,
    READS,
    RESPONSE_COUNTS,
    Encoding,
    category_matrix,
    codes,
    ranker_matrix,
    seconds,
)
from marquee import contract
from marquee.errors import BundleError
from marquee.policy import Floats, Policy, new_banner_boost
from training.banner_effects import BannerEffects, with_effects
from training.catalogue import Catalogue
from training.eligibility import eligible_banners
from training.ranker import Ranker
from training.towers import Towers, banner_inputs, visitor_inputs

FORMAT = 2
FILES = ("manifest.json", "towers.npz", "ranker.ubj", "calibration.json", "report.json")


@dataclass(frozen=True, slots=True)
class Context:
    """What is asked: where, when and on what the slate will be shown. ``at`` is UTC without a zone."""

    placement_id: str
    device: str
    at: np.datetime64


class Bundle:
    """Everything needed to score banners for a visitor, in NumPy and XGBoost."""

    def __init__(self, manifest: dict[str, Any], towers: Towers, ranker: Ranker, report: dict[str, Any]) -> None:
        self.manifest = manifest
        self.report = report
        self.towers = towers
        self.ranker = ranker
        self.encoding = Encoding.from_dict(manifest["encoding"])
        self.catalogue = Catalogue.from_rows(manifest["catalogue"])
        told = manifest["policy"]
        self.policy = Policy(told["exploration"], told.get("temperature", 0.0), told.get("diversity", 0.0))
        self.boost = (told.get("new_banner_boost", 0.0), told.get("new_banner_impressions", 1.0))
        self.candidates: int = manifest["policy"]["candidates"]
        self.worth = _worth(manifest, self.catalogue)
        self.effects = _effects(manifest)
        self.banner_shares = category_matrix(self.catalogue.category_mixes, self.encoding.categories)
        known = {banner: row + 1 for row, banner in enumerate(manifest["banners_seen"])}
        ids = np.array([known.get(banner, 0) for banner in self.catalogue.banner_ids], dtype=np.int64)
        inputs = banner_inputs(self.banner_shares, self.catalogue.product_counts, self.catalogue.mean_prices)
        self.banner_vectors = towers.banner_vectors(ids, inputs)

    def visitor_shares(self, visitor: dict[str, Any] | None) -> NDArray[np.float32]:
        """The visitor's category shares, [1, C]; zeros for a visitor not known."""
        return category_matrix([visitor["category_affinity"] if visitor else None], self.encoding.categories)

    def retrieve(self, visitor: dict[str, Any] | None, eligible: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Rows of the eligible banners nearest to the visitor, best first, at most ``candidates``. Exact search."""
        rows = np.flatnonzero(eligible)
        counts = np.array([[visitor[name] if visitor else 0.0 for name in COUNTS]], dtype=np.float64)  # None is NaN
        vector = self.towers.visitor_vectors(visitor_inputs(self.visitor_shares(visitor), counts))[0]
        similarity = self.banner_vectors[rows] @ vector
        return rows[np.argsort(-similarity, kind="stable")[: self.candidates]]

    def matrix(
        self,
        visitor: dict[str, Any] | None,
        rows: NDArray[np.int64],
        banner_counts: dict[str, NDArray[np.float64]],
        context: Context,
    ) -> NDArray[np.float32]:
        """The ranker's inputs for these banners at the first position.

        All are scored as if they stood first: the position that the log happened to give must not decide the order.

        Args:
            visitor: raw features by name, None where a view has no fresh ones; None when nothing is known at all.
            rows: [n] rows of the catalogue.
            banner_counts: [B] arrays by name, NaN for a banner never shown.
        """
        seen = visitor["last_seen_at"] if visitor else None
        known = (*COUNTS, *RESPONSE_COUNTS)
        columns: dict[str, Any] = {name: visitor[name] if visitor else np.nan for name in known}
        columns |= {name: banner_counts[name][rows] for name in BANNER_COUNTS}
        columns |= {
            "mean_price": self.catalogue.mean_prices[rows],
            "placement": codes([context.placement_id], self.encoding.placements),
            "device": codes([context.device], self.encoding.devices),
            "position": 0.0,
            "impressed_at": seconds(np.array([context.at])),
            "last_seen_at": seconds(np.array([seen], dtype="datetime64[us]")),
        }
        shares = self.visitor_shares(visitor)
        matrix: NDArray[np.float32] = ranker_matrix(columns, shares, self.banner_shares[rows], self.encoding.base_rate)
        return matrix

    def appeal(self, scores: Floats, rows: NDArray[np.int64], banner_counts: dict[str, Floats]) -> Floats:
        """What the policy draws by: click probabilities [..., n], raised for new banners where the policy says so.

        With effects of banners [H, ..., n]: one row a draw from their posterior, or a single one for optimism.
        Where slates are drawn for value, times what a click on the banner is worth in clicks of mean value.
        """
        own = scores if self.effects is None else with_effects(scores, self.effects[:, rows])
        boost = new_banner_boost(banner_counts[BANNER_COUNTS[0]][rows], *self.boost)
        raised: Floats = own * self.worth[rows] * boost
        return raised

    def ranking(self, visitor: dict[str, Any] | None, banner_counts: dict[str, Floats], context: Context) -> list[str]:
        """Ids of the banners that retrieval hands on, by appeal, best first: the slate were there no chance in it.

        By mean appeal where it has several rows.
        """
        rows = self.retrieve(visitor, eligible_banners(self.catalogue, context.placement_id, context.at))
        if not len(rows):
            return []
        scores = self.ranker.predict(self.matrix(visitor, rows, banner_counts, context))
        appeal = np.atleast_2d(self.appeal(scores, rows, banner_counts)).mean(axis=0)
        order = np.argsort(-appeal, kind="stable")
        return [self.catalogue.banner_ids[row] for row in rows[order]]

    def similarity(self, rows: NDArray[np.int64]) -> Floats:
        """[n, n] cosine of what the banners advertise, 0 to 1."""
        shares = self.banner_shares[rows].astype(np.float64)
        lengths = np.linalg.norm(shares, axis=1, keepdims=True)
        own = np.divide(shares, lengths, out=np.zeros_like(shares), where=lengths > 0)
        return np.asarray(np.clip(own @ own.T, 0.0, 1.0))

    def save(self, folder: Path) -> None:
        """Write the bundle's files into an existing folder."""
        _write_json(folder / "manifest.json", self.manifest)
        _write_json(folder / "report.json", self.report)
        self.towers.save(folder / "towers.npz")
        self.ranker.save(folder)

    @classmethod
    def load(cls, folder: Path) -> Bundle:
        """Read a bundle.

        Raises:
            BundleError: a file is missing, the format is another, or the feature list differs from this version's.
        """
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise BundleError(f"{folder}: not a bundle, {missing[0]} is missing")
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if manifest.get("format") != FORMAT:
            raise BundleError(f"{folder}: bundle format {manifest.get('format')}, this version reads {FORMAT}")
        if manifest.get("feature_hash") != contract.feature_hash():
            raise BundleError(f"{folder}: made for other features than this version serves; train again")
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        if manifest.get("feature_service") != feature_service():
            raise BundleError(f"{folder}: reads other feature views than this version serves; train again")
        return cls(manifest, Towers.load(folder / "towers.npz"), Ranker.load(folder), report)


def _worth(manifest: dict[str, Any], catalogue: Catalogue) -> Floats:
    """[B] value of a click over the mean of all, so that temperature and diversity keep their unit; else ones."""
    if manifest["policy"].get("rank_by", "clicks") == "clicks":
        return np.ones(len(catalogue))
    values = np.array([manifest["click_values"][banner] for banner in catalogue.banner_ids], dtype=np.float64)
    worth: Floats = values / values.mean()
    return worth


def _effects(manifest: dict[str, Any]) -> Floats | None:
    """[H, B] effects of banners that scores are drawn with; None where the policy has none."""
    policy = manifest["policy"]
    heads, optimism = policy.get("heads", 0), policy.get("optimism", 0.0)
    if not (heads or optimism):
        return None
    fitted = BannerEffects.from_dict(manifest["banner_effects"])
    return fitted.sampled(heads, manifest["seed"]) if heads else fitted.optimistic(optimism)


def feature_service() -> dict[str, list[str]]:
    """What a bundle of this version reads of the feature store, as its manifest records it: fields by view."""
    return {view: list(fields) for view, fields in READS.items()}


def content_hash(folder: Path) -> str:
    """The bundle's version: a hash over its files, names included."""
    digest = hashlib.sha256()
    for name in FILES:
        digest.update(name.encode())
        digest.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return digest.hexdigest()[:16]


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1, sort_keys=True, allow_nan=False), encoding="utf-8")
