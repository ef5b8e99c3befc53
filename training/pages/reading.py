"""Page paths, and how often visitors follow what is shown to them, from the warehouse."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from marquee.errors import NothingToDo
from marquee.settings import Settings
from marquee.warehouse import open_warehouse
from training.pages.graph import PagePaths

TABLES: Final = ("int_page_visits", "int_events_sessionised")
NEWEST_VISITS: Final = 2_000_000
"""Page views that are read."""
DAY: Final = 86_400.0
LEAST_SLATES: Final = 1_000
LONGEST_STAY: Final = 3_600.0
"""Seconds: who stays away for longer has left, as in the warehouse's own page tables."""
VISITS: Final = """
    with since as (
        select min(occurred_at) as moment from (
            select occurred_at from intermediate.int_page_visits order by occurred_at desc limit $newest
        )
    ),
    visits as (
        select
            visitor_id, session_id, event_id, occurred_at, page,
            lead(occurred_at) over (
                partition by visitor_id, session_id order by occurred_at, event_id
            ) as next_at
        from intermediate.int_page_visits
        where occurred_at >= (select moment from since)
    ),
    orders as (
        select visitor_id, session_id, occurred_at, sum(amount) as amount
        from intermediate.int_events_sessionised
        where kind = 'order' and amount is not null
        group by visitor_id, session_id, occurred_at
    ),
    earned as (
        select visits.event_id, sum(orders.amount) as amount, max(orders.occurred_at) as paid_at
        from visits
        inner join orders
            on visits.visitor_id = orders.visitor_id
            and visits.session_id = orders.session_id
            and orders.occurred_at >= visits.occurred_at
            and orders.occurred_at < coalesce(visits.next_at, visits.occurred_at + interval '1' day)
            and orders.occurred_at < visits.occurred_at + interval '1' day
        group by visits.event_id
    )
    select
        dense_rank() over (order by visits.visitor_id) as visitor,
        dense_rank() over (order by visits.visitor_id, visits.session_id) as session,
        visits.page,
        epoch_us(visits.occurred_at) as begun,
        epoch_us(coalesce(earned.paid_at, visits.occurred_at)) as done,
        cast(coalesce(earned.amount, 0) as double) as amount
    from visits left join earned on visits.event_id = earned.event_id
    order by session, begun, visits.event_id
"""
FOLLOWED: Final = """
    select count(*) as slates, coalesce(sum(was_clicked), 0) as clicked from (
        select max(case when is_clicked then 1 else 0 end) as was_clicked
        from marts.training_rows
        where label_known_at <= $until
        group by visitor_id, impressed_at
    )
"""


def read_paths(settings: Settings, newest: int = NEWEST_VISITS) -> PagePaths:
    """The sessions of the newest page views, in the order of their visitors.

    A session's views more than a day apart are paths of their own, and an order counts for the last view before it, as
    the warehouse's page tables have it; so the amounts of a path from a view on are what they add up for that view.

    Raises:
        NothingToDo: the events are in another engine than DuckDB, or no event names a page.
    """
    with open_warehouse(settings) as connection:
        known = {row[0] for row in connection.execute("select table_name from information_schema.tables").fetchall()}
        if not known.issuperset(TABLES):
            raise NothingToDo("the warehouse has no page views")
        table = connection.sql(VISITS, params={"newest": newest}).to_arrow_table()
    if not len(table):
        raise NothingToDo("no event names a page")
    page = table["page"].combine_chunks().dictionary_encode()
    numbers = [table[name].to_numpy() for name in ("visitor", "session", "begun", "done", "amount")]
    return paths_of(tuple(page.dictionary.to_pylist()), page.indices.to_numpy(), *numbers)


def paths_of(
    pages: tuple[str, ...],
    codes: NDArray[Any],
    visitors: NDArray[Any],
    sessions: NDArray[Any],
    begun: NDArray[Any],
    done: NDArray[Any],
    amounts: NDArray[Any],
) -> PagePaths:
    """Paths of parallel arrays [E] of views, each session's side by side, oldest first.

    Args:
        pages: names of the pages.
        codes: page of each view.
        visitors: whose it is.
        sessions: any number that changes from one session to the next.
        begun: microseconds since 1970, UTC.
        done: the same of the last order placed on the page; of the view itself where none was.
        amounts: worth of those orders.
    """
    times = begun.astype(np.float64) / 1e6
    gap = np.diff(times, append=np.inf)
    ends = np.append(np.diff(sessions) != 0, True) | (gap >= DAY)
    starts = np.concatenate([[0], np.flatnonzero(ends) + 1]).astype(np.int64)
    return PagePaths(
        pages=pages,
        starts=starts,
        codes=codes.astype(np.int64),
        times=times,
        amounts=amounts.astype(np.float64),
        seconds=np.where(~ends & (gap < LONGEST_STAY), gap, np.nan),
        visitors=visitors[starts[:-1]].astype(np.int64),
        ends=done[starts[1:] - 1].astype(np.float64) / 1e6,
    )


def followed_share(settings: Settings, until: np.datetime64) -> float | None:
    """Share of the banner slates whose visitor clicked one of them, of those before ``until``.

    It is the best that is known of how many visitors follow what is put before them. None where few slates are known.
    """
    with open_warehouse(settings) as connection:
        tables = connection.execute("select table_name from information_schema.tables where table_schema = 'marts'")
        if ("training_rows",) not in tables.fetchall():
            return None
        moment = until.astype("datetime64[us]").item()
        slates, clicked = connection.execute(FOLLOWED, {"until": moment}).fetchall()[0]
    return float(clicked) / float(slates) if slates >= LEAST_SLATES else None
