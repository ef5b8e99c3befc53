"""UCI Online Retail: a gift shop's invoice lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

from ingestion.batch import Batch, event_id
from ingestion.mapping import FieldError, Record, Values, amount, batches, clock, derived, key, number, optional, shown
from ingestion.paths import CSV_SUFFIXES, data_files
from ingestion.rows import read_all, read_csv
from marquee import contract

COLUMNS: Final = (
    "InvoiceNo",
    "StockCode",
    "Description",
    "Quantity",
    "InvoiceDate",
    "UnitPrice",
    "CustomerID",
    "Country",
)
# The month comes first, as in the publisher's spreadsheet.
_AMERICAN: Final = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4}) (\d{1,2}):(\d\d)", re.ASCII)


class OnlineRetail:
    """One CSV file, a folder of them, or its ``by-day`` subfolder."""

    name = "online-retail"
    about = "UCI Online Retail: CSV file of invoice lines, or a folder of them (or its by-day subfolder)"

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Iterator[Batch]:
        """Invoice lines in file order, then the products that they name."""
        products: dict[str, Record] = {}
        files = data_files(self.path, CSV_SUFFIXES, subfolder="by-day")
        rows = read_all(files, partial(read_csv, columns=COLUMNS))
        yield from batches(contract.EVENTS, rows, partial(_line, products))
        yield from derived(contract.PRODUCTS, products.values())


def _line(products: dict[str, Record], values: Values) -> Record:
    invoice, product_id = key(values, "InvoiceNo"), key(values, "StockCode")
    quantity, price = number(values, "Quantity"), amount(values, "UnitPrice")
    customer_id = optional(values, "CustomerID")
    if customer_id:
        customer_id = customer_id.removesuffix(".0")  # the publisher's numbers passed through a float
    record = {
        "event_id": event_id("online-retail", *map(values.__getitem__, COLUMNS)),
        "kind": "return" if quantity < 0 or invoice.startswith("C") else "order",
        "occurred_at": _invoice_date(values),
        "visitor_id": customer_id or f"invoice-{invoice}",
        "customer_id": customer_id,
        "product_id": product_id,
        "order_id": invoice,
        "quantity": abs(quantity),
        "amount": round(abs(quantity) * price, 4),
        "country": optional(values, "Country"),
    }
    _note_product(products, product_id, optional(values, "Description"), price)
    return record


def _note_product(products: dict[str, Record], product_id: str, title: str | None, price: float) -> None:
    """Remember title and price as last seen; lines at no price are stock corrections with remarks for a title."""
    known = products.setdefault(product_id, {"product_id": product_id, "title": title, "price": price})
    if price > 0:
        known |= {"title": title or known["title"], "price": price}


def _invoice_date(values: Values) -> datetime:
    match = _AMERICAN.fullmatch(values["InvoiceDate"].strip())
    if match is None:
        return clock(values, "InvoiceDate")
    month, day, year, hour, minute = map(int, match.groups())
    try:
        return datetime(year, month, day, hour, minute)
    except ValueError:
        raise FieldError(f"InvoiceDate {shown(values['InvoiceDate'])} is not a time written M/D/YYYY H:MM") from None
