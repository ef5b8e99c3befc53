"""One visitor's online features and segment in one read, laid out as Feast lays them out but without its objects.

Feast's own way takes a millisecond of Python a visitor; a page view has a few in all. ``tests`` compare the two.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, Protocol

import pyarrow as pa
from feast.infra.online_stores.helpers import _mmh3
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped]

from features.definitions import VISITOR_VIEWS, entity_keys, feature_names
from features.encoding import FLOAT
from features.encoding import entity_keys as serialised_keys
from features.freshness import TTL
from features.patience import REQUEST_SECONDS, Pause
from marquee import contract
from marquee.errors import TryAgain
from marquee.settings import Settings
from marquee.sqlite_file import SqliteFile
from marquee.valkey import connect

PROJECT: Final = "marquee"
_LENGTH: Final = struct.Struct("<I")
_DOUBLE: Final = struct.Struct("<d")
_KEY_PREFIX: Final = serialised_keys(pa.array([""]), entity_keys(VISITOR_VIEWS[0])[0])[0][: -_LENGTH.size]
_EPOCH, _SECOND = datetime(1970, 1, 1), timedelta(seconds=1)
_NOTHING: Final[dict[str, bytes]] = {}
_SEGMENTS: Final = contract.VISITOR_SEGMENTS.name
Found = list[tuple[str, int, dict[str, bytes]]]
"""By view: its name, its stamp in seconds since 1970, and the messages of its fields."""


class OnlineVisitor(NamedTuple):
    """What is online of one visitor.

    Attributes:
        features: by name, None where a view has no fresh ones; None for a visitor of whom nothing is known.
        segment: of ``marts.customer_segments``, None for none. Known longer than features are: who bought once and was
            not seen for a year is still a lost customer.
    """

    features: dict[str, Any] | None = None
    segment: str | None = None


class VisitorReads(Protocol):
    """The online features and the segment of one visitor at a time."""

    def read(self, visitor_id: str, now: datetime) -> OnlineVisitor:
        """What is known of the visitor.

        Args:
            now: UTC without a zone.

        Raises:
            TryAgain: the store does not answer; it is then left alone for some seconds.
        """

    def close(self) -> None:
        """Release connections."""


def open_visitor_reads(settings: Settings, reads: Mapping[str, Sequence[str]]) -> VisitorReads:
    """Reads of these fields by view, and of the segment, from the store that ``online_store`` names.

    Raises:
        SettingsError: it is Valkey and ``valkey_url`` is missing.
    """
    own = {view.name: tuple(reads[view.name]) for view in VISITOR_VIEWS if view.name in reads}
    own[_SEGMENTS] = feature_names(contract.VISITOR_SEGMENTS)
    return SqliteReads(settings, own) if settings.online_store == "sqlite" else ValkeyReads(settings, own)


class SqliteReads:
    """See ``VisitorReads``. One connection for whichever threads come; a pool's threads come and go."""

    def __init__(self, settings: Settings, reads: Mapping[str, tuple[str, ...]]) -> None:
        self._file = settings.features / "online.db"
        self._reads, self._pause = reads, Pause()
        self._opened = SqliteFile(self._file, TryAgain, REQUEST_SECONDS, is_read_only=True)
        parts = [
            f"select '{view}', feature_name, value, event_ts "  # noqa: S608 - names are the contract's
            f'from "{PROJECT}_{view}" where entity_key = ?1 and feature_name in {_listed(fields)}'
            for view, fields in reads.items()
        ]
        self._query = " union all ".join(parts)

    def read(self, visitor_id: str, now: datetime) -> OnlineVisitor:
        """See ``VisitorReads``."""
        try:
            with self._pause.after(TryAgain), self._opened.taken() as connection:
                rows = connection.execute(self._query, (_key(visitor_id),)).fetchall()
        except TimeoutError as error:
            raise TryAgain(f"{self._file}: {error}") from error
        stamps: dict[str, int] = {}
        values: dict[str, dict[str, bytes]] = {view: {} for view in self._reads}
        for view, name, value, stamp in rows:
            stamps[view], values[view][name] = stamp, value
        return _visitor(self._reads, [(view, stamps[view], values[view]) for view in stamps], now)

    def close(self) -> None:
        """See ``VisitorReads``."""
        self._opened.close()


class ValkeyReads:
    """See ``VisitorReads``. One round trip."""

    def __init__(self, settings: Settings, reads: Mapping[str, tuple[str, ...]]) -> None:
        self._client = connect(settings, "online_store = valkey", REQUEST_SECONDS)
        self._reads, self._pause = reads, Pause()
        self._fields = {
            view: [f"_ts:{view}".encode(), *(_mmh3(f"{view}:{name}") for name in fields)]
            for view, fields in reads.items()
        }

    def read(self, visitor_id: str, now: datetime) -> OnlineVisitor:
        """See ``VisitorReads``."""
        from redis.exceptions import RedisError

        key = _key(visitor_id) + PROJECT.encode()
        try:
            with self._pause.after(RedisError, OSError):
                answers = self._client.hmget(key, [name for names in self._fields.values() for name in names])
        except (RedisError, OSError) as error:
            raise TryAgain(f"valkey: {error}") from error
        found: Found = []
        for view, fields in self._reads.items():
            stamp, values, answers = answers[0], answers[1 : len(fields) + 1], answers[len(fields) + 1 :]
            if stamp is not None:
                known = {name: value for name, value in zip(fields, values, strict=True) if value is not None}
                found.append((view, Timestamp.FromString(stamp).seconds, known))
        return _visitor(self._reads, found, now)

    def close(self) -> None:
        """See ``VisitorReads``."""
        self._client.close()


def _visitor(reads: Mapping[str, tuple[str, ...]], found: Found, now: datetime) -> OnlineVisitor:
    """What is fresh."""
    at = (now - _EPOCH) / _SECOND
    fresh = {view: values for view, stamp, values in found if stamp <= at <= stamp + TTL[view].total_seconds()}
    segment = fresh.pop(_SEGMENTS, _NOTHING).get("segment")
    return OnlineVisitor(_row(reads, fresh, now), None if segment is None else _value(segment))


def _row(
    reads: Mapping[str, tuple[str, ...]], fresh: Mapping[str, dict[str, bytes]], now: datetime
) -> dict[str, Any] | None:
    """The features; None where nothing is, or where the last row only says that a year has passed."""
    if not fresh:
        return None
    row: dict[str, Any] = {}
    for view, fields in reads.items():
        if view == _SEGMENTS:
            continue
        values = fresh.get(view, _NOTHING)
        for name in fields:
            row[name] = _value(values[name]) if name in values else None
    return row if row.get("last_seen_at", now) is not None else None


def _key(visitor_id: str) -> bytes:
    """Feast's serialised key of a visitor."""
    encoded = visitor_id.encode()
    return _KEY_PREFIX + _LENGTH.pack(len(encoded)) + encoded


def _value(message: bytes) -> Any:
    """The value of a ``ValueProto`` message; the kinds that features have are read by hand, which is five times as
    fast."""
    if len(message) == 9 and message[:1] == FLOAT:
        return _DOUBLE.unpack_from(message, 1)[0]
    value = Value.FromString(message)
    kind = value.WhichOneof("val")
    if kind is None:
        return None
    found = getattr(value, kind)
    return _EPOCH + timedelta(seconds=found) if kind == "unix_timestamp_val" else found


def _listed(names: Sequence[str]) -> str:
    return "(" + ", ".join(f"'{name}'" for name in names) + ")"
