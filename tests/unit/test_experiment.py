"""Who gets which arm: sticky, by share, nested when an arm grows, and never one arm for a day."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from marquee.errors import SettingsError
from marquee.experiment import Arm, Experiment, assign, bucket, read_experiment, turns

NOW = datetime(2026, 2, 3, 12)
VISITORS = [f"v{n:06d}" for n in range(20_000)]


def split(*shares: float, name: str = "x", **other: Any) -> Experiment:
    return Experiment(name, tuple(Arm(f"arm{n}", share) for n, share in enumerate(shares)), **other)


def arms_of(experiment: Experiment, visitors: list[str] = VISITORS) -> list[str]:
    return [assign(experiment, visitor, NOW).name for visitor in visitors]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: split(0.5, 0.4), "experiment x: shares sum to 0.9; make them sum to 1"),
        (lambda: split(1.0), "experiment x: arms are 1; give at least two"),
        (lambda: split(1.5, -0.5), "experiment x: share of arm0 is 1.5; give one between 0 and 1"),
        (lambda: split(float("nan"), 0.5), "experiment x: share of arm0 is nan; give one between 0 and 1"),
        (lambda: Experiment("x", (Arm("a", 0.5), Arm("a", 0.5))), "arms have 'a' 2 times; give each a name of its own"),
        (lambda: Experiment("x", (Arm(" ", 0.5), Arm("a", 0.5))), "arms have one without a name; name each"),
        (lambda: split(0.5, 0.5, name="../x"), "use letters, digits, '_', '.' and '-', at most 100"),
        (lambda: split(0.5, 0.5, unit="day"), "unit is 'day'; use one of visitor, switchback"),
        (
            lambda: split(0.5, 0.5, unit="switchback", period_hours=24),
            "period_hours is 24; give more than 0 and at most",
        ),
        (lambda: split(0.5, 0.5, unit="switchback", period_hours=5), "is 5; give one that divides a day of 24 hours"),
        (
            lambda: split(0.95, 0.05, unit="switchback", period_hours=2),
            "share of arm0 is 0.95; make it a whole number of a day's 12 periods",
        ),
    ],
)
def test_what_is_no_experiment_is_refused_in_one_line(make: Any, told: str) -> None:
    with pytest.raises(SettingsError) as error:
        make()
    assert told in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_the_bucket_is_the_same_everywhere() -> None:
    assert bucket("v1", "salt") == 0.30351671175416794
    code = "from marquee.experiment import bucket; print(repr(bucket('v1', 'salt')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == bucket("v1", "salt")


@given(st.text(), st.text())
def test_a_bucket_takes_any_id_and_is_in_the_unit_interval(unit_id: str, salt: str) -> None:
    assert 0 <= bucket(unit_id, salt) < 1


def test_buckets_are_uniform() -> None:
    assert stats.kstest([bucket(visitor, "x") for visitor in VISITORS], "uniform").pvalue > 0.001


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.95, 0.05), (0.2, 0.3, 0.5)])
def test_arms_get_their_shares(shares: tuple[float, ...]) -> None:
    counts = Counter(arms_of(split(*shares)))
    expected = [share * len(VISITORS) for share in shares]
    assert stats.chisquare([counts[f"arm{n}"] for n in range(len(shares))], expected).pvalue > 0.001


@given(st.text(max_size=20), st.datetimes(), st.datetimes())
def test_a_visitor_keeps_the_arm(visitor: str, at: datetime, later: datetime) -> None:
    assert assign(split(0.3, 0.3, 0.4), visitor, at) == assign(split(0.3, 0.3, 0.4), visitor, later)


@given(st.lists(st.integers(1, 50), min_size=2, max_size=5), st.data())
@settings(deadline=None)
def test_an_arm_that_grows_keeps_its_visitors(weights: list[int], data: st.DataObject) -> None:
    """Whatever the arms' order, and whichever of the others shrink."""
    grown = data.draw(st.integers(0, len(weights) - 1))
    kept = data.draw(st.lists(st.floats(0.05, 1), min_size=len(weights), max_size=len(weights)))
    shares = np.array(weights) / sum(weights)
    after = shares * kept
    after[grown] += 1 - after.sum()
    old, new = arms_of(split(*shares), VISITORS[:300]), arms_of(split(*after), VISITORS[:300])
    kept_it = [other == f"arm{grown}" for one, other in zip(old, new, strict=True) if one == f"arm{grown}"]
    assert all(kept_it)
    if len(weights) == 2:
        assert {one for one, other in zip(old, new, strict=True) if one != other} <= {f"arm{1 - grown}"}


def test_a_canary_grows_from_5_to_20_percent() -> None:
    small, large = arms_of(split(0.95, 0.05)), arms_of(split(0.8, 0.2))
    canary = {v for v, arm in zip(VISITORS, small, strict=True) if arm == "arm1"}
    grown = {v for v, arm in zip(VISITORS, large, strict=True) if arm == "arm1"}
    assert canary < grown
    assert (round(len(canary) / 20_000, 2), round(len(grown) / 20_000, 2)) == (0.05, 0.2)


@pytest.mark.parametrize("other", [{"name": "y"}, {"name": "x", "salt": "again"}])
def test_experiments_of_other_names_or_salts_are_independent(other: dict[str, str]) -> None:
    table = stats.contingency.crosstab(arms_of(split(0.5, 0.5)), arms_of(split(0.5, 0.5, **other))).count
    assert table.shape == (2, 2)
    assert stats.chi2_contingency(table).pvalue > 0.001


DAY = date(2026, 2, 3)


@given(st.dates(), st.sampled_from([(12.0, (1, 1)), (6.0, (3, 1)), (1.0, (12, 6, 6)), (0.5, (24, 24))]))
def test_each_day_of_a_switchback_holds_every_arm_by_its_share(day: date, plan: tuple[float, tuple[int, ...]]) -> None:
    hours, counts = plan
    experiment = split(*(count / sum(counts) for count in counts), unit="switchback", period_hours=hours)
    shown = Counter(arm.name for arm in turns(experiment, day))
    assert shown == {f"arm{n}": count for n, count in enumerate(counts)}


def test_the_order_of_turns_is_random_over_days() -> None:
    experiment = split(0.5, 0.5, unit="switchback", period_hours=12)
    first = Counter(turns(experiment, DAY + timedelta(days=n))[0].name for n in range(1000))
    assert stats.binomtest(first["arm0"], 1000).pvalue > 0.001


def test_in_a_switchback_all_get_the_arm_of_the_period_in_utc() -> None:
    experiment = split(0.5, 0.5, unit="switchback", period_hours=6)
    order = turns(experiment, DAY)
    for hour in range(24):
        at = datetime(2026, 2, 3, hour, 59, 59, 999_999)
        assert {assign(experiment, visitor, at) for visitor in VISITORS[:20]} == {order[hour // 6]}
        elsewhere = at.replace(tzinfo=UTC).astimezone(timezone(timedelta(hours=9)))
        assert assign(experiment, "v", elsewhere) == order[hour // 6]


TOML = """
unit = "visitor"
[[arms]]
name = "champion"
share = 0.95
[[arms]]
name = "canary"
share = 0.05
bundle = "banner_bundle:0123"
"""


def test_an_experiment_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "hero.toml").write_text(TOML)
    found = read_experiment(tmp_path / "hero.toml")
    assert found == Experiment("hero", (Arm("champion", 0.95), Arm("canary", 0.05, "banner_bundle:0123")))
    assert found.arm("canary").share == 0.05
    with pytest.raises(SettingsError, match="arms have no 'other'; name one of champion, canary"):
        found.arm("other")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (TOML.replace("unit", "units"), "unknown key 'units'; use unit, period_hours, salt"),
        (TOML.replace("bundle", "model"), "unknown key 'model'; use name, share, bundle"),
        (TOML.replace("0.05", '"5 %"'), "share is '5 %'; give a number"),
        (TOML.replace("share = 0.05", ""), "an arm has no share; give each a name and a share"),
        ("arms = 3", "arms must be tables; begin each with [[arms]]"),
        ("[[arms", "not valid TOML"),
        (None, "there is no such experiment; describe its arms there"),
    ],
)
def test_a_file_that_describes_none_is_refused(text: str | None, told: str, tmp_path: Path) -> None:
    path = tmp_path / "hero.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SettingsError) as error:
        read_experiment(path)
    assert str(error.value).startswith(f"{path}: ")
    assert told in str(error.value)
