"""The bundle: what is trained, promoted, served and rolled back as one immutable folder. No TensorFlow, no pickles."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.matrix import BANNER_COUNTS, COUNTS, READS, Encoding
from marquee import contract
from marquee.errors import BundleError
from marquee.policy import Floats, Policy, new_banner_boost
from training.banner_effects import BannerEffects, with_effects
from training.catalogue import Catalogue
from training.eligibility import eligible_banners
from training.inputs import Context, Inputs
from training.pages.page_model import PageModel
from training.product_model import ProductModel
from training.ranker import Ranker
from training.towers import Towers, banner_inputs, visitor_inputs

__all__ = ["FILES", "FORMAT", "Bundle", "Context", "bundle_files", "content_hash", "feature_service"]
FORMAT = 3
NEW_SHARE = 0.2
"""Most of a shortlist that may be there only because it is new."""
FILES = ("manifest.json", "towers.npz", "ranker.ubj", "calibration.json", "report.json")
PRODUCTS = "products.npz"
"""Only in a bundle with a product model."""
PAGES = "pages.npz"
"""Only in a bundle with a page model."""


class Bundle:
    """Everything needed to score banners for a visitor, in NumPy and XGBoost.

    Args:
        catalogue: banners to score instead of those that it was trained with.
        products: which products come next; None where there were too few product events.
        pages: which pages come next; None where there were too few visits of pages.
    """

    def __init__(
        self,
        manifest: dict[str, Any],
        towers: Towers,
        ranker: Ranker,
        report: dict[str, Any],
        catalogue: Catalogue | None = None,
        products: ProductModel | None = None,
        pages: PageModel | None = None,
    ) -> None:
        self.manifest = manifest
        self.products, self.pages = products, pages
        self.report = report
        self.towers = towers
        self.ranker = ranker
        self.encoding = Encoding.from_dict(manifest["encoding"])
        self.catalogue = Catalogue.from_rows(manifest["catalogue"]) if catalogue is None else catalogue
        told = manifest["policy"]
        self.policy = Policy(told["exploration"], told.get("temperature", 0.0), told.get("diversity", 0.0))
        self.boost = (told.get("new_banner_boost", 0.0), told.get("new_banner_impressions", 1.0))
        self.candidates: int = manifest["policy"]["candidates"]
        self.worth = _worth(manifest, self.catalogue)
        self._raise: tuple[Floats, tuple[float, float], Floats] | None = None
        self.effects = _effects(manifest, self.catalogue)
        self.inputs = Inputs(self.catalogue, self.encoding)
        self.banner_shares = self.inputs.banner_shares
        known = {banner: row + 1 for row, banner in enumerate(manifest["banners_seen"])}
        ids = np.array([known.get(banner, 0) for banner in self.catalogue.banner_ids], dtype=np.int64)
        inputs = banner_inputs(self.banner_shares, self.catalogue.product_counts, self.catalogue.mean_prices)
        self.banner_vectors = towers.banner_vectors(ids, inputs)

    def with_catalogue(self, catalogue: Catalogue) -> Bundle:
        """The same trained parts over other banners, which may be new, gone or changed.

        A banner that training did not see has no embedding, the mean worth of a click and the prior's effect.
        """
        return Bundle(self.manifest, self.towers, self.ranker, self.report, catalogue, self.products, self.pages)

    def visitor_shares(self, visitor: dict[str, Any] | None) -> NDArray[np.float32]:
        """The visitor's category shares, [1, C]; zeros for a visitor not known. Not to be changed."""
        return self.inputs.visitor(visitor).values

    def retrieve(
        self, visitor: dict[str, Any] | None, eligible: NDArray[np.bool_], tiers: NDArray[np.int64] | None = None
    ) -> NDArray[np.int64]:
        """Rows of the eligible banners nearest to the visitor, best first, at most ``candidates``. Exact search.

        Args:
            eligible: [B] which banners may be shown.
            tiers: [B] each banner's tier: all of a higher one come before any of a lower one.
        """
        rows = np.flatnonzero(eligible)
        counts = np.array([[visitor[name] if visitor else 0.0 for name in COUNTS]], dtype=np.float64)  # None is NaN
        vector = self.towers.visitor_vectors(visitor_inputs(self.visitor_shares(visitor), counts))[0]
        farness = -(self.banner_vectors.take(rows, axis=0) @ vector)
        order = np.argsort(farness, kind="stable") if tiers is None else np.lexsort((farness, -tiers.take(rows)))
        return rows[order[: self.candidates]]

    def shortlist(
        self,
        visitor: dict[str, Any] | None,
        eligible: NDArray[np.bool_],
        banner_counts: dict[str, Floats],
        tiers: NDArray[np.int64] | None = None,
    ) -> NDArray[np.int64]:
        """Rows that retrieval hands to the ranker, the farthest of them given up for banners hardly shown yet.

        Else a new banner that its tower puts far from everybody would never be shown, and never be known. See
        ``retrieve``.
        """
        rows = self.retrieve(visitor, eligible, tiers)
        most = int(len(rows) * NEW_SHARE)
        if not self.boost[0] or not most or len(rows) == np.count_nonzero(eligible):
            return rows
        shown = banner_counts[BANNER_COUNTS[0]]
        is_new = eligible & ~(shown >= self.boost[1])
        is_new[rows] = False
        if tiers is not None:
            is_new &= tiers >= tiers[rows].min()
        new = np.flatnonzero(is_new)
        if not len(new):
            return rows
        new = new[np.argsort(np.nan_to_num(shown[new]), kind="stable")[:most]]
        return np.concatenate([rows[: len(rows) - len(new)], new])

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
            banner_counts: [B] arrays by name, NaN for a banner never shown. What follows from them is kept while they
                are the same arrays, so they are not to be changed.
            context: of the request, with the session under way.
        """
        return self.inputs.matrix(visitor, rows, banner_counts, context)

    def appeal(self, scores: Floats, rows: NDArray[np.int64], banner_counts: dict[str, Floats]) -> Floats:
        """What the policy draws by: click probabilities [..., n], raised for new banners where the policy says so.

        With effects of banners [H, ..., n]: one row a draw from their posterior, or a single one for optimism.
        Where slates are drawn for value, times what a click on the banner is worth in clicks of mean value.
        """
        own = scores if self.effects is None else with_effects(scores, self.effects[:, rows])
        raised: Floats = own * self.raise_of(banner_counts)[rows]
        return raised

    def raise_of(self, banner_counts: dict[str, Floats]) -> Floats:
        """[B] what scores are multiplied with: a click's worth, times the boost of new banners. Not to be changed."""
        shown, kept = banner_counts[BANNER_COUNTS[0]], self._raise
        if kept is None or kept[0] is not shown or kept[1] != self.boost:
            self._raise = kept = (shown, self.boost, self.worth * new_banner_boost(shown, *self.boost))
        return kept[2]

    def ranking(self, visitor: dict[str, Any] | None, banner_counts: dict[str, Floats], context: Context) -> list[str]:
        """Ids of the banners that retrieval hands on, by appeal, best first: the slate were there no chance in it.

        By mean appeal where it has several rows.
        """
        eligible = eligible_banners(self.catalogue, context.placement_id, context.at)
        rows = self.shortlist(visitor, eligible, banner_counts)
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
        parts = {"products": self.products, "pages": self.pages}
        described = {name: part.described() if part else None for name, part in parts.items()}
        _write_json(folder / "manifest.json", self.manifest | described)
        _write_json(folder / "report.json", self.report)
        self.towers.save(folder / "towers.npz")
        self.ranker.save(folder)
        if self.products:
            self.products.save(folder / PRODUCTS)
        if self.pages:
            self.pages.save(folder / PAGES)

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
        told = manifest.get("products")  # bundles of older versions say neither
        products = ProductModel.load(folder / PRODUCTS, told) if told else None
        told = manifest.get("pages")
        pages = PageModel.load(folder / PAGES, told) if told else None
        towers, ranker = Towers.load(folder / "towers.npz"), Ranker.load(folder)
        return cls(manifest, towers, ranker, report, products=products, pages=pages)


def _worth(manifest: dict[str, Any], catalogue: Catalogue) -> Floats:
    """[B] value of a click over the mean of all, so that temperature and diversity keep their unit; else ones."""
    if manifest["policy"].get("rank_by", "clicks") == "clicks":
        return np.ones(len(catalogue))
    known = manifest["click_values"]
    mean = np.array(list(known.values()), dtype=np.float64).mean()
    values = np.array([known.get(banner, mean) for banner in catalogue.banner_ids], dtype=np.float64)
    worth: Floats = values / mean
    return worth


def _effects(manifest: dict[str, Any], catalogue: Catalogue) -> Floats | None:
    """[H, B] effects of banners that scores are drawn with; None where the policy has none."""
    policy = manifest["policy"]
    heads, optimism = policy.get("heads", 0), policy.get("optimism", 0.0)
    if not (heads or optimism):
        return None
    fitted = BannerEffects.from_dict(manifest["banner_effects"])
    ids = sorted(str(row["banner_id"]) for row in manifest["catalogue"])
    return fitted.of_catalogue(ids, catalogue.banner_ids, heads, optimism, manifest["seed"])


def feature_service() -> dict[str, list[str]]:
    """What a bundle of this version reads of the feature store, as its manifest records it: fields by view."""
    return {view: list(fields) for view, fields in READS.items()}


def bundle_files(folder: Path) -> tuple[str, ...]:
    """Names of the files that the bundle in a folder consists of."""
    return (*FILES, *(name for name in (PRODUCTS, PAGES) if (folder / name).is_file()))


def content_hash(folder: Path) -> str:
    """The bundle's version: a hash over its files, names included."""
    digest = hashlib.sha256()
    for name in bundle_files(folder):
        digest.update(name.encode())
        digest.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return digest.hexdigest()[:16]


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1, sort_keys=True, allow_nan=False), encoding="utf-8")
