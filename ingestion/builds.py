"""Which days dbt has to build, and the record of what it has built: the tables raw.builds and raw.built_batches."""

# ruff: noqa: S608 – table and column names are this module's own; every value is bound

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Final

import duckdb

from ingestion.warehouse import transaction
from marquee import contract
from marquee.errors import MarqueeError

_BOOKS: Final = """
create table if not exists raw.builds (
    build_id bigint primary key, target varchar not null, from_date date, to_date date, is_full boolean not null,
    vars_hash varchar not null, started_at timestamp not null, finished_at timestamp, covers_pending boolean);
create table if not exists raw.built_batches (
    target varchar not null, batch_id varchar not null, loaded bigint not null, build_id bigint not null,
    primary key (target, batch_id));
"""

_ADMITTED: Final = """
select batch_id, coalesce(sum(loaded), 0) as loaded
from raw.batches left join raw.batch_tables using (batch_id)
where status = 'admitted' group by batch_id
"""
_BUILT: Final = "select batch_id, loaded from raw.built_batches where target = $target"
_PENDING: Final = f"select batch_id from (({_ADMITTED}) except ({_BUILT}))"

# Catalogue values that went into rows of days gone by: raw table, key, value, and the events that its key concerns.
_HISTORIC: Final = (
    ("products", "product_id", "category_id", "true", "events.product_id = changed.product_id"),
    (
        "product_properties",
        "product_id, valid_from_at",
        "value",
        "property = 'category_id'",
        "events.product_id = changed.product_id and events.occurred_at >= changed.valid_from_at",
    ),
    ("banners", "banner_id", "campaign_id", "true", "events.banner_id = changed.banner_id"),
    (
        "campaigns",
        "campaign_id",
        "ends_at",
        "true",
        "events.banner_id in (select banner_id from raw.banners where campaign_id = changed.campaign_id)",
    ),
    ("banner_products", "banner_id, product_id", "product_id", "true", "events.banner_id = changed.banner_id"),
)


@dataclass(frozen=True, slots=True)
class Build:
    """The days that a build is of, both inclusive and empty without events; ``is_full`` when all is made anew."""

    from_date: date | None
    to_date: date | None
    is_full: bool
    covers_pending: bool = True
    """Whether afterwards nothing that is admitted now remains to be built."""
    has_catalogue: bool = True
    """Whether anything but events may have changed."""
    admitted: tuple[tuple[str, int], ...] = field(default=(), compare=False, repr=False)
    """The batches admitted when the build was planned, with their rows; what is admitted later is not built by it."""

    @property
    def window(self) -> tuple[date, date] | None:
        """First and last day to build; ``None`` for everything."""
        if self.is_full or self.from_date is None or self.to_date is None:
            return None
        return self.from_date, self.to_date


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person asked for; empty fields leave it to what is pending."""

    from_date: date | None = None
    to_date: date | None = None
    full_refresh: bool = False


def has_batches(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether a batch is admitted, or stands in the marts though it was taken back."""
    connection.execute(_BOOKS)
    query = "select exists (from raw.batches where status = 'admitted') or exists (from raw.built_batches)"
    return bool(connection.execute(query).fetchone()[0])


def next_build(connection: duckdb.DuckDBPyConnection, target: str, vars_hash: str, asked: Asked) -> Build | None:
    """The build that is due, or the one asked for; ``None`` when nothing is new.

    Raises:
        MarqueeError: the days asked for are none that there are events of.
    """
    connection.execute(_BOOKS)
    oldest, newest = connection.execute(
        "select min(occurred_at)::date, max(occurred_at)::date from raw.events "
        "where batch_id in (select batch_id from raw.batches where status = 'admitted')"
    ).fetchone()
    admitted = tuple(connection.execute(_ADMITTED).fetchall())
    if asked.full_refresh or newest is None or _must_be_full(connection, target, vars_hash):
        return Build(oldest, newest, is_full=True, admitted=admitted)
    due = _first_day_due(connection, target, newest)
    if due and due > newest:  # the last days have gone, and what was built of them stands where no window reaches
        return Build(oldest, newest, is_full=True, admitted=admitted)
    if not (asked.from_date or asked.to_date):
        has_catalogue = _has_catalogue(connection)
        return Build(due, newest, is_full=False, has_catalogue=has_catalogue, admitted=admitted) if due else None
    first, last = max(asked.from_date or due or oldest, oldest), min(asked.to_date or newest, newest)
    if first > last:
        raise MarqueeError(f"nothing to build from {first} to {last}: there are events from {oldest} to {newest}")
    covers_pending = due is None or (first <= due and last == newest)
    return Build(first, last, is_full=False, covers_pending=covers_pending, admitted=admitted)


def start_build(connection: duckdb.DuckDBPyConnection, target: str, vars_hash: str, build: Build) -> int:
    """Note that a build begins; returns its number. One that never ends is made up for by the next."""
    started_at = datetime.now(UTC).replace(tzinfo=None)
    row = connection.execute(
        "insert into raw.builds select coalesce(max(build_id), 0) + 1, ?, ?, ?, ?, ?, ?, null, ? from raw.builds "
        "returning build_id",
        [target, build.from_date, build.to_date, build.is_full, vars_hash, started_at, build.covers_pending],
    ).fetchone()
    return int(row[0])


def finish_build(connection: duckdb.DuckDBPyConnection, build_id: int, target: str, build: Build) -> None:
    """Note that a build ended well, and which batches are built by it: the first build of each stands beside it."""
    with transaction(connection):
        if build.covers_pending:
            # Not what is admitted by now: a batch that was admitted while dbt ran may have been missed.
            planned = {"ids": [batch_id for batch_id, _ in build.admitted], "loaded": [n for _, n in build.admitted]}
            connection.execute(
                "create or replace temp table covered as "
                "select unnest($ids)::varchar as batch_id, unnest($loaded)::bigint as loaded",
                planned,
            )
            connection.execute(
                "delete from raw.built_batches where target = ? and (batch_id, loaded) not in (from covered)", [target]
            )
            connection.execute(
                "insert into raw.built_batches select $target, batch_id, loaded, $build_id from covered "
                "where batch_id not in (select batch_id from raw.built_batches where target = $target)",
                {"target": target, "build_id": build_id},
            )
        finished_at = datetime.now(UTC).replace(tzinfo=None)
        connection.execute("update raw.builds set finished_at = ? where build_id = ?", [finished_at, build_id])


def note_taken_back(connection: duckdb.DuckDBPyConnection, batch_id: str) -> bool:
    """Note that a batch is about to be taken back; whether the marts may have its rows, so that the next build is full.

    A build of some days that were asked for, or one that was interrupted, may have taken in a part of a batch that does
    not count as built. It is noted as built with a count that no batch has, so that it is due if it comes back.
    """
    connection.execute(_BOOKS)
    connection.execute(
        "insert or ignore into raw.built_batches select target, batch_id, -1, max(build_id) from raw.builds "
        "join raw.batches on started_at >= loaded_at "
        "where batch_id = ? and status = 'admitted' and (finished_at is null or not covers_pending) group by all",
        [batch_id],
    )
    query = "select count(*) > 0 from raw.built_batches where batch_id = ?"
    return bool(connection.execute(query, [batch_id]).fetchone()[0])


def _must_be_full(connection: duckdb.DuckDBPyConnection, target: str, vars_hash: str) -> bool:
    last = connection.execute(
        "select build_id, target, vars_hash from raw.builds where finished_at is not null "
        "order by build_id desc limit 1"
    ).fetchone()
    if last is None or last[1:] != (target, vars_hash):
        return True
    (left_half_done,) = connection.execute(
        "select count(*) from raw.builds where build_id > ? and (is_full or target <> ?)", [last[0], target]
    ).fetchone()
    (taken_back,) = connection.execute(
        f"select count(*) from ({_BUILT}) where batch_id not in (select batch_id from ({_ADMITTED}))",
        {"target": target},
    ).fetchone()
    (marts,) = connection.execute(
        "select count(*) from information_schema.tables where table_schema = 'marts' and table_name in "
        "(select unnest(?))",
        [list(contract.MART_TABLES)],
    ).fetchone()
    return bool(left_half_done or taken_back or marts < len(contract.MART_TABLES))


def _first_day_due(connection: duckdb.DuckDBPyConnection, target: str, newest: date) -> date | None:
    """The first day whose rows may differ from what stands; a batch without events counts for the newest day."""
    bound = {"target": target}
    (unfinished,) = connection.execute(
        "select min(from_date) from raw.builds where target = $target and finished_at is null and build_id > "
        "(select max(build_id) from raw.builds where finished_at is not null)",
        bound,
    ).fetchone()
    # A build asked for may have begun after days that were due; those are due still.
    (until,) = connection.execute(
        "select max(to_date) from raw.builds where target = $target and finished_at is not null and covers_pending",
        bound,
    ).fetchone()
    connection.execute(f"create or replace temp table pending as {_PENDING}", bound)
    (pending,) = connection.execute("select count(*) from pending").fetchone()
    (arrived,) = connection.execute(
        "select min(occurred_at)::date from raw.events where batch_id in (select batch_id from pending)"
    ).fetchone()
    days = [unfinished, arrived, newest if pending else None]
    days += [_first_day_changed(connection, target, *historic) for historic in _HISTORIC] if pending else []
    # Days without events have rows too: features decay on them.
    days += [until + timedelta(days=1)] if until and until < newest else []
    return min((day for day in days if day), default=None)


def _has_catalogue(connection: duckdb.DuckDBPyConnection) -> bool:
    names = [name for name in contract.RAW_TABLES if name != contract.EVENTS.name]
    rows = " union all ".join(f"select 1 from raw.{name} where batch_id in (from pending)" for name in names)
    return bool(connection.execute(f"select exists ({rows})").fetchone()[0])


def _first_day_changed(
    connection: duckdb.DuckDBPyConnection, target: str, table: str, key: str, value: str, condition: str, concerned: str
) -> date | None:
    """The first day with an event on a key whose value differs from the one that was built."""
    versions = f"""
        select {key}, arg_max_null({value}, batch_number) as held
        from raw.{table} join raw.batches using (batch_id)
        where {condition} and ({key}) in (select {key} from touched) and batch_id in
    """
    connection.execute(
        f"create or replace temp table touched as select distinct {key} from raw.{table} "
        f"where {condition} and batch_id in (select batch_id from pending)"
    )
    connection.execute(
        f"""
        create or replace temp table changed as
        with before as ({versions} (select batch_id from ({_BUILT})) group by all),
        after as ({versions} (select batch_id from ({_ADMITTED})) group by all)
        select after.* from after left join before using ({key}) where after.held is distinct from before.held
        """,
        {"target": target},
    )
    found = connection.execute(
        "select min(occurred_at)::date from raw.events as events "
        f"where exists (select 1 from changed where {concerned})"
    ).fetchone()
    return found[0] if found else None
