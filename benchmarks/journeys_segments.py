"""Segments of a real shop: each customer of UCI's Online Retail in exactly one, the best of them champions."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from ingestion.load import admit_batch, ingest
from ingestion.sources import open_source
from ingestion.transform import run_dbt
from marquee.settings import Settings
from marquee.warehouse import open_warehouse

FOLDER: Final = "online_retail_uci"
UNTESTED: Final = ("--exclude-resource-type", "test", "--exclude-resource-type", "unit_test")
LEAST_SHARE: Final = 0.99
"""Of the newest and most frequent who must be champions: money counts too, and some order often for next to nothing."""
QUERY: Final = """
with memberships as (
    select customer_id, count(*) as segment_count, min(segment) as segment from marts.customer_segments group by 1
),
customers as (
    select
        *,
        r_score = 5 and f_score = 5 as is_best,
        median(frequency) over (partition by segment) as usual_frequency
    from marts.rfm_scores left join memberships using (customer_id)
)
select
    count(*),
    count(*) filter (segment_count = 1),
    count(*) filter (is_best),
    count(*) filter (is_best and segment = 'champions'),
    min(r_score) filter (segment = 'champions') >= 4
    and min(usual_frequency) filter (segment = 'champions') > max(usual_frequency) filter (segment <> 'champions')
from customers
"""
"""Customers, those in one segment, those in the newest and most frequent fifths, the champions among them, and whether
champions are of the two newest fifths and order more often than any other segment."""


def segments(work: Path, data: Path | None) -> dict[str, Any]:
    """Build the real shop's segments with dbt and count them.

    Args:
        work: an empty folder.
        data: the folder that holds ``online_retail_uci``; None, or one without it, gives what was not measured.
    """
    source = data / FOLDER if data else None
    if source is None or not source.exists():
        return {"uci_customers": None, "uci_skipped": f"{FOLDER} is not there; give the folder that holds it"}
    settings = Settings(home=work / "segments")
    batch = ingest(open_source("online-retail", source), settings)
    admit_batch(settings, batch.batch_id)
    run_dbt(settings, "build", "--select", "+customer_segments", *UNTESTED)
    with open_warehouse(settings) as warehouse:
        customers, in_one, best, champions, is_ahead = warehouse.execute(QUERY).fetchall()[0]
    return {
        "uci_customers": customers,
        "uci_in_one_segment": in_one,
        "uci_newest_most_frequent": best,
        "uci_of_them_champions": champions,
        "champions_newest_most_frequent": best > 0 and champions >= LEAST_SHARE * best and is_ahead,
    }
