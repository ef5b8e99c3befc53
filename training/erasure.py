"""Which bundles learned from a person. A bundle holds no row of anybody, only what all of them together taught."""

from __future__ import annotations

import json
from dataclasses import dataclass

import duckdb

from marquee.person import Person
from marquee.settings import Settings
from training import registry


@dataclass(frozen=True, slots=True)
class TrainedWith:
    """A bundle and how many of the person's impressions lay in its training window."""

    bundle: str
    trained_until: str
    rows: int


def bundles_with(settings: Settings, person: Person) -> list[TrainedWith]:
    """Bundles in the store whose training window holds impressions of this person, oldest first.

    A bundle is trained on all training rows up to its ``trained_until``, so those are counted; a row that arrived
    after the training is counted too, and errs on the careful side.
    """
    if not (settings.bentos.exists() and settings.warehouse.exists()):
        return []
    found = []
    query = "select count(*) from marts.training_rows where visitor_id = ? and impressed_at <= ?::timestamp"
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        for tag in registry.bundles(settings):
            name, _, version = tag.partition(":")
            manifest = settings.bentos / "models" / name / version / "manifest.json"
            trained_until = str(json.loads(manifest.read_text(encoding="utf-8"))["trained_until"])
            try:
                row = connection.execute(query, [person.visitor_id, trained_until]).fetchone()
            except duckdb.CatalogException:
                return []
            if row[0]:
                found.append(TrainedWith(tag, trained_until, int(row[0])))
    return found
