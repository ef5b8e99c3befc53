"""Point-in-time training sets: what was known of visitor and banner strictly before each impression."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pandas as pd
from feast import FeatureStore

from features.definitions import RANKER_SERVICE
from features.store import refresh_offline
from marquee import contract
from marquee.errors import GateError, NothingToDo
from marquee.settings import Settings


def join_features(store: FeatureStore, rows: pd.DataFrame) -> pd.DataFrame:
    """Features of each row's visitor and banner as of its ``impressed_at``; same rows, same order.

    Raises:
        GateError: the join lost or repeated a row.
    """
    entities = rows.rename(columns={"impressed_at": "event_timestamp"})
    entities["event_timestamp"] = pd.to_datetime(entities["event_timestamp"], utc=True).astype("datetime64[us, UTC]")
    service = store.get_feature_service(RANKER_SERVICE)
    joined = store.get_historical_features(entities, features=service).to_df()
    joined = joined.rename(columns={"event_timestamp": "impressed_at"})
    if len(joined) != len(rows) or not joined["impression_id"].is_unique:
        raise GateError(f"the point-in-time join turned {len(rows)} rows into {len(joined)}; it must keep each once")
    joined = joined.set_index("impression_id").loc[rows["impression_id"]].reset_index()
    for name in joined.columns[joined.dtypes.apply(lambda kind: isinstance(kind, pd.DatetimeTZDtype))]:
        joined[name] = joined[name].dt.tz_convert("UTC").dt.tz_localize(None).astype("datetime64[us]")
    return joined


def build_training_set(settings: Settings) -> Path:
    """Write ``training_set.parquet``: one row per training row, with its features as of the impression.

    Raises:
        NothingToDo: there is no training row yet.
        GateError: the join lost or repeated a row.
    """
    columns = ", ".join(contract.TRAINING_ROWS.names)
    if not settings.warehouse.exists():
        raise NothingToDo("no warehouse yet: run ingest_events, then transform_events")
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        try:
            query = f"select {columns} from marts.training_rows order by impressed_at, impression_id"  # noqa: S608
            rows = connection.execute(query).df()
        except duckdb.CatalogException:
            raise NothingToDo("no training rows yet: run transform_events") from None
    if rows.empty:
        raise NothingToDo("training_rows is empty: no impression of a known banner has been loaded")
    # The files may be older than the marts, and the join would not say so.
    store, _ = refresh_offline(settings)
    joined = join_features(store, rows)
    target = settings.features / "training_set.parquet"
    partial = target.with_suffix(".partial")
    joined.to_parquet(partial, index=False)
    partial.replace(target)
    return target
