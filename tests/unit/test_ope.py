"""Off-policy estimators against fractions worked out by hand, against each other, and on the Open Bandit files."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from numpy.typing import NDArray

from training import metrics, ope
from training.metrics import Estimate
from training.ope import Floats, LoggedActions, Terms

DATA = Path(os.environ.get("MARQUEE_DATA") or Path(__file__).parents[3] / "shared" / "data")
WEIGHTED = {"replay", "ips", "snips", "dr", "switch_dr", "dr_os"}

# Weights 1/2, 2, 1, 0; the model misses by 1/2, −1/4, 1/2, −1/4.
TABLE = LoggedActions(
    rewards=np.array([1.0, 0.0, 1.0, 0.0]),
    logged=np.array([1 / 2, 1 / 4, 1 / 4, 1 / 2]),
    target=np.array([1 / 4, 1 / 2, 1 / 4, 0.0]),
    groups=["a", "a", "b", "c"],
    q_taken=np.array([1 / 2, 1 / 4, 1 / 2, 1 / 4]),
    q_target=np.array([1 / 2, 1 / 2, 1 / 4, 3 / 4]),
)


def value(terms: Terms) -> float:
    return ope.intervals({"one": terms}, np.arange(len(terms.above)).astype(str), seed=0)["one"].value


def many(rows: int, **columns: Floats | NDArray[np.str_]) -> LoggedActions:
    """A log with full overlap, each row its own group, but for the columns given."""
    half = np.full(rows, 1 / 2)
    log = LoggedActions(np.ones(rows), half, half, np.arange(rows).astype(str), half, half)
    return replace(log, **columns)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        (ope.ips(TABLE), (1 / 2 + 1) / 4),
        (ope.snips(TABLE), (1 / 2 + 1) / (1 / 2 + 2 + 1)),
        (ope.direct_method(TABLE), (1 / 2 + 1 / 2 + 1 / 4 + 3 / 4) / 4),
        # The model's 2 in all, and 1/2·1/2 − 2·1/4 + 1·1/2.
        (ope.doubly_robust(TABLE), (2 + 1 / 4) / 4),
        # Weight 2 is dropped.
        (ope.switch_dr(TABLE, 1.0), (2 + 1 / 4 + 1 / 2) / 4),
        (ope.switch_dr(TABLE, 2.0), (2 + 1 / 4) / 4),
        # Weights shrink to 2/5, 2/5, 1/2, 0.
        (ope.dr_os(TABLE, 1.0), (2 + 1 / 5 - 1 / 10 + 1 / 4) / 4),
        # Weights shrink to 4/9, 2/3, 2/3, 0.
        (ope.dr_os(TABLE, 2.0), (2 + 2 / 9 - 1 / 6 + 1 / 3) / 4),
    ],
)
def test_estimators_by_hand(terms: Terms, expected: float) -> None:
    assert value(terms) == pytest.approx(expected)


def test_replay_keeps_the_rows_where_a_fixed_policy_agrees_with_a_uniform_log() -> None:
    rewards, target = np.array([1.0, 1.0, 0.0, 1.0, 0.0]), np.array([1.0, 0.0, 1.0, 1.0, 0.0])
    terms = ope.replay(LoggedActions(rewards, np.full(5, 1 / 3), target, list("abcde")), seed=0)
    assert terms.below.tolist() == [1, 0, 1, 1, 0]
    assert value(terms) == pytest.approx(2 / 3)


def test_replay_keeps_rows_as_often_as_their_weight_says() -> None:
    kept = np.mean([ope.replay(TABLE, seed).below for seed in range(4_000)], axis=0)
    assert kept == pytest.approx([1 / 4, 1, 1 / 2, 0], abs=0.03)
    assert kept[1] == 1
    assert kept[3] == 0
    assert not ope.replay(replace(TABLE, target=np.zeros(4)), seed=0).below.any()


def test_effective_sample_by_hand() -> None:
    assert ope.effective_sample(np.array([2.0, 1.0, 0.0])) == pytest.approx(9 / 5)
    assert ope.effective_sample(np.zeros(3)) == 0


def test_intervals_resample_whole_groups() -> None:
    # Of the groups (2 of 2) and (0 of 1) a resample has both, the first twice or the second twice: 2/3, 1 or 0.
    terms = Terms(np.array([1.0, 1.0, 0.0]), np.ones(3))
    assert ope.intervals({"x": terms}, ["a", "a", "b"], seed=1)["x"] == Estimate(2 / 3, 0.0, 1.0)
    assert ope.intervals({"x": terms}, ["a", "a", "a"], seed=1)["x"] == Estimate(2 / 3, 2 / 3, 2 / 3)


def test_intervals_are_those_of_the_bootstrap_for_any_statistic() -> None:
    rng = np.random.default_rng(5)
    above, below, groups = rng.random(300), rng.random(300), rng.integers(40, size=300).astype(str)
    found = ope.intervals({"mean": Terms(above, np.ones(300)), "ratio": Terms(above, below)}, groups, seed=3)
    for name, statistic in (("mean", metrics.weighted_mean(above)), ("ratio", metrics.weighted_mean(above, below))):
        expected = metrics.bootstrap(statistic, groups, seed=3)
        assert (found[name].value, found[name].low, found[name].high) == pytest.approx(
            (expected.value, expected.low, expected.high)
        )


# --- what must hold on any log --------------------------------------------------------------------------------

unit, propensity = st.floats(0, 1), st.floats(0.05, 1)
rows = st.lists(st.tuples(unit, propensity, unit, unit, unit), min_size=1, max_size=12)


def log_of(table: list[tuple[float, ...]]) -> LoggedActions:
    rewards, logged, target, q_taken, q_target = np.array(table).T
    return LoggedActions(rewards, logged, target, np.arange(len(table)).astype(str), q_taken, q_target)


@effort(deadline=None)
@given(rows, unit)
def test_snips_of_a_constant_is_that_constant(table: list[tuple[float, ...]], reward: float) -> None:
    log = log_of(table)
    if log.weights.sum() > 1e-9:
        assert value(ope.snips(replace(log, rewards=np.full(len(table), reward)))) == pytest.approx(reward)


@effort(deadline=None)
@given(rows)
def test_a_policy_judged_by_its_own_log_earned_what_it_did(table: list[tuple[float, ...]]) -> None:
    log = log_of(table)
    own = replace(log, target=log.logged)
    for terms in (ope.ips(own), ope.snips(own), ope.replay(own, 1)):
        assert value(terms) == pytest.approx(log.rewards.mean())


@effort(deadline=None)
@given(rows)
def test_without_a_model_doubly_robust_is_ips(table: list[tuple[float, ...]]) -> None:
    nothing = np.zeros(len(table))
    log = replace(log_of(table), q_taken=nothing, q_target=nothing)
    assert ope.doubly_robust(log).above == pytest.approx(ope.ips(log).above)


@effort(deadline=None)
@given(rows, unit)
def test_doubly_robust_with_a_perfect_model_has_no_variance(table: list[tuple[float, ...]], truth: float) -> None:
    log = log_of(table)
    log = replace(log, q_taken=log.rewards, q_target=np.full(len(table), truth))
    assert ope.doubly_robust(log).above == pytest.approx(np.full(len(table), truth))


@effort(deadline=None)
@given(rows)
def test_switch_and_shrinkage_run_from_the_model_alone_to_doubly_robust(table: list[tuple[float, ...]]) -> None:
    log = log_of(table)
    model, robust = ope.direct_method(log).above, ope.doubly_robust(log).above
    for estimator in (ope.switch_dr, ope.dr_os):
        assert estimator(log, 0.0).above == pytest.approx(model)
        assert estimator(log, 1e-12).above == pytest.approx(model, abs=1e-5)
        assert estimator(log, float("inf")).above == pytest.approx(robust)
        assert estimator(log, 1e12).above == pytest.approx(robust)
        # In between, each row stands between both.
        middle = estimator(log, 2.0).above
        assert (np.minimum(model, robust) - 1e-9 <= middle).all()
        assert (middle <= np.maximum(model, robust) + 1e-9).all()


# --- cannot say -----------------------------------------------------------------------------------------------


def said(log: LoggedActions) -> set[str]:
    return {name for name, estimate in ope.policy_values(log, seed=1).items() if estimate}


def test_all_answer_where_the_log_covers_the_policy() -> None:
    assert said(many(200)) == WEIGHTED | {"dm"}
    assert ope.policy_values(many(200, q_taken=None, q_target=None), seed=1).keys() == {"replay", "ips", "snips"}


@pytest.mark.parametrize("rows", [100, 5_000])
def test_without_overlap_only_the_model_can_speak(rows: int) -> None:
    log = many(rows, target=np.zeros(rows))
    assert ope.policy_values(log, seed=1).keys() == WEIGHTED | {"dm"}
    assert said(log) == {"dm"}


def test_few_rows_few_visitors_or_few_heavy_rows_say_nothing() -> None:
    assert said(many(99)) == set()
    assert said(many(100)) == WEIGHTED | {"dm"}
    assert said(many(2_900, groups=(np.arange(2_900) % 29).astype(str))) == set()
    assert said(many(3_100, groups=(np.arange(3_100) % 31).astype(str))) == WEIGHTED | {"dm"}
    # 1,000 rows, but half of the weight lies on ten of them.
    few = np.arange(1_000) < 10
    heavy = many(1_000, logged=np.where(few, 1 / 50, 1.0), target=np.where(few, 1.0, 1 / 2))
    assert ope.effective_sample(heavy.weights) == pytest.approx((500 + 495) ** 2 / (990 / 4 + 10 * 50**2))
    assert said(heavy) == {"dm"}


def test_a_policy_that_acts_where_the_log_has_nothing_is_not_judged() -> None:
    """In 30 % of the rows the target policy would do what was never logged, so the rest says only 70 % of it."""
    absent = np.arange(1_000) % 10 < 3
    log = many(1_000, target=np.where(absent, 0.0, 1 / 2))
    assert ope.effective_sample(log.weights) == 700
    assert said(log) == {"dm"}
    assert ope.policy_value(log.rewards, log.target, log.logged, log.groups, seed=1) == (None, 700)
    # Of 4 % nobody needs to know; and in a short log 10 % can be chance.
    assert "snips" in said(many(1_000, target=np.where(np.arange(1_000) % 25 == 0, 0.0, 1 / 2)))
    assert "snips" in said(many(120, target=np.where(np.arange(120) % 12 == 0, 0.0, 1 / 2)))


def test_propensities_that_cannot_be_the_logs_are_noticed() -> None:
    """They are twice too low, so the weights are twice too high: nothing is left of a mean weight of 1."""
    assert said(many(1_000, logged=np.full(1_000, 1 / 4))) == {"dm"}


def test_replay_needs_rows_that_were_kept() -> None:
    """Five rows of weight 20 among 995 of 0.9: enough for all others, but of the many only 4.5 % are kept."""
    few = np.arange(1_000) < 5
    log = many(1_000, logged=np.where(few, 0.05, 0.5), target=np.where(few, 1.0, 0.45))
    assert ope.replay(log, seed=1).below.sum() < 100 < ope.effective_sample(log.weights)
    assert said(log) == (WEIGHTED | {"dm"}) - {"replay"}


@pytest.mark.parametrize(
    "columns",
    [
        {"logged": np.array([0.5, 0.0])},
        {"logged": np.array([0.5, 1.5])},
        {"logged": np.array([0.5, np.nan])},
        {"target": np.array([0.5, -0.1])},
        {"target": np.array([0.5, 1.1])},
        {"rewards": np.ones(3)},
        {"groups": np.array(["a"])},
        {"q_taken": np.ones(1)},
    ],
)
def test_what_is_no_log_is_refused(columns: dict[str, Floats]) -> None:
    with pytest.raises(ValueError, match=r"probabilities|equally long"):
        many(2, **columns)


def test_a_model_is_asked_for_by_name() -> None:
    with pytest.raises(ValueError, match="reward model"):
        ope.doubly_robust(many(2, q_target=None))


def test_no_rows_say_nothing() -> None:
    assert said(many(0)) == set()


def test_off_policy_value_recovers_the_truth_and_refuses_to_guess() -> None:
    rng, n = np.random.default_rng(1), 8_000
    rates = np.array([0.1, 0.3, 0.6])
    actions = rng.integers(3, size=n)
    rewards = (rng.random(n) < rates[actions]).astype(float)
    target = np.array([0.1, 0.1, 0.8])
    groups = np.arange(n).astype(str)
    estimate, size = ope.policy_value(rewards, target[actions], np.full(n, 1 / 3), groups, seed=1)
    assert estimate is not None
    assert estimate.low < float(rates @ target) < estimate.high
    assert size > ope.LEAST_EFFECTIVE_SAMPLE
    few, size = ope.policy_value(rewards[:90], target[actions[:90]], np.full(90, 1 / 3), groups[:90], seed=1)
    assert few is None
    assert size < ope.LEAST_EFFECTIVE_SAMPLE


# --- Open Bandit: two policies that logged the same campaigns, each judged from the other's log -----------------


def open_bandit(policy: str, campaign: str) -> pd.DataFrame:
    """One log, 10,000 rows. Nobody is named: a ``session`` here is what users of the same features did in one hour."""
    path = DATA / "open_bandit" / policy / campaign / f"{campaign}.csv.gz"
    if not path.exists():
        pytest.skip(f"open_bandit is not under {DATA}; set MARQUEE_DATA to the folder that holds it")
    features = [f"user_feature_{number}" for number in range(4)]
    frame = pd.read_csv(path, usecols=["timestamp", "item_id", "position", "click", "propensity_score", *features])
    return frame.assign(session=frame["timestamp"].str[:13].str.cat(frame[features], sep=" "))


def shares_of(frame: pd.DataFrame, policy: str) -> Floats:
    """[3, items] how often the policy shows each item at each position; Thompson sampling's over its whole log."""
    items = frame["item_id"].max() + 1
    if policy == "random":
        return np.full((3, items), 1 / items)
    counts = np.zeros((3, items))
    np.add.at(counts, (frame["position"] - 1, frame["item_id"]), 1)
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def item_rates(frame: pd.DataFrame) -> Floats:
    """[n, items] reward model of each row: items' click rates in the other half of sessions, drawn to their mean."""
    half = pd.util.hash_array(frame["session"].to_numpy()) % 2
    clicks, shown = np.zeros((2, frame["item_id"].max() + 1)), np.zeros((2, frame["item_id"].max() + 1))
    np.add.at(clicks, (1 - half, frame["item_id"]), frame["click"])
    np.add.at(shown, (1 - half, frame["item_id"]), 1)
    mean = clicks.sum(axis=1, keepdims=True) / shown.sum(axis=1, keepdims=True)
    return np.asarray((clicks + 300 * mean) / (shown + 300))[half]


def judged_from(logging: str, judged: str, campaign: str) -> tuple[LoggedActions, Estimate]:
    """The first policy's log with the second's probabilities, and what the second earned in its own log."""
    log, own = open_bandit(logging, campaign), open_bandit(judged, campaign)
    shares, rates = shares_of(own, judged)[log["position"] - 1], item_rates(log)
    each, items = np.arange(len(log)), log["item_id"].to_numpy()
    table = LoggedActions(
        log["click"].to_numpy(float),
        log["propensity_score"].to_numpy(float),
        shares[each, items],
        log["session"].to_numpy(str),
        rates[each, items],
        (shares * rates).sum(axis=1),
    )
    mean = metrics.bootstrap(metrics.weighted_mean(own["click"].to_numpy(float)), own["session"].to_numpy(str), seed=1)
    return table, mean


@pytest.mark.parametrize(
    ("logging", "judged", "campaign", "answers"),
    [
        ("random", "bts", "men", WEIGHTED | {"dm"}),
        ("random", "bts", "women", WEIGHTED | {"dm"}),
        ("bts", "random", "men", (WEIGHTED | {"dm"}) - {"replay"}),
        # Thompson sampling hardly ever shows most items: one row in ten thousand carries most of the weight.
        ("bts", "random", "women", {"dm"}),
    ],
)
def test_each_open_bandit_policy_is_worth_what_its_own_log_says(
    logging: str, judged: str, campaign: str, answers: set[str]
) -> None:
    log, mean = judged_from(logging, judged, campaign)
    estimates = ope.policy_values(log, seed=1)
    assert {name for name, estimate in estimates.items() if estimate} == answers
    for name in answers & WEIGHTED:
        estimate = estimates[name]
        assert estimate is not None
        assert estimate.low <= mean.value <= estimate.high, (name, estimate, mean)
        assert estimate.high - estimate.low < 0.01, "too wide an interval would agree with anything"
