"""Effects of banners: by hand, shrunk as a posterior must be, and found in a world where they are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.banner_effects import PRIOR_DEVIATION, BannerEffects, Floats, fit_banner_effects, with_effects

logs = st.lists(
    st.tuples(st.floats(1e-6, 1 - 1e-6), st.booleans(), st.integers(0, 2)), min_size=1, max_size=40
)  # probability, clicked, banner
priors = st.floats(0.05, 3.0)


def fitted(log: list[tuple[float, bool, int]], prior: float = PRIOR_DEVIATION, banners: int = 3) -> BannerEffects:
    probabilities, clicked, rows = (np.array(column) for column in zip(*log, strict=True))
    return fit_banner_effects(probabilities, clicked, rows.astype(np.int64), banners, prior)


def surplus(log: list[tuple[float, bool, int]], effects: Floats) -> Floats:
    """[3] clicks above those expected with these effects."""
    total = np.zeros(3)
    for p, clicked, row in log:
        total[row] += clicked - with_effects(np.array([p]), effects[[row]][None])[0, 0]
    return total


def test_one_banner_by_hand() -> None:
    """7 of 8 at one half, prior variance log 3: at an effect of log 3 six are expected, and 7 − 6 = log 3 / log 3."""
    found = fitted([(0.5, click < 7, 1) for click in range(8)], np.sqrt(np.log(3)))
    assert found.mean == pytest.approx([0.0, np.log(3), 0.0])
    curvature = 8 * 0.75 * 0.25 + 1 / np.log(3)
    assert found.deviation == pytest.approx([np.sqrt(np.log(3)), curvature**-0.5, np.sqrt(np.log(3))])


def test_two_probabilities_by_hand() -> None:
    """Odds 1/2 and 1/8 become 1 and 1/4 at log 2: 1/2 + 1/5 expected of one each, ten each 7; 8 clicks leave 1."""
    log = [(1 / 3, row < 6, 0) for row in range(10)] + [(1 / 9, row < 2, 0) for row in range(10)]
    found = fitted(log, np.sqrt(np.log(2)), banners=1)
    assert found.mean == pytest.approx([np.log(2)])
    assert found.deviation == pytest.approx([(10 * 0.25 + 10 * 0.16 + 1 / np.log(2)) ** -0.5])


def test_a_log_without_rows_leaves_the_prior() -> None:
    found = fit_banner_effects(np.empty(0), np.empty(0, bool), np.empty(0, np.int64), 2)
    assert (found.mean.tolist(), found.deviation.tolist()) == ([0.0, 0.0], [PRIOR_DEVIATION] * 2)
    none = fit_banner_effects(np.empty(0), np.empty(0, bool), np.empty(0, np.int64), 0)
    assert len(none.mean) == 0


@pytest.mark.parametrize("clicked", [True, False])
def test_certain_probabilities_that_are_wrong_have_a_mode_too(clicked: bool) -> None:
    log = [(0.0 if clicked else 1.0, clicked, 0)] * 5_000
    found = fitted(log, 3.0)
    assert found.mean[0] / 9 == pytest.approx(surplus(log, found.mean)[0], abs=1e-6)
    assert 10 < abs(found.mean[0]) < 30


@given(logs, priors)
def test_the_posterior_is_where_evidence_and_prior_balance(log: list[tuple[float, bool, int]], prior: float) -> None:
    found = fitted(log, prior)
    assert found.mean / prior**2 == pytest.approx(surplus(log, found.mean), abs=1e-6)
    before = surplus(log, np.zeros(3))
    assert np.all(found.mean * before >= -1e-9), "an effect has the sign of the clicks above expectation"
    assert np.all(found.deviation <= prior * (1 + 1e-12))
    never = np.setdiff1d(np.arange(3), [row for _, _, row in log])
    assert np.all(found.mean[never] == 0)
    assert found.deviation[never] == pytest.approx(prior)


@given(logs, priors)
def test_shrinkage_gives_way_to_evidence(log: list[tuple[float, bool, int]], prior: float) -> None:
    """The same log ten times over, or a wider prior: effects are further from 0; the wider one is less sure."""
    once, often, wide = fitted(log, prior), fitted(log * 10, prior), fitted(log, prior * 2)
    assert np.all(np.abs(often.mean) >= np.abs(once.mean) - 1e-9)
    assert np.all(np.abs(wide.mean) >= np.abs(once.mean) - 1e-9)
    never = np.setdiff1d(np.arange(3), [row for _, _, row in log])
    assert np.all(wide.deviation[never] > once.deviation[never])


@given(logs, st.randoms(use_true_random=False))
def test_neither_order_nor_other_banners_matter(log: list[tuple[float, bool, int]], random: object) -> None:
    found = fitted(log)
    mixed = fitted(random.sample(log, len(log)))  # type: ignore[attr-defined]
    assert mixed.mean == pytest.approx(found.mean, abs=1e-9)
    own = [entry for entry in log if entry[2] == log[0][2]]
    assert fitted(own).mean[log[0][2]] == pytest.approx(found.mean[log[0][2]], abs=1e-9)


def known_world(impressions: int) -> tuple[BannerEffects, Floats]:
    """400 banners whose effects were drawn from the prior, each shown that often at 2 to 30 %."""
    rng = np.random.default_rng(11)
    truth = rng.normal(0, PRIOR_DEVIATION, 400)
    rows = np.repeat(np.arange(400), impressions)
    said = rng.uniform(0.02, 0.3, len(rows))
    clicked = rng.random(len(rows)) < 1 / (1 + (1 / said - 1) * np.exp(-truth[rows]))
    return fit_banner_effects(said, clicked, rows, 400), truth


@pytest.mark.parametrize("impressions", [20, 200, 1_000])
def test_known_effects_are_found_as_surely_as_the_posterior_says(impressions: int) -> None:
    found, truth = known_world(impressions)
    gap = (found.mean - truth) / found.deviation
    assert 0.85 < gap.std() < 1.15
    assert np.mean(np.abs(gap) < 1.96) > 0.92
    assert np.std(found.mean - truth) < np.std(truth), "better than to leave the ranker as it is"


def test_exploration_ends_as_impressions_come() -> None:
    few, some, many = (known_world(impressions)[0].deviation.mean() for impressions in (20, 200, 1_000))
    assert PRIOR_DEVIATION > few > 1.5 * some > 2 * many


def test_draws_have_the_posteriors_mean_and_deviation_and_come_again() -> None:
    effects = BannerEffects(np.array([0.3, -1.0, 0.0]), np.array([0.1, 0.5, 0.0]))
    drawn = effects.sampled(20_000, 3)
    assert drawn.mean(axis=0) == pytest.approx(effects.mean, abs=4.5 * 0.5 / np.sqrt(20_000))
    assert drawn.std(axis=0) == pytest.approx(effects.deviation, rel=0.03)
    assert np.corrcoef(drawn[:, :2].T)[0, 1] == pytest.approx(0, abs=0.04)
    assert np.array_equal(drawn, effects.sampled(20_000, 3))
    assert effects.optimistic(2.0).tolist() == [[0.5, 0.0, 0.0]]


def test_a_manifest_gives_back_what_it_was_given() -> None:
    effects = fitted([(0.1, True, 0), (0.2, False, 2)])
    again = BannerEffects.from_dict(effects.to_dict())
    assert np.array_equal(again.mean, effects.mean)
    assert np.array_equal(again.deviation, effects.deviation)


def test_effects_move_log_odds_in_any_shape() -> None:
    """Odds of 1/4 twice and of 1, times 1, 4 and 1/4."""
    effects = np.log([[1.0, 4.0], [4.0, 0.25]])
    assert with_effects(np.array([0.2, 0.5]), effects) == pytest.approx(np.array([[0.2, 0.8], [0.5, 0.2]]))
    requests = np.array([[0.2, 0.5], [0.5, 0.2], [0.2, 0.2]])
    found = with_effects(requests, effects)
    assert found.shape == (2, 3, 2)
    for row, one in enumerate(requests):
        assert found[:, row] == pytest.approx(with_effects(one, effects))
