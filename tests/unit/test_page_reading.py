"""Page paths read from a warehouse written by hand, and the model fitted from it."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from marquee.errors import NothingToDo
from marquee.settings import Settings
from training.pages.graph import OTHER, PageGraph
from training.pages.page_fitting import fit_page_model
from training.pages.reading import followed_share, read_paths

DAY = datetime(2026, 3, 1)
VISITS = """
    create schema intermediate;
    create table intermediate.int_page_visits (
        event_id varchar, occurred_at timestamp, visitor_id varchar, session_id varchar, page varchar
    );
    create table intermediate.int_events_sessionised (
        kind varchar, occurred_at timestamp, visitor_id varchar, session_id varchar, amount double
    )
"""
Visit = tuple[str, float, str, str, str]
Order = tuple[float, str, str, float | None]


def warehouse(home: Path, visits: list[Visit], orders: list[Order]) -> Settings:
    """An installation whose warehouse has page visits (id, second, visitor, session, page) and orders."""
    settings = Settings(home=home)
    home.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(str(settings.warehouse)) as connection:
        connection.execute(VISITS)
        whole = [(event, DAY + timedelta(seconds=at), *rest) for event, at, *rest in visits]
        _insert(connection, "int_page_visits", whole)
        bought = [("order", DAY + timedelta(seconds=at), *rest) for at, *rest in orders]
        _insert(connection, "int_events_sessionised", bought)
    return settings


def _insert(connection: duckdb.DuckDBPyConnection, table: str, rows: list[tuple[Any, ...]]) -> None:
    if rows:
        columns = pa.table([list(column) for column in zip(*rows, strict=True)], [f"c{n}" for n in range(len(rows[0]))])
        connection.register("given", columns)
        connection.execute(f"insert into intermediate.{table} select * from given")


def test_sessions_are_read_in_order_with_the_orders_placed_on_each_page(tmp_path: Path) -> None:
    visits: list[Visit] = [
        ("e4", 60.0, "ann", "s1", "cart"),
        ("e1", 0.0, "ann", "s1", "home"),
        ("e3", 30.0, "ann", "s1", "list"),  # at the same moment as the next one, but before it by its id
        ("e3b", 30.0, "ann", "s1", "item"),
        ("e5", 0.0, "bob", "s1", "home"),  # another visitor's session of the same name
        ("e6", 90_000.0, "bob", "s1", "home"),  # more than a day later: another path
        ("e7", 7_000.0, "ann", "s2", "list"),
    ]
    orders: list[Order] = [
        (40.0, "ann", "s1", 5.0),
        (30.0, "ann", "s1", 2.0),
        (70.0, "ann", "s1", 10.0),
        (70.0, "ann", "s1", 20.0),
        (80.0, "ann", "s1", None),
        (-5.0, "ann", "s1", 99.0),  # before any page
        (86_500.0, "bob", "s1", 7.0),  # more than a day after the page
        (10.0, "eve", "s1", 50.0),
    ]
    paths = read_paths(warehouse(tmp_path, visits, orders))
    assert [paths.pages[code] for code in paths.codes] == ["home", "list", "item", "cart", "list", "home", "home"]
    assert paths.starts.tolist() == [0, 4, 5, 6, 7]
    assert paths.amounts.tolist() == [0.0, 0.0, 7.0, 30.0, 0.0, 0.0, 0.0]
    assert paths.seconds.tolist() == pytest.approx([30.0, 0.0, 30.0] + [np.nan] * 4, nan_ok=True)
    assert len(set(paths.visitors.tolist())) == 2
    assert paths.session_amounts.tolist() == [37.0, 0.0, 0.0, 0.0]
    begun = (DAY - datetime(1970, 1, 1)).total_seconds()
    # Ann's first session ended with the order at 70 s, after its last view at 60 s.
    assert (paths.ends - begun).tolist() == pytest.approx([70.0, 7_000.0, 0.0, 90_000.0])


def test_only_the_newest_views_are_read_when_there_are_many(tmp_path: Path) -> None:
    visits: list[Visit] = [(f"e{n}", float(n), "ann", "s1", f"p{n}") for n in range(9)]
    paths = read_paths(warehouse(tmp_path, visits, []), newest=3)
    assert [paths.pages[code] for code in paths.codes] == ["p6", "p7", "p8"]


def test_without_page_views_there_is_nothing_to_do(tmp_path: Path) -> None:
    with pytest.raises(NothingToDo, match="no event names a page"):
        read_paths(warehouse(tmp_path / "empty", [], []))
    other = Settings(home=tmp_path / "other")
    other.home.mkdir()
    duckdb.connect(str(other.warehouse)).close()
    with pytest.raises(NothingToDo, match="no page views"):
        read_paths(other)
    until = np.datetime64("2026-03-02")
    for settings, reason in ((other, "no page views"), (Settings(home=tmp_path / "none"), "no warehouse")):
        model, told = fit_page_model(settings, until)
        assert model is None
        assert reason in told["skipped"]


def test_those_who_follow_are_counted_by_slates_whose_labels_are_known(tmp_path: Path) -> None:
    settings = warehouse(tmp_path, [], [])
    assert followed_share(settings, np.datetime64("2026-03-05")) is None
    with duckdb.connect(str(settings.warehouse)) as connection:
        connection.execute(
            "create schema marts; create table marts.training_rows as "
            "select 'v' || (n % 50) as visitor_id, timestamp '2026-03-01' + n * interval '1' minute as impressed_at, "
            "impressed_at + interval '1' day as label_known_at, n % 10 = 0 and place = 1 as is_clicked "
            "from range(2000) as slates (n), range(3) as places (place)"
        )
    assert followed_share(settings, np.datetime64("2026-03-05")) == pytest.approx(0.1)
    # By the 2nd at noon, the labels of half a day are known: 721 slates are too few to say.
    assert followed_share(settings, np.datetime64("2026-03-02T12:00")) is None


def shop(count: int) -> tuple[list[Visit], list[Order]]:
    """Sessions of home, list or item, and cart, one a minute; who comes from the list buys more often."""
    rng = np.random.default_rng(4)
    visits: list[Visit] = []
    orders: list[Order] = []
    for n in range(count):
        pages = ["home", "list" if rng.random() < 0.5 else "item"] + ["cart"] * int(rng.random() < 0.6)
        pages[1] = "rare" if n % 400 == 0 else pages[1]
        at = 60.0 * n
        visits += [(f"e{n}-{k}", at + k, f"v{n // 2}", f"s{n}", page) for k, page in enumerate(pages)]
        if pages[-1] == "cart" and rng.random() < (0.6 if pages[1] == "list" else 0.2):
            orders.append((at + 5.0, f"v{n // 2}", f"s{n}", 20.0))
    return visits, orders


def test_the_model_is_fitted_before_the_moment_and_judged_after_it(tmp_path: Path) -> None:
    settings = warehouse(tmp_path, *shop(1_200))
    until = np.datetime64(DAY + timedelta(seconds=60.0 * 800))
    model, told = fit_page_model(settings, until)
    assert model is not None
    assert set(model.pages) == {"home", "list", "item", "cart", OTHER}
    assert model.learnt.sessions == 800
    assert told["policy"]["sessions"] == told["next_page"]["steps"] - _carts(told, settings, until)
    assert told["share_known"] is False
    assert told["model"]["share"] == 0.05
    assert told["next_page"]["known_rate"] > 0.99
    assert told["expected"]["value"] >= told["expected"]["probable"] >= told["expected"]["natural"]
    json.dumps(told, allow_nan=False)


def _carts(told: dict[str, Any], settings: Settings, until: np.datetime64) -> int:
    """Steps to a cart after the moment: every session has one step more than that."""
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        query = "select count(*) from intermediate.int_page_visits where page = 'cart' and occurred_at >= ?"
        return int(connection.execute(query, [until.astype("datetime64[us]").item()]).fetchall()[0][0])


def test_too_few_page_views_skip_the_model(tmp_path: Path) -> None:
    settings = warehouse(tmp_path, *shop(100))
    model, told = fit_page_model(settings, np.datetime64(DAY + timedelta(days=9)))
    assert model is None
    assert "1,000 are needed" in told["skipped"]


def test_what_is_read_adds_up_to_the_graph_whatever_the_order_of_the_rows(tmp_path: Path) -> None:
    visits, orders = shop(120)
    one = PageGraph.of(read_paths(warehouse(tmp_path / "one", visits, orders)))
    other = PageGraph.of(read_paths(warehouse(tmp_path / "other", visits[::-1], orders[::-1])))
    assert one.pages == other.pages
    assert np.array_equal(one.steps.toarray(), other.steps.toarray())
    assert np.array_equal(one.rewards, other.rewards)
