"""What takes a notification to its visitor: a web hook, a mail server, or a file. One for each channel, by setting.

SendError     it did not get through; the same may succeed later
└── Refused   it never will

A sender is given the notification's key each time, the same one however often it is tried, so that a receiver that
keeps keys has each once. None of them says a secret or an address in what it raises.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Any, Final, Protocol

import httpx

from marquee.errors import MarqueeError, SettingsError
from marquee.notifications import CHANNELS, Channel, PlannedNotification
from marquee.settings import Settings
from serving.notifications.messages import Messages, open_messages

SIGNATURE: Final = "Marquee-Signature"
MAY_PASS: Final = frozenset({408, 409, 425, 429})
"""Statuses below 500 after which the same request may succeed; 409 is a key's first request under way (IETF draft)."""
MOST_SECONDS: Final = 3_600.0
"""The longest that a receiver may ask us to wait."""


class SendError(MarqueeError):
    """It did not get through; the same may succeed later, not before ``after`` seconds where that is known."""

    def __init__(self, told: str, after: float | None = None) -> None:
        super().__init__(told)
        self.after = after


class Refused(SendError):
    """It never will get through as it is."""


class Sender(Protocol):
    """Takes a notification to its visitor."""

    def send(self, notification: PlannedNotification, key: str) -> None:
        """Returns once the receiver has it; a receiver that keeps keys takes each once.

        Raises:
            SendError: it may not have it.
            Refused: trying again is of no use.
        """
        ...


class FileSender:
    """Appends a JSON line for each, durable when it returns: for gateways that read files, and for trying things out.

    Args:
        path: the file; any number of processes may write to it.
    """

    def __init__(self, path: Path, messages: Messages) -> None:
        self._path, self._messages = path, messages

    def send(self, notification: PlannedNotification, key: str) -> None:
        """See ``Sender``."""
        line = json.dumps(payload(notification, key, self._messages), ensure_ascii=False).encode() + b"\n"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a+b", buffering=0) as file:
                flock(file, LOCK_EX)
                if (end := file.seek(0, os.SEEK_END)) and os.pread(file.fileno(), 1, end - 1) != b"\n":
                    line = b"\n" + line  # a killed writer left half of one, which ends here
                if file.write(line) != len(line):
                    raise OSError("the disk took a part of it")
                os.fsync(file.fileno())
        except OSError as error:
            raise SendError(f"{self._path}: {error}") from error


class WebhookSender:
    """POSTs JSON with an ``Idempotency-Key``, signed so that the receiver knows whose it is.

    ``Marquee-Signature: t=SECONDS,v1=HEX``, where HEX is HMAC-SHA256 of ``SECONDS.BODY`` with the shared secret.

    Args:
        url: where; it may hold a secret.
        secret: signs; nothing is signed without one.
        timeout: seconds for connecting, and for the answer.
    """

    def __init__(
        self, url: str, secret: str | None, messages: Messages, timeout: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._url, self._secret, self._messages, self._clock = url, secret, messages, clock
        self._http = httpx.Client(timeout=timeout, follow_redirects=False)

    def send(self, notification: PlannedNotification, key: str) -> None:
        """See ``Sender``."""
        body = json.dumps(payload(notification, key, self._messages), ensure_ascii=False).encode()
        headers = {"content-type": "application/json", "idempotency-key": key}
        if self._secret:
            headers[SIGNATURE] = signature(self._secret, int(self._clock()), body)
        try:
            answer = self._http.post(self._url, content=body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise SendError(f"the web hook gave no answer: {type(error).__name__}") from None
        if answer.is_success:
            return
        told = f"the web hook answered {answer.status_code}"
        if answer.status_code >= 500 or answer.status_code in MAY_PASS:
            raise SendError(told, _wait(answer.headers.get("retry-after")))
        raise Refused(told)


def signature(secret: str, second: int, body: bytes) -> str:
    """What a web hook's body is signed with, for senders and those who check it."""
    mac = hmac.new(secret.encode(), b"%d." % second + body, hashlib.sha256).hexdigest()
    return f"t={second},v1={mac}"


def payload(notification: PlannedNotification, key: str, messages: Messages) -> dict[str, Any]:
    """What a receiver gets: the plan, the key, and what to say."""
    planned = {name: _plain(value) for name, value in asdict(notification).items()}
    return planned | {"key": key} | asdict(messages.of(notification))


def open_senders(settings: Settings) -> Mapping[Channel, Sender]:
    """Each channel's sender, by its setting.

    Raises:
        SettingsError: a sender lacks a setting that it needs, which the message names.
    """
    messages = open_messages(settings)
    chosen = {channel: getattr(settings, f"notify_{channel}") for channel in CHANNELS}
    return {channel: _sender(settings, channel, kind, messages) for channel, kind in chosen.items()}


def _sender(settings: Settings, channel: Channel, kind: str, messages: Messages) -> Sender:
    if kind == "file":
        return FileSender(settings.notifications / f"{channel}.jsonl", messages)
    if kind == "webhook":
        if settings.notify_webhook_url is None:
            raise SettingsError(f"notify_{channel} is webhook, which needs notify_webhook_url")
        given = settings.notify_webhook_secret
        secret = given.get_secret_value() if given else None
        url = settings.notify_webhook_url.get_secret_value()
        return WebhookSender(url, secret, messages, settings.notify_timeout)
    from serving.notifications.smtp import open_smtp_sender

    return open_smtp_sender(settings, channel, messages)


def _plain(value: Any) -> Any:
    return value.isoformat() + "Z" if isinstance(value, datetime) else value


def _wait(told: str | None) -> float | None:
    """Seconds of a Retry-After that gives them; a date is left to our own waiting."""
    return min(float(told), MOST_SECONDS) if told and told.isdecimal() else None
