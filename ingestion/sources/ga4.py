"""Google Analytics 4, as BigQuery exports it: one JSON object a line, one line an event with its items."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from ingestion.batch import BATCH_ROWS, Batch, Rejected, check_event, event_id, records
from ingestion.mapping import FieldError, Record, after_epoch, amount, shown
from ingestion.paths import JSON_SUFFIXES, data_files
from ingestion.rows import Row, read_all, read_json_lines
from marquee import contract

KINDS: Final = {
    "page_view": "page_view",
    "view_item": "product_view",
    "add_to_cart": "cart",
    "purchase": "order",
    "add_to_wishlist": "favourite",
    "view_promotion": "impression",
    "select_promotion": "click",
}
"""Event names with a kind of their own; every other one is ``other``."""
BANNER_NAMES: Final = ("promotion_id", "creative_name", "promotion_name")
"""What may name a promotion, the best first."""
NOT_SET: Final = ("", "(not set)")
_WHOLE: Final = re.compile(r"-?\d{1,18}", re.ASCII)

Object = dict[str, Any]


class GA4:
    """Export files in a folder, or one of them. A line with several items yields a record an item, the first counted.

    An impression is one promotion seen by one visitor in one session: that is what its id is made of, so that a
    later ``select_promotion`` finds it, and a second ``view_promotion`` of the same is a duplicate.
    """

    name = "ga4"
    about = "Google Analytics 4: BigQuery export as JSON lines, a file or a folder of them"

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Iterator[Batch]:
        """Events in file order, then those that further items of the same lines make."""
        counted: list[Record] = []
        more: list[Record] = []
        rejected: list[Rejected] = []
        for row in read_all(data_files(self.path, JSON_SUFFIXES), read_json_lines):
            made = row if isinstance(row, Rejected) else _checked(row)
            if isinstance(made, Rejected):
                rejected.append(made)
            else:
                counted.append(made[0])
                more.extend(made[1:])
            if len(counted) + len(rejected) == BATCH_ROWS:
                yield from _batches(counted, more, rejected)
                counted, more, rejected = [], [], []
        yield from _batches(counted, more, rejected)


def _batches(counted: list[Record], more: list[Record], rejected: list[Rejected]) -> Iterator[Batch]:
    if counted or rejected:
        yield Batch("events", records(contract.EVENTS, counted), rejected)
    if more:
        yield Batch("events", records(contract.EVENTS, more), derived=True)


def _checked(row: Row) -> list[Record] | Rejected:
    try:
        made = _records(row.values)
    except FieldError as error:
        return row.reject(str(error))
    reason = next(filter(None, map(check_event, made)), None)
    return row.reject(reason) if reason else made


def _records(line: Object) -> list[Record]:
    name = _text(line, "event_name")
    if name is None:
        raise FieldError("event_name is missing")
    params = _params(line)
    base = _base(line, params, KINDS.get(name, "other"))
    stamp = (line.get(field) for field in ("event_timestamp", "event_bundle_sequence_id", "batch_event_index"))
    identity = (base["visitor_id"], name, base["session_id"], params.get("page_location"), *stamp)
    made = [base | detail for detail in _details(line, params, base)]
    for position, record in enumerate(made):
        parts = (*identity, position, record.get("product_id"), record.get("banner_id"))
        record["event_id"] = event_id("ga4", *parts) if base["kind"] != "impression" else record["impression_id"]
    return made


def _details(line: Object, params: dict[str, str], base: Record) -> list[Record]:
    """What each of the line's items adds; a promotion that covers several products is one banner."""
    if base["kind"] in contract.PRODUCT_KINDS:
        order_id = _text(_object(line, "ecommerce"), "transaction_id") or params.get("transaction_id")
        return [_product(item, base["kind"], order_id) for item in _items(line, {})]
    if base["kind"] not in contract.BANNER_KINDS:
        return [{}]
    promotions: dict[str, Record] = {}
    for item in _items(line, params):
        promotion = _promotion(item, base)
        promotions.setdefault(promotion["banner_id"], promotion)
    return list(promotions.values())


def _base(line: Object, params: dict[str, str], kind: str) -> Record:
    """What all records of a line share."""
    visitor_id = _text(line, "user_pseudo_id")
    if visitor_id is None:
        raise FieldError("user_pseudo_id is missing")
    device = (_text(_object(line, "device"), "category") or "unknown").lower()
    collected, first = _object(line, "collected_traffic_source"), _object(line, "traffic_source")
    return {
        "kind": kind,
        "occurred_at": _occurred_at(line),
        "visitor_id": visitor_id,
        "customer_id": _text(line, "user_id"),
        "session_id": params.get("ga_session_id"),
        "page": _page(params.get("page_location")),
        "device": device if device in contract.DEVICES else "unknown",
        "country": _text(_object(line, "geo"), "country"),
        "referrer": _text(collected, "manual_source") or _text(first, "source") or params.get("page_referrer"),
    }


def _product(item: Object, kind: str, order_id: str | None) -> Record:
    product_id = _text(item, "item_id")
    if product_id is None:
        raise FieldError("items: item_id is missing")
    if kind not in ("cart", "order"):
        return {"product_id": product_id}
    quantity = _number(item, "quantity")
    quantity = 1.0 if quantity is None else quantity
    if kind == "cart":
        return {"product_id": product_id, "quantity": quantity}
    price, revenue = _number(item, "price"), _number(item, "item_revenue")
    value = revenue if price is None else round(price * quantity, 4)
    return {"product_id": product_id, "order_id": order_id, "quantity": quantity, "amount": value}


def _promotion(item: Object, base: Record) -> Record:
    banner_id = next(filter(None, (_text(item, field) for field in BANNER_NAMES)), None)
    if banner_id is None:
        raise FieldError("items: promotion_id is missing, and so are creative_name and promotion_name")
    position = _text(item, "index") or _text(item, "item_list_index")
    # Without a session the day stands in for it, or one view would claim every later click.
    session = base["session_id"] or base["occurred_at"].date()
    return {
        "banner_id": banner_id,
        "placement_id": _text(item, "creative_slot") or _text(item, "location_id") or "unknown",
        "position": int(position) if position and _WHOLE.fullmatch(position) else None,
        "impression_id": event_id("ga4", "impression", base["visitor_id"], session, banner_id),
    }


def _items(line: Object, params: dict[str, str]) -> list[Object]:
    """The line's items; a promotion may also be told in ``params`` alone."""
    items = line.get("items")
    if not items and any(name in params for name in BANNER_NAMES):
        return [dict(params)]
    if not items:
        raise FieldError(f"items are missing, which a {line['event_name']} needs")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise FieldError(f"items {shown(items)} is not a list of objects")
    return items


def _params(line: Object) -> dict[str, str]:
    """``event_params`` as text by key; a parameter without a value is left out."""
    entries = line.get("event_params") or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise FieldError(f"event_params {shown(entries)} is not a list of objects")
    params: dict[str, str] = {}
    for entry in entries:
        values = _object(entry, "value")
        texts = (_text(values, f"{kind}_value") for kind in ("string", "int", "double", "float"))
        value = next(filter(None, texts), None)
        if value is not None and (name := _text(entry, "key")):
            params[name] = value
    return params


def _object(line: Object, name: str) -> Object:
    value = line.get(name) or {}
    if not isinstance(value, dict):
        raise FieldError(f"{name} {shown(value)} is not an object")
    return value


def _text(values: Object, name: str) -> str | None:
    """A text or number as text; ``None`` when absent, empty or "(not set)"."""
    value = values.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise FieldError(f"{name} {shown(value)} is not a text")
    try:
        text = str(value).strip()
        text.encode()
    except ValueError:  # a lone surrogate, or an integer of thousands of digits
        raise FieldError(f"{name} is not a text that UTF-8 can hold") from None
    if "\0" in text:
        raise FieldError(f"{name} {shown(text)} holds a NUL byte")
    return None if text in NOT_SET else text


def _number(values: Object, name: str) -> float | None:
    text = _text(values, name)
    return None if text is None else amount({name: text}, name)


def _occurred_at(line: Object) -> datetime:
    text = _text(line, "event_timestamp")
    if text is None:
        raise FieldError("event_timestamp is missing")
    if not _WHOLE.fullmatch(text):
        raise FieldError(f"event_timestamp {shown(text)} is not a whole number of microseconds")
    return after_epoch("event_timestamp", int(text))


def _page(location: str | None) -> str | None:
    """The path of an address."""
    if location is None:
        return None
    try:
        return urlsplit(location).path or "/"
    except ValueError:
        raise FieldError(f"page_location {shown(location)} is not an address") from None
