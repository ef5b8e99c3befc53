"""The click model: what it learns, that it is calibrated and kept, and its inputs as they stood at sending."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from marquee.errors import BundleError
from marquee.notifications import OUTCOMES
from training.metrics import auc, calibration_error
from training.notifications.bandit import REWARDS
from training.notifications.caps import UNKNOWN
from training.notifications.click_model import (
    INPUTS,
    LONGEST_DAYS,
    ClickModel,
    ClickModelSettings,
    click_inputs,
    click_rates,
    device_codes,
    fit_click_model,
)
from training.notifications.local_time import DAY
from training.notifications.past import Past, habit_ratio, standing, teach, training_rows
from training.notifications.rules import Rules
from training.notifications.send_time import BUCKETS, HOURS

TYPES = ("gift", "news", "offer")
CLICKED, DISMISSED, IGNORED = (OUTCOMES.index(name) for name in ("clicked", "dismissed", "ignored"))


def sampled(size: int, seed: int) -> tuple[Any, Any, Any, Any]:
    """Inputs, clicks, visitors and true chances, where type, device and habit matter."""
    rng = np.random.default_rng(seed)
    columns = {name: np.zeros(size) for name in INPUTS}
    columns |= {"type": rng.integers(0, 3, size), "device": rng.integers(0, 3, size)}
    columns |= {"hour": rng.integers(9, 21, size), "habit": rng.normal(0, 1, size)}
    odds = -2.5 + 0.8 * (columns["type"] == 2) + 0.5 * (columns["device"] == 1) + 0.7 * columns["habit"]
    chances = 1 / (1 + np.exp(-odds))
    return click_inputs(columns, size), rng.random(size) < chances, rng.integers(0, size // 5, size), chances


@pytest.fixture(scope="module", params=["boosted", "forest"])
def model(request: pytest.FixtureRequest) -> ClickModel:
    inputs, clicked, visitor, _ = sampled(20_000, 1)
    found = fit_click_model(inputs, clicked, visitor, TYPES, ClickModelSettings(kind=request.param))
    assert found is not None
    return found


def test_it_tells_who_clicks_and_means_what_it_says(model: ClickModel) -> None:
    inputs, clicked, _, chances = sampled(20_000, 2)
    told = model.predict(inputs)
    assert auc(clicked, told) > auc(clicked, chances) - 0.02
    assert calibration_error(clicked, told) < 0.015
    assert np.corrcoef(told, chances)[0, 1] > 0.9
    assert model.quality["log_loss"] < model.quality["base_log_loss"]


def test_it_is_kept_without_pickles(model: ClickModel, tmp_path: Path) -> None:
    inputs, *_ = sampled(500, 3)
    model.save(tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["clicks.json", "clicks.ubj"]
    again = ClickModel.load(tmp_path / "model")
    assert again.predict(inputs).tolist() == model.predict(inputs).tolist()
    assert again.types == TYPES
    (tmp_path / "model" / "clicks.ubj").write_bytes(b"no trees")
    with pytest.raises(BundleError, match="fit it again"):
        ClickModel.load(tmp_path / "model")
    with pytest.raises(BundleError, match="cannot be read"):
        ClickModel.load(tmp_path)


def test_too_little_is_no_model() -> None:
    inputs, clicked, visitor, _ = sampled(2_000, 4)
    assert fit_click_model(inputs[:400], clicked[:400], visitor[:400], TYPES) is None
    assert fit_click_model(inputs, np.zeros(2_000, dtype=bool), visitor, TYPES) is None
    assert fit_click_model(inputs, np.ones(2_000, dtype=bool), visitor, TYPES) is None


def test_inputs_by_hand() -> None:
    assert device_codes(["mobile", "desktop", "fridge", "unknown"]).tolist() == [1, 0, 3, 3]
    assert click_rates(np.array([0, 5]), np.array([0, 40]), 0.1) == pytest.approx([0.1, 6 / 50])
    assert habit_ratio(np.array([1 / HOURS, 2 / HOURS])) == pytest.approx([0, np.log(2)])


def past(*rows: tuple[int, float, int, int]) -> Past:
    """From visitor, days, type and outcome; at nine, without knowing more."""
    who, days, types, outcomes = (np.array(column) for column in zip(*rows, strict=True))
    zeros, nine = np.zeros(len(who), dtype=np.int64), np.full(len(who), 9)
    at = (days * DAY).astype(np.int64).astype("datetime64[s]")
    return Past(who, types, zeros, at, outcomes, nine, nine // 3, zeros, zeros, np.full(len(who), 0.5))


def test_inputs_stand_as_before_each_sending() -> None:
    """By hand; rows out of order, and one whose outcome is not known yet."""
    found = past(
        (1, 4.0, 0, CLICKED),
        (0, 3.0, 0, IGNORED),
        (0, 1.0, 0, DISMISSED),
        (0, 9.0, 1, CLICKED),
        (0, 5.0, 0, UNKNOWN),
        (0, 11.5, 2, IGNORED),
    )
    matrix, clicked, visitor = training_rows(found, np.full((2, HOURS), 1 / HOURS))
    column = {name: matrix[:, place].tolist() for place, name in enumerate(INPUTS)}
    assert visitor.tolist() == [0, 0, 0, 0, 1]
    assert clicked.tolist() == [False, False, True, False, True]
    assert column["type"] == [0, 0, 1, 2, 0]
    assert column["days_since"] == [LONGEST_DAYS, 2.0, 4.0, 2.5, LONGEST_DAYS]
    assert column["streak"] == [0, 1, 2, 0, 0]
    rate = (2 + 0.5) / (5 + 10)
    assert column["click_rate"] == pytest.approx(
        [(10 * rate + one) / (10 + all_) for one, all_ in ((0, 0), (0, 1), (0, 2), (1, 3), (0, 0))]
    )


def test_standing_by_hand() -> None:
    found = standing(past((0, 1.0, 0, CLICKED), (0, 2.0, 1, IGNORED), (2, 3.0, 0, UNKNOWN)), 3, 2)
    assert found.streak.tolist() == [1, 0, 0]
    assert found.last_at[[0, 2]].tolist() == np.array([2 * DAY, 3 * DAY], dtype="datetime64[s]").tolist()
    assert found.type_at[0].tolist() == np.array([DAY, 2 * DAY], dtype="datetime64[s]").tolist()
    assert (found.last_at[1] < np.datetime64("1900-01-01", "s")) & (found.click_rate[0] > found.click_rate[1])


def test_the_bandit_is_taught_what_is_known_and_logged() -> None:
    rules = Rules({"loyal": TYPES})
    rows = past((0, 1.0, 0, CLICKED), (0, 2.0, 1, IGNORED), (1, 3.0, 0, UNKNOWN), (1, 4.0, 2, DISMISSED))
    bandit = rules.new_bandit()
    teach(bandit, rows)
    assert bandit.rounds.sum() == 3
    assert bandit.reward[0, 0 * BUCKETS + 3] == REWARDS["clicked"] / 0.5
    assert bandit.reward[0, 2 * BUCKETS + 3] == REWARDS["dismissed"] / 0.5
    nothing = rules.new_bandit()
    teach(nothing, Past.empty())
    assert nothing.rounds.sum() == 0
