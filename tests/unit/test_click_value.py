"""What a click on a banner is worth, by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

from features.matrix import Encoding
from marquee import contract
from marquee.errors import NothingToDo
from marquee.settings import Settings
from training.catalogue import Catalogue
from training.click_value import click_values, shrunk_values
from training.dataset import Dataset, Split

BORDER = np.datetime64(datetime(2026, 1, 10), "us")


def test_values_by_hand() -> None:
    """All: 400 over 20 clicks is 20 a click. Each starts from 10 clicks at that."""
    values = shrunk_values(np.array([300.0, 100.0, 0.0]), np.array([10.0, 10.0, 0.0]), prior=10.0)
    assert values == pytest.approx([(300 + 200) / 20, (100 + 200) / 20, 20])


@pytest.fixture
def shop(tmp_path: Path) -> Settings:
    """Orders of three impressions before the border, and of two that must not count."""
    settings = Settings(home=tmp_path)
    with duckdb.connect(str(settings.warehouse)) as connection:
        connection.execute("create schema intermediate")
        connection.execute(
            "create table intermediate.int_orders_attributed"
            " (impression_id varchar, amount double, ordered_at timestamp)"
        )
        connection.execute("""
            insert into intermediate.int_orders_attributed values
            ('i0', 10, '2026-01-02'), ('i0', 20, '2026-01-02'), ('i1', null, '2026-01-03'), ('i2', 60, '2026-01-04'),
            ('i0', 999, '2026-01-10'), ('unknown', 999, '2026-01-04'), ('i4', 999, '2026-01-04')
        """)
    return settings


def banner(name: str) -> dict[str, Any]:
    texts = {"campaign_id": "", "title": "", "status": "active", "placements": "[]", "category_mix": "{}"}
    return {"banner_id": name, "starts_at": BORDER, "ends_at": BORDER, "product_count": 1, "mean_price": 1.0, **texts}


def data() -> Dataset:
    """Five impressions of two banners, all clicked but the fourth; the last is in the test part."""
    parts = (np.array([0, 1]), np.array([2, 3]), np.array([4]))
    return Dataset(
        frame=pd.DataFrame({"impression_id": [f"i{number}" for number in range(5)]}),
        catalogue=Catalogue.from_rows([banner("a"), banner("b")]),
        encoding=Encoding((), (), contract.DEVICES, 0.5),
        split=Split(*parts, validation_starts_at=BORDER, test_starts_at=BORDER, purged=0),
        matrix=np.zeros((5, 0), np.float32),
        visitor_shares=np.zeros((5, 0), np.float32),
        banner_shares=np.zeros((2, 0), np.float32),
        banner_rows=np.array([0, 0, 1, 1, 1]),
        clicked=np.array([1, 1, 1, 0, 1], bool),
        snapshot="",
    )


def test_orders_of_the_log_by_hand(shop: Settings) -> None:
    """a: 30 of two clicks; b: 60 of one. Mean 90 / 3 = 30, of which each has a hundred clicks."""
    assert click_values(shop, data()) == pytest.approx([(30 + 3000) / 102, (60 + 3000) / 101])


def test_where_no_order_follows_a_click_nothing_is_worth_anything(shop: Settings) -> None:
    early = replace(data().split, test_starts_at=np.datetime64("2026-01-01", "us"))
    with pytest.raises(NothingToDo, match="no order follows a click"):
        click_values(shop, replace(data(), split=early))


def test_orders_that_another_engine_keeps_are_not_guessed(shop: Settings) -> None:
    with pytest.raises(NothingToDo, match="orders are in postgres only"):
        click_values(shop.model_copy(update={"dbt_target": "postgres"}), data())
