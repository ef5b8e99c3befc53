"""Which known buyers a visitor is: those that are this visitor alone are forgotten with them."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from ingestion.warehouse import connect
from marquee import contract
from marquee.errors import MarqueeError
from marquee.settings import Settings

_IN_WAREHOUSE = """
select customer_id, bool_and(visitor_id = $visitor_id) from raw.events
where customer_id <> $visitor_id
    and customer_id in (select customer_id from raw.events where visitor_id = $visitor_id)
group by 1 order by 1
"""
_OF_OTHERS = """
select distinct customer_id from read_parquet($files)
where visitor_id <> $visitor_id and customer_id in (select unnest($customers))
"""


@dataclass(frozen=True, slots=True)
class Customers:
    """The customers whom a visitor's events name: ``own`` are named by nobody else's, ``shared`` by others' too."""

    own: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()


def customers_of(settings: Settings, visitor_id: str) -> Customers:
    """The customers of a visitor as the warehouse has them; batches that it does not hold can only make one shared.

    To be asked before anything is erased.

    Raises:
        WarehouseBusy: another process holds the warehouse.
        MarqueeError: a batch of the log cannot be read.
    """
    if not settings.warehouse.exists():
        return Customers()
    with connect(settings, read_only=True) as connection:
        try:
            found = dict(connection.execute(_IN_WAREHOUSE, {"visitor_id": visitor_id}).fetchall())
        except duckdb.CatalogException:
            return Customers()
        own = [customer for customer, is_alone in found.items() if is_alone]
        others = _of_others(connection, settings, visitor_id, own) if own else set()
    kept = sorted(others | (found.keys() - set(own)))
    return Customers(tuple(customer for customer in own if customer not in others), tuple(kept))


def _of_others(
    connection: duckdb.DuckDBPyConnection, settings: Settings, visitor_id: str, customers: list[str]
) -> set[str]:
    files = [str(file) for file in (settings.log / "batches").glob(f"*/{contract.EVENTS.name}-*.parquet")]
    if not files:
        return set()
    bound = {"files": files, "visitor_id": visitor_id, "customers": customers}
    try:
        return {customer for (customer,) in connection.execute(_OF_OTHERS, bound).fetchall()}
    except duckdb.Error as error:
        raise MarqueeError(f"a batch of the event log cannot be read: {str(error).splitlines()[0]}") from error
