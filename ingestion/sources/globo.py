"""G1 (globo.com): a news portal's clicks, one file an hour."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from ingestion import columnar
from ingestion.batch import Batch, event_id
from ingestion.mapping import Record, Values, key, milliseconds, optional
from ingestion.paths import CSV_SUFFIXES, data_files
from ingestion.rows import read_all, read_csv_blocks
from marquee import contract

COLUMNS: Final = (
    "user_id",
    "session_id",
    "click_article_id",
    "click_timestamp",
    "click_deviceGroup",
    "click_country",
    "click_referrer_type",
)
# The published key (1 tablet, 3 empty) contradicts the data: group 1 is one operating system, web only, in office
# hours on weekdays; group 3 is the apps' two systems, most at night. Other groups stay unknown.
DEVICES: Final = {"1": "desktop", "3": "mobile"}


class Globo:
    """The hourly files in a folder or its ``clicks`` subfolder, or one of them. Countries and referrers are codes."""

    name = "globo"
    about = "G1 news portal: folder of clicks_hour_*.csv files (or its clicks subfolder), or one such file"

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Iterator[Batch]:
        """Page views, hour by hour."""
        files = data_files(self.path, CSV_SUFFIXES, subfolder="clicks", prefix="clicks_hour_")
        blocks = read_all(files, partial(read_csv_blocks, columns=COLUMNS))
        yield from columnar.csv_batches(contract.EVENTS, blocks, COLUMNS, _page_view, _page_views)


def _page_view(values: Values) -> Record:
    user_id, session_id, article_id = key(values, "user_id"), key(values, "session_id"), key(values, "click_article_id")
    return {
        "event_id": event_id("globo", user_id, session_id, article_id, values["click_timestamp"]),
        "kind": "page_view",
        "occurred_at": milliseconds(values, "click_timestamp"),
        "visitor_id": user_id,
        "session_id": session_id,
        "product_id": article_id,
        "page": f"article/{article_id}",
        "device": DEVICES.get(values["click_deviceGroup"], "unknown"),
        "country": optional(values, "click_country"),
        "referrer": optional(values, "click_referrer_type"),
    }


def _page_views(columns: columnar.Columns) -> dict[str, pa.Array]:
    """``_page_view`` of all rows at once."""
    keys = [columnar.key(columns, name) for name in ("user_id", "session_id", "click_article_id")]
    user_ids, session_ids, article_ids = keys
    return {
        "event_id": columnar.event_ids("globo", *keys, columns["click_timestamp"]),
        "kind": columnar.constant(columns, "page_view"),
        "occurred_at": columnar.milliseconds(columns, "click_timestamp"),
        "visitor_id": user_ids,
        "session_id": session_ids,
        "product_id": article_ids,
        "page": pc.binary_join_element_wise("article/", article_ids, ""),
        "device": columnar.choice(columns, "click_deviceGroup", DEVICES, "unknown"),
        "country": columnar.optional(columns, "click_country"),
        "referrer": columnar.optional(columns, "click_referrer_type"),
    }
