"""Tmall contest, stage 1: what users did with brands, by day and without a clock."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Final

from ingestion.batch import Batch, event_id
from ingestion.mapping import FieldError, Record, Values, batches, key, shown
from ingestion.paths import CSV_SUFFIXES, data_files
from ingestion.rows import read_csv
from marquee import contract
from marquee.errors import SourceError

COLUMNS: Final = ("user_id", "brand_id", "type", "visit_datetime")
KINDS: Final = {"0": "product_view", "1": "order", "2": "favourite", "3": "cart"}
YEAR: Final = 2013
"""The published rows name month and day only."""
_DATE: Final = re.compile(r"(\d{1,2})-(\d{1,2})", re.ASCII)


class Tmall:
    """One CSV file, or a folder that holds one. Equal rows are repeated actions, so each has its own id."""

    name = "tmall"
    about = "Tmall contest stage 1: CSV file of user_id, brand_id, type, visit_datetime (month-day of 2013)"

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Iterator[Batch]:
        """Events in file order; remembers each distinct row to number its repetitions."""
        files = data_files(self.path, CSV_SUFFIXES)
        if len(files) > 1:
            raise SourceError(f"{self.path} holds {len(files)} CSV files; name the one to read, such as {files[0]}")
        seen: Counter[tuple[object, ...]] = Counter()
        yield from batches(contract.EVENTS, read_csv(files[0], COLUMNS), partial(_event, seen))


def _event(seen: Counter[tuple[object, ...]], values: Values) -> Record:
    kind = KINDS.get(values["type"].strip())
    if kind is None:
        raise FieldError(f"type {shown(values['type'])} is not one of {', '.join(KINDS)}")
    user_id, brand_id, occurred_at = key(values, "user_id"), key(values, "brand_id"), _date(values["visit_datetime"])
    identity = (user_id, brand_id, kind, occurred_at)
    seen[identity] += 1
    return {
        "event_id": event_id("tmall", *identity, seen[identity]),
        "kind": kind,
        "occurred_at": occurred_at,
        "visitor_id": user_id,
        "product_id": brand_id,
    }


@lru_cache(maxsize=1_000)
def _date(text: str) -> datetime:
    match = _DATE.fullmatch(text.strip())
    try:
        if match:
            return datetime(YEAR, int(match[1]), int(match[2]))
        raise ValueError
    except ValueError:
        raise FieldError(f"visit_datetime {shown(text)} is not a day of {YEAR} written M-D") from None
