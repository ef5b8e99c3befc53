"""The promotion gate: a bundle ships because each check says so, or because a named person overrides with a reason."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from features.matrix import BANNER_COUNTS, VISITOR_NUMBERS
from marquee import contract
from marquee.errors import BundleError, GateError
from marquee.settings import Settings
from training import ope, registry
from training.bundle import Bundle, Context
from training.check import Check
from training.comparison import COMPARED, HARM_MARGIN, against_popular, compare
from training.dataset import Dataset, banner_counts, load_dataset
from training.evaluation import raw_visitor, request_context
from training.registry import Promotion
from training.soundness import sound

CALIBRATION_LIMIT = 0.75
"""Share of the click rate by which probabilities may be off on average; real campaigns drift by half of it."""
SKEW_LIMIT = 1e-6
LATENCY_LIMIT_MS = 50.0
LATENCY_REQUESTS, LATENCY_TRIES = 100, 3
LEAST_SHARE = 0.001
"""Of the visitors, for a canary and for the champion beside it."""
SIZE_LIMIT_MB = 200.0


def judge(settings: Settings, tag: str) -> list[Check]:
    """Measure every check of the bundle; none is skipped."""
    folder = registry.bundle_folder(settings, tag)
    bundle = Bundle.load(folder)
    data = load_dataset(settings)
    return [
        *_quality(bundle.report),
        *sound(settings, data, bundle),
        _off_policy(bundle.report["policy"]),
        *_against_champion(settings, data, bundle, tag),
        against_popular(settings, data, bundle),
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
    checks, reason = _passed(settings, tag, by, override, "promoted")
    if registry.champion(settings) != tag:
        registry.record(settings, _line(tag, "promoted", by, reason, checks))
    return checks


def start_canary(settings: Settings, tag: str, share: float, by: str, override: str | None = None) -> list[Check]:
    """Let the bundle answer a share of the visitors, each for good, if the gate lets it; recorded as a promotion is.

    A share that grows keeps the visitors it had.

    Raises:
        GateError: a check failed and no reason to override was given; the bundle is the champion; the share is none; or
            an experiment runs.
    """
    if not LEAST_SHARE <= share <= 1 - LEAST_SHARE:
        raise GateError(f"a canary's share is {share:g}: give one from {LEAST_SHARE:g} to {1 - LEAST_SHARE:g}")
    if settings.experiment is not None:
        raise GateError(f"{settings.experiment} divides the visitors already: end that experiment, or name {tag} in it")
    if registry.require_champion(settings) == tag:
        raise GateError(f"{tag} is the champion and answers everybody: choose another bundle for the canary")
    checks, reason = _passed(settings, tag, by, override, "made canary")
    registry.record(settings, _line(tag, "canary", by, reason, checks, share))
    return checks


def start_shadow(settings: Settings, tag: str, by: str) -> None:
    """Score the bundle beside the champion, seen by nobody: it must load, and pass nothing else.

    Raises:
        BundleError: there is no champion yet, no such bundle, or this version cannot serve it.
    """
    if registry.require_champion(settings) == tag:
        raise BundleError(f"{tag} is the champion: what it would show is what is shown; choose another bundle")
    registry.load_bundle(settings, tag)
    registry.record(settings, _line(tag, "shadow", by, "scored beside the champion", []))


def end_trial(settings: Settings, role: Literal["canary", "shadow"], by: str, reason: str) -> str:
    """End the canary or the shadow; returns its tag.

    Raises:
        BundleError: there is none.
    """
    tag: str | None = getattr(registry.roles(settings), role)
    if tag is None:
        raise BundleError(f"there is no {role} to end; `marquee status` says what is in force")
    registry.record(settings, _line(tag, f"{role} ended", by, reason, []))
    return tag


def _passed(settings: Settings, tag: str, by: str, override: str | None, wanted: str) -> tuple[list[Check], str]:
    """The gate's rows, and why the bundle may pass; a refusal is recorded and raised."""
    checks = judge(settings, tag)
    failed = [check for check in checks if not check.passed]
    if failed and override is None:
        names = "; ".join(f"{check.name}: {_shown(check)} ({check.about})" for check in failed)
        registry.record(settings, _line(tag, "refused", by, names, checks))
        raise GateError(f"{tag} was not {wanted}. {names}")
    return checks, f"override: {override}" if failed else "all checks passed"


def _line(tag: str, action: str, by: str, reason: str, checks: list[Check], share: float | None = None) -> Promotion:
    at = datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="seconds")
    return Promotion(tag, action, at, by, reason, [asdict(check) for check in checks], share)


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


def _against_champion(settings: Settings, data: Dataset, bundle: Bundle, tag: str) -> list[Check]:
    present = registry.champion(settings)
    if present is None or present == tag:
        return [Check(name, None, None, True, "there is no other champion yet") for name in COMPARED]
    try:
        folder = registry.bundle_folder(settings, present)
    except BundleError as error:
        first = Check(COMPARED[0], None, None, False, f"the champion cannot be read: {error}")
        return [first, *(Check(name, None, None, True, "cannot say: no champion to read") for name in COMPARED[1:])]
    try:
        champion = Bundle.load(folder)
    except BundleError:
        # Made for other features: it cannot be loaded, and must not be in force for ever.
        return _against_report(bundle.report, folder)
    return compare(settings, data, bundle, champion)


def _against_report(report: dict[str, Any], folder: Path) -> list[Check]:
    about = "AUC against the champion's, made for other features, each on its own later window"
    champion = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    threshold = champion["ranker"]["auc"]["low"] - HARM_MARGIN
    value = report["ranker"]["auc"]["value"]
    rest = [Check(name, None, None, True, "cannot say: the champion was made for other features") for name in COMPARED]
    return [Check(COMPARED[0], value, threshold, value >= threshold, about), *rest[1:]]


def _skew(data: Dataset, bundle: Bundle, count: int = 200) -> Check:
    """Replay logged impressions through the serving path: its features must be those that training saw."""
    rows = data.split.test[np.linspace(0, len(data.split.test) - 1, min(count, len(data.split.test))).astype(np.int64)]
    position = contract.RANKER_FEATURES.index("position")
    worst = 0.0
    for row in rows:
        values, context = data.frame.iloc[row], request_context(data, row)
        own = data.banner_rows[row : row + 1]
        counts = {name: np.full(len(bundle.catalogue), values[name], dtype=np.float64) for name in BANNER_COUNTS}
        served = bundle.matrix(raw_visitor(data, row), own, counts, context)[0].astype(np.float64)
        trained = data.matrix[row].astype(np.float64)
        served[position] = trained[position]
        gap = np.abs(served - trained) / np.maximum(1.0, np.abs(trained))
        worst = max(worst, float(np.max(np.where(np.isnan(served) & np.isnan(trained), 0.0, gap))))
    about = f"largest relative gap between served and trained features over {len(rows)} impressions"
    return Check("skew", worst, SKEW_LIMIT, worst <= SKEW_LIMIT, about)


def _latency(settings: Settings, data: Dataset, bundle: Bundle) -> Check:
    counts = banner_counts(settings, bundle.catalogue, data.split.test_starts_at)
    visitor = dict.fromkeys(VISITOR_NUMBERS, 1.0) | {"category_affinity": "{}", "last_seen_at": None}
    context = Context(bundle.encoding.placements[0], "mobile", data.split.test_starts_at)
    value = np.inf
    for _ in range(LATENCY_TRIES):
        taken = []
        for _ in range(LATENCY_REQUESTS):
            start = time.perf_counter()
            bundle.ranking(visitor, counts, context)
            taken.append((time.perf_counter() - start) * 1e3)
        # What else ran on the machine makes a try slower, never faster.
        value = min(value, float(np.percentile(taken, 99)))
        if value <= LATENCY_LIMIT_MS:
            break
    return Check("latency", value, LATENCY_LIMIT_MS, value <= LATENCY_LIMIT_MS, "99th percentile of scoring, in ms")


def _size(folder: Path) -> Check:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    return Check("size", size, SIZE_LIMIT_MB, size <= SIZE_LIMIT_MB, "bytes on disk, in MB")


def _snapshot(data: Dataset, bundle: Bundle) -> Check:
    same = bundle.manifest["snapshot"] == data.snapshot
    about = "trained on the warehouse as it is now (1), or on an older or other one (0)"
    return Check("data freshness", float(same), 1.0, same, about)
