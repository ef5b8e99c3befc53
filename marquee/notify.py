"""The verb for notifications: send what is due, see what waits, try again what was given up."""

from __future__ import annotations

import logging
import os
import signal
import threading
from contextlib import closing
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal

import typer

from marquee import console
from marquee.errors import MarqueeError
from marquee.options import Home, Json
from marquee.options import command_settings as _settings
from marquee.outbox import STATES, Entry, Outbox, State, open_outbox
from marquee.settings import Settings, settings_now

Action = Literal["dispatch", "list", "retry-dead", "cancel"]


def notify(
    action: Annotated[Action, typer.Argument(help="dispatch, list, retry-dead [ID …], or cancel ID ….")],
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of notifications.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Send what is due now, then end.")] = False,
    state: Annotated[str | None, typer.Option(help=f"List those of one state: {', '.join(STATES)}.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="List at most so many.")] = 20,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Send notifications that are due, until told to stop; list them, and try again or call back some."""
    settings = _settings(home, existing=True)
    given = ids or []
    if given and action in ("dispatch", "list"):
        raise MarqueeError(f"marquee notify {action} takes no ids")
    if action == "cancel" and not given:
        raise MarqueeError("write it as: marquee notify cancel ID …")
    if state is not None and state not in STATES:
        raise MarqueeError(f"--state {state!r} is not one of {', '.join(STATES)}")
    with closing(open_outbox(settings)) as outbox:
        if action == "dispatch":
            _dispatch(settings, outbox, once, as_json)
        elif action == "list":
            _list(outbox, state, limit, as_json)  # type: ignore[arg-type]  # looked up above
        elif action == "retry-dead":
            count = outbox.retry_dead(settings_now(settings), given)
            console.show({"planned_anew": count}, [f"{count:,} planned anew, those whose time is over apart"], as_json)
        else:
            count = outbox.cancel(given, "called back by hand")
            console.show({"cancelled": count}, [f"{count:,} of {len(given):,} called back"], as_json)


def _dispatch(settings: Settings, outbox: Outbox, once: bool, as_json: bool) -> None:
    from ingestion.stream_choice import open_event_stream
    from serving.notifications.dispatcher import Dispatcher, Patience
    from serving.notifications.senders import open_senders

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    senders, stop = open_senders(settings), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    patience = Patience.of(settings.notify_tries, settings.notify_timeout)
    with closing(open_event_stream(settings, f"notify-{os.getpid()}")) as log:
        dispatcher = Dispatcher(outbox, senders, log, lambda: settings_now(settings), patience)
        done = dispatcher.drain(stop) if once else dispatcher.run(stop)
    told = asdict(done)
    console.show(told, [", ".join(f"{name} {count:,}" for name, count in told.items())], as_json)


def _list(outbox: Outbox, state: State | None, limit: int, as_json: bool) -> None:
    counts, entries = outbox.counts(), outbox.listed(state, limit)
    lines = ["   ".join(f"{name} {count:,}" for name, count in counts.items() if count) or "nothing is planned"]
    if entries:
        columns = ["notification_id", "visitor", "type", "channel", "state", "tries", "next at", "reason"]
        lines.append(console.table("", columns, [_cells(entry) for entry in entries]))
    told: dict[str, Any] = {"counts": counts, "items": [told_entry(entry) for entry in entries]}
    console.show(told, lines, as_json)


def _cells(entry: Entry) -> list[object]:
    one = entry.notification
    head = [one.notification_id, one.visitor_id, one.notification_type, one.channel, entry.state, entry.tries]
    return [*head, entry.next_at.isoformat(" ", "seconds"), entry.reason or ""]


def told_entry(entry: Entry) -> dict[str, Any]:
    """An entry as plain JSON values, moments in UTC."""
    told = asdict(entry.notification) | {"state": entry.state, "tries": entry.tries}
    told |= {"next_at": entry.next_at, "sent_at": entry.sent_at, "reason": entry.reason}
    return {name: f"{value.isoformat()}Z" if isinstance(value, datetime) else value for name, value in told.items()}
