"""The stream keeps the contract, its size and its truth; the counterfactual side knows the best that can be had."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion.batch import BATCH_ROWS, arrow_schema, check_event
from ingestion.simulator import Simulator
from ingestion.traffic import BOT_CLICK_RATE, DAY, KINDS, SECOND, draw_day
from ingestion.world import PLACEMENTS, SLOTS
from marquee import contract


def read(simulator: Simulator) -> dict[str, pa.Table]:
    parts: dict[str, list[pa.Table]] = defaultdict(list)
    for batch in simulator.read():
        parts[batch.table].append(batch.records)
    return {name: pa.concat_tables(tables) for name, tables in parts.items()}


@dataclass
class Log:
    simulator: Simulator
    tables: dict[str, pa.Table]
    rows: list[dict[str, Any]]

    def of(self, *kinds: str) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["kind"] in kinds]

    def is_bot(self, row: dict[str, Any]) -> bool:
        return bool(self.simulator.world.is_bot[int(row["visitor_id"][1:])])


@pytest.fixture(scope="module")
def log() -> Log:
    simulator = Simulator(seed=7, events=60_000)
    tables = read(simulator)
    return Log(simulator, tables, tables["events"].to_pylist())


@pytest.fixture(scope="module")
def small() -> Simulator:
    return Simulator(seed=7, events=2_000)


@pytest.fixture(scope="module")
def large() -> dict[str, pa.Table]:
    return read(Simulator(seed=7, events=300_000))


# --- the stream ---------------------------------------------------------------------------------------------


def test_same_seed_same_tables_other_seed_other_tables(small: Simulator) -> None:
    first, again, twin = read(small), read(small), read(Simulator(seed=7, events=2_000))
    other = read(Simulator(seed=8, events=2_000))
    assert len(first) == 8
    for name, table in first.items():
        assert table.equals(again[name])
        assert table.equals(twin[name])
        assert not table.equals(other[name]) or name == "categories"


def test_ids_of_different_worlds_never_meet(small: Simulator) -> None:
    ids = set(read(small)["events"]["event_id"].to_pylist())
    for other in (Simulator(seed=8, events=2_000), Simulator(seed=7, events=2_000, days=27)):
        assert ids.isdisjoint(read(other)["events"]["event_id"].to_pylist())


def test_events_keep_the_contract(log: Log) -> None:
    assert log.tables["events"].schema == arrow_schema(contract.EVENTS)
    assert log.tables["events"].validate(full=True) is None
    assert [problem for problem in map(check_event, log.rows) if problem] == []
    for field in ("event_id", "impression_id"):
        values = [row[field] for row in (log.rows if field == "event_id" else log.of("impression"))]
        assert len(set(values)) == len(values)
    not_made = {"return", "seen", "other", *contract.NOTIFICATION_KINDS}
    assert {row["kind"] for row in log.rows} == set(contract.EVENT_KINDS) - not_made
    assert {row["device"] for row in log.rows} <= set(contract.DEVICES)


def test_events_come_in_time_order_within_the_days(log: Log) -> None:
    moments = [row["occurred_at"] for row in log.rows]
    assert moments == sorted(moments)
    assert moments[0] >= datetime(2026, 1, 5)
    assert log.simulator.end_at == datetime(2026, 2, 2)
    assert moments[-1] < log.simulator.end_at
    assert len({moment.date() for moment in moments}) == 28


@pytest.mark.parametrize(("seed", "days"), [(7, 28), (21, 1), (24, 3), (4, 7)])
def test_a_small_log_has_the_size_asked_for(seed: int, days: int) -> None:
    assert len(read(Simulator(seed, 1_000, days))["events"]) == pytest.approx(1_000, rel=0.1)


def test_larger_logs_have_the_size_asked_for(log: Log, large: dict[str, pa.Table]) -> None:
    assert len(log.rows) == pytest.approx(60_000, rel=0.1)
    assert len(large["events"]) == pytest.approx(300_000, rel=0.1)


def test_batches_are_bounded_and_not_held() -> None:
    total, live, sizes, before = 0, 0, [], pa.total_allocated_bytes()
    for batch in Simulator(events=120_000, days=2).read():
        total += batch.records.nbytes
        live = max(live, pa.total_allocated_bytes() - before)
        sizes.append(len(batch.records))
    assert max(sizes) == BATCH_ROWS
    assert live < total / 2


def test_sessions_belong_to_one_visitor_and_one_day(log: Log) -> None:
    sessions: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in log.rows:
        sessions[row["session_id"]].append(row)
    assert len(sessions) > 3_000
    for rows in sessions.values():
        assert len({(row["visitor_id"], row["occurred_at"].date()) for row in rows}) == 1
        gaps = np.diff([row["occurred_at"] for row in rows])
        assert all(gap < timedelta(minutes=30) for gap in gaps)


def test_traffic_follows_the_clock_and_a_few_visitors_come_often(log: Log) -> None:
    hours = Counter(row["occurred_at"].hour for row in log.of("page_view"))
    assert hours[20] > 5 * hours[3]
    visits = sorted(Counter(row["visitor_id"] for row in log.of("page_view") if not log.is_bot(row)).values())
    assert sum(visits[-len(visits) // 5 :]) > 0.4 * sum(visits)


# --- banners in the log -------------------------------------------------------------------------------------


def windows(log: Log) -> dict[str, tuple[datetime, datetime]]:
    campaigns = {row["campaign_id"]: row for row in log.tables["campaigns"].to_pylist()}
    return {
        row["banner_id"]: (campaigns[row["campaign_id"]]["starts_at"], campaigns[row["campaign_id"]]["ends_at"])
        for row in log.tables["banners"].to_pylist()
    }


def eligible(log: Log, placement_id: str, moment: datetime) -> set[str]:
    """From the catalogue's tables, not from the world that made them."""
    pairs = {(row["banner_id"], row["placement_id"]) for row in log.tables["banner_placements"].to_pylist()}
    return {b for b, (start, end) in windows(log).items() if start <= moment < end and (b, placement_id) in pairs}


def test_slates_are_eligible_distinct_and_their_propensities_exact(log: Log) -> None:
    requests: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in log.of("impression"):
        requests[row["request_id"]].append(row)
    known: dict[tuple[str, Any], set[str]] = {}
    for slate in requests.values():
        placement_id, moment = slate[0]["placement_id"], slate[0]["occurred_at"]
        key = (placement_id, moment.date())
        if key not in known:
            known[key] = eligible(log, placement_id, moment)
        shown = [row["banner_id"] for row in slate]
        assert set(shown) <= known[key]
        assert len(set(shown)) == len(shown) == SLOTS[PLACEMENTS.index(placement_id)]
        assert [row["position"] for row in slate] == list(range(len(slate)))
        assert len({row["placement_id"] for row in slate}) == 1
        assert {(row["policy"], row["arm"]) for row in slate} == {("uniform", "control")}
        for k, row in enumerate(slate):
            # The m − k banners not above it each have this chance, so they sum to 1.
            assert row["propensity"] == pytest.approx(1 / (len(known[key]) - k), rel=1e-12)
    assert {key[0] for key in known} == set(PLACEMENTS)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_each_position_draws_uniformly(log: Log, position: int) -> None:
    rows = [r for r in log.of("impression") if (r["placement_id"], r["position"]) == ("category_top", position)]
    expected: Counter[str] = Counter()
    for date, count in Counter(row["occurred_at"].date() for row in rows).items():
        banners = eligible(log, "category_top", datetime.combine(date, datetime.min.time()))
        for banner in banners:
            expected[banner] += count / len(banners)  # type: ignore[assignment]
    drawn = Counter(row["banner_id"] for row in rows)
    square = sum((drawn[b] - e) ** 2 / e for b, e in expected.items())
    degrees = len(expected) - 1
    assert abs(square - degrees) < 4 * np.sqrt(2 * degrees)


def test_click_follows_its_impression_and_leads_to_a_product_of_the_banner(log: Log) -> None:
    impressions = {row["impression_id"]: row for row in log.of("impression")}
    products = {(row["banner_id"], row["product_id"]) for row in log.tables["banner_products"].to_pylist()}
    views: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in log.of("product_view"):
        views[row["session_id"]].append(row)
    clicks = log.of("click")
    assert len({row["impression_id"] for row in clicks}) == len(clicks) > 1_000
    for click in clicks:
        shown = impressions[click["impression_id"]]
        same = ("visitor_id", "session_id", "banner_id", "placement_id", "position", "request_id")
        assert all(click[name] == shown[name] for name in same)
        assert timedelta(seconds=1) < click["occurred_at"] - shown["occurred_at"] < timedelta(seconds=10)
        assert any(
            (click["banner_id"], view["product_id"]) in products
            and timedelta(0) < view["occurred_at"] - click["occurred_at"] < timedelta(seconds=5)
            for view in views[click["session_id"]]
        )


def test_new_banners_and_cold_visitors_appear(log: Log) -> None:
    last_day = log.simulator.end_at - timedelta(days=1)
    earlier = {row["banner_id"] for row in log.of("impression") if row["occurred_at"] < last_day}
    latest = {row["banner_id"] for row in log.of("impression") if row["occurred_at"] >= last_day}
    assert latest - earlier
    assert earlier - latest
    week = log.simulator.end_at - timedelta(days=7)
    assert (
        len({r["visitor_id"] for r in log.rows} - {r["visitor_id"] for r in log.rows if r["occurred_at"] < week}) > 30
    )


# --- the funnel and the bots --------------------------------------------------------------------------------


def test_orders_are_of_carted_products_at_their_price(log: Log) -> None:
    price = {row["product_id"]: row["price"] for row in log.tables["products"].to_pylist()}
    carted = {(row["session_id"], row["product_id"]) for row in log.of("cart")}
    viewed = {(row["session_id"], row["product_id"]) for row in log.of("product_view")}
    orders = log.of("order")
    assert carted <= viewed
    assert len(orders) > 200
    for row in orders:
        assert (row["session_id"], row["product_id"]) in carted
        assert row["amount"] == pytest.approx(row["quantity"] * price[row["product_id"]], abs=0.01)
        assert row["order_id"]
    assert len({(row["order_id"], row["session_id"]) for row in orders}) == len({row["order_id"] for row in orders})


def test_bots_click_anything_alike_and_never_buy(log: Log, large: dict[str, pa.Table]) -> None:
    world = Simulator(seed=7, events=300_000).world
    bots = pa.array([world.visitor_ids[number] for number in np.flatnonzero(world.is_bot)])
    rows = large["events"].filter(pc.is_in(large["events"]["visitor_id"], bots)).to_pylist()
    assert {row["kind"] for row in rows} == {"page_view", "product_view", "impression", "click"}
    for position in (0, 2):
        shown = sum(row["kind"] == "impression" and row["position"] == position for row in rows)
        clicked = sum(row["kind"] == "click" and row["position"] == position for row in rows)
        assert shown > 1_000
        assert abs(clicked - shown * BOT_CLICK_RATE) < 3 * np.sqrt(shown * BOT_CLICK_RATE)
    views = Counter(row["session_id"] for row in log.of("page_view") if log.is_bot(row))
    assert min(views.values()) >= 15


# --- truth --------------------------------------------------------------------------------------------------


def test_clicks_in_the_log_are_as_frequent_as_the_truth_says(log: Log) -> None:
    world = log.simulator.world
    shown = [row for row in log.of("impression") if not log.is_bot(row)]
    clicked_ids = {row["impression_id"] for row in log.of("click")}
    clicked = np.array([row["impression_id"] in clicked_ids for row in shown])
    visitor, banner = (np.array([int(row[name][1:]) for row in shown]) for name in ("visitor_id", "banner_id"))
    placement = np.array([PLACEMENTS.index(row["placement_id"]) for row in shown])
    position, hour = np.array([row["position"] for row in shown]), np.array([r["occurred_at"].hour for r in shown])
    truth = world.click_probability(visitor, banner, placement, position, hour, priors(shown))
    groups = {f"{PLACEMENTS[p]} {k}": (placement == p) & (position == k) for p in range(3) for k in range(SLOTS[p])}
    fifth = np.searchsorted(np.quantile(truth, [0.2, 0.4, 0.6, 0.8]), truth)
    groups |= {f"fifth {n} of the truth": fifth == n for n in range(5)}
    for name, group in groups.items():
        expected, deviation = truth[group].sum(), np.sqrt((truth[group] * (1 - truth[group])).sum())
        assert group.sum() > 300, name
        assert abs(clicked[group].sum() - expected) < 3 * deviation, name


def test_each_term_of_the_truth_is_in_the_clicks(small: Simulator) -> None:
    """Score tests on one large day: what is left of the clicks must not lean on any term."""
    world, rng = small.world, np.random.default_rng(0)
    prior = rng.integers(0, 20, (world.settings.visitors, world.settings.banners)).astype(np.uint16)
    rows = draw_day(world, 3, prior, 30_000, rng)
    shown, clicks = rows[rows["kind"] == KINDS["impression"]], rows[rows["kind"] == KINDS["click"]]
    shown = shown[~world.is_bot[shown["visitor"]]]
    clicked = np.isin(shown["request"] * 3 + shown["position"], clicks["request"] * 3 + clicks["position"])
    visitor, banner, hour = shown["visitor"], shown["banner"], shown["at"] % DAY / (3600 * SECOND)
    before = prior[visitor, banner]
    truth = world.click_probability(visitor, banner, shown["placement"], shown["position"], np.floor(hour), before)
    terms = {
        "rhythm": np.cos((hour - 20) * np.pi / 12),
        "fatigue": np.log1p(before) - np.log1p(before).mean(),
        "affinity": world.affinity(visitor, banner),
        "quality": world.quality[banner],
        "device": world.device[visitor] - 0.5,
        "position": shown["position"] - 1,
    }
    for name, term in terms.items():
        deviation = np.sqrt((truth * (1 - truth) * term**2).sum())
        assert abs(((clicked - truth) * term).sum()) < 3 * deviation, name


def priors(shown: list[dict[str, Any]]) -> list[int]:
    """Impressions of the same banner to the same visitor on earlier days, counted from the log alone."""
    before: Counter[tuple[str, str]] = Counter()
    today: Counter[tuple[str, str]] = Counter()
    result, date = [], None
    for row in shown:
        if row["occurred_at"].date() != date:
            before, today, date = before + today, Counter(), row["occurred_at"].date()
        pair = (row["visitor_id"], row["banner_id"])
        result.append(before[pair])
        today[pair] += 1
    return result


def test_fatigue_after_the_log_is_its_count_of_impressions_read_or_not(log: Log) -> None:
    counts = np.zeros_like(log.simulator.prior_impressions)
    for row in log.of("impression"):
        counts[int(row["visitor_id"][1:]), int(row["banner_id"][1:])] += 1
    np.testing.assert_array_equal(log.simulator.prior_impressions, counts)
    np.testing.assert_array_equal(Simulator(seed=7, events=60_000).prior_impressions, counts)


def test_requests_come_on_the_day_after_a_tenth_from_strangers_and_none_from_bots(log: Log) -> None:
    requests = log.simulator.requests(4_000, seed=1)
    seen = {row["visitor_id"] for row in log.rows}
    assert np.mean([visitor not in seen for visitor in requests.visitor_id]) == pytest.approx(0.1, abs=0.015)
    assert not log.simulator.world.is_bot[requests.visitor].any()
    end = np.datetime64(log.simulator.end_at)
    assert requests.at.dtype == np.dtype("datetime64[us]")
    assert end <= requests.at.min() <= requests.at.max() < end + np.timedelta64(1, "D")
    assert {str(p): int(s) for p, s in zip(requests.placement_id, requests.slots, strict=True)} == {
        "home_hero": 2,
        "category_top": 3,
        "cart_side": 1,
    }
    again, other = log.simulator.requests(4_000, seed=1), log.simulator.requests(4_000, seed=2)
    assert np.array_equal(requests.at, again.at)
    assert not np.array_equal(requests.at, other.at)
    for row in range(0, 4_000, 400):
        moment = requests.at[row].item()
        assert set(log.simulator.eligible_banners(requests, row)) == eligible(log, requests.placement_id[row], moment)


def test_value_is_the_mean_over_the_slots_of_what_is_really_shown(small: Simulator) -> None:
    requests = small.requests(40, seed=3)
    row = int(np.flatnonzero(requests.slots == 3)[0])
    one, two = small.eligible_banners(requests, row)[:2]
    hidden = next(iter(set(small.world.banner_ids) - set(small.eligible_banners(requests, row))))
    chances = small.click_probabilities(requests, [row, row], [one, two], [0, 1])
    slates: list[list[str]] = [[] for _ in range(40)]
    for slate, expected in (
        ([one, two], (chances[0] + chances[1]) / 3),
        ([one, one, one], chances[0] / 3),
        ([hidden, two], chances[1] / 3),
        ([], 0.0),
    ):
        slates[row] = slate
        value = small.value(requests, slates)
        assert value[row] == pytest.approx(expected, rel=1e-12)
        assert value.sum() == pytest.approx(value[row])


def test_unknown_banners_positions_and_missing_slates_are_refused(small: Simulator) -> None:
    requests = small.requests(2, seed=0)
    with pytest.raises(ValueError, match="'b999' is not in this world"):
        small.value(requests, [["b999"], []])
    with pytest.raises(ValueError, match="1 slates were given for 2 requests"):
        small.value(requests, [[]])
    with pytest.raises(ValueError, match="positions run from 0 to 2"):
        small.click_probabilities(requests, [0], ["b000"], [3])


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_no_slates_are_worth_more_than_the_best(data: st.DataObject) -> None:
    ids = st.sampled_from(_WORLD.world.banner_ids)
    slates = data.draw(st.lists(st.lists(ids, max_size=3), min_size=4, max_size=4))
    eligible_slates = [
        data.draw(st.permutations(_WORLD.eligible_banners(_REQUESTS, row)))[: _REQUESTS.slots[row]] for row in range(4)
    ]
    best = _WORLD.value(_REQUESTS, _WORLD.best_slates(_REQUESTS))
    for tried in (slates, eligible_slates):
        assert np.all(_WORLD.value(_REQUESTS, tried) <= best + 1e-12)


_WORLD = Simulator(seed=5, events=1_000)
_REQUESTS = _WORLD.requests(4, seed=0)


@pytest.mark.parametrize("seed", [1, 7, 42])
def test_best_policy_earns_at_least_two_and_a_half_times_uniform(seed: int) -> None:
    simulator = Simulator(seed=seed, events=10_000)
    requests, rng = simulator.requests(400, seed=0), np.random.default_rng(0)
    uniform = [
        list(rng.choice(simulator.eligible_banners(requests, row), requests.slots[row], replace=False))
        for row in range(len(requests))
    ]
    random, best = simulator.value(requests, uniform), simulator.value(requests, simulator.best_slates(requests))
    assert random.mean() == pytest.approx(0.05, abs=0.012)
    assert best.mean() > 2.5 * random.mean()
