"""The truth itself: the click model by hand, what may stand where, and how hard a world is."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion.batch import arrow_schema
from ingestion.world import (
    AFTERLIFE,
    DEVICE_EFFECT,
    EVERGREEN,
    EXAMINE,
    FATIGUE,
    PLACEMENTS,
    QUALITY_SPREAD,
    SLOTS,
    TASTE_STRENGTH,
    World,
    WorldSettings,
)
from marquee import contract
from marquee.errors import SettingsError


@pytest.fixture(scope="module")
def world() -> World:
    return World(WorldSettings(seed=7, events=20_000))


def test_click_probability_is_the_formula_by_hand(world: World) -> None:
    visitor, banner = 3, 5
    match = sum(float(t) * float(m) for t, m in zip(world.tastes[visitor], world.mix[banner], strict=True))
    affinity = (match - world.affinity_mean) / world.affinity_spread
    logit = world.base + world.quality[banner] + TASTE_STRENGTH * affinity
    logit += 0.15 * math.cos((8 - 20) * math.pi / 12) + DEVICE_EFFECT[world.device[visitor]]
    logit -= FATIGUE * math.log(1 + 4)
    expected = EXAMINE[1, 2] / (1 + math.exp(-logit))
    assert world.click_probability(visitor, banner, 1, 2, 8, 4) == pytest.approx(expected, rel=1e-5)


def test_arguments_broadcast_to_a_matrix(world: World) -> None:
    visitors, banners = np.arange(6)[:, None], np.arange(4)[None, :]
    matrix = world.click_probability(visitors, banners, 0, 0, 12, 0)
    assert matrix.shape == (6, 4)
    assert matrix[2, 3] == pytest.approx(world.click_probability(2, 3, 0, 0, 12, 0))


@given(visitor=st.integers(0, 400), banner=st.integers(0, 59), hour=st.integers(0, 23), prior=st.integers(0, 500))
def test_fatigue_and_position_only_ever_lower_the_chance(visitor: int, banner: int, hour: int, prior: int) -> None:
    world = _SMALL
    for placement, slots in enumerate(SLOTS):
        chances = world.click_probability(visitor, banner, placement, np.arange(slots), hour, prior)
        assert np.all((chances > 0) & (chances < 1))
        assert np.all(np.diff(chances) < 0)
        assert np.all(world.click_probability(visitor, banner, placement, np.arange(slots), hour, prior + 1) < chances)


_SMALL = World(WorldSettings(seed=11, events=20_000))


@pytest.mark.parametrize(("seed", "events"), [(1, 1_000), (7, 1_000), (42, 60_000), (3, 1_000_000)])
def test_every_placement_has_enough_banners_every_day_and_after(seed: int, events: int) -> None:
    world = World(WorldSettings(seed=seed, events=events))
    for day in range(world.settings.days + AFTERLIFE):
        for placement in range(len(PLACEMENTS)):
            assert world.eligible(placement, day).sum() >= EVERGREEN


def test_eligibility_keeps_to_calendar_and_placement(world: World) -> None:
    for banner in range(world.settings.banners):
        campaign = world.banner_campaign[banner]
        first, end = world.campaign_starts[campaign], world.campaign_ends[campaign]
        for placement in range(len(PLACEMENTS)):
            got = [bool(world.eligible(placement, day)[banner]) for day in (first - 1e-6, first, end - 1e-6, end)]
            allowed = bool(world.allowed[placement, banner])
            assert got == [False, allowed, allowed, False]


def test_calendars_have_early_ends_late_starts_and_a_launch_on_the_last_day(world: World) -> None:
    days = world.settings.days
    assert (world.campaign_starts == days - 1).any()
    assert ((world.campaign_starts > 0) & (world.campaign_starts < days - 1)).any()
    assert (world.campaign_ends < days).any()
    assert 8 <= len(world.campaign_ids) <= 16
    assert 60 <= len(world.banner_ids) <= 120


def test_visitors_keep_arriving_and_some_only_after_the_log(world: World) -> None:
    days = world.settings.days
    assert np.all(np.diff(world.first_day) >= 0)
    assert (world.first_day == 0).any()
    assert ((world.first_day > 0) & (world.first_day < days)).sum() > 100
    assert (world.first_day == days).mean() == pytest.approx(0.1, abs=0.01)
    assert not world.is_bot[world.first_day == days].any()


def test_tastes_and_mixes_are_shares_and_banners_are_about_one_or_two_categories(world: World) -> None:
    np.testing.assert_allclose(world.tastes.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(world.mix.sum(axis=1), 1, rtol=1e-5)
    assert np.sort(world.mix, axis=1)[:, -2:].sum(axis=1).mean() > 0.8
    sizes = np.diff(world.banner_offsets)
    assert sizes.min() >= 1
    assert sizes.max() <= 30


@pytest.mark.parametrize("seed", [1, 7, 42])
def test_worlds_are_equally_hard(seed: int) -> None:
    """Uniform random earns about 5 %, the most popular banners a third more, the best at least 2.5 times as much."""
    world = World(WorldSettings(seed=seed))
    chances = np.where(world.is_bot, 0.0, world.activity)
    visitors = np.random.default_rng(0).choice(len(chances), 1_500, p=chances / chances.sum())[:, None]
    uniform, popular, best = 0.0, 0.0, 0.0
    for placement, slots in enumerate(SLOTS):
        banners = np.flatnonzero(world.eligible(placement, world.settings.days))[None, :]
        seen = world.click_probability(visitors, banners, placement, 0, 14, 0) / EXAMINE[placement, 0]
        look = EXAMINE[placement, :slots] / SLOTS.sum()
        uniform += float(seen.mean() * look.sum())
        popular += float(np.sort(seen.mean(axis=0))[::-1][:slots] @ look)
        best += float((np.sort(seen, axis=1)[:, ::-1][:, :slots] @ look).mean())
    assert uniform == pytest.approx(0.052, abs=0.004)
    assert 1.15 < popular / uniform < 1.5
    assert 2.5 < best / uniform < 5


def test_quality_differs_by_seed_in_order_only() -> None:
    one, other = World(WorldSettings(seed=1, events=1_000)), World(WorldSettings(seed=2, events=1_000))
    assert not np.array_equal(one.quality, other.quality)
    np.testing.assert_allclose(np.sort(one.quality), np.sort(other.quality))
    assert one.quality.max() == pytest.approx(1.7 * QUALITY_SPREAD)


def test_catalogue_keeps_the_contract_and_its_references(world: World) -> None:
    tables = {batch.table: batch.records for batch in world.catalogue()}
    parents = {"categories", "products", "campaigns", "banners", "banner_placements", "creatives", "banner_products"}
    assert set(tables) == parents
    for name, table in tables.items():
        assert table.schema == arrow_schema(contract.RAW_TABLES[name])
        key = [tuple(row[k] for k in contract.RAW_TABLES[name].key) for row in table.to_pylist()]
        assert len(set(key)) == len(key) > 0
    ids = {name: set(tables[name][f"{one}_id"].to_pylist()) for name, one in _SINGULAR.items()}
    for name, columns in _REFERENCES.items():
        for column, parent in columns.items():
            assert set(tables[name][column].to_pylist()) - {None} <= ids[parent], (name, column)
    assert set(tables["creatives"]["creative_id"].to_pylist()) == set(
        tables["banner_products"]["creative_id"].to_pylist()
    )


_SINGULAR = {
    "categories": "category",
    "products": "product",
    "campaigns": "campaign",
    "banners": "banner",
    "creatives": "creative",
}
_REFERENCES = {
    "categories": {"parent_id": "categories"},
    "products": {"category_id": "categories"},
    "banners": {"campaign_id": "campaigns", "landing_category_id": "categories"},
    "banner_placements": {"banner_id": "banners"},
    "creatives": {"banner_id": "banners"},
    "banner_products": {"banner_id": "banners", "creative_id": "creatives", "product_id": "products"},
}


@pytest.mark.parametrize("wrong", [{"events": 999}, {"events": 10_000_001}, {"days": 0}, {"seed": -1}])
def test_settings_out_of_range_are_named(wrong: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        WorldSettings(**wrong)  # type: ignore[arg-type]
