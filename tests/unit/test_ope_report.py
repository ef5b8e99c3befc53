"""What a bundle is told to do and expect in off-policy evaluation, and the estimates in the lines of a report."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from features.matrix import BANNER_COUNTS, Encoding
from marquee.contract import DEVICES
from marquee.policy import Policy
from training import evaluation
from training.dataset import RAW_COUNTS
from training.report import _policy_lines

VALUE = {"value": 0.06, "low": 0.05, "high": 0.07}


def policy(**columns: Any) -> dict[str, Any]:
    return {"value": VALUE, "logged": VALUE, "ess": 500.0, "rows": 1_000} | columns


def test_every_estimate_that_could_be_made_is_told() -> None:
    names = ("replay", "ips", "snips", "dm", "dr", "switch_dr")
    lines = _policy_lines(policy(estimates=dict.fromkeys(names, VALUE) | {"replay": None}))
    shown = "0.0600 [0.0500, 0.0700]"
    assert lines == [
        f"off-policy     first position {shown} against logged {shown}, 500 effective of 1,000",
        f"  estimates    ips {shown}, snips {shown}, dm {shown}, dr {shown}",
        f"  estimates    switch_dr {shown}",
    ]


def test_too_little_overlap_is_told_in_words_without_the_models_number() -> None:
    assert _policy_lines(policy(value=None, mean_weight=0.7, estimates={"ips": None, "dm": VALUE})) == [
        "off-policy     cannot say: 500 effective of 1,000 logged requests, mean weight 0.70"
    ]


def test_bundles_of_older_versions_are_told_as_before() -> None:
    assert len(_policy_lines(policy())) == 1
    assert _policy_lines(policy(value=None)) == ["off-policy     cannot say: 500 effective of 1,000 logged requests"]


SCORES = np.array([[0.1, 0.2, 0.3], [0.4, 0.2, 0.6], [0.5, 0.5, 0.5]])
CANDIDATES = np.array([[True, True, True], [True, True, False], [False, False, False]])


@pytest.mark.parametrize(
    ("boost", "expected"),
    [
        # The best candidate with 7/10, all with 3/10 in equal parts: 1/10, 1/10, 8/10; then 85/100 and 15/100.
        (1.0, [[0.8, 0.3, 0.01 + 0.02 + 0.24], [0.0, 0.6, 0.85 * 0.4 + 0.15 * 0.2], [0.0, 0.5, 0.0]]),
        # A policy that draws the other way round earns no other clicks with what it draws.
        (-1.0, [[0.1, 0.3, 0.08 + 0.02 + 0.03], [0.0, 0.6, 0.15 * 0.4 + 0.85 * 0.2], [0.0, 0.5, 0.0]]),
    ],
)
def test_chance_of_the_logged_banner_and_both_predictions(
    monkeypatch: pytest.MonkeyPatch, boost: float, expected: list[list[float]]
) -> None:
    """Three requests that all logged the third banner: best candidate, not retrieved, and nothing retrieved."""
    np.testing.assert_allclose(replayed(monkeypatch, lambda scores, rows, counts: boost * scores).T, expected)


def test_each_draw_from_the_posterior_decides_as_often_off_policy_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three draws two are as the scores and one the other way round; what is expected stays the ranker's."""
    found = replayed(monkeypatch, lambda scores, rows, counts: np.stack([scores, -scores, 2 * scores]))
    # A third of 0.1 and two of 0.8 for the third banner of the first request; the mixture of both cases above.
    expected = [[1.7 / 3, 0.3, (2 * 0.27 + 0.13) / 3], [0, 0.6, (2 * 0.37 + 0.4 * 0.15 + 0.2 * 0.85) / 3], [0, 0.5, 0]]
    np.testing.assert_allclose(found.T, expected)


def replayed(monkeypatch: pytest.MonkeyPatch, appeal: Any) -> Any:
    """[3, 3] what is found for each request with that appeal."""
    frame = pd.DataFrame({"placement_id": ["home"] * 3, "device": [DEVICES[0]] * 3, "position": [0] * 3})
    frame[["impressed_at", "last_seen_at"]] = np.datetime64("2026-01-01", "us")
    data: Any = SimpleNamespace(
        frame=frame.assign(
            **dict.fromkeys(RAW_COUNTS, 1.0), session_started_at=pd.NaT, last_category=None, category_interest=None
        ),
        visitor_shares=np.ones((3, 1), np.float32),
        banner_rows=np.array([2, 2, 2]),
    )
    moments = np.full(3, "2026-01-01", "datetime64[us]")
    of_banners = {"mean_prices": np.ones(3), "product_counts": np.ones(3), "starts_at": moments, "ends_at": moments}
    catalogue = type("Banners", (list,), of_banners)("abc")
    bundle: Any = SimpleNamespace(
        catalogue=catalogue,
        encoding=Encoding(("bags",), ("home",), DEVICES, 0.05),
        banner_shares=np.ones((3, 1), np.float32),
        ranker=SimpleNamespace(predict=lambda matrix: SCORES.ravel()),
        appeal=appeal,
        policy=Policy(exploration=0.3),
    )
    monkeypatch.setattr(evaluation, "_retrieved", lambda data, bundle, rows: CANDIDATES)
    counts = {name: np.ones(3) for name in BANNER_COUNTS}
    return evaluation._replayed(data, bundle, counts, np.arange(3))
