"""Which column of a table says who, what, when: the usual names, and how lines are parted."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from marquee.errors import SourceError

SESSIONS = ("sessionid", "sid", "sessid", "session")
USERS = (
    *("userid", "visitorid", "customerid", "clientid", "memberid", "accountid", "householdid", "reviewerid"),
    *("authorid", "deviceid", "uid", "user", "visitor", "customer", "userindex", "useridx"),
)
ITEMS = (
    *("itemid", "productid", "articleid", "clickarticleid", "movieid", "brandid", "bannerid", "couponid", "contentid"),
    *("trackid", "songid", "artistid", "bookid", "videoid", "newsid", "gameid", "businessid", "poiid", "venueid"),
    *("stockcode", "sku", "asin", "parentasin", "isbn", "iid", "item", "product", "article", "movie", "brand"),
    *("itemindex", "itemidx"),
)
TIMES = (
    *(
        "timestamp",
        "ts",
        "time",
        "eventat",
        "occurredat",
        "eventtime",
        "clicktimestamp",
        "datetime",
        "eventtimestamp",
        "unixtime",
    ),
    *("unixreviewtime", "createdat", "visitdatetime", "invoicedate", "orderdate", "eventdate", "date", "day"),
)
RATINGS = ("rating", "ratings", "stars", "overall", "score", "weight", "playcount", "count")
PARTS = ("\t", ",", ";", "|")
NAMELESS = {2: ("user", "item"), 3: ("user", "item", "time"), 4: ("user", "item", "rating", "time")}
"""What the columns of a table without a header are, by their number."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a delimited text is to be read.

    Attributes:
        delimiter: what parts the columns.
        header: whether the first line holds names.
        names: of the columns, as the file has them; made up where there is no header.
    """

    delimiter: str
    header: bool
    names: tuple[str, ...]


def plain(name: str) -> str:
    """A column's name for comparison: small letters and digits, without a type as in RecBole's ``user_id:token``."""
    return re.sub(r"[^a-z0-9]", "", name.split(":")[0].lower())


def find_layout(path: Path, line: str, named: tuple[str, ...]) -> Layout:
    """The layout of a table whose first line that is.

    Args:
        path: for the message.
        line: without its end.
        named: columns that the caller named; a line with one of them is a header.

    Raises:
        SourceError: it has one column only, or neither known names nor a number in it.
    """
    delimiter = "::" if "::" in line else max(PARTS, key=line.count)
    if delimiter not in line:
        delimiter = " "
    fields = line.split("::") if delimiter == "::" else next(csv.reader([line], delimiter=delimiter), [])
    if len(fields) < 2:
        raise SourceError(f"{path} line 1: only one column; a table has users and items, parted by commas or tabs")
    known = {*SESSIONS, *USERS, *ITEMS, *TIMES, *RATINGS}
    if any(field in named or plain(field) in known for field in fields):
        return Layout(delimiter, True, tuple(fields))
    if not any(_is_number(field) for field in fields):
        raise SourceError(f"{path} line 1: no column has a usual name; name user, item and time of {', '.join(fields)}")
    if len(fields) not in NAMELESS:
        raise SourceError(f"{path} line 1: no header, and {len(fields)} columns; add a line with the columns' names")
    names = NAMELESS[len(fields)]
    if len(fields) == 3 and not _is_time(fields[2]):
        names = ("user", "item", "rating")
    return Layout(delimiter, False, names)


def find_column(path: Path, names: tuple[str, ...], given: str, usual: tuple[str, ...], what: str) -> str:
    """The column called ``given``, else the first with a usual name, in the order of the usual names; "" for none.

    Raises:
        SourceError: there is no column of the given name.
    """
    if given:
        if given not in names:
            raise SourceError(f"{path} has no column {given!r} for the {what}; it has {', '.join(names)}")
        return given
    by_plain = {plain(name): name for name in reversed(names)}
    return next((by_plain[name] for name in usual if name in by_plain), "")


def need_column(path: Path, names: tuple[str, ...], found: str, what: str) -> str:
    """The column found.

    Raises:
        SourceError: none was.
    """
    if not found:
        raise SourceError(f"{path} has no column for the {what} by a usual name: name one of {', '.join(names)}")
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_time(text: str) -> bool:
    """Whether a third column is a time rather than a rating: a large number, or a date."""
    return float(text) >= 1e8 if _is_number(text) else bool(re.match(r"\d{4}-\d{2}-\d{2}", text))
