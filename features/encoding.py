"""Whole Arrow columns as the bytes that Feast's online stores keep: entity keys and ``ValueProto`` messages.

Feast builds one protobuf message per cell, which takes minutes for a million visitors. The bytes are the same; tests
read them back with Feast and compare them with what Feast writes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pyarrow as pa
from feast.infra.key_encoding_utils import serialize_entity_key_prefix
from feast.protos.feast.types.Value_pb2 import ValueType

NULL: Final[tuple[bytes, str | None]] = (b"", None)
# Tag bytes of ValueProto's fields: number << 3 | wire type.
STRING, INT, FLOAT, BOOL, TIMESTAMP = b"\x12", b"\x20", b"\x29", b"\x38", b"\x40"
_DOUBLE: Final = struct.Struct("<d")
_LENGTH: Final = struct.Struct("<I")
Cell = tuple[bytes, str | None]
"""A value's message, and the text that Feast's SQL stores keep beside it."""
Cells = tuple[list[bytes], list[str | None]]
"""The messages and the texts of a column."""


def entity_keys(ids: pa.Array, key: str) -> list[bytes]:
    """Feast's serialised keys (version 3) of one entity with a string id."""
    prefix = serialize_entity_key_prefix([key]) + _LENGTH.pack(ValueType.STRING)
    encoded = [value.encode() for value in ids.to_pylist()]
    return [prefix + _LENGTH.pack(len(value)) + value for value in encoded]


def key_order(column: str) -> str:
    """SQL that sorts string ids as their serialised keys sort, for inserts in the order of the store's index."""
    return ", ".join(f"strlen({column}) // {256**place} % 256" for place in range(4)) + f", {column}"


def cells(column: pa.Array, kind: str) -> Cells:
    """[n] messages and texts of one feature column; ``kind`` is the contract's type. Null is an empty message."""
    encode = _ENCODERS[kind]
    array = column.cast(pa.timestamp("us")).cast(pa.int64()) if kind == "timestamp" else column
    values = array.to_pylist()
    if kind == "float" and _has_odd_floats(array):
        found = [encode(value) if value is not None else NULL for value in values]
        return [message for message, _ in found], [text for _, text in found]
    # Counts and stamps repeat, so that most cells cost two look-ups.
    unique = {value: encode(value) for value in array.unique().to_pylist() if value is not None} | {None: NULL}
    messages = {value: message for value, (message, _) in unique.items()}
    texts = {value: text for value, (_, text) in unique.items()}
    return [messages[value] for value in values], [texts[value] for value in values]


def _has_odd_floats(array: pa.Array) -> bool:
    """Whether two of them may be equal with other bytes, or the same bytes not equal: a negative zero, or NaN."""
    values = array.drop_null().to_numpy(zero_copy_only=False)
    return bool((np.isnan(values) | ((values == 0) & np.signbit(values))).any())


def varint(value: int) -> bytes:
    """Protobuf's variable-length integer; negative ones in two's complement of 64 bits."""
    value &= (1 << 64) - 1
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _string(value: str) -> Cell:
    data = value.encode()
    return STRING + varint(len(data)) + data, value


_ENCODERS: Final[dict[str, Callable[[Any], Cell]]] = {
    "string": _string,
    "int": lambda value: (INT + varint(value), str(value)),
    "float": lambda value: (FLOAT + _DOUBLE.pack(value), str(value)),
    "bool": lambda value: (BOOL + bytes([value]), str(value)),
    # Feast keeps whole seconds.
    "timestamp": lambda value: (TIMESTAMP + varint(value // 1_000_000), None),
}
