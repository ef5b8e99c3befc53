"""Who sends a request, and whether they may: nobody may do anything that is not allowed here."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from serving.http.problems import Problem
from serving.keys import SCOPES, KeyRing

RECOMMEND: Final = ("POST", "/v1/banners/recommend")
EVENTS: Final = ("POST", "/v1/events")
_SCOPES: Final = {
    RECOMMEND: "recommend",
    EVENTS: "ingest",
    ("POST", "/v1/visitors/features"): "read",
    ("POST", "/v1/model"): "read",
    ("POST", "/v1/products/recommend"): "recommend",
    ("POST", "/v1/pages/next"): "recommend",
}
OPEN: Final = frozenset({"/", "/docs.json", "/v1/openapi.json", "/v1/docs"})
"""What anybody may read: how the API is used, and nothing of whom it serves."""
SHOPPERS: Final = ("/v1/clicks/", "/v1/marquee.js")
"""What shoppers' browsers ask for without a key: a click's signature is its key. No key's limit counts it."""
_IMPLIED: Final = {"manage": frozenset({"manage", "read"}), "admin": frozenset(SCOPES)}
_FORWARDED: Final = (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip", b"via")
_LOCAL_NAMES: Final = frozenset({b"localhost", b"127.0.0.1", b"[::1]"})
_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="marquee"'}


@dataclass(frozen=True, slots=True)
class Principal:
    """Who sends a request; ``name`` stands in logs and in the history of changes."""

    name: str
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        """Whether the scopes, with what they imply, hold this one."""
        return scope in self.scopes or any(scope in _IMPLIED.get(own, ()) for own in self.scopes)


DEVELOPER: Final = Principal("developer", frozenset({"admin"}))
"""Anybody on this machine, as long as no key was made."""
VISITOR: Final = Principal("anonymous", frozenset())


def needed_scope(method: str, path: str) -> str | None:
    """The scope that a request needs; ``None`` for what is open to all.

    What is not named is read with ``read`` and changed with ``manage``, so that a new route is never open by mistake.
    """
    if named := _SCOPES.get((method, path)):
        return named
    if method == "GET" and path.startswith("/v1/products/") and path.endswith("/similar"):
        return "recommend"
    if path.startswith("/v1/erasures/") or (method == "DELETE" and path.startswith(("/v1/events", "/v1/visitors/"))):
        return "admin"
    if method in ("GET", "HEAD"):
        return None if path in OPEN or path.startswith(("/v1/docs/", *SHOPPERS)) else "read"
    return "manage"


class Access:
    """Lets requests in.

    Args:
        ring: the keys.
        host: the address that the service binds; only a loopback one is a developer's.
    """

    def __init__(self, ring: KeyRing, host: str) -> None:
        self._ring = ring
        self._is_local_bind = is_loopback(host)

    def admit(self, scope: Mapping[str, Any], headers: Mapping[bytes, bytes]) -> Principal:
        """Who sends this request, if they may.

        Raises:
            Problem: 401 when nobody known sends it, 403 when they may not do this.
        """
        needed = needed_scope(scope["method"], scope["path"])
        given = _given_key(headers)
        if given is not None:
            if not (key := self._ring.find(given)):
                raise Problem(401, "the API key is unknown, expired or revoked", headers=_CHALLENGE)
            principal = Principal(key.name, key.scopes)
        elif needed is None:
            return VISITOR
        elif self._is_developer(scope, headers):
            return DEVELOPER
        else:
            told = "send an API key as Authorization: Bearer KEY or X-API-Key: KEY"
            raise Problem(401, told, headers=_CHALLENGE)
        if needed is not None and not principal.may(needed):
            raise Problem(403, f"the API key {principal.name} has no scope {needed}")
        return principal

    def _is_developer(self, scope: Mapping[str, Any], headers: Mapping[bytes, bytes]) -> bool:
        """Whether the client sits at this machine and no key was ever made.

        A proxy on this machine would make everybody local, and a browser here runs pages of others, which may even come
        by a name of theirs that points here; so all of these are strangers.
        """
        if not (self._is_local_bind and self._ring.is_empty and scope.get("client")):
            return False
        if scope.get("http_version") == "1.0":  # what proxies speak that name neither themselves nor the client
            return False
        origin = headers.get(b"origin")
        names = [_name(headers.get(b"host", b"")), *([_name(origin.partition(b"://")[2])] if origin else [])]
        is_direct = not any(header in headers for header in _FORWARDED)
        return is_direct and _LOCAL_NAMES.issuperset(names) and is_loopback(scope["client"][0])


def _name(host: bytes) -> bytes:
    """The name of ``name:port``."""
    host = host.lower()
    return host if host.endswith(b"]") else host.rpartition(b":")[0] or host


@lru_cache(1024)
def is_loopback(host: str) -> bool:
    """Whether an address, or the name localhost, can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _given_key(headers: Mapping[bytes, bytes]) -> str | None:
    if authorization := headers.get(b"authorization"):
        kind, _, key = authorization.partition(b" ")
        return key.strip().decode("latin-1") if kind.lower() == b"bearer" else ""
    key_header = headers.get(b"x-api-key")
    return key_header.decode("latin-1") if key_header is not None else None
