"""Point-in-time training sets: what was known of visitor and banner strictly before each impression."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureStore

from features.definitions import STAMP, TRAINING_SERVICE, entity_keys
from features.export import offline_files
from features.flags import EXCLUSION, flagged_sessions
from features.matrix import SESSION_FIELDS
from features.store import refresh_offline
from marquee import contract
from marquee.errors import GateError, NothingToDo
from marquee.settings import Settings
from marquee.warehouse import open_warehouse

MOMENT = pa.timestamp("us")


def join_features(store: FeatureStore, rows: pd.DataFrame, service: str = TRAINING_SERVICE) -> pd.DataFrame:
    """Features of each row's visitor and banner as of its ``impressed_at``; same rows, same order.

    Raises:
        GateError: the join lost or repeated a row.
    """
    joined: pd.DataFrame = join_table(store, pa.Table.from_pandas(rows, preserve_index=False), service).to_pandas()
    for name in joined.columns[joined.dtypes.apply(pd.api.types.is_datetime64_any_dtype)]:
        joined[name] = joined[name].astype("datetime64[us]")
    return joined


def join_table(store: FeatureStore, rows: pa.Table, service: str = TRAINING_SERVICE) -> pa.Table:
    """``join_features`` without pandas: an Arrow table in, the same with the service's fields behind it out.

    Args:
        rows: has ``impression_id``, the entities' keys and ``impressed_at`` in UTC without a zone.

    Raises:
        GateError: the join lost or repeated a row.
    """
    place = rows.column_names.index("impressed_at")
    at = rows.column(place).cast(MOMENT).cast(pa.timestamp("us", tz="UTC"))
    entities = rows.set_column(place, "event_timestamp", at)
    if store.config.offline_config["type"] == "spark":
        entities = entities.to_pandas()
    joined = store.get_historical_features(entities, features=store.get_feature_service(service)).to_arrow()
    joined = joined.rename_columns(
        ["impressed_at" if name == "event_timestamp" else name for name in joined.column_names]
    )
    ids, wanted = joined.column("impression_id"), rows.column("impression_id")
    if len(joined) != len(rows) or pc.count_distinct(ids, mode="all").as_py() != len(rows):
        raise GateError(f"the point-in-time join turned {len(rows)} rows into {len(joined)}; it must keep each once")
    if not ids.equals(wanted):
        joined = joined.take(pc.index_in(wanted, ids.combine_chunks()))
    for number, field in enumerate(joined.schema):
        if pa.types.is_timestamp(field.type):
            joined = joined.set_column(number, field.name, joined.column(number).cast(MOMENT))
    return joined


def stamps(settings: Settings, table: contract.Table, rows: pd.DataFrame, moment: str) -> list[datetime | None]:
    """When the features were stamped that a join finds for each row as of the moment in this column; None for none.

    Whether they were expired by then is not asked.
    """
    key = entity_keys(table)[0]
    asked = rows[[key, moment]].astype({moment: "datetime64[us]"})
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        connection.register("asked", asked)
        query = f"""
            select stamp::timestamp
            from (select {key}, timezone('UTC', {moment}) as moment, row_number() over () as n from asked) as numbered
            asof left join (select {key}, {STAMP} as stamp from read_parquet(?)) as known
                on known.{key} = numbered.{key} and numbered.moment >= known.stamp
            order by n
        """  # noqa: S608 - names are the contract's
        return [row[0] for row in connection.execute(query, [offline_files(settings, table)]).fetchall()]


def build_training_set(settings: Settings) -> Path:
    """Write ``training_set.parquet``: a training row each with its features as of the impression, but for flagged ones.

    Raises:
        NothingToDo: there is no training row yet, or all are of flagged sessions.
        GateError: a row was lost or repeated, by a join or by leaving out flagged sessions.
    """
    if not settings.warehouse.exists():
        raise NothingToDo("no warehouse yet: run ingest_events, then transform_events")
    with open_warehouse(settings) as connection:
        try:
            rows, counts = _unflagged_rows(settings, connection)
        except duckdb.CatalogException:
            raise NothingToDo("no training rows yet: run transform_events") from None
    if not counts["rows_before"]:
        raise NothingToDo("training_rows is empty: no impression of a known banner has been loaded")
    if not len(rows):
        raise NothingToDo("all training rows are of flagged sessions; look at them with: marquee flag-sessions")
    # The files may be older than the marts, and the join would not say so.
    store, _ = refresh_offline(settings)
    joined = join_table(store, rows)
    target = settings.features / "training_set.parquet"
    partial = target.with_suffix(".partial")
    noted = {**(joined.schema.metadata or {}), EXCLUSION: json.dumps(counts)}
    pq.write_table(joined.replace_schema_metadata(noted), partial)
    partial.replace(target)
    return target


def _unflagged_rows(settings: Settings, connection: duckdb.DuckDBPyConnection) -> tuple[pa.Table, dict[str, int]]:
    """Training rows whose session is not flagged, each with its session until then, and counts of ``exclusion``."""
    connection.register("flags", flagged_sessions(settings))
    matched = "select 1 from flags where flags.visitor_id = r.visitor_id and flags.session_id = r.session_id"
    columns = ", ".join([*(f"r.{name}" for name in contract.TRAINING_ROWS.names), *SESSION_FIELDS])
    rows = connection.sql(
        f"select {columns} from marts.training_rows as r "  # noqa: S608 - names are the contract's
        f"join marts.session_moments as m using (impression_id) where not exists ({matched}) "
        "order by r.impressed_at, impression_id"
    ).to_arrow_table()
    (before,) = connection.execute("select count(*) from marts.training_rows").fetchone()
    excluded, sessions = connection.execute(
        "select count(*), count(distinct (visitor_id, session_id)) "  # noqa: S608
        f"from marts.training_rows as r where exists ({matched})"
    ).fetchone()
    if before != len(rows) + excluded:
        raise GateError(f"of {before} training rows {len(rows)} were kept and {excluded} left out; some are lost")
    counts = {"rows_before": before, "rows_kept": len(rows), "rows_excluded": excluded, "sessions_excluded": sessions}
    return rows, counts
