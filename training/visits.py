"""What visitors looked at, session by session, from the warehouse."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from marquee.errors import NothingToDo
from marquee.settings import Settings
from marquee.warehouse import open_warehouse
from training.interactions import Interactions, Ints

OTHER: Final = "(other)"
"""Stands for all pages beyond the most visited ones."""
TABLES: Final = ("int_events_sessionised", "int_visitor_day_flags")
KINDS: Final = ("'page_view', 'product_view'", "'favourite', 'cart', 'order', 'return'")
"""Views; and what names a product too, where a source has no views."""
QUERY: Final = """
    with events as (
        select
            visitor_id, session_id, occurred_at, event_id, kind,
            coalesce(page, 'product/' || product_id) as page
        from intermediate.int_events_sessionised as events
        where
            kind in ({kinds})
            and coalesce(page, product_id) is not null
            and not exists (
                select 1 from intermediate.int_visitor_day_flags as flags
                where flags.visitor_id = events.visitor_id and flags.activity_date = events.event_date
            )
    ),
    before as (
        select *, lag(kind) over path as kind_before, lag(page) over path as page_before
        from events
        window path as (partition by visitor_id, session_id order by occurred_at, event_id)
    )
    select visitor_id, session_id, page, epoch_us(occurred_at) as at
    from before
    -- Shops report the view of a product page as a page and as a product: that is one look.
    where kind <> 'product_view' or kind_before is distinct from 'page_view' or page_before <> page
    order by visitor_id, session_id, occurred_at, event_id
"""


@dataclass(frozen=True, slots=True)
class Visits:
    """U sessions as histories of pages.

    Attributes:
        sessions: an item is a page, or a product where the source names no page.
        visitors: [U] whose session it is.
        session_ids: [U] its id, which another visitor's session may have too.
    """

    sessions: Interactions
    visitors: NDArray[np.str_]
    session_ids: NDArray[np.str_]


def read_visits(settings: Settings, most_pages: int = 20_000) -> Visits:
    """All sessions, without the days that the cleaning rules hold for a bot's or a shared cookie's.

    Args:
        settings: where the warehouse is.
        most_pages: so many pages, the most visited, are told apart; the others are one.

    Raises:
        NothingToDo: there is nothing to read yet, or another engine than DuckDB keeps the sessions.
    """
    if settings.dbt_target != "duckdb":  # what stands in the DuckDB file then is from before it was set
        raise NothingToDo(f"the sessions' events are in {settings.dbt_target} and not brought back to the warehouse")
    with open_warehouse(settings) as connection:
        known = {row[0] for row in connection.execute("select table_name from information_schema.tables").fetchall()}
        if not known.issuperset(TABLES):
            raise NothingToDo("the warehouse has no sessions: run transform_events")
        for kinds in KINDS:
            table = connection.sql(QUERY.format(kinds=kinds)).to_arrow_table()
            if len(table):
                break
    if not len(table):
        raise NothingToDo("no session looked at anything: no event names a page or a product")
    return _visits(table, most_pages)


def _visits(table: Any, most_pages: int) -> Visits:
    visitors, visitor = _coded(table.column("visitor_id"))
    sessions, session = _coded(table.column("session_id"))
    pages, page = _coded(table.column("page"))
    begins = np.r_[True, (visitor[1:] != visitor[:-1]) | (session[1:] != session[:-1])]
    first = np.flatnonzero(begins)
    order = np.argsort(pages)
    names = sessions[session[first]]
    found = Interactions(
        user_ids=names,
        item_ids=pages[order],
        starts=np.append(first, len(page)).astype(np.int64),
        items=np.argsort(order)[page],
        times=table.column("at").to_numpy().astype(np.float64) / 1e6,
        weights=np.ones(len(page), np.float32),
        contexts=np.zeros(len(page), np.int64),
    )
    return Visits(_most_visited(found, most_pages), visitors[visitor[first]], names)


def _coded(column: Any) -> tuple[NDArray[np.str_], Ints]:
    """Distinct texts in the order of their coming, and the place of each row's."""
    encoded = column.combine_chunks().dictionary_encode()
    return np.array(encoded.dictionary.to_pylist(), dtype=np.str_), encoded.indices.to_numpy().astype(np.int64)


def _most_visited(sessions: Interactions, count: int) -> Interactions:
    if sessions.item_count <= count:
        return sessions
    visits = np.bincount(sessions.items, minlength=sessions.item_count)
    kept = np.sort(np.argsort(-visits, kind="stable")[: count - 1])
    code = np.full(sessions.item_count, -1)
    names = np.append(sessions.item_ids[kept], OTHER)
    order = np.argsort(names)
    code[kept] = np.arange(count - 1)
    code[code < 0] = count - 1
    return replace(sessions, items=np.argsort(order)[code[sessions.items]], item_ids=names[order])
