"""Notifications by mail: one message each, with a Message-ID that stays the same however often it is tried."""

from __future__ import annotations

import csv
import smtplib
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import parseaddr
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from marquee.errors import SettingsError
from marquee.notifications import Channel, PlannedNotification
from marquee.settings import Settings
from serving.http.access import is_loopback
from serving.notifications.messages import Messages
from serving.notifications.senders import Refused, SendError

PORTS: Final = {"smtp": 587, "smtps": 465}
KEY_HEADER: Final = "X-Marquee-Notification"


@dataclass(frozen=True, slots=True)
class MailServer:
    """Where mail is handed in: ``smtps`` is encrypted from the first byte, ``smtp`` by STARTTLS.

    Only a server on this machine may be spoken to in the clear.
    """

    host: str
    port: int
    is_tls: bool
    user: str | None = None
    password: str | None = None

    @classmethod
    def parse(cls, url: str) -> MailServer:
        """Of ``smtps://user:password@host:port``; ``SettingsError`` where it is no such URL, which it does not say."""
        try:
            parts = urlsplit(url)
            port = parts.port or PORTS[parts.scheme]
        except (ValueError, KeyError):
            raise SettingsError(
                "notify_smtp_url: write smtps://user:password@host:port, or smtp:// for one with STARTTLS"
            ) from None
        if not parts.hostname:
            raise SettingsError("notify_smtp_url names no host")
        user, password = (unquote(part) if part else None for part in (parts.username, parts.password))
        return cls(parts.hostname, port, parts.scheme == "smtps", user, password)


class AddressBook:
    """Addresses by visitor, of a CSV file with columns ``visitor_id`` and ``address``; read again when it changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at = 0
        self._addresses: dict[str, str] = {}

    def __call__(self, visitor_id: str) -> str | None:
        """The visitor's address; None without one.

        Raises:
            SendError: the file cannot be read.
        """
        try:
            if (changed := self._path.stat().st_mtime_ns) != self._read_at:
                with self._path.open(encoding="utf-8", newline="") as file:
                    self._addresses = {row["visitor_id"]: row["address"] for row in csv.DictReader(file)}
                self._read_at = changed
        except KeyError as error:
            raise SendError(f"notify_addresses: {self._path} has no column {error}") from None
        except (OSError, ValueError, csv.Error) as error:
            raise SendError(f"notify_addresses: {self._path} cannot be read: {error}") from None
        return self._addresses.get(visitor_id) or None


class SmtpSender:
    """One message to one visitor, over a connection of its own.

    Args:
        server: where.
        sender: the From address; its domain ends Message-IDs.
        address_of: a visitor's address.
        timeout: seconds for each step.
    """

    def __init__(
        self,
        server: MailServer,
        sender: str,
        address_of: Callable[[str], str | None],
        messages: Messages,
        timeout: float,
    ) -> None:
        self._server, self._from, self._address_of = server, sender, address_of
        self._messages, self._timeout = messages, timeout

    def send(self, notification: PlannedNotification, key: str) -> None:
        """See ``Sender``. A server takes a message twice where its answer was lost; the Message-ID is the same then."""
        address = self._address_of(notification.visitor_id)
        if not address:
            raise Refused("no address is known of this visitor")
        message = self._message(notification, key, address)
        try:
            connection = self._connected()
            try:
                connection.send_message(message)
            except BaseException:
                connection.close()
                raise
            with suppress(smtplib.SMTPException, OSError):  # it has the message, whatever it says to our goodbye
                connection.quit()
            connection.close()
        except smtplib.SMTPRecipientsRefused as error:
            code = max((status for status, _ in error.recipients.values()), default=0)
            raise _judged("the mail server refused the address", code) from None
        except smtplib.SMTPResponseException as error:
            raise _judged(f"the mail server did not take it ({type(error).__name__})", error.smtp_code) from None
        except (smtplib.SMTPException, OSError) as error:
            raise SendError(f"the mail server cannot be used: {type(error).__name__}") from None

    def _message(self, notification: PlannedNotification, key: str, address: str) -> EmailMessage:
        told = self._messages.of(notification)
        message = EmailMessage()
        try:
            message["From"], message["To"], message["Subject"] = self._from, address, told.subject
        except ValueError:
            raise Refused("the visitor's address is none") from None
        message["Message-ID"] = f"<{key}@{parseaddr(self._from)[1].rpartition('@')[2]}>"
        message[KEY_HEADER] = key
        message.set_content(told.text)
        return message

    def _connected(self) -> smtplib.SMTP:
        server, secured = self._server, ssl.create_default_context()
        if server.is_tls:
            connection: smtplib.SMTP = smtplib.SMTP_SSL(
                server.host, server.port, timeout=self._timeout, context=secured
            )
        else:
            connection = smtplib.SMTP(server.host, server.port, timeout=self._timeout)
        try:
            if not server.is_tls and not is_loopback(server.host):
                connection.starttls(context=secured)
            if server.user:
                connection.login(server.user, server.password or "")
        except BaseException:
            connection.close()
            raise
        return connection


def open_smtp_sender(settings: Settings, channel: Channel, messages: Messages) -> SmtpSender:
    """The one of the settings; ``SettingsError`` where one is missing."""
    for name in ("notify_smtp_url", "notify_from", "notify_addresses"):
        if getattr(settings, name) is None:
            raise SettingsError(f"notify_{channel} is smtp, which needs {name}")
    assert settings.notify_smtp_url
    assert settings.notify_from
    assert settings.notify_addresses
    server = MailServer.parse(settings.notify_smtp_url.get_secret_value())
    return SmtpSender(
        server, settings.notify_from, AddressBook(settings.notify_addresses), messages, settings.notify_timeout
    )


def _judged(told: str, code: int) -> SendError:
    """4xx may pass and 5xx never will (RFC 5321, 4.2.1); a login that is refused is ours to mend, so it may."""
    is_final = 500 <= code < 600 and code not in (530, 535)
    return (Refused if is_final else SendError)(f"{told}, code {code}")
