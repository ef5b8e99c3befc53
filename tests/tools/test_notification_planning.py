"""The plan of an installation: from a warehouse's tables and its outbox."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from marquee import contract
from marquee.errors import NothingToDo, SettingsError
from marquee.notifications import PlannedNotification
from marquee.outbox import open_outbox
from marquee.settings import Settings
from marquee.tables import SQL_TYPES, Table
from training.notifications.planning_data import installation_rules, plan_notifications, quiet_hours

pytestmark = pytest.mark.tools
NOW = datetime(2026, 3, 28, 6, 30)
MARTS = (
    contract.VISITOR_SEGMENTS,
    contract.NOTIFICATIONS,
    contract.BANNER_CATALOGUE,
    contract.BANNER_FEATURES_28D,
)


def created(connection: duckdb.DuckDBPyConnection, schema: str, name: str, table: Table) -> None:
    columns = ", ".join(f'"{one.name}" {SQL_TYPES[one.type]}' for one in table.columns)
    connection.execute(f"create table {schema}.{name} ({columns})")


def insert(connection: duckdb.DuckDBPyConnection, table: str, *rows: dict[str, Any]) -> None:
    for row in rows:
        names, marks = ", ".join(row), ", ".join("?" * len(row))
        connection.execute(f"insert into {table} ({names}) values ({marks})", list(row.values()))


def event(visitor: str, at: datetime, **more: Any) -> dict[str, Any]:
    kind = more.pop("kind", "page_view")
    return {"event_id": f"{visitor}{at}{kind}", "kind": kind, "occurred_at": at, "visitor_id": visitor, **more}


def sent(visitor: str, at: datetime, kind: str = "gift", **more: Any) -> dict[str, Any]:
    known = {"segment": "loyal", "channel": "email", "policy": "p", "propensity": 0.1, "hour_bucket": 3}
    known |= {"outcome": None, "outcome_known_at": at + timedelta(days=3), "device": "unknown", "sent_at": at}
    return {"notification_id": f"{visitor}{at}", "visitor_id": visitor, "notification_type": kind, **known, **more}


@pytest.fixture
def shop(tmp_path: Path) -> Settings:
    """Three loyal visitors: one in Paris in the mornings on a phone, one in Tokyo, one of no known country."""
    settings = Settings(home=tmp_path / "home", notify_time_zone="America/New_York")
    settings.home.mkdir()
    with duckdb.connect(str(settings.warehouse)) as connection:
        connection.execute("create schema marts; create schema staging")
        created(connection, "staging", "stg_events", contract.EVENTS)
        for table in MARTS:
            created(connection, "marts", table.name, table)
        for visitor in ("paris", "tokyo", "unknown"):
            insert(connection, "marts.visitor_segments", {"visitor_id": visitor, "feature_at": NOW, "segment": "loyal"})
        for day in range(1, 29):
            at = NOW.replace(hour=8, minute=15) - timedelta(days=day)
            insert(connection, "staging.stg_events", event("paris", at, country="FR", device="mobile"))
            insert(connection, "staging.stg_events", event("tokyo", at, country="Japan", device="desktop"))
        insert(connection, "staging.stg_events", event("unknown", NOW - timedelta(days=3)))
    return settings


def change(settings: Settings, table: str, *rows: dict[str, Any]) -> None:
    with duckdb.connect(str(settings.warehouse)) as connection:
        insert(connection, table, *rows)


def by_visitor(settings: Settings, now: datetime = NOW) -> dict[str, PlannedNotification]:
    return {one.visitor_id: one for one in plan_notifications(settings, now)}


def test_zones_hours_and_devices_come_from_what_visitors_did(shop: Settings) -> None:
    found = by_visitor(shop)
    assert found.keys() == {"paris", "tokyo", "unknown"}
    assert found["paris"].channel == "push"
    assert found["tokyo"].channel == "email"
    # At quarter past eight UTC it is quarter past nine in Paris and after five in Tokyo: their hours, if drawn.
    assert Counter(one.segment for one in found.values()) == {"loyal": 3}
    for visitor, ahead in (("paris", 1), ("tokyo", 9), ("unknown", -4)):
        local = found[visitor].due_at + timedelta(hours=ahead)
        assert 9 <= local.hour < 21
        assert found[visitor].hour_bucket == local.hour // 3
    assert found["paris"].notification_type in installation_rules(shop).types_of["loyal"]
    drawn = Counter(
        one.hour_bucket
        for seed in range(12)
        for one in plan_notifications(shop.model_copy(update={"seed": seed}), NOW)
        if one.visitor_id == "paris"
    )
    assert drawn.most_common(1)[0][0] == 3, "most often at the hours at which the visitor comes"


def test_the_most_clicked_live_banner_is_shown(shop: Settings) -> None:
    base = {"campaign_id": "c", "title": "t", "starts_at": NOW - timedelta(days=9), "ends_at": NOW + timedelta(days=9)}
    base |= {"status": "active", "placements": "[]", "product_count": 1, "mean_price": 1.0, "category_mix": "{}"}
    over = {"ends_at": NOW + timedelta(hours=9)}
    rows = (
        {"banner_id": "a"},
        {"banner_id": "b"},
        {"banner_id": "over", **over},
        {"banner_id": "off", "status": "paused"},
    )
    change(shop, "marts.banner_catalogue", *(base | row for row in rows))
    for banner, clicks in (("a", 10.0), ("b", 30.0), ("over", 90.0), ("off", 90.0)):
        counts = {"banner_impression_count_28d": 1_000.0, "banner_click_count_28d": clicks}
        change(
            shop, "marts.banner_features_28d", {"banner_id": banner, "feature_at": NOW - timedelta(days=1), **counts}
        )
    assert {one.content_id for one in plan_notifications(shop, NOW)} == {"b"}


def test_caps_count_what_was_sent_and_what_waits(shop: Settings) -> None:
    types = installation_rules(shop).types_of["loyal"]
    days = [NOW - timedelta(days=day) for day in (2, 4, 6)]
    change(shop, "marts.notifications", *(sent("paris", at, types[0]) for at in days))
    change(shop, "marts.notifications", *(sent("tokyo", at, types[0]) for at in days[:2]))
    found = by_visitor(shop)
    assert found.keys() == {"tokyo", "unknown"}
    with closing(open_outbox(shop)) as outbox:
        outbox.enqueue([found["tokyo"]])
        assert by_visitor(shop).keys() == {"unknown"}
        # Sent, and not yet in the warehouse: the third within a week.
        (claimed,) = outbox.claim("me", found["tokyo"].due_at, found["tokyo"].expires_at, 1)
        assert outbox.note_sent(claimed.notification.notification_id, "me", found["tokyo"].due_at)
    assert "tokyo" not in by_visitor(shop, NOW + timedelta(days=2))
    assert "tokyo" in by_visitor(shop, NOW + timedelta(days=4))
    assert by_visitor(shop.model_copy(update={"notify_weekly": 1})).keys() == {"unknown"}
    assert by_visitor(shop.model_copy(update={"notify_weekly": 0})) == {}


def test_ignored_ones_tire_and_an_opening_ends_it(shop: Settings) -> None:
    types = installation_rules(shop).types_of["loyal"]
    days = [NOW - timedelta(days=day) for day in (9, 12, 15)]
    ignored = {"outcome": "ignored"}
    change(
        shop,
        "marts.notifications",
        *(sent("tokyo", at, types[0], **ignored) for at in [*days, NOW - timedelta(days=5)]),
    )
    change(shop, "marts.notifications", *(sent("paris", at, types[0], **ignored) for at in days))
    change(shop, "marts.notifications", sent("paris", NOW - timedelta(days=5), types[0], outcome="opened"))
    assert by_visitor(shop).keys() == {"paris", "unknown"}


def test_what_was_sent_of_types_that_are_gone_is_passed_over(shop: Settings) -> None:
    rows = [
        sent("paris", NOW - timedelta(days=day), "no_such_type", segment="unknown", propensity=None) for day in (9, 20)
    ]
    change(shop, "marts.notifications", *rows)
    assert by_visitor(shop).keys() == {"paris", "tokyo", "unknown"}


def test_the_same_plan_again(shop: Settings) -> None:
    first = plan_notifications(shop, NOW)
    assert plan_notifications(shop, NOW) == first
    with closing(open_outbox(shop)) as outbox:
        assert outbox.enqueue(first) == 3
        assert outbox.enqueue(first) == 0


def test_what_is_missing_is_said_once(tmp_path: Path, shop: Settings) -> None:
    with pytest.raises(NothingToDo, match="there is no warehouse"):
        plan_notifications(Settings(home=tmp_path / "none"), NOW)
    with duckdb.connect(str(shop.warehouse)) as connection:
        connection.execute("delete from marts.visitor_segments")
    with pytest.raises(NothingToDo, match="nobody is in a segment yet"):
        plan_notifications(shop, NOW)
    with duckdb.connect(str(shop.warehouse)) as connection:
        connection.execute("drop table marts.notifications")
    with pytest.raises(NothingToDo, match="has no notifications yet; run `marquee transform`"):
        plan_notifications(shop, NOW)


def test_settings_that_are_no_hours_or_zone_are_named(shop: Settings) -> None:
    with pytest.raises(SettingsError, match="notify_quiet is 'night'; write two times of day"):
        quiet_hours("night")
    with pytest.raises(SettingsError, match="'Mars/Base' is no time zone"):
        plan_notifications(shop.model_copy(update={"notify_time_zone": "Mars/Base"}), NOW)


def test_an_installation_plans(copied: Callable[[Path], Settings], tmp_path: Path) -> None:
    """The simulated shop: all who are in a segment get something of their segment's on the first day."""
    settings = copied(tmp_path / "home")
    assert settings.as_of is not None
    planned = plan_notifications(settings, settings.as_of.replace(tzinfo=None))
    rules = installation_rules(settings)
    assert len(planned) > 100
    assert all(one.notification_type in rules.types_of[one.segment] for one in planned)
    assert {one.content_id for one in planned} != {None}
