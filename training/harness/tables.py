"""Read a table of events, delimited text or Parquet, through DuckDB."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marquee.errors import SourceError
from training.harness.coding import coded, from_codes
from training.harness.columns import (
    ITEMS,
    RATINGS,
    SESSIONS,
    TIMES,
    USERS,
    Layout,
    find_column,
    find_layout,
    need_column,
    plain,
)
from training.harness.plain_text import is_gzip, opened
from training.harness.reading import Events, Reading, is_parquet, parts_of
from training.harness.table_errors import explained, refuse

SCALES = (1e17, 1e14, 1e11)
"""Least sizes of times in nano-, micro- and milliseconds; seconds reach the smallest in the year 5138."""
COUNTER = 1e8
"""Smaller times only count, or say that nobody knows: any unit may hold them."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Columns of a table; "" where there is none."""

    user: str
    item: str
    time: str
    weight: str
    context: str


def read_table(path: Path, reading: Reading, by_session: bool) -> Events:
    """The events of a table, filtered by moment and weight; rows without a user or an item are left out and counted.

    Args:
        path: a file, or a folder with the parts of one table.
        reading: how.
        by_session: take a session column, where there is one, before a user column.

    Raises:
        SourceError: it cannot be read, lacks a column, or a time or weight makes no sense.
    """
    import duckdb

    parts = parts_of(path)
    layout = layout_of(parts, reading)
    with closing(duckdb.connect(config={"threads": 2})) as connection:
        try:
            connection.execute("SET TimeZone = 'UTC'")
            table = open_table(connection, parts, layout)
            chosen = _choose(parts[0], tuple(table.columns), reading, by_session)
            rows = _project(table, chosen).to_arrow_table()
        except duckdb.Error as error:
            raise SourceError(explained(path, error)) from None
    if not rows.num_rows:
        raise SourceError(f"{path} has no row; it should hold a row for each event")
    return _events(parts, layout, chosen, reading, rows)


def layout_of(parts: list[Path], reading: Reading) -> Layout | None:
    """How the delimited parts look, all alike; None for Parquet.

    Raises:
        SourceError: a part is empty or has other columns than the first.
    """
    if is_parquet(parts[0]):
        return None
    named = tuple(name for name in (reading.user, reading.item, reading.time, reading.weight, reading.context) if name)
    first = _first_line(parts[0])
    layout = find_layout(parts[0], first, named)
    for part in parts[1:] if layout.header else []:
        if _first_line(part) != first:
            raise SourceError(f"{part} line 1: other columns than in {parts[0].name}; read them apart")
    return layout


def _first_line(path: Path) -> str:
    with opened(path) as file:
        line = file.readline().rstrip("\n")
    if not line:
        raise SourceError(f"{path} is empty; it should hold a row for each event")
    return line


def open_table(connection: Any, parts: list[Path], layout: Layout | None) -> Any:
    """DuckDB's relation of all parts, in order; columns of delimited text are texts."""
    names = [str(part) for part in parts]
    zipped = {is_gzip(part) for part in parts}
    if layout is None:
        return connection.read_parquet(names)
    # Nothing is left to DuckDB's guessing: where that goes wrong it silently skips lines.
    return connection.read_csv(
        names,
        auto_detect=False,
        header=layout.header,
        # Told by content; where parts differ DuckDB goes by their names.
        compression="auto" if len(zipped) > 1 else "gzip" if True in zipped else "none",
        delimiter=layout.delimiter,
        quotechar='"' if len(layout.delimiter) == 1 else "",
        columns=dict.fromkeys(layout.names, "VARCHAR"),
    )


def _choose(path: Path, names: tuple[str, ...], reading: Reading, by_session: bool) -> Chosen:
    who = (*SESSIONS, *USERS) if by_session else (*USERS, *SESSIONS)
    rating = find_column(path, names, reading.weight, RATINGS if reading.min_weight else (), "weight")
    if reading.min_weight and not rating:
        raise SourceError(f"{path} has no column of ratings to compare with {reading.min_weight:g}: name the weight")
    return Chosen(
        need_column(path, names, find_column(path, names, reading.user, who, "user"), "user"),
        need_column(path, names, find_column(path, names, reading.item, ITEMS, "item"), "item"),
        find_column(path, names, reading.time, TIMES, "time"),
        rating,
        find_column(path, names, reading.context, (), "context"),
    )


def _project(table: Any, chosen: Chosen) -> Any:
    """The chosen columns under fixed names: as texts, or as numbers, null where there should be one and is none."""
    import duckdb

    wanted = {"who": chosen.user, "what": chosen.item, "moment": chosen.time, "weight": chosen.weight}
    wanted |= {"context": chosen.context}
    text = {name: column for name, column in wanted.items() if column}
    renamed = table.select(*(duckdb.ColumnExpression(column).alias(name) for name, column in text.items()))
    kinds = dict(zip(renamed.columns, map(str, renamed.types), strict=True))
    seconds = "epoch(try_cast(moment AS TIMESTAMPTZ))"
    if kinds.get("moment") == "VARCHAR":
        seconds = f"coalesce(try_cast(moment AS DOUBLE), {seconds})"
    elif not kinds.get("moment", "").startswith(("TIMESTAMP", "DATE")):
        seconds = "try_cast(moment AS DOUBLE)"
    made = {
        "who": "CAST(who AS VARCHAR) AS who",
        "what": "CAST(what AS VARCHAR) AS what",
        "moment": f"{seconds} AS moment",
        "weight": "try_cast(weight AS DOUBLE) AS weight",
        "context": "coalesce(CAST(context AS VARCHAR), '(none)') AS context",
    }
    return renamed.select(", ".join(made[name] for name in renamed.columns))


def _events(parts: list[Path], layout: Layout | None, chosen: Chosen, reading: Reading, rows: Any) -> Events:
    def numbers(name: str, column: str) -> NDArray[np.float64]:
        values: NDArray[np.float64] = rows.column(name).to_numpy()
        if not np.isfinite(values).all():
            refuse(parts, layout, column, int(np.flatnonzero(~np.isfinite(values))[0]))
        return values

    count = rows.num_rows
    times = numbers("moment", chosen.time) if chosen.time else np.arange(count, dtype=np.float64)
    times = _in_seconds(parts[0], chosen.time, times) if chosen.time else times
    weights = numbers("weight", chosen.weight) if chosen.weight else np.ones(count)
    users, items = coded(rows.column("who")), coded(rows.column("what"))
    contexts, context = coded(rows.column("context")) if chosen.context else (None, None)
    named = (users[1] >= 0) & (items[1] >= 0)
    since, until = _moment(reading.since, "since"), _moment(reading.until, "until")
    in_time = (times >= (since or -np.inf)) & (times < (until or np.inf))
    liked = weights >= reading.min_weight if reading.min_weight else np.ones(count, dtype=bool)
    keep = np.flatnonzero(named & in_time & liked)
    about = {
        "columns": {"user": chosen.user, "item": chosen.item, "time": chosen.time or "order of the rows"},
        "rows": count,
        "rows_without_user_or_item": int((~named).sum()),
        "rows_outside_the_times": int((~in_time).sum()),
        "rows_under_min_weight": int((~liked).sum()),
    }
    if contexts is not None:
        about["contexts"] = contexts.tolist()
    interactions = from_codes(
        (users[0], users[1][keep]),
        (items[0], items[1][keep]),
        times[keep],
        weights[keep].astype(np.float32) if reading.weight else None,
        context[keep] if context is not None else None,
    )
    return Events(interactions, bool(chosen.time), plain(chosen.user) in SESSIONS, about)


def _in_seconds(path: Path, column: str, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Times in seconds, their unit told by size.

    Raises:
        SourceError: some are so much larger than others that they cannot have one unit.
    """
    size = np.abs(times)
    exponents = sum((size >= scale).astype(np.int64) for scale in SCALES)
    found = np.unique(np.asarray(exponents)[size >= COUNTER])
    if len(found) > 1:
        low, high = times[size >= COUNTER].min(), times.max()
        raise SourceError(f"{path}: column {column!r} mixes units of time ({low:.0f} and {high:.0f}); use one")
    return times / 1000.0 ** (int(found[0]) if len(found) else 0)


def _moment(text: str, option: str) -> float | None:
    """Seconds of ISO text, UTC unless it says otherwise.

    Raises:
        SourceError: it is no moment.
    """
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SourceError(f"{option} {text!r} is no moment; write it like 2017-10-17 or 2017-10-17T12:00") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
