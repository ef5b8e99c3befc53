"""API keys: who may do what. ``home/keys.sqlite`` holds their hashes and every change made to them.

A key is ``mq_PREFIX_SECRET``: the prefix finds the row, the secret proves the key. The hash is plain SHA-256: the
secret is 256 random bits, so there is nothing to guess and neither a salt, a pepper nor a slow hash would add to it.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from marquee.errors import MarqueeError
from serving.http.measures import READ_AT

SCOPES: Final = ("recommend", "ingest", "read", "manage", "admin")
"""What a key may be for. ``manage`` reads too, ``admin`` does all."""
REFRESH_SECONDS: Final = 0.5
USED_SECONDS: Final = 60.0
"""How often it is written down that a key is in use."""
LOG: Final = logging.getLogger("bentoml.marquee")
_KEY: Final = re.compile(r"mq_([0-9a-f]{12})_([\w-]{43})")
_TABLES: Final = """
create table if not exists keys (
    prefix text primary key, name text not null, scopes text not null, hash text not null, created_at real not null,
    expires_at real, revoked_at real, used_at real
);
create table if not exists audit (at real not null, who text not null, action text not null, name text not null,
    prefix text not null, detail text not null);
"""


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it is stored; moments are seconds since 1970."""

    prefix: str
    name: str
    scopes: frozenset[str]
    hash: str
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    used_at: float | None

    def state(self, now: float) -> str:
        """``active``, ``expired`` or ``revoked``."""
        if self.revoked_at is not None and self.revoked_at <= now:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


class KeyStore:
    """The keys of an installation, as the command line changes them."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def create(self, name: str, scopes: frozenset[str], who: str, seconds: float | None = None) -> str:
        """Make a key, for ``seconds`` or for ever; the key itself, which is nowhere else.

        Raises:
            MarqueeError: the name or a scope does not fit, or an active key has that name.
        """
        if not re.fullmatch(r"[\w.@-]{1,64}", name):
            raise MarqueeError(f"key name {name!r} may only hold 1 to 64 letters, digits and . _ - @")
        if unknown := sorted(scopes - set(SCOPES)) or ([] if scopes else ["none"]):
            raise MarqueeError(f"scope {unknown[0]!r} is not one of {', '.join(SCOPES)}")
        with self._open() as connection:
            if self._active(connection, name):
                raise MarqueeError(f"there is a key {name} already; rotate it, or choose another name")
            expires_at = time.time() + seconds if seconds is not None else None
            return self._insert(connection, name, scopes, expires_at, who, "create")

    def rotate(self, name: str, grace_seconds: float, who: str) -> str:
        """A new key of the same name, scopes and end; the old one ends after the grace.

        Raises:
            MarqueeError: no active key has that name.
        """
        with self._open() as connection:
            old = self._require(connection, name)
            ends_at = time.time() + grace_seconds
            query = "update keys set expires_at = min(coalesce(expires_at, ?), ?) where name = ? and prefix = ?"
            connection.executemany(query, [(ends_at, ends_at, name, key.prefix) for key in old])
            return self._insert(connection, name, old[-1].scopes, old[-1].expires_at, who, "rotate")

    def revoke(self, name: str, who: str) -> int:
        """End all active keys of a name at once; how many that were.

        Raises:
            MarqueeError: no active key has that name.
        """
        with self._open() as connection:
            old = self._require(connection, name)
            now = time.time()
            connection.executemany("update keys set revoked_at = ? where prefix = ?", [(now, k.prefix) for k in old])
            for key in old:
                self._note(connection, who, "revoke", key.name, key.prefix, "")
            return len(old)

    def all(self) -> list[Key]:
        """Every key there ever was, oldest first; none where no key was made."""
        if not self._path.exists():
            return []
        with self._open() as connection:
            return _read(connection)

    def audit(self) -> list[tuple[float, str, str, str, str, str]]:
        """Every change, oldest first: moment, who, action, name, prefix, detail."""
        if not self._path.exists():
            return []
        with self._open() as connection:
            return connection.execute("select * from audit order by at").fetchall()

    def note_used(self, used: dict[str, float]) -> None:
        """Write down when keys, by prefix, were last used."""
        with self._open() as connection:
            query = "update keys set used_at = max(coalesce(used_at, 0), ?) where prefix = ?"
            connection.executemany(query, [(at, prefix) for prefix, at in used.items()])

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self._path.touch(mode=0o600)
            with closing(sqlite3.connect(self._path, timeout=10)) as connection, connection:
                connection.executescript(_TABLES)
                connection.execute("begin immediate")
                yield connection
        except (sqlite3.Error, OSError) as error:
            raise MarqueeError(f"{self._path}: {error}; restore it, or delete it and make new keys") from error

    def _insert(
        self,
        connection: sqlite3.Connection,
        name: str,
        scopes: frozenset[str],
        expires_at: float | None,
        who: str,
        action: str,
    ) -> str:
        prefix, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        key = f"mq_{prefix}_{secret}"
        row = (prefix, name, " ".join(sorted(scopes)), _hash(key), time.time(), expires_at)
        connection.execute("insert into keys values (?, ?, ?, ?, ?, ?, null, null)", row)
        self._note(connection, who, action, name, prefix, " ".join(sorted(scopes)))
        return key

    @staticmethod
    def _note(connection: sqlite3.Connection, who: str, action: str, name: str, prefix: str, detail: str) -> None:
        connection.execute(
            "insert into audit values (?, ?, ?, ?, ?, ?)", (time.time(), who, action, name, prefix, detail)
        )

    @staticmethod
    def _active(connection: sqlite3.Connection, name: str) -> list[Key]:
        now = time.time()
        return [key for key in _read(connection) if key.name == name and key.state(now) == "active"]

    def _require(self, connection: sqlite3.Connection, name: str) -> list[Key]:
        if not (active := self._active(connection, name)):
            raise MarqueeError(f"there is no active key {name}; `marquee keys list` shows them")
        return active


class KeyRing:
    """The keys as one process knows them: read again twice a second by a thread, so that no request waits for a disk.

    A store that cannot be read leaves the keys as they were; before it was ever read, nobody is let in.
    """

    def __init__(self, path: Path) -> None:
        self._store = KeyStore(path)
        self._keys: dict[str, Key] | None = None
        self._used: dict[str, float] = {}
        self._noted_at = time.monotonic()
        self._failure = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="key-ring", daemon=True)
        self.refresh()

    @property
    def is_empty(self) -> bool:
        """Whether no key was ever made; revoked and expired ones count, for they must not open what they closed."""
        return self._keys is not None and not self._keys

    def find(self, text: str) -> Key | None:
        """The active key that a client sent; ``None`` when it is none of ours, has expired or was revoked."""
        if not self._keys or not (parts := _KEY.fullmatch(text)) or not (key := self._keys.get(parts[1])):
            return None
        now = time.time()
        if not hmac.compare_digest(_hash(text), key.hash) or key.state(now) != "active":
            return None
        self._used[key.prefix] = now
        return key

    def start(self) -> None:
        """Follow changes from now on, in a thread that ends with the process."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and write down which keys were used."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._note_used()

    def refresh(self) -> None:
        """Read the keys now."""
        try:
            keys = {key.prefix: key for key in self._store.all()}
            if self._keys and not keys:  # a file that went away must not open what its keys closed
                raise MarqueeError("the file of keys is gone; restore it, or start the service anew without any")
            self._keys, self._failure = keys, ""
            READ_AT.labels("keys").set_to_current_time()
        except MarqueeError as error:
            if self._failure != str(error):
                self._failure = str(error)
                LOG.error("API keys cannot be read and stay as they were: %s", error)

    def _run(self) -> None:
        while not self._stop.wait(REFRESH_SECONDS):
            self.refresh()
            if time.monotonic() - self._noted_at >= USED_SECONDS:
                self._noted_at = time.monotonic()
                self._note_used()

    def _note_used(self) -> None:
        used, self._used = self._used, {}
        if used:
            try:
                self._store.note_used(used)
            except MarqueeError as error:
                LOG.warning("it was not written down which API keys are in use: %s", error)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _read(connection: sqlite3.Connection) -> list[Key]:
    rows = connection.execute("select * from keys order by created_at").fetchall()
    return [Key(row[0], row[1], frozenset(row[2].split()), *row[3:]) for row in rows]
