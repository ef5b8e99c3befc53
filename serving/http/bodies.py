"""Bodies as strict JSON: UTF-8, each name once, finite numbers, no null characters."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any, Final, NoReturn

from serving.http.problems import Problem, invalid

_LOOSE_COLON: Final = re.compile(rb'"[ \t\r\n]+:')
_ESCAPED_NULL: Final = b"\\u0000"


def require_json(content_type: bytes | None, *others: bytes) -> bytes:
    """The media type of a body, which must be JSON or one of ``others``.

    A page of another origin may send a body of no type, or of a form's, without asking; never one of JSON.

    Raises:
        Problem: 415.
    """
    kind = (content_type or b"").partition(b";")[0].strip().lower()
    is_json = kind == b"application/json" or (kind.startswith(b"application/") and kind.endswith(b"+json"))
    if not is_json and kind not in others:
        raise Problem(415, "send the body as Content-Type: application/json")
    return b"application/json" if is_json else kind


def strict_json(raw: bytes) -> Any:
    """The value of a body.

    Raises:
        Problem: 400; it says where the body stops being JSON, or which name is repeated.
    """
    try:
        value = json.loads(raw.decode(), object_pairs_hook=_object, parse_constant=_constant)
    except RecursionError:
        raise _broken("too deeply nested") from None
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError among them
        raise _broken(str(error)) from None
    if _ESCAPED_NULL in raw and _has_null(value):
        raise _broken("a text holds a null character")
    return value


def require_strict(raw: bytes, names: int) -> None:
    """Refuse what a lenient parser let pass in a body of ``names`` known names.

    Every name ends in ``":``. Where no space stands between and there are as many as names are known, none was
    repeated; else a strict parser decides.

    Raises:
        Problem: 400.
    """
    if raw.count(b'":') != names or _ESCAPED_NULL in raw or _LOOSE_COLON.search(raw):
        strict_json(raw)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = sorted(name for name, _ in pairs)
        repeated = next(name for name, after in itertools.pairwise(names) if name == after)
        raise ValueError(f"the name {repeated[:50]!r} is repeated")
    return value


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _has_null(value: object) -> bool:
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, str) and "\x00" in one:
            return True
        if isinstance(one, dict):
            pending += [*one.keys(), *one.values()]
        elif isinstance(one, list):
            pending += one
    return False


def _broken(why: str) -> Problem:
    return invalid([{"field": "", "message": f"Invalid JSON: {why}"}])
