"""What materialisation asks of an online store: Feast's own, with a way in for whole columns.

What the stores hold is laid out exactly as Feast lays it out, so that Feast reads it; only the way in is another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from feast import FeatureView
from feast.repo_config import RepoConfig

from features.encoding import Cells


@dataclass(frozen=True, slots=True)
class Rows:
    """Features of n entities: serialised keys, moments (UTC, no zone), and the cells of each field by its name."""

    keys: Sequence[bytes]
    stamps: Sequence[datetime]
    fields: dict[str, Cells]


class ColumnStore(Protocol):
    """What materialisation needs of an online store. A mark is JSON, and is never ahead of the rows it tells of."""

    def read_mark(self, config: RepoConfig, view: str) -> dict[str, Any] | None:
        """What was written last for a view; None when nothing is known of it."""

    def write_columns(self, config: RepoConfig, view: FeatureView, rows: Rows, mark: dict[str, Any]) -> None:
        """Insert or replace the rows, then the mark."""

    def remove(self, config: RepoConfig, view: FeatureView, keys: Sequence[bytes], mark: dict[str, Any]) -> None:
        """Delete a view's rows of these entities, then write the mark."""

    def clear(self, config: RepoConfig, view: FeatureView) -> None:
        """Delete all of a view's rows and its mark."""

    def settle(self, config: RepoConfig) -> None:
        """Bring what was written to its final place on disk, where that is the store's way."""
