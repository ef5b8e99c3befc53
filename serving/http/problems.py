"""What is wrong with a request, told as ``application/problem+json`` (RFC 9457) with the names of the fields."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from pydantic import BaseModel, Field, ValidationError

MEDIA_TYPE: Final = "application/problem+json"
MOST_ERRORS: Final = 100
"""Faults that one answer lists."""
_NAMED: Final = re.compile(r"[a-z]+(?:_[a-z]+)+\b")


class Fault(BaseModel):
    """What is wrong with one field."""

    field: str = Field(description="Such as context.device or events[3].occurred_at; empty for the whole body.")
    message: str


class ProblemBody(BaseModel):
    """Why a request was not answered."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    request_id: str = Field(description="Names the request in the service's log.")
    errors: list[Fault] = Field(default=[], description="The fields that do not fit, where it is about fields.")


class Problem(Exception):
    """A request that cannot be answered.

    Args:
        status: the HTTP status, 400 to 599.
        detail: one sentence for whoever sent the request.
        errors: the fields that do not fit.
        headers: sent with the answer, such as ``Retry-After``.
        title: short and the same for each problem of the kind; the status's own name unless given.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        title: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.title = title or HTTPStatus(status).phrase
        self.detail = detail
        self.errors = [dict(error) for error in errors]
        self.headers = dict(headers or {})

    def body(self, request_id: str) -> bytes:
        """The answer's bytes."""
        told: dict[str, Any] = {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "request_id": request_id,
        }
        if self.errors:
            told["errors"] = self.errors[:MOST_ERRORS]
        return json.dumps(told).encode()


def invalid(errors: Sequence[Mapping[str, str]]) -> Problem:
    """A body, path or query whose fields do not fit; the first one is in the sentence."""
    first = errors[0]
    detail = f"{first['field']}: {first['message']}" if first["field"] else first["message"]
    return Problem(400, detail, errors, title="Invalid request")


def invalid_body(error: ValidationError, root: str = "") -> Problem:
    """What pydantic found wrong with a body."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return invalid(faults(found, root))


def faults(found: Iterable[Mapping[str, Any]], root: str = "") -> list[dict[str, str]]:
    """Pydantic's errors as ``{"field", "message"}``; ``root`` names what a list's numbers count."""
    told = []
    for one in found:
        message = str(one["msg"]).removeprefix("Value error, ")
        location = tuple(one["loc"])
        # A rule over several fields has no place of its own; ours begin with the field that they are about.
        if one["type"] == "value_error" and (named := _NAMED.match(message)) and named[0] not in location:
            location += (named[0],)
        told.append({"field": field_name(location, root), "message": message})
    return told


def field_name(location: Sequence[str | int], root: str = "") -> str:
    """A place in a body, as a program would write it: ``events[3].occurred_at``."""
    parts = location[1:] if location and location[0] in ("body", "query", "path", "header") else location
    name = root if parts and isinstance(parts[0], int) else ""
    for part in parts:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else str(part)
    return name
