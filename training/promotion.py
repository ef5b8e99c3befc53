"""The promotion gate: a bundle ships because each check says so, or because a named person overrides with a reason."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from features.matrix import BANNER_COUNTS, COUNTS, RESPONSE_COUNTS
from marquee import contract
from marquee.errors import BundleError, GateError
from marquee.settings import Settings
from training import ope, registry
from training.bundle import Bundle, Context
from training.dataset import Dataset, banner_counts, load_dataset
from training.eligibility import eligible_banners
from training.evaluation import raw_visitor
from training.registry import Promotion

CALIBRATION_LIMIT = 0.75
"""Share of the click rate by which probabilities may be off on average; real campaigns drift by half of it."""
SKEW_LIMIT = 1e-6
LATENCY_LIMIT_MS = 50.0
SIZE_LIMIT_MB = 200.0
HARM_MARGIN = 0.01


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the gate: what was measured, its limit, and whether it passed."""

    name: str
    value: float | None
    threshold: float | None
    passed: bool
    about: str


def judge(settings: Settings, tag: str) -> list[Check]:
    """Measure every check of the bundle; none is skipped."""
    folder = registry.bundle_folder(settings, tag)
    bundle = Bundle.load(folder)
    data = load_dataset(settings)
    present = registry.champion(settings)
    return [
        *_quality(bundle.report),
        _off_policy(bundle.report["policy"]),
        _not_worse(settings, bundle.report, present if present != tag else None),
        _skew(data, bundle),
        _latency(settings, data, bundle),
        _size(folder),
        _snapshot(data, bundle),
    ]


def promote(settings: Settings, tag: str, by: str, override: str | None = None) -> list[Check]:
    """Make the bundle champion if the gate lets it; a promotion or a refusal is recorded with its checks.

    Promoting the champion again judges it again and records nothing new.

    Args:
        by: who asks, for the record.
        override: a reason to promote although a check failed.

    Raises:
        GateError: a check failed and no reason to override was given.
    """
    checks = judge(settings, tag)
    failed = [check for check in checks if not check.passed]
    at = datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="seconds")
    rows: list[dict[str, Any]] = [asdict(check) for check in checks]
    if failed and override is None:
        names = "; ".join(f"{check.name}: {_shown(check)} ({check.about})" for check in failed)
        registry.record(settings, Promotion(tag, "refused", at, by, names, rows))
        raise GateError(f"{tag} was not promoted. {names}")
    if registry.champion(settings) != tag:
        reason = f"override: {override}" if failed else "all checks passed"
        registry.record(settings, Promotion(tag, "promoted", at, by, reason, rows))
    return checks


def _shown(check: Check) -> str:
    return f"{check.value if check.value is not None else 'no value'}, limit {check.threshold}"


def _quality(report: dict[str, Any]) -> list[Check]:
    ranker = report["ranker"]
    low, gain = ranker["auc"]["low"], ranker["auc_gain"]["low"]
    error = ranker["calibration_error"] / max(ranker["click_rate"], 1e-9)
    loss, loss_popular = ranker["log_loss"], ranker["log_loss_popular"]
    return [
        Check("auc above chance", low, 0.5, low > 0.5, "lower end of AUC's interval on the later window"),
        Check("auc above popular", gain, 0.0, gain > 0, "lower end of the interval of AUC less popularity's, paired"),
        Check("log loss", loss, loss_popular, loss < loss_popular, "against popularity on the later window"),
        Check("calibration", error, CALIBRATION_LIMIT, error <= CALIBRATION_LIMIT, "error as a share of click rate"),
    ]


def _off_policy(policy: dict[str, Any]) -> Check:
    about = "lower ends of the intervals: off-policy click rate at the first position against the logged one"
    if policy["value"] is None:
        # Too little overlap is no evidence either way; it must not read as a number, and it does not block.
        about = f"cannot say: {policy['ess']:.0f} effective of {policy['rows']} logged requests are too few"
        if policy["ess"] >= ope.LEAST_EFFECTIVE_SAMPLE:
            about = f"cannot say: mean weight {policy['mean_weight']:.2f}, not 1, or too few visitors carry it"
        return Check("off-policy value", None, None, True, about)
    low, logged = policy["value"]["low"], policy["logged"]["low"]
    return Check("off-policy value", low, logged, low >= logged, about)


def _not_worse(settings: Settings, report: dict[str, Any], present: str | None) -> Check:
    about = "AUC against the champion's, both on their later window"
    if present is None:
        return Check("not worse than champion", None, None, True, "there is no other champion yet")
    try:
        # Its report alone: a champion made for other features cannot be loaded, and must not be in force for ever.
        folder = registry.bundle_folder(settings, present)
    except BundleError as error:
        return Check("not worse than champion", None, None, False, f"the champion cannot be read: {error}")
    champion = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    threshold = champion["ranker"]["auc"]["low"] - HARM_MARGIN
    value = report["ranker"]["auc"]["value"]
    return Check("not worse than champion", value, threshold, value >= threshold, about)


def _skew(data: Dataset, bundle: Bundle, count: int = 200) -> Check:
    """Replay logged impressions through the serving path: its features must be those that training saw."""
    rows = data.split.test[np.linspace(0, len(data.split.test) - 1, min(count, len(data.split.test))).astype(np.int64)]
    position = contract.RANKER_FEATURES.index("position")
    worst = 0.0
    for row in rows:
        values = data.frame.iloc[row]
        context = Context(values["placement_id"], values["device"], np.datetime64(values["impressed_at"], "us"))
        own = data.banner_rows[row : row + 1]
        counts = {name: np.full(len(bundle.catalogue), values[name], dtype=np.float64) for name in BANNER_COUNTS}
        served = bundle.matrix(raw_visitor(data, row), own, counts, context)[0].astype(np.float64)
        trained = data.matrix[row].astype(np.float64)
        served[position] = trained[position]
        gap = np.abs(served - trained) / np.maximum(1.0, np.abs(trained))
        worst = max(worst, float(np.max(np.where(np.isnan(served) & np.isnan(trained), 0.0, gap))))
    about = f"largest relative gap between served and trained features over {len(rows)} impressions"
    return Check("skew", worst, SKEW_LIMIT, worst <= SKEW_LIMIT, about)


def _latency(settings: Settings, data: Dataset, bundle: Bundle, count: int = 100) -> Check:
    counts = banner_counts(settings, bundle.catalogue, data.split.test_starts_at)
    visitor = dict.fromkeys((*COUNTS, *RESPONSE_COUNTS), 1.0) | {"category_affinity": "{}", "last_seen_at": None}
    at = data.split.test_starts_at
    context = Context(bundle.encoding.placements[0], "mobile", at)
    eligible = eligible_banners(bundle.catalogue, context.placement_id, at)
    taken = []
    for _ in range(count):
        start = time.perf_counter()
        rows = bundle.retrieve(visitor, eligible)
        if len(rows):
            bundle.ranker.predict(bundle.matrix(visitor, rows, counts, context))
        taken.append((time.perf_counter() - start) * 1e3)
    value = float(np.percentile(taken, 99))
    return Check("latency", value, LATENCY_LIMIT_MS, value <= LATENCY_LIMIT_MS, "99th percentile of scoring, in ms")


def _size(folder: Path) -> Check:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    return Check("size", size, SIZE_LIMIT_MB, size <= SIZE_LIMIT_MB, "bytes on disk, in MB")


def _snapshot(data: Dataset, bundle: Bundle) -> Check:
    same = bundle.manifest["snapshot"] == data.snapshot
    about = "trained on the warehouse as it is now (1), or on an older or other one (0)"
    return Check("data freshness", float(same), 1.0, same, about)
