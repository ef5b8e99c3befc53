"""The feature store: offline files out of the warehouse, apply, materialise, online reads. Feast is imported here."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
from feast import FeatureStore
from feast.repo_config import RepoConfig, load_repo_config

from features.definitions import BANNER_SERVICE, VISITOR_SERVICE, feature_names, feature_objects
from features.freshness import TTL_DAYS, is_fresh
from marquee import contract
from marquee.errors import NothingToDo
from marquee.settings import Settings, settings_now

CONFIG = Path(__file__).with_name("feature_store.yaml")
FEATURE_TABLES = (contract.VISITOR_FEATURES, contract.BANNER_FEATURES)
TTL = timedelta(days=TTL_DAYS)


def open_store(settings: Settings) -> FeatureStore:
    """The store as ``feature_store.yaml`` describes it, under this installation's home."""
    settings.features.mkdir(parents=True, exist_ok=True)
    os.environ["FEATURE_STORE_HOME"] = str(settings.features)
    config: RepoConfig = load_repo_config(settings.features, CONFIG)
    return FeatureStore(config=config)


def export_offline(settings: Settings) -> dict[str, int]:
    """Copy the feature marts to the Parquet files that Feast joins against; rows by table.

    A file is replaced in one step, so a reader never sees half of one.
    """
    offline = settings.features / "offline"
    offline.mkdir(parents=True, exist_ok=True)
    counts = {}
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        connection.execute("set timezone = 'UTC'")
        for table in FEATURE_TABLES:
            target, partial = offline / f"{table.name}.parquet", offline / f"{table.name}.{os.getpid()}.partial"
            columns = ", ".join(_exported(column) for column in table.columns)
            query = f"select {columns} from marts.{table.name} order by all"  # noqa: S608 - names are the contract's
            connection.execute(f"copy ({query}) to '{partial}' (format parquet)")
            partial.replace(target)
            row = connection.execute(f"select count(*) from '{target}'").fetchone()  # noqa: S608 - our own path
            counts[table.name] = int(row[0])
    return counts


def _exported(column: contract.Column) -> str:
    # Feast reads timestamps with a zone; the warehouse keeps UTC without one.
    return f"timezone('UTC', {column.name}) as {column.name}" if column.type == "timestamp" else column.name


def refresh_offline(settings: Settings) -> tuple[FeatureStore, dict[str, int]]:
    """The store with its offline files as the marts are now and its definitions applied; offline rows by table.

    Raises:
        NothingToDo: the feature marts are empty.
    """
    counts = export_offline(settings)
    if not counts[contract.VISITOR_FEATURES.name]:
        raise NothingToDo("no visitor features yet: run transform_events on some events first")
    store = open_store(settings)
    store.apply(feature_objects(settings.features / "offline"))
    return store, counts


def materialize(settings: Settings) -> dict[str, int]:
    """Apply the definitions and bring the online store up to now; offline rows by table.

    A row stamped later than now (``settings.as_of``, else the clock) stays offline: it belongs to a day that is not
    over, and training would not have seen it either.

    Raises:
        NothingToDo: the feature marts are empty.
    """
    store, counts = refresh_offline(settings)
    now = settings_now(settings).replace(tzinfo=UTC)
    for table in FEATURE_TABLES:
        if counts[table.name]:
            _materialize_view(store, table.name, settings.features / "offline" / f"{table.name}.parquet", now)
    return counts


def _materialize_view(store: FeatureStore, name: str, path: Path, now: datetime) -> None:
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        row = connection.execute(
            "select epoch(min(feature_at)), epoch(max(feature_at)) from read_parquet(?)", [str(path)]
        ).fetchone()
    first, newest = (datetime.fromtimestamp(seconds, UTC) for seconds in row)
    last = min(newest, now)
    # All that is alive, each time: a batch that arrives late changes days long past, which increments would miss.
    second = timedelta(seconds=1)
    if first <= last:
        store.materialize(max(first, last - TTL) - second, last + second, feature_views=[name])


class OnlineFeatures:
    """Online reads by entity, each answer indexed by name because Feast's order is not the order asked for."""

    def __init__(self, settings: Settings) -> None:
        self._store = open_store(settings)
        self._visitors = self._store.get_feature_service(VISITOR_SERVICE)
        self._banners = self._store.get_feature_service(BANNER_SERVICE)

    def visitors(self, visitor_ids: list[str], now: datetime) -> dict[str, dict[str, Any]]:
        """Fresh features by visitor; a visitor without any is absent. ``now`` is UTC without a zone."""
        rows = self._read(self._visitors, contract.VISITOR_FEATURES, "visitor_id", visitor_ids)
        return {key: row for key, row in rows.items() if is_fresh(row["last_seen_at"], now)}

    def banners(self, banner_ids: list[str]) -> dict[str, dict[str, Any]]:
        """Features by banner; a banner never shown is absent."""
        return self._read(self._banners, contract.BANNER_FEATURES, "banner_id", banner_ids)

    def _read(self, service: Any, table: contract.Table, key: str, ids: list[str]) -> dict[str, dict[str, Any]]:
        if not ids:
            return {}
        answer = self._store.get_online_features(service, [{key: value} for value in ids]).to_dict()
        names = feature_names(table)
        result = {}
        for place, entity in enumerate(answer[key]):
            row = {name: _plain(answer[name][place]) for name in names}
            if row[names[0]] is not None:
                result[entity] = row
        return result


def _plain(value: Any) -> Any:
    """Feast's aware datetimes as the naive UTC ones used everywhere else."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).replace(tzinfo=None)
    return value
