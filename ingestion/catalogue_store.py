"""Where the managed catalogue is kept: SQLite under home, or Valkey where many machines serve.

Managed records lie over the warehouse's: they replace or extend its rows by id, and deletions take rows away. No
visitor is named here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ingestion.catalogue_changes import (
    ID_FIELDS,
    CatalogueRefused,
    CatalogueStoreError,
    Change,
    Fault,
    Managed,
    Records,
    StillInUse,
    UnknownReference,
    VersionConflict,
)
from ingestion.sqlite_catalogue import SqliteCatalogue
from ingestion.valkey_catalogue import ValkeyCatalogue
from marquee.settings import Settings

__all__ = [
    "ID_FIELDS",
    "CatalogueRefused",
    "CatalogueStore",
    "CatalogueStoreError",
    "Change",
    "Fault",
    "Managed",
    "Records",
    "SqliteCatalogue",
    "StillInUse",
    "UnknownReference",
    "ValkeyCatalogue",
    "VersionConflict",
    "open_catalogue_store",
]


class CatalogueStore(Protocol):
    """Managed records. Each method raises ``CatalogueStoreError`` when the store is unwell."""

    def version(self) -> int:
        """Version of the catalogue, cheap enough to be asked all the time; 0 while nothing was ever changed."""

    def read(self) -> Managed:
        """All of it as of one moment; only what changed since the last call is fetched."""

    def change(
        self,
        changes: Sequence[Change],
        by: str,
        request_id: str,
        known: Records | None = None,
        cascade: bool = False,
    ) -> int:
        """Make all of these changes or none; durable, and in the audit, before it returns the new version.

        Without any change it returns the version that there is.

        Args:
            by: name of who changes it, kept with the request's id in the audit.
            known: the warehouse's records, which others may refer to.
            cascade: delete a deleted campaign's banners too.

        Raises:
            UnknownReference: a banner's campaign or placement that there is not.
            StillInUse: a deleted campaign has banners, and they are not to be deleted too.
            VersionConflict: a record has not the version expected.
        """

    def audit(self, limit: int = 100, before: int | None = None) -> list[dict[str, Any]]:
        """Changes, newest first: seq, version, at, by, request_id, kind, id, before and after.

        ``before``: only those with a smaller ``seq``.
        """

    def close(self) -> None:
        """Release connections."""


def open_catalogue_store(settings: Settings) -> CatalogueStore:
    """The store that goes with ``online_store``.

    Raises:
        SettingsError: it is Valkey and ``valkey_url`` is missing or no address.
    """
    if settings.online_store == "sqlite":
        return SqliteCatalogue(settings)
    return ValkeyCatalogue(settings)
