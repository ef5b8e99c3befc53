"""Feast's Redis store on a Valkey named by its URL, with a way in for whole columns."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from feast import FeatureView
from feast.infra.online_stores.helpers import _mmh3
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
from feast.repo_config import RepoConfig
from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped]
from pydantic import SecretStr
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from features.freshness import TTL
from features.online_store import Rows
from features.patience import REQUEST_SECONDS, Pause
from marquee.errors import TryAgain

KEY_TTL_SECONDS: Final = int(max(TTL.values()).total_seconds()) + 86_400
"""Valkey lets go of an entity that nothing was written to for this long: by then every TTL is over."""
WRITER_SECONDS: Final = 10.0
"""How long materialisation waits for an answer, which holds nobody up."""
COMMANDS_AT_ONCE: Final = 1_000


class OnlineStoreDown(TryAgain):
    """The online store cannot be reached or refuses."""


class ColumnValkeyOnlineStoreConfig(RedisOnlineStoreConfig):  # type: ignore[misc]
    """Feast's Redis configuration, with the address as one URL that is never printed."""

    type: Literal["features.valkey_store.ColumnValkeyOnlineStore"] = "features.valkey_store.ColumnValkeyOnlineStore"
    url: SecretStr
    key_ttl_seconds: int | None = KEY_TTL_SECONDS


class ColumnValkeyOnlineStore(RedisOnlineStore):  # type: ignore[misc]
    """Feast's Redis store on a Valkey that is named by its URL; columns are written whole."""

    _client: Redis | None = None
    _hasty: Any = None

    def __init__(self) -> None:
        super().__init__()
        self._pause = Pause()

    def _get_client(self, online_store_config: Any) -> Redis:
        if self._client is None:
            self._client = _connect(online_store_config, WRITER_SECONDS, 1)
        return self._client

    def _read_hash_fields(self, config: RepoConfig, commands: list[tuple[bytes, list[Any]]]) -> list[list[Any]]:
        """Every online read of Feast's ends here; a request waits, so it is asked once and not for long."""
        if self._hasty is None:
            self._hasty = _connect(config.online_store, REQUEST_SECONDS, 0)
        pipe = self._hasty.pipeline(transaction=False)
        with _plain_errors(config), self._pause.after(RedisError, OSError), pipe:
            for key, fields in commands:
                pipe.hmget(key, fields)
            values: list[list[Any]] = pipe.execute()
        return values

    def read_mark(self, config: RepoConfig, view: str) -> dict[str, Any] | None:
        """What was written last for a view; None when nothing is known of it."""
        with _plain_errors(config):
            found: Any = self._get_client(config.online_store).get(_mark_key(config, view))
        return json.loads(found) if found else None

    def write_columns(self, config: RepoConfig, view: FeatureView, rows: Rows, mark: dict[str, Any]) -> None:
        """Insert or replace the rows, then the mark."""
        stamps: dict[datetime, bytes] = {}
        for stamp in set(rows.stamps):
            message = Timestamp()
            message.FromDatetime(stamp.replace(tzinfo=UTC))
            stamps[stamp] = _bulk(message.SerializeToString())
        names = sorted(rows.fields)
        places = [part for name in names for part in (_mmh3(f"{view.name}:{name}"), None)]
        template = _command(b"HSET", None, f"_ts:{view.name}".encode(), None, *places)
        expire = config.online_store.key_ttl_seconds
        if expire:
            template += _command(b"EXPIRE", None, str(expire).encode())
        project = config.project.encode()
        values = [list(map(_bulk, rows.fields[name][0])) for name in names]
        commands = []
        for key, stamp, *own in zip(rows.keys, rows.stamps, *values, strict=True):
            whole = _bulk(key + project)
            commands.append(template % (whole, stamps[stamp], *own, *([whole] if expire else [])))
        with _plain_errors(config):
            self._send(config, commands, 2 if expire else 1)
            self._get_client(config.online_store).set(_mark_key(config, view.name), json.dumps(mark))

    def remove(self, config: RepoConfig, view: FeatureView, keys: Sequence[bytes], mark: dict[str, Any]) -> None:
        """Delete a view's rows of these entities, then write the mark."""
        fields = [_mmh3(f"{view.name}:{field.name}") for field in view.features]
        with _plain_errors(config), self._get_client(config.online_store).pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hdel(key + config.project.encode(), f"_ts:{view.name}", *fields)
            pipe.set(_mark_key(config, view.name), json.dumps(mark))
            pipe.execute()

    def clear(self, config: RepoConfig, view: FeatureView) -> None:
        """Delete all of a view's rows and its mark."""
        with _plain_errors(config):
            self.delete_table(config, view)
            self._get_client(config.online_store).delete(_mark_key(config, view.name))

    def settle(self, config: RepoConfig) -> None:
        """Nothing to do: durability is Valkey's own setting."""

    def _send(self, config: RepoConfig, commands: list[bytes], answers: int) -> None:
        """Packed commands, a thousand at a time; redis-py alone packs them one by one, four times as slowly."""
        pool = self._get_client(config.online_store).connection_pool
        connection: Any = pool.get_connection()
        try:
            for start in range(0, len(commands), COMMANDS_AT_ONCE):
                part = commands[start : start + COMMANDS_AT_ONCE]
                connection.send_packed_command([b"".join(part)])
                for _ in range(answers * len(part)):
                    connection.read_response()
        except BaseException:
            connection.disconnect()
            raise
        finally:
            pool.release(connection)


def _connect(online_store_config: Any, seconds: float, retries: int) -> Redis:
    url = online_store_config.url.get_secret_value()
    retry = Retry(NoBackoff(), retries)
    return Redis.from_url(url, socket_timeout=seconds, socket_connect_timeout=seconds, retry=retry)


def _mark_key(config: RepoConfig, view: str) -> str:
    return f"{config.project}:materialization_mark:{view}"


def _bulk(value: bytes) -> bytes:
    """One argument in the server's protocol."""
    return b"$%d\r\n%b\r\n" % (len(value), value)


def _command(name: bytes, *arguments: bytes | None) -> bytes:
    """A command as a template: ``None`` leaves a place for an argument in the server's protocol."""
    parts = [b"*%d\r\n" % (len(arguments) + 1), _bulk(name)]
    # A hash of a field's name may hold a percent sign, which is doubled for the template.
    parts += [b"%b" if argument is None else _bulk(argument).replace(b"%", b"%%") for argument in arguments]
    return b"".join(parts)


@contextmanager
def _plain_errors(config: RepoConfig) -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError, ValueError) as error:
        raise OnlineStoreDown(f"Valkey at {address(config.online_store.url)}: {error}") from None


def address(url: SecretStr) -> str:
    """Host and port of the URL, without what is secret."""
    parts = urlsplit(url.get_secret_value())
    return f"{parts.hostname or parts.path}:{parts.port or 6379}"
