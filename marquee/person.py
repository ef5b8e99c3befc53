"""Whom an erasure is about, and how to tell that person's id from what only looks like it.

A value is the person's when it is the id, or a session of theirs (``id@start``). Free text is harder: a visitor
called ``1`` must not cost every log its ones. So an id counts in text as a whole word when it is *distinctive*, and
only between quotes or after the word visitor or customer when it is not. ``v11`` is never found by ``v1``.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Final
from urllib.parse import quote

PERSON_COLUMNS: Final = ("visitor_id", "customer_id")
"""Columns that say whose row it is."""
SESSION_COLUMN: Final = "session_id"
BLANK: Final = b"*"


class Person:
    """A visitor to be found or forgotten, known by id; ``customers`` are known buyers who are this visitor alone."""

    def __init__(self, visitor_id: str, customers: Iterable[str] = ()) -> None:
        self.visitor_id: Final = visitor_id
        self.customers: Final = frozenset(customers)

    def ids(self, column: str) -> list[str]:
        """What says, in a column of ``PERSON_COLUMNS``, that a row is this person's."""
        return [self.visitor_id, *(sorted(self.customers) if column == "customer_id" else [])]

    @property
    def is_distinctive(self) -> bool:
        """Whether the id can hardly mean anything else: twelve characters, or six of mixed kinds."""
        text = self.visitor_id
        return len(text) >= 12 or (len(text) >= 6 and not text.isdigit() and not text.isalpha())

    def is_session(self, value: str) -> bool:
        """Whether a value is ``id@`` and the moment at which a session of theirs began."""
        return bool(self._session.fullmatch(value))

    def count(self, text: bytes) -> int:
        """How often a text names this person."""
        return sum(1 for _ in self.places(text))

    def places(self, text: bytes) -> Iterator[tuple[int, int]]:
        """Where a text names this person: the first byte of each naming, and the one behind it."""
        return (found.span("id") for found in self._named.finditer(text))

    def blank(self, text: bytes) -> bytes:
        """The text with every naming overwritten by stars, byte for byte as long as before."""
        return self._named.sub(_stars, text)

    def longer_words(self, text: bytes) -> set[bytes]:
        """Words of a text that hold the id and more, such as ``v11`` for ``v1``: other ids, most of them."""
        return set(self._words.findall(text)) - {self.encoded}

    @property
    def encoded(self) -> bytes:
        """The id as it lies on disk."""
        return self.visitor_id.encode("utf-8", "surrogatepass")

    @cached_property
    def _session(self) -> re.Pattern[str]:
        return re.compile(re.escape(self.visitor_id) + r"@\d{4}-\d\d-\d\d[ T\d:.+Z-]*")

    @cached_property
    def _words(self) -> re.Pattern[bytes]:
        return re.compile(rb"[\w-]*" + re.escape(self.encoded) + rb"[\w-]*")

    @cached_property
    def _named(self) -> re.Pattern[bytes]:
        word = _any_of(_spellings(self.visitor_id))
        if self.is_distinctive:
            # A sentence may end behind an id; v1.5 and v1-5 are other ids.
            return re.compile(rb"(?<![\w-])(?P<id>" + word + rb")(?![\w-]|[.:+/]\w)")
        said = rb"(?i:(?:visitor|customer)(?:_id)?(?:[\"'=: ]|&quot;|&#x27;){1,6})"
        return re.compile(said + rb"(?P<id>" + word + rb")(?![\w-]|[.:+/]\w)")


def _stars(found: re.Match[bytes]) -> bytes:
    start, whole = found.start(), found[0]
    return whole[: found.start("id") - start] + BLANK * len(found["id"]) + whole[found.end("id") - start :]


def _spellings(text: str) -> set[bytes]:
    """How JSON, HTML, a URL and Python write the same id."""
    escaped = {text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], repr(text)[1:-1]}
    written = escaped | {html.escape(one) for one in escaped} | {quote(text, safe="")}
    return {one.encode("utf-8", "surrogatepass") for one in written}


def _any_of(words: Iterable[bytes]) -> bytes:
    # The longest first: an alternative that begins another must not win over it.
    return rb"(?:" + rb"|".join(re.escape(word) for word in sorted(words, key=lambda word: (-len(word), word))) + rb")"
