"""Bootstrap intervals against what statistics says of them."""

from __future__ import annotations

import numpy as np
import pytest

from training.harness.intervals import difference, intervals


class TestIntervals:
    def test_of_a_constant_there_is_no_doubt(self) -> None:
        found = intervals({"hr@1": np.ones(10)})["hr@1"]
        assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)

    def test_width_is_the_normal_one(self) -> None:
        """For n draws of a coin the standard error is √(1/4 / n), so the interval is about 2 · 1.96 of it wide."""
        values = np.random.default_rng(0).integers(0, 2, 4000).astype(float)
        found = intervals({"hr@1": values}, draws=2000)["hr@1"]
        assert found.value == values.mean()
        assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 4000), rel=0.1)
        assert found.low < found.value < found.high

    def test_questions_of_one_asker_stay_together(self) -> None:
        """Each asker's four answers are alike, so there are 500 draws of a coin and not 2,000: √4 times as wide."""
        values = np.repeat(np.random.default_rng(0).integers(0, 2, 500).astype(float), 4)
        groups = np.repeat(np.char.mod("u%d", np.arange(500)), 4)
        apart, together = intervals({"m": values})["m"], intervals({"m": values}, groups)["m"]
        assert (together.high - together.low) / (apart.high - apart.low) == pytest.approx(2.0, rel=0.15)
        assert together.value == apart.value

    def test_groups_of_other_sizes_are_weighted_by_their_questions(self) -> None:
        values, groups = np.array([1.0, 1.0, 1.0, 0.0]), np.array([0, 0, 0, 1])
        found = intervals({"m": values}, groups, draws=500)["m"]
        assert (found.value, found.low, found.high) == (0.75, 0.0, 1.0)  # one of four draws has only one of them

    def test_the_same_seed_gives_the_same(self) -> None:
        values = {"m": np.random.default_rng(0).random(300)}
        assert intervals(values, seed=1) == intervals(values, seed=1) != intervals(values, seed=2)
        assert intervals({"m": np.zeros(0)})["m"].value != intervals({"m": np.zeros(0)})["m"].value  # NaN
        assert intervals({}) == {}

    def test_a_paired_difference_sees_what_two_intervals_hide(self) -> None:
        rng = np.random.default_rng(0)
        hard = rng.random(2000)
        better, worse = {"m": hard + 0.01, "only": hard}, {"m": hard}
        gap = difference(better, worse)
        assert list(gap) == ["m"]
        assert gap["m"].low == pytest.approx(0.01)
        alone = intervals(worse)["m"]
        assert alone.low < intervals(better)["m"].low < alone.high

    def test_coverage_of_the_truth(self) -> None:
        """Of 200 samples of clustered coins, about 95 % of the intervals hold one half."""
        held = 0
        for seed in range(200):
            rng = np.random.default_rng(seed)
            chances = np.repeat(rng.beta(2, 2, 80), 3)
            values = (rng.random(240) < chances).astype(float)
            found = intervals({"m": values}, np.repeat(np.arange(80), 3), seed, draws=200)["m"]
            held += found.low <= 0.5 <= found.high
        assert 0.89 <= held / 200 <= 0.99
