"""What the gate measures of a bundle, row by row: harm, stability, robustness, calibration, and the future."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import duckdb
import numpy as np
import pytest

from marquee.settings import Settings
from training import comparison, registry, soundness
from training.dataset import load_dataset
from training.pipeline import require_latest_bundle
from training.soundness import sound

pytestmark = pytest.mark.tools


@pytest.fixture
def settings(installation: Settings) -> Settings:
    """Read only."""
    return installation


@pytest.fixture
def honest(settings: Settings) -> str:
    return require_latest_bundle(settings)


def test_harm_to_one_segment_is_refused_and_named(
    settings: Settings, honest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same model for most visitors, the opposite of it for those of one segment."""
    data, bundle = load_dataset(settings), registry.load_bundle(settings, honest)
    rows = data.split.test
    visitors = data.frame["visitor_id"].to_numpy(str)[rows]
    segments = np.where(np.array([int(visitor[1:]) % 3 for visitor in visitors]) == 0, "loyal", "new")
    monkeypatch.setattr(comparison, "_segments", lambda *_: segments)
    other = bundle.ranker.predict(data.matrix[rows])
    own = np.where(segments == "loyal", -other, other)
    check = comparison._segment_harm(settings, data, rows, own, other)
    assert not check.passed
    assert "surely worse: loyal" in check.about
    assert comparison._segment_harm(settings, data, rows, other, other).passed


def test_segments_are_those_of_the_warehouse(settings: Settings) -> None:
    data = load_dataset(settings)
    rows = np.arange(len(data.clicked))
    segments = comparison._segments(settings, data, rows)
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        told = connection.execute(
            "select visitor_id, segment from marts.visitors join marts.customer_segments using (customer_id)"
        ).fetchall()
    visitors = data.frame["visitor_id"].to_numpy(str)
    known = {visitor: segment for visitor, segment in told if visitor in set(visitors)}
    assert len(set(known.values())) > 3
    assert all(segments[visitors == visitor][0] == segment for visitor, segment in known.items())
    assert set(segments) == {*known.values(), comparison.NO_SEGMENT}


def test_a_list_that_has_nothing_of_the_champions_is_told(settings: Settings, honest: str) -> None:
    data, bundle = load_dataset(settings), registry.load_bundle(settings, honest)
    turned = registry.load_bundle(settings, honest)
    turned.worth = -turned.worth
    same = comparison._list_stability(settings, data, data.split.test, bundle, bundle)
    assert (same.value, same.passed) == (1.0, True)
    assert "rank correlation 1.00" in same.about
    opposite = comparison._list_stability(settings, data, data.split.test, turned, bundle)
    assert not opposite.passed
    assert "rank correlation -" in opposite.about


def test_numbers_a_little_off_may_not_turn_the_order(settings: Settings, honest: str) -> None:
    data, bundle = load_dataset(settings), registry.load_bundle(settings, honest)

    class Fragile:
        """Decides by the last digits of a number."""

        def predict(self, matrix: Any) -> Any:
            known = {row.tobytes(): click for row, click in zip(data.matrix[data.split.test], clicked, strict=True)}
            return np.array([0.9 if known.get(row.tobytes(), False) else 0.1 for row in matrix])

    clicked = data.clicked[data.split.test]
    bundle.ranker = Fragile()  # type: ignore[assignment]
    verdicts = {check.name: check.passed for check in sound(settings, data, bundle)}
    assert not verdicts["robustness"]
    assert {name for name, passed in verdicts.items() if passed} <= {"calibration slope", "known by then"}


def test_probabilities_too_close_together_are_refused(settings: Settings, honest: str) -> None:
    """Their mean is right, and so is their order."""
    bundle = registry.load_bundle(settings, honest)
    data = load_dataset(settings)
    told = bundle.ranker.predict(data.matrix[data.split.test])
    logit = np.log(told / (1 - told))
    flat = 1 / (1 + np.exp(-(0.15 * (logit - logit.mean()) + logit.mean())))
    check = soundness._calibration_slope(settings, data, flat)
    assert (check.name, check.passed) == ("calibration slope", False)
    assert soundness._calibration_slope(settings, data, told).passed


@pytest.mark.parametrize("name", ["banner_click_count_28d", "visitor_click_count_365d"])
def test_a_training_row_that_counts_its_own_click_is_found(settings: Settings, name: str) -> None:
    data = load_dataset(settings)
    assert soundness._known_by_then(settings, data).passed
    frame = data.frame.copy()
    frame[name] = frame[name].fillna(0.0) + 1_000.0 * frame["is_clicked"] * (name[0] == "b") + frame["is_clicked"]
    check = soundness._known_by_then(settings, replace(data, frame=frame))
    assert not check.passed
    assert (check.value or 0) > 20
