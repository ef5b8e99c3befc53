"""The business marts of a simulated shop against plain recounts, built whole and day by day."""

import hashlib
import json
import math
import shutil
from collections import Counter, defaultdict
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from ingestion.load import admit_batch, ingest
from ingestion.simulator import Simulator
from ingestion.transform import run_dbt
from marquee.settings import Settings

pytestmark = pytest.mark.tools
TABLES = {
    "rfm_scores": "marts",
    "customer_segments": "marts",
    "page_transition_days": "marts",
    "page_transitions": "marts",
    "page_days": "marts",
    "pages": "marts",
    "item_cooccurrences": "marts",
    "interactions": "marts",
    "interaction_drops": "marts",
    "placement_days": "marts",
    "products": "marts",
    "banners": "marts",
    "campaigns": "marts",
    "cleaning_days": "marts",
    "banner_catalogue": "marts",
    "int_item_pair_days": "intermediate",
    "int_page_step_days": "intermediate",
    "int_interaction_days": "intermediate",
    "int_order_days": "intermediate",
}
WEIGHTS = {"product_view": 1.0, "page_view": 1.0, "favourite": 1.5, "cart": 1.5, "order": 3.0}
CLEAN = (
    "(visitor_id, impressed_date) not in (select (visitor_id, activity_date) from intermediate.int_visitor_day_flags)"
)
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def unbuilt(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A simulated shop, loaded and admitted, with a bot, four fans of three products and a midnight walker."""
    settings = Settings(home=tmp_path_factory.mktemp("unbuilt"), events=3_000)
    batch = ingest(Simulator(seed=settings.seed, events=settings.events), settings)
    admit_batch(settings, batch.batch_id)
    with duckdb.connect(str(settings.warehouse)) as connection:
        connection.execute(
            "insert into raw.events by name select 'bot-' || n as event_id, 'product_view' as kind, "
            "(select max(occurred_at)::date from raw.events) + interval '1' second * n as occurred_at, "
            "'bot' as visitor_id, 'p' || (n % 30) as product_id, 'mobile' as device, ? as batch_id "
            "from range(1200) as numbers (n)",
            [batch.batch_id],
        )
        connection.execute(
            "insert into raw.events by name select 'fan-' || v || '-' || n as event_id, 'cart' as kind, "
            "(select max(occurred_at)::date from raw.events) - interval '3 day' * v + interval '1 minute' * n as "
            "occurred_at, 'fan-' || v as visitor_id, 'p' || n as product_id, 'mobile' as device, ? as batch_id "
            "from range(4) as visitors (v), range(5) as numbers (n) where n < 3 or n = 3 + v % 2",
            [batch.batch_id],
        )
        connection.execute(
            "insert into raw.events by name select 'walker-' || n as event_id, "
            "case when n = 3 then 'order' else 'product_view' end as kind, "
            "(select max(occurred_at)::date from raw.events) + interval '1 minute' * (10 * n - 15) as occurred_at, "
            "'walker' as visitor_id, 'p' || n as product_id, 12.5 as amount, 'mobile' as device, ? as batch_id "
            "from range(5) as numbers (n)",
            [batch.batch_id],
        )
        # The bot also looks at a banner, and some impressions are told of twice.
        connection.execute(
            "insert into raw.events by name select 'seen-' || n as event_id, 'impression' as kind, "
            "(select max(occurred_at)::date from raw.events) + interval '1' second * n as occurred_at, "
            "'bot' as visitor_id, (select min(banner_id) from raw.banners) as banner_id, 'home_hero' as placement_id, "
            "'bot-' || n as impression_id, 0 as position, ? as batch_id from range(1100) as numbers (n)",
            [batch.batch_id],
        )
        connection.execute(
            "insert into raw.events by name select event_id || '-again' as event_id, * exclude (event_id) "
            "from raw.events where kind = 'impression' and visitor_id <> 'bot' order by event_id limit 7"
        )
        connection.execute(
            "insert into raw.product_properties "
            "select product_id, 'category_id', if(hash(product_id) % 2 = 0, 'moved', 'moving'), "
            "if(hash(product_id) % 2 = 0, (select min(occurred_at) from raw.events), "
            "(select max(occurred_at) from raw.events) + interval 1 minute), batch_id "
            "from raw.products where hash(product_id) % 10 < 2",
        )
    return settings


@pytest.fixture(scope="module")
def built(unbuilt: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """All marts, built at once."""
    settings = copy_of(unbuilt, tmp_path_factory.mktemp("built"))
    build(settings, "build")
    return settings


def copy_of(settings: Settings, home: Path) -> Settings:
    shutil.copytree(settings.home, home, dirs_exist_ok=True)
    return settings.model_copy(update={"home": home})


def build(settings: Settings, verb: str, window: tuple[date, date] | None = None) -> None:
    selected = ("--select", *(f"+{table}" for table in TABLES), "segment_notification_types")
    excluded = ("--exclude", "test_type:unit") if verb == "build" else ()
    cautious = ("--indirect-selection", "cautious") if verb == "build" else ()
    run_dbt(settings, verb, *cautious, *selected, *excluded, window=window)


def query(settings: Settings, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        return connection.execute(sql, list(values)).fetchall()


def test_transitions_equal_a_recount(built: Settings) -> None:
    """Each session's pages in order, between an entry and an exit."""
    paths = defaultdict(list)
    for visitor, session, page in query(
        built,
        "select visitor_id, session_id, coalesce(page, 'product/' || product_id) as page "
        "from intermediate.int_events_sessionised "
        "where kind in ('page_view', 'product_view') and coalesce(page, product_id) is not null "
        "order by occurred_at, event_id",
    ):
        paths[visitor, session].append(page)
    counts: Counter[tuple[str, str]] = Counter()
    for pages in paths.values():
        counts.update(zip(["(entry)", *pages], [*pages, "(exit)"], strict=True))
    found = query(built, "select from_page, to_page, transition_count, transition_rate from marts.page_transitions")
    assert {row[:2]: row[2] for row in found} == counts
    assert len(counts) > 100
    leaving: Counter[str] = Counter()
    for (page, _), count in counts.items():
        leaving[page] += count
    assert all(rate == pytest.approx(count / leaving[page]) for page, _, count, rate in found)


def test_ways_in_and_out_of_a_page_sum_to_its_visits(built: Settings) -> None:
    visits = query(built, "select page, visit_count, entry_count, exit_count, bounce_count from marts.pages")
    out = dict(query(built, "select from_page, sum(transition_count)::bigint from marts.page_transitions group by 1"))
    into = dict(query(built, "select to_page, sum(transition_count)::bigint from marts.page_transitions group by 1"))
    assert all(out[page] == into[page] == visit_count for page, visit_count, *_ in visits)
    assert out["(entry)"] == into["(exit)"] == sum(row[2] for row in visits) == sum(row[3] for row in visits)
    assert 0 < sum(row[4] for row in visits) < out["(entry)"]


def test_interactions_and_drops_are_all_there_is(built: Settings) -> None:
    """Ratings again in plain Python; what they lack was dropped by one rule each, the bot by the first."""
    rows = query(
        built,
        f"select visitor_id, product_id, kind, event_date from intermediate.int_events_sessionised "
        f"where product_id is not null and kind in {tuple(WEIGHTS)}",
    )
    newest = max(row[3] for row in rows)
    flagged = set(query(built, "select visitor_id, activity_date from intermediate.int_visitor_day_flags"))
    clean = [row for row in rows if (row[0], row[3]) not in flagged]
    visitors, products = Counter(row[0] for row in clean), Counter(row[1] for row in clean)
    single = [row for row in clean if visitors[row[0]] == 1]
    once = [row for row in clean if visitors[row[0]] > 1 and products[row[1]] == 1]
    drops = dict(query(built, "select rule, event_count from marts.interaction_drops order by rule_rank"))
    assert drops == {
        "flagged_visitor_day": len(rows) - len(clean),
        "single_event_visitor": len(single),
        "once_seen_product": len(once),
    }
    assert drops["flagged_visitor_day"] >= 1_200
    weights, decayed = defaultdict(float), defaultdict(float)
    for visitor, product, kind, day in clean:
        if visitors[visitor] > 1 and products[product] > 1:
            weights[visitor, product] += WEIGHTS[kind]
            decayed[visitor, product] += WEIGHTS[kind] * 2 ** (-(newest - day).days / 14)
    found = query(built, "select visitor_id, product_id, weight, rating from marts.interactions")
    assert {row[:2]: row[2] for row in found} == weights
    for visitor, product, _, rating in found:
        assert rating == pytest.approx(min(5, decayed[visitor, product]), abs=1e-8)
        assert 0 < rating <= 5


def test_another_event_never_lowers_a_rating(built: Settings, tmp_path: Path) -> None:
    """A hundred views of long ago, more than the cap, added to each pair of one visitor."""
    before = dict(query(built, "select (visitor_id, product_id), rating from marts.interactions"))
    ((visitor,),) = query(
        built, "select visitor_id from marts.interactions group by 1 order by count(*) desc, 1 limit 1"
    )
    settings = copy_of(built, tmp_path)
    with duckdb.connect(str(settings.warehouse)) as connection:
        connection.execute(
            "insert into intermediate.int_interaction_days by name select event_date - 200 as event_date, visitor_id, "
            "'old' as session_id, product_id, 100 as event_count, 100 as weight, last_at - interval 200 day as last_at "
            "from intermediate.int_interaction_days where visitor_id = ?",
            [visitor],
        )
    after = dict(query(settings, "select (visitor_id, product_id), rating from marts.interactions"))
    changed = [pair for pair in before if after[pair] != before[pair]]
    assert len(changed) >= sum(pair[0] == visitor and rating < 5 for pair, rating in before.items()) > 3
    assert all(after[pair] > before[pair] for pair in changed)


def test_dwells_of_interactions_equal_a_recount(built: Settings) -> None:
    """By visitor and product, from the events in order: to the next one of the session, else the mean of its kind."""
    events = query(
        built,
        "select visitor_id, session_id, occurred_at, kind, product_id, event_date "
        "from intermediate.int_events_sessionised order by visitor_id, session_id, occurred_at, event_id",
    )
    known = []
    for event, following in zip(events, [*events[1:], (None,) * 6], strict=True):
        gap = following[2] - event[2] if event[:2] == following[:2] else DAY
        known.append(gap // timedelta(microseconds=1) if gap < timedelta(hours=1) else None)
    by_kind = defaultdict(list)
    for event, dwell in zip(events, known, strict=True):
        by_kind[event[3], event[5]] += [dwell] if dwell is not None else []
    means = {key: math.floor(sum(dwells) / len(dwells) + 0.5) for key, dwells in by_kind.items() if dwells}
    flagged = set(query(built, "select visitor_id, activity_date from intermediate.int_visitor_day_flags"))
    expected: dict[tuple[str, str], int] = defaultdict(int)
    for (visitor, _, _, kind, product, day), dwell in zip(events, known, strict=True):
        mean = means.get((kind, day)) if dwell is None else dwell
        if product and kind in WEIGHTS and mean is not None and (visitor, day) not in flagged:
            expected[visitor, product] += mean
    found = query(built, "select visitor_id, product_id, dwell_seconds from marts.interactions")
    assert sum(row[2] is not None for row in found) > 100
    for visitor, product, seconds in found:
        assert (seconds is None) == ((visitor, product) not in expected)
        assert seconds is None or seconds == pytest.approx(expected[visitor, product] / 1e6, rel=1e-12)


def test_cooccurrences_equal_a_recount(built: Settings) -> None:
    rows = query(
        built,
        "select distinct event_date, visitor_id, session_id, product_id from intermediate.int_events_sessionised "
        "where product_id is not null and kind in ('page_view', 'product_view', 'favourite', 'cart', 'order') "
        "and (visitor_id, event_date) not in "
        "(select visitor_id, activity_date from intermediate.int_visitor_day_flags)",
    )
    newest = max(row[0] for row in rows)
    sessions = defaultdict(set)
    for day, visitor, session, product in rows:
        if (newest - day).days < 28:
            sessions[day, visitor, session].add(product)
    assert max(map(len, sessions.values())) > 20, "no session is large enough to be sampled"
    for key, products in sessions.items():
        by_hash = sorted(products, key=lambda p, s=key[2]: hashlib.md5(f"{s} {p}".encode()).hexdigest())
        sessions[key] = set(by_hash[:20])
    items = Counter(product for products in sessions.values() for product in products)
    pairs = Counter((a, b) for products in sessions.values() for a in products for b in products if a != b)
    expected = {
        (a, b): (n, n / math.sqrt(items[a] * items[b]), n * len(sessions) / (items[a] * items[b]))
        for (a, b), n in pairs.items()
        if n >= 3
    }
    found = query(
        built,
        "select product_id, other_product_id, session_count_28d, cosine_28d, lift_28d from marts.item_cooccurrences",
    )
    assert len(found) == len(expected) > 0
    for a, b, *values in found:
        assert values == pytest.approx(expected[a, b], abs=1e-8), (a, b)
        assert 0 < values[1] <= 1


def test_placement_days_hold_every_impression_and_their_intervals(built: Settings) -> None:
    rows = query(
        built,
        "select impression_count, click_count, click_rate, click_rate_low, click_rate_high, session_count, "
        "clicked_session_count, session_click_rate, session_click_rate_low, session_click_rate_high "
        "from marts.placement_days",
    )
    ((impressions, clicks),) = query(
        built,
        f"select count(*), count(*) filter (is_clicked) from intermediate.int_impressions_labelled where {CLEAN}",
    )
    ((all_impressions,),) = query(built, "select count(*) from intermediate.int_impressions_labelled")
    assert (sum(row[0] for row in rows), sum(row[1] for row in rows)) == (impressions, clicks)
    assert all_impressions >= impressions + 1_100, "the bot's thousand impressions are nobody's"
    for row in rows:
        for trials, successes, rate, low, high in (row[:5], row[5:]):
            assert rate == pytest.approx(successes / trials, abs=1e-8)
            assert 0 <= low <= rate <= high <= 1
            # An end of the interval is a share from which the rate is 1.96 standard errors away.
            for end in {low, high} - {0.0, 1.0}:
                assert (rate - end) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / trials, rel=1e-4)


def test_lifetime_marts_count_what_happened(built: Settings) -> None:
    products = query(built, "select product_id, view_count, cart_count, order_count from marts.products")
    kinds = Counter(
        query(built, "select product_id, kind from raw.events where product_id is not null and kind <> 'impression'")
    )
    for product, views, carts, orders in products:
        assert views == kinds[product, "page_view"] + kinds[product, "product_view"]
        assert (carts, orders) == (kinds[product, "cart"], kinds[product, "order"])
    for mart in ("banners", "campaigns"):
        totals = query(built, f"select sum(impression_count), sum(click_count) from marts.{mart}")
        assert totals == query(
            built,
            "select count(*), count(*) filter (is_clicked) from intermediate.int_impressions_labelled "
            f"where campaign_id is not null and {CLEAN}",
        )


def test_attributed_orders_equal_a_recount(built: Settings) -> None:
    """Each order line to the visitor's last click within seven days before it; orders by their number."""
    clicks = query(
        built,
        "select visitor_id, clicked_at, impression_id, banner_id, campaign_id from intermediate.int_impressions_clean "
        "where is_clicked order by clicked_at desc, impression_id",
    )
    lines = query(
        built,
        "select visitor_id, occurred_at, coalesce(order_id, session_id), coalesce(amount, 0) "
        "from intermediate.int_events_sessionised where kind = 'order'",
    )
    orders: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
    counts: Counter[tuple[str, str]] = Counter()
    amounts: dict[tuple[str, str], float] = defaultdict(float)
    for visitor, at, order, amount in lines:
        last = next((c for c in clicks if c[0] == visitor and c[1] <= at < c[1] + 7 * DAY), None)
        for key in (("banners", last[3]), ("campaigns", last[4])) if last else ():
            orders[key].add((visitor, order))
            counts[key] += 1
            amounts[key] += amount
    assert len(counts) > 5
    for mart, key in (("banners", "banner_id"), ("campaigns", "campaign_id")):
        for name, *found in query(
            built,
            f"select {key}, attributed_order_count, attributed_order_line_count, attributed_order_amount "
            f"from marts.{mart}",
        ):
            expected = [len(orders[mart, name]), counts[mart, name], pytest.approx(amounts[mart, name], abs=1e-3)]
            assert found == expected, (mart, name)


def test_cleaning_days_count_what_is_left_out(built: Settings) -> None:
    """Every flagged visitor-day, and reports of impressions beyond the first of each."""
    found = dict(query(built, "select rule, sum(dropped_event_count)::bigint from marts.cleaning_days group by 1"))
    flagged = dict(
        query(
            built,
            "select f.reason, count(*) from intermediate.int_visitor_day_flags f join raw.events e "
            "on e.visitor_id = f.visitor_id and e.occurred_at::date = f.activity_date group by 1",
        )
    )
    ((repeated,),) = query(
        built, "select count(*) - count(distinct impression_id) from raw.events where kind = 'impression'"
    )
    assert found == {"bot": flagged["bot"], "shared_cookie": flagged.get("shared_cookie", 0)} | {
        "duplicate_impression": repeated
    }
    assert flagged["bot"] >= 2_300
    assert repeated == 7


def test_a_product_is_in_the_category_of_the_newest_event(built: Settings) -> None:
    """Moved products are where they were moved to, those that will be moved where they are."""
    found = dict(
        query(built, "select category_id, count(*) from marts.products where category_id like 'mov%' group by 1")
    )
    ((moved, moving),) = query(
        built,
        "select count(*) filter (value = 'moved'), count(*) filter (value = 'moving') from raw.product_properties "
        "where property = 'category_id'",
    )
    assert moved > 3 < moving
    assert found == {"moved": moved}
    mixes = [json.loads(mix) for (mix,) in query(built, "select category_mix from intermediate.int_banner_mixes")]
    assert any("moved" in mix for mix in mixes)
    assert not any("moving" in mix for mix in mixes)


def test_days_built_one_after_another_equal_the_whole(unbuilt: Settings, built: Settings, tmp_path: Path) -> None:
    """The last three days come one by one, a few of their events late; then the last two are built again."""
    settings = copy_of(unbuilt, tmp_path)
    ((last,),) = query(settings, "select max(occurred_at)::date from raw.events")
    with duckdb.connect(str(settings.warehouse)) as connection:
        connection.execute(
            "create table raw.later as select * from raw.events where occurred_at >= ?", [last - 2 * DAY]
        )
        connection.execute("delete from raw.events where occurred_at >= ?", [last - 2 * DAY])
        # Events of the first day that come with those of the second.
        connection.execute("create table raw.late as select * from raw.later order by occurred_at limit 5")
        connection.execute("delete from raw.later where event_id in (select event_id from raw.late)")
    run_dbt(settings, "seed")
    build(settings, "run")
    for back, late in ((2, False), (1, True), (0, False)):
        day = last - back * DAY
        with duckdb.connect(str(settings.warehouse)) as connection:
            connection.execute("insert into raw.events select * from raw.later where occurred_at::date = ?", [day])
            if late:
                connection.execute("insert into raw.events select * from raw.late")
        first = last - 2 * DAY if late else day
        build(settings, "run", (first, day))
    same_rows(settings, built)
    build(settings, "run", (last - DAY, last))
    same_rows(settings, built)


def same_rows(settings: Settings, other: Settings) -> None:
    compared = 0
    for table, schema in TABLES.items():
        rows, others = (Counter(query(s, f"select * from {schema}.{table}")) for s in (settings, other))
        assert rows == others, f"{table}: {list((rows - others) + (others - rows))[:3]}"
        compared += len(rows)
    assert compared > 3_000
