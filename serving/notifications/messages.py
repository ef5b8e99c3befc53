"""What a notification says: a subject and a text by type, written by the shop in a TOML file."""

from __future__ import annotations

import string
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from marquee.errors import SettingsError
from marquee.notifications import PlannedNotification
from marquee.settings import Settings

ANY: Final = "any"
"""Stands for the types that have no message of their own."""
FIELDS: Final = ("notification_id", "notification_type", "visitor_id", "content_id", "segment")
"""What a text may have put in, as ``$content_id``."""


@dataclass(frozen=True, slots=True)
class Message:
    """A subject of one line and a text."""

    subject: str
    text: str


class Messages:
    """Templates by notification type.

    Args:
        templates: by type, or ``any``; a type that has neither is told by its name.
    """

    def __init__(self, templates: Mapping[str, Message]) -> None:
        self._templates = templates

    def of(self, notification: PlannedNotification) -> Message:
        """What to say."""
        name = notification.notification_type
        plain = name.replace("_", " ").capitalize()
        template = self._templates.get(name) or self._templates.get(ANY) or Message(plain, plain)
        given = {field: getattr(notification, field) or "" for field in FIELDS}
        subject, text = (string.Template(one).substitute(given) for one in (template.subject, template.text))
        return Message(" ".join(subject.split()), text)


def open_messages(settings: Settings) -> Messages:
    """Those of ``notify_messages``, a TOML file with a table of ``subject`` and ``text`` for each type.

    Raises:
        SettingsError: the file cannot be read, or a template is none; the message names it.
    """
    return Messages(_read(settings.notify_messages) if settings.notify_messages else {})


def _read(path: Path) -> dict[str, Message]:
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"notify_messages: {path} cannot be read: {error}") from None
    return {name: _message(path, name, table) for name, table in told.items()}


def _message(path: Path, name: str, table: object) -> Message:
    wrong = f"notify_messages: {path}, [{name}]"
    if not isinstance(table, dict) or set(table) != {"subject", "text"}:
        raise SettingsError(f"{wrong}: give subject and text, and nothing else")
    for part, value in table.items():
        template = string.Template(str(value))
        if not isinstance(value, str) or not template.is_valid():
            raise SettingsError(f"{wrong}: {part} is no text with $names in it; write a dollar sign as $$")
        if unknown := sorted(set(template.get_identifiers()) - set(FIELDS)):
            raise SettingsError(f"{wrong}: ${unknown[0]} is not one of {', '.join(FIELDS)}")
    return Message(table["subject"], table["text"])
