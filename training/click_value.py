"""What a click on each banner is worth: the revenue of the orders that are its, per click, shrunk towards the mean."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from marquee.errors import NothingToDo
from marquee.settings import Settings
from marquee.warehouse import open_warehouse
from training.dataset import Dataset

Floats = NDArray[np.float64]
PRIOR_CLICKS: Final = 100.0
"""Clicks' worth of the mean value that a banner starts from.

Few clicks lead to an order and orders differ as much as their mean is large, so a banner's own value per click is
known to a third of itself after about a hundred clicks.
"""


def click_values(settings: Settings, data: Dataset) -> Floats:
    """[B] revenue per click in the shop's currency, of clicks in the training and validation parts.

    An order belongs to the visitor's last click before it within the days that the warehouse allows, so none counts
    twice; of orders only those from before the test part are looked at.

    Raises:
        NothingToDo: no order follows a click, or another engine than DuckDB keeps the orders.
    """
    revenue_of = _revenues(settings, data.split.test_starts_at)
    fit = np.concatenate([data.split.train, data.split.validation])
    impressions = data.frame["impression_id"].to_numpy(str)[fit]
    revenue = np.array([revenue_of.get(impression, 0.0) for impression in impressions])
    banners, count = data.banner_rows[fit], len(data.catalogue)
    clicks: Floats = np.bincount(banners, data.clicked[fit], count).astype(np.float64)
    revenues: Floats = np.bincount(banners, revenue, count).astype(np.float64)
    if not revenues.sum() > 0:
        raise NothingToDo("rank_by is value, and no order follows a click in the training rows: rank by clicks")
    return shrunk_values(revenues, clicks)


def shrunk_values(revenues: Floats, clicks: Floats, prior: float = PRIOR_CLICKS) -> Floats:
    """(revenue + prior × mean) / (clicks + prior) of each banner; the mean is all revenue over all clicks.

    Args:
        revenues: [B] in currency. clicks: [B].
        prior: clicks' worth of the mean.
    """
    mean = revenues.sum() / clicks.sum()
    values: Floats = (revenues + prior * mean) / (clicks + prior)
    return values


def _revenues(settings: Settings, until: np.datetime64) -> dict[str, float]:
    """Revenue by the impression whose click it is put down to."""
    if settings.dbt_target != "duckdb":  # what stands in the DuckDB file then is from before it was set
        raise NothingToDo(f"rank_by is value, and orders are in {settings.dbt_target} only: rank by clicks")
    query = """
        select impression_id, cast(sum(cast(coalesce(amount, 0) as decimal(18, 4))) as double)
        from intermediate.int_orders_attributed where ordered_at < ? group by impression_id
    """
    with open_warehouse(settings) as connection:
        return dict(connection.execute(query, [until.astype("datetime64[us]").item()]).fetchall())
