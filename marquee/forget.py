"""Forgetting a person in every store, with an audit and a search afterwards. Part of the composition root.

Order makes it safe to kill: first the audit says what is about to happen, which from then on keeps the person out of
every load; then each store is cleaned, upstream before downstream, but the targets before the warehouse, which knows
the person's customers; last the audit says that it is done. Running it again takes up what was left.
"""

from __future__ import annotations

import getpass
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from marquee import erasures
from marquee.erasure_requests import close_request, pending
from marquee.errors import MarqueeError
from marquee.person import BLANK, Person
from marquee.settings import Settings, settings_now
from marquee.traces import Trace, find_visitor, require_installation

Counts = dict[str, int]
LOGS: Final = (
    *("log/deleted.jsonl", "airflow/logs", "dbt/logs", "lineage", "reports", "spark", "quarantine", "decisions"),
    "notifications",
    "airflow.log",
    "service.log",
)
"""Text that tools write and that may quote a row, under ``home``; run results of dbt besides."""
TEXTS: Final = frozenset({".log", ".txt", ".json", ".jsonl", ".html", ".csv", ".md", ""})


@dataclass(frozen=True, slots=True)
class Store:
    """Somewhere that people are kept: its name, and what erases one there and counts the rows by place."""

    name: str
    erase: Callable[[Settings, Person], Counts]


@dataclass(frozen=True, slots=True)
class Erasure:
    """What was erased: rows by store and place, the bundles that were trained with them, and what is still left.

    ``shared_customers`` are known buyers behind the person's events whom other visitors' events name too: they stay.
    """

    person: str
    counts: dict[str, Counts]
    bundles: list[dict[str, Any]]
    left: list[Trace]
    shared_customers: tuple[str, ...] = ()


def forget(settings: Settings, visitor_id: str, reason: str) -> Erasure | None:
    """Erase a visitor from every store of ``STORES``; None when nothing of them is kept.

    The search that follows has the last word: what it still finds is in ``left``, and the erasure stays unfinished.

    Raises:
        WarehouseBusy: another process holds the warehouse; nothing or a part was erased, run it again.
        MarqueeError: there is no installation, or a store cannot be reached or read; run it again when it can.
    """
    _drain(settings)
    person, shared = known_person(settings, visitor_id)
    begun = _begun(settings, person, reason)
    if begun is None:
        return None
    counts = {store.name: store.erase(settings, person) for store in STORES}
    counts = {name: {place: count for place, count in found.items() if count} for name, found in counts.items()}
    _rewrite(settings)
    left = find_visitor(settings, person)
    if not left:
        line = {"erasure": begun["erasure"], "state": "finished", "at": erasures.utc_now(), "person": begun["person"]}
        erasures.record(settings, line | {"until": begun["until"], "counts": counts})
        close_request(settings, begun["erasure"])
    return Erasure(begun["person"], counts, begun["bundles"], left, shared)


def forget_pending(settings: Settings) -> list[Erasure]:
    """Finish every erasure that was asked for over the API; see ``forget``."""
    done = []
    for request in pending(settings):
        erasure = forget(settings, request.visitor_id, request.reason)
        if erasure is None or not erasure.left:
            close_request(settings, request.erasure)
        done += [erasure] if erasure else []
    return done


def finish_pending(settings: Settings) -> int:
    """The same, but an erasure that leaves something is an error; returns how many there were."""
    done = forget_pending(settings)
    for erasure in done:
        require_erased(erasure)
    return len(done)


def known_person(settings: Settings, visitor_id: str) -> tuple[Person, tuple[str, ...]]:
    """A visitor with the customers who are nobody else, and the customers whom other visitors are, too."""
    from ingestion.customers import customers_of

    customers = customers_of(settings, visitor_id)
    return Person(visitor_id, customers.own), customers.shared


def _begun(settings: Settings, person: Person, reason: str) -> dict[str, Any] | None:
    """The audit's line of this attempt, written before anything is touched; it goes on with one that was killed."""
    is_first = not erasures.lines(settings)
    known = None if is_first else erasures.open_erasure(settings, erasures.person_hash(settings, person.visitor_id))
    if known is None and not find_visitor(settings, person):
        return None
    _require_free(settings)
    line = {
        "erasure": known["erasure"] if known else secrets.token_hex(8),
        "state": "started",
        "at": erasures.utc_now(),
        "person": erasures.person_hash(settings, person.visitor_id),
        # They may have come back, and been trained with, since an attempt was killed.
        "until": _until(settings, person).isoformat(),
        "by": getpass.getuser(),
        "reason": reason,
        "bundles": _bundles(settings, person, known["bundles"] if known else []),
    }
    erasures.record(settings, line)
    return line


def _drain(settings: Settings) -> None:
    """Bring what waits in Valkey into the log's files, where it is searched and erased like all else."""
    from ingestion.valkey_drain import drain

    if settings.event_log == "valkey":
        require_installation(settings)  # else the events would end up in a home that was mistyped
        drain(settings)


def _rewrite(settings: Settings) -> None:
    from ingestion.valkey_drain import rewrite_file

    rewrite_file(settings)


def _require_free(settings: Settings) -> None:
    """Raise ``WarehouseBusy`` while another process so much as reads the warehouse, before anything is touched."""
    from ingestion.warehouse import connect

    if settings.warehouse.exists():
        with connect(settings):
            pass


def _until(settings: Settings, person: Person) -> datetime:
    from ingestion.warehouse_erasure import newest_event

    return max(settings_now(settings), newest_event(settings, person) or settings_now(settings))


def _bundles(settings: Settings, person: Person, known: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Bundles trained with the person; what an earlier attempt counted counts, for its rows may be gone."""
    from training.erasure import bundles_with

    found = [asdict(one) for one in bundles_with(settings, person)]
    return known + [one for one in found if one["bundle"] not in [other["bundle"] for other in known]]


# --- the stores -------------------------------------------------------------------------------------------------------


def _log(settings: Settings, person: Person) -> Counts:
    from ingestion.erasure import clear_leftovers, erase_from_files, erase_from_log
    from ingestion.valkey_drain import erase_from_valkey

    clear_leftovers(settings)
    return {
        "log": erase_from_log(settings, person),
        "valkey": erase_from_valkey(settings, person),
        "quarantine": erase_from_files(settings.quarantine, person),
    }


def _warehouse(settings: Settings, person: Person) -> Counts:
    from ingestion.warehouse_erasure import erase_from_warehouse

    return erase_from_warehouse(settings, person)


def _target(settings: Settings, person: Person) -> Counts:
    from ingestion.target_erasure import erase_from_target

    return erase_from_target(settings, person)


def _features(settings: Settings, person: Person) -> Counts:
    from features.erasure import erase_exports, erase_offline, erase_online, erase_sessions

    return {
        "offline": erase_offline(settings, person),
        "exports": erase_exports(settings, person),
        "online": erase_online(settings, person),
        "sessions": erase_sessions(settings, person),
    }


def _counters(settings: Settings, person: Person) -> Counts:
    from serving.erasure import erase_counters

    return {"showings": erase_counters(settings, person)}


def _notifications(settings: Settings, person: Person) -> Counts:
    from serving.erasure import erase_outbox

    return {"outbox": erase_outbox(settings, person)}


def _registry(settings: Settings, person: Person) -> Counts:
    """A promotion's reason is the only place where the registry may name anybody."""
    from marquee.sqlite import erase_from_sqlite

    return {"texts": erase_from_sqlite(settings.registry, person, {})}


def _logs(settings: Settings, person: Person) -> Counts:
    """Star out the id in what tools have written, byte for byte, so that one that is still writing is not disturbed."""
    files = [settings.home / "dbt" / "target" / "run_results.json"]
    for name in LOGS:
        path = settings.home / name
        files += [path] if path.is_file() else sorted(path.rglob("*"))
    texts = [file for file in files if file.is_file() and file.suffix in TEXTS]
    return {name: sum(_blank(file, person) for file in texts if _top(settings, file) == name) for name in _tops(LOGS)}


def _tops(names: tuple[str, ...]) -> list[str]:
    return sorted({name.partition("/")[0] for name in names})


def _top(settings: Settings, file: Path) -> str:
    return file.relative_to(settings.home).parts[0]


def _blank(file: Path, person: Person) -> int:
    places = list(person.places(file.read_bytes()))
    if places:
        with file.open("r+b") as stream:
            for start, stop in places:
                stream.seek(start)
                stream.write(BLANK * (stop - start))
    return len(places)


STORES: Final = (
    Store("event log", _log),
    Store("target", _target),
    Store("warehouse", _warehouse),
    Store("features", _features),
    Store("counters", _counters),
    Store("notifications", _notifications),
    Store("registry", _registry),
    Store("logs and reports", _logs),
)
"""Every store that keeps people, in the order of their cleaning. A new one is entered here."""


def require_erased(erasure: Erasure) -> None:
    """Raise a ``MarqueeError`` that names what the search still found."""
    if erasure.left:
        places = "; ".join(f"{trace.store} ({trace.place}): {trace.count}" for trace in erasure.left)
        raise MarqueeError(
            f"still found after the erasure: {places}. What the service or a task wrote meanwhile goes when the same "
            "command is run again; anything else is in no store of Marquee's: take it out by hand, then run it again"
        )
