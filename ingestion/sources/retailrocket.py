"""RetailRocket: an e-shop's views, carts and transactions, with item properties over time and a category tree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ingestion.batch import Batch, event_id
from ingestion.mapping import FieldError, Record, Values, batches, key, milliseconds, optional, shown
from ingestion.paths import find_table, table_file
from ingestion.rows import read_csv
from marquee import contract
from marquee.errors import SourceError

KINDS: Final = {"view": "product_view", "addtocart": "cart", "transaction": "order"}
PROPERTIES: Final = {"categoryid": "category_id", "available": "is_available"}
"""Properties that the warehouse knows; all others are hashed by the publisher and kept as they are."""
EVENT_COLUMNS: Final = ("timestamp", "visitorid", "event", "itemid", "transactionid")
PROPERTY_COLUMNS: Final = ("timestamp", "itemid", "property", "value")


class RetailRocket:
    """A folder in the published layout: events, item_properties (one file or two parts), category_tree."""

    name = "retailrocket"
    about = "RetailRocket: folder of events.csv, item_properties.csv (or its parts) and category_tree.csv"

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Iterator[Batch]:
        """Categories, properties, then events."""
        categories = table_file(self.path, "category_tree")
        properties = self._property_files()
        events = table_file(self.path, "events")
        yield from batches(contract.CATEGORIES, read_csv(categories, ("categoryid", "parentid")), _category)
        for file in properties:
            yield from batches(contract.PRODUCT_PROPERTIES, read_csv(file, PROPERTY_COLUMNS), _property)
        yield from batches(contract.EVENTS, read_csv(events, EVENT_COLUMNS), _event)

    def _property_files(self) -> list[Path]:
        first = table_file(self.path, "item_properties_part1", "item_properties")
        part2 = find_table(self.path, "item_properties_part2")
        if part2 and not first.name.startswith("item_properties_part1"):
            raise SourceError(f"{self.path} holds {first.name} and {part2.name}; keep the whole file or its parts")
        return [first, part2] if part2 else [first]


def _category(values: Values) -> Record:
    return {"category_id": key(values, "categoryid"), "parent_id": optional(values, "parentid")}


def _property(values: Values) -> Record:
    name = key(values, "property")
    return {
        "product_id": key(values, "itemid"),
        "property": PROPERTIES.get(name, name),
        "value": key(values, "value"),
        "valid_from_at": milliseconds(values, "timestamp"),
    }


def _event(values: Values) -> Record:
    kind = KINDS.get(values["event"].strip())
    if kind is None:
        raise FieldError(f"event {shown(values['event'])} is not one of {', '.join(KINDS)}")
    return {
        "event_id": event_id("retailrocket", *map(values.__getitem__, EVENT_COLUMNS)),
        "kind": kind,
        "occurred_at": milliseconds(values, "timestamp"),
        "visitor_id": key(values, "visitorid"),
        "product_id": key(values, "itemid"),
        "order_id": key(values, "transactionid") if kind == "order" else None,
        "quantity": 1.0 if kind == "order" else None,
    }
