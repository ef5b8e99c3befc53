"""The log: a line for each request and each happening, as JSON or text, without keys, bodies or visitor ids."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import secrets
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

from marquee.settings import Settings

LOG: Final = logging.getLogger("bentoml.marquee")
FLUSH_SECONDS: Final = 0.1
_SECRET: Final = secrets.token_bytes(16)


def pseudonym(visitor_id: str) -> str:
    """A name for a visitor that lines of one process share and nobody can trace back, not even with this log's help."""
    return hashlib.blake2b(visitor_id.encode("utf-8", "surrogatepass"), key=_SECRET, digest_size=8).hexdigest()


class JsonLines(logging.Formatter):
    """A record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its newline."""
        told: dict[str, Any] = {
            "at": _moment(record.created),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        told |= getattr(record, "fields", {})
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str)


class Journal:
    """Writes the lines of requests.

    Args:
        settings: ``log_format`` and ``log_requests``.
    """

    def __init__(self, settings: Settings) -> None:
        self._is_json = settings.log_format == "json"
        self._is_on = settings.log_requests
        self._lines: list[str] = []

    def request(self, at: float, fields: dict[str, Any]) -> None:
        """Write what became of a request; ``at`` in seconds since 1970."""
        if not self._is_on:
            return
        if self._is_json:
            line = json.dumps({"at": _moment(at), "level": "info", "message": "request"} | fields)
        else:
            line = f"{_moment(at)} [INFO] " + " ".join(f"{name}={value}" for name, value in fields.items())
        self._lines.append(line)
        if len(self._lines) == 1:
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Write the lines of the last moment, in one go: one by one they would cost as much as their making."""
        lines, self._lines = self._lines, []
        if lines:
            with suppress(OSError):  # a full disk or a closed pipe costs these lines, and no request
                sys.stdout.write("\n".join(lines) + "\n")
                sys.stdout.flush()

    def failure(self, request_id: str, route: str) -> None:
        """Write down the exception under way, whole: the client is told nothing of it."""
        LOG.exception("request failed", extra={"fields": {"request_id": request_id, "route": route}})


def write_json_lines() -> None:
    """Have what this process logs come as JSON from now on."""
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in ("bentoml", "uvicorn.error", "circus"))]
    for handler in {handler for logger in loggers for handler in logger.handlers}:
        handler.setFormatter(JsonLines())


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
