"""Feast's DuckDB offline store with point-in-time joins as DuckDB's own ASOF join: same rows, sooner."""

from __future__ import annotations

from typing import Any, Final

import duckdb
import pandas as pd
import pyarrow as pa
from feast import FeatureView
from feast.data_format import ParquetFormat
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata

EVENT_TIMESTAMP: Final = "event_timestamp"
ROW: Final = "entity_row"
Entities = Any
"""A data frame or an Arrow table; Arrow has no types."""


class AsofDuckDBOfflineStoreConfig(DuckDBOfflineStoreConfig):  # type: ignore[misc]
    """Feast's configuration under this store's name."""

    type: str = "features.offline_store.AsofDuckDBOfflineStore"


class AsofDuckDBOfflineStore(DuckDBOfflineStore):  # type: ignore[misc]
    """Answers ``get_historical_features`` itself and leaves the rest, and what it does not know, to Feast."""

    @staticmethod
    def get_historical_features(
        config: Any,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: Any,
        registry: Any,
        project: str,
        full_feature_names: bool = False,
        **further: Any,
    ) -> RetrievalJob:
        """Every entity row once, in the order given, with each view's newest row that is neither later nor expired.

        Args:
            entity_df: a data frame, or an Arrow table, which is the faster; its moments have a zone.
        """
        if not isinstance(entity_df, pd.DataFrame | pa.Table) or not _is_simple(feature_views, entity_df, further):
            job: RetrievalJob = DuckDBOfflineStore.get_historical_features(
                config, feature_views, feature_refs, entity_df, registry, project, full_feature_names, **further
            )
            return job
        return AsofJob(entity_df, feature_views, feature_refs, full_feature_names)


class AsofJob(RetrievalJob):  # type: ignore[misc]
    """A join that runs when its result is asked for; what came with an entity row never enters it."""

    def __init__(self, entities: Entities, views: list[FeatureView], refs: list[str], full_names: bool) -> None:
        super().__init__()
        self._entities, self._refs, self._full_names = entities, refs, full_names
        self._keys = [*dict.fromkeys(key for view in views for key in _join_keys(view).values()), EVENT_TIMESTAMP]
        self._query = asof_join(views, refs, self._keys, full_names)

    def to_sql(self) -> str:
        """The query, over a table called ``entities``; it returns the features alone, in the order of the rows."""
        return self._query

    def to_df(self, validation_reference: Any = None, timeout: int | None = None) -> pd.DataFrame:
        """Entity rows and features as a data frame; entity columns as they came."""
        if validation_reference or not isinstance(self._entities, pd.DataFrame):
            return super().to_df(validation_reference, timeout)
        entities = self._entities.reset_index(drop=True)
        return pd.concat([entities, self._features().to_pandas()], axis=1)

    @property
    def full_feature_names(self) -> bool:
        """Whether each feature's name begins with its view's."""
        return self._full_names

    @property
    def on_demand_feature_views(self) -> list[Any]:
        """None: the marts compute."""
        return []

    @property
    def metadata(self) -> RetrievalMetadata:
        """What was asked, and the span of its moments."""
        moments = self._narrow().column(EVENT_TIMESTAMP).to_pandas()
        keys = [name for name in _columns(self._entities) if name != EVENT_TIMESTAMP]
        return RetrievalMetadata(self._refs, keys, moments.min(), moments.max())

    def persist(self, storage: Any, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Not offered: write the result of ``to_arrow``."""
        raise NotImplementedError("write the result of to_arrow() instead")

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self.to_df()

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        table = self._entities
        if isinstance(table, pd.DataFrame):
            table = pa.Table.from_pandas(table, preserve_index=False)
        for name, column in zip((features := self._features()).column_names, features.columns, strict=True):
            table = table.append_column(name, column)
        return table

    def _narrow(self) -> pa.Table:
        if isinstance(self._entities, pa.Table):
            return self._entities.select(self._keys)
        return pa.Table.from_pandas(self._entities[self._keys], preserve_index=False)

    def _features(self) -> pa.Table:
        with duckdb.connect() as connection:
            connection.execute("set timezone = 'UTC'")
            connection.register("entities", self._narrow())
            return connection.sql(self._query).to_arrow_table()


def asof_join(views: list[FeatureView], refs: list[str], keys: list[str], full_names: bool = False) -> str:
    """DuckDB SQL over a table ``entities`` of ``keys``: the views' features for each of its rows, in their order."""
    selected, joins = [], []
    for place, view in enumerate(views):
        alias, stamp = f"view_{place}", _name(view.batch_source.timestamp_field)
        asked = view.projection.name_to_use()
        fields = [ref.partition(":")[2] for ref in refs if ref.partition(":")[0] == asked]
        # The newest row that is not later is the only one that can be alive: older ones expire before it.
        seconds = view.ttl.total_seconds() if view.ttl else 0
        alive = f"entities.{EVENT_TIMESTAMP} <= {alias}.{stamp} + to_microseconds({int(seconds * 1e6)})"
        for field in fields:
            value = f"case when {alive} then {alias}.{_name(field)} end" if seconds else f"{alias}.{_name(field)}"
            selected.append(f"{value} as {_name(f'{asked}__{field}' if full_names else field)}")
        equal = [f"{alias}.{_name(own)} = entities.{_name(key)}" for own, key in _join_keys(view).items()]
        columns = ", ".join(map(_name, [*_join_keys(view), view.batch_source.timestamp_field, *fields]))
        source = f"select {columns} from read_parquet('{view.batch_source.path.replace(chr(39), chr(39) * 2)}')"  # noqa: S608
        condition = " and ".join([*equal, f"entities.{EVENT_TIMESTAMP} >= {alias}.{stamp}"])
        joins.append(f"asof left join ({source}) as {alias} on {condition}")
    numbered = f"(select {', '.join(map(_name, keys))}, row_number() over () as {ROW} from entities) as entities"  # noqa: S608
    return f"select {', '.join(selected)} from {numbered} {' '.join(joins)} order by {ROW}"  # noqa: S608


def _is_simple(views: list[FeatureView], entities: Entities, further: dict[str, Any]) -> bool:
    """Whether the join asks for nothing but Parquet files, keys and one moment."""
    columns = _columns(entities)
    if further or EVENT_TIMESTAMP not in columns or not _has_zone(entities):
        return False
    return all(
        isinstance(source := view.batch_source, FileSource)
        and (isinstance(source.file_format, ParquetFormat) or source.path.endswith(".parquet"))
        and not (source.field_mapping or source.created_timestamp_column)
        and set(_join_keys(view).values()) <= set(columns)
        and view.entity_columns
        for view in views
    )


def _join_keys(view: FeatureView) -> dict[str, str]:
    """The view's key columns, and what the entity rows call each."""
    own = [column.name for column in view.entity_columns]
    return {key: view.projection.join_key_map.get(key, key) for key in own}


def _columns(entities: Entities) -> list[str]:
    return list(entities.column_names if isinstance(entities, pa.Table) else entities.columns)


def _has_zone(entities: Entities) -> bool:
    if isinstance(entities, pa.Table):
        kind = entities.schema.field(EVENT_TIMESTAMP).type
        return bool(pa.types.is_timestamp(kind) and kind.tz)
    return isinstance(entities[EVENT_TIMESTAMP].dtype, pd.DatetimeTZDtype)


def _name(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'
