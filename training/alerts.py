"""Alerts by webhook: one JSON object, posted until it is taken or a few tries have failed. The address is a secret."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr

from marquee.errors import MarqueeError

TRIES: Final = 3
TIMEOUT_SECONDS: Final = 5.0
FIRST_PAUSE_SECONDS: Final = 1.0
"""Before the second try; each pause after it is twice as long."""
Send = Callable[[SecretStr, dict[str, Any]], None]


class AlertError(MarqueeError):
    """An alert did not reach its webhook; the message never holds more of the address than the host."""


def post_alert(webhook: SecretStr, alert: dict[str, Any], pause: float = FIRST_PAUSE_SECONDS) -> None:
    """Post the alert; a connection that fails, 429 and 5xx are tried again.

    Raises:
        AlertError: nobody took it.
    """
    host = _host(webhook)
    reason = ""
    with _silent_client() as client:
        for attempt in range(TRIES):
            if attempt:
                time.sleep(pause * 2 ** (attempt - 1))
            try:
                status = client.post(webhook.get_secret_value(), json=alert).status_code
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                reason = type(error).__name__  # its message may hold the address
                continue
            if status < 300:
                return
            reason = f"status {status}"
            if status != 429 and status < 500:
                break
    raise AlertError(f"alert_webhook at {host} took no alert: {reason}; see that it is up and the address is right")


def _host(webhook: SecretStr) -> str:
    try:
        parts = urlsplit(webhook.get_secret_value())
        host = parts.hostname
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise AlertError("alert_webhook is no http:// or https:// address; set it to one or leave it out") from None
    return host


@contextmanager
def _silent_client() -> Iterator[httpx.Client]:
    """A client whose log, which has every address in full, is off: schedulers keep what is logged."""
    log = logging.getLogger("httpx")
    was_disabled, log.disabled = log.disabled, True
    try:
        with httpx.Client(timeout=TIMEOUT_SECONDS, follow_redirects=False) as client:
            yield client
    finally:
        log.disabled = was_disabled
