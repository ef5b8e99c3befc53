"""The champion's recent impressions, as the warehouse admitted them: features and propensities as served, clicks.

A bot's days are left out as they are of training rows, once a build has judged them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import duckdb
import numpy as np
from numpy.typing import NDArray

from features.matrix import Floats
from marquee import contract
from marquee.settings import Settings
from marquee.warehouse import open_warehouse
from training.served import served_features

MOST_IMPRESSIONS: Final = 200_000
"""Of a window; where there are more, these are drawn by a hash of their ids."""
_SHOWN: Final = """
with admitted as (select * from raw.events semi join (
    select batch_id from raw.batches where status = 'admitted') using (batch_id)
    where not exists (select 1 from intermediate.int_visitor_day_flags as flags
        where flags.visitor_id = events.visitor_id and flags.activity_date = events.occurred_at::date)),
shown as (
    select impression_id, visitor_id, placement_id, coalesce(position, 0) as position, occurred_at, propensity, features
    from admitted
    where kind = 'impression' and features is not null and occurred_at >= $since and occurred_at < $until
        and regexp_extract(policy, '@(.+:[0-9a-f]+)$', 1) = $bundle
    qualify row_number() over (partition by impression_id order by event_id) = 1
    order by hash(impression_id) limit $most
),
clicks as (select impression_id, min(occurred_at) as clicked_at from admitted where kind = 'click' group by 1)
select shown.*, coalesce(clicked_at <= occurred_at + to_microseconds($attribution), false) as is_clicked
from shown left join clicks using (impression_id) order by occurred_at, impression_id
"""


@dataclass(frozen=True, slots=True)
class Window:
    """N impressions of one bundle in time order.

    Attributes:
        features: [N, F] the ranker's inputs as served, NaN where unknown.
        propensities: [N] as logged, NaN where none was.
        unread: impressions whose features could not be read; they are not among the N.
    """

    visitors: NDArray[np.str_]
    placements: NDArray[np.str_]
    positions: NDArray[np.int64]
    shown_at: NDArray[np.datetime64]
    propensities: Floats
    clicked: NDArray[np.bool_]
    features: Floats
    unread: int = 0

    def __len__(self) -> int:
        return len(self.visitors)

    def where(self, rows: NDArray[np.bool_]) -> Window:
        """The rows of this mask [N]."""
        return Window(
            self.visitors[rows],
            self.placements[rows],
            self.positions[rows],
            self.shown_at[rows],
            self.propensities[rows],
            self.clicked[rows],
            self.features[rows],
        )

    def feature(self, name: str) -> Floats:
        """[N] one of the ranker's inputs."""
        return np.asarray(self.features[:, contract.RANKER_FEATURES.index(name)])


def read_window(settings: Settings, bundle: str, since: datetime, until: datetime) -> Window:
    """Impressions that the bundle answered from ``since`` to before ``until`` (UTC), in admitted batches.

    A click counts when it came within the attribution time; whether all could, the caller knows from ``until``.

    Raises:
        NothingToDo: there is no warehouse yet.
    """
    values = {"bundle": bundle, "since": since, "until": until, "most": MOST_IMPRESSIONS}
    values |= {"attribution": int(timedelta(days=settings.attribution_days) / timedelta(microseconds=1))}
    with open_warehouse(settings) as connection:
        try:
            rows = connection.execute(_SHOWN, values).fetchall()
        except duckdb.CatalogException:
            rows = []
    kept, features = [], []
    for row in rows:
        try:
            features.append(served_features(row[6])[0])
        except (ValueError, TypeError):
            continue
        kept.append(row)
    table = np.stack(features) if features else np.empty((0, len(contract.RANKER_FEATURES)))
    return Window(
        visitors=np.array([row[1] for row in kept], dtype=np.str_),
        placements=np.array([row[2] for row in kept], dtype=np.str_),
        positions=np.array([row[3] for row in kept], dtype=np.int64),
        shown_at=np.array([row[4] for row in kept], dtype="datetime64[us]"),
        propensities=np.array([np.nan if row[5] is None else row[5] for row in kept], dtype=np.float64),
        clicked=np.array([row[7] for row in kept], dtype=bool),
        features=table,
        unread=len(rows) - len(kept),
    )
