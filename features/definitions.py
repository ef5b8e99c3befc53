"""All Feast objects, made from the contract so that a field cannot drift from its mart."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Final

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Bool, FeastType, Float64, Int64, String, UnixTimestamp

from features.freshness import TTL_DAYS
from marquee import contract

TYPES: Final[dict[str, FeastType]] = {
    "string": String,
    "int": Int64,
    "float": Float64,
    "bool": Bool,
    "timestamp": UnixTimestamp,
}
RANKER_SERVICE: Final = "ranker_v1"
VISITOR_SERVICE: Final = "visitor_online_v1"
BANNER_SERVICE: Final = "banner_online_v1"


def feature_objects(offline: Path) -> list[Entity | FeatureView | FeatureService]:
    """Entities, one view per feature table, and the services that name what each reader may ask for."""
    visitor = Entity(name="visitor", join_keys=["visitor_id"], value_type=ValueType.STRING)
    banner = Entity(name="banner", join_keys=["banner_id"], value_type=ValueType.STRING)
    visitors = _view(contract.VISITOR_FEATURES, visitor, offline)
    banners = _view(contract.BANNER_FEATURES, banner, offline)
    return [
        visitor,
        banner,
        visitors,
        banners,
        FeatureService(name=RANKER_SERVICE, features=[visitors, banners]),
        FeatureService(name=VISITOR_SERVICE, features=[visitors]),
        FeatureService(name=BANNER_SERVICE, features=[banners]),
    ]


def feature_names(table: contract.Table) -> tuple[str, ...]:
    """The columns of a feature table that are features: all but the entity and the time."""
    return tuple(name for name in table.names if name not in table.key)


def _view(table: contract.Table, entity: Entity, offline: Path) -> FeatureView:
    return FeatureView(
        name=table.name,
        entities=[entity],
        ttl=timedelta(days=TTL_DAYS),
        schema=[Field(name=name, dtype=TYPES[table.column(name).type]) for name in feature_names(table)],
        source=FileSource(
            name=f"{table.name}_file", path=str(offline / f"{table.name}.parquet"), timestamp_field="feature_at"
        ),
        online=True,
        description=table.grain,
    )
