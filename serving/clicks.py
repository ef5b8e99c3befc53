"""Links that report a click and lead on. They are signed: nobody else can make one, or have one lead elsewhere."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from itsdangerous import BadData, URLSafeTimedSerializer
from itsdangerous.encoding import base64_encode

from ingestion.group_commit import Lines
from marquee.errors import MarqueeError
from marquee.settings import Settings
from serving.schemas import Event

DAYS: Final = 30
"""How long a link leads on."""
PATH: Final = "/v1/clicks/"
WAIT_SECONDS: Final = 0.5
"""The longest that a shopper waits for the log."""
RECENT: Final = 10_000
"""Clicks that one process remembers, so that a link which is asked again and again does not fill the log."""
Outcome = Literal["recorded", "repeated", "late", "not_stored"]
_SCHEMES: Final = ("https://", "http://")
_encoded: Final = json.JSONEncoder(separators=(",", ":")).encode


class Click(NamedTuple):
    """What a link says. ``session_id`` is the shop's own; both it and the visitor are those of the impression."""

    request_id: str
    position: int
    banner_id: str
    visitor_id: str
    placement_id: str
    session_id: str | None
    landing_url: str

    @property
    def impression_id(self) -> str:
        """The impression that was clicked."""
        return f"{self.request_id}-{self.position}"

    def event(self, moment: datetime) -> Event:
        """The event to log. Its id comes from the impression, so however often it is clicked, it counts once."""
        return Event(
            event_id=f"{self.impression_id}-click",
            kind="click",
            occurred_at=moment,
            visitor_id=self.visitor_id,
            session_id=self.session_id,
            banner_id=self.banner_id,
            placement_id=self.placement_id,
            position=self.position,
            request_id=self.request_id,
            impression_id=self.impression_id,
        )


class _Serializer(URLSafeTimedSerializer):
    """Does not try whether compression pays: of these few bytes it rarely does, and takes twice as long as the rest."""

    def dump_payload(self, obj: Any) -> bytes:
        return base64_encode(_encoded(obj))


class ClickLinks:
    """Makes links and reads them.

    Args:
        secret: what proves that a link was made here.
        base: what stands before the path, such as ``https://banners.shop.example``; empty for relative links.
    """

    def __init__(self, secret: str, base: str = "") -> None:
        signer = {"digest_method": hashlib.sha256, "key_derivation": "hmac"}
        self._serializer = _Serializer(secret, salt="marquee.clicks", signer_kwargs=signer)
        self._base = base.rstrip("/") + PATH

    def url(self, click: Click) -> str | None:
        """The link; None where it would lead to no page."""
        if not click.landing_url.startswith(_SCHEMES):
            return None
        token: str = self._serializer.dumps(click)
        return self._base + token

    def read(self, token: str) -> Click | None:
        """What a link says; None when it was not made here, was changed, or is older than ``DAYS``."""
        try:
            click = Click(*self._serializer.loads(token, max_age=DAYS * 86_400))
        except (BadData, TypeError):
            return None
        return click if click.landing_url.startswith(_SCHEMES) else None


def open_links(settings: Settings) -> ClickLinks | None:
    """The installation's links. None for many machines that share no secret: each would refuse the others' links."""
    if settings.click_secret:
        return ClickLinks(settings.click_secret.get_secret_value(), settings.public_url)
    if settings.event_log == "valkey":
        return None
    return ClickLinks(_own_secret(settings.click_key), settings.public_url)


def _own_secret(path: Path) -> str:
    """The secret of this installation. Of several processes that would make it at once, one does."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}.partial")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, secrets.token_hex(32).encode())
            os.fsync(descriptor)
            path.hardlink_to(partial)
        except FileExistsError:
            pass
        finally:
            os.close(descriptor)
            partial.unlink()
    secret = path.read_text(encoding="ascii", errors="replace").strip()
    if len(secret) < 32:
        raise MarqueeError(f"{path} holds no secret; delete it, and another is made: links out there end then")
    return secret


class ClickLog:
    """Writes clicks down, and never keeps a shopper waiting for it.

    Args:
        lines: the event log.
        clock: the moment, UTC without a zone.
    """

    def __init__(self, lines: Lines, clock: Callable[[], datetime]) -> None:
        self._lines, self._clock = lines, clock
        self._recent: dict[str, None] = {}

    async def record(self, click: Click) -> Outcome:
        """What became of it: ``late`` may be durable yet, ``not_stored`` is not."""
        if click.impression_id in self._recent:
            return "repeated"
        try:
            stored = asyncio.wrap_future(self._lines.append_soon([click.event(self._clock()).line()]))
        except MarqueeError:
            return "not_stored"
        done, _ = await asyncio.wait((stored,), timeout=WAIT_SECONDS)
        if not done:
            return "late"
        if stored.exception():
            return "not_stored"
        self._recent[click.impression_id] = None
        if len(self._recent) > RECENT:
            del self._recent[next(iter(self._recent))]
        return "recorded"
