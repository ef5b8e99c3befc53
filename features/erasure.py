"""Taking a person out of the feature store: offline files, training set, online rows and sessions.

What there is decides, not which store is in use now: a file that exists and a Valkey that has an address are cleaned.
"""

from __future__ import annotations

from typing import Any, Final

from marquee.errors import MarqueeError, SettingsError
from marquee.parquet import rewrite_parquet, rows_of
from marquee.person import Person
from marquee.settings import Settings
from marquee.sqlite import BUSY_SECONDS, delete_from_sqlite, erase_from_sqlite
from marquee.valkey import connect

PROJECT: Final = b"marquee"
"""Feast's project, behind each of its keys in Valkey."""
AT_ONCE_SECONDS: Final = 0.5
"""How long a request waits for a store."""


def erase_offline(settings: Settings, person: Person) -> int:
    """Rewrite the offline files and the training set without a person; returns the rows and texts.

    Raises:
        MarqueeError: a file cannot be read.
    """
    for name in ("training_set.partial", "flagged_sessions.partial"):  # what a killed step left
        (settings.features / name).unlink(missing_ok=True)
    files = sorted(settings.features.rglob("*.parquet"))
    return sum(sum(rewrite_parquet(file, rows_of(person), person)) for file in files)


def erase_online(settings: Settings, person: Person) -> int:
    """Delete a person's features from the online stores; returns the rows (SQLite) and keys (Valkey).

    Raises:
        MarqueeError: a store cannot be reached, or is never free.
    """
    erased = erase_from_sqlite(settings.features / "online.db", person, {"entity_key": _entity_key(person)})
    return erased + _delete_from_valkey(settings, _entity_key(person) + PROJECT)


def drop_visitor(settings: Settings, visitor_id: str) -> None:
    """Delete a visitor's online features and session by their keys alone, at once; ``forget`` erases the rest.

    Raises:
        MarqueeError: a store is not free or cannot be reached within half a second.
    """
    person = Person(visitor_id)
    for name, column, key in (
        ("online.db", "entity_key", _entity_key(person)),
        ("sessions.sqlite", "visitor_id", visitor_id),
    ):
        delete_from_sqlite(settings.features / name, {column: key}, AT_ONCE_SECONDS)
    if _has_valkey(settings):
        with _valkey(settings, AT_ONCE_SECONDS) as client:
            client.delete(_entity_key(person) + PROJECT, *_session_keys(person))


def erase_exports(settings: Settings, person: Person) -> int:
    """Delete a person from the record of what an export took back; returns the rows.

    Raises:
        MarqueeError: the record is never free.
    """
    return erase_from_sqlite(settings.features / "exports.db", person, {"entity": person.visitor_id})


def erase_sessions(settings: Settings, person: Person) -> int:
    """Forget what a person did last; returns the stores that had something to forget.

    Raises:
        MarqueeError: a store cannot be reached, or is never free.
    """
    # A running service writes here: it overwrites what it deletes, so the file needs not be written anew.
    file, key = settings.features / "sessions.sqlite", {"visitor_id": person.visitor_id}
    is_in_file = erase_from_sqlite(file, person, key, compact=False) > 0
    return is_in_file + (_delete_from_valkey(settings, *_session_keys(person)) > 0)


def count_online(settings: Settings, person: Person) -> int:
    """A person's keys in Valkey, where it has an address; SQLite's files are searched where they lie.

    Raises:
        MarqueeError: Valkey cannot be reached.
    """
    if not _has_valkey(settings):
        return 0
    with _valkey(settings) as client:
        return int(client.exists(_entity_key(person) + PROJECT, *_session_keys(person)))


def _delete_from_valkey(settings: Settings, *keys: bytes) -> int:
    if not _has_valkey(settings):
        return 0
    with _valkey(settings) as client:
        return int(client.delete(*keys))


def _entity_key(person: Person) -> bytes:
    import pyarrow as pa

    from features.encoding import entity_keys

    return entity_keys(pa.array([person.visitor_id]), "visitor_id")[0]


def _session_keys(person: Person) -> tuple[bytes, ...]:
    from features.session_store import ValkeySessions

    # Version 0.2 had the other, which lasts two days.
    return ValkeySessions.PREFIX.encode() + person.encoded, b"marquee:session:" + person.encoded


def _has_valkey(settings: Settings) -> bool:
    if settings.valkey_url is None and settings.online_store == "valkey":
        raise SettingsError("setting valkey_url is missing, which online_store = valkey needs")
    return settings.valkey_url is not None


def _valkey(settings: Settings, seconds: float = BUSY_SECONDS) -> Any:
    return _Client(connect(settings, "online_store = valkey", seconds, retries=1))


class _Client:
    """Valkey for the length of a block; its errors as ours, without the address's password."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __enter__(self) -> Any:
        return self._client

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        import redis

        self._client.close()
        if isinstance(error, redis.RedisError | OSError):
            raise MarqueeError(
                f"valkey: {error}; start it, or take valkey_url out of the settings if nothing of this installation "
                "is there"
            ) from None
