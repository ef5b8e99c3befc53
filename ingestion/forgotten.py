"""Whose rows and lines must go: everything of one person, or what people did before they were forgotten."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from marquee.erasures import Tombstones
from marquee.parquet import RowMask, rows_of
from marquee.person import PERSON_COLUMNS, Person


class Erasable(Protocol):
    """Whose rows and lines must go."""

    @property
    def rows(self) -> RowMask:
        """Marks records that must go."""
        ...

    @property
    def named(self) -> Person | None:
        """Whom to star out of the records and lines that stay; None when no id is known."""
        ...

    def in_event(self, event: dict[str, Any]) -> bool:
        """Whether an event must go."""
        ...

    def in_text(self, text: str) -> bool:
        """Whether a line that could not be read names them."""
        ...


@dataclass(frozen=True, slots=True)
class OnePerson:
    """Everything of one person, whenever it happened."""

    person: Person

    @property
    def rows(self) -> RowMask:
        """See ``Erasable``."""
        return rows_of(self.person)

    @property
    def named(self) -> Person | None:
        """See ``Erasable``."""
        return self.person if self.person.is_distinctive else None

    def in_event(self, event: dict[str, Any]) -> bool:
        """See ``Erasable``."""
        return any(event.get(name) in self.person.ids(name) for name in PERSON_COLUMNS)

    def in_text(self, text: str) -> bool:
        """See ``Erasable``; a field of a line is enough, for nothing else is lost with such a line."""
        return self.person.visitor_id in _fields(text) or self.person.count(text.encode("utf-8", "replace")) > 0


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What people did up to the moment at which they were forgotten; they may have come back since."""

    tombstones: Tombstones

    @property
    def rows(self) -> RowMask:
        """See ``Erasable``."""
        return self._mask

    @property
    def named(self) -> Person | None:
        """See ``Erasable``; of those who were forgotten only hashes are known."""
        return None

    def in_event(self, event: dict[str, Any]) -> bool:
        """See ``Erasable``."""
        ids = [event.get(name) for name in PERSON_COLUMNS]
        known = self.tombstones.among(one for one in ids if isinstance(one, str))
        return any(event["occurred_at"] <= until for until in known.values())

    def in_text(self, text: str) -> bool:
        """See ``Erasable``."""
        return bool(self.tombstones.among(_fields(text)))

    def _mask(self, rows: pa.RecordBatch) -> pa.BooleanArray:
        found: Any = pa.array([False] * rows.num_rows, pa.bool_())
        for name in PERSON_COLUMNS:
            if name in rows.schema.names and "occurred_at" in rows.schema.names:
                ids = rows.column(name)
                known = self.tombstones.among(pc.unique(ids).to_pylist())
                for visitor_id, until in known.items():
                    theirs = pc.fill_null(pc.equal(ids, visitor_id), False)
                    before = pc.less_equal(rows.column("occurred_at"), pa.scalar(until, pa.timestamp("us")))
                    found = pc.or_(found, pc.and_(theirs, before))
        return found


def _fields(text: str) -> set[str]:
    """What could be an id in a line of CSV or JSON."""
    return {field.strip() for field in re.split(r"[,;|\t\"']", text)} | set(re.split(r"[^\w.@-]+", text))
