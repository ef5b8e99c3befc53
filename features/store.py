"""The feature store: open it, apply its definitions, materialise, read online. Feast is imported here."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from feast import FeatureService, FeatureStore
from feast.errors import FeastObjectNotFoundException
from feast.repo_config import RepoConfig, load_repo_config

from features.damage import damage_named
from features.definitions import (
    BANNER_VIEWS,
    TRAINING_SERVICE,
    VISITOR_VIEWS,
    Reads,
    entity_keys,
    feature_objects,
)
from features.export import export_offline, offline_folder
from features.export_record import exports, has_retracted
from features.freshness import is_fresh
from features.materialization import Materialized, OnRows, materialize_views, materialized
from features.product_categories import export_product_categories
from features.products import export_products
from features.services import locked, register_service, registered_services
from marquee import contract, lineage
from marquee.errors import NothingToDo, SettingsError
from marquee.settings import Settings

__all__ = [
    "Materialized",
    "OnlineFeatures",
    "export_offline",
    "materialize",
    "materialized",
    "open_store",
    "refresh_offline",
]
CONFIG = Path(__file__).with_name("feature_store.yaml")
NO_FEATURES = "no visitor features yet: run transform_events on some events first"


def open_store(settings: Settings) -> FeatureStore:
    """The store that the settings describe, under this installation's home, with its definitions applied.

    Raises:
        SettingsError: ``online_store`` is valkey and ``valkey_url`` is not set.
    """
    settings.features.mkdir(parents=True, exist_ok=True)
    store = FeatureStore(config=_config(settings))
    services = registered_services(settings)
    objects = feature_objects(offline_folder(settings), services, settings.offline_store)
    if not _is_applied(store, objects):
        with locked(settings, "registry"):
            store.refresh_registry()
            if not _is_applied(store, objects):
                store.apply(objects)
    return store


def _config(settings: Settings) -> RepoConfig:
    os.environ["FEATURE_STORE_HOME"] = str(settings.features)
    config: RepoConfig = load_repo_config(settings.features, CONFIG)
    if settings.offline_store == "spark":
        conf = {"spark.master": settings.spark_master, "spark.sql.session.timeZone": "UTC", "spark.ui.enabled": "false"}
        config.offline_config = {"type": "spark", "spark_conf": conf}
    if settings.online_store == "valkey":
        if settings.valkey_url is None:
            raise SettingsError("online_store is valkey, so valkey_url must be set: redis://host:6379")
        url = settings.valkey_url
        config.online_config = {"type": "features.valkey_store.ColumnValkeyOnlineStore", "url": url}
    return config


def _is_applied(store: FeatureStore, objects: list[Any]) -> bool:
    """Whether the registry has exactly these objects; others that it has are let be."""
    known = {view.name: view for view in store.list_feature_views()}
    known_services = {service.name: service for service in store.list_feature_services()}
    for wanted in objects:
        if isinstance(wanted, FeatureService):
            found = known_services.get(wanted.name)
            if found is None or _projected(found) != _projected(wanted):
                return False
        elif hasattr(wanted, "batch_source"):
            view = known.get(wanted.name)
            if view is None or _described(view) != _described(wanted):
                return False
    return True


def _projected(service: FeatureService) -> dict[str, list[str]]:
    return {view.name: [field.name for field in view.features] for view in service.feature_view_projections}


def _described(view: Any) -> tuple[Any, ...]:
    fields = [(field.name, str(field.dtype)) for field in view.schema]
    return sorted(fields), view.ttl, view.online, type(view.batch_source).__name__, view.batch_source.path


def refresh_offline(settings: Settings) -> tuple[FeatureStore, dict[str, int]]:
    """The store with its offline files as the marts are now; offline rows by view.

    Raises:
        NothingToDo: the feature marts are empty.
    """
    counts = export_offline(settings)
    if _is_empty(counts):
        raise NothingToDo(NO_FEATURES)
    return open_store(settings), counts


def _is_empty(counts: dict[str, int]) -> bool:
    return not any(counts[table.name] for table in VISITOR_VIEWS)


def materialize(settings: Settings, on_rows: OnRows | None = None) -> dict[str, int]:
    """Bring the offline files up to the marts and the online store up to now; offline rows by view.

    Args:
        on_rows: called with how many more entities were written.

    Raises:
        NothingToDo: the feature marts are empty, and nothing that was in them is online.
        MarqueeError: a file of the feature store is damaged; the message says what to do. The view that it belongs to
            is online as it was.
        TryAgain: Valkey cannot be reached (``OnlineStoreDown``), or another process keeps SQLite's file locked.
    """
    started_at = datetime.now(UTC)
    with damage_named(settings):
        counts = export_offline(settings)
        with exports(settings) as record:
            if _is_empty(counts) and not has_retracted(record):
                raise NothingToDo(NO_FEATURES)
        export_product_categories(settings)
        export_products(settings)
        materialize_views(settings, open_store(settings), on_rows)
    marts = [lineage.table(settings, "marts", name) for name in counts]
    views = [(lineage.NAMESPACE, f"features.{name}") for name in counts]
    lineage.emit_run(settings, "materialize", marts, views, started_at)
    return counts


class OnlineFeatures:
    """Online reads by entity, each answer indexed by name because Feast's order is not the order asked for.

    Args:
        service: the feature service whose fields are read; a bundle has its own.
    """

    def __init__(self, settings: Settings, service: str = TRAINING_SERVICE) -> None:
        self._settings = settings
        self._store = open_store(settings)
        self._reads = _projected(self._store.get_feature_service(service))

    def through(self, service: str, reads: Reads) -> OnlineFeatures:
        """The same store read through another service, which is registered if it is not yet."""
        register_service(self._settings, service, {view: list(fields) for view, fields in reads.items()})
        try:
            self._store.get_feature_service(service)
        except FeastObjectNotFoundException:
            return OnlineFeatures(self._settings, service)
        other = object.__new__(OnlineFeatures)
        other._settings, other._store = self._settings, self._store
        other._reads = _projected(self._store.get_feature_service(service))
        return other

    def visitors(self, visitor_ids: list[str], now: datetime) -> dict[str, dict[str, Any]]:
        """Features by visitor, None where a view has no fresh ones; a visitor without any is absent.

        So is one whose last row only says that a year has passed since anything was seen of them. ``now`` is UTC
        without a zone.
        """
        found = self._read(VISITOR_VIEWS, visitor_ids, now)
        return {visitor: row for visitor, row in found.items() if row.get("last_seen_at", now) is not None}

    def banners(self, banner_ids: list[str], now: datetime) -> dict[str, dict[str, Any]]:
        """Features by banner; a banner not shown lately is absent. ``now`` is UTC without a zone."""
        return self._read(BANNER_VIEWS, banner_ids, now)

    def _read(self, tables: tuple[contract.Table, ...], ids: list[str], now: datetime) -> dict[str, dict[str, Any]]:
        reads = {table.name: self._reads[table.name] for table in tables if table.name in self._reads}
        if not ids or not reads:
            return {}
        key = entity_keys(tables[0])[0]
        references = [f"{view}:{field}" for view, fields in reads.items() for field in fields]
        answer = self._store.get_online_features(references, [{key: value} for value in ids])
        columns = answer.to_dict(include_event_timestamps=True)
        result = {}
        for place, entity in enumerate(columns[key]):
            row: dict[str, Any] = {}
            for view, fields in reads.items():
                if _is_alive(view, columns[f"{fields[0]}__ts"][place], now):
                    row |= {field: _plain(columns[field][place]) for field in fields}
            if row:
                result[entity] = {field: row.get(field) for fields in reads.values() for field in fields}
        return result


def _is_alive(view: str, stamp: int, now: datetime) -> bool:
    """``stamp``: seconds since 1970, 0 where the store has nothing."""
    return stamp > 0 and is_fresh(view, datetime.fromtimestamp(stamp, UTC).replace(tzinfo=None), now)


def _plain(value: Any) -> Any:
    """Feast's aware datetimes as the naive UTC ones used everywhere else."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).replace(tzinfo=None)
    return value
