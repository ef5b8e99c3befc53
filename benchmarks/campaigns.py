"""The ranker on a real shop's campaigns: response to later ones, from features strictly before them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from benchmarks.measure import marquee
from marquee.settings import Settings
from training import registry

STEPS: Final = ("check", "transform", "materialize", "train")
ATTRIBUTION_DAYS: Final = 180.0
"""A coupon may be redeemed as long as its campaign runs."""


def campaigns(data: Path, home: Path) -> dict[str, Any]:
    """AUC beside every baseline, gains with intervals, and calibration, overall and by placement."""
    settings = {"attribution_days": ATTRIBUTION_DAYS}
    marquee("ingest", "--source", "completejourney", "--path", str(data), home=home, **settings)
    for step in STEPS:
        marquee(step, home=home, may_refuse=step == "check", **settings)
    ranker = _report(Settings(home=home))["ranker"]
    names = ("auc", "auc_popular", "auc_logistic", "auc_forest", "auc_gain", "auc_gain_logistic", "auc_gain_forest")
    gains = {name: ranker[name] for name in names}
    return {
        "journey_auc": ranker["auc"]["value"],
        "journey_beats_popular": ranker["auc_gain"]["low"] > 0,
        "journey_beats_logistic": ranker["auc_gain_logistic"]["low"] > 0,
        "ece": ranker["calibration_error"],
        "journey": gains
        | {
            "rows": ranker["rows"],
            "clicks": ranker["clicks"],
            "calibration": ranker["calibration"],
            "mean_probability": ranker["mean_probability"],
            "click_rate": ranker["click_rate"],
            "ece_by_placement": {name: one["ece"] for name, one in ranker["ece_by_placement"].items()},
        },
    }


def _report(settings: Settings) -> dict[str, Any]:
    (tag,) = registry.bundles(settings)
    text = (registry.bundle_folder(settings, tag) / "report.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found
