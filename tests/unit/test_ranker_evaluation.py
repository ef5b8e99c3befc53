"""What a report says of a ranker, by placement, and how it is told to people."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from training.ranker_evaluation import by_placement
from training.report import _verdict, summary_lines


def test_placements_are_judged_apart() -> None:
    """One placement is told 10 points too high, the other exactly; together they would look half as wrong."""
    clicked = np.array([1, 0, 0, 0, 0] * 4 + [1, 0] * 5, bool)
    told = np.array([0.3] * 20 + [0.5] * 10)
    found = by_placement(clicked, told, np.array(["side"] * 20 + ["hero"] * 10))
    assert list(found) == ["hero", "side"]
    assert (found["side"]["rows"], found["side"]["clicks"]) == (20, 4)
    assert found["side"]["mean_probability"] == pytest.approx(0.3)
    assert found["hero"]["clicks"] == 5
    assert sum(rows for _, _, rows in found["hero"]["reliability"]) == 10
    # Ten bins of two rows each, in order: each holds at most one click.
    assert found["side"]["ece"] == pytest.approx((4 * 0.2 + 6 * 0.3) / 10)


def test_a_report_of_an_older_version_is_still_told() -> None:
    estimate = {"value": 0.6, "low": 0.5, "high": 0.7}
    ranker: dict[str, Any] = {
        "rows": 10,
        "clicks": 2,
        "auc": estimate,
        "auc_popular": estimate,
        "auc_logistic": estimate,
    }
    ranker |= {"mean_probability": 0.2, "click_rate": 0.2, "calibration_error": 0.01}
    report = {
        "test_starts_at": "2026-01-01T00:00:00",
        "rows": {"train": 1, "validation": 1, "purged": 0},
        "ranker": ranker,
        "retrieval": {"k": 10, "recall": 0.1, "clicks": 2, "recall_popular": 0.1, "eligible": 3.0},
        "policy": {"value": None, "ess": 0.0, "rows": 0},
    }
    before = summary_lines(report)
    assert not any("forest" in line for line in before)
    one = {"rows": 10, "clicks": 2, "ece": 0.01, "mean_probability": 0.2, "reliability": []}
    ranker |= {"auc_forest": estimate, "calibration": "beta", "ece_by_placement": {"hero": one}}
    after = summary_lines(report)
    assert [line for line in after if line not in before] == [
        "  forest       0.6000 [0.5000, 0.7000]",
        "calibration    mean probability 0.2000, click rate 0.2000, expected error 0.0100 (beta)",
        "  hero  mean probability 0.2000, click rate 0.2000, expected error 0.0100, 2 of 10",
    ]


def test_report_says_which_baselines_the_ranker_surely_beats() -> None:
    def gain(low: float, high: float) -> dict[str, float]:
        return {"value": (low + high) / 2, "low": low, "high": high}

    ranker = {"auc_gain": gain(0.1, 0.2), "auc_gain_logistic": gain(-0.03, -0.01), "auc_gain_forest": gain(-0.01, 0.02)}
    (line,) = _verdict(ranker)
    assert line == (
        "  the ranker is surely above popular (+0.1500), surely below logistic (-0.0200), "
        "not surely above forest (+0.0050)"
    )
    assert _verdict({"auc_gain": gain(0.1, 0.2)}) == [], "bundles of older versions"
