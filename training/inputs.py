"""The ranker's inputs of one request over one catalogue: what does not change between requests is worked out once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache, partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.matrix import (
    BANNER_COUNTS,
    SESSION_COUNTS,
    VISITOR_NUMBERS,
    Encoding,
    Floats,
    Shares,
    banner_features,
    category_matrix,
    interest_matrix,
    pair_features,
    request_features,
)
from marquee import contract
from training.catalogue import Catalogue, banner_columns

VISITORS_KEPT: Final = 1_024
"""Visitors whose interests are kept as arrays; one request asks for them more than once."""
_EPOCH: Final = datetime(1970, 1, 1)
_UNKNOWN: Final = np.array([np.nan])
_FIRST: Final = np.array([0.0])


@dataclass(frozen=True, slots=True)
class Context:
    """What is asked: where, when and on what the slate will be shown, and what the visitor does now.

    Attributes:
        at: UTC without a zone.
        session: the session under way by the names of ``features.matrix.SESSION_FIELDS``, as ``features.session`` tells
            it; others are not looked at. None when there is none or it cannot be known.
    """

    placement_id: str
    device: str
    at: np.datetime64
    session: Mapping[str, Any] | None = None


class Inputs:
    """Encodes requests over the banners of a catalogue. Safe for many threads.

    Attributes:
        banner_shares: [B, C] category shares of the banners' products.
    """

    def __init__(self, catalogue: Catalogue, encoding: Encoding) -> None:
        self.banner_shares = category_matrix(catalogue.category_mixes, encoding.categories)
        self._base_rate = encoding.base_rate
        self._banners = Shares.of(self.banner_shares)
        self._columns = banner_columns(catalogue)
        self._categories = {name: place for place, name in enumerate(encoding.categories)}
        self._placements = {name: np.array([float(place)]) for place, name in enumerate(encoding.placements)}
        self._devices = {name: np.array([float(place)]) for place, name in enumerate(encoding.devices)}
        self._nothing = Shares.of(interest_matrix([None], self._categories))
        # Bound to the names alone: a cache that held this object would keep each catalogue that there ever was.
        self._interest = lru_cache(VISITORS_KEPT)(partial(_interest, tuple(self._categories)))
        self._counted: tuple[Floats, Floats, NDArray[np.float32]] | None = None

    def visitor(self, visitor: Mapping[str, Any] | None) -> Shares:
        """[1, C] shares of the visitor's interest; zeros for one not known. Not to be changed."""
        return self._interest(visitor["category_affinity"] if visitor else None)

    def matrix(
        self,
        visitor: Mapping[str, Any] | None,
        rows: NDArray[np.int64],
        banner_counts: Mapping[str, Floats],
        context: Context,
    ) -> NDArray[np.float32]:
        """[n, F] the ranker's inputs of these banners; see ``Bundle.matrix``."""
        columns, session = self._of_session(live_session(context.session))
        columns |= _of_visitor(visitor) | {
            "placement": self._placements.get(context.placement_id, _UNKNOWN),
            "device": self._devices.get(context.device, _UNKNOWN),
            "position": _FIRST,
            "impressed_at": np.array([context.at.astype("datetime64[us]").astype(np.int64) / 1e6]),
        }
        of_visitor = self.visitor(visitor)
        request = request_features(columns, of_visitor, self._base_rate)
        columns |= {name: values.take(rows) for name, values in self._columns.items()}
        pairs = pair_features(columns, request, of_visitor, session, self._banners.rows(rows))
        matrix: NDArray[np.float32] = self._of_banners(banner_counts).take(rows, axis=0)
        matrix[:, _places(tuple(request))] = np.concatenate(list(request.values()))
        for name, values in pairs.items():
            matrix[:, _PLACES[name]] = values
        return matrix

    def _of_banners(self, counts: Mapping[str, Floats]) -> NDArray[np.float32]:
        """[B, F] with what is known of each banner in place; kept until other counts come."""
        shown, clicked = (counts[name] for name in BANNER_COUNTS)
        kept = self._counted
        if kept and kept[0] is shown and kept[1] is clicked:
            return kept[2]
        table = np.zeros((len(self.banner_shares), len(_PLACES)), dtype=np.float32)
        columns = self._columns | {BANNER_COUNTS[0]: shown, BANNER_COUNTS[1]: clicked}
        for name, values in banner_features(columns, self._banners, self._base_rate).items():
            table[:, _PLACES[name]] = values
        self._counted = (shown, clicked, table)
        return table

    def _of_session(self, session: Mapping[str, Any] | None) -> tuple[dict[str, Any], Shares]:
        if session is None:
            return dict.fromkeys((*SESSION_COUNTS, "session_started_at", "last_category"), _UNKNOWN), self._nothing
        last, interest = session["last_category"], session["category_interest"]
        code = np.nan if last is None else self._categories.get(last, -1)
        numbers = (*(session[name] for name in SESSION_COUNTS), _seconds(session["session_started_at"]), code)
        columns = _columns((*SESSION_COUNTS, "session_started_at", "last_category"), numbers)
        return columns, Shares.of(interest_matrix([interest], self._categories)) if interest else self._nothing


def _interest(categories: tuple[str, ...], text: str | None) -> Shares:
    values = category_matrix([text], categories)
    values.setflags(write=False)
    return Shares.of(values)


def live_session(session: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The session where something happened in it but banners that were shown: those of this very page may be it."""
    return session if session is not None and any(session[name] for name in SESSION_COUNTS) else None


def _of_visitor(visitor: Mapping[str, Any] | None) -> dict[str, Any]:
    if visitor is None:
        return dict.fromkeys((*VISITOR_NUMBERS, "last_seen_at"), _UNKNOWN)
    seen = visitor["last_seen_at"]
    numbers = (*(visitor[name] for name in VISITOR_NUMBERS), None if seen is None else _seconds(seen))
    return _columns((*VISITOR_NUMBERS, "last_seen_at"), numbers)


def _columns(names: tuple[str, ...], numbers: tuple[float | None, ...]) -> dict[str, Any]:
    """Each number as [1]; None is NaN."""
    values = np.array(numbers, dtype=np.float64)
    return {name: values[place : place + 1] for place, name in enumerate(names)}


def _seconds(moment: datetime) -> float:
    """Seconds since 1970 of a moment in UTC without a zone, as ``features.matrix.seconds`` has them."""
    return (moment - _EPOCH) // timedelta(microseconds=1) / 1e6


_PLACES: Final = {name: place for place, name in enumerate(contract.RANKER_FEATURES)}


@lru_cache(1)
def _places(names: tuple[str, ...]) -> NDArray[np.int64]:
    return np.array([_PLACES[name] for name in names])
