"""Taking a person out of the counters and the outbox.

What there is decides: a file that exists, and a Valkey that has an address.
"""

from __future__ import annotations

from contextlib import closing

from marquee.outbox import outbox_file
from marquee.person import Person
from marquee.settings import Settings
from marquee.sqlite import erase_from_sqlite
from serving.sqlite_counters import SqliteCounters
from serving.valkey_counters import ValkeyCounters


def erase_counters(settings: Settings, person: Person) -> int:
    """Forget what a person was shown; returns the rows (SQLite) and keys (Valkey). Campaigns' impressions stay.

    Raises:
        MarqueeError: a store cannot be reached, or is never free.
    """
    # A running service writes here: it overwrites what it deletes, so the file needs not be written anew.
    file, key = SqliteCounters(settings).file, {"visitor_id": person.visitor_id}
    erased = erase_from_sqlite(file, person, key, compact=False)
    if settings.valkey_url is None:
        return erased
    with closing(ValkeyCounters(settings)) as counters:
        return erased + counters.forget(person.visitor_id)


def erase_outbox(settings: Settings, person: Person) -> int:
    """Drop a person's notifications, sent or not; returns how many. What file senders wrote is text, starred out there.

    Raises:
        MarqueeError: the outbox is never free.
    """
    # A running dispatcher writes here, and overwrites what it deletes.
    return erase_from_sqlite(outbox_file(settings), person, {"visitor_id": person.visitor_id}, compact=False)


def count_counters(settings: Settings, person: Person) -> int:
    """A person's showings in Valkey, where it has an address; SQLite's file is searched where it lies.

    Raises:
        MarqueeError: Valkey cannot be reached.
    """
    if settings.valkey_url is None:
        return 0
    with closing(ValkeyCounters(settings)) as counters:
        return len(counters.shows(person.visitor_id).at)
