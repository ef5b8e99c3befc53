"""The training set as arrays, split by time."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.freshness import TTL
from features.matrix import (
    BANNER_COUNTS,
    SESSION_COUNTS,
    VISITOR_NUMBERS,
    Encoding,
    Shares,
    category_codes,
    category_matrix,
    codes,
    interest_matrix,
    ranker_matrix,
    seconds,
)
from marquee import contract
from marquee.errors import NothingToDo
from marquee.settings import Settings
from training.catalogue import Catalogue, banner_columns

TEST_SHARE = 0.3
VALIDATION_SHARE = 0.2
RAW_COUNTS = (*VISITOR_NUMBERS, *SESSION_COUNTS, *BANNER_COUNTS)


@dataclass(frozen=True, slots=True)
class Split:
    """Row numbers of each part; every label of a part was final before the next part began.

    ``purged`` rows fall in none: they were shown before a border but their click could still come after it.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    validation_starts_at: np.datetime64
    test_starts_at: np.datetime64
    purged: int


@dataclass(frozen=True, slots=True)
class Dataset:
    """N impressions in time order and the B banners they were drawn from."""

    frame: pd.DataFrame
    catalogue: Catalogue
    encoding: Encoding
    split: Split
    matrix: NDArray[np.float32]
    visitor_shares: NDArray[np.float32]
    banner_shares: NDArray[np.float32]
    banner_rows: NDArray[np.int64]
    clicked: NDArray[np.bool_]
    snapshot: str


def split_by_time(impressed_at: NDArray[np.datetime64], label_known_at: NDArray[np.datetime64]) -> Split:
    """Split rows in time order into train, validation and test, never apart within one moment.

    Raises:
        NothingToDo: a part would be empty: the log is too short to test on a later time.
    """
    ordered = np.sort(impressed_at)
    test_start = ordered[int(len(ordered) * (1 - TEST_SHARE))]
    known = label_known_at <= test_start
    if not known.any():
        raise NothingToDo("too short a log to hold out a later time window: ingest more days")
    fit = np.sort(impressed_at[known])
    validation_start = fit[int(len(fit) * (1 - VALIDATION_SHARE))]
    train = np.flatnonzero(label_known_at <= validation_start)
    validation = np.flatnonzero((impressed_at >= validation_start) & known)
    test = np.flatnonzero(impressed_at >= test_start)
    if not (len(train) and len(validation) and len(test)):
        raise NothingToDo("too short a log to hold out a later time window: ingest more days")
    purged = len(impressed_at) - len(train) - len(validation) - len(test)
    return Split(train, validation, test, validation_start, test_start, purged)


def load_dataset(settings: Settings) -> Dataset:
    """Read the training set and the catalogue, and encode them.

    Raises:
        NothingToDo: no training set has been built, or it is too short to split.
    """
    path = settings.features / "training_set.parquet"
    if not path.exists():
        raise NothingToDo("no training set yet: run the training DAG's first task, or `marquee train`")
    frame = pd.read_parquet(path)
    catalogue, snapshot = read_catalogue(settings)
    split = split_by_time(
        frame["impressed_at"].to_numpy("datetime64[us]"), frame["label_known_at"].to_numpy("datetime64[us]")
    )
    clicked = frame["is_clicked"].to_numpy(bool)
    encoding = fit_encoding(frame.iloc[split.train], catalogue)
    place = {banner: row for row, banner in enumerate(catalogue.banner_ids)}
    banner_rows = frame["banner_id"].map(place).to_numpy(np.int64)
    visitor_shares = category_matrix(_texts(frame["category_affinity"]), encoding.categories)
    banner_shares = category_matrix(catalogue.category_mixes, encoding.categories)
    columns = frame_columns(frame, encoding) | {
        name: values[banner_rows] for name, values in banner_columns(catalogue).items()
    }
    session, banner = session_shares(frame, encoding), Shares.of(banner_shares).rows(banner_rows)
    matrix = ranker_matrix(columns, Shares.of(visitor_shares), session, banner, encoding.base_rate)
    return Dataset(
        frame, catalogue, encoding, split, matrix, visitor_shares, banner_shares, banner_rows, clicked, snapshot
    )


def fit_encoding(rows: pd.DataFrame, catalogue: Catalogue) -> Encoding:
    """Names seen in the training part, and its click rate."""
    categories = {category for mix in catalogue.category_mixes for category in json.loads(mix)}
    return Encoding(
        categories=tuple(sorted(categories)),
        placements=tuple(sorted(set(rows["placement_id"]))),
        devices=contract.DEVICES,
        base_rate=float(rows["is_clicked"].mean()),
    )


def frame_columns(frame: pd.DataFrame, encoding: Encoding) -> dict[str, Any]:
    """Raw features and context of each row, as ``ranker_matrix`` wants them; the banner's own are not among them."""
    columns: dict[str, Any] = {name: frame[name].to_numpy(np.float64) for name in RAW_COUNTS}
    columns |= {
        "placement": codes(frame["placement_id"].tolist(), encoding.placements),
        "device": codes(frame["device"].tolist(), encoding.devices),
        "position": frame["position"].to_numpy(np.float64),
        "impressed_at": seconds(frame["impressed_at"].to_numpy("datetime64[us]")),
        "last_seen_at": seconds(frame["last_seen_at"].to_numpy("datetime64[us]")),
        "session_started_at": seconds(frame["session_started_at"].to_numpy("datetime64[us]")),
        "last_category": category_codes(_texts(frame["last_category"]), _index(encoding)),
    }
    return columns


def session_shares(frame: pd.DataFrame, encoding: Encoding) -> Shares:
    """[n, C] shares of the interest shown in each row's session; NaN where it had shown none."""
    interests = [_interest(value) for value in frame["category_interest"]]
    return Shares.of(interest_matrix(interests, _index(encoding)))


def raw_session(row: pd.Series) -> dict[str, Any] | None:
    """A row's session as it is told online; None where none was under way."""
    if pd.isna(row["session_started_at"]):
        return None
    return {
        **{name: float(row[name]) for name in SESSION_COUNTS},
        "session_started_at": pd.Timestamp(row["session_started_at"]).to_pydatetime(),
        "last_category": row["last_category"] if isinstance(row["last_category"], str) else None,
        "category_interest": _interest(row["category_interest"]),
    }


def _interest(value: Any) -> dict[str, float] | None:
    """Of the mart as text, of a session made again as it is."""
    interest: dict[str, float] | None = json.loads(value) if isinstance(value, str) else value
    return interest if isinstance(interest, dict) else None


def read_catalogue(settings: Settings) -> tuple[Catalogue, str]:
    """The banners, and the id of the warehouse snapshot: a hash over the admitted batches."""
    columns = ", ".join(contract.BANNER_CATALOGUE.names)
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        found = connection.execute(f"select {columns} from marts.banner_catalogue").fetchall()  # noqa: S608
        batches = connection.execute("select batch_id from raw.batches where status = 'admitted' order by 1").fetchall()
    snapshot = hashlib.sha256("\n".join(row[0] for row in batches).encode()).hexdigest()[:12]
    rows = [dict(zip(contract.BANNER_CATALOGUE.names, row, strict=True)) for row in found]
    return Catalogue.from_rows(rows), snapshot


def read_category_titles(settings: Settings, categories: tuple[str, ...]) -> dict[str, str]:
    """What people call each category, where the shop says; by category id."""
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        rows = connection.execute("select category_id, title from staging.stg_categories").fetchall()
    return {category: title for category, title in rows if title and category in categories}


def banner_counts(settings: Settings, catalogue: Catalogue, as_of: np.datetime64) -> dict[str, NDArray[np.float64]]:
    """Each banner's counts as known at ``as_of``: [B] arrays, NaN for a banner not shown lately."""
    query = """
        select banner_id, banner_impression_count_28d, banner_click_count_28d
        from marts.banner_features_28d where feature_at <= ? and feature_at >= ?
        qualify row_number() over (partition by banner_id order by feature_at desc) = 1
    """
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        at = as_of.astype("datetime64[us]").item()
        rows = connection.execute(query, [at, at - TTL[contract.BANNER_FEATURES_28D.name]]).fetchall()
    known = {row[0]: row[1:] for row in rows}
    table = np.array([known.get(banner, (np.nan, np.nan)) for banner in catalogue.banner_ids], dtype=np.float64)
    return {name: table[:, place] for place, name in enumerate(BANNER_COUNTS)}


def _index(encoding: Encoding) -> dict[str, int]:
    return {category: place for place, category in enumerate(encoding.categories)}


def _texts(column: pd.Series) -> list[str | None]:
    return [value if isinstance(value, str) else None for value in column]
