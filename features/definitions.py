"""All Feast objects, made from the contract so that a field cannot drift from its mart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Bool, FeastType, Float64, Int64, String, UnixTimestamp

from features.freshness import TTL
from marquee import contract

TYPES: Final[dict[str, FeastType]] = {
    "string": String,
    "int": Int64,
    "float": Float64,
    "bool": Bool,
    "timestamp": UnixTimestamp,
}
STAMP: Final = "feature_at"
"""The column of every feature table that says from when its row is known."""
VISITOR_VIEWS: Final = (contract.VISITOR_FEATURES_28D, contract.VISITOR_FEATURES_365D)
BANNER_VIEWS: Final = (contract.BANNER_FEATURES_28D,)
RANKER_VIEWS: Final = (*VISITOR_VIEWS, *BANNER_VIEWS)
ONLINE_VIEWS: Final = (*RANKER_VIEWS, contract.VISITOR_SEGMENTS)
"""Segments are what campaigns aim at; a ranker never sees them."""
OFFLINE_VIEWS: Final = (*RANKER_VIEWS, contract.SESSION_FEATURES, contract.VISITOR_SEGMENTS)
"""Every feature table. Sessions are only joined offline: online they are kept up event by event."""
TRAINING_SERVICE: Final = "training_set"
"""Whole views, for training sets; what one bundle reads has a service of its own (``features.services``)."""
Reads = Mapping[str, Sequence[str]]
"""Fields by view."""


def feature_objects(
    offline: Path, services: Mapping[str, Reads] | None = None, engine: str = "duckdb"
) -> list[Entity | FeatureView | FeatureService]:
    """Entities, one view per feature table, and the services that name what each reader may ask for.

    Args:
        offline: folder with one folder of Parquet files per view.
        services: what further services read, by their names.
        engine: which offline store reads the files, ``duckdb`` or ``spark``.
    """
    keys = {key: _entity(key) for table in OFFLINE_VIEWS for key in entity_keys(table)}
    views = {
        table.name: _view(table, [keys[key] for key in entity_keys(table)], _source(table, offline, engine))
        for table in OFFLINE_VIEWS
    }
    training = FeatureService(name=TRAINING_SERVICE, features=[views[table.name] for table in RANKER_VIEWS])
    further = [
        FeatureService(name=name, features=[views[view][list(fields)] for view, fields in reads.items()])
        for name, reads in (services or {}).items()
    ]
    return [*keys.values(), *views.values(), training, *further]


def entity_keys(table: contract.Table) -> tuple[str, ...]:
    """The columns of a feature table that say whose features they are."""
    return tuple(name for name in table.key if name != STAMP)


def feature_names(table: contract.Table) -> tuple[str, ...]:
    """The columns of a feature table that are features: all but the entity and the time."""
    return tuple(name for name in table.names if name not in (*table.key, STAMP))


def _entity(key: str) -> Entity:
    return Entity(name=key.removesuffix("_id"), join_keys=[key], value_type=ValueType.STRING)


def _view(table: contract.Table, entities: list[Entity], source: Any) -> FeatureView:
    # The keys are in the schema so that Feast need not open a file to learn their types.
    names = (*entity_keys(table), *feature_names(table))
    return FeatureView(
        name=table.name,
        entities=entities,
        ttl=TTL[table.name],
        schema=[Field(name=name, dtype=TYPES[table.column(name).type]) for name in names],
        source=source,
        online=table in ONLINE_VIEWS,
        description=table.grain,
    )


def _source(table: contract.Table, offline: Path, engine: str) -> Any:
    folder = offline / table.name
    if engine == "spark":
        from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource

        return SparkSource(name=f"{table.name}_folder", path=str(folder), file_format="parquet", timestamp_field=STAMP)
    return FileSource(name=f"{table.name}_files", path=str(folder / "*.parquet"), timestamp_field=STAMP)
