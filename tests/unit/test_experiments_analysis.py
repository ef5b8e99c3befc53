"""What an experiment's log says: by hand, in worlds without an effect, and in worlds with a known one."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marquee.errors import GateError
from marquee.experiment import Arm, Experiment, assign, turns
from training.decision import decide
from training.experiment_log import Shown, Units, days_with_all_arms, periods, sample_ratio, share_drift, unit_totals
from training.experiments import METRICS, Design, adjusted, always_valid_factor, analyse, compare, linearised
from training.metrics import Estimate

A = Design("a")
HALVES = {"a": 0.5, "b": 0.5}
SEEDS = 200


def only(rng: np.random.Generator, visitors: int, lift: float = 0.0, share: float = 0.5) -> Units:
    """Units of a world: visitors with a click rate of their own, whose views depend on each other; b's is lifted."""
    is_b = rng.random(visitors) < share
    rates = rng.beta(1, 12, visitors)
    views = 1 + rng.poisson(3, visitors)
    clicks = rng.binomial(views, rates * np.where(is_b, 1 + lift, 1))
    totals = {"views": views, "clicks": clicks, "sessions": np.ones(visitors), "clicked_sessions": clicks > 0}
    totals["value"] = clicks * rng.lognormal(2, 0.5, visitors)
    named = {name: np.asarray(column, dtype=np.float64) for name, column in totals.items()}
    return Units(np.where(is_b, "b", "a"), named, rates - 1 / 13)


def first(units: Units, count: int) -> Units:
    """The first so many, as at an early look."""
    return Units(units.arms[:count], {name: column[:count] for name, column in units.totals.items()})


def misses(estimate: Estimate, truth: float = 0.0) -> bool:
    return not estimate.low <= truth <= estimate.high


def shown(rng: np.random.Generator, days: int, visitors: int, lift: float = 0.0) -> Shown:
    """Rows of a log: visitors assigned by hash, who come on one to three days."""
    plan = Experiment("x", (Arm("a", 0.5), Arm("b", 0.5)))
    rows = np.repeat(np.arange(visitors), rng.integers(2, 7, visitors))
    ids = np.array([f"v{n}" for n in range(visitors)])
    arms = np.array([assign(plan, name, datetime(2026, 1, 1)).name for name in ids])[rows]
    visits = rng.integers(2, size=len(rows))
    first_days = rng.integers(max(days - 1, 1), size=visitors)
    clicked = rng.random(len(rows)) < rng.beta(2, 12, visitors)[rows] * np.where(arms == "b", 1 + lift, 1)
    return Shown(
        arms,
        ids[rows],
        np.char.add(np.char.add(ids[rows], "/"), visits.astype(str)),
        np.datetime64("2026-01-01") + np.minimum(first_days[rows] + visits, days - 1),
        clicked,
        np.where(clicked, 2.0, 0.0),
    )


# --- by hand


def test_totals_by_hand() -> None:
    rows = [
        ("a", "v1", "v1/s1", "2026-01-02", True, 3.0),
        ("a", "v1", "v1/s1", "2026-01-01", True, 0.0),
        ("a", "v1", "v1/s2", "2026-01-02", False, 0.0),
        ("b", "v2", "v2/s1", "2026-01-01", False, 0.0),
        ("b", "v1", "v1/s2", "2026-01-03", True, 1.5),
    ]
    arms, visitors, visits, days, clicked, values = (np.array(column) for column in zip(*rows, strict=True))
    log = Shown(arms, visitors, visits, days.astype("datetime64[D]"), clicked, values, np.array([7.0, 7, 7, 8, 7]))
    found = unit_totals(log)
    assert found.arms.tolist() == ["a", "b", "b"]
    assert {name: column.tolist() for name, column in found.totals.items()} == {
        "views": [3, 1, 1],
        "clicks": [2, 1, 0],
        "sessions": [2, 1, 1],
        "clicked_sessions": [1, 1, 0],
        "value": [3, 1.5, 0],
    }
    assert found.covariates is not None
    assert found.covariates.tolist() == [7, 7, 8]
    assert found.first_days is not None
    assert found.first_days.astype(str).tolist() == ["2026-01-01", "2026-01-03", "2026-01-01"]
    assert found.crossed == 0.5  # one of two visitors


def test_linearised_by_hand() -> None:
    # 3 clicks in 6 views: R = 1/2; residuals 1 − 1/2, 2 − 2, 0 − 1/2 over 2 views a visitor. No mean of 1, 1/2 and 0.
    assert linearised(np.array([1.0, 2, 0]), np.array([1.0, 4, 1])).tolist() == [0.75, 0.5, 0.25]


def test_a_comparison_by_hand() -> None:
    """100 visitors an arm, two views each; half of b's click once, a quarter of a's."""
    clicks = np.concatenate([np.repeat([1.0, 0], [25, 75]), np.repeat([1.0, 0], [50, 50])])
    totals = {"views": np.full(200, 2.0), "clicks": clicks, "sessions": np.ones(200), "clicked_sessions": clicks}
    units = Units(np.repeat(["a", "b"], 100), totals | {"value": clicks})
    found = compare(units, "ctr", "b", A)
    assert found is not None
    assert (found.rate, found.control_rate, found.difference.value) == (0.25, 0.125, 0.125)
    # z is clicks / 2, of variance p(1 − p)/4 · 100/99, over 100 visitors; t of 99 degrees of freedom at 97.5 %: 1.98422
    error = math.sqrt((0.25 * 0.75 + 0.5 * 0.5) / 4 / 99)
    assert found.difference.high == pytest.approx(0.125 + 1.98422 * error, rel=1e-6)
    assert found.difference.low == pytest.approx(0.125 - 1.98422 * error, rel=1e-5)
    assert found.lift is not None
    assert found.lift.value == pytest.approx(1.0)
    relative = math.sqrt((0.75 / 0.25 + 0.5 / 0.5) / 99)  # each p(1 − p) / p²
    assert found.lift.low == pytest.approx(2 * math.exp(-1.98422 * relative) - 1, rel=1e-5)
    assert found.lift.high == pytest.approx(2 * math.exp(1.98422 * relative) - 1, rel=1e-5)
    assert found.reduction is None
    assert found.difference_always.high == pytest.approx(0.125 + always_valid_factor(200, 0.05, 10_000) * error)


def test_the_always_valid_factor_by_hand() -> None:
    # At the planned number s + 1 = e^s α², s = 8.212 for 5 %, and the factor is √(s + 1).
    assert math.exp(8.212) * 0.0025 == pytest.approx(9.212, rel=1e-3)
    assert always_valid_factor(5000, 0.05, 5000) == pytest.approx(math.sqrt(9.212), rel=1e-4)
    # Narrowest there among all choices of the planned number, wider than 1.96 everywhere.
    assert min(range(1000, 20_000, 1000), key=lambda planned: always_valid_factor(5000, 0.05, planned)) == 5000
    assert all(always_valid_factor(n, 0.05, 5000) > 2.5 for n in (10, 100, 10_000, 10**9))


def test_too_little_says_nothing() -> None:
    rng = np.random.default_rng(0)
    assert compare(first(only(rng, 5000), 80), "ctr", "b", A) is None
    rare = only(rng, 5000)
    assert compare(rare, "ctr", "b", A) is not None
    rare.totals["clicks"][30:] = 0
    assert compare(rare, "ctr", "b", A) is None
    few = only(rng, 19)
    assert compare(few, "ctr", "b", Design("a", "switchback")) is None


# --- can the log be trusted


def one_a_day(days: int, visitors: int) -> Shown:
    count = days * visitors
    day = np.repeat(np.arange(days), visitors)
    ids = np.array([f"v{n}" for n in range(count)])
    clicked = np.zeros(count, dtype=bool)
    arms = np.where(day % 2, "b", "a")
    return Shown(arms, ids, ids, np.datetime64("2026-01-01") + day, clicked, np.zeros(count))


def test_one_algorithm_a_day_is_refused() -> None:
    with pytest.raises(
        GateError, match=r"on 2026-01-02 arm a was not shown, to none of 40 units; arms must run side"
    ) as e:
        analyse(one_a_day(10, 40), HALVES, A)
    assert len(str(e.value).splitlines()) == 1
    with pytest.raises(GateError, match="no day has all of a, b; arms must run side by side"):
        analyse(one_a_day(10, 3), HALVES, A)  # so few that each day alone might be chance


def test_a_day_that_lacks_an_arm_by_chance_is_left_out() -> None:
    log = shown(np.random.default_rng(1), 5, 400)
    alone = one_a_day(1, 3)
    both = Shown(
        np.concatenate([log.arms, alone.arms]),
        np.concatenate([log.units, alone.units]),
        np.concatenate([log.sessions, alone.sessions]),
        np.concatenate([log.days, alone.days - 1]),
        np.concatenate([log.clicked, alone.clicked]),
        np.concatenate([log.values, alone.values]),
    )
    assert len(days_with_all_arms(both, HALVES).arms) == len(log.arms)
    found = analyse(both, HALVES, A)
    assert (found.days, found.left_out, found.first_day, found.last_day) == (5, 1, "2026-01-01", "2026-01-05")


def split(a: int, b: int) -> Units:
    return Units(np.repeat(["a", "b"], [a, b]), {})


def test_a_sample_ratio_mismatch_is_found() -> None:
    assert sample_ratio(split(9600, 10_400), HALVES) < 1e-7
    assert sample_ratio(split(9500, 500), {"a": 0.95, "b": 0.05}) == 1.0
    # χ² of 110 against 90, by hand: 2 · 10² / 100 = 2, and P(χ²₁ > 2) = 0.1573.
    assert sample_ratio(split(110, 90), HALVES) == pytest.approx(0.1573, abs=1e-4)


def test_a_sample_ratio_mismatch_is_rarely_cried() -> None:
    draws = np.random.default_rng(3).binomial(2000, 0.5, 4000)
    assert np.mean([sample_ratio(split(int(n), 2000 - int(n)), HALVES) < 1e-3 for n in draws]) < 0.003


def test_a_share_that_changes_is_found() -> None:
    days = np.datetime64("2026-01-01") + np.repeat([0, 1], 1000)
    same = np.tile(["a", "b"], 1000)
    changed = np.concatenate([np.repeat(["a", "b"], [950, 50]), np.repeat(["a", "b"], [800, 200])])
    assert share_drift(Units(same, {}, None, days)) > 0.9
    assert share_drift(Units(changed, {}, None, days)) < 1e-6
    assert share_drift(Units(same, {}, None, np.repeat(days[:1], 2000))) == 1.0


def test_periods_are_those_of_the_assignment() -> None:
    plan = Experiment("x", (Arm("a", 0.5), Arm("b", 0.5)), "switchback", 2)
    moments = np.datetime64("2026-01-01T00:00:00", "us") + np.arange(48) * np.timedelta64(3_599_999_999, "us")
    found = periods(moments, plan.periods)
    arms = np.array([assign(plan, "", moment).name for moment in moments.tolist()])
    assert len(np.unique(found)) == 24
    assert all(len(set(arms[found == period])) == 1 for period in found)
    assert periods(np.array(["1970-01-02T00:00", "1969-12-31T23:59"], dtype="datetime64[us]"), 12).tolist() == [12, -1]


# --- worlds with a known answer


def test_without_an_effect_the_fixed_horizon_errs_5_percent_and_the_always_valid_less() -> None:
    wrong = {name: np.zeros(2) for name in METRICS}
    for seed in range(SEEDS):
        units = only(np.random.default_rng(seed), 3000)
        for name in METRICS:
            found = compare(units, name, "b", A)
            assert found is not None
            wrong[name] += misses(found.difference), misses(found.difference_always)
    for name, (fixed, always) in wrong.items():
        assert 0.01 <= fixed / SEEDS <= 0.095, name  # 5 % ± 3 standard errors
        assert always / SEEDS <= 0.02, name


def test_looking_all_the_time_breaks_the_fixed_horizon_and_not_the_always_valid() -> None:
    fixed = always = 0
    for seed in range(SEEDS):
        units = only(np.random.default_rng(seed), 3000)
        looks = [compare(first(units, count), "ctr", "b", Design("a", planned=3000)) for count in range(200, 3001, 100)]
        fixed += any(misses(look.difference) for look in looks if look)
        always += any(misses(look.difference_always) for look in looks if look)
    assert fixed / SEEDS > 0.15
    assert always / SEEDS <= 0.05


def test_looking_daily_is_safe_with_visitors_who_come_back() -> None:
    """Here totals of old visitors grow as well, which the theory of one unit after another does not promise."""
    wrong = 0
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        arms, starts = np.where(rng.random(1500) < 0.5, "b", "a"), rng.integers(20, size=1500)
        days = np.arange(20)[:, None]
        comes = (days == starts) | ((days > starts) & (rng.random((20, 1500)) < 0.3))
        views = np.cumsum(comes * (1 + rng.poisson(3, comes.shape)), axis=0)
        clicks = np.cumsum(rng.binomial(np.diff(views, axis=0, prepend=0), rng.beta(1, 12, 1500)), axis=0)
        looks = [
            compare(
                Units(arms[seen > 0], {"views": seen[seen > 0] * 1.0, "clicks": had[seen > 0] * 1.0}), "ctr", "b", A
            )
            for seen, had in zip(views, clicks, strict=True)
        ]
        wrong += any(misses(look.difference_always) for look in looks if look)
    assert wrong / SEEDS <= 0.05


def test_a_switchback_errs_no_oftener_than_it_says() -> None:
    """Days and hours differ far more than arms do; two weeks of four periods a day."""
    fixed = always = 0
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        plan = Experiment("x", (Arm("a", 0.5), Arm("b", 0.5)), "switchback", 6, str(seed))
        arms = np.array([arm.name for day in range(14) for arm in turns(plan, date(2026, 1, 1 + day))])
        views = rng.poisson(np.tile([400, 1200, 1800, 1500], 14))
        clicks = rng.binomial(views, 0.05 * np.repeat(rng.lognormal(0, 0.15, 14), 4) * np.tile([0.8, 1, 1.1, 1.2], 14))
        totals = {"views": views.astype(np.float64), "clicks": clicks.astype(np.float64)}
        found = compare(Units(arms, totals), "ctr", "b", Design("a", "switchback"))
        assert found is not None
        fixed += misses(found.difference)
        always += misses(found.difference_always)
    assert fixed / SEEDS <= 0.095
    assert always / SEEDS <= 0.02


@pytest.mark.parametrize(("metric", "lift"), [("ctr", 0.2), ("value_per_view", 0.2)])
def test_intervals_cover_a_known_effect(metric: str, lift: float) -> None:
    """Every visitor's rate is a fifth higher, so ratio and difference are known."""
    truth = lift / 13 * (math.exp(2.125) if metric == "value_per_view" else 1)
    missed = np.zeros(4)
    for seed in range(SEEDS):
        found = compare(only(np.random.default_rng(seed), 3000, lift), metric, "b", A)
        assert found is not None
        assert found.lift is not None
        assert found.lift_always is not None
        missed += misses(found.difference, truth), misses(found.lift, lift), 0, 0
        missed += 0, 0, misses(found.difference_always, truth), misses(found.lift_always, lift)
    assert (missed[:2] / SEEDS <= 0.095).all()
    assert (missed[2:] / SEEDS <= 0.02).all()


def test_a_visitors_views_count_as_one() -> None:
    """Were they independent, intervals would be too narrow: repeating every row changes nothing."""
    log = shown(np.random.default_rng(5), 5, 1000)
    twice = log.where(np.ones(len(log.arms), dtype=bool))
    doubled = Shown(
        *(np.tile(getattr(twice, name), 2) for name in ("arms", "units", "sessions", "days", "clicked", "values"))
    )
    one, two = (compare(unit_totals(rows), "ctr", "b", A) for rows in (log, doubled))
    assert one is not None
    assert two is not None
    assert two.difference.high == pytest.approx(one.difference.high)


def test_cuped_is_unbiased_and_saves_the_square_of_the_correlation() -> None:
    rng = np.random.default_rng(4)
    errors, saved = [], []
    for _ in range(SEEDS):
        is_b, known = rng.random(1000) < 0.5, rng.normal(10, 1, 1000)
        value = 50 + 0.8 * known + 0.6 * rng.normal(size=1000) + 0.1 * is_b  # ρ = 0.8
        totals = {"views": np.ones(1000), "value": value}
        found = compare(Units(np.where(is_b, "b", "a"), totals, known), "value_per_view", "b", A)
        assert found is not None
        assert found.reduction is not None
        errors.append(found.difference.value - 0.1)
        saved.append(found.reduction)
    assert np.mean(saved) == pytest.approx(0.64, abs=0.01)
    assert np.std(errors) == pytest.approx(0.6 * 2 / 1000**0.5, rel=0.15)
    assert abs(np.mean(errors)) < 4 * np.std(errors) / SEEDS**0.5


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(-5, 5), st.floats(-5, 5)), min_size=6, max_size=40))
@settings(deadline=None)
def test_cuped_never_adds_spread_and_a_useless_covariate_changes_nothing(rows: list[tuple[int, float, float]]) -> None:
    arms = np.array([0, 1, 0, 1, *(row[0] for row in rows)]) == 1
    values = np.array([1.0, 2, 3, 4, *(row[1] for row in rows)])
    known = np.array([1.0, 1, 2, 2, *(row[2] for row in rows)])
    parts = [values[arms], values[~arms]]
    better = adjusted(parts, [known[arms], known[~arms]])
    assert np.mean(np.concatenate(better)) == pytest.approx(np.mean(values))
    centred = [one - one.mean() for one in (known[arms], known[~arms])]
    assert sum(float(one @ two) for one, two in zip(better, centred, strict=True)) == pytest.approx(0, abs=1e-9)
    within = [sum(float(np.sum((one - one.mean()) ** 2)) for one in side) for side in (parts, better)]
    assert within[1] <= within[0] * (1 + 1e-9)
    same = adjusted(parts, [np.ones(arms.sum()), np.ones((~arms).sum())])
    assert all(np.array_equal(one, other) for one, other in zip(parts, same, strict=True))


# --- decisions


@pytest.mark.parametrize(("lift", "verdict"), [(0.6, "ship"), (0.0, "hold"), (-0.5, "roll back")])
def test_a_decision_is_what_the_intervals_say(lift: float, verdict: str) -> None:
    found = decide(analyse(shown(np.random.default_rng(2), 10, 4000, lift), HALVES, Design("a", planned=4000)), "b")
    assert found.verdict == verdict
    assert "difference" in found.reasons[0]


def test_harm_to_another_metric_rolls_back_what_gained() -> None:
    log = shown(np.random.default_rng(2), 10, 4000, 0.6)
    free = replace(log, values=np.where(log.arms == "b", 0.2, 1.0) * log.values)
    found = decide(analyse(free, HALVES, A), "b")
    assert (found.verdict, len(found.reasons)) == ("roll back", 2)
    assert found.reasons[0].startswith("value_per_view fell: difference -")


def test_a_log_that_cannot_be_trusted_holds() -> None:
    log = shown(np.random.default_rng(2), 10, 4000, 0.6)
    analysis = analyse(log, HALVES, A)
    lost = replace(analysis, sample_ratio=1e-5, share_drift=1e-4, crossed=0.02)
    found = decide(lost, "b")
    assert found.verdict == "hold"
    assert [reason.split(":")[0].split("(")[0] for reason in found.reasons] == [
        "sample ratio mismatch",
        "shares changed from day to day ",
        "2.0% of visitors saw more than one arm; assignment was not sticky",
    ]
    assert decide(analysis, "b").verdict == "ship"
    few = analyse(shown(np.random.default_rng(2), 2, 60), HALVES, A)
    assert decide(few, "b").reasons == ["cannot say of ctr: too few units, or too few with any of it"]


def test_two_arms_and_three_guards_share_the_error() -> None:
    log = shown(np.random.default_rng(2), 3, 1500)
    thirds = np.where(np.char.endswith(log.units.astype(str), ("1",)), "c", log.arms)
    found = analyse(replace(log, arms=thirds), {"a": 0.45, "b": 0.45, "c": 0.1}, A)
    alphas = {one.metric: one.alpha for one in found.comparisons["b"].values() if one}
    assert set(found.comparisons) == {"b", "c"}
    assert alphas["ctr"] == 0.025
    assert alphas["session_ctr"] == pytest.approx(0.05 / 2 / 3)
