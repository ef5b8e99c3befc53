"""Logged requests through the offline path: the ranker's inputs from offline features, as training makes them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.definitions import BANNER_VIEWS, VISITOR_VIEWS, feature_names
from features.freshness import is_fresh
from features.matrix import SESSION_FIELDS, Shares, category_matrix, ranker_matrix
from features.training_set import join_features, stamps
from marquee import contract
from marquee.settings import Settings
from training.bundle import Bundle
from training.catalogue import banner_columns
from training.dataset import frame_columns, session_shares

READ_AS_OF: Final = {
    **dict.fromkeys(VISITOR_VIEWS, ("visitor_until", "impressed_at")),
    **dict.fromkeys(BANNER_VIEWS, ("banner_until", "counted_at")),
}
"""By view: up to which moment its features were online, and when they were read; columns of a request's row."""


def replayed(settings: Settings, store: Any, bundle: Bundle, rows: pd.DataFrame) -> NDArray[np.float64]:
    """[n, F] the ranker's inputs from the offline store, as training makes them, at the first position.

    Args:
        rows: requests as ``training.served`` reads them, each with the session that it was served with.
    """
    frame = _known(settings, store, rows)
    frame["position"] = 0
    return np.asarray(encoded(bundle, frame, rows["banner_id"]), dtype=np.float64)


def encoded(bundle: Bundle, frame: pd.DataFrame, banner_ids: pd.Series) -> NDArray[np.float32]:
    """[n, F] the ranker's inputs of rows with raw features, as this bundle encodes them; it must know every banner."""
    place = {banner: row for row, banner in enumerate(bundle.catalogue.banner_ids)}
    own = banner_ids.map(place).to_numpy(np.int64)
    columns = frame_columns(frame, bundle.encoding)
    columns |= {name: values[own] for name, values in banner_columns(bundle.catalogue).items()}
    texts = [text if isinstance(text, str) else None for text in frame["category_affinity"]]
    visitor = Shares.of(category_matrix(texts, bundle.encoding.categories))
    session, banner = session_shares(frame, bundle.encoding), Shares.of(bundle.banner_shares).rows(own)
    matrix: NDArray[np.float32] = ranker_matrix(columns, visitor, session, banner, bundle.encoding.base_rate)
    return matrix


def _known(settings: Settings, store: Any, rows: pd.DataFrame) -> pd.DataFrame:
    """What the online store had of each row's visitor and banner, and was young enough, when it was asked."""
    frame = rows[["impression_id", "placement_id", "device", "impressed_at", *SESSION_FIELDS]].copy()
    joined = {moment: _join(store, rows, moment) for moment in dict.fromkeys(until for until, _ in READ_AS_OF.values())}
    is_read = rows["is_visitor_read"].to_numpy(bool)
    for table, (until, read_at) in READ_AS_OF.items():
        names = list(feature_names(table))
        frame[names] = joined[until][names].to_numpy(object)
        is_alive = _is_alive(settings, table, rows, until, read_at) & (is_read | (table in BANNER_VIEWS))
        frame.loc[~is_alive, names] = None
    return frame


def _is_alive(
    settings: Settings, table: contract.Table, rows: pd.DataFrame, until: str, read_at: str
) -> NDArray[np.bool_]:
    """[n] whether the row that was online was within its TTL; a newer one offline says nothing of it."""
    stamped = stamps(settings, table, rows, until)
    pairs = zip(stamped, rows[read_at], strict=True)
    return np.array([stamp is not None and is_fresh(table.name, stamp, at) for stamp, at in pairs], dtype=bool)


def _join(store: Any, rows: pd.DataFrame, moment: str) -> pd.DataFrame:
    asked = rows[["impression_id", "visitor_id", "banner_id"]].copy()
    asked["impressed_at"] = pd.to_datetime(rows[moment]).astype("datetime64[us]")
    return join_features(store, asked)
