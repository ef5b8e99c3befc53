"""Uplift and the Qini curve: by hand, against known truth, and nothing found where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.randomised_campaigns import FIXED, HOURS, draw, new_customers, uplift_figures
from training.notifications.evaluation import NONE, Campaign, qini, qini_curve, uplift_page, uplifts
from training.notifications.uplift import fit_uplift


def test_values_by_hand() -> None:
    """Four visitors, a coin each: those who got what the policy says count double."""
    campaign = Campaign(np.array([0, 1, 1, 0]), np.full((4, 2), 0.5), np.array([1.0, 1.0, 0.0, 0.0]))
    assert campaign.values(NONE).tolist() == [2, 0, 0, 0]
    assert campaign.values(np.array([0, 1, 0, 1])).tolist() == [2, 2, 0, 0]
    found = uplifts(campaign, np.array([0, 1, 0, 1]), {"none": NONE, "all": 1})
    assert (found["value"].value, found["none"].value, found["all"].value) == (1.0, 0.5, 0.5)


def test_a_qini_curve_by_hand() -> None:
    """Best first: treated 1, control 0, treated 0, control 1. After half: 1 − 0 of two treated; at the end: 1 − 1."""
    score, treated = np.array([4.0, 3.0, 2.0, 1.0]), np.array([True, False, True, False])
    share, gained = qini_curve(score, treated, np.array([1.0, 0.0, 0.0, 1.0]))
    assert share.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert gained.tolist() == [0, 0.5, 0.5, 0.5, 0]
    # Trapezoids under it less those under the line to 0: (0.25 + 0.5 + 0.5 + 0.25) / 4.
    assert qini(score, treated, np.array([1.0, 0.0, 0.0, 1.0])).value == pytest.approx(0.375)


def test_ties_come_in_together() -> None:
    share, gained = qini_curve(np.zeros(4), np.array([True, False, True, False]), np.array([1.0, 0.0, 0.0, 0.0]))
    assert (share.tolist(), gained.tolist()) == ([0, 1], [0, 0.5])


def test_weights_are_rows_that_come_more_often() -> None:
    rng = np.random.default_rng(2)
    score, treated, outcome = rng.random(40), rng.random(40) < 0.5, (rng.random(40) < 0.3).astype(float)
    times = rng.integers(0, 4, 40)
    weighted = qini_curve(score, treated, outcome, times.astype(float))
    rows = np.repeat(np.arange(40), times)
    repeated, at = qini_curve(score[rows], treated[rows], outcome[rows]), np.linspace(0, 1, 23)
    assert np.interp(at, *weighted) == pytest.approx(np.interp(at, *repeated))
    assert np.interp(at, *weighted) != pytest.approx(np.interp(at, *qini_curve(score, treated, outcome)))


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """Fifty campaigns over the same customers; 95 % intervals, so 43 is three deviations below."""
    rng = np.random.default_rng(8)
    customers = new_customers(500, rng)
    chosen = rng.integers(0, len(HOURS) + 1, 500)
    each = np.arange(500)
    true = customers.chances[each, chosen].mean() - customers.chances[:, FIXED].mean()
    held = 0
    for seed in range(50):
        one = uplifts(draw(customers, rng), chosen, {"fixed": FIXED}, seed)["fixed"]
        held += one.low <= true <= one.high
    assert held >= 43


def test_a_model_finds_whom_to_send_to_and_chance_does_not() -> None:
    figures, page = uplift_figures(seed=3, size=40_000)
    assert figures["qini"]["low"] > 0
    assert figures["qini_at_random"]["low"] < 0 < figures["qini_at_random"]["high"]
    assert figures["qini"]["value"] < 1.3 * figures["qini_of_truth"]
    for name in ("over_none", "over_all", "over_fixed_hour"):
        assert figures["uplift"][name]["true"] > 0
    assert figures["uplift"]["over_none"]["low"] > 0
    assert "data:image/png;base64," in page
    assert "over_fixed_hour" in page


def test_without_any_effect_no_uplift_is_found() -> None:
    rng = np.random.default_rng(4)
    customers = new_customers(20_000, rng)
    flat = type(customers)(customers.features, np.repeat(customers.chances[:, :1], len(HOURS) + 1, axis=1))
    taught, judged = draw(flat, rng), draw(flat, rng)
    chosen = fit_uplift(flat.features, taught.action, taught.outcome, len(HOURS) + 1).uplift(flat.features).argmax(1)
    found = uplifts(judged, chosen, {"none": NONE, "fixed": FIXED})
    assert all(found[name].low < 0 < found[name].high for name in ("none", "fixed"))


def test_an_action_that_nobody_got_is_named() -> None:
    with pytest.raises(ValueError, match="nobody got action 2"):
        fit_uplift(np.zeros((4, 1)), np.array([0, 1, 0, 1]), np.zeros(4), 3)


def test_a_page_without_curves() -> None:
    assert "Qini curve" in uplift_page("None", {}, {})
